"""For each message of the coordinator exactly one reply goes to the SuperNode.

A second one would be taken for the answer to the next message, and every later answer would come one question late.
"""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from client.federation import flower_internals as flower
from client.federation import launcher
from client.federation.launcher import Launcher, approve

BUNDLE = b"the installed code's manifest"


@pytest.fixture
def pushed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What this process, and not its child, gives the SuperNode."""
    found: list[Any] = []
    message = SimpleNamespace(content=None)
    client = SimpleNamespace(close=lambda: None)
    monkeypatch.setattr(flower, "runtime_client", lambda *_: client)
    monkeypatch.setattr(flower, "pull_task_input", lambda _: (message, None, None, SimpleNamespace(content=BUNDLE)))
    monkeypatch.setattr(flower, "push_message", lambda _client, reply, _context: found.append(reply))
    monkeypatch.setattr(flower, "push_task_output", lambda *_: None)
    monkeypatch.setattr(launcher, "Message", lambda error, reply_to: error)
    return found


def answer(folder: Path) -> None:
    approve(folder, hashlib.sha256(BUNDLE).hexdigest())
    Launcher("127.0.0.1:1", folder, lambda: True)._answer(flower.CLIENT_TASK, "token")


def broken(*_: object) -> None:
    raise ConnectionError


def test_a_reply_that_breaks_off_on_its_way_is_not_followed_by_another(
    tmp_path: Path, pushed: list[Any], monkeypatch: pytest.MonkeyPatch
):
    parents = flower.push_message
    monkeypatch.setattr(launcher.installed, "app", lambda *_: "reply")

    def in_the_child(client: Any, reply: Any, context: Any) -> None:
        return broken() if reply == "reply" else parents(client, reply, context)

    monkeypatch.setattr(flower, "push_message", in_the_child)

    answer(tmp_path)

    assert pushed == []


def test_a_message_that_was_never_answered_is_answered_by_a_code(
    tmp_path: Path, pushed: list[Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(launcher.installed, "app", broken)

    answer(tmp_path)

    assert [(error.code, error.reason) for error in pushed] == [(launcher.ERROR, "failed")]
