"""How a site sets an operating threshold on its own training patients, by the rule that the version declares."""

import numpy as np

from models.stats.intervals import Bools, Floats


def balanced(scores: Floats, positive: Bools) -> float:
    """The threshold at which sensitivity and specificity are closest, when `score >= threshold` is called positive.

    Two versions compared at their balanced thresholds make the same trade between the two, so that a gain in one is not
    paid with the other; and unlike the maximum of their sum it does not run to an end of the scale (everything or
    nothing called positive) where a version knows little. Half-way between two neighbouring scores; among equally good
    places the middle one.

    Args:
        scores: (N,) in 0..1.
        positive: (N,) the truth; both classes have to be there.

    Raises:
        ValueError: a class is missing.

    Source: the operating point of the equal error rate; Fawcett, Pattern Recognition Letters 2006.
    """
    if positive.all() or not positive.any():
        raise ValueError("a threshold needs positive and negative cases")
    values = np.unique(scores)
    candidates = np.concatenate(([0.0], (values[1:] + values[:-1]) / 2, [1.0]))
    cases, controls = np.sort(scores[positive]), np.sort(scores[~positive])
    sensitivity = 1 - np.searchsorted(cases, candidates, side="left") / len(cases)
    specificity = np.searchsorted(controls, candidates, side="left") / len(controls)
    distance = np.abs(sensitivity - specificity)
    best = np.flatnonzero(distance <= distance.min() + 1e-12)
    return float(candidates[best[len(best) // 2]])
