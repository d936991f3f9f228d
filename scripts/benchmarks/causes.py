"""The part of `vigilance` about studies that change: how soon a warning comes, whether it names the cause.

A hospital's studies are made of real radiographs (`drifting.py`): 600 are the reference, a clean year follows, then
one of six things happens. Limits and rules were chosen on guangzhou's radiographs; nih's and shenzhen's were not looked
at before. The truth of a study is known after 0 to 90 days. A cause may be named later than the warning comes, when
truths are known; one that is not named within a year counts as wrong.

Contender: each trait compared with the reference by Kolmogorov and Smirnov once a week, on the last 30 days, drift
where half of the traits differ (p < 0.05), as Evidently's preset does; it is followed for 600 studies after the change.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.stats import ks_2samp

from client.inference.traits import GREYS, NUMBERS, SCORE, Traits
from client.vigilance.causes import Cause, Seen, likely
from client.vigilance.monitor import Monitored, monitor
from configs.schema import WatchConfig
from models.stats.detector import YEAR, staked
from scripts.benchmarks import drifting
from scripts.benchmarks.drifting import A_YEAR, DRILLS, Change, Draw, Pool
from scripts.benchmarks.report import Claim, at_least, at_most

HOSPITALS: Final = ("nih", "shenzhen", "guangzhou")
_CAUSES: Final = tuple(cause for cause in Cause if cause is not Cause.UNKNOWN)
_FOLLOWED: Final = A_YEAR  # studies after the change
_LATEST: Final = 90.0  # days
_FIRST: Final = 600  # of them, in which the contender is followed too
_EVERY: Final = 30  # studies between two looks at the cause
_MONTH: Final = A_YEAR // 12
_PICTURES: Final = 800


@dataclass(frozen=True, slots=True)
class Ran:
    """One run; None: never, within the year.

    Attributes:
        warned: studies after the change until the warning; below 0 where it came before.
        named: until a cause was named.
        text: what the warning told.
    """

    warned: int | None
    named: int | None
    cause: Cause
    text: str
    contender: int | None


def run(data: Path, runs: int, years: int, seed: int) -> tuple[dict[str, Any], list[Claim]]:
    """Simulate, print the tables.

    Args:
        data: with `cxr/manifest.csv`.
        runs: of each cause and hospital.
        years: in which nothing happens, each after a reference of its own.
    """
    found: list[dict[str, Any]] = []
    drills: list[dict[str, Any]] = []
    quiet = {"years": 0, "warnings": 0, "contender": 0}
    for number, name in enumerate(HOSPITALS):
        pool = drifting.pool(*_pictures(data, name))
        for one in _left_alone(pool, max(1, years // len(HOSPITALS)), np.random.default_rng([seed, number]), name):
            quiet["years"] += 1
            quiet["warnings"] += one.warned is not None
            quiet["contender"] += one.contender is not None
        for cause in _CAUSES:
            draws = [np.random.default_rng([seed, number, _CAUSES.index(cause), run]) for run in range(runs)]
            ran = [_one(pool, draw, cause) for draw in track(draws, f"{name}: {cause}", transient=True)]
            found.append(_row(name, cause, ran))
        for drill, (change, word) in DRILLS.items():
            drills.append(_drill(pool, np.random.default_rng([seed, number, 99]), name, drill, change, word))
    _show(found, drills, quiet)
    claims = [at_most("drift: false warnings a year and hospital", quiet["warnings"] / quiet["years"], 0.1)]
    for name in HOSPITALS:
        rows = [row for row in found if row["hospital"] == name]
        claims.append(
            at_least(f"{name}: causes named right, share", float(np.mean([row["right"] for row in rows])), 0.8)
        )
    claims += [
        at_least(f"{cause}: named right, share of all hospitals' runs", _mean(found, cause), 0.8) for cause in _CAUSES
    ]
    claims.append(at_least("drills named right, share", float(np.mean([row["named"] for row in drills])), 1.0))
    return {"drift": found, "drills": drills, "quiet": quiet}, claims


def _mean(rows: Sequence[dict[str, Any]], cause: Cause) -> float:
    return float(np.mean([row["right"] for row in rows if row["cause"] == cause]))


def _pictures(data: Path, hospital: str) -> tuple[list[drifting.Picture], np.ndarray[Any, np.dtype[np.bool_]]]:
    with (data / "cxr" / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["site"] == hospital]
    np.random.default_rng(0).shuffle(rows)  # pyright: ignore[reportArgumentType] - a list is what it shuffles
    pictures: list[drifting.Picture] = []
    for row in rows[:_PICTURES]:
        with Image.open(data / "cxr" / row["file"]) as image:
            pictures.append(np.asarray(image.convert("L"), np.float32))
    return pictures, np.array([row["label"] == "abnormal" for row in rows[:_PICTURES]])


def _left_alone(pool: Pool, years: int, draw: Draw, name: str) -> Iterator[Ran]:
    for _ in track(range(years), f"{name}: nothing happens", transient=True):
        reference = WatchConfig().reference
        seen = drifting.studies(drifting.hospital(draw), pool, reference + A_YEAR, draw)
        found = _monitored(seen, reference)
        yield Ran(found.course.alarm, None, Cause.UNKNOWN, "", _tested(seen, reference, 0))


def _one(pool: Pool, draw: Draw, cause: Cause) -> Ran:
    here = drifting.hospital(draw)
    return _followed(pool, draw, here, drifting.happening(cause, here, draw), A_YEAR, _FOLLOWED)


def _followed(pool: Pool, draw: Draw, here: drifting.Hospital, change: Change, clean: int, after: int) -> Ran:
    """A run, as long as it takes until a cause is named."""
    reference = WatchConfig().reference
    begin = reference + clean
    lateness = draw.uniform(0, _LATEST, begin + after)
    coming = drifting.coming(here, pool, draw, change, begin)
    seen = list(islice(coming, begin + min(_FIRST, after)))
    contender = _tested(seen, reference, clean)
    while True:
        found = _monitored(seen, reference)
        warned = None if found.course.alarm is None else found.course.alarm - clean
        named = None if warned is None else _named(seen, found, reference, lateness)
        if named is not None:
            return Ran(warned, named[0] - begin, named[1], named[2], contender)
        if len(seen) >= begin + after:
            return Ran(warned, None, Cause.UNKNOWN, "", contender)
        seen += islice(coming, begin + after - len(seen))


def _named(
    seen: Sequence[Seen], found: Monitored, reference: int, lateness: np.ndarray[Any, np.dtype[np.float64]]
) -> tuple[int, Cause, str] | None:
    """After how many studies a cause is named, which, and by what; None where none is."""
    assert found.course.alarm is not None
    assert found.change is not None
    for now in range(reference + found.course.alarm, len(seen), _EVERY):
        told = (now - np.arange(now + 1)) * 365.25 / A_YEAR >= lateness[: now + 1]
        known = [one if there else replace(one, truth=None) for one, there in zip(seen[: now + 1], told, strict=True)]
        cause, rests = likely(known[:reference], known[reference + found.change :])
        if cause is not Cause.UNKNOWN:
            return now, cause, "; ".join(one.text for one in rests)
    return None


def _monitored(seen: Sequence[Seen], reference: int) -> Monitored:
    due = staked((np.arange(len(seen) - reference) + 1) * YEAR / A_YEAR, 0.0, WatchConfig().false_warnings)
    return monitor([one.traits for one in seen], reference, due)


def _tested(seen: Sequence[Seen], reference: int, clean: int) -> int | None:
    """Studies after the change until half of the traits differ; None where they never do."""
    names = [name for name in (*NUMBERS, *GREYS, SCORE) if any(name in one.traits.numbers for one in seen)]
    table = np.array([_numbers(one.traits, names) for one in seen])
    for now in range(reference + _MONTH, len(seen), A_YEAR // 52):
        differ = [_differs(table[:reference, n], table[now - _MONTH : now, n]) for n in range(len(names))]
        if np.mean(differ) >= 0.5:
            return now - reference - clean
    return None


def _numbers(traits: Traits, names: Sequence[str]) -> list[float]:
    return [traits.numbers.get(name, -1.0) for name in names]


def _differs(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    tested: Any = ks_2samp(one, other, method="asymp")
    return bool(tested.pvalue < 0.05)


def _drill(pool: Pool, draw: Draw, hospital: str, name: str, change: Change, word: str) -> dict[str, Any]:
    ran = _followed(pool, draw, replace(drifting.hospital(draw), silent=frozenset()), change, 300, 300)
    return {
        "hospital": hospital,
        "drill": name,
        "warned": ran.warned,
        "cause": str(ran.cause),
        "text": ran.text,
        "named": ran.cause is change.cause and word in ran.text,
    }


def _row(hospital: str, cause: Cause, ran: Sequence[Ran]) -> dict[str, Any]:
    warned = [np.inf if one.warned is None else one.warned for one in ran if one.warned is None or one.warned >= 0]
    named = [np.inf if one.named is None else one.named for one in ran]
    others = [one.contender for one in ran if one.contender is None or one.contender >= 0]
    return {
        "hospital": hospital,
        "cause": str(cause),
        "runs": len(ran),
        "before": float(np.mean([one.warned is not None and one.warned < 0 for one in ran])),
        "warned": float(np.median(warned)) if warned else float("nan"),
        "named": float(np.median(named)),
        "right": float(np.mean([one.cause is cause for one in ran])),
        "called": {str(other): sum(one.cause is other for one in ran) for other in Cause},
        "KS before": float(np.mean([one.contender is not None and one.contender < 0 for one in ran])),
        "KS warned": float(np.median([np.inf if one is None else one for one in others])) if others else float("nan"),
    }


def _show(rows: Sequence[dict[str, Any]], drills: Sequence[dict[str, Any]], quiet: dict[str, int]) -> None:
    table = Table(
        "hospital", "what changed", "runs", "warned before", "studies to the warning", "to the cause", "right"
    )
    table.add_column("KS: before")
    table.add_column("studies")
    for row in rows:
        figures = (f"{row['before']:.2f}", f"{row['warned']:.0f}", f"{row['named']:.0f}", f"{row['right']:.0%}")
        contender = (f"{row['KS before']:.2f}", f"{row['KS warned']:.0f}")
        table.add_row(row["hospital"], row["cause"], str(row["runs"]), *figures, *contender)
    Console().print(table)
    said = Table("drill", "hospital", "studies to the warning", "named", "told")
    for row in drills:
        said.add_row(row["drill"], row["hospital"], str(row["warned"]), row["cause"], row["text"][:90])
    Console().print(said)
    print(
        f"nothing happens, {quiet['years']} years: {quiet['warnings'] / quiet['years']:.3f} false warnings a year, "
        f"Kolmogorov-Smirnov's in {quiet['contender'] / quiet['years']:.0%} of the years"
    )
