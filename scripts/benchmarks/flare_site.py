"""What an NVFLARE client runs for the bench `rounds`: it takes the weights and gives them back, slightly moved.

Run by NVFLARE in an environment of its own, in the client's process, as its recipes do by default.
"""

import numpy as np
import nvflare.client as flare  # pyright: ignore[reportMissingImports] - it has an environment of its own


def main() -> None:
    """Answer every round."""
    flare.init()
    draw = np.random.default_rng()
    while flare.is_running():
        model = flare.receive()
        moved = {name: np.add(value, draw.normal() * 1e-4, dtype=value.dtype) for name, value in model.params.items()}
        flare.send(flare.FLModel(params=moved, metrics={"accuracy": 0.5}, meta={"NUM_STEPS_CURRENT_ROUND": 1}))


if __name__ == "__main__":
    main()
