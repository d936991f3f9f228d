"""Whether the studies that come are still like those of the reference: seven kinds of traits, watched together. Pure.

Technique, embedded software, dose, population, pixels, what is where in the picture, and scores are each compared with
the reference (`models.stats.two_sample`); bets on all of them share one rate of false warnings
(`models.stats.detector`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.inference.traits import (
    DOSE,
    GREYS,
    LOOK,
    NUMBERS,
    PIXELS,
    POPULATION,
    SCORE,
    SIZE,
    SOFTWARE,
    TECHNIQUE,
    WORDS,
    Traits,
)
from models.stats import two_sample
from models.stats.detector import Bet, Course, follow
from models.stats.intervals import Floats
from models.stats.two_sample import Exams

GROUPS: Final = (TECHNIQUE, SOFTWARE, DOSE, POPULATION, PIXELS, LOOK, SCORE)


@dataclass(frozen=True, slots=True)
class Monitored:
    """How the studies since the reference compare with it.

    Attributes:
        values: (N, groups x streams) what each study after the reference says, between 0 and 1.
        course: of the evidence; its bets are the columns of `values`.
        change: number of the first study that is likely to be different, where there is a warning.
    """

    values: Floats
    course: Course
    change: int | None

    @property
    def by_group(self) -> dict[str, float]:
        """The highest evidence of each group."""
        most = self.course.evidence.max(0, initial=0.0).reshape(len(GROUPS), -1).sum(1)
        return dict(zip(GROUPS, most.tolist(), strict=True))


def monitor(studies: Sequence[Traits], reference: int, due: Floats, ours: Sequence[bool] | None = None) -> Monitored:
    """Compare studies with those that came first.

    Args:
        studies: in their order.
        reference: how many of them are what the others are compared with; a hundred at least.
        due: (N,) what may be staked at each of the others (`models.stats.detector.staked`).
        ours: whether the version that reads now read each: another's scores are not compared with its own, which have a
            reference of their own. None: it read all.
    """
    before, after = studies[:reference], studies[reference:]
    parts = [_compared(group, before, after) for group in GROUPS if group != SCORE]
    parts.append(_scores(studies, reference, np.ones(len(studies), bool) if ours is None else np.array(ours, bool)))
    values = np.concatenate(parts, axis=1)
    most = two_sample.tolerated(reference)
    limits = {f"{group}.{stream}": most[stream] for group in GROUPS for stream in two_sample.STREAMS}
    course = follow(limits, [Bet((name,), 1 / len(limits)) for name in limits], values, due)
    if course.alarm is None:
        return Monitored(values, course, None)
    stream = int(np.argmax(course.evidence[course.alarm]))
    above = values[: course.alarm + 1, stream] - list(limits.values())[stream]
    change = int(np.argmin(np.concatenate(([0.0], np.nancumsum(above)))))
    return Monitored(values, course, min(change, course.alarm))


def _scores(studies: Sequence[Traits], reference: int, ours: NDArray[np.bool_]) -> Floats:
    own = np.flatnonzero(ours)
    found = np.full((len(studies), len(two_sample.STREAMS)), np.nan)
    if len(own) > reference:
        found[own[reference:]] = _compared(
            SCORE, [studies[n] for n in own[:reference]], [studies[n] for n in own[reference:]]
        )
    return found[reference:]


def _compared(group: str, reference: Sequence[Traits], after: Sequence[Traits]) -> Floats:
    before, now = _exams(group, reference), _exams(group, after)
    if not any(map(_says, (before, now))):  # nothing of the kind is ever said here
        return np.full((len(after), len(two_sample.STREAMS)), np.nan)
    return two_sample.compared(before, now, whole=group == LOOK)


def _exams(group: str, studies: Sequence[Traits]) -> Exams:
    if group == LOOK:
        nothing = np.full(SIZE, np.nan)
        looks = [nothing if one.look is None else one.look.astype(np.float64) for one in studies]
        return Exams(np.array(looks).reshape(len(looks), SIZE), [[] for _ in looks])
    names, kinds = _of(group)
    numbers = [[one.numbers.get(name, np.nan) for name in names] for one in studies]
    words = [[one.words.get(name, "") for name in kinds] for one in studies]
    return Exams(np.array(numbers, dtype=np.float64).reshape(len(studies), len(names)), words)


def _says(exams: Exams) -> bool:
    return bool((~np.isnan(exams.numbers)).any()) or any(any(row) for row in exams.words)


def _of(group: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if group == PIXELS:
        return GREYS, ()
    if group == SCORE:
        return (SCORE,), ()
    numbers = tuple(name for name, (_, of) in NUMBERS.items() if of == group)
    return numbers, tuple(name for name, (_, of) in WORDS.items() if of == group)
