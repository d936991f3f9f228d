"""Fire drills: how soon a hospital would be warned, without a trace in what the watch rests on."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from sqlalchemy import func, insert, select, update
from typer.testing import CliRunner

from client.dicom import decode
from client.inference.panel import load
from client.inference.serving import Scoring
from client.inference.traits import traits_of
from client.store import versions
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import drill, outcome, trait, verdict
from client.vigilance import drift, drills
from client.vigilance.causes import Cause
from configs.schema import save
from models.errors import Conflict
from scripts.site_commands import app

Scored = Callable[..., str]
DAY = 86400.0
REFERENCE = 200


@pytest.fixture
def busy(site: Site, scored: Scored, radiograph: Callable[..., Dataset]) -> Site:
    """A hospital that has read some more studies than later ones are compared with, one a day."""
    site.config.watch.reference = REFERENCE
    save(site.config, site.folder / "site.yaml")
    draw, archive = np.random.default_rng(1), Archive(site.archive)
    began = time.time() - (REFERENCE + 50) * DAY
    for number in range(REFERENCE + 50):
        score = float(draw.uniform(0.2, 0.8))
        uid = scored(score=score)
        with site.database.write() as connection:
            row = connection.execute(select(outcome).where(outcome.c.study_uid == uid)).one()
            path = archive.path(row.input_digest)
            picture = decode.read(path)
            seen = traits_of(picture.header, picture.pixels, score)
            look = None if seen.look is None else seen.look.astype("<f2").tobytes()
            values: dict[str, Any] = {"words": seen.words, "numbers": seen.numbers, "look": look}
            connection.execute(insert(trait).values(outcome_id=row.id, **values))
            at = {"created_at": began + number * DAY}
            connection.execute(update(outcome).where(outcome.c.id == row.id).values(**at))
    return site


def serving(site: Site) -> Scoring:
    held = versions.serving(site, "brightness")
    assert held is not None
    found = load(site, held.digest)
    assert isinstance(found, Scoring)
    return found


def rows(site: Site) -> dict[str, int]:
    with site.database.read() as connection:
        return {
            table.name: int(connection.execute(select(func.count()).select_from(table)).scalar_one())
            for table in (outcome, trait, verdict, drill)
        }


def test_a_drill_says_how_soon_it_would_be_warned_and_leaves_nothing_but_that(busy: Site) -> None:
    before = rows(busy)
    found = drills.run(busy, serving(busy), drills.SCENARIOS["scanner"], 1.0, "ada")
    assert found.studies is not None
    assert found.studies < 60
    assert found.days == pytest.approx(found.studies, rel=0.1)  # one a day is the pace here
    assert (found.cause, found.named) == (Cause.TECHNIQUE, True)
    assert any("Drill in" in text for text in found.differences)
    assert rows(busy) == before | {"drill": 1}
    assert drills.listed(busy) == [found]
    assert drift.advance(busy) == []
    assert [entry.event for entry in busy.ledger.entries()].count("drill.run") == 1


def test_a_drill_on_older_patients_by_command(busy: Site) -> None:
    said = CliRunner().invoke(
        app,
        ["watch", "drill", "age", "--folder", str(busy.folder), "--share", "1", "--by", "ada"],
        env={"COLUMNS": "200"},
    )
    assert said.exit_code == 0, said.output
    assert "DRILL brightness: patients 25 years older, in 100% of the studies; warned after" in said.output
    assert "named: population" in said.output
    again = CliRunner().invoke(app, ["watch", "drill", "--folder", str(busy.folder)])
    assert "patients 25 years older" in again.output


def test_what_nobody_would_notice_is_said(busy: Site) -> None:
    found = drills.run(busy, serving(busy), drills.SCENARIOS["age"], 0.01, "ada")
    assert found.studies is None
    assert "no warning within" in found.outcome


def test_a_drill_needs_studies_to_compare_with(site: Site, scored: Scored) -> None:
    scored()
    with pytest.raises(Conflict, match="more than 600 studies"):
        drills.run(site, serving(site), drills.SCENARIOS["scanner"], 0.5, "ada")
    said = CliRunner().invoke(app, ["watch", "drill", "fire", "--folder", str(site.folder)])
    assert said.exit_code != 0


@pytest.mark.parametrize("scenario", drills.SCENARIOS.values(), ids=lambda one: one.name)
def test_a_scenario_takes_any_picture_and_header(scenario: drills.Scenario) -> None:
    draw = np.random.default_rng(0)
    for shape in ((1, 1), (3, 500), (64, 64)):
        for pixels in (np.zeros(shape, np.float32), draw.normal(0, 1e4, shape).astype(np.float32)):
            header, kept = Dataset(), pixels.copy()
            scenario.header(header)
            made = scenario.pixels(pixels, draw)
            assert (made.shape, made.dtype) == (shape, np.float32)
            assert np.isfinite(made).all()
            assert np.array_equal(pixels, kept)
