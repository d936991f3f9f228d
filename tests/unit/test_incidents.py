"""Incidents: the right clock, a history nobody edits, a notice that names nobody, a list of all that was touched."""

import csv
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, insert, select, update
from typer.testing import CliRunner

from client.doctor import examine
from client.review import readers
from client.store import ledger, suspensions, versions
from client.store.site import Site
from client.store.tables import alarm, delivery, outcome, shadow, study, verdict
from client.vigilance import incidents, lookback, notice
from client.vigilance.deadlines import DAYS, Severity, deadlines
from models.errors import ConfigurationError, Conflict, NotFound
from scripts.site_commands import app

Scored = Callable[..., str]
PARIS = ZoneInfo("Europe/Paris")


def at(text: str, zone: ZoneInfo = PARIS) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


@pytest.mark.parametrize(
    ("severity", "aware", "last"),
    [
        (Severity.SERIOUS, "2026-03-20 23:59", "2026-04-04 23:59:59"),  # clocks change on the 29th
        (Severity.DETERIORATION, "2026-10-20 00:00", "2026-10-30 23:59:59"),  # and back on the 25th
        (Severity.PUBLIC_HEALTH, "2024-02-27 12:00", "2024-02-29 23:59:59"),  # a leap year
    ],
)
def test_the_manufacturers_days_are_counted_from_the_day_of_awareness(
    severity: Severity, aware: str, last: str
) -> None:
    user, manufacturer = deadlines(severity, at(aware), None, PARIS)
    assert manufacturer.at == at(last)
    assert manufacturer.assumed
    assert user.who == "user"
    assert datetime.fromtimestamp(user.at, PARIS).date() == datetime.fromtimestamp(at(aware), PARIS).date()
    told = at("2026-11-30 08:00")
    _, counted = deadlines(severity, at(aware), told, PARIS)
    assert not counted.assumed
    assert datetime.fromtimestamp(counted.at, PARIS).date().toordinal() == (
        datetime.fromtimestamp(told, PARIS).date().toordinal() + DAYS[severity]
    )


@given(st.sampled_from(sorted(DAYS)), st.floats(0, 4e9), st.sampled_from(["Europe/Paris", "Asia/Kathmandu", "UTC"]))
def test_a_deadline_is_never_before_its_days_are_over(severity: Severity, aware: float, name: str) -> None:
    zone = ZoneInfo(name)
    user, manufacturer = deadlines(severity, aware, None, zone)
    days = (manufacturer.at - aware) / 86400
    assert DAYS[severity] - 0.05 <= days <= DAYS[severity] + 1.05  # an hour of summer time either way
    assert 0 <= user.at - aware + 1 <= 90001
    assert deadlines(Severity.NOT_SERIOUS, aware, None, zone) == ()  # nobody has to be told


def test_a_deadline_says_where_it_stands() -> None:
    [_, one] = deadlines(Severity.SERIOUS, at("2026-03-02 10:00"), None, PARIS)
    assert one.state(at("2026-03-03 10:00"), None) == "open"
    assert one.state(at("2026-03-16 10:00"), None) == "soon"
    assert one.state(at("2026-03-18 00:00"), None) == "overdue"
    assert one.state(at("2026-04-01 10:00"), at("2026-03-17 23:00")) == "done"
    assert one.state(at("2026-04-01 10:00"), at("2026-03-18 00:00")) == "done_late"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def served(site: Site) -> versions.HeldVersion:
    found = versions.serving(site, "brightness")
    assert found is not None
    return found


