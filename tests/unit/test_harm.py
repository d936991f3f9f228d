"""The harm alarm at a hospital: what it rests on, that it rings once, and what it does to the version."""

import time
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select, update
from typer.testing import CliRunner

from client.doctor import Check, examine
from client.review import readers
from client.review.verdict import TruthTier
from client.store import suspensions, versions
from client.store.site import Site
from client.store.tables import outcome, verdict, version
from client.store.versions import Why
from client.vigilance import exams, harm
from client.vigilance.drawing import picture
from client.vigilance.exams import Exam
from configs.schema import WatchConfig
from models.errors import ConfigurationError, Conflict, NotFound
from models.exchange import Evidence
from models.stats.detector import follow
from scripts.site_commands import app

Scored = Callable[..., str]
Read = Callable[..., list[str]]
DAY = 86400.0
BEGAN = time.time() - 400 * DAY


@pytest.fixture
def watched(site: Site) -> Site:
    """A hospital whose version has served for more than a year."""
    readers.add(site, "ada", "clinician")
    with site.database.write() as connection:
        connection.execute(update(version).values(adopted_at=BEGAN))
    return site


@pytest.fixture
def read(watched: Site, scored: Scored) -> Read:
    """Exams, a day after the other: `read([(called, truth), …], tier=…, fold=…)`; a truth of None is not known."""
    names, days = (f"P{number}" for number in count()), count(1)

    def put(
        answers: Sequence[tuple[bool, bool | None]], tier: str = "single_reader", fold: str = "gate", patient: str = ""
    ) -> list[str]:
        found: list[str] = []
        for called, truth in answers:
            name = patient or next(name for name in names if watched.fold(name) == fold)
            uid = scored(score=0.9 if called else 0.1, patient_id=name)
            found.append(uid)
            with watched.database.write() as connection:
                values = {"created_at": BEGAN + next(days) * DAY}
                connection.execute(update(outcome).where(outcome.c.study_uid == uid).values(**values))
            if truth is not None:
                know(watched, uid, called, truth, tier)
        return found

    return put


def know(site: Site, uid: str, called: bool, truth: bool | None, tier: str = "single_reader") -> None:
    answer = "not_assessable" if truth is None else "positive" if truth else "negative"
    decision = "reject" if truth is None else "agree" if called is truth else "correct"
    with site.database.write() as connection:
        number = connection.execute(select(outcome.c.id).where(outcome.c.study_uid == uid)).scalar()
        connection.execute(
            insert(verdict).values(
                study_uid=uid,
                outcome_id=number,
                reader="ada",
                decision=decision,
                answer=answer,
                tier=tier,
                mode="doctor_first",
                created_at=time.time(),
            )
        )


RIGHT = [(True, True), (False, False)]
WRONG = [(True, False), (False, True)]


def served(site: Site) -> versions.HeldVersion:
    found = versions.serving(site, "brightness")
    assert found is not None
    return found


def test_the_alarm_rings_once_suspends_and_stands_in_the_ledger(watched: Site, read: Read) -> None:
    read(RIGHT * 20)
    assert harm.advance(watched) == []
    read(WRONG * 8)
    [alarm] = harm.advance(watched)
    assert harm.advance(watched) == []  # it is the same one
    assert (alarm.version.digest, alarm.seen_at) == (served(watched).digest, None)
    assert alarm.facts["errors"] in (8, 16)
    assert alarm.version.label in alarm.text
    assert "tolerated" in alarm.text
    stop = suspensions.standing(watched)[served(watched).digest]
    assert (stop.cause, stop.reason, stop.by) == ("alarm", alarm.claim, "")
    events = [entry.event for entry in watched.ledger.entries()]
    assert (events.count("alarm.raised"), events.count("version.suspended")) == (1, 1)
    assert watched.ledger.first_break() is None


