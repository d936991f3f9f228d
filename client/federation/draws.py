"""How often a training draws each case: errors more often, and nobody so often that an update would be theirs.

A plan's weights multiply: a case that was read wrongly and whose truth a biopsy gave may count for ten thousand others.
Of what is trained on one case alone, the picture can be told. So no patient, with all their studies, has more than one
in `LEAST` of the draws, whatever the plan says: an update rests on as many patients at least, and on each of those
alike at the worst.
"""

from collections.abc import Sequence

import numpy as np

from client.vigilance.register import Case
from models.errors import TooFewCases
from models.hyperparameters import Hyperparameters
from models.stats.disclosure import LEAST
from models.stats.intervals import Floats


def draws(cases: Sequence[Case], hyper: Hyperparameters) -> Floats:
    """(N,) how often to draw each case, relative to the others; 0 leaves it out.

    Raises:
        TooFewCases: the cases that are drawn at all are of fewer than `LEAST` patients.
    """
    wanted = np.array(
        [(1.0 if case.correct else hyper.error_weight) * hyper.tier_weight(case.tier.value) for case in cases],
        dtype=np.float64,
    )
    return evened(wanted, [case.patient_key for case in cases])


def evened(weights: Floats, patients: Sequence[str]) -> Floats:
    """The weights, less for those of whom there would be too much. Pure.

    What is wanted more than a patient's share is cut to it, all a patient's cases alike; the others' stay as they are.

    Args:
        weights: (N,) not negative.
        patients: (N,) whose each case is.

    Returns:
        (N,) such that no patient has more than one in `LEAST` of their sum; the given ones where that holds.

    Raises:
        TooFewCases: too few patients have any weight.
    """
    names, whose = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    totals = np.bincount(whose, weights=weights, minlength=len(names))
    if (count := int(np.count_nonzero(totals))) < LEAST:
        raise TooFewCases(f"{count} patients to train on: fewer than {LEAST} would show one of them")
    falling = np.sort(totals)[::-1]
    cut = 0  # so many are cut, all to the same: LEAST - 1 at most
    while falling[cut] > (most := falling[cut:].sum() / (LEAST - cut)):
        cut += 1
    if cut == 0:
        return weights
    return weights * np.minimum(1.0, most / np.where(totals > 0, totals, 1.0))[whose]
