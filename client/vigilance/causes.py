"""Why the studies that come have changed: what is different about them, and the likely cause. Pure.

Two groups of studies are compared trait by trait: those of the reference and those since the change. What headers say
goes before what pixels say, for a new machine changes the pixels too; what tells of the machine goes before what tells
of the patients, for it is the same for all of them. What is left when neither has changed is in the patients' images:
among those alone who have the finding, and no more of them than before, a therapy; else something new.

A cause is likely, never certain; a person is told what it rests on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from scipy.stats import kstwo, norm

from client.inference.traits import (
    DOSE,
    GREYS,
    LOOK,
    MEANINGS,
    NUMBERS,
    PIXELS,
    POPULATION,
    SCORE,
    SOFTWARE,
    TECHNIQUE,
    WORDS,
    Traits,
)
from models.stats.intervals import Floats

FEWEST: Final = 10  # studies since the change, for anything to be said of its cause
_EFFECT: Final = 0.12  # share of the studies that are different, at least
_CERTAIN: Final = 2e-5
_MOST: Final = 0.4  # of a machine's studies: a change of the machine, and not of some patients
_SURE: Final = 1.0  # standard errors
_GIVE: Final = 0.25
_SURELY: Final = 2.5  # standard errors
_ALIKE: Final = 0.6  # of the most unlike's difference, the least unlike's
_ALONG: Final = 25  # studies of a machine
_KNOWN: Final = 30  # truths
_FEW: Final = 8  # of either kind
_FOLDS: Final = 4
_APART: Final = 3.0  # standard errors
_EVIDENCE: Final = 2.5  # natural logarithm of the odds
_MANY: Final = 150  # truths: the likelier of the two is said, however close
_EQUIPMENT: Final = ("maker", "model", "device")
_CURVE: Final = ("dark", "low", "middle", "high", "spread", "black", "white")
_GRAIN: Final = ("noise", "sharp", "edges")


class Cause(StrEnum):
    """Of a change, by what a hospital would do about it."""

    TECHNIQUE = "acquisition technique"
    SOFTWARE = "embedded software"
    DOSE = "contrast or dose"
    THERAPY = "therapy"
    DISEASE = "emerging disease"
    POPULATION = "population"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Difference:
    """One trait that is different.

    Attributes:
        trait: by its name in `MEANINGS`; or `look`.
        group: to which it belongs.
        share: of the studies that differ, at least: 0 to 1.
        rising: numbers are larger than they were.
        text: for a person.
    """

    trait: str
    group: str
    share: float
    rising: bool
    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One study, as far as a cause may rest on it.

    Attributes:
        truth: whether the finding is there; None: not known (yet).
    """

    traits: Traits
    truth: bool | None = None


def differences(before: Sequence[Traits], after: Sequence[Traits]) -> tuple[Difference, ...]:
    """What differs between two groups of studies, the largest difference first."""
    found = [_of_words(name, before, after) for name in WORDS]
    found += [_of_numbers(name, before, after) for name in (*NUMBERS, *GREYS, SCORE)]
    found.append(_of_looks(before, after))
    return tuple(sorted((one for one in found if one is not None), key=lambda one: -one.share))


def likely(before: Sequence[Seen], after: Sequence[Seen]) -> tuple[Cause, tuple[Difference, ...]]:
    """The likely cause of a change, and what it rests on, largest first.

    Args:
        before: studies of the reference.
        after: since the change.
    """
    if min(len(before), len(after)) < FEWEST:
        return Cause.UNKNOWN, ()
    found = differences([one.traits for one in before], [one.traits for one in after])
    groups = {one.group for one in found}
    if any(one.trait in _EQUIPMENT for one in found):
        return Cause.TECHNIQUE, found
    if SOFTWARE in groups or DOSE in groups:
        shares = {group: max((one.share for one in found if one.group == group), default=0.0) for group in groups}
        return (Cause.DOSE if shares.get(DOSE, 0.0) > shares.get(SOFTWARE, 0.0) else Cause.SOFTWARE), found
    if TECHNIQUE in groups:
        return Cause.TECHNIQUE, found
    if (share := _turned(before, after)) > _EFFECT:
        text = f"pictures inverted, mirrored or upside down: {share:.0%} are not bright where pictures were before"
        return Cause.TECHNIQUE, (Difference(LOOK, LOOK, share, True, text), *found)
    if POPULATION in groups:
        return Cause.POPULATION, found
    if cause := _of_machine(before, after, named=PIXELS in groups):
        return cause, found
    cause, rests = _of_patients(before, after)
    return cause, (*rests, *found)


