"""What decides whether a version may serve: pure, the same code wherever it is asked.

A hospital's adoption gate compares a candidate with the version that serves, and with the first certified one where
that is another, on the hospital's own random sample. Too few patients never adopt: the candidate then stays in shadow
until there are enough.

How often it looks is settled beforehand. A *fixed* look is one: it waits for the least number of patients, which it
counts without looking at what was answered, and then says yes or no for good. *Spending* looks again when the sample
has grown, and shares the one error rate among all looks (`models.stats.spending`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, Literal

import numpy as np
from scipy.special import ndtri

from models.stats.noninferiority import Comparison, compare
from models.stats.spending import Spending, limits

LEAST_GROWTH: Final = 0.1  # of the planned patients, before there is anything new to look at


class GateVerdict(StrEnum):
    """What a hospital's gate says of a candidate."""

    ADOPT = "adopt"
    REFUSE = "refuse"
    SHADOW = "shadow"


class GateReason(StrEnum):
    """Why; closed, because it crosses the border."""

    NON_INFERIOR = "non-inferior"
    SENSITIVITY_NOT_SHOWN = "sensitivity-not-shown"
    SPECIFICITY_NOT_SHOWN = "specificity-not-shown"
    SENSITIVITY_INFERIOR = "sensitivity-inferior"
    SPECIFICITY_INFERIOR = "specificity-inferior"
    CERTIFIED_NOT_SHOWN = "certified-not-shown"
    CERTIFIED_INFERIOR = "certified-inferior"
    TOO_FEW_POSITIVES = "too-few-positives"
    TOO_FEW_NEGATIVES = "too-few-negatives"
    TOO_FEW_VALIDATED = "too-few-validated"
    NO_TRAINING_CASES = "no-training-cases"
    NO_INCUMBENT = "no-incumbent"
    ACCEPTANCE_PASSED = "acceptance-passed"
    SELF_TEST_FAILED = "self-test-failed"
    OTHER_MODEL = "other-model"
    NOT_COMPARED = "not-compared"
    POPULATION_UNKNOWN = "population-unknown"
    POPULATION_MISMATCH = "population-mismatch"
    LEAKAGE = "leakage"
    SHADOW_PERIOD = "shadow-period"
    SHADOW_DISAGREES = "shadow-disagrees"
    SHADOW_WORSE = "shadow-worse"


@dataclass(frozen=True, slots=True)
class Margins:
    """How much worse is still not worse, and how sure one has to be (see configs.schema.GateConfig).

    Attributes:
        min_positives, min_negatives: patients.
        looks: one fixed look, or how the error rate is shared among several.
        planned_positives, planned_negatives: patients, at which the last of several looks is taken.
    """

    margin: float = 0.05
    alpha: float = 0.025
    min_positives: int = 20
    min_negatives: int = 20
    looks: Literal["fixed"] | Spending = "fixed"
    planned_positives: int = 150
    planned_negatives: int = 150


@dataclass(frozen=True, slots=True)
class Case:
    """One case of the random sample, answered by both versions.

    Attributes:
        first_positive: the answer of the first certified version, where it is neither of the two; None otherwise.
    """

    patient: str
    positive: bool
    old_positive: bool
    new_positive: bool
    first_positive: bool | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """How many patients an earlier look of the same gate rested on."""

    positives: int
    negatives: int


@dataclass(frozen=True, slots=True)
class GateResult:
    """The verdict, its reasons and what it rests on.

    Attributes:
        look: what this look rested on; None where the gate did not look at the answers.
    """

    verdict: GateVerdict
    reasons: tuple[GateReason, ...]
    sensitivity: Comparison
    specificity: Comparison
    look: Look | None = None


@dataclass(frozen=True, slots=True)
class _Limits:
    """What z of sensitivity and of specificity has to reach at this look."""

    sensitivity: float
    specificity: float
    last: bool


