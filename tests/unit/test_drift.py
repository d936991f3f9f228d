"""Warnings that studies have changed, at a hospital: once each, named when it can be, and anew from what is usual."""

import io
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from sqlalchemy import insert, select, update
from typer.testing import CliRunner

from client.inference import observed
from client.inference.panel import Panel
from client.inference.pipeline import Pipeline, Refused
from client.inference.study import Image, Study
from client.inference.tensors import Tensors
from client.inference.traits import SIZE
from client.review import readers
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import outcome, study, trait, verdict
from client.vigilance import drift, harm
from client.vigilance.causes import Cause
from configs.schema import WatchConfig, save
from models.errors import ConfigurationError, NotFound
from scripts.site_commands import app

Scored = Callable[..., str]
Come = Callable[..., list[str]]
DAY = 86400.0
BEGAN = time.time() - 300 * DAY
REFERENCE = 200


@pytest.fixture
def come(site: Site, scored: Scored) -> Come:
    """Studies, a quarter of a day after each other: `come(30, maker="b")`; each of another patient."""
    site.config.watch.reference = REFERENCE
    draw, number = np.random.default_rng(1), count(1)
    first = scored(score=0.5)

    def put(many: int, maker: str = "a", patient: str = "", mark: float = 0.0) -> list[str]:
        uids = [f"1.2.3.{next(number)}" for _ in range(many)]
        with site.database.write() as connection:
            one = connection.execute(select(outcome).where(outcome.c.study_uid == first)).mappings().one()
            whose = connection.execute(select(study).where(study.c.uid == first)).mappings().one()
            key = connection.execute(select(study.c.patient_key).where(study.c.uid == first)).scalar()
            for uid in uids:
                at = BEGAN + 0.25 * DAY * int(uid.rsplit(".", 1)[1])
                person = key if patient else site.patient_key(uid, "")
                if not patient:
                    _patient(connection, site, uid)
                connection.execute(insert(study).values({**whose, "uid": uid, "patient_key": person}))
                values = {**one, "study_uid": uid, "created_at": at}
                del values["id"]
                made = connection.execute(insert(outcome).values(values)).inserted_primary_key
                assert made is not None
                numbers = {
                    "age": float(draw.normal(50, 12)),
                    "score": float(draw.random()),
                    "noise": float(draw.normal()),
                }
                look = (draw.normal(size=SIZE) + mark * np.sign(np.sin(np.arange(SIZE)))).astype("<f2").tobytes()
                row = {"words": {"maker": maker}, "numbers": numbers, "look": look}
                connection.execute(insert(trait).values(outcome_id=made[0], **row))
        return uids

    with site.database.write() as connection:  # itself, it has no traits
        connection.execute(update(outcome).where(outcome.c.study_uid == first).values(created_at=BEGAN))
    return put


def _patient(connection: object, site: Site, name: str) -> None:
    from sqlalchemy import Connection

    from client.store.tables import patient

    assert isinstance(connection, Connection)
    values = {"key": site.patient_key(name, ""), "patient_id": name, "issuer": "", "first_seen": BEGAN}
    connection.execute(insert(patient).values(fold=site.fold(name, ""), **values))


def know(site: Site, uid: str, *, positive: bool) -> None:
    with site.database.write() as connection:
        number = connection.execute(select(outcome.c.id).where(outcome.c.study_uid == uid)).scalar()
        answer = "positive" if positive else "negative"
        said = {"decision": "agree", "answer": answer, "tier": "single_reader", "mode": "doctor_first"}
        values = {"study_uid": uid, "outcome_id": number, "reader": "ada", "created_at": time.time(), **said}
        connection.execute(insert(verdict).values(**values))


def command(site: Site, *words: str, status: int = 0) -> str:
    said = CliRunner().invoke(app, ["watch", "drift", "--folder", str(site.folder), *words], env={"COLUMNS": "300"})
    assert said.exit_code == status, said.output
    return said.output


def test_a_new_machine_is_warned_of_once_and_named(site: Site, come: Come) -> None:
    come(REFERENCE + 60)
    assert drift.advance(site) == []
    [one] = drift.look(site)
    assert (one.reference, one.studies, one.cause) == (REFERENCE, 60, None)
    come(30, maker="b")
    [warning] = drift.advance(site)
    assert drift.advance(site) == []
    assert warning.cause is Cause.TECHNIQUE
    assert warning.name == "brightness"
    assert "manufacturer: b in" in warning.text
    assert abs(warning.change_at - (BEGAN + 0.25 * DAY * (REFERENCE + 61))) < 5 * DAY
    events = [entry.event for entry in site.ledger.entries()]
    assert events.count("drift.warned") == 1
    assert harm.advance(site) == []  # a warning stops nothing


