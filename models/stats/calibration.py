"""From a score to a probability, and to the set of answers that cannot be ruled out.

Both come from validated cases of a version that it was not trained on, one of each patient. They answer two different
questions: how often is a finding with such a score there, among patients like these; and which answers does a score
leave open, when each kind of patient may be answered wrongly no more often than a stated share.

The probability is Platt's: a logistic regression on the logit of the score, with his targets, which keep it off 0 and
1. It has two parameters and contains "the score is right as it is", which a few dozen cases can bear; isotonic
regression needs about a thousand before it is better (Niculescu-Mizil & Caruana, ICML 2005).

The set is a class-conditional split conformal one. It looks at the order of scores alone, so that it owes nothing to
the probability's fit and the same cases serve for both: what must be kept apart is what the version was trained on.

Source: Platt, Advances in Large Margin Classifiers 1999; Lin, Lin & Weng, Machine Learning 2007 (targets); Vovk,
Gammerman & Shafer, Algorithmic Learning in a Random World 2005, section 4.5 (Mondrian).
"""

import math
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.stats.intervals import Bools, Floats

LEVEL: Final = 0.9
FEWEST: Final = 20  # of each kind; below, two parameters are a guess
_CLIP: Final = 1e-6
_STEPS: Final = 100

Answer = Literal["positive", "negative"]


class Calibration(BaseModel):
    """What a version's scores mean among the patients that it was fitted on; plain numbers, of nobody.

    Attributes:
        slope, intercept: of the log odds against the logit of the score.
        level: of the sets; of the patients with the finding at least this share has a set that says so, and so for
            those without.
        lowest_positive: the lowest score that a set with `positive` in it may have.
        highest_negative: the highest score that a set with `negative` in it may have.
        positives, negatives: patients.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    slope: float = Field(ge=0, allow_inf_nan=False)
    intercept: float = Field(allow_inf_nan=False)
    level: float = Field(gt=0, lt=1)
    lowest_positive: float = Field(ge=0, le=1)
    highest_negative: float = Field(ge=0, le=1)
    positives: int = Field(ge=1)
    negatives: int = Field(ge=1)

    @property
    def prevalence(self) -> float:
        """Share of the patients who have the finding; among others as many, the probability is another."""
        return self.positives / (self.positives + self.negatives)

    def probability(self, score: float) -> float:
        """That the finding is there, among patients as these; 0..1, growing with the score."""
        return _expit(self.intercept + self.slope * _logit(score))

    def answers(self, score: float) -> tuple[Answer, ...]:
        """The answers that are not ruled out: one, both (uncertain), or none (unlike either kind)."""
        found: list[Answer] = []
        if score >= self.lowest_positive:
            found.append("positive")
        if score <= self.highest_negative:
            found.append("negative")
        return tuple(found)


def calibrate(scores: Floats, positive: Bools, level: float = LEVEL) -> Calibration | None:
    """Fit both.

    Args:
        scores: (N,) in 0..1, each of another patient.
        positive: (N,) the truth.
        level: of the sets.

    Returns:
        None where there are fewer than `FEWEST` of either kind, or where the scores order them the wrong way round:
        then a probability would say that the version is to be read backwards.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if min(positives, negatives) < FEWEST:
        return None
    order = np.lexsort((positive, scores))  # the same patients give the same numbers, in whatever order they come
    slope, intercept = _platt(scores[order], positive[order])
    if slope <= 0:
        return None
    lowest, highest = limits(scores[positive], scores[~positive], level)
    return Calibration(
        slope=slope,
        intercept=intercept,
        level=level,
        lowest_positive=lowest,
        highest_negative=highest,
        positives=positives,
        negatives=negatives,
    )


def brier(scores: Floats, positive: Bools) -> float:
    """Mean squared distance between score and truth; 0 is best, NaN without cases.

    Source: Brier, Monthly Weather Review 1950.
    """
    return float(((scores - positive) ** 2).mean()) if len(scores) else math.nan


def brier_change(old: Floats, new: Floats, positive: Bools, patients: NDArray[np.str_]) -> tuple[float, float]:
    """The Brier score of new scores minus that of old ones of the same cases, and its standard error.

    Args:
        old, new: (N,) 0..1.
        positive: (N,) the truth.
        patients: (N,) who the case belongs to; they, and not the cases, are independent.

    Returns:
        NaN for both without cases, an error of NaN with one patient.
    """
    if not len(old):
        return math.nan, math.nan
    changes = (new - positive) ** 2 - (old - positive) ** 2
    mean = float(changes.mean())
    _, membership = np.unique(patients, return_inverse=True)
    sums = np.bincount(membership, weights=changes - mean)
    if len(sums) < 2:
        return mean, math.nan
    variance = float((sums**2).sum()) * len(sums) / (len(sums) - 1) / len(changes) ** 2
    return mean, math.sqrt(variance)


def limits(cases: Floats, controls: Floats, level: float) -> tuple[float, float]:
    """The lowest score that is not ruled out to be of a case, and the highest of a control.

    Args:
        cases: (N,) scores of those with the finding.
        controls: (M,) of those without.
        level: of a new case at least this share scores the lowest or more, of a new control the highest or less.
    """
    few, many = _place(len(cases), level), _place(len(controls), level)
    lowest = float(np.sort(cases)[few - 1]) if few else 0.0
    highest = float(np.sort(controls)[-many]) if many else 1.0
    return lowest, highest


def _place(n: int, level: float) -> int:
    """Which of n in order, counted from the end where their kind is strange, marks the limit; 0: none of them.

    Of n and one more of the same kind, each place in the order is as likely as another: the new one lies beyond the
    k-th with a probability of k / (n + 1) at most.
    """
    return math.floor((1 - level) * (n + 1) + 1e-9)


def _platt(scores: Floats, positive: Bools) -> tuple[float, float]:
    """Slope and intercept by Newton's method with a line search; the log-likelihood is concave."""
    inside = np.clip(scores, _CLIP, 1 - _CLIP)
    logits = np.log(inside) - np.log1p(-inside)
    cases, controls = int(positive.sum()), int((~positive).sum())
    targets = np.where(positive, (cases + 1) / (cases + 2), 1 / (controls + 2))
    inputs: Floats = np.stack((logits, np.ones_like(logits)), axis=1).astype(np.float64)
    weights: Floats = np.array([0.0, math.log((cases + 1) / (controls + 1))])
    lost = _loss(inputs @ weights, targets)
    for _ in range(_STEPS):
        odds = inputs @ weights
        chances = 1 / (1 + np.exp(-np.clip(odds, -500, 500)))
        gradient = inputs.T @ (chances - targets)
        curvature = (inputs * (chances * (1 - chances))[:, None]).T @ inputs + 1e-12 * np.eye(2)
        step: Floats = np.linalg.solve(curvature, gradient).astype(np.float64)
        share, then = 1.0, _loss(inputs @ (weights - step), targets)
        while share > 1e-10 and then > lost:
            share /= 2
            then = _loss(inputs @ (weights - share * step), targets)
        if lost - then < 1e-12 * (1 + abs(lost)):
            break
        weights, lost = weights - share * step, then
    return float(weights[0]), float(weights[1])


def _loss(odds: Floats, targets: Floats) -> float:
    return float((np.logaddexp(0, odds) - targets * odds).sum())


def _logit(score: float) -> float:
    inside = min(max(score, _CLIP), 1 - _CLIP)
    return math.log(inside) - math.log1p(-inside)


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))