def _of_machine(before: Sequence[Seen], after: Sequence[Seen], *, named: bool) -> Cause | None:
    """Where one machine's pictures at least are nearly all different, whoever is in them.

    Args:
        named: it is known what of their grey values is.
    """
    machines = _by_machine(before), _by_machine(after)
    both = [(machines[0][key], machines[1][key]) for key in machines[1] if len(machines[0].get(key, ())) >= FEWEST]
    both = [(one, other) for one, other in both if len(other) >= FEWEST]
    most = {name: max((_surely(name, *pair) for pair in both), key=abs, default=0.0) for name in GREYS}
    grain = max(abs(most[name]) for name in _GRAIN)
    curve = max(abs(most[name]) for name in _CURVE)
    if max(grain, curve) < _MOST and not (named and _all_along(before, after)):
        return None
    if grain >= curve - _GIVE and most["noise"] > 0 > most["edges"]:
        return Cause.DOSE  # more grain, and edges that stand out less: sharpening lets both rise
    return Cause.SOFTWARE


def _by_machine(group: Sequence[Seen]) -> dict[tuple[object, ...], list[Seen]]:
    found: dict[tuple[object, ...], list[Seen]] = {}
    for one in group:
        found.setdefault(_machine(one), []).append(one)
    return found


def _machine(one: Seen) -> tuple[object, ...]:
    words, numbers = one.traits.words, one.traits.numbers
    return (*map(words.get, _EQUIPMENT), numbers.get("rows"), numbers.get("columns"))


def _surely(name: str, before: Sequence[Seen], after: Sequence[Seen]) -> float:
    """The share of pictures that surely differ in a trait; below 0 where it has become less."""
    one, other = _column(name, [seen.traits for seen in before]), _column(name, [seen.traits for seen in after])
    apart, _ = _apart(one, other)
    sure = apart - _SURE * np.sqrt(1 / len(before) + 1 / len(after))
    return float(max(sure, 0.0) * (1 if np.nanmean(other) > np.nanmean(one) else -1)) if sure > 0 else 0.0


def _all_along(before: Sequence[Seen], after: Sequence[Seen]) -> bool:
    """Whether one machine's pictures are all a little different: the least unlike about as much as the most unlike.

    Where some patients are different, the others are not.
    """
    values = _unlike(before, after)
    if values is None:
        return False
    groups = [_machine(one) for one in before], [_machine(one) for one in after]
    for machine in {*groups[1]}:
        one, other = (
            np.array([value for value, key in zip(of, keys, strict=True) if key == machine])
            for of, keys in zip(values, groups, strict=True)
        )
        if min(len(one), len(other)) < _ALONG:
            continue
        error = float(one.std()) * 1.36 * np.sqrt(1 / len(one) + 1 / len(other))  # of a quartile
        low, high = np.quantile(other, (0.25, 0.75)) - np.quantile(one, (0.25, 0.75))
        if low > _SURELY * error and low > _ALIKE * high:
            return True
    return False


def _of_patients(before: Sequence[Seen], after: Sequence[Seen]) -> tuple[Cause, tuple[Difference, ...]]:
    """By who of them are different: those with the finding alone, and no more of them, or others too.

    Unknown while too few truths are known.
    """
    values = _unlike(before, after)
    known = [[one.truth for one in group if one.truth is not None] for group in (before, after)]
    if values is None or min(map(len, known)) < _KNOWN:
        return Cause.UNKNOWN, ()
    above: dict[bool, float] = {}
    apart: dict[bool, float] = {}
    for truth in (True, False):
        one, other = _of_truth(values, before, after, truth=truth)
        if min(len(one), len(other)) < _FEW:
            return Cause.UNKNOWN, ()
        above[truth] = _above(one, other)
        apart[truth] = (above[truth] - 0.5) / np.sqrt(1 / 12 / len(one) + 1 / 12 / len(other))
    if max(apart.values()) < _APART:
        return Cause.UNKNOWN, ()
    if apart[False] > _APART or apart[True] < _APART:
        return Cause.DISEASE, (_in_pictures(above[False], "without"),)
    changed = float(np.clip(2 * above[True] - 1, 0.05, 0.9))
    cause = _therapy_or_disease(known[0], known[1], changed)
    return cause, () if cause is Cause.UNKNOWN else (_in_pictures(above[True], "with"),)