def test_a_cause_that_needs_truths_is_named_once_they_are_known(site: Site, come: Come) -> None:
    readers.add(site, "ada", "clinician")
    before = come(REFERENCE + 60)
    after = come(90, mark=2.0)  # in the pictures alone
    [warning] = drift.advance(site)
    assert warning.cause is Cause.UNKNOWN
    assert "cause not known (yet)" in warning.text
    for number, uid in enumerate((*before[:80], *after[:80])):
        know(site, uid, positive=number % 2 == 0)
    [named] = drift.advance(site)
    assert (named.id, named.cause) == (warning.id, Cause.DISEASE)  # with the finding or without it, all are different
    assert drift.advance(site) == []
    assert [entry.event for entry in site.ledger.entries()].count("drift.named") == 1


def test_what_a_person_calls_usual_is_what_comes_is_compared_with(site: Site, come: Come) -> None:
    come(REFERENCE + 60)
    come(30, maker="b")
    [warning] = drift.advance(site)
    drift.see(site, warning.id, "ada", usual=False)
    assert drift.warnings(site, unseen=True) == []
    assert drift.look(site)[0].studies == 90  # it stays changed
    drift.see(site, warning.id, "ada", usual=True)
    drift.see(site, warning.id, "bob", usual=True)  # twice is once
    assert drift.warnings(site)[0].seen_by == "ada"
    [one] = drift.look(site)
    assert (one.studies, one.monitored) == (0, None)
    assert one.reference == pytest.approx(30, abs=20)
    come(REFERENCE, maker="b")
    assert drift.advance(site) == []
    come(30, maker="a")  # the old machine is the unusual one now
    assert drift.advance(site)[0].cause is Cause.TECHNIQUE
    with pytest.raises(NotFound, match="no warning 99"):
        drift.see(site, 99, "ada", usual=False)


def test_a_patient_counts_once_and_nothing_is_compared_with_too_few(site: Site, come: Come) -> None:
    come(1, patient="same")
    come(40, maker="b", patient="same")
    come(REFERENCE)
    assert [one.reference for one in drift.look(site)] == [REFERENCE]
    assert drift.advance(site) == []
    site.config.watch.reference = 0
    assert drift.look(site) == []


def test_the_command_shows_notes_and_says_by_its_exit_that_one_waits(site: Site, come: Come) -> None:
    save(site.config, site.folder / "site.yaml")
    assert "of 200 that others will be compared with" in command(site)
    come(REFERENCE + 60)
    come(30, maker="b")
    said = command(site, status=1)
    assert "likely cause: acquisition technique" in said
    assert "NOT NOTED" in said
    assert "compared with the studies since the change" in command(site, "--note", "1", "--usual", "--by", "ada")
    assert "noted by ada, usual now" in command(site)


def test_an_alarm_says_what_has_changed_or_who_is_unlike_the_training_cohort(site: Site, come: Come) -> None:
    from client.store import versions
    from client.vigilance.explained import explained

    held = versions.serving(site, "brightness")
    assert held is not None
    assert explained(site, held).cause is Cause.UNKNOWN
    come(REFERENCE + 60)
    come(30, maker="b")
    drift.advance(site)
    found = explained(site, held)
    assert (found.cause, found.because.split(":")[0]) == (Cause.TECHNIQUE, "manufacturer")


def test_what_was_refused_as_unlike_anything_is_seen_too(
    site: Site, scored: Scored, radiograph: Callable[..., Dataset]
) -> None:
    """A feed of inverted images is refused; without their traits nobody could say why."""

    class Strict:
        limit = 1.0

        def distance(self, tensor: object) -> float:
            return 2.0

    uid = scored()
    strict: Any = Strict()
    panel = [replace(one, novelty=strict) for one in Panel(site).members()]
    archive = Archive(site.archive)
    image, file = radiograph(), io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    one = Image(image.SOPInstanceUID, image.SOPClassUID, archive.store(file.getvalue()), image.SeriesInstanceUID, 1)
    taken = Study(uid, 1, 1, 0.0, (one,))
    result = Pipeline(archive, Tensors(site.tensors, archive), lambda: panel, "here").process(taken)
    assert isinstance(result, Refused)
    observed.keep(site, taken, result)
    observed.keep(site, taken, result)  # twice is once
    with site.database.read() as connection:
        [row] = connection.execute(select(trait))
    kept = observed.of_row(row)
    assert kept.words["view"] == image.ViewPosition
    assert "score" not in kept.numbers
    assert kept.look is not None


@pytest.mark.parametrize("values", [{"reference": 50}, {"reference": -1}, {"false_warnings": 0.0}])
def test_settings_that_cannot_work_are_refused(values: dict[str, float]) -> None:

    with pytest.raises(ConfigurationError):
        WatchConfig(**values)  # pyright: ignore[reportArgumentType]
