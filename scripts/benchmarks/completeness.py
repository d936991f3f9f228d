"""When a study is called complete: 200 replayed studies a seed through the code that decides, against a 60 s timer.

The clock is simulated, so that hours pass in a second; `client/arrival/completeness.py` is the real one, from a start
without any habit, and once more for the 200 studies after those. A close is wrong when an image comes after it that
had not come before; the delay is that of the last close, from the last image on.

A pause of more than a minute in a study of which no procedure step tells cannot be told from its end by anybody who
waits a minute at most, as the timer does. The figures are given with and without such studies.
"""

import argparse
import heapq
import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from client.arrival.completeness import Announced, Basis, Bounds, Complete, Facts, Patience, Sender, Series
from scripts.benchmarks.report import Claim, Report, at_most, p95
from scripts.benchmarks.senders import FIRST, SECOND, Image, Script, drawn, studies

STUDIES: Final = 200
_TIMER_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.1
_ANSWER_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a hospital's systems tell beside the images."""

    counts: bool = False
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of one study; `basis` is that of its last close."""

    kind: str
    wrong: bool
    delay: float
    basis: str
    told: bool


def replay(scripts: Sequence[tuple[float, Script]], evidence: Evidence, bounds: Bounds) -> list[Replayed]:
    """Let the studies come, and decide on each as a node would."""
    return _Replay(scripts, evidence, bounds).run()


def timed(scripts: Sequence[tuple[float, Script]], seconds: float = _TIMER_SECONDS) -> list[Replayed]:
    """The same studies by a bare timer that starts again with each image."""
    found: list[Replayed] = []
    for _, script in scripts:
        came: dict[tuple[str, int], float] = {}
        for image in script.images:
            key = (image.series, image.number)
            came[key] = min(image.at, came.get(key, image.at))
        times = sorted(came.values())
        wrong = any(after - before > seconds for before, after in itertools.pairwise(times))
        found.append(Replayed(script.kind, wrong, seconds, "timer", told=False))
    return found


@dataclass(slots=True)
class _Study:
    script: Script
    start: float
    here: dict[str, dict[int, Image]] = field(default_factory=lambda: dict[str, dict[int, Image]]())
    arrivals: list[float] = field(default_factory=lambda: list[float]())
    last: Image | None = None
    closed: tuple[float, Basis] | None = None
    watched: bool = False
    wrong: bool = False
    told: tuple[float, int] | None = None  # when the PACS was asked, and its count
    step: str = ""


class _Replay:
    def __init__(self, scripts: Sequence[tuple[float, Script]], evidence: Evidence, bounds: Bounds) -> None:
        self._evidence = evidence
        self._patience = Patience(bounds)
        self._studies = [_Study(script, start) for start, script in scripts]
        self._open: dict[str, int] = {}  # association → the study that it sent of last
        self._order = itertools.count()
        self._events: list[tuple[float, int, str, int, Any]] = []
        for number, (start, script) in enumerate(scripts):
            for image in script.images:
                self._at(start + image.at, "image", number, image)
            for association, at in script.released.items():
                self._at(start + at, "release", number, association)
            if script.step and evidence.steps:
                self._at(start + script.step[0], "step", number, "in progress")
                self._at(start + script.step[1], "step", number, "completed")

    def run(self) -> list[Replayed]:
        while self._events:
            now, _, what, number, more = heapq.heappop(self._events)
            study = self._studies[number]
            if what == "image":
                self._receive(study, number, more, now)
            elif what == "release":
                self._open.pop(more, None)
            elif what == "step":
                study.step = more
            elif what == "count":
                study.told = (now, self._in_pacs(study, now))
            if study.arrivals and study.closed is None:
                if now - study.arrivals[-1] >= _LOOK_SECONDS - 1e-6:
                    self._look(study, number, now)
                elif what == "image":
                    self._at(now + _LOOK_SECONDS, "look", number, None)
        return [self._replayed(study) for study in self._studies]

    def _at(self, at: float, what: str, number: int, more: Any) -> None:
        heapq.heappush(self._events, (at, next(self._order), what, number, more))

    def _receive(self, study: _Study, number: int, image: Image, now: float) -> None:
        left = self._open.get(image.association)
        self._open[image.association] = number
        if left is not None and left != number:
            self._at(now + _LOOK_SECONDS, "look", left, None)  # it has gone on
        series = study.here.setdefault(image.series, {})
        if image.number in series:
            return  # a duplicate
        if study.closed is not None:
            at, basis = study.closed
            before = study.last
            assert before is not None
            gap = now - study.arrivals[-1]
            assert at >= study.arrivals[-1]
            self._patience.refute(Sender(before.calling_ae, before.modality), basis, gap)
            study.closed, study.wrong = None, True
        series[image.number] = study.last = image
        study.arrivals.append(now)

    def _look(self, study: _Study, number: int, now: float) -> None:
        touched = study.arrivals[-1]
        if self._evidence.counts and (study.told is None or study.told[0] <= touched):
            self._at(now + _ANSWER_SECONDS, "count", number, None)
        facts = self._facts(study, number)
        uid = str(number)
        decision = self._patience.look(uid, facts, now, lambda at: next(one for one in study.arrivals if one > at))
        if isinstance(decision, Complete):
            self._patience.close(uid)
            study.closed = (now, decision.basis)
        else:
            self._at(decision.until + 1e-6, "look", number, None)

    def _facts(self, study: _Study, number: int) -> Facts:
        assert study.last is not None
        here = sum(map(len, study.here.values()))
        counted = None
        if study.told is not None and study.told[0] > study.arrivals[-1] and study.told[1] >= here:
            counted = study.told[1] - here
        return Facts(
            sender=Sender(study.last.calling_ae, study.last.modality),
            touched_at=study.arrivals[-1],
            series=[_series(images) for images in study.here.values()],
            sending=number in self._open.values(),
            announced=self._announced(study),
            counted=counted,
            from_pacs=study.script.from_pacs,
        )

    def _announced(self, study: _Study) -> Announced:
        if not study.step:
            return Announced()
        script = study.script
        listed = {key for key in script.in_pacs if not script.step_series or key[0] in script.step_series}
        here = {(series, number) for series, images in study.here.items() for number in images}
        if study.step == "in progress":
            return Announced(in_progress=True, unlisted=len(here))
        return Announced(len(listed), len(listed - here), len(here - listed))

    def _in_pacs(self, study: _Study, now: float) -> int:
        return sum(study.start + at <= now for at in study.script.in_pacs.values())

    def _replayed(self, study: _Study) -> Replayed:
        assert study.closed is not None
        at, basis = study.closed
        told = self._evidence.steps and study.script.step is not None
        return Replayed(study.script.kind, study.wrong, at - study.arrivals[-1], str(basis), told)


def _series(images: dict[int, Image]) -> Series:
    one = next(iter(images.values()))
    return Series(
        modality=one.modality,
        instances=len(images),
        numbers=len(images),
        lowest=min(images),
        highest=max(images),
        stated=one.stated,
        frames=max(image.frames for image in images.values()),
    )


def summary(studies_: Sequence[Replayed]) -> dict[str, float]:
    """Share of wrong closes, and delays in seconds."""
    delays = sorted(study.delay for study in studies_)
    return {
        "studies": len(studies_),
        "wrong closes": sum(study.wrong for study in studies_),
        "wrong %": 100 * sum(study.wrong for study in studies_) / len(studies_),
        "median s": statistics.median(delays),
        "p95 s": p95(delays),
        "longest s": delays[-1],
    }


MODES: Final[dict[str, Evidence]] = {
    "ours, images alone": Evidence(),
    "ours, PACS counts": Evidence(counts=True),
    "ours, PACS counts and MPPS": Evidence(counts=True, steps=True),
}


def run(arguments: Sequence[str]) -> Report:
    """Replay all sets of senders and hold the figures against the targets."""
    parser = argparse.ArgumentParser(prog="scripts/bench completeness", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--held-out", type=int, nargs="+", default=[301, 302, 303, 304, 305], help="of drawn senders")
    parser.add_argument("--quiet", type=float, default=2.0, help="quiet_seconds of the site")
    options = parser.parse_args(arguments)
    sets = {
        "first set": {seed: studies(FIRST, 2 * STUDIES, seed) for seed in options.seeds},
        "second set": {seed: studies(SECOND, 2 * STUDIES, seed) for seed in options.seeds},
        "drawn, held out": {seed: studies(drawn(seed), 2 * STUDIES, seed, first=1) for seed in options.held_out},
    }
    runs: dict[str, list[dict[str, Any]]] = {}
    claims: list[Claim] = []
    table = Table("senders", "contender", "studies", "", "wrong", "wrong %", "median s", "p95 s", "longest s")
    for label, scripts in sets.items():
        by_timer = {seed: timed(some) for seed, some in scripts.items()}
        for mode in (*MODES, "timer of 60 s"):
            evidence = MODES.get(mode)
            found = (
                by_timer
                if evidence is None
                else {seed: replay(some, evidence, Bounds(options.quiet)) for seed, some in scripts.items()}
            )
            groups = {seed: _groups(some, by_timer[seed]) for seed, some in found.items()}
            runs[f"{label}: {mode}"] = [
                {"seed": seed} | {name: summary(some) for name, some in named.items()} for seed, named in groups.items()
            ]
            pooled = {
                name: summary([one for named in groups.values() for one in named.get(name, [])])
                for name in _names(groups)
            }
            for name, figures in pooled.items():
                table.add_row(label, mode, name, *(f"{value:.4g}" for value in figures.values()))
            table.add_section()
            if evidence is not None and not (evidence.counts and not evidence.steps):
                claims.append(at_most(f"{label}, {mode}, {_DECIDABLE}: wrong %", pooled[_DECIDABLE]["wrong %"], 1.0))
                claims.append(at_most(f"{label}, {mode}, {_ALL}: median s", pooled[_ALL]["median s"], 5.0))
    Console(width=170).print(table)
    return Report(runs, claims)


_ALL: Final = "first 200"
_DECIDABLE: Final = "of these, pauses of a minute or told of"


def _groups(found: Sequence[Replayed], by_timer: Sequence[Replayed]) -> dict[str, list[Replayed]]:
    """One seed's studies by what is asked of them; the kinds are of all of them."""
    cold = found[:STUDIES]
    groups = {
        _ALL: [*cold],
        _DECIDABLE: [one for one, timer in zip(cold, by_timer, strict=False) if one.told or not timer.wrong],
        "next 200": [*found[STUDIES:]],
    }
    for one in found:
        groups.setdefault(one.kind, []).append(one)
    return groups


def _names(groups: dict[int, dict[str, list[Replayed]]]) -> list[str]:
    return list(dict.fromkeys(name for named in groups.values() for name in named))
