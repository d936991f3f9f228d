"""Asking hospitals whether there is enough to learn from: one Flower run, one small message each, no retraining.

Only hospitals whose settings let errors be counted answer; what they say is rounded so that it shows no patient.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from models.durable import replacing
from models.exchange import Order, Survey, Tally
from server.superlink import SuperLink, SuperLinkRefused, registered_sites

PREFIX = "survey/"
"""Before the names of policy and model that a run carries, `survey/NAME/MODEL`; no retraining's name has a slash."""

SECONDS = 120.0
CONNECT_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Counted:
    """What a survey has found, and when: new errors by hospital, and why others said nothing."""

    at: float
    errors: Mapping[str, int]
    silent: Mapping[str, str]


class Hospitals(Protocol):
    """How hospitals are reached: server.messaging.Exchange, or a test's."""

    def wait_for(self, names: list[str], timeout: float) -> Mapping[str, int]:
        """Those of the named hospitals that are connected, at the latest after `timeout` seconds."""
        ...

    def send_and_receive(self, orders: Mapping[str, Order], timeout: float) -> Any:
        """Answers and failures by hospital, in the order of their names."""
        ...


def take(hospitals: Hospitals, folder: Path, name: str, model: str) -> Counted:
    """Ask all registered hospitals, and keep what they say under this name in place of what they said before.

    Args:
        folder: the coordinator's.
        name: of the policy that asks.
        model: whose errors are counted.
    """
    connected = hospitals.wait_for(list(registered_sites(folder)), CONNECT_SECONDS)
    answered = hospitals.send_and_receive(dict.fromkeys(connected, Survey(retraining=name, model=model)), SECONDS)
    found = Counted(
        time.time(),
        {site: one.new_errors for site, one in answered.results.items() if isinstance(one, Tally)},
        {site: one.code for site, one in answered.results.items() if not isinstance(one, Tally)},
    )
    path = _path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        said = {"at": found.at, "errors": dict(found.errors), "silent": dict(found.silent)}
        file.write(json.dumps(said).encode())
    return found


def last(folder: Path, name: str) -> Counted | None:
    """What the newest survey of this name has found."""
    try:
        return Counted(**json.loads(_path(folder, name).read_text()))
    except FileNotFoundError:
        return None


def ask(link: SuperLink, folder: Path, name: str, model: str) -> Counted:
    """Start a survey and wait for what it finds.

    Raises:
        SuperLinkRefused: it did not end well.
    """
    before = last(folder, name)
    state = link.wait(link.run(f"{PREFIX}{name}/{model}"), SECONDS + CONNECT_SECONDS + 60.0)
    found = last(folder, name)
    if found is None or found == before:
        raise SuperLinkRefused(f"the survey of {name!r} ended as {state.progress}: see logs/superlink.log")
    return found


def _path(folder: Path, name: str) -> Path:
    return folder / "surveys" / f"{name}.json"
