"""Proportions and areas under the curve, each with its interval."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtri  # the same numbers as scipy.stats, which every node would import for long

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A point with its two-sided interval; all three are NaN where there is nothing to estimate from."""

    value: float
    low: float
    high: float


UNKNOWN = Estimate(math.nan, math.nan, math.nan)


def proportion(successes: int, trials: int, level: float = 0.95) -> Estimate:
    """A proportion with its exact interval.

    Args:
        successes: 0 to `trials`.
        level: coverage of the two-sided interval.

    Source: Clopper & Pearson, Biometrika 1934.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"{successes} successes of {trials} trials")
    if trials == 0:
        return UNKNOWN
    tail = (1 - level) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(betaincinv(successes + 1, trials - successes, 1 - tail))
    return Estimate(successes / trials, low, high)


def auc(scores: Floats, positive: Bools, level: float = 0.95) -> Estimate:
    """The area under the ROC curve with DeLong's variance on the logit scale.

    The logit keeps the interval inside 0..1. Where the variance is zero (perfect separation) the bound is that of
    the exact binomial on the smaller class, which errs to the wide side.

    Args:
        scores: (N,) higher means more likely positive; ties count half.
        positive: (N,) the truth.

    Source: DeLong et al., Biometrics 1988, with mid-ranks (Sun & Xu, IEEE SPL 2014); Pepe 2003, section 5.2.
    """
    cases, controls = scores[positive], scores[~positive]
    m, n = len(cases), len(controls)
    if m == 0 or n == 0:
        return UNKNOWN
    placements_cases = _placements(cases, controls)
    placements_controls = 1 - _placements(controls, cases)
    area = float(placements_cases.mean())
    variance = _variance(placements_cases) / m + _variance(placements_controls) / n
    if area in (0.0, 1.0) or variance == 0.0:
        bound = proportion(round(area * min(m, n)), min(m, n), level)
        return Estimate(area, min(bound.low, area), max(bound.high, area))
    z = float(ndtri(1 - (1 - level) / 2))
    logit, spread = math.log(area / (1 - area)), z * math.sqrt(variance) / (area * (1 - area))
    return Estimate(area, _expit(logit - spread), _expit(logit + spread))


def _placements(of: Floats, among: Floats) -> Floats:
    """For each of `of`, the share of `among` below it, ties counting half."""
    ordered = np.sort(among)
    below = np.searchsorted(ordered, of, side="left")
    not_above = np.searchsorted(ordered, of, side="right")
    return (below + not_above) / (2 * len(among))


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def _expit(value: float) -> float:
    # no overflow on either side: a huge spread means the interval is the whole of 0..1
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
