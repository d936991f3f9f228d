"""The alarm over all hospitals together: from counts that show no single exam, and no more often false than is said."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.exchange import Figures, Lines
from models.stats.detector import YEAR, Bet, follow, follow_blocks
from models.stats.release import Column, Line, Tier
from server import pooled, statistics
from server.journal import Journal
from server.statistics import Told, Version

BEGAN = 1_700_000_000.0
MONTH = YEAR / 12


def release(missed: int | None, called: int | None, tier: Tier = "single_reader") -> tuple[Line, ...]:
    """One block: patients with the finding and without it, and how many of each were answered wrongly."""
    few = ["wrong" if wrong is None else "" for wrong in (missed, called)]
    return (
        Line(Column("random", tier, 100, "with"), "all", 60, missed, few[0]),  # pyright: ignore
        Line(Column("random", tier, 100, "without"), "all", 60, called, few[1]),  # pyright: ignore
    )


def told(
    months: int, missed: int | None, called: int | None, sites: int = 4, tier: Tier = "single_reader"
) -> list[Told]:
    return [
        Told(f"site-{site}", month, 202601, BEGAN + (month + site / 10) * MONTH, release(missed, called, tier=tier))
        for month in range(1, months + 1)
        for site in range(sites)
    ]


def test_it_rings_where_all_hospitals_are_a_little_worse_than_is_tolerated() -> None:
    worse = pooled.pooled(told(6, 20, 12), BEGAN)  # a third missed, where a fifth is tolerated
    assert "misses more" in worse.text or "errs more" in worse.text
    assert "over 4 hospitals: missed at least 480 of 1440" in worse.text
    assert pooled.pooled(told(12, 12, 12), BEGAN).text == ""


def test_what_is_kept_back_counts_as_little_as_it_can() -> None:
    kept = pooled.pooled(told(6, None, None), BEGAN)
    assert set(kept.errors.values()) == {0}
    assert kept.text == ""


def test_an_opinion_with_the_answer_in_view_is_no_truth_to_ring_by() -> None:
    assert pooled.pooled(told(6, 30, 30, tier="ai_visible"), BEGAN).releases == 0
    second = [Line(Column("discordant", "biopsy", 100, "with"), "all", 60, 40)]
    assert pooled.pooled([Told("a", 1, 202601, BEGAN + 1, tuple(second))], BEGAN).releases == 0
    assert pooled.pooled([], BEGAN).text == ""


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_blocks_are_worth_what_their_exams_are_worth(exams: list[tuple[bool, bool]]) -> None:
    """In whatever order the exams of a block were, with the stake of the block before the first of them."""
    rates = {"missed": 0.2, "false": 0.1}
    bets = [Bet(("missed", "false"), 0.5), Bet(("missed",), 0.25), Bet(("false",), 0.25)]
    values = np.array(
        [[float(wrong) if truth else np.nan, np.nan if truth else float(wrong)] for truth, wrong in exams]
    )
    due = np.zeros(len(exams))
    due[0] = 0.3
    one_by_one = follow(rates, bets, values, due).evidence[-1]
    errors, count = np.nansum(values, axis=0, keepdims=True), (~np.isnan(values)).sum(0, keepdims=True).astype(float)
    together = follow_blocks(rates, bets, errors, count, due[:1]).evidence[-1]
    assert together == pytest.approx(one_by_one, rel=1e-6)


def test_false_alarms_keep_to_what_is_said() -> None:
    """At exactly what is tolerated, over many simulated coordinators."""
    draw = np.random.default_rng(1)
    years, rung = 400, 0
    for _ in range(years // 4):
        found = [
            Told(
                one.site,
                one.number,
                one.period,
                one.at,
                release(int(draw.binomial(60, 0.2)), int(draw.binomial(60, 0.2))),
            )
            for one in told(48, 0, 0)
        ]
        rung += bool(pooled.pooled(found, BEGAN).text)
    assert rung <= 0.1 * years


def test_more_errors_than_exams_and_shapes_that_do_not_fit_are_refused() -> None:
    one, bets = np.ones((1, 1)), [Bet(("missed",), 1.0)]
    for errors, exams in ((2 * one, one), (one, -one), (np.ones((2, 1)), one)):
        with pytest.raises(ValueError, match=r"exams|count"):
            follow_blocks({"missed": 0.2}, bets, errors, exams, np.ones(1))


def test_an_alarm_is_written_down_once_and_stays(tmp_path: Path) -> None:
    version = Version("c" * 64, "chest", 2)
    Journal(statistics.place(tmp_path, version.digest)).write("version", {"name": "chest", "number": 2})
    assert abs(statistics.begun(tmp_path, version.digest) - time.time()) < 60
    assert pooled.advance(tmp_path, [version]) == []
    for number in range(1, 9):
        lines = Lines.of(list(release(40, 40)))
        statistics.keep(
            tmp_path, version.digest, "nih", Figures(digest=version.digest, number=number, period=202601, told=lines)
        )
    [(which, one)] = pooled.advance(tmp_path, [version])
    assert (which, one.releases) == (version, 8)
    assert pooled.advance(tmp_path, [version]) == []
    [(_, text)] = pooled.raised(tmp_path, version.digest)
    assert "over 1 hospitals" in text
