"""What a hospital adds to a sum, and what the sum says: the mean update, and means of how the received weights did.

One vector of numbers from -1 to 1: how much the hospital counts, relative to the one with most cases; three figures;
and what it changed of each weight, in units of the norm bound, times how much it counts. So nobody learns how many
cases a hospital has but to a power of two, nor any figure of its own.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.bounds import Bounds
from models.errors import BorderRefused

Weights = Mapping[str, NDArray[Any]]
Weighting = Literal["cases", "site", "root"]

_HEAD = 4  # numbers before the weights
_MOST_LOSS = 32.0  # a negative log-likelihood is kept under 17 where it is computed


@dataclass(frozen=True, slots=True)
class Figures:
    """How the received weights did on the training patients: at a hospital, or on average over several."""

    auc: float
    threshold: float
    loss: float


@dataclass(frozen=True, slots=True)
class Mean:
    """What a sum says.

    Attributes:
        weights: the weights received with the mean update added.
    """

    weights: dict[str, NDArray[Any]]
    figures: Figures


def length(received: Weights, bounds: Bounds) -> int:
    """How many numbers there are for such weights."""
    return _HEAD + sum(received[name].size for name in _changing(received, bounds))


def share(weighting: Weighting, cases: int, heaviest: int) -> float:
    """How much a hospital counts, 0 to 1.

    Args:
        heaviest: the largest number of cases of any hospital, to the power of two below.

    Raises:
        BorderRefused: this hospital has more.
    """
    if weighting == "site":
        return 1.0
    relative = cases / (2 * heaviest) if heaviest else math.inf
    if relative > 1:
        raise BorderRefused("there is a hospital with more cases than is said")
    return relative if weighting == "cases" else math.sqrt(relative)


def change(update: Weights, received: Weights, bounds: Bounds) -> NDArray[np.float64]:
    """(N,) what an update changes, in units of the norm bound."""
    parts = [
        (update[name].astype(np.float64) - received[name].astype(np.float64)).reshape(-1)
        for name in _changing(received, bounds)
    ]
    return np.concatenate(parts) / bounds.norm if parts else np.empty(0)


def summand(change: NDArray[np.float64], share: float, figures: Figures) -> NDArray[np.float64]:
    """(4 + N,) what a hospital adds."""
    head = [share, figures.auc, figures.threshold, min(figures.loss / _MOST_LOSS, 1.0)]
    return np.concatenate([head, change * share])


def mean(total: NDArray[np.float64], summed: int, received: Weights, bounds: Bounds, inexact: float) -> Mean:
    """What a sum over so many hospitals says.

    Args:
        inexact: by how much each number may be wrong.

    Raises:
        BorderRefused: it is no sum of updates within the bounds: somebody added something else.
    """
    head, changes = total[:_HEAD], total[_HEAD:]
    slack = summed * inexact
    if not slack < head[0] <= summed + slack or any(not -slack <= one <= summed + slack for one in head[1:]):
        raise BorderRefused("the sum is none of what hospitals may add")
    if float(np.linalg.norm(changes)) > head[0] + slack * (1 + math.sqrt(len(changes))) + 1e-6 * summed:
        raise BorderRefused("the sum of the updates is longer than updates within the bound can make it")
    weights, start = dict(received), 0
    for name in _changing(received, bounds):
        array = received[name]
        moved = changes[start : start + array.size].reshape(array.shape) / head[0] * bounds.norm
        weights[name] = np.asarray(array.astype(np.float64) + moved, array.dtype)
        start += array.size
    auc, threshold, loss = (float(np.clip(one / summed, 0.0, 1.0)) for one in head[1:])
    return Mean(weights, Figures(round(auc, 4), round(threshold, 4), round(loss * _MOST_LOSS, 4)))


def _changing(received: Weights, bounds: Bounds) -> list[str]:
    return sorted(name for name, array in received.items() if array.dtype.kind == "f" and bounds.covers(name))
