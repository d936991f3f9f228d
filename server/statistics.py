"""What hospitals told of how versions do there: asked for, kept, never thrown away.

    statistics/DIGEST/journal.jsonl   a line for the version, and one for each release that a hospital told

A release is known by hospital, version and number. The same one again is nothing new; another under the same number (a
hospital that had lost its database) takes the place of the first, which stays in the journal.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

from models import audit
from models.audit import Request
from models.exchange import Audit, Figures, Lines, Order
from models.stats.noise import reach
from models.stats.release import Line
from server import vendors
from server.coordinator import SIGNER, Coordinator
from server.journal import Journal, read
from server.registry import Registered

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 120.0
_MOST: Final = 1000  # releases of one version that are asked for in one go


@dataclass(frozen=True, slots=True)
class Version:
    """A version of which something is known here."""

    digest: str
    name: str
    number: int

    @property
    def label(self) -> str:
        return f"{self.name}@{self.number}"


@dataclass(frozen=True, slots=True)
class Told:
    """One release of a hospital.

    Attributes:
        period: the month in whose beginning it was closed, 202611.
        at: when it came, seconds since the epoch.
    """

    site: str
    number: int
    period: int
    at: float
    lines: tuple[Line, ...]


class Hospitals(Protocol):
    """How hospitals are reached: server.messaging.Exchange, or a test's."""

    def reached(self) -> list[str]:
        """Those that are connected, by either channel."""
        ...

    def send_and_receive(self, orders: Mapping[str, Order], timeout: float) -> Any:
        """Answers and failures by hospital, in the order of their names."""
        ...


def collect(hospitals: Hospitals, coordinator: Coordinator) -> int:
    """Ask the connected hospitals for what they have not told yet of each vendor's versions; how many releases came."""
    models = {model for vendor in vendors.listed(coordinator.folder) for model in vendor.models}
    registry, came = coordinator.registry, 0
    for name in sorted(models & set(registry.names())):
        for version in registry.versions(name):
            came += _collect(hospitals, coordinator, version)
    return came


def _collect(hospitals: Hospitals, coordinator: Coordinator, version: Registered) -> int:
    folder, came = coordinator.folder, 0
    _name(folder, version)
    asked = hospitals.reached()
    for _ in range(_MOST):
        last = {one.site: one.number for one in sorted(told(folder, version.digest), key=lambda one: one.number)}
        orders = {site: question(coordinator, version.digest, site, last.get(site, 0)) for site in asked}
        if not orders:
            break
        answers = hospitals.send_and_receive(orders, ANSWER_SECONDS).results
        for site, found in answers.items():
            _say(folder, version.digest, site, "" if isinstance(found, Figures) else found.code)
        new = {site: found for site, found in answers.items() if isinstance(found, Figures) and found.number}
        came += sum(keep(folder, version.digest, site, found) for site, found in new.items())
        asked = sorted(new)
    return came


def question(coordinator: Coordinator, digest: str, site: str, after: int) -> Audit:
    """What a hospital is asked, signed, now."""
    content = Request(version=digest, hospital=site, after=after, at=time.time()).to_bytes()
    return Audit(request=content, signer=SIGNER, signature=audit.sign(content, coordinator.signing_key))


def keep(folder: Path, digest: str, site: str, figures: Figures) -> bool:
    """Keep what a hospital has told; False: it was known.

    Args:
        folder: the coordinator's.
    """
    assert figures.told is not None
    lines = {name: list(values) for name, values in figures.told.model_dump().items()}
    facts = {
        "site": site,
        "number": figures.number,
        "period": figures.period,
        "lines": lines,
        "epsilon": figures.epsilon,
    }
    rows = _rows(folder, digest, "told")
    before = next((row for row in rows if (row["site"], row["number"]) == (site, figures.number)), None)
    if before is not None and all(before[name] == facts[name] for name in facts):
        return False
    if before is not None:
        log.warning("%s tells release %d of %s anew, otherwise", site, figures.number, digest[:12])
    Journal(place(folder, digest)).write("told", facts)
    return True


def told(folder: Path, digest: str) -> list[Told]:
    """What counts now of a version, by hospital and number."""
    latest: dict[tuple[str, int], dict[str, Any]] = {}
    for row in read(place(folder, digest)):
        if row["step"] == "told":
            latest[row["site"], row["number"]] = row
    return [Told(site, number, row["period"], row["at"], _lines(row)) for (site, number), row in sorted(latest.items())]


def silent(folder: Path, digest: str) -> dict[str, str]:
    """The hospitals that gave no answer when they were asked last, and why."""
    said = {row["site"]: row["why"] for row in read(place(folder, digest)) if row["step"] == "asked"}
    return {site: why for site, why in sorted(said.items()) if why}


def begun(folder: Path, digest: str) -> float:
    """When hospitals were first asked about a version, seconds since the epoch; 0: never."""
    return next((float(row["at"]) for row in read(place(folder, digest)) if row["step"] == "version"), 0.0)


def place(folder: Path, digest: str) -> Path:
    """Where what is known of a version is journalled."""
    return folder / "statistics" / digest


def versions(folder: Path, models: Iterable[str]) -> list[Version]:
    """The versions of these models that hospitals were ever asked about, by name and number."""
    wanted, found = set(models), list[Version]()
    for one in (folder / "statistics").glob("*"):
        for row in read(one):
            if row["step"] == "version" and row["name"] in wanted:
                found.append(Version(one.name, row["name"], row["number"]))
    return sorted(set(found), key=lambda one: (one.name, one.number))


def _name(folder: Path, version: Registered) -> None:
    if not _rows(folder, version.digest, "version"):
        Journal(place(folder, version.digest)).write("version", {"name": version.name, "number": version.number})


def _say(folder: Path, digest: str, site: str, why: str) -> None:
    if silent(folder, digest).get(site, "") != why:
        Journal(place(folder, digest)).write("asked", {"site": site, "why": why})


def _rows(folder: Path, digest: str, step: str) -> list[dict[str, Any]]:
    """Newest first."""
    return [row for row in reversed(list(read(place(folder, digest)))) if row["step"] == step]


def _lines(row: Mapping[str, Any]) -> tuple[Line, ...]:
    lines = Lines.model_validate({name: tuple(value) for name, value in row["lines"].items()}).lines()
    noise = reach(row["epsilon"]) if row["epsilon"] else 0
    return tuple(replace(line, noise=noise) for line in lines)
