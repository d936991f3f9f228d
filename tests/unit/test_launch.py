"""A retraining that was cut off is followed by another run, and one that ended for a reason is not."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.schema import CoordinatorConfig
from server import launch as launching
from server.coordinator import create
from server.journal import Journal, alone, held
from server.launch import ATTEMPTS, RetrainingFailed, launch
from server.plan import Plan
from server.superlink import RunState, SuperLinkRefused

PLAN = Plan(name="spring", base="m@1", sites=("alpha",), quorum=1)


class Link:
    """Runs, each of which writes its lines into the journal and then is in its state."""

    def __init__(self, journal: Journal, runs: list[tuple[list[str], Any]]) -> None:
        self.journal, self.runs, self.started, self.stopped, self.away = journal, runs, 0, [], 0

    def run(self, name: str) -> int:
        lines, _ = self.runs[min(self.started, len(self.runs) - 1)]
        self.started += 1
        for step in lines:
            self.journal.write(step, {"why": "too few"})
        return self.started

    def state(self, run_id: int) -> RunState:
        if self.away:
            self.away -= 1
            raise SuperLinkRefused("nothing answers")
        return RunState(run_id, self.runs[min(run_id, len(self.runs)) - 1][1])

    def stop_run(self, run_id: int) -> None:
        self.stopped.append(run_id)


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(launching.time, "sleep", lambda _: None)

    def start(*runs: tuple[list[str], Any], away: int = 0) -> Any:
        coordinator = create(tmp_path / "coordinator", CoordinatorConfig())
        folder = coordinator.folder / "retrainings" / "spring"
        link = Link(Journal(folder), list(runs))
        link.away = away
        monkeypatch.setattr(launching, "_link", lambda _: link)
        try:
            lines = launch(coordinator, PLAN, poll=0.0)
            return SimpleNamespace(link=link, lines=lines, failed="")
        except RetrainingFailed as error:
            return SimpleNamespace(link=link, lines=[], failed=str(error))

    return start


def test_a_run_whose_process_was_killed_is_followed_by_another(go) -> None:
    """Flower still believes that the first one runs: nobody holds the journal any more."""
    found = go((["started", "round"], "running"), (["started", "round", "finished"], "completed"))
    assert found.lines[-1]["step"] == "finished"
    assert (found.link.started, found.link.stopped) == (2, [1])


def test_a_run_that_failed_unforeseen_is_tried_again_but_not_for_ever(go) -> None:
    found = go((["started"], "failed"))
    assert "ended as failed" in found.failed
    assert found.link.started == 1 + ATTEMPTS


def test_attempts_between_which_something_was_done_do_not_count(go) -> None:
    runs = [(["started", "round"], "failed")] * (ATTEMPTS + 3)
    found = go(*runs, (["started", "finished"], "completed"))
    assert found.failed == ""


@pytest.mark.parametrize(("lines", "state"), [(["started", "ended"], "failed"), (["started"], "stopped")])
def test_what_ended_for_a_reason_or_was_stopped_stays_so(go, lines, state) -> None:
    found = go((lines, state))
    assert found.link.started == 1
    assert ("too few" in found.failed) == ("ended" in lines)


def test_a_superlink_that_is_away_is_waited_for(go) -> None:
    assert go((["started", "finished"], "completed"), away=3).failed == ""


def test_the_lock_says_who_works(tmp_path: Path) -> None:
    assert not held(tmp_path)
    with alone(tmp_path):
        assert held(tmp_path)
    assert not held(tmp_path)
