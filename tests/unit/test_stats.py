"""The numbers a release hangs on: checked against independent computations, not against themselves."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from models.gate import Case, GateReason, GateVerdict, Margins, adoption
from models.stats.intervals import auc, proportion
from models.stats.noninferiority import compare, tango_z
from models.stats.threshold import balanced


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_proportion_agrees_with_scipy(counts: tuple[int, int]) -> None:
    successes, trials = counts
    expected = binomtest(successes, trials).proportion_ci(method="exact")
    found = proportion(successes, trials)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 1, width=16), st.booleans()), min_size=2, max_size=80))
def test_auc_agrees_with_sklearn_and_lies_in_its_interval(cases: list[tuple[float, bool]]) -> None:
    scores = np.array([score for score, _ in cases])
    positive = np.array([label for _, label in cases])
    found = auc(scores, positive)
    if positive.all() or not positive.any():
        assert math.isnan(found.value)
        return
    assert found.value == pytest.approx(roc_auc_score(positive, scores), abs=1e-9)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_auc_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    truth = 0.8554  # two unit normals 1.5 apart: Phi(1.5 / sqrt 2)
    covered = 0
    for _ in range(600):
        positive = np.arange(120) < 40
        found = auc(random.normal(1.5 * positive), positive)
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / 600 <= 0.975


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200))
def test_tango_uses_the_constrained_maximum_likelihood(gained: int, lost: int, same: int) -> None:
    n, margin = gained + lost + same, 0.05
    if n == 0 or gained + lost == 0:
        return

    def cost(only_old: float) -> float:
        only_new = only_old - margin
        rest = 1 - only_old - only_new
        return -(
            gained * math.log(max(only_new, 1e-300))
            + lost * math.log(max(only_old, 1e-300))
            + same * math.log(max(rest, 1e-300))
        )

    best = minimize_scalar(cost, bounds=(margin, (1 + margin) / 2), method="bounded", options={"xatol": 1e-10}).x
    variance = n * (2 * best - margin * (margin + 1))
    if variance > 1e-3:
        assert tango_z(gained, lost, n, margin) == pytest.approx(
            (gained - lost + n * margin) / math.sqrt(variance), rel=1e-2, abs=1e-2
        )


def test_a_version_worse_by_the_margin_is_adopted_at_most_as_often_as_alpha_says() -> None:
    random = np.random.default_rng(7)
    adopted, runs, n = 0, 4000, 200
    for _ in range(runs):
        # right by both .80, only the old .10, only the new .05, neither .05: worse by exactly the margin
        kind = random.choice(4, size=n, p=[0.80, 0.10, 0.05, 0.05])
        result = compare(np.isin(kind, (0, 1)), np.isin(kind, (0, 2)), np.arange(n).astype(str), 0.05)
        adopted += result.z >= 1.959964
    assert adopted / runs <= 0.032


def test_repeated_patients_count_less_than_as_many_patients() -> None:
    random = np.random.default_rng(5)
    old, new = random.random(60) < 0.9, random.random(60) < 0.9
    once = compare(np.repeat(old, 5), np.repeat(new, 5), np.arange(300).astype(str), 0.05)
    repeated = compare(np.repeat(old, 5), np.repeat(new, 5), np.repeat(np.arange(60), 5).astype(str), 0.05)
    assert abs(repeated.z) < abs(once.z) / 2


def test_the_balanced_threshold_separates_what_can_be_separated_and_stays_in_the_middle_where_nothing_can() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.7, 0.8])
    assert balanced(scores, np.array([False, False, False, True, True])) == pytest.approx(0.5)
    random = np.random.default_rng(2)
    for shift in (-1.0, 0.0, 1.0):  # a version that has it the wrong way round, one that guesses, one that knows
        positive = random.random(800) < 0.3
        values = 1 / (1 + np.exp(-random.normal(shift * positive)))
        called = values >= balanced(values, positive)
        sensitivity, specificity = called[positive].mean(), (~called)[~positive].mean()
        assert abs(sensitivity - specificity) < 0.02
        assert 0.2 < sensitivity < 0.8
    with pytest.raises(ValueError, match="positive and negative"):
        balanced(scores, np.ones(5, dtype=bool))


def _cases(n: int, old: float, new: float, positive: bool) -> list[Case]:
    """`n` patients of one class with the given shares right."""
    return [Case(f"{positive}{i}", positive, (i < n * old) == positive, (i < n * new) == positive) for i in range(n)]


def test_gate_adopts_refuses_and_waits() -> None:
    margins = Margins()
    better = _cases(100, 0.6, 0.9, True) + _cases(100, 0.6, 0.9, False)
    assert adoption(better, margins).verdict is GateVerdict.ADOPT
    worse = _cases(100, 0.9, 0.6, True) + _cases(100, 0.6, 0.9, False)
    assert adoption(worse, margins).reasons == (GateReason.SENSITIVITY_INFERIOR,)
    few = _cases(5, 0.1, 1.0, True) + _cases(100, 0.6, 0.9, False)
    assert adoption(few, margins).verdict is GateVerdict.SHADOW
    assert adoption([], margins).verdict is GateVerdict.SHADOW


def test_alike_images_of_a_patient_adopt_no_version_that_is_worse_by_the_margin() -> None:
    """Forty patients with three images that are always answered alike, one in twenty patients lost, none gained."""
    draw = np.random.default_rng(0)
    patients = np.repeat([str(number) for number in range(40)], 3)
    adopted = 0
    for _ in range(1000):
        lost = np.repeat(draw.random(40) < 0.05, 3)
        adopted += compare(np.ones(120, dtype=bool), ~lost, patients, 0.05).p < 0.025
    assert adopted <= 40  # 25 expected at most; it was more than a hundred with the measured design effect alone
