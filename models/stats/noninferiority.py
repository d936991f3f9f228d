"""Is the new version not worse than the old one, on the same patients, beyond a margin?"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from models.stats.intervals import Bools


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions on the same cases.

    Attributes:
        cases: how many.
        difference: share right of the new version minus that of the old one.
        z: clustered score statistic against "worse by the margin or more"; large is good. -inf without cases.
        p: its one-sided p value.
    """

    cases: int
    difference: float
    z: float
    p: float


def compare(old_right: Bools, new_right: Bools, patients: NDArray[np.str_], margin: float) -> Comparison:
    """Score test of non-inferiority for paired proportions, clustered by patient.

    The null hypothesis is that the new version's share of right answers is lower by `margin` or more. Tango's
    statistic is divided by the square root of the design effect (never below 1), the ratio of the variance of the
    difference between patients to that between independent cases.

    Args:
        old_right: (N,) whether the old version was right.
        new_right: (N,) whether the new one was.
        patients: (N,) who the case belongs to.
        margin: above 0.

    Source: Tango, Statistics in Medicine 1998; design effect as in Rao & Scott, Biometrics 1992.
    """
    n = len(old_right)
    if n == 0:
        return Comparison(0, math.nan, -math.inf, 1.0)
    gained = int((new_right & ~old_right).sum())
    lost = int((old_right & ~new_right).sum())
    z = tango_z(gained, lost, n, margin) / math.sqrt(_design_effect(old_right, new_right, patients))
    return Comparison(n, (gained - lost) / n, z, float(ndtr(-z)))


def tango_z(gained: int, lost: int, n: int, margin: float) -> float:
    """Tango's score statistic for "new minus old > -margin".

    Args:
        gained: cases that only the new version has right.
        lost: cases that only the old version has right.
        n: all cases.

    Source: Tango 1998, equations 10 and 12, for the difference -margin.
    """
    a = 2 * n
    b = -gained - lost - (2 * n - gained + lost) * margin
    c = lost * margin * (margin + 1)
    only_old = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * only_old - margin * (margin + 1))
    excess = gained - lost + n * margin
    if variance <= 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def _design_effect(old_right: Bools, new_right: Bools, patients: NDArray[np.str_]) -> float:
    differences = new_right.astype(float) - old_right.astype(float)
    residuals = differences - differences.mean()
    independent = float((residuals**2).sum())
    _, membership = np.unique(patients, return_inverse=True)
    clusters = np.bincount(membership, weights=residuals)
    if independent == 0.0 or len(clusters) < 2:
        return 1.0
    between = float((clusters**2).sum()) * len(clusters) / (len(clusters) - 1)
    return max(1.0, between / (independent * len(residuals) / max(len(residuals) - 1, 1)))
