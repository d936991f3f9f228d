"""Federated averaging.

Source: McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.strategies import Contribution


def by_cases(contributions: Sequence[Contribution]) -> dict[str, NDArray[Any]]:
    """The mean of the weights, each hospital counting as many times as it has cases."""
    return _mean(contributions, [contribution.cases for contribution in contributions])


def by_site(contributions: Sequence[Contribution]) -> dict[str, NDArray[Any]]:
    """The mean of the weights, each hospital counting once: a small hospital is not drowned by a large one."""
    return _mean(contributions, [1] * len(contributions))


def by_root(contributions: Sequence[Contribution]) -> dict[str, NDArray[Any]]:
    """The mean of the weights, each hospital counting with the root of its number of cases: between the two above."""
    return _mean(contributions, [math.sqrt(contribution.cases) for contribution in contributions])


def _mean(contributions: Sequence[Contribution], shares: Sequence[float]) -> dict[str, NDArray[Any]]:
    """Summed in double precision and in the order of the hospitals' names, so that the same updates always give the
    same bits, however they arrived.
    """
    total = sum(shares)
    if total <= 0:
        raise ValueError("nothing to average")
    ordered = sorted(zip(contributions, shares, strict=True), key=lambda pair: pair[0].site)
    mean: dict[str, NDArray[Any]] = {}
    for name, first in ordered[0][0].weights.items():
        accumulated = np.zeros(first.shape, dtype=np.float64)
        for contribution, share in ordered:
            accumulated += contribution.weights[name].astype(np.float64) * (share / total)
        mean[name] = accumulated.astype(first.dtype)
    return mean
