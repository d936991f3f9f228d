"""What the coordinator tells and asks hospitals beside retrainings: each once, the absent later, nothing forgotten."""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.schema import CoordinatorConfig
from models import withdrawal as signed
from models.errors import ConfigurationError
from models.exchange import Holdings, Inquiry, Withdrawn
from server import errands, vendors, withdrawal
from server.coordinator import Coordinator, create
from server.errands import Errands
from server.messaging import Failure
from server.registry import Registered
from server.superlink import RunState, SuperLinkRefused, registered_sites

VERSION = Registered("chest", 2, "d" * 64, "run")
SITES = ("alpha", "beta", "gamma")


class Hospitals:
    """Those that are connected, and what each says."""

    def __init__(self, **words: Any) -> None:
        self.words, self.asked = words, []

    def reached(self) -> list[str]:
        return sorted(self.words)

    def send_and_receive(self, orders: Any, timeout: float) -> Any:
        self.asked.append(sorted(orders))
        results: dict[str, Any] = {}
        for site, order in orders.items():
            word = self.words[site]
            if isinstance(order, Inquiry):
                results[site] = word
            elif word in ("withdrawn", "waiting", "kept", "not-held"):
                results[site] = Withdrawn(digest=order.digest, notice=order.sha256, state=word)
            else:
                results[site] = Failure(word)
        return SimpleNamespace(results=results)


@pytest.fixture
def coordinator(tmp_path: Path) -> Coordinator:
    made = create(tmp_path / "coordinator", CoordinatorConfig())
    rows = {site: {"node_id": number, "key_sha256": site} for number, site in enumerate(SITES)}
    (made.folder / "sites.json").write_text(json.dumps(rows))
    return made


def test_each_hospital_is_told_until_it_has_said_its_last_word(coordinator: Coordinator) -> None:
    withdrawal.announce(coordinator, VERSION, "a wrong threshold")
    hospitals = Hospitals(alpha="withdrawn", beta="waiting")

    errands.tell(hospitals, coordinator)
    assert withdrawal.said(coordinator.folder, VERSION.digest) == {"alpha": "withdrawn", "beta": "waiting"}
    assert withdrawal.pending(coordinator.folder) == {VERSION.digest: {"beta": "waiting", "gamma": ""}}
    hospitals.words = {"alpha": "withdrawn", "beta": "kept", "gamma": "not-allowed"}
    errands.tell(hospitals, coordinator)
    hospitals.words["gamma"] = "not-held"
    errands.tell(hospitals, coordinator)
    errands.tell(hospitals, coordinator)

    assert hospitals.asked == [["alpha", "beta"], ["beta", "gamma"], ["gamma"]]
    assert withdrawal.pending(coordinator.folder) == {}
    lines = (coordinator.folder / "withdrawals" / VERSION.digest / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["state"] for line in lines] == ["withdrawn", "waiting", "kept", "not-allowed", "not-held"]


@pytest.mark.parametrize("code", ["absent", "silent", "lost"])
def test_who_did_not_answer_has_said_nothing(coordinator: Coordinator, code: str) -> None:
    withdrawal.announce(coordinator, VERSION, "a wrong threshold")
    errands.tell(Hospitals(alpha=code), coordinator)

    assert withdrawal.said(coordinator.folder, VERSION.digest) == {}


def test_a_withdrawal_is_signed_once_and_its_words_are_for_good(coordinator: Coordinator) -> None:
    withdrawal.announce(coordinator, VERSION, "a wrong threshold")
    (first,) = withdrawal.orders(coordinator)
    withdrawal.announce(coordinator, VERSION, "another reason")
    (second,) = withdrawal.orders(Coordinator(coordinator.folder))

    assert first == second
    assert first.digest == VERSION.digest
    signed.verify(first.notice, first.signature, first.signer, coordinator.trusted)
    with pytest.raises(ConfigurationError):
        withdrawal.require_reason("two\nlines")


