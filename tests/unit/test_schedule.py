"""A schedule retrains when it should, once for each reason, and neither forgets nor repeats when it is killed."""

import json
import os
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from mlflow.exceptions import MlflowException
from typer.testing import CliRunner

from client.federation import leakage
from client.federation.border import Border
from client.federation.site import handlers
from client.store.site import Site
from configs.schema import CoordinatorConfig, RetrainingConfig, ScheduleConfig, compose, load, save
from models.errors import BorderRefused, ConfigurationError
from models.exchange import Refusal, Survey, Tally, check_answer, disclosed, parse
from models.stats.disclosure import LEAST
from scripts.vigie import app
from server import schedule, survey
from server.coordinator import Coordinator, create
from server.journal import Journal, alone
from server.launch import plan_of
from server.messaging import Failure
from server.plan import save as save_plan
from server.schedule import DAY, Begun, Count, Launch, Resume, Schedule, Seen, Wait, decide

MONDAY = datetime(2026, 11, 23, 3, 0).astimezone()
NOW = MONDAY.timestamp()


def policy(**changes: Any) -> ScheduleConfig:
    return ScheduleConfig(**({"name": "chest", "model": "chest-radiograph"} | changes))


def begun(days: float = 30.0, finished: bool = True, **changes: Any) -> Begun:
    at = NOW - days * DAY
    return Begun(**({"name": "chest-1", "at": at, "touched": at, "finished": finished} | changes))


@pytest.mark.parametrize(
    ("changes", "seen", "expected"),
    [
        ({"every_days": 90}, {}, Launch(("calendar: every 90 days",))),
        ({"every_days": 90}, {"last": begun(89)}, Wait),
        ({"every_days": 90}, {"last": begun(91)}, Launch),
        ({"every_days": 1}, {"last": begun(6)}, Wait),  # least_days
        ({}, {"last": begun(30), "alarms": ["drift"]}, Launch(("alarm: drift",))),
        ({"alarms": False, "every_days": 90}, {"last": begun(30), "alarms": ["drift"]}, Wait),
        # written while the clock ran ahead
        ({"every_days": 90}, {"last": begun(-4000)}, Launch),
        ({}, {"last": begun(-4000, finished=False)}, Resume("chest-1")),
        ({}, {"last": begun(-0.01), "alarms": ["drift"]}, Wait),  # and a quarter of an hour is no wrong clock
        ({"errors": 9}, {"errors": {"a": 55}, "counted_at": NOW + 4000 * DAY}, Count),
        ({"errors": 50}, {}, Count),
        ({"errors": 50}, {"errors": {"a": 33, "b": 11}, "counted_at": NOW - 60}, Wait),
        ({"errors": 9}, {"errors": {"a": 33, "b": 22}, "counted_at": NOW}, Launch(("errors: 55 new ones at a, b",))),
        ({"errors": 50, "hospitals": 2}, {"errors": {"a": 55, "b": 0}, "counted_at": NOW - 60}, Wait),
        ({"errors": 50}, {"errors": {"a": 55}, "counted_at": NOW - 31 * DAY, "last": begun(30)}, Count),
        ({"errors": 50}, {"errors": {"a": 11}, "counted_at": NOW - 2 * DAY}, Count),
        ({"every_days": 1, "hours": [4, 6]}, {}, Wait),
        ({"every_days": 1, "hours": [22, 4]}, {}, Launch),
        ({"every_days": 1, "weekdays": ["sat", "sun"]}, {}, Wait),
        ({"every_days": 1}, {"last": begun(30, finished=False)}, Resume("chest-1")),
        ({"every_days": 1}, {"last": begun(30, finished=False, touched=NOW - 60)}, Wait),
        ({"every_days": 1}, {"last": begun(1, finished=False, touched=NOW - 60, running=True)}, Resume("chest-1")),
    ],
)  # fmt: skip
def test_what_is_seen_says_what_to_do(changes: dict[str, Any], seen: dict[str, Any], expected: Any) -> None:
    found = decide(policy(**changes), Seen(MONDAY, **seen))
    assert found == expected if not isinstance(expected, type) else isinstance(found, expected)


@given(
    days=some.floats(0, 60),
    least=some.floats(0, 40),
    alarm=some.booleans(),
    errors=some.integers(0, 200),
    counted=some.floats(0, 60),
)
def test_no_two_begin_closer_than_the_policy_says_and_nothing_counts_twice(days, least, alarm, errors, counted) -> None:
    last = begun(days)
    seen = Seen(MONDAY, last, {"a": errors}, NOW - counted * DAY, ["drift"] if alarm else [])
    found = decide(policy(least_days=least, errors=100), seen)
    if isinstance(found, Launch):
        assert days >= least
        assert alarm or (errors >= 100 and NOW - counted * DAY > last.at)


