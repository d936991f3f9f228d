"""Comparing exams with a reference: quiet while nothing changes, loud when something does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.stats.detector import YEAR, Bet, follow, staked
from models.stats.two_sample import STREAMS, Exams, compared, tolerated

MAKERS = ("a", "b")


def exams(draw: np.random.Generator, count: int, shift: float = 0.0, maker: str = "") -> Exams:
    numbers = draw.normal((shift, 0.0, 0.0), size=(count, 3))
    return Exams(numbers, [[maker or str(draw.choice(MAKERS))] for _ in range(count)])


def alarm(values: np.ndarray, reference: int) -> int | None:  # type: ignore[type-arg]
    limits = tolerated(reference)
    due = staked((np.arange(len(values)) + 1) * YEAR / 2000, 0.0, 0.1)
    return follow(limits, [Bet((name,), 1 / len(limits)) for name in limits], values, due).alarm


def test_nothing_is_said_while_nothing_changes() -> None:
    draw = np.random.default_rng(1)
    values = [compared(exams(draw, 400), exams(draw, 1000)) for _ in range(5)]
    assert all(alarm(one, 400) is None for one in values)
    means = np.nanmean(np.concatenate(values), axis=0)
    assert means == pytest.approx([0.5, 0.1, 0.1, 0.5], abs=0.03)


@pytest.mark.parametrize(("shift", "maker"), [(1.0, ""), (0.0, "never seen")])
def test_a_change_is_found_within_some_blocks(shift: float, maker: str) -> None:
    draw = np.random.default_rng(2)
    before, after = exams(draw, 300), exams(draw, 300, shift, maker)
    now = Exams(np.concatenate((before.numbers, after.numbers)), [*before.words, *after.words])
    found = alarm(compared(exams(draw, 400), now), 400)
    assert found is not None
    assert 300 <= found < 500


def test_part_of_the_exams_is_enough() -> None:
    """A fifth of the patients with something new, in a description of many numbers."""
    draw = np.random.default_rng(3)
    numbers = draw.normal(size=(1400, 40))
    changed = np.flatnonzero(draw.random(700) < 0.2) + 700
    numbers[changed] += draw.choice([-1.0, 1.0], 40)
    rows = Exams(numbers, [[] for _ in numbers])
    found = alarm(
        compared(Exams(rows.numbers[:400], rows.words[:400]), Exams(numbers[400:], rows.words[400:]), whole=True), 400
    )
    assert found is not None
    assert 300 <= found < 650


def test_what_is_the_same_for_all_says_nothing() -> None:
    same = Exams(np.full((60, 2), 7.0), [["x"]] * 60)
    values = compared(same, same)
    assert np.nanmean(values, axis=0) == pytest.approx([0.5, 0.1, 0.1, 0.5])


@settings(max_examples=30, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(20, 80),
    st.integers(0, 90),
    st.integers(0, 4),
    st.floats(0, 1),
    st.booleans(),
)
def test_whatever_comes_each_says_between_nothing_and_all(
    seed: int, reference: int, count: int, width: int, missing: float, whole: bool
) -> None:
    draw = np.random.default_rng(seed)

    def some(many: int) -> Exams:
        numbers = draw.normal(size=(many, width)) * 10.0 ** draw.integers(-12, 12, width)
        numbers[draw.random(numbers.shape) < missing] = np.nan
        return Exams(numbers, [[str(draw.integers(3))] for _ in range(many)])

    values = compared(some(reference), some(count), whole=whole and width > 0)
    assert values.shape == (count, len(STREAMS))
    known = values[~np.isnan(values)]
    assert ((known >= 0) & (known <= 1)).all()
    assert not np.isnan(values[30:]).any()
