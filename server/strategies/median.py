"""The coordinate-wise median: holds against fewer than half of the hospitals, whatever they send.

Source: Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from server.strategies.strategy import Contribution, Next, Strategy, Weights, require_answers, stacked


class Median(Strategy):
    """The median of each number; every hospital counts once."""

    name: Literal["median"] = "median"

    def require(self, quorum: int) -> None:
        require_answers(quorum, 3, "a median that holds against one hospital")

    def aggregate(self, received: Weights, contributions: Sequence[Contribution], state: Weights) -> Next:
        return Next(
            {
                name: np.median(stacked(contributions, name), axis=0).astype(first.dtype)
                for name, first in contributions[0].weights.items()
            }
        )
