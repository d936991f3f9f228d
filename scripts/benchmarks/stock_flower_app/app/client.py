"""Takes the weights and gives them back, slightly moved."""

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, _: Context) -> Message:
    """Give the weights back."""
    step = np.random.default_rng().normal() * 1e-4
    arrays = message.content.array_records["arrays"]
    moved = {name: np.add(array.numpy(), step, dtype=np.float32) for name, array in arrays.items()}
    content = RecordDict()
    content["arrays"] = ArrayRecord({name: Array(value) for name, value in moved.items()})
    content["metrics"] = MetricRecord({"num-examples": 1, "loss": 0.5})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, _: Context) -> Message:
    """Say something of the average."""
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 0.5})}), reply_to=message)