@pytest.mark.parametrize(
    "changes", [{"hours": [5]}, {"hours": [3, 3]}, {"weekdays": ["monday"]}, {"alarms": False}, {"errors": -1}]
)
def test_a_policy_that_cannot_work_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        policy(**changes)


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    made = create(tmp_path / "coordinator", CoordinatorConfig())
    made.__dict__["registry"] = SimpleNamespace(aliases=lambda name: {"released": 3})
    (made.folder / "sites.json").write_text(json.dumps({"alpha": {"node_id": 1, "key_sha256": ""}}))
    return made


def test_it_begins_the_next_one_from_the_released_version_and_resumes_it(coordinator, monkeypatch, tmp_path) -> None:
    launched = []

    def launch(_: Coordinator, plan: Any, on_line: Any) -> None:
        launched.append((plan.name, plan.base, plan.rounds))
        Journal(schedule.plan.save(plan, coordinator.folder)).write("started", {"sites": ["alpha"]})

    monkeypatch.setattr(schedule, "launch", launch)
    path = tmp_path / "chest.yaml"
    path.write_text("name: chest\nmodel: chest-radiograph\nretraining: [rounds=3]\n")
    now = [NOW]
    work = Schedule(coordinator, load(path, ScheduleConfig), lambda: now[0])
    assert isinstance(work.step(), Wait)
    schedule.raise_alarm(coordinator.folder, "another-model", "drift", NOW)
    assert isinstance(work.step(), Wait)
    schedule.raise_alarm(coordinator.folder, "chest-radiograph", "drift", NOW)
    assert work.step() == Launch(("alarm: drift",))
    assert launched == [("chest-1", "chest-radiograph@3", 3)]
    # another process, after a crash in the middle of it: nobody else works on it, and it was touched long ago
    again = Schedule(coordinator, load(path, ScheduleConfig), lambda: now[0])
    folder = coordinator.folder / "retrainings" / "chest-1"
    with alone(folder):
        assert again.step() == Resume("chest-1")  # it runs: it is followed
    now[0] = datetime.now().timestamp() + DAY
    assert again.step() == Resume("chest-1")
    Journal(folder).write("finished", {"released": True})
    assert isinstance(again.step(), Wait)
    # half an alarm, from a crash, is none
    with (coordinator.folder / "alarms.jsonl").open("a") as file:
        file.write('{"at": 1, "mod')
    assert schedule.alarms(coordinator.folder, "chest-radiograph", "chest") == []
    os.utime(folder / "plan.json", (NOW - 100 * DAY, NOW - 100 * DAY))
    assert [one[0] for one in launched] == ["chest-1"] * 3


def test_going_on_after_a_crash_answers_no_alarm_that_came_meanwhile(coordinator) -> None:
    config = compose("retraining", RetrainingConfig, ["name=chest-1", "base=chest-radiograph@3"])
    plan = plan_of(config, coordinator)
    folder = save_plan(plan, coordinator.folder)
    Journal(folder).write("started", {})
    began = Schedule(coordinator, policy()).look().last
    assert began is not None
    os.utime(folder / "plan.json", (began.at - 30 * DAY,) * 2)
    schedule.raise_alarm(coordinator.folder, "chest-radiograph", "drift", began.at - DAY)
    save_plan(plan, coordinator.folder)  # as a resumed launch does
    Journal(folder).write("finished", {"released": True})
    seen = Schedule(coordinator, policy()).look()
    assert seen.last is not None
    assert seen.last.at == pytest.approx(began.at - 30 * DAY)
    assert decide(policy(hours=[0, 24]), seen) == Launch(("alarm: drift",))
    # a restored folder's files are as new as the restoring
    os.utime(folder / "plan.json", (began.at + 30 * DAY,) * 2)
    restored = Schedule(coordinator, policy()).look().last
    assert restored is not None
    assert restored.at <= began.at + 1


def test_an_alarm_is_answered_by_what_begins_after_it_whatever_the_clocks_say(coordinator, monkeypatch) -> None:
    killed = [True]

    def launch(_: Coordinator, plan: Any, on_line: Any) -> None:
        if killed.pop():
            raise OSError("killed before the plan was on the disk")
        Journal(save_plan(plan, coordinator.folder)).write("finished", {"released": False})

    monkeypatch.setattr(schedule, "launch", launch)
    # the registry takes its time to say what is released, and somebody else raises an alarm meanwhile
    slow = [False]

    def aliases(model: str) -> dict[str, int]:
        if slow.pop():
            schedule.raise_alarm(coordinator.folder, model, "meanwhile", NOW)
        return {"released": 3}

    coordinator.__dict__["registry"] = SimpleNamespace(aliases=aliases)
    work = Schedule(coordinator, policy(least_days=0, hours=[0, 24]), lambda: NOW)
    schedule.raise_alarm(coordinator.folder, "chest-radiograph", "drift", NOW + 4000 * DAY)
    with pytest.raises(OSError, match="killed"):
        work.step()
    killed.append(False)
    slow.append(True)
    assert work.step() == Launch(("alarm: drift",))
    assert work.look().alarms == ["meanwhile"]
    killed.append(False)
    slow.append(False)
    assert work.step() == Launch(("alarm: meanwhile",))
    assert work.look().alarms == []
    schedule.raise_alarm(coordinator.folder, "chest-radiograph", "again", NOW - 4000 * DAY)
    assert work.look().alarms == ["again"]