def _in_pictures(above: float, whose: str) -> Difference:
    share = max(2 * above - 1, 0.0)
    text = f"what is where in the picture, of patients {whose} the finding: some {share:.0%} unlike those before"
    return Difference(LOOK, LOOK, share, True, text)


def _therapy_or_disease(earlier: Sequence[bool], later: Sequence[bool], changed: float) -> Cause:
    """Whether those with the finding who are different are patients as before, or have come on top of them.

    Args:
        changed: share of those with the finding who are different.
    """
    was = (sum(earlier) + 1) / (len(earlier) + 2)
    more = was / (1 - changed * (1 - was))  # prevalence if these came on top
    found, others = sum(later), len(later) - sum(later)
    evidence = found * np.log(more / was) + others * np.log((1 - more) / (1 - was))
    if abs(evidence) < _EVIDENCE and len(later) < _MANY:
        return Cause.UNKNOWN
    return Cause.DISEASE if evidence > 0 else Cause.THERAPY


def _of_truth(
    values: tuple[Floats, Floats], before: Sequence[Seen], after: Sequence[Seen], *, truth: bool
) -> tuple[Floats, Floats]:
    """Of the values of each group those of studies whose truth this is."""
    one, other = (
        np.array([value for value, seen in zip(of, group, strict=True) if seen.truth is truth])
        for of, group in zip(values, (before, after), strict=True)
    )
    return one, other


def _unlike(before: Sequence[Seen], after: Sequence[Seen]) -> tuple[Floats, Floats] | None:
    """How much each study is like those after the change and unlike those before, learned from other studies."""
    one, other = _described(before), _described(after)
    if one is None or other is None:
        return None
    centre, spread = one.mean(0), np.maximum(one.std(0), 1e-3)
    one, other = np.clip((one - centre) / spread, -6, 6), np.clip((other - centre) / spread, -6, 6)
    values = np.zeros(len(one)), np.zeros(len(other))
    for fold in range(_FOLDS):
        inside = [np.arange(len(rows)) % _FOLDS != fold for rows in (one, other)]
        learned, recent = one[inside[0]], other[inside[1]]
        covariance = np.cov(learned.T)
        covariance += 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        across = np.linalg.solve(covariance, recent.mean(0) - learned.mean(0))
        across /= max(float(np.sqrt(across @ covariance @ across)), 1e-9)
        for number, rows in enumerate((one, other)):
            values[number][~inside[number]] = (rows[~inside[number]] - learned.mean(0)) @ across
    return values


def _described(group: Sequence[Seen]) -> Floats | None:
    rows = [
        np.concatenate((one.traits.look, [one.traits.numbers.get(name, 0.0) for name in (*GREYS, SCORE)]))
        for one in group
        if one.traits.look is not None
    ]
    return np.array(rows, dtype=np.float64) if len(rows) == len(group) >= FEWEST else None


def _above(one: Floats, other: Floats) -> float:
    """The share of pairs in which the other's is larger."""
    ordered = np.sort(one)
    low, high = np.searchsorted(ordered, other, "left"), np.searchsorted(ordered, other, "right")
    return float((low + high).mean() / 2 / len(ordered))


def _turned(before: Sequence[Seen], after: Sequence[Seen]) -> float:
    """The share of pictures in which bright is where it was dark."""
    one, other = (
        np.array([seen.traits.look[:64] for seen in group if seen.traits.look is not None]) for group in (before, after)
    )
    if min(len(one), len(other)) < FEWEST:
        return 0.0
    usual = one.mean(0)
    alike = [np.array([np.corrcoef(row, usual)[0, 1] for row in rows]) for rows in (one, other)]
    low = float(np.quantile(alike[0], 0.01)) - 0.1
    return float((alike[1] < low).mean())


