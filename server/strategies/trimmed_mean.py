"""The trimmed mean: of each number the largest and the smallest are left out before the mean is taken.

Source: Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from server.strategies.fedavg import mean
from server.strategies.strategy import Contribution, Next, Strategy, Weights, require_answers, stacked


class TrimmedMean(Strategy):
    """Holds against as many poisoned hospitals as are trimmed at each end; every hospital counts once.

    Attributes:
        trim: how many are left out at each end; 0 is the plain mean.
    """

    name: Literal["trimmed-mean"] = "trimmed-mean"
    trim: int = Field(default=1, ge=0, le=1000)

    def require(self, quorum: int) -> None:
        require_answers(quorum, 2 * self.trim + 1, f"a mean trimmed by {self.trim} at each end")

    def aggregate(self, received: Weights, contributions: Sequence[Contribution], state: Weights) -> Next:
        if not self.trim:
            return Next(mean(contributions, [1] * len(contributions)))
        require_answers(len(contributions), 2 * self.trim + 1, f"a mean trimmed by {self.trim} at each end")
        kept = slice(self.trim, len(contributions) - self.trim)
        return Next(
            {
                name: np.sort(stacked(contributions, name), axis=0)[kept].mean(axis=0).astype(first.dtype)
                for name, first in contributions[0].weights.items()
            }
        )