class Registry:
    def __init__(self) -> None:
        self.pointed: dict[str, int] = {}
        self.made = {
            number: Registered("chest", number, str(number) * 64, "run", created_at=float(number), tags={})
            for number in (1, 2)
        }
        self.tagged: list[tuple[int, Any]] = []

    def names(self) -> list[str]:
        return ["chest"]

    def versions(self, name: str) -> list[Registered]:
        return list(self.made.values())

    def aliases(self, name: str) -> dict[str, int]:
        return dict(self.pointed)

    def alias(self, version: Registered, alias: str) -> None:
        self.pointed[alias] = version.number

    def unalias(self, name: str, alias: str) -> None:
        del self.pointed[alias]

    def tag(self, version: Registered, tags: Any) -> None:
        self.tagged.append((version.number, tags))
        version.tags.update(tags)  # type: ignore[attr-defined]


def test_the_registry_says_what_a_hospital_went_back_to_and_why() -> None:
    registry, one, two = Registry(), "1" * 64, "2" * 64

    def hear(*states: str, changed: str = "gate") -> None:
        words = Holdings(digests=(one, two), states=states, changed=(changed, changed))  # type: ignore[arg-type]
        errands.inquire(Hospitals(alpha=words, beta="consent-missing"), registry)  # type: ignore[arg-type]

    hear("retired", "adopted")
    assert registry.pointed == {"adopted-at-alpha": 2}
    hear("adopted", "retired", changed="safety")
    assert registry.pointed == {"adopted-at-alpha": 1}
    assert registry.made[2].tags == {"standing-at-alpha": "retired (safety)"}
    times = len(registry.tagged)
    hear("adopted", "retired", changed="safety")
    assert len(registry.tagged) == times  # nothing new is nothing written
    hear("retired", "withdrawn")
    assert registry.pointed == {}


class Link:
    def __init__(self, folder: Path, *online: str) -> None:
        self.folder, self.names, self.runs = folder, list(online), []
        self.progress = "completed"

    def online(self, channel: str = "training") -> list[str]:
        return self.names if channel == "control" else []

    def run(self, name: str) -> int:
        self.runs.append(name)
        return 1

    def wait(self, run_id: int, timeout: float) -> RunState:
        return RunState(run_id, self.progress)  # type: ignore[arg-type]


def test_an_errand_is_made_when_there_is_one(coordinator: Coordinator) -> None:
    link = Link(coordinator.folder)
    work = Errands(coordinator, link)  # type: ignore[arg-type]
    assert (work.step(), link.runs) == ("", [])

    withdrawal.announce(coordinator, VERSION, "a wrong threshold")
    assert (work.step(), link.runs) == ("", [])  # nobody is there
    link.names = ["beta"]
    assert work.step() == "withdrawals"
    assert work.step() == ""  # it said nothing, busy by its one connection perhaps: it is left alone for a while
    link.names, link.progress = ["beta", "gamma"], "failed"
    with pytest.raises(SuperLinkRefused):
        work.step()
    for site in SITES:
        withdrawal.say(coordinator.folder, VERSION.digest, site, "waiting")
    assert work.step() == ""  # they are asked again with the next inquiry, and not every few seconds

    link.progress = "completed"
    asked = coordinator.folder / "errands" / "asked"
    asked.touch()
    long_ago = time.time() - 601
    os.utime(asked, (long_ago, long_ago))
    assert work.step() == "inquiry"
    assert link.runs == ["errand/withdrawals"] * 2 + ["errand/inquiry"]


def test_once_a_day_hospitals_are_asked_how_vendors_versions_do(coordinator: Coordinator) -> None:
    link = Link(coordinator.folder, "alpha")
    work = Errands(coordinator, link)  # type: ignore[arg-type]
    places = [coordinator.folder / "errands" / name for name in ("asked", "collected")]
    places[0].parent.mkdir()
    places[0].touch()
    places[1].touch()
    day_ago = time.time() - 86401
    os.utime(places[1], (day_ago, day_ago))
    assert work.step() == ""  # there is no vendor
    vendors.add(coordinator.folder, "acme", ["chest"])
    assert work.step() == "statistics"
    places[1].touch()  # as the errand itself does
    assert work.step() == ""


def test_hospitals_of_an_earlier_release_have_one_connection_for_everything(coordinator: Coordinator) -> None:
    site = registered_sites(coordinator.folder)["alpha"]

    assert site.control is None
    assert site.node("control") == site.node("training")
    assert len(site.nodes) == 1
