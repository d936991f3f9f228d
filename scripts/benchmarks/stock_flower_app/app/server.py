"""Flower's FedAvg as it comes; notes when a round's training, and when the round, is over."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Average."""
    config = context.run_config
    times = Path(str(config["times"]))

    def note(what: str) -> None:
        with times.open("a") as file:
            file.write(json.dumps([what, time.time()]) + "\n")

    def trained(_: list[RecordDict], __: str) -> MetricRecord:
        note("trained")
        return MetricRecord({"loss": 0.5})

    def over(_: int, __: ArrayRecord) -> None:
        note("round")

    nodes = int(config["nodes"])
    strategy = FedAvg(
        min_train_nodes=nodes, min_evaluate_nodes=nodes, min_available_nodes=nodes, train_metrics_aggr_fn=trained
    )
    arrays = ArrayRecord({"weights": Array(np.load(str(config["checkpoint"])))})
    strategy.start(grid, arrays, num_rounds=int(config["rounds"]), evaluate_fn=over)