def test_a_version_that_is_as_good_as_is_tolerated_goes_on(watched: Site, read: Read) -> None:
    read((RIGHT * 9 + WRONG) * 4)
    assert harm.advance(watched) == []
    [one] = harm.look(watched)
    assert one.alarming is None
    assert {rate.name: (rate.errors, rate.exams) for rate in one.rates} == {
        "error": (8, 80), "missed": (4, 40), "false_positive": (4, 40),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("right", "wrong", "claim"),
    [((False, False), (False, True), "missed"), ((True, True), (True, False), "false_positive")],
)
def test_what_errors_are_rare_among_all_is_found_among_its_own(
    watched: Site, read: Read, right: tuple[bool, bool], wrong: tuple[bool, bool], claim: str
) -> None:
    read([right] * 30)
    assert harm.advance(watched) == []
    read([wrong] * 9)
    [alarm] = harm.advance(watched)
    assert alarm.claim == claim


def test_only_the_random_sample_and_blind_truth_count(watched: Site, read: Read) -> None:
    read(WRONG * 20, fold="train")  # picked since they looked wrong, perhaps
    read(WRONG * 20, tier="ai_visible")
    assert harm.advance(watched) == []
    [one] = harm.look(watched)
    assert (one.exams, one.pending) == (40, 40)


def test_a_patient_counts_once(watched: Site, read: Read) -> None:
    name = next(f"Q{number}" for number in count() if watched.fold(f"Q{number}") == "test")
    read(WRONG * 20, patient=name)
    assert harm.advance(watched) == []
    assert [one.exams for one in harm.look(watched)] == [1]


def test_what_is_late_takes_away_and_comes_in_its_place(watched: Site, read: Read) -> None:
    waiting = read([(True, None), (False, None)] * 12)
    assert harm.advance(watched) == []
    [before] = harm.look(watched)
    assert (before.exams, before.pending, before.missing) == (24, 24, 24)
    for number, uid in enumerate(waiting):
        know(watched, uid, number % 2 == 0, number % 2 == 1)
    assert len(harm.advance(watched)) == 1
    [after] = harm.look(watched)
    assert (after.pending, after.missing) == (0, 0)


def test_an_image_that_nobody_can_judge_says_nothing(watched: Site, read: Read) -> None:
    for uid in read([(True, None)] * 10):
        know(watched, uid, True, None)
    [one] = harm.look(watched)
    assert (one.exams, one.pending, one.course.highest) == (10, 0, pytest.approx(one.course.highest))
    assert all(rate.exams == 0 for rate in one.rates)


def test_after_a_person_has_let_it_read_again_the_watch_begins_anew(watched: Site, read: Read) -> None:
    read(WRONG * 12)
    [alarm] = harm.advance(watched)
    harm.see(watched, alarm.id, "ada")
    harm.see(watched, alarm.id, "grace")  # once is enough
    assert harm.advance(watched) == []
    suspensions.lift(watched, served(watched), Why.MISTAKE, "ada")
    assert suspensions.standing(watched) == {}
    assert harm.advance(watched) == []
    [one] = harm.look(watched)
    assert one.exams == 0
    assert [(one.seen_by, one.id) for one in harm.alarms(watched)] == [("ada", alarm.id)]
    assert harm.alarms(watched, unseen=True) == []
    with pytest.raises(Conflict):
        suspensions.lift(watched, served(watched), Why.MISTAKE, "ada")
    with pytest.raises(NotFound):
        harm.see(watched, 99, "ada")


def test_where_the_site_only_wants_to_be_warned_it_reads_on(watched: Site, read: Read) -> None:
    watched.config.watch.on_alarm = "warn"
    read(WRONG * 12)
    [alarm] = harm.advance(watched)
    assert suspensions.standing(watched) == {}
    assert harm.advance(watched) == []
    harm.see(watched, alarm.id, "ada")
    assert [one.exams for one in harm.look(watched)] == [0]


