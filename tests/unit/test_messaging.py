"""An order whose answer was lost is asked again, at once and not for ever; nothing else is."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from models.exchange import Consent, Inquiry, Refusal, Release
from server import messaging
from server.messaging import AGAIN, Exchange, Failure

ORDER = Release(retraining="r", digest="a" * 64, released=True)
KEY = b"key"


class Grid:
    """One hospital; `answers` says what becomes of each question: a record, an error's reason, or None for nothing."""

    def __init__(self, answers: list[Any]) -> None:
        self.answers, self.pushed, self.activated, self.online = answers, 0, "1", True
        self.waiting: dict[str, Any] = {}
        self.on_push: Callable[[], None] = lambda: None

    def get_nodes(self) -> list[Any]:
        node = SimpleNamespace(node_id=7, public_key=KEY, last_activated_at=self.activated)
        return [node] if self.online else []

    def push_messages(self, messages: list[Any]) -> list[str]:
        identifier = f"m{self.pushed}"
        self.waiting[identifier] = self.answers[min(self.pushed, len(self.answers) - 1)]
        self.pushed += 1
        self.on_push()
        return [identifier]

    def pull_messages(self, identifiers: list[str]) -> list[Any]:
        found = []
        for identifier in identifiers:
            answer = self.waiting.get(identifier)
            if answer is not None:
                del self.waiting[identifier]
                error = SimpleNamespace(reason=answer) if isinstance(answer, str) else None
                found.append(
                    SimpleNamespace(
                        metadata=SimpleNamespace(reply_to_message_id=identifier),
                        has_error=lambda error=error: error is not None,
                        error=error,
                        content=answer,
                    )
                )
        return found


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    key = hashlib.sha256(KEY).hexdigest()
    (tmp_path / "sites.json").write_text(json.dumps({"alpha": {"node_id": 7, "key_sha256": key}}))
    monkeypatch.setattr(messaging, "POLL", (0.0, 0.001))
    monkeypatch.setattr(messaging, "LOOK", 0.0)
    monkeypatch.setattr(messaging, "GRACE", 0.05)
    monkeypatch.setattr(messaging, "FlowerMessage", lambda record, **facts: facts)

    def go(grid: Grid, timeout: float = 0.5) -> Any:
        return Exchange(grid, tmp_path).send_and_receive({"alpha": ORDER}, timeout).results["alpha"]  # type: ignore[arg-type]

    return go


def refusal(code: Any) -> Any:
    return Refusal(to="release", code=code).to_record()


def test_a_killed_process_is_asked_again_and_then_given_up(ask) -> None:
    grid = Grid(["interrupted", refusal("failed")])
    assert ask(grid) == Failure("failed")
    assert grid.pushed == 2
    grid = Grid([refusal("interrupted")])
    assert ask(grid) == Failure("interrupted")
    assert grid.pushed == 1 + AGAIN


@pytest.mark.parametrize("code", ["failed", "consent-missing", "too-few-cases", "budget-exhausted"])
def test_a_hospital_that_has_said_no_is_not_asked_again(ask, code) -> None:
    grid = Grid([refusal(code)])
    assert ask(grid) == Failure(code)
    assert grid.pushed == 1


def test_a_connection_made_anew_has_lost_the_question(ask) -> None:
    grid = Grid([None, refusal("failed")])

    def restart() -> None:
        grid.activated = "2"

    grid.on_push = restart
    assert ask(grid) == Failure("failed")
    assert grid.pushed == 2
    # the one connection all the while: it is busy, and is not asked again
    grid = Grid([None])
    assert ask(grid, 0.1) == Failure("silent")
    assert grid.pushed == 1


def test_both_answers_to_a_question_asked_twice_count_once(ask) -> None:
    grid = Grid([None, refusal("failed")])

    def restart() -> None:
        grid.activated = "2"
        grid.waiting["m0"] = refusal("conflict")  # the first one was on its way after all

    grid.on_push = restart
    assert ask(grid) in (Failure("failed"), Failure("conflict"))


def test_who_is_away_is_waited_for_a_little(ask, monkeypatch) -> None:
    grid = Grid([refusal("failed")])
    grid.online = False
    assert ask(grid) == Failure("absent")
    assert grid.pushed == 0
    looks = []
    nodes = grid.get_nodes

    def back() -> list[Any]:
        looks.append(1)
        grid.online = len(looks) > 3
        return nodes()

    monkeypatch.setattr(messaging, "GRACE", 5.0)
    grid.get_nodes = back  # type: ignore[method-assign]
    assert ask(grid) == Failure("failed")


def test_an_answer_of_another_kind_is_none(ask) -> None:
    wrong = Consent(retraining="r", digest="a" * 64, state="granted").to_record()
    assert ask(Grid([wrong])) == Failure("malformed")


# ── Two connections of one hospital ──────────────────────────────────────────────────────────────────────────────────

QUICK = Inquiry(digests=("a" * 64,))
SECOND = b"second key"


class TwoNodes(Grid):
    """A hospital with both connections; `connected` says which are there."""

    def __init__(self, answers: list[Any], *connected: str) -> None:
        super().__init__(answers)
        self.connected, self.went = set(connected), []
        self.nodes = {"training": (7, KEY), "control": (8, SECOND)}

    def get_nodes(self) -> list[Any]:
        return [
            SimpleNamespace(node_id=number, public_key=key, last_activated_at="1")
            for channel, (number, key) in self.nodes.items()
            if channel in self.connected
        ]

    def push_messages(self, messages: list[Any]) -> list[str]:
        self.went += [message["dst_node_id"] for message in messages]
        return super().push_messages(messages)


@pytest.fixture
def ask_two(ask, tmp_path: Path) -> Callable[..., Any]:
    def row(number: int, key: bytes) -> dict[str, Any]:
        return {"node_id": number, "key_sha256": hashlib.sha256(key).hexdigest()}

    (tmp_path / "sites.json").write_text(json.dumps({"alpha": row(7, KEY) | {"control": row(8, SECOND)}}))

    def go(grid: Grid, order: Any) -> Any:
        return Exchange(grid, tmp_path).send_and_receive({"alpha": order}, 0.5).results["alpha"]  # type: ignore[arg-type]

    return go


def test_what_is_quick_goes_by_the_control_channel_and_what_trains_by_the_other(ask_two) -> None:
    for order, number in ((QUICK, 8), (ORDER, 7)):
        grid = TwoNodes([refusal("failed")], "training", "control")
        assert ask_two(grid, order) == Failure("failed")
        assert grid.went == [number]


def test_without_a_control_channel_the_other_one_takes_it_and_never_the_other_way_round(ask_two) -> None:
    grid = TwoNodes([refusal("failed")], "training")
    assert ask_two(grid, QUICK) == Failure("failed")
    assert grid.went == [7]
    grid = TwoNodes([refusal("failed")], "control")
    assert ask_two(grid, ORDER) == Failure("absent")
    assert grid.went == []


def test_what_waits_behind_a_training_is_asked_again_once_the_control_channel_is_there(ask_two) -> None:
    grid = TwoNodes([None, refusal("failed")], "training")
    grid.on_push = lambda: grid.connected.add("control")
    assert ask_two(grid, QUICK) == Failure("failed")
    assert grid.went == [7, 8]


def test_a_control_channel_with_another_key_is_nobodys(ask_two) -> None:
    grid = TwoNodes([refusal("failed")], "training", "control")
    grid.nodes["control"] = (8, b"a stranger's")
    assert ask_two(grid, QUICK) == Failure("failed")
    assert grid.went == [7]
