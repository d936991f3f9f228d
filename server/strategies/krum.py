"""Krum and multi-Krum: the mean of the updates that lie closest to their neighbours.

Source: Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, NeurIPS 2017.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from server.strategies.fedavg import mean
from server.strategies.strategy import Contribution, Next, Strategy, Weights, length, require_answers


class Krum(Strategy):
    """Holds against `poisoned` hospitals among at least 2 * poisoned + 3; every hospital kept counts once.

    Attributes:
        poisoned: how many hospitals may be.
        keep: of how many updates the mean is taken; 1 is Krum itself, 0 all but the poisoned.
    """

    name: Literal["krum"] = "krum"
    poisoned: int = Field(default=1, ge=0, le=1000)
    keep: int = Field(default=0, ge=0, le=1000)

    def require(self, quorum: int) -> None:
        require_answers(quorum, 2 * self.poisoned + 3, f"Krum against {self.poisoned} poisoned")
        require_answers(quorum, self.keep + self.poisoned, f"Krum that keeps {self.keep} updates")

    def aggregate(self, received: Weights, contributions: Sequence[Contribution], state: Weights) -> Next:
        count = len(contributions)
        require_answers(count, 2 * self.poisoned + 3, f"Krum against {self.poisoned} poisoned")
        squares = np.zeros((count, count))
        for one in range(count):
            for other in range(one):
                squares[one, other] = squares[other, one] = (
                    length(contributions[one].weights, contributions[other].weights) ** 2
                )
        nearest = np.sort(squares, axis=1)[:, 1 : count - self.poisoned - 1]  # the first is the update itself
        best = np.argsort(nearest.sum(axis=1), kind="stable")[: self.keep or count - self.poisoned]
        kept = [contributions[place] for place in sorted(best)]
        return Next(mean(kept, [1] * len(kept)))