def test_the_doctor_says_what_waits_for_a_person_and_that_nobody_looks(watched: Site, read: Read) -> None:
    def look() -> Check:
        return next(check for check in examine(watched) if check.name == "watch")

    waiting = read([(True, None)] * 19)
    assert look().ok
    read([(True, None)])
    assert (look().ok, "20 of 20" in look().found) == (False, True)
    for uid in waiting:
        know(watched, uid, True, False)
    assert look().ok
    [alarm] = harm.advance(watched)
    assert alarm.text in look().found
    harm.see(watched, alarm.id, "ada")
    assert "suspended" in look().found


def test_a_person_suspends_what_serves(watched: Site) -> None:
    suspensions.suspend(watched, served(watched), Why.SAFETY, "ada")
    suspensions.suspend(watched, served(watched), Why.SAFETY, "grace")
    assert [(one.by, one.reason) for one in suspensions.standing(watched).values()] == [("ada", "safety")]
    assert served(watched).state == "adopted"  # a candidate is compared with it
    versions.retire(watched, "brightness")
    [held] = versions.listed(watched)
    with pytest.raises(Conflict):
        suspensions.suspend(watched, held, Why.SAFETY, "ada")


def test_what_the_gate_accepted_here_is_tolerated() -> None:
    settings = WatchConfig(missed=0.2, false_positive=0.3)
    assert harm.tolerated(settings, None, 0.05) == {"missed": 0.2, "false_positive": 0.3}
    seen = Evidence.model_validate(
        {"retraining": "spring", "digest": "a" * 64, "verdict": "adopt",
         "candidate_gate": {"n": 200, "n_positive": 100, "threshold": 0.5, "tp": 70, "fn": 30, "tn": 95, "fp": 5}}
    )  # fmt: skip
    found = harm.tolerated(settings, seen, 0.05)
    assert found == {"missed": pytest.approx(0.35), "false_positive": 0.3}
    assert harm.tolerated(WatchConfig(missed=0.0), None, 0.05) == {"false_positive": 0.2}
    assert list(harm.bets({"false_positive": 0.2})) == ["false_positive"]


@given(st.booleans(), st.booleans())
def test_of_a_truth_to_come_the_least_alarming_is_taken(called: bool, truth: bool) -> None:
    limits = {"missed": 0.16, "false_positive": 0.07}
    waiting, known = (harm.values(list(limits), [Exam("1", "a", 0.0, called, said)]) for said in (None, truth))
    before, after = (
        follow(limits, list(harm.bets(limits).values()), values, np.ones(1)).evidence for values in (waiting, known)
    )
    assert (before <= after + 1e-12).all()


def test_the_picture_is_drawn_with_and_without_exams(watched: Site, read: Read) -> None:
    [none] = harm.look(watched)
    assert "no exam yet" in picture(none)
    read(WRONG * 12)
    [some] = harm.look(watched)
    assert "polyline" in picture(some)
    assert picture(some).endswith("</svg>")


def test_settings_that_watch_nothing_are_refused() -> None:
    for bad in (
        {"missed": 0.0, "false_positive": 0.0}, {"on_alarm": "sing"}, {"least_tier": "guess"}, {"false_alarms": 0.0},
        {"missed": 0.95},
    ):  # fmt: skip
        with pytest.raises(ConfigurationError):
            WatchConfig(**bad)  # type: ignore[arg-type]


def test_the_tiers_of_the_settings_are_those_of_verdicts() -> None:
    for tier in TruthTier:
        WatchConfig(least_tier=str(tier))
    assert exams.sampled.__module__ == "client.vigilance.exams"


def test_who_goes_back_to_a_suspended_version_is_told(watched: Site) -> None:
    suspensions.suspend(watched, served(watched), Why.SAFETY, "ada")
    said = CliRunner().invoke(app, ["adopt", "--folder", str(watched.folder), "brightness@1"])
    assert said.exit_code == 0, said.output
    assert "beware: brightness@1 is suspended" in " ".join(said.output.split())
