"""Whether a stated probability means what it says: reliability by bins, and the expected calibration error.

Source: Guo et al., ICML 2017 (ECE); bins of equal counts (Nixon et al., 2019), so that none is empty; the interval is
the percentile bootstrap over patients, which is biased upwards as the ECE itself is where cases are few.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from models.stats.intervals import UNKNOWN, Bools, Estimate, Floats, proportion

FEWEST: Final = 50  # cases below which nothing is said
_BINS: Final = 10
_LEAST: Final = 10  # cases in a bin
_DRAWS: Final = 400


@dataclass(frozen=True, slots=True)
class Bin:
    """Cases whose probabilities are close together.

    Attributes:
        said: mean of the probabilities.
        found: share that has the finding, with its exact interval.
    """

    said: float
    found: Estimate
    cases: int


def reliability(said: Floats, positive: Bools) -> tuple[Bin, ...]:
    """What was said against what was found, in bins of about equal counts; empty where there are too few cases.

    Args:
        said: (N,) probabilities.
        positive: (N,) the truth.
    """
    if len(said) < FEWEST:
        return ()
    order = np.argsort(said, kind="stable")
    parts = np.array_split(order, min(_BINS, len(said) // _LEAST))
    return tuple(
        Bin(float(said[part].mean()), proportion(int(positive[part].sum()), len(part)), len(part)) for part in parts
    )


def calibration_error(said: Floats, positive: Bools, seed: int = 0) -> Estimate:
    """The mean distance of what was said from what was found, over bins, with a bootstrap interval.

    Unknown where there are fewer than `FEWEST` cases.
    """
    if len(said) < FEWEST:
        return UNKNOWN
    draw = np.random.default_rng(seed)
    picks = (draw.integers(0, len(said), len(said)) for _ in range(_DRAWS))
    errors = [_error(said[pick], positive[pick]) for pick in picks]
    low, high = (float(value) for value in np.quantile(errors, (0.025, 0.975)))
    value = _error(said, positive)
    return Estimate(value, min(low, value), max(high, value))


def _error(said: Floats, positive: Bools) -> float:
    order = np.argsort(said, kind="stable")
    parts = np.array_split(order, min(_BINS, len(said) // _LEAST))
    return float(sum(abs(said[part].mean() - positive[part].mean()) * len(part) for part in parts) / len(said))
