"""What is known of all exams from those that were read again: near the truth, and honest where too little is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.stats.verification import CELLS, Cell, Cells, foreseen, predictive, sensitivity, specificity


def hospital(draw: np.random.Generator, exams: int, double_negative: float = 0.15) -> Cells:
    """One exam in five shows the finding; the AI finds 80 % of them, the reader 75 %, and both call one in ten more."""
    truth = draw.random(exams) < 0.2
    called, read = (draw.random(exams) < np.where(truth, found, 0.1) for found in (0.8, 0.75))
    chance = np.where(called != read, 1.0, np.where(called, 0.5, double_negative))
    known = draw.random(exams) < chance
    found: dict[tuple[str, str], Cell] = {}
    for which in CELLS:
        here = (called == (which[0] == "positive")) & (read == (which[1] == "positive"))
        found[which] = Cell(int(here.sum()), int((here & known).sum()), int((here & known & truth).sum()))
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("exams", [300, 2000])
def test_the_truth_is_within_what_is_said(exams: int) -> None:
    draw = np.random.default_rng(3)
    held = dict.fromkeys(("sensitivity", "specificity", "positive", "negative"), 0)
    truth = {"sensitivity": 0.8, "specificity": 0.9, "positive": 0.16 / 0.24, "negative": 0.72 / 0.76}
    runs = 200
    for _ in range(runs):
        cells = hospital(draw, exams)
        said = {
            "sensitivity": sensitivity(cells),
            "specificity": specificity(cells),
            "positive": predictive(cells, "positive"),
            "negative": predictive(cells, "negative"),
        }
        for name, share in said.items():
            held[name] += share.basis == "insufficient" or share.low <= truth[name] <= share.high
    assert min(held.values()) >= 0.92 * runs  # 0.95 less twice what 200 runs may be off


def test_who_looks_at_the_discordant_alone_knows_nothing_of_all() -> None:
    cells = {**hospital(np.random.default_rng(4), 1000, double_negative=0.0)}
    assert sensitivity(cells).basis == "insufficient"
    assert np.isnan(sensitivity(cells).value)


def test_to_count_only_what_was_read_again_would_mislead() -> None:
    cells = hospital(np.random.default_rng(5), 20_000)
    called = sum(cells[which].positive for which in CELLS if which[0] == "positive")
    missed = sum(cells[which].positive for which in CELLS if which[0] == "negative")
    assert called / (called + missed) < 0.78
    assert sensitivity(cells).value == pytest.approx(0.8, abs=0.02)


def test_few_misses_give_a_bound_and_all_known_an_interval() -> None:
    few = {**hospital(np.random.default_rng(6), 300), ("negative", "negative"): Cell(200, 30, 1)}
    found = sensitivity(few)
    assert (found.basis, found.high) == ("bound", 1.0)
    assert found.low < found.value
    whole = {which: Cell(cell.exams, cell.exams, min(cell.exams, 2)) for which, cell in few.items()}
    assert sensitivity(whole).basis == "interval"


counts = st.integers(0, 400).flatmap(
    lambda exams: st.integers(0, exams).flatmap(
        lambda known: st.builds(Cell, st.just(exams), st.just(known), st.integers(0, known))
    )
)


@given(st.fixed_dictionaries(dict.fromkeys(CELLS, counts)))
def test_whatever_the_counts_the_interval_holds_the_value(cells: Cells) -> None:
    for share in (sensitivity(cells), specificity(cells), predictive(cells, "positive"), predictive(cells, "negative")):
        assert 0 <= share.low <= share.high <= 1
        if share.basis != "insufficient":
            assert share.low - 1e-9 <= share.value <= share.high + 1e-9


def test_more_reads_are_foreseen_to_tell_more() -> None:
    cells = hospital(np.random.default_rng(7), 3000, double_negative=0.3)
    lows = []
    for share in (0.05, 0.3, 1.0):
        planned = foreseen(cells, 2000, {("negative", "negative"): share})
        assert sum(cell.exams for cell in planned.values()) == pytest.approx(2000, abs=3)
        lows.append(sensitivity(planned).low)
    assert lows == sorted(lows)


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="exams"):
        Cell(3, 4, 0)
