"""The dashboard's figures: those of the database, by month, and none where too little is known."""

import math
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select, update
from typer.testing import CliRunner

from client.review import charts, dashboard, monthly, readers
from client.store.site import Site
from client.store.tables import delivery, outcome, study, verdict, version
from models.errors import ConfigurationError
from models.stats.intervals import UNKNOWN, proportion
from models.stats.reliability import FEWEST, calibration_error, reliability
from scripts.site_commands import app

Scored = Callable[..., str]
NOW = time.mktime(time.strptime("2026-11-20 12:00", "%Y-%m-%d %H:%M"))
DAY = 86400.0


def put(site: Site, uid: str, at: float, answer: str, seconds: float) -> None:
    with site.database.write() as connection:
        row = connection.execute(select(outcome).where(outcome.c.study_uid == uid)).one()
        said = (row.confidence or {}) | {"probability": row.score}
        connection.execute(update(outcome).where(outcome.c.id == row.id).values(created_at=at, confidence=said))
        connection.execute(update(study).where(study.c.uid == uid).values(touched_at=at))
        connection.execute(
            update(delivery).where(delivery.c.outcome_id == row.id).values(state="sent", sent_at=at + seconds)
        )
        decision = "agree" if (answer == "positive") is bool(row.positive) else "correct"
        values = {"decision": decision, "answer": answer, "tier": "single_reader", "mode": "doctor_first"}
        connection.execute(
            insert(verdict).values(
                study_uid=uid, outcome_id=row.id, reader="ada", created_at=at + 2 * 3600 + seconds, **values
            )
        )


@pytest.fixture
def read(site: Site, scored: Scored) -> Site:
    """Four exams of the random sample in October, one of them missed; two in November."""
    readers.add(site, "ada", "clinician")
    names = (name for number in range(1000) if site.fold(name := f"P{number}") != "train")
    with site.database.write() as connection:
        connection.execute(update(version).values(adopted_at=NOW - 60 * DAY))
    for number, (score, answer) in enumerate(
        [
            (0.9, "positive"),
            (0.8, "positive"),
            (0.2, "positive"),
            (0.1, "negative"),
            (0.9, "negative"),
            (0.1, "negative"),
        ]
    ):
        uid = scored(score=score, patient_id=next(names), objects=True)
        put(site, uid, NOW - (40 if number < 4 else 3) * DAY, answer, 10.0 + number)
    return site


def test_each_month_has_its_figures(read: Site) -> None:
    board = dashboard.board(read, NOW)
    assert [month.name for month in board.months][-3:] == ["2026-09", "2026-10", "2026-11"]
    assert len(board.months) == 12
    october, november = board.months[-2:]
    assert (october.volumes["scored"], november.volumes["scored"], board.studies_a_year) == (4, 2, 6)
    assert october.missed == proportion(1, 3)
    assert november.called == proportion(1, 2)
    assert math.isnan(november.missed.value)
    assert (october.agreed, october.answers) == (proportion(3, 4), 4)
    assert october.half == pytest.approx(11.5)
    assert board.reading == {True: pytest.approx(2.0, abs=0.01), False: pytest.approx(2.0, abs=0.01)}
    [one] = board.versions
    assert (one.exams, one.bins) == (6, ())
    assert one.area.value == pytest.approx(6.5 / 9)
    assert one.error == UNKNOWN or math.isnan(one.error.value)
    [(place, label)] = board.changes
    assert label == "brightness@1"
    assert 9 < place < 10  # in September, the tenth of twelve
    assert board.cost is None
    read.config.value.cost_a_year = 1200.0
    assert dashboard.board(read, NOW).cost == 200.0


def test_a_hospital_that_has_read_nothing_has_a_dashboard(site: Site) -> None:
    board = dashboard.board(site, NOW)
    assert board.studies_a_year == 0
    for plot in (made := charts.plots(board)).volumes, made.turns, made.missed, made.agreed:
        ET.fromstring(plot)
        assert "aria-label" in plot


def test_plots_are_whole_pictures(read: Site) -> None:
    made = charts.plots(dashboard.board(read, NOW))
    root = ET.fromstring(made.missed)
    assert sum(one.tag.endswith("circle") for one in root.iter()) == 1  # one month in which findings were known
    assert "brightness@1" in made.missed


@given(st.integers(FEWEST, 400), st.integers(0, 1000), st.floats(-0.3, 0.3))
def test_the_calibration_error_is_what_was_said_off_by(count: int, seed: int, off: float) -> None:
    draw = np.random.default_rng(seed)
    truth = draw.uniform(0.3, 0.7, count)
    positive = draw.random(count) < truth
    said = np.clip(truth + off, 0, 1)
    found = calibration_error(said, positive)
    assert 0 <= found.low <= found.value <= found.high <= 1
    bins = reliability(said, positive)
    assert sum(one.cases for one in bins) == count
    assert [one.said for one in bins] == sorted(one.said for one in bins)


def test_too_few_cases_have_no_calibration_error() -> None:
    few = np.full(FEWEST - 1, 0.5)
    assert math.isnan(calibration_error(few, few > 0).value)
    assert reliability(few, few > 0) == ()


def test_the_monthly_report_is_a_pdf_of_a_month_that_has_ended(read: Site, tmp_path: Path) -> None:
    out = tmp_path / "october.pdf"
    words = ["report", "--folder", str(read.folder), "--month", "2026-10", "--out", str(out)]
    said = CliRunner().invoke(app, words)
    assert said.exit_code == 0, said.output
    assert out.read_bytes().startswith(b"%PDF")
    assert CliRunner().invoke(app, words).exit_code != 0  # it replaces no file
    for month in ("2026-13", "October", time.strftime("%Y-%m")):
        with pytest.raises(ConfigurationError):
            monthly.pdf(read, month)
