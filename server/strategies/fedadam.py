"""FedAdam: the mean update is a gradient for an adaptive optimiser at the coordinator.

Source: Reddi et al., Adaptive Federated Optimization, ICLR 2021 (Algorithm 2; no correction for the start, as there).
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from server.strategies.fedavg import Averaging
from server.strategies.strategy import Contribution, Next, Weights


class FedAdam(Averaging):
    """Moments of the mean update, kept from round to round.

    Attributes:
        server_rate: how far a weight moves at most, about, in a round.
        beta_1: decay of the mean of updates.
        beta_2: decay of the mean of their squares.
        tau: an update that is much smaller than this counts as none.
    """

    name: Literal["fedadam"] = "fedadam"
    server_rate: float = Field(default=0.003, gt=0, le=10)
    beta_1: float = Field(default=0.9, ge=0, lt=1)
    beta_2: float = Field(default=0.99, ge=0, lt=1)
    tau: float = Field(default=0.001, gt=0, le=10)

    def aggregate(self, received: Weights, contributions: Sequence[Contribution], state: Weights) -> Next:
        averaged = self.mean(contributions)
        weights: dict[str, NDArray[Any]] = {}
        moments: dict[str, NDArray[Any]] = {}
        for name, value in averaged.items():
            before = received[name].astype(np.float64)
            update = value.astype(np.float64) - before
            first = state.get(f"first/{name}", np.zeros(value.shape))
            second = state.get(f"second/{name}", np.full(value.shape, self.tau**2))
            first = self.beta_1 * first + (1 - self.beta_1) * update
            second = self.beta_2 * second + (1 - self.beta_2) * np.square(update)
            weights[name] = (before + self.server_rate * first / (np.sqrt(second) + self.tau)).astype(value.dtype)
            moments[f"first/{name}"], moments[f"second/{name}"] = first, second
        return Next(weights, moments)
