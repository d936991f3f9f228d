"""What decides whether a version may serve: pure, the same code wherever it is asked.

A hospital's adoption gate compares two versions on its own random sample. Too few cases never adopt: the candidate
then stays in shadow until there are enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.special import ndtri

from models.stats.noninferiority import Comparison, compare


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
    TOO_FEW_POSITIVES = "too-few-positives"
    TOO_FEW_NEGATIVES = "too-few-negatives"
    NO_TRAINING_CASES = "no-training-cases"
    NO_INCUMBENT = "no-incumbent"
    ACCEPTANCE_PASSED = "acceptance-passed"
    SELF_TEST_FAILED = "self-test-failed"
    OTHER_MODEL = "other-model"
    NOT_COMPARED = "not-compared"


@dataclass(frozen=True, slots=True)
class Margins:
    """How much worse is still not worse, and how sure one has to be (see configs.schema.GateConfig)."""

    margin: float = 0.05
    alpha: float = 0.025
    min_positives: int = 20
    min_negatives: int = 20


@dataclass(frozen=True, slots=True)
class Case:
    """One case of the random sample, answered by both versions."""

    patient: str
    positive: bool
    old_positive: bool
    new_positive: bool


@dataclass(frozen=True, slots=True)
class GateResult:
    """The verdict, its reasons and what it rests on."""

    verdict: GateVerdict
    reasons: tuple[GateReason, ...]
    sensitivity: Comparison
    specificity: Comparison


def adoption(cases: Sequence[Case], margins: Margins) -> GateResult:
    """Adopt only what is shown not to be worse, for sensitivity and for specificity.

    A version that is neither shown to be good enough nor shown to be worse stays in shadow when cases are too few, and
    is refused otherwise: the look is fixed, one per candidate.
    """
    positives = [case for case in cases if case.positive]
    negatives = [case for case in cases if not case.positive]
    sensitivity = _compare(positives, margins.margin)
    specificity = _compare(negatives, margins.margin)
    few = [
        reason
        for reason, found, needed in (
            (GateReason.TOO_FEW_POSITIVES, len(positives), margins.min_positives),
            (GateReason.TOO_FEW_NEGATIVES, len(negatives), margins.min_negatives),
        )
        if found < needed
    ]
    if few:
        return GateResult(GateVerdict.SHADOW, tuple(few), sensitivity, specificity)
    limit = float(ndtri(1 - margins.alpha))
    reasons: list[GateReason] = []
    if sensitivity.z < limit:
        worse = sensitivity.z <= -limit
        reasons.append(GateReason.SENSITIVITY_INFERIOR if worse else GateReason.SENSITIVITY_NOT_SHOWN)
    if specificity.z < limit:
        worse = specificity.z <= -limit
        reasons.append(GateReason.SPECIFICITY_INFERIOR if worse else GateReason.SPECIFICITY_NOT_SHOWN)
    if reasons:
        return GateResult(GateVerdict.REFUSE, tuple(reasons), sensitivity, specificity)
    return GateResult(GateVerdict.ADOPT, (GateReason.NON_INFERIOR,), sensitivity, specificity)


def _compare(cases: Sequence[Case], margin: float) -> Comparison:
    return compare(
        np.array([case.old_positive == case.positive for case in cases], dtype=bool),
        np.array([case.new_positive == case.positive for case in cases], dtype=bool),
        np.array([case.patient for case in cases], dtype=str),
        margin,
    )
