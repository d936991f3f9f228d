"""The alarm over all hospitals together: whether a version has become worse than is tolerated, from what they told.

A hospital sees its own exams one by one and rings for itself; a change that is the same everywhere, and small at each,
is seen sooner together. Nothing is asked for it: it is bet on the releases of the random sample that hospitals tell
anyway, each of at least eleven patients a half, in the order in which they came, so that no single exam can be read
from it. Where a release keeps back how many were wrong, it counts as so few as they can have been: that takes evidence
away and never adds any. Only truths of those who did not see the AI's answer count.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from models.stats.detector import Bet, Course, follow_blocks, staked
from models.stats.release import Line, Tier
from server import statistics
from server.journal import Journal, read
from server.performance import NONE, Count, counts
from server.statistics import Told, Version

MISSED: Final = "missed"
FALSE_POSITIVE: Final = "false_positive"
TOLERATED: Final[Mapping[str, float]] = {MISSED: 0.2, FALSE_POSITIVE: 0.2}
"""As hospitals have it unless they set something else (configs.schema.WatchConfig)."""
A_YEAR: Final = 0.1
"""Alarms a year that may be false, of one version over all hospitals."""

_BETS: Final = (Bet((MISSED, FALSE_POSITIVE), 0.5), Bet((MISSED,), 0.25), Bet((FALSE_POSITIVE,), 0.25))
_SAID: Final = (
    "errs more often than is tolerated",
    "misses more of what is there than is tolerated",
    "calls more of what is not there than is tolerated",
)
_RATES: Final = {"with": MISSED, "without": FALSE_POSITIVE}
_BLIND: Final[frozenset[Tier]] = frozenset({"single_reader", "blind_consensus", "follow_up", "biopsy"})


@dataclass(frozen=True, slots=True)
class Pooled:
    """Where a version stands over all hospitals.

    Attributes:
        hospitals, releases: whose random samples it rests on.
        exams: patients, by rate.
        errors: at least, by rate.
        course: of the evidence, release by release; an alarm at 1.
    """

    hospitals: int
    releases: int
    exams: Mapping[str, int]
    errors: Mapping[str, int]
    course: Course

    @property
    def text(self) -> str:
        """The alarm, for people; empty where there is none."""
        if self.course.alarm is None:
            return ""
        claim = _SAID[int(np.argmax(self.course.evidence[self.course.alarm]))]
        counted = ((name.replace("_", " "), self.errors[name], self.exams[name]) for name in TOLERATED)
        told = ", ".join(f"{name} at least {errors} of {exams}" for name, errors, exams in counted)
        return f"{claim} over {self.hospitals} hospitals: {told}"


def pooled(told: Iterable[Told], since: float) -> Pooled:
    """Bet on releases in the order in which they came. Pure.

    Args:
        since: when the version was registered, seconds since the epoch.
    """
    blocks = [(one, _block(one.lines)) for one in sorted(told, key=lambda one: one.at)]
    blocks = [(one, block) for one, block in blocks if any(count.n for count in block.values())]
    table = np.array([[[block[name].n, block[name].n - block[name].most] for name in TOLERATED] for _, block in blocks])
    table = table.reshape(len(blocks), len(TOLERATED), 2).astype(np.float64)
    at = np.maximum.accumulate(np.array([max(one.at, since) for one, _ in blocks], dtype=np.float64))
    due = staked(at, since, A_YEAR) if blocks else at
    course = follow_blocks(TOLERATED, _BETS, table[:, :, 1], table[:, :, 0], due)
    sums = dict(zip(TOLERATED, table.sum(0).astype(int).tolist(), strict=True))
    return Pooled(
        len({one.site for one, _ in blocks}),
        len(blocks),
        {name: found[0] for name, found in sums.items()},
        {name: found[1] for name, found in sums.items()},
        course,
    )


def look(folder: Path, version: Version) -> Pooled:
    """Where a version stands.

    Args:
        folder: the coordinator's.
    """
    return pooled(statistics.told(folder, version.digest), statistics.begun(folder, version.digest))


def advance(folder: Path, versions: Sequence[Version]) -> list[tuple[Version, Pooled]]:
    """Write down the alarms that are due, once each, and say them."""
    found: list[tuple[Version, Pooled]] = []
    for version in versions:
        place = statistics.place(folder, version.digest)
        if any(row["step"] == "alarm" for row in read(place)):
            continue
        one = look(folder, version)
        if one.text:
            Journal(place).write("alarm", {"text": one.text, "releases": one.releases})
            found.append((version, one))
    return found


def raised(folder: Path, digest: str) -> list[tuple[float, str]]:
    """The alarms of a version: when, and what they said."""
    rows = read(statistics.place(folder, digest))
    return [(float(row["at"]), str(row["text"])) for row in rows if row["step"] == "alarm"]


def _block(lines: Sequence[Line]) -> dict[str, Count]:
    """What a release says of the random sample, over all tiers that are blind, by rate."""
    found = dict.fromkeys(TOLERATED, NONE)
    for (column, group), count in counts(lines).items():
        if column.stream == "random" and group == "all" and column.tier in _BLIND and not column.one_sided:
            found[_RATES[column.truth]] += count
    return found