def _of_words(name: str, before: Sequence[Traits], after: Sequence[Traits]) -> Difference | None:
    one, other = [seen.words.get(name, "") for seen in before], [seen.words.get(name, "") for seen in after]
    words = sorted({*one, *other})
    if len(words) < 2:
        return None
    counts = np.array([[group.count(word) for word in words] for group in (one, other)], dtype=np.float64)
    shares = counts / counts.sum(1, keepdims=True)
    apart = shares[1] - shares[0]
    pooled = counts.sum(0) / counts.sum()
    error = np.sqrt(np.maximum(pooled * (1 - pooled), 1e-9) * (1 / len(one) + 1 / len(other)))
    chance = len(words) * float(norm.sf(float(np.max(np.abs(apart) / error))))
    distance = float(np.abs(apart).sum()) / 2
    by_chance = float(np.sum(error)) * np.sqrt(2 / np.pi) / 2  # of two samples of the same
    if distance - by_chance < _EFFECT or chance > _CERTAIN:
        return None
    most = int(np.argmax(apart))
    told = f"{words[most] or 'not given'} in {shares[1][most]:.0%}, before {shares[0][most]:.0%}"
    return Difference(name, WORDS[name][1], distance, True, f"{MEANINGS[name]}: {told}")


def _of_numbers(name: str, before: Sequence[Traits], after: Sequence[Traits]) -> Difference | None:
    one, other = _column(name, before), _column(name, after)
    apart, chance = _apart(one, other)
    if apart < _EFFECT or chance > _CERTAIN:
        return None
    group = PIXELS if name in GREYS else SCORE if name == SCORE else NUMBERS[name][1]
    was, now = (float(np.median(values[~np.isnan(values)])) for values in (one, other))
    rising = float(np.nanmean(other)) > float(np.nanmean(one))
    return Difference(name, group, apart, rising, f"{MEANINGS[name]}: {now:.4g}, before {was:.4g} (medians)")


def _of_looks(before: Sequence[Traits], after: Sequence[Traits]) -> Difference | None:
    apart, chance = _apart(*_far(before, after))
    if apart < _EFFECT or chance > _CERTAIN:
        return None
    return Difference(LOOK, LOOK, apart, True, f"what is where in the picture: {apart:.0%} unlike those before")


def _column(name: str, group: Sequence[Traits]) -> Floats:
    return np.array([seen.numbers.get(name, np.nan) for seen in group], dtype=np.float64)


def _far(before: Sequence[Traits], after: Sequence[Traits]) -> tuple[Floats, Floats]:
    """How far each look is from the nearest of one half of those before; of the other half, and of those after."""
    one, other = ([seen.look for seen in group if seen.look is not None] for group in (before, after))
    if min(len(one), len(other)) < 8:
        return np.zeros(0), np.zeros(0)
    rows, new = np.array(one, dtype=np.float64), np.array(other, dtype=np.float64)
    spread = np.maximum(rows.std(0), 1e-3)
    rows, new = rows / spread, new / spread
    learned, rest = rows[::2], rows[1::2]
    return _nearest(rest, learned), _nearest(new, learned)


def _nearest(rows: Floats, learned: Floats) -> Floats:
    squares = (rows * rows).sum(1)[:, None] + (learned * learned).sum(1)[None] - 2 * rows @ learned.T
    few = min(5, len(learned))
    return np.partition(squares, few - 1, axis=1)[:, :few].mean(1)


def _apart(one: Floats, other: Floats) -> tuple[float, float]:
    """Kolmogorov and Smirnov's distance of two samples and how likely so much is by chance; missing is a value."""
    one, other = (np.where(np.isnan(values), -np.inf, values) for values in (one, other))
    if min(len(one), len(other)) < 5 or not (np.isfinite(one).any() and np.isfinite(other).any()):
        return 0.0, 1.0
    every = np.concatenate((one, other))
    below = [np.searchsorted(np.sort(values), every, "right") / len(values) for values in (one, other)]
    distance = float(np.abs(below[0] - below[1]).max())
    many = len(one) * len(other) / (len(one) + len(other))
    return distance, float(kstwo.sf(distance, max(round(many), 1)))