def test_an_incident_is_a_history_and_the_ledger_has_no_word_of_it(site: Site, scored: Scored) -> None:
    uid = scored(accession="A-1", patient_id="Jane")
    secret = "Patient Jane Doe, pneumothorax"
    one = incidents.open_incident(
        site, served(site), "missed", Severity.DETERIORATION, secret, "ada", study_uid=uid, suspend=True
    )
    assert suspensions.standing(site)[one.version.digest].by == "ada"
    assert (one.state, one.pressing, one.accession) == ("open", True, "A-1")
    with pytest.raises(Conflict, match="authority and manufacturer not told"):
        incidents.end(site, one.id, "closed", "done", "ada")
    incidents.tell(site, one.id, "authority", "R-1", "ada")
    incidents.tell(site, one.id, "authority", "R-2", "bob")  # again: a history, and the first counts
    told = incidents.tell(site, one.id, "manufacturer", "M-1", "ada")
    assert not told.pressing
    assert told.told("authority") == told.history[1].at
    assert not told.deadlines[1].assumed
    with pytest.raises(ConfigurationError):
        incidents.end(site, one.id, "closed", "  ", "ada")
    closed = incidents.end(site, one.id, "closed", "number 3 is out", "ada")
    assert closed.state == "closed"
    for late in (lambda: incidents.tell(site, one.id, "authority", "", "x"),
                 lambda: incidents.end(site, one.id, "withdrawn", "none", "x")):  # fmt: skip
        with pytest.raises(Conflict, match="is closed"):
            late()
    entries = list(site.ledger.entries("incident."))
    assert [entry.event for entry in entries] == ["incident.opened", *["incident.told"] * 3, "incident.closed"]
    assert not any("Jane" in entry.facts or "number 3" in entry.facts or uid in entry.facts for entry in entries)
    assert site.ledger.first_break() is None


