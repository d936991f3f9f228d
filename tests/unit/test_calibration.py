"""What is said of a score besides the score is true: probabilities are frequencies, sets miss no more than they may."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.stats.calibration import FEWEST, Calibration, calibrate, limits

Floats = NDArray[np.float64]


def _drawn(random: np.random.Generator, positives: int, negatives: int, shift: float = 2.0) -> tuple[Floats, Floats]:
    """Scores whose log odds are normal, and so say too much or too little of the truth."""
    logits = np.concatenate((random.normal(shift, 1.5, positives), random.normal(-shift, 1.5, negatives)))
    return 1 / (1 + np.exp(-3 * logits)), np.arange(positives + negatives) < positives


@pytest.mark.parametrize(("positives", "negatives"), [(20, 20), (25, 61), (200, 33)])
@pytest.mark.parametrize("level", [0.8, 0.9, 0.95])
def test_of_each_kind_the_set_misses_no_more_than_it_may(positives: int, negatives: int, level: float) -> None:
    """Averaged over calibration and new patient; the exact value for continuous scores is known."""
    random = np.random.default_rng(positives)
    runs, missed = 4000, np.zeros(2)
    for _ in range(runs):
        scores, truth = _drawn(random, positives + 1, negatives + 1)
        cases, controls = scores[truth], scores[~truth]
        lowest, highest = limits(cases[1:], controls[1:], level)  # the first of each is the new patient
        missed += [cases[0] < lowest, controls[0] > highest]
    for n, share in zip((positives, negatives), missed / runs, strict=True):
        exact = math.floor((1 - level) * (n + 1) + 1e-9) / (n + 1)
        assert exact <= 1 - level + 1e-12
        assert abs(share - exact) < 4 * math.sqrt(exact * (1 - exact) / runs)


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.5001, 0.9, 1.0]), min_size=2, max_size=60),
    st.lists(st.sampled_from([0.0, 0.1, 0.5, 0.5001, 0.9, 1.0]), min_size=2, max_size=40),
    st.sampled_from([0.8, 0.9, 0.95]),
)
def test_ties_only_ever_make_sets_larger(cases: list[float], controls: list[float], level: float) -> None:
    """Each patient in turn is the new one: the guarantee is a count, whatever the scores are."""
    missed = 0
    for out in range(len(cases)):
        lowest, _ = limits(np.array([*cases[:out], *cases[out + 1 :]]), np.array(controls), level)
        missed += cases[out] < lowest
    assert missed <= math.floor((1 - level) * len(cases) + 1e-9)
    missed = 0
    for out in range(len(controls)):
        _, highest = limits(np.array(cases), np.array([*controls[:out], *controls[out + 1 :]]), level)
        missed += controls[out] > highest
    assert missed <= math.floor((1 - level) * len(controls) + 1e-9)


def test_a_probability_is_a_frequency() -> None:
    random = np.random.default_rng(1)
    scores, truth = _drawn(random, 300, 700, shift=0.8)
    found = calibrate(scores, truth)
    assert found is not None
    assert found.prevalence == 0.3
    fresh, there = _drawn(random, 30_000, 70_000, shift=0.8)
    said = np.array([found.probability(score) for score in fresh])
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        band = (said >= low) & (said < low + 0.2)
        assert abs(said[band].mean() - there[band].mean()) < 0.06, low
    assert ((said - there) ** 2).mean() < ((fresh - there) ** 2).mean() - 0.02  # the scores themselves say too much


def test_too_few_of_a_kind_is_said_and_not_guessed() -> None:
    scores, truth = _drawn(np.random.default_rng(2), FEWEST, FEWEST)
    assert calibrate(scores, truth) is not None
    assert calibrate(scores[1:], truth[1:]) is None
    assert calibrate(scores[:-1], truth[:-1]) is None
    assert calibrate(np.zeros(0), np.zeros(0, bool)) is None


def test_a_version_that_is_wrong_more_often_than_not_is_not_read_backwards() -> None:
    scores, truth = _drawn(np.random.default_rng(3), 40, 40)
    assert calibrate(1 - scores, truth) is None
    assert calibrate(np.full(80, 0.5), truth) is None


def test_perfect_separation_and_the_ends_of_the_scale_stay_finite() -> None:
    truth = np.arange(60) < 30
    found = calibrate(np.where(truth, 1.0, 0.0), truth)
    assert found is not None
    assert 0 < found.probability(0.0) < 0.1
    assert 0.9 < found.probability(1.0) < 1
    assert found.answers(1.0) == ("positive",)
    assert found.answers(0.0) == ("negative",)
    assert found.answers(0.5) == ()  # like neither
    assert Calibration.model_validate_json(found.model_dump_json()) == found


def test_a_score_between_the_kinds_is_called_uncertain() -> None:
    scores, truth = _drawn(np.random.default_rng(4), 100, 100, shift=0.7)
    found = calibrate(scores, truth)
    assert found is not None
    assert found.answers(0.5) == ("positive", "negative")
    assert found.answers(1.0) == ("positive",)
