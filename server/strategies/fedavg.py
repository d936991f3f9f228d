"""Federated averaging.

Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from server.strategies.strategy import Contribution, Next, Strategy, Weights

_BLOCK: Final = 1 << 15  # numbers


class Averaging(Strategy):
    """What all strategies share that take a mean of the updates.

    Attributes:
        weighting: a hospital counts as many times as it has cases; once, so that a small one is not drowned by a large
            one; or with the root of its number of cases, between the two.
    """

    weighting: Literal["cases", "site", "root"] = "root"

    def mean(self, contributions: Sequence[Contribution]) -> dict[str, NDArray[Any]]:
        """The mean of the updates, weighted."""
        return mean(contributions, [self.share(contribution) for contribution in contributions])

    def share(self, contribution: Contribution) -> float:
        """How much a hospital counts, relative to the others."""
        match self.weighting:
            case "cases":
                return contribution.cases
            case "site":
                return 1
            case "root":
                return math.sqrt(contribution.cases)

    def aggregate(self, received: Weights, contributions: Sequence[Contribution], state: Weights) -> Next:
        return Next(self.mean(contributions))


class FedAvg(Averaging):
    """The mean of the weights."""

    name: Literal["fedavg"] = "fedavg"


def mean(contributions: Sequence[Contribution], shares: Sequence[float]) -> dict[str, NDArray[Any]]:
    """Summed in double precision and in the order of the hospitals' names, so that the same updates always give the
    same bits, however they arrived.
    """
    total = sum(shares)
    if total <= 0:
        raise ValueError("nothing to average")
    ordered = sorted(zip(contributions, shares, strict=True), key=lambda pair: pair[0].site)
    return {
        name: _mean([(contribution.weights[name], share / total) for contribution, share in ordered])
        for name in ordered[0][0].weights
    }


def _mean(arrays: Sequence[tuple[NDArray[Any], float]]) -> NDArray[Any]:
    """Block by block: in double precision the whole would be written and read anew for each hospital."""
    first = arrays[0][0]
    found = np.empty(first.shape, first.dtype)
    flat = found.reshape(-1)
    scaled, summed = np.empty((2, min(_BLOCK, first.size)), np.float64)
    for start in range(0, first.size, _BLOCK):
        end = min(start + _BLOCK, first.size)
        total = summed[: end - start]
        total.fill(0.0)
        for array, share in arrays:
            part = np.multiply(array.reshape(-1)[start:end], share, out=scaled[: end - start], dtype=np.float64)
            total += part
        flat[start:end] = total
    return found
