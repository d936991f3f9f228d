"""The coordinator's Flower ServerApp: it opens the folder and hands the retraining over."""

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from models.flower_pace import quicken_pulls
from server.messaging import Exchange
from server.superlink import COORDINATOR

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Conduct the retraining whose name the run carries."""
    from server.retraining import conduct

    quicken_pulls()
    folder = Path(os.environ[COORDINATOR])
    conduct(Exchange(grid, folder), folder, str(context.run_config["retraining"]))
