"""Whether a version got worse for some patients, by sex and by age: at one hospital, and over all of them. Pure."""

from collections.abc import Iterable, Sequence
from typing import Final, cast

import numpy as np
from scipy.special import ndtri

from models.gate import Case
from models.stats.noninferiority import Comparison, compare
from models.subgroups import Change, Group, Rate, groups_of, told

_RATES: Final[tuple[tuple[bool, Rate], ...]] = ((True, "sensitivity"), (False, "specificity"))
_DIGITS: Final = 3
_FARTHEST: Final = 40.0


def changes(cases: Sequence[tuple[Case, str]], margin: float) -> list[Change]:
    """The changes that may be told.

    Args:
        cases: of the random sample, each with its stratum.
        margin: as the gate's.
    """
    found: list[Change] = []
    for positive, rate in _RATES:
        chosen = [(case, groups_of(stratum)) for case, stratum in cases if case.positive is positive]
        for kind in ("sex", "age"):
            of: dict[str, list[Case]] = {}
            for case, groups in chosen:
                of.setdefault(groups[kind], []).append(case)
            sizes = {group: len({case.patient for case in several}) for group, several in of.items()}
            for group in sorted(told(sizes)):
                found.append(_change(group, rate, _compare(of[group], margin)))
    return found


def worse(of: Iterable[Sequence[Change]], alpha: float) -> list[tuple[str, str, float]]:
    """Groups and rates that are shown to be worse by more than the margin, over all hospitals together.

    Args:
        of: what each hospital told.
        alpha: one-sided, shared among all groups and rates (Bonferroni).

    Returns:
        (group, rate, mean difference).

    Source: Stouffer's combination, weighted by the square root of the patients (Lipták 1958).
    """
    pooled: dict[tuple[str, str], list[Change]] = {}
    for several in of:
        for change in several:
            pooled.setdefault((change.group, change.rate), []).append(change)
    found: list[tuple[str, str, float]] = []
    for (group, rate), several in sorted(pooled.items()):
        patients = np.array([change.patients for change in several], dtype=np.float64)
        z = float(np.sqrt(patients) @ np.array([change.z for change in several]) / np.sqrt(patients.sum()))
        if z <= float(ndtri(alpha / len(pooled))):
            mean = float(patients @ np.array([change.difference for change in several]) / patients.sum())
            found.append((group, rate, mean))
    return found


def _compare(cases: Sequence[Case], margin: float) -> Comparison:
    return compare(
        np.array([case.old_positive == case.positive for case in cases], dtype=bool),
        np.array([case.new_positive == case.positive for case in cases], dtype=bool),
        np.array([case.patient for case in cases], dtype=str),
        margin,
    )


def _change(group: str, rate: Rate, compared: Comparison) -> Change:
    z = min(max(compared.z, -_FARTHEST), _FARTHEST)  # one that is certain would be infinite
    return Change(cast(Group, group), rate, compared.patients, round(compared.difference, _DIGITS), round(z, _DIGITS))