def test_days_are_those_where_the_hospital_is_and_telling_counts_from_when_it_was_done(
    site: Site, scored: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    try:
        scored()
        site.config.timezone = "Europe/Paris"
        aware = at("2026-03-10 00:30")  # the day before, where the machine is
        one = incidents.open_incident(site, served(site), "missed", Severity.SERIOUS, "", "ada", aware=aware)
        assert [deadline.at for deadline in one.deadlines] == [at("2026-03-10 23:59:59"), at("2026-03-25 23:59:59")]
        told = incidents.tell(site, one.id, "manufacturer", "", "ada", at=at("2026-03-12 09:00"))
        assert told.deadlines[1].at == at("2026-03-27 23:59:59")
        incidents.tell(site, one.id, "authority", "", "ada", at=at("2026-03-10 18:00"))
        assert incidents.find(site, one.id).due(time.time())[0][1] == "done"
        for wrong in (aware - 1, time.time() + 60):
            with pytest.raises(ConfigurationError):
                incidents.tell(site, one.id, "authority", "", "ada", at=wrong)
    finally:
        monkeypatch.undo()
        time.tzset()


def test_the_notice_says_what_is_known_and_names_nobody(site: Site, scored: Scored) -> None:
    uid = scored(accession="A-77", patient_id="Jane^Doe")
    with site.database.write() as connection:
        facts = {"errors": 14, "exams": 60, "tolerated": 0.1, "cause": "population", "because": "age"}
        values = {"version_digest": served(site).digest, "claim": "missed", "since": 0.0, "facts": facts}
        connection.execute(insert(alarm).values(at=time.time(), **values))
    one = incidents.open_incident(
        site, served(site), "missed", Severity.SERIOUS, "not called", "ada", study_uid=uid, number=1
    )
    said = notice.draft(site, one)
    for word in (served(site).digest, "14 of 60 exams", "likely cause: population", "not called", "nobody yet"):
        assert word in said
    for word in ("Jane", "A-77", uid):
        assert word not in said


def test_what_cannot_be_is_refused(site: Site, scored: Scored) -> None:
    scored()
    held = served(site)
    for wrong, error in (
        ({"kind": "odd"}, ConfigurationError),
        ({"study_uid": "1.2.3"}, NotFound),
        ({"number": 9}, NotFound),
        ({"aware": time.time() + 60}, ConfigurationError),
    ):
        words = {"kind": "missed", **wrong}
        kind = str(words.pop("kind"))
        with pytest.raises(error):
            incidents.open_incident(site, held, kind, Severity.SERIOUS, "", "ada", **words)  # pyright: ignore
    assert incidents.listed(site) == []
    with pytest.raises(NotFound):
        incidents.find(site, 1)
    with pytest.raises(NotFound):
        incidents.tell(site, 1, "authority", "", "ada")


def test_the_commands_and_the_doctor_say_who_has_to_be_told(site: Site, scored: Scored) -> None:
    uid = scored(accession="A-1")

    def run(*words: str, status: int = 0) -> str:
        said = CliRunner().invoke(app, ["incident", *words, "--folder", str(site.folder)], env={"COLUMNS": "250"})
        assert said.exit_code == status, said.output
        return said.output

    opened = ("open", "brightness@1", "--kind", "missed", "--study", uid, "--aware", "2026-01-05", "--text", "x")
    assert "by the end of 2026-01-20" in run(*opened, "--by", "ada")
    assert "overdue" in run("list", status=1)
    check = next(check for check in examine(site) if check.name == "incidents")
    assert not check.ok
    run("tell", "1", "--to", "authority", "--reference", "R-7")
    run("tell", "1", "--to", "manufacturer")
    assert "R-7" in run("show", "1")
    run("close", "1", "--text", "done")
    assert "closed" in run("list")
    run(*opened)
    run("withdraw", "2", "--text", "was called after all")
    assert next(check for check in examine(site) if check.name == "incidents").ok


def test_a_look_back_has_everything_the_version_touched_and_says_so(site: Site, scored: Scored, tmp_path: Path) -> None:
    readers.add(site, "ada", "clinician")
    digest = served(site).digest
    twice = scored(patient_id="P1", accession="=cmd()", objects=True)
    scored(uid=twice, revision=2, patient_id="P1")
    signed, other = scored(patient_id="P1"), scored(patient_id="P2", score=0.1)
    with site.database.write() as connection:
        key = connection.execute(select(outcome.c.id).where(outcome.c.study_uid == signed)).scalar()
        said = {"decision": "agree", "answer": "positive", "tier": "ai_visible", "mode": "ai_first"}
        connection.execute(
            insert(verdict).values(study_uid=signed, outcome_id=key, reader="ada", created_at=time.time(), **said)
        )
        connection.execute(update(delivery).values(state="sent"))
        for row in connection.execute(select(outcome)).all():  # the node's own conclusions write it with the outcome
            ledger.append(connection, "outcome.scored", {"version": digest, "study": "k", "revision": row.revision})
    found = lookback.export(site, digest, tmp_path / "all.csv")
    assert (found.rows, found.studies, found.patients, found.complete) == (4, 3, 2, True)
    rows = read(tmp_path / "all.csv")
    assert [row["patient"] for row in rows] == ["P1", "P1", "P1", "P2"]
    assert [row["study"] for row in rows] == [twice, twice, signed, other]
    assert [row["replaced"] for row in rows] == ["yes", "no", "no", "no"]
    assert rows[0]["accession"] == "'=cmd()"
    assert (rows[0]["sent_to_pacs"], rows[2]["answered_by_readers"], rows[3]["said"]) == ("yes", "yes", "negative")
    with pytest.raises(ConfigurationError, match="there already"):
        lookback.export(site, digest, tmp_path / "all.csv")
    nothing = lookback.export(site, "0" * 64, tmp_path / "none.csv")
    assert (nothing.rows, nothing.patients, nothing.complete) == (0, 0, True)

    with site.database.write() as connection:  # read in shadow by another version, then a row is lost
        key = connection.execute(select(outcome.c.id).where(outcome.c.study_uid == other)).scalar()
        values = {"kind": "scored", "reasons": [], "score": 0.7, "threshold": 0.5, "positive": True, "created_at": 1.0}
        connection.execute(insert(shadow).values(outcome_id=key, version_digest=digest, **values))
        connection.execute(delete(verdict))
        connection.execute(delete(outcome).where(outcome.c.study_uid == signed))
        connection.execute(delete(study).where(study.c.uid == signed))
    said = CliRunner().invoke(
        app,
        ["incident", "lookback", "brightness@1", "--folder", str(site.folder), "--export", str(tmp_path / "lost.csv")],
    )
    assert said.exit_code == 1
    assert "NOT COMPLETE: the ledger has 4 conclusions of brightness@1, the list 3" in said.output
    assert [row["how"] for row in read(tmp_path / "lost.csv")].count("shadow") == 1
    part = lookback.export(site, digest, tmp_path / "shadow.csv", since=0.5, until=2.0)  # when it was read in shadow
    assert (part.rows, [row["how"] for row in read(tmp_path / "shadow.csv")]) == (1, ["shadow"])
    part = lookback.export(site, digest, tmp_path / "part.csv", since=time.time() + 60)
    assert (part.rows, part.in_ledger) == (0, None)
