"""The watch over simulated years of one hospital, against monitors that others offer: alarms, then changed studies.

Alarms.

2,000 exams of the random sample a year, validated one after the other; how they are watched is `client.vigilance.harm`.
Three in ten exams show the finding; of these 16 % are missed, and 7.4 % of the others called: an error in one exam of
ten. Exactly that is tolerated, which is the hardest for false alarms.

- tolerated: nothing changes; after an alarm the watch begins anew.
- season: 4 to 10 % errors over the year, never more than is tolerated.
- prevalence: half as many findings again from the first year's end on; each is found as before.
- 15 %, 20 %, 30 %: after one clean year the version errs so often, in either kind of exam.
- missed: after one clean year it misses twice as many.
- ramp: from 10 to 20 % within half a year.
- late: as 20 %, each truth known after 0 to 90 days, and looked at once a week; counted are the exams made by then. A
  fifth of the runs.

Contenders, on the same exams: MAPIE's risk monitor (its time-uniform bound on the error rate above what is tolerated,
at its default level), and two tests as Evidently sets them for a number's drift, once a day on the errors of the last
30 days against the first 90: Kolmogorov-Smirnov (p < 0.05) and the population stability index (0.1 or more).

Changed studies: see `scripts/benchmarks/causes.py`; a version elsewhere: `scripts/benchmarks/transfer.py`. Aggregates
are not in it yet.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import ks_2samp

from client.vigilance import harm
from client.vigilance.exams import Exam
from configs.schema import WatchConfig
from models.stats.detector import YEAR, follow, staked
from models.stats.intervals import Floats
from scripts.benchmarks import causes, transfer
from scripts.benchmarks.options import positive
from scripts.benchmarks.report import Claim, Report, at_least, at_most

_A_YEAR: Final = 2000
_PREVALENCE: Final = 0.3
_MISSED: Final = 0.16
_FALSE: Final = 0.052 / 0.7  # with the prevalence, one exam in ten errs
_ERRORS: Final = 0.1
_TOLERATED: Final = {harm.MISSED: _MISSED, harm.FALSE_POSITIVE: _FALSE}
_DAY: Final = 86400.0
_LATEST: Final = 90 * _DAY
_EVERY: Final = _A_YEAR // 365  # exams a day
_REFERENCE: Final = 90  # days of the drift tests
_WINDOW: Final = 30
_FEW: Final = 0.02  # of the runs are enough for what takes a second each


@dataclass(frozen=True, slots=True)
class Story:
    """What happens to a version.

    Attributes:
        errors: how often it errs after the change, as a share of all exams.
        missed: how many times as many it misses then.
        ramp: exams over which the change comes.
        harmful: an alarm is due.
    """

    name: str
    errors: float = 0.1
    missed: float = 1.0
    prevalence: float = _PREVALENCE
    season: bool = False
    ramp: int = 0
    late: bool = False
    harmful: bool = True


_STORIES: Final = (
    Story("tolerated", harmful=False),
    Story("season", season=True, harmful=False),
    Story("prevalence", prevalence=0.45, harmful=False),
    Story("15 %", 0.15),
    Story("20 %", 0.20),
    Story("30 %", 0.30),
    Story("missed", missed=2.0),
    Story("ramp", 0.20, ramp=_A_YEAR // 2),
    Story("late", 0.20, late=True),
)
_TARGETS: Final = {"15 %": 500, "20 %": 160}


@dataclass(frozen=True, slots=True)
class Lived:
    """Exams of one hospital: (N,) the truth, and whether the version was wrong."""

    truth: NDArray[np.bool_]
    wrong: NDArray[np.bool_]

    def part(self, begin: int, end: int | None = None) -> "Lived":
        return Lived(self.truth[begin:end], self.wrong[begin:end])


def run(arguments: Sequence[str]) -> Report:
    """Simulate, print the table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench vigilance", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--years", type=positive, default=5000, help="site-years in which nothing changes")
    parser.add_argument("--runs", type=positive, default=500, help="of each change, two years after a clean one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--part", choices=("all", "alarms", "changes", "transfer"), default="all")
    parser.add_argument("--changes", type=positive, default=12, help="runs of each cause and hospital")
    parser.add_argument("--quiet-years", type=positive, default=120, help="in which studies do not change")
    data = Path(os.environ.get("VIGIE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data, help="folder that holds cxr/manifest.csv")
    parser.add_argument("--threads", type=positive, default=2, help="of the training of `transfer`")
    options = parser.parse_args(arguments)
    figures, claims = dict[str, Any](), list[Claim]()
    if options.part in ("all", "alarms"):
        figures["vigilance"] = rows = _alarms(options)
        claims += _good(rows)
    if options.part in ("all", "changes"):
        changed, good = causes.run(options.data, options.changes, options.quiet_years, options.seed)
        figures |= changed
        claims += good
    if options.part in ("all", "transfer"):
        moved, good = transfer.run(options.data, options.seed, options.threads)
        figures |= moved
        claims += good
    return Report(figures, claims)


def _alarms(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for story in _STORIES:
        draw = np.random.default_rng([options.seed, _STORIES.index(story)])
        if story.harmful:
            rows.append(_found(story, max(1, options.runs // 5) if story.late else options.runs, draw))
        else:
            rows.append(_left_alone(story, options.years if story.name == "tolerated" else options.years // 5, draw))
    _show(rows)
    return rows


def _good(rows: Sequence[dict[str, Any]]) -> list[Claim]:
    by_name = {row["story"]: row for row in rows}
    claims = [
        at_most(f"{row['story']}: false alarms a year and hospital", row["a year"], 0.1)
        for row in rows
        if not row["harmful"]
    ]
    claims += [
        at_most(f"{name}: exams until the alarm, median", by_name[name]["median"], target)
        for name, target in _TARGETS.items()
    ]
    return [
        *claims,
        at_least(
            "20 %: MAPIE's exams until the alarm, over ours",
            by_name["20 %"]["MAPIE median"] / by_name["20 %"]["median"],
            1.0,
        ),
    ]


def _left_alone(story: Story, years: int, draw: np.random.Generator) -> dict[str, Any]:
    """How often each monitor rings although all is as it should be."""
    ours = others = 0
    five, few = max(1, years // 5), max(2, round(_FEW * years / 5))
    tests = {"KS": 0, "PSI": 0}
    for number in track(range(five), story.name, transient=True):
        lived = _lived(story, 5 * _A_YEAR, _A_YEAR, draw)
        ours += _rings(lived)
        if number < few:
            others += _mapie(lived) is not None
            for name, rung in _drifts(lived).items():
                tests[name] += rung
    return {
        "story": story.name,
        "harmful": False,
        "years": 5 * five,
        "a year": ours / (5 * five),
        "MAPIE a year": others / (5 * few),
        **{f"{name} a year": rung / (5 * few) for name, rung in tests.items()},
    }


def _found(story: Story, runs: int, draw: np.random.Generator) -> dict[str, Any]:
    """How many exams after the change each monitor rings; infinite where it does not within two years."""
    ours, others = list[float](), list[float]()
    early = 0
    for number in track(range(runs), story.name, transient=True):
        lived = _lived(story, 3 * _A_YEAR, _A_YEAR, draw)
        alarm = _late(lived, draw) if story.late else _watch(lived)
        if alarm is not None and alarm < _A_YEAR:
            early += 1
        else:
            ours.append(np.inf if alarm is None else alarm - _A_YEAR)
        if number < max(5, round(_FEW * runs)):
            bound = _mapie(lived)
            others.append(np.inf if bound is None else max(bound - _A_YEAR, 0))
    return {
        "story": story.name,
        "harmful": True,
        "runs": runs,
        "false before": early / runs,
        "median": float(np.median(ours)),
        "nine in ten": float(np.quantile(ours, 0.9)),
        "MAPIE median": float(np.median(others)),
    }


def _lived(story: Story, count: int, change: int, draw: np.random.Generator) -> Lived:
    after = np.clip((np.arange(count) - change + 1) / max(story.ramp, 1), 0, 1)
    truth = draw.random(count) < _PREVALENCE + after * (story.prevalence - _PREVALENCE)
    times = 1 + after * (story.errors / 0.1 - 1)
    if story.season:
        times = 0.7 + 0.3 * np.sin(2 * np.pi * np.arange(count) / _A_YEAR)
    missed = _MISSED * (1 + after * (story.missed - 1))
    return Lived(truth, draw.random(count) < times * np.where(truth, missed, _FALSE))


def _watch(lived: Lived, known: NDArray[np.bool_] | None = None) -> int | None:
    """The exam at which the product's alarm comes."""
    count = len(lived.truth)
    due = staked((np.arange(count) + 1) * YEAR / _A_YEAR, 0.0, WatchConfig().false_alarms)
    return follow(_TOLERATED, list(harm.bets(_TOLERATED).values()), _values(lived, known), due).alarm


def _values(lived: Lived, known: NDArray[np.bool_] | None) -> Floats:
    """What the product makes of each of the few kinds of exam, for all of them at once."""
    kinds = [
        Exam("", "", 0.0, truth is not wrong, truth if told else None)
        for truth in (False, True)
        for wrong in (False, True)
        for told in (False, True)
    ]
    told = np.ones(len(lived.truth), bool) if known is None else known
    which = 4 * lived.truth.astype(int) + 2 * lived.wrong.astype(int) + told.astype(int)
    return harm.values(list(_TOLERATED), kinds)[which]


def _rings(lived: Lived) -> int:
    """How often it rings, where the watch begins anew each time."""
    rung, begin = 0, 0
    while (alarm := _watch(lived.part(begin))) is not None:
        rung += 1
        begin += alarm + 1
        if begin >= len(lived.truth):
            break
    return rung


def _late(lived: Lived, draw: np.random.Generator) -> int | None:
    """How many exams were made when the alarm came, where truths come late."""
    count = len(lived.truth)
    at = (np.arange(count) + 1) * YEAR / _A_YEAR
    known_at = at + draw.uniform(0, _LATEST, count)
    for now in np.arange(at[_A_YEAR // 2], at[-1], 7 * _DAY):
        made = int(np.searchsorted(at, now))
        if _watch(lived.part(0, made), known_at[:made] <= now) is not None:
            return made
    return None


def _mapie(lived: Lived) -> int | None:
    """The exam at which MAPIE's lower bound of the error rate is first above what is tolerated."""
    from mapie.exchangeability_testing import RiskMonitoring  # for this bench alone: scripts/install gives it

    monitor = RiskMonitoring(risk="accuracy", threshold=_ERRORS, warn=False)
    truth = lived.truth.astype(int)
    monitor.update(truth, np.where(lived.wrong, 1 - truth, truth))
    above = np.flatnonzero(monitor.online_risk_lower_bound_sequence_history > _ERRORS)
    return int(above[0]) if len(above) else None


def _drifts(lived: Lived) -> dict[str, int]:
    """On how many days each test calls drift."""
    wrong = lived.wrong.astype(float)
    reference = wrong[: _REFERENCE * _EVERY]
    rung = {"KS": 0, "PSI": 0}
    for day in range(_REFERENCE + _WINDOW, len(wrong) // _EVERY):
        current = wrong[(day - _WINDOW) * _EVERY : day * _EVERY]
        found: Any = ks_2samp(reference, current)
        rung["KS"] += bool(found.pvalue < 0.05)
        rung["PSI"] += _stability(reference, current) >= 0.1
    return rung


def _stability(reference: Floats, current: Floats) -> float:
    """The population stability index of a share, no cell empty."""
    one, other = (np.clip(part.mean(), 1e-4, 1 - 1e-4) for part in (reference, current))
    return float((other - one) * np.log(other / one) + (one - other) * np.log((1 - other) / (1 - one)))


def _show(rows: Sequence[dict[str, Any]]) -> None:
    quiet = Table("nothing to alarm", "site-years", "false alarms a year", "MAPIE", "KS", "PSI")
    changed = Table("after a clean year", "runs", "false before", "exams, median", "nine in ten", "MAPIE, median")
    for row in rows:
        if row["harmful"]:
            figures = (row["median"], row["nine in ten"], row["MAPIE median"])
            changed.add_row(
                row["story"], str(row["runs"]), f"{row['false before']:.3f}", *(f"{value:.0f}" for value in figures)
            )
        else:
            figures = (row["a year"], row["MAPIE a year"], row["KS a year"], row["PSI a year"])
            quiet.add_row(row["story"], str(row["years"]), *(f"{value:.3f}" for value in figures))
    Console().print(quiet)
    Console().print(changed)
