"""How a version does, from what hospitals told: each figure with its interval, its patients, its stream and tier. Pure.

Counts of one stream and tier are added up over a hospital's releases, and over hospitals; never over tiers, nor over
streams but for the second reads, which stand for all patients by the probability with which they were drawn. Where
right and wrong are kept back, what is told besides says between which numbers they lie, and the interval is that of
the worst and of the best of them.

Sources: Clopper & Pearson, Biometrika 1934 (intervals); Horvitz & Thompson, JASA 1952, and a linearised ratio on the
logit scale (second reads); Spiegelhalter, Statistics in Medicine 2005 (funnel).
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from scipy.special import bdtr, ndtri

from models.stats.disclosure import LEAST
from models.stats.intervals import UNKNOWN, Estimate, proportion
from models.stats.release import TABLES, Column, Line, Stream, Tier, Truth

Rate = Literal["sensitivity", "specificity"]
Basis = Literal["exact", "bounds", "weighted", "insufficient"]
Standing = Literal["inside", "low", "high", "very low", "very high", ""]
RATES: Final[Mapping[str, Rate]] = {"with": "sensitivity", "without": "specificity"}
WEIGHTED: Final = "second reads"
_SECOND: Final[tuple[Stream, ...]] = ("discordant", "double-positive", "double-negative")
_STREAMS: Final = ("random", WEIGHTED, "routine")
_TIERS: Final[tuple[Tier, ...]] = (
    "biopsy",
    "follow_up",
    "blind_consensus",
    "single_reader",
    "report",
    "ai_visible",
)
_LIMITS: Final = (0.025, 0.001)  # of one side: 95 % and 99.8 %


@dataclass(frozen=True, slots=True)
class Figure:
    """One rate.

    Attributes:
        site: a hospital; empty: all of them.
        stream: as in models.stats.release, or `second reads`, weighted.
        group: `all`, or one group of patients.
        n: patients it rests on; 0: fewer than eleven, or none told yet.
        estimate: with its 95 % interval; of bounds, the value is not known.
        basis: bounds: right and wrong are kept back where they are few; insufficient: see n.
        standing: of a hospital, where it lies in the funnel around those whose counts are known: outside 95 %, or
            (very) 99.8 %.
    """

    rate: Rate
    site: str
    stream: str
    tier: Tier
    group: str
    n: int
    estimate: Estimate
    basis: Basis
    standing: Standing = ""


@dataclass(frozen=True, slots=True)
class Count:
    """Patients, and how many of them were answered rightly: at least and at most."""

    n: int
    least: int
    most: int

    def __add__(self, other: "Count") -> "Count":
        return Count(self.n + other.n, self.least + other.least, self.most + other.most)

    @property
    def exact(self) -> bool:
        return self.least == self.most


NONE: Final = Count(0, 0, 0)
Key = tuple[Column, str]


def counts(lines: Sequence[Line]) -> dict[Key, Count]:
    """What one release says, by column and group."""
    by_column: dict[Column, dict[str, Line]] = defaultdict(dict)
    for line in lines:
        by_column[line.column][line.group] = line
    found: dict[Key, Count] = {}
    for column, by_group in by_column.items():
        every = by_group["all"]
        found[column, "all"] = _whole(every)
        for groups in TABLES.values():
            table = [by_group[group] for group in groups if group in by_group]
            for line in table:
                found[column, line.group] = _part(line, table, found[column, "all"])
    return found


def _whole(line: Line) -> Count:
    if line.column.one_sided:
        right = line.n if (line.column.stream == "double-positive") is (line.column.truth == "with") else 0
        return _near(line, right)
    if line.right is not None:
        return _near(line, line.right)
    few = LEAST - 1 + line.noise
    match line.few:
        case "wrong":
            return Count(line.n, max(0, line.n - few), line.n)
        case "right":
            return Count(line.n, 0, min(line.n, few))
        case _:
            return Count(line.n, 0, line.n)


def _near(line: Line, right: int) -> Count:
    """So many right answers, as far as noise lets it be known."""
    return Count(line.n, max(0, right - line.noise), min(line.n, right + line.noise))


def _part(line: Line, table: Sequence[Line], whole: Count) -> Count:
    if line.right is not None:
        return _near(line, line.right)
    if line.noise:  # tables with noise do not add up, and prove nothing of what is kept back
        return Count(line.n, 0, line.n)
    silent = sum(one.n for one in table if one.right is None)
    said = sum(one.right for one in table if one.right is not None)
    least, most = whole.least - said, whole.most - said  # right among the silent ones
    return Count(line.n, max(0, least - (silent - line.n)), min(line.n, most))


def added(releases: Iterable[Sequence[Line]]) -> dict[Key, Count]:
    """Several releases together; no patient is in two of them."""
    found: dict[Key, Count] = defaultdict(lambda: NONE)
    for lines in releases:
        for key, count in counts(lines).items():
            found[key] += count
    return dict(found)


def figures(by_site: Mapping[str, Iterable[Sequence[Line]]]) -> list[Figure]:
    """Every figure of a version: of all hospitals first, then of each, over all patients and by group.

    Args:
        by_site: the lines of each release.
    """
    each = {site: added(releases) for site, releases in by_site.items()}
    every: dict[Key, Count] = defaultdict(lambda: NONE)
    for own in each.values():
        for key, count in own.items():
            every[key] += count
    whole = _of("", dict(every))
    found = list(whole)
    for site in sorted(each):
        found += _of(site, each[site])
    around = {key: reference([one for one in found if _sheet(one) == key]) for key in {_sheet(one) for one in whole}}
    return [_placed(one, around[_sheet(one)]) if one.site else one for one in found]


def reference(figures: Sequence[Figure]) -> Estimate:
    """What hospitals are compared with: those whose counts are known, together; unknown where there is no other.

    Args:
        figures: of one rate, stream, tier and group.
    """
    exact = [one for one in figures if one.site and one.basis == "exact"]
    if len(exact) < 2:
        return UNKNOWN
    return proportion(sum(round(one.estimate.value * one.n) for one in exact), sum(one.n for one in exact))


def limits(value: float, n: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """Between which shares of n patients a rate lies by chance, 95 and 99.8 %: (low, high) each."""
    found: list[tuple[float, float]] = []
    for tail in _LIMITS:
        spread = float(ndtri(1 - tail)) * math.sqrt(value * (1 - value) / n)
        found.append((max(0.0, value - spread), min(1.0, value + spread)))
    return found[0], found[1]


def _of(site: str, found: Mapping[Key, Count]) -> list[Figure]:
    plain = [
        _figure(site, column, group, count)
        for (column, group), count in found.items()
        if not column.one_sided and column.stream != "discordant"
    ]
    return sorted([*_weighted(site, found), *plain], key=_order)


def _figure(site: str, column: Column, group: str, count: Count) -> Figure:
    low, high = proportion(count.least, count.n), proportion(count.most, count.n)
    value = low.value if count.exact else math.nan
    basis: Basis = "exact" if count.exact else "bounds"
    estimate = Estimate(value, low.low, high.high)
    return Figure(RATES[column.truth], site, column.stream, column.tier, group, count.n, estimate, basis)


def _weighted(site: str, found: Mapping[Key, Count]) -> list[Figure]:
    """By the second reads of all three kinds, each patient for as many as were drawn from; of all patients alone."""
    own = [(column, count) for (column, group), count in found.items() if group == "all" and column.stream in _SECOND]
    tiers: list[tuple[Tier, Truth]] = sorted({(column.tier, column.truth) for column, _ in own})
    made: list[Figure] = []
    for tier, truth in tiers:
        parts = [(column, count) for column, count in own if (column.tier, column.truth) == (tier, truth)]
        kinds, known = {column.stream for column, _ in parts}, sum(count.n for _, count in parts)
        estimate, basis = UNKNOWN, "insufficient"
        if kinds == set(_SECOND) and all(count.exact and column.inclusion for column, count in parts):
            estimate, basis = _ratio([(100 / column.inclusion, count) for column, count in parts]), "weighted"
        made.append(Figure(RATES[truth], site, WEIGHTED, tier, "all", known, estimate, basis))
    return made


def _ratio(parts: Sequence[tuple[float, Count]]) -> Estimate:
    whole = sum(weight * count.n for weight, count in parts)
    value = sum(weight * count.least for weight, count in parts) / whole
    if not 0 < value < 1:
        return UNKNOWN
    variance = sum(
        weight**2 * (count.least * (1 - value) ** 2 + (count.n - count.least) * value**2) for weight, count in parts
    )
    spread = float(ndtri(0.975)) * math.sqrt(variance) / whole / (value * (1 - value))
    logit = math.log(value / (1 - value))
    return Estimate(value, 1 / (1 + math.exp(spread - logit)), 1 / (1 + math.exp(-spread - logit)))


def _sheet(one: Figure) -> tuple[str, str, str, str]:
    return one.rate, one.stream, one.tier, one.group


def _placed(one: Figure, around: Estimate) -> Figure:
    """With its place in the funnel, where it and what it is compared with are known."""
    if one.basis != "exact" or math.isnan(around.value):
        return one
    right = round(one.estimate.value * one.n)
    below = float(bdtr(right, one.n, around.value))
    above = 1 - float(bdtr(right - 1, one.n, around.value)) if right else 1.0
    standing: Standing = "inside"
    if below < _LIMITS[0]:
        standing = "very low" if below < _LIMITS[1] else "low"
    elif above < _LIMITS[0]:
        standing = "very high" if above < _LIMITS[1] else "high"
    return replace(one, standing=standing)


def _order(one: Figure) -> tuple[int, int, str, int, str]:
    """The random sample first; the best truth first."""
    table = next((n for n, groups in enumerate(TABLES.values(), 1) if one.group in groups), 0)
    return _STREAMS.index(one.stream), _TIERS.index(one.tier), one.rate, table, one.group
