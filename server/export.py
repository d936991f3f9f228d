"""What a vendor is shown of a version, arranged once for pages, CSV, JSON and PDF; hospitals under pseudonyms."""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from models.stats.release import Line
from server import pooled, statistics, vendors
from server.performance import Figure, figures
from server.statistics import Version
from server.vendors import Vendor

STREAMS: Final = {
    "random": "Random sample, drawn before anybody read",
    "routine": "Routine, judged by whoever read them",
    "second reads": "Second reads, weighted by how they were drawn",
}
TIERS: Final = {
    "ai_visible": "reader who saw the AI's answer",
    "report": "report",
    "single_reader": "one reader, AI hidden",
    "blind_consensus": "blind consensus",
    "follow_up": "follow-up",
    "biopsy": "biopsy",
}
BASES: Final = {
    "exact": "counts",
    "bounds": "bounds: under 11 somewhere, or noise",
    "weighted": "weighted",
    "insufficient": "insufficient",
}


@dataclass(frozen=True, slots=True)
class Sheet:
    """One rate of one stream and tier.

    Attributes:
        whole: all hospitals, all patients.
        sites: each hospital, all patients.
        groups: all hospitals, by group.
        months: all hospitals, by the month in which they told it; `site` is that month.
    """

    whole: Figure
    sites: tuple[Figure, ...]
    groups: tuple[Figure, ...]
    months: tuple[Figure, ...]

    @property
    def title(self) -> str:
        return f"{self.whole.rate.capitalize()}: {STREAMS[self.whole.stream]}; truth by {TIERS[self.whole.tier]}"


@dataclass(frozen=True, slots=True)
class Exhibit:
    """All that is known of a version.

    Attributes:
        hospitals: of which something was told, by pseudonym, with the months of their releases, oldest first.
        months: figures of all hospitals by the month in which they were told.
        untold: hospitals that have told nothing of it; why is theirs.
        alarms: over all hospitals together: when, and what they said.
    """

    version: Version
    figures: tuple[Figure, ...]
    months: tuple[Figure, ...]
    hospitals: dict[str, tuple[int, ...]]
    untold: int
    alarms: tuple[tuple[float, str], ...]

    def sheets(self) -> list[Sheet]:
        """In the order in which they are shown."""
        found: list[Sheet] = []
        for whole in self.figures:
            if whole.site or whole.group != "all":
                continue
            own = [one for one in self.figures if _sheet(one) == _sheet(whole)]
            found.append(
                Sheet(
                    whole,
                    tuple(one for one in own if one.site and one.group == "all"),
                    tuple(one for one in own if not one.site and one.group != "all"),
                    tuple(one for one in self.months if _sheet(one) == _sheet(whole)),
                )
            )
        return found


def exhibit(folder: Path, vendor: Vendor, version: Version) -> Exhibit:
    """What a vendor may see of a version, which has to be theirs.

    Args:
        folder: the coordinator's.
    """
    names: dict[str, list[statistics.Told]] = {}
    for one in statistics.told(folder, version.digest):
        names.setdefault(vendors.pseudonym(folder, vendor.name, one.site), []).append(one)
    silent = statistics.silent(folder, version.digest)
    untold = {vendors.pseudonym(folder, vendor.name, site) for site in silent} - set(names)
    found = figures({site: [one.lines for one in releases] for site, releases in names.items()})
    months: dict[str, list[Sequence[Line]]] = {}
    for one in statistics.told(folder, version.digest):
        months.setdefault(f"{one.period // 100}-{one.period % 100:02}", []).append(one.lines)
    by_month = [one for one in figures(months) if one.site and one.group == "all"]
    return Exhibit(
        version,
        tuple(found),
        tuple(sorted((replace(one, standing="") for one in by_month), key=lambda one: one.site)),
        {site: tuple(sorted(one.period for one in releases)) for site, releases in sorted(names.items())},
        len(untold),
        tuple(pooled.raised(folder, version.digest)),
    )


def rows(found: Exhibit) -> Iterator[dict[str, Any]]:
    """Every figure, flat."""
    for one in found.figures:
        yield {
            "version": found.version.label,
            "digest": found.version.digest,
            "rate": one.rate,
            "hospital": one.site or "all",
            "stream": one.stream,
            "truth_tier": one.tier,
            "group": one.group,
            "n": one.n or "<11",
            "value": _number(one.estimate.value),
            "low_95": _number(one.estimate.low),
            "high_95": _number(one.estimate.high),
            "basis": one.basis,
            "standing": one.standing,
        }


def as_csv(found: Exhibit) -> str:
    """As a table."""
    file = io.StringIO()
    lines = list(rows(found))
    names = list(lines[0]) if lines else ["version"]
    writer = csv.DictWriter(file, names, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows(lines)
    return file.getvalue()


def as_json(found: Exhibit) -> dict[str, Any]:
    """As programs take it."""
    return {
        "version": found.version.label,
        "digest": found.version.digest,
        "hospitals": [{"hospital": site, "releases": list(months)} for site, months in found.hospitals.items()],
        "hospitals_without_figures": found.untold,
        "alarms": [{"at": at, "says": text} for at, text in found.alarms],
        "figures": list(rows(found)),
    }


def percent(share: float) -> str:
    """For people; empty where it is not known."""
    return "" if math.isnan(share) else f"{100 * share:.1f} %"


def between(one: Figure) -> str:
    """An interval, for people."""
    if math.isnan(one.estimate.low):
        return ""
    return f"{100 * one.estimate.low:.1f} to {100 * one.estimate.high:.1f} %"


def _sheet(one: Figure) -> tuple[str, str, str]:
    return one.rate, one.stream, one.tier


def _number(share: float) -> float | None:
    return None if math.isnan(share) else round(share, 4)
