"""How a site sets an operating threshold on its own training patients, by the rule that the version declares."""

import numpy as np

from models.stats.intervals import Bools, Floats


def youden(scores: Floats, positive: Bools) -> float:
    """The threshold that maximises sensitivity + specificity when `score >= threshold` is called positive.

    Half-way between two neighbouring scores; among equally good places the middle one, so that small samples do not
    sit on an edge.

    Args:
        scores: (N,) in 0..1.
        positive: (N,) the truth; both classes have to be there.

    Raises:
        ValueError: a class is missing.

    Source: Youden, Cancer 1950.
    """
    if positive.all() or not positive.any():
        raise ValueError("a threshold needs positive and negative cases")
    values = np.unique(scores)
    candidates = np.concatenate(([0.0], (values[1:] + values[:-1]) / 2, [1.0]))
    cases, controls = np.sort(scores[positive]), np.sort(scores[~positive])
    sensitivity = 1 - np.searchsorted(cases, candidates, side="left") / len(cases)
    specificity = np.searchsorted(controls, candidates, side="left") / len(controls)
    merit = sensitivity + specificity
    best = np.flatnonzero(merit >= merit.max() - 1e-12)
    return float(candidates[best[len(best) // 2]])
