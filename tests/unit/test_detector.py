"""An alarm that may be looked at always: rarely false, soon where it is due, never for what is late."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.stats.detector import YEAR, Bet, Course, follow, staked

A_YEAR = 2000


def watch(values: np.ndarray, due: np.ndarray) -> Course:
    return follow({"error": 0.1}, [Bet(("error",), 1.0)], values, due)


def exams(draw: np.random.Generator, rate: float, count: int) -> np.ndarray:
    return (draw.random((count, 1)) < rate).astype(float)


def clock(count: int) -> np.ndarray:
    return staked((np.arange(count) + 1) * YEAR / A_YEAR, 0.0, 0.1)


def test_false_alarms_are_as_rare_as_is_said_and_a_change_is_found_soon() -> None:
    draw = np.random.default_rng(5)
    due = clock(5 * A_YEAR)
    false = sum(watch(exams(draw, 0.1, len(due)), due).alarm is not None for _ in range(60))
    # one in two of five years would be 30; that few, or less, has a probability of more than 1 - 1e-4
    assert false <= 44
    delays: list[float] = []
    for _ in range(40):
        values = np.concatenate([exams(draw, 0.05, A_YEAR), exams(draw, 0.3, A_YEAR)])
        alarm = watch(values, due[: len(values)]).alarm
        delays.append(np.inf if alarm is None else alarm - A_YEAR)
    assert np.median(delays) < 120
    assert min(delays) >= 0


def test_no_evidence_is_more_than_what_was_staked_on_average() -> None:
    draw = np.random.default_rng(6)
    due = clock(20)
    rates = {"a": 0.1, "b": 0.3, "c": 0.02}
    bets = [Bet(("a", "b", "c"), 0.5), Bet(("a",), 0.2), Bet(("b",), 0.2), Bet(("c",), 0.1)]
    last: list[float] = []
    for _ in range(8000):
        values = (draw.random((20, 3)) < [0.1, 0.3, 0.02]).astype(float)
        values[draw.random((20, 3)) < 0.3] = np.nan
        last.append(float(follow(rates, bets, values, due).evidence[-1].sum()))
    assert np.mean(last) == pytest.approx(due.sum(), rel=0.15)


def test_an_error_counts_for_as_many_exams_as_it_stands_for() -> None:
    draw, due = np.random.default_rng(7), clock(20)
    last: list[float] = []
    for _ in range(8000):
        wrong, chosen = draw.random((20, 1)) < 0.1, draw.random((20, 1)) < 0.25
        last.append(float(watch(np.where(wrong & chosen, 4.0, 0.0), due).evidence[-1].sum()))
    assert np.mean(last) == pytest.approx(due.sum(), rel=0.1)


@given(arrays(np.float64, (30, 1), elements=st.sampled_from([0.0, 1.0, np.nan])), st.sets(st.integers(0, 29)))
def test_what_is_not_known_yet_never_brings_an_alarm_on(values: np.ndarray, late: set[int]) -> None:
    waiting = values.copy()
    for number in late:
        if not np.isnan(values[number, 0]):
            waiting[number, 0] = 0.0
    due = clock(30) * 500
    before, after = watch(waiting, due), watch(values, due)
    assert (before.evidence <= after.evidence + 1e-12).all()
    if before.alarm is not None:
        assert after.alarm is not None
        assert after.alarm <= before.alarm


def test_there_is_nothing_before_the_first_exam() -> None:
    found = watch(np.empty((0, 1)), np.empty(0))
    assert (found.alarm, found.highest) == (None, 0.0)


def test_a_rate_that_is_far_too_high_is_no_overflow() -> None:
    found = watch(np.ones((20_000, 1)), clock(20_000))
    assert found.alarm is not None
    assert np.isfinite(found.evidence).all()


def test_two_rates_that_both_rise_are_found_sooner_together() -> None:
    draw = np.random.default_rng(8)
    rates, due = {"a": 0.1, "b": 0.2}, clock(2 * A_YEAR)
    alone = [Bet(("a",), 0.5), Bet(("b",), 0.5)]
    together = [Bet(("a", "b"), 0.5), Bet(("a",), 0.25), Bet(("b",), 0.25)]
    at: dict[str, list[float]] = {"alone": [], "together": []}
    for _ in range(30):
        values = (draw.random((2 * A_YEAR, 2)) < [0.17, 0.3]).astype(float)
        values[np.arange(2 * A_YEAR), draw.integers(0, 2, 2 * A_YEAR)] = np.nan  # an exam is one of either
        for name, bets in (("alone", alone), ("together", together)):
            alarm = follow(rates, bets, values, due).alarm
            at[name].append(np.inf if alarm is None else alarm)
    assert np.median(at["together"]) < np.median(at["alone"])


@pytest.mark.parametrize("tolerated", [0.0, 1.0, -0.1])
def test_what_is_no_rate_is_refused(tolerated: float) -> None:
    with pytest.raises(ValueError, match="tolerated"):
        follow({"error": tolerated}, [Bet(("error",), 1.0)], np.zeros((1, 1)), np.zeros(1))


def test_exams_out_of_their_order_are_refused() -> None:
    with pytest.raises(ValueError, match="order"):
        staked(np.array([2.0, 1.0]), 0.0, 0.1)
    with pytest.raises(ValueError, match="order"):
        staked(np.array([2.0]), 3.0, 0.1)
    with pytest.raises(ValueError, match="exams"):
        watch(np.zeros((3, 2)), np.zeros(3))
    with pytest.raises(ValueError, match="below 0"):
        watch(np.full((3, 1), -1.0), np.zeros(3))