def test_an_alarm_after_half_an_alarm_is_heard(coordinator) -> None:
    schedule.raise_alarm(coordinator.folder, "chest-radiograph", "before", NOW)
    with (coordinator.folder / "alarms.jsonl").open("a") as file:
        file.write('{"at": 1, "mod')  # the disk was full
    schedule.raise_alarm(coordinator.folder, "chest-radiograph", "after", NOW + 1)
    assert schedule.alarms(coordinator.folder, "chest-radiograph", "chest") == ["before", "after"]


@pytest.mark.parametrize(
    "problem",
    [ConfigurationError("nobody is there"), OSError(28, "No space left on device"), MlflowException("refused")],
)
def test_what_goes_wrong_is_told_once_and_tried_again(coordinator, problem) -> None:
    work = SimpleNamespace(step=lambda _: (_ for _ in ()).throw(problem))
    said: list[str] = []

    def sleep(_: float) -> None:
        if len(slept) == 3:
            raise KeyboardInterrupt
        slept.append(1)

    slept: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        schedule.run(work, sleep, said.append, lambda _: None)  # type: ignore[arg-type]
    assert len(said) == 1
    assert str(problem) in said[0]


def test_an_alarm_is_noted_where_the_registry_is_away(coordinator, monkeypatch) -> None:
    monkeypatch.delitem(coordinator.__dict__, "registry")
    words = ["retrain", "alarm", "--folder", str(coordinator.folder), "chest-radiograph", "drift"]
    found = CliRunner().invoke(app, words, env={"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"})
    assert found.exit_code == 0
    assert "is there such a model?" in found.output
    assert schedule.alarms(coordinator.folder, "chest-radiograph", "chest") == ["drift"]


# ── Counting ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_errors_are_counted_only_where_the_hospital_lets_them_and_in_steps(site: Site, monkeypatch) -> None:
    monkeypatch.setattr("client.federation.site.new_errors", lambda _, model: 2 * LEAST + 5)
    border = Border(site.ledger, lambda: handlers(site.folder))
    asked = Survey(retraining="chest", model="brightness")
    assert parse(border.answer(asked.to_record())) == Refusal(to="survey", code="consent-missing")
    site.config.consent.surveys = True
    save(site.config, site.folder / "site.yaml")
    assert parse(border.answer(asked.to_record())) == Tally(retraining="chest", new_errors=2 * LEAST)
    left = [json.loads(entry.facts)["kind"] for entry in site.ledger.entries("border.crossed")]
    assert left[-2:] == ["survey", "tally"]


@given(count=some.integers(0, 10_000))
def test_no_count_that_leaves_can_show_a_patient(count: int) -> None:
    said = disclosed(Tally(retraining="chest", new_errors=count))
    check_answer(said, Survey(retraining="chest", model="brightness"))
    assert count - LEAST < said.new_errors <= count  # type: ignore[union-attr]
    if count % LEAST:
        with pytest.raises(BorderRefused):
            check_answer(Tally(retraining="chest", new_errors=count), Survey(retraining="chest", model="brightness"))


def test_an_error_is_new_until_a_retraining_has_learned_from_it(
    site: Site, scored: Callable[..., str], monkeypatch
) -> None:
    cases = [SimpleNamespace(correct=number % 2 == 0, input_digest=f"d{number}") for number in range(6)]
    of = SimpleNamespace(fold=lambda name: cases if name == "train" else [])
    monkeypatch.setattr(leakage.ReusableCases, "of", lambda *_: of)
    assert leakage.new_errors(site, "brightness") == 3
    leakage.remember(site, "spring", cases[:3])  # type: ignore[arg-type]
    assert leakage.new_errors(site, "brightness") == 2
    assert leakage.new_errors(site, "another") == 0


def test_a_survey_keeps_what_was_said_and_why_not(coordinator) -> None:
    class Hospitals:
        def wait_for(self, names: list[str], timeout: float) -> dict[str, int]:
            return dict.fromkeys(names, 1)

        def send_and_receive(self, orders: dict[str, Any], timeout: float) -> SimpleNamespace:
            found = {"alpha": Tally(retraining="chest", new_errors=22), "beta": Failure("consent-missing")}
            return SimpleNamespace(results=found, seconds=0.0)

    assert survey.last(coordinator.folder, "chest") is None
    survey.take(Hospitals(), coordinator.folder, "chest", "brightness")
    found = survey.last(coordinator.folder, "chest")
    assert found is not None
    assert (found.errors, found.silent) == ({"alpha": 22}, {"beta": "consent-missing"})
    assert timedelta(seconds=datetime.now().timestamp() - found.at) < timedelta(minutes=1)