def adoption(cases: Sequence[Case], margins: Margins, earlier: Sequence[Look] = ()) -> GateResult:
    """Adopt only what is shown not to be worse, for sensitivity and for specificity, than each version compared with.

    Each of them has to be shown on its own, so that the error rate is that of one. A version that is neither shown to
    be good enough nor shown to be worse stays in shadow while more looks are to come, and is refused at the last.

    Args:
        earlier: the looks that this candidate had against the same versions, oldest first.
    """
    positives = [case for case in cases if case.positive]
    negatives = [case for case in cases if not case.positive]
    sensitivity, specificity = _compare(positives, margins.margin), _compare(negatives, margins.margin)
    few = [
        reason
        for reason, found, needed in (
            (GateReason.TOO_FEW_POSITIVES, sensitivity.patients, margins.min_positives),
            (GateReason.TOO_FEW_NEGATIVES, specificity.patients, margins.min_negatives),
        )
        if found < needed
    ]
    if few:
        return GateResult(GateVerdict.SHADOW, tuple(few), sensitivity, specificity)
    look = Look(sensitivity.patients, specificity.patients)
    limit = _limits(look, margins, earlier)
    if limit is None:
        grown = (GateReason.TOO_FEW_POSITIVES, GateReason.TOO_FEW_NEGATIVES)
        return GateResult(GateVerdict.SHADOW, grown, sensitivity, specificity)
    reasons = _reasons(sensitivity, specificity, limit)
    if cases[0].first_positive is not None:
        reasons += _certified(positives, negatives, margins.margin, limit)
    if not reasons:
        return GateResult(GateVerdict.ADOPT, (GateReason.NON_INFERIOR,), sensitivity, specificity, look)
    worse = {GateReason.SENSITIVITY_INFERIOR, GateReason.SPECIFICITY_INFERIOR, GateReason.CERTIFIED_INFERIOR}
    verdict = GateVerdict.REFUSE if limit.last or worse & set(reasons) else GateVerdict.SHADOW
    return GateResult(verdict, tuple(reasons), sensitivity, specificity, look)


def _limits(look: Look, margins: Margins, earlier: Sequence[Look]) -> _Limits | None:
    """None: there is too little new to look at again."""
    if margins.looks == "fixed" and not earlier:
        limit = float(ndtri(1 - margins.alpha))
        return _Limits(limit, limit, last=True)
    # a setting changed between two looks does not give the first one back
    spending: Spending = "obrien-fleming" if margins.looks == "fixed" else margins.looks
    planned = (margins.planned_positives, margins.planned_negatives)
    counts = [(one.positives, one.negatives) for one in (*earlier, look)]
    # both classes spend by the one that lags: else the other had nothing left when both are complete
    fractions = [min(n / of for n, of in zip(found, planned, strict=True)) for found in counts]
    if earlier:
        grown = [now - before for now, before in zip(counts[-1], counts[-2], strict=True)]
        if min(grown) < 1 or (fractions[-1] < 1 and fractions[-1] - fractions[-2] < LEAST_GROWTH):
            return None
    sensitivity, specificity = (
        limits([found[which] for found in counts], fractions, margins.alpha, spending)[-1] for which in (0, 1)
    )
    return _Limits(sensitivity, specificity, last=fractions[-1] >= 1)


def _reasons(sensitivity: Comparison, specificity: Comparison, limit: _Limits) -> list[GateReason]:
    """What is not shown of the comparison with the version that serves."""
    reasons: list[GateReason] = []
    if sensitivity.z < limit.sensitivity:
        worse = sensitivity.z <= -limit.sensitivity
        reasons.append(GateReason.SENSITIVITY_INFERIOR if worse else GateReason.SENSITIVITY_NOT_SHOWN)
    if specificity.z < limit.specificity:
        worse = specificity.z <= -limit.specificity
        reasons.append(GateReason.SPECIFICITY_INFERIOR if worse else GateReason.SPECIFICITY_NOT_SHOWN)
    return reasons


def _certified(positives: Sequence[Case], negatives: Sequence[Case], margin: float, limit: _Limits) -> list[GateReason]:
    """What is not shown of the comparison with the first certified version.

    Each version that is not worse than the one before by the margin could be the last step of a long way down.
    """
    sensitivity, specificity = (
        _compare([replace(case, old_positive=bool(case.first_positive)) for case in of], margin)
        for of in (positives, negatives)
    )
    reasons = _reasons(sensitivity, specificity, limit)
    if {GateReason.SENSITIVITY_INFERIOR, GateReason.SPECIFICITY_INFERIOR} & set(reasons):
        return [GateReason.CERTIFIED_INFERIOR]
    return [GateReason.CERTIFIED_NOT_SHOWN] if reasons else []


def _compare(cases: Sequence[Case], margin: float) -> Comparison:
    return compare(
        np.array([case.old_positive == case.positive for case in cases], dtype=bool),
        np.array([case.new_positive == case.positive for case in cases], dtype=bool),
        np.array([case.patient for case in cases], dtype=str),
        margin,
    )
