"""Decides whether a study is complete, from what is known of it and from how its sender has behaved.

DICOM has no "study complete". There is evidence of different strength, and in the end a quiet time. How long it has to
be quiet depends on what is known in the pause (`Basis`) and is learned for each sender, modality and basis: a sender
whose images never came after a pause of a second is not waited for a minute, one that splits its studies over several
associations is. The start values of a sender that nobody knows follow `Bounds`.

Pure: no clock, no database; `receive.py` brings the facts, `scripts/benchmarks/completeness.py` simulates them.
"""

import bisect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

# a modality that keeps its association open all day must not hold its studies back
LONGEST_HOLD_SECONDS: Final = 30.0
# senders, modalities and bases of which something is kept; a stranger may call himself by any name
MOST_HABITS: Final = 1024
# a study of slices from a sender that nobody knows is waited for so many times `quiet_seconds`
_UNKNOWN: Final = 20.0
_INCOMPLETE: Final = 30.0  # and one with holes, or perhaps with some
# a modality of single images ends its examination soon after it sent them, and is not waited for like a scanner
_RADIOGRAPH_STEP_SECONDS: Final = 10.0
_SHORTEST_SECONDS: Final = 0.5
# studies until a sender that made no pause is waited for no longer than the shortest time
_ENOUGH: Final = 16
# the share of studies that may be closed too early by a sender's longest pauses
_TARGET: Final = 0.005
_REMEMBERED: Final = 256.0
_EDGES: Final = tuple(0.1 * 1.25**step for step in range(48))  # seconds; the last one is an hour

_ONE_IMAGE: Final = frozenset({"CR", "DX", "IO", "OP", "PX", "RG", "XC"})
NO_IMAGE: Final = frozenset({"AU", "DOC", "KO", "PLAN", "PR", "REG", "RTPLAN", "RTSTRUCT", "SEG", "SR"})
# minutes go by between two series of one examination
_SLOW: Final = frozenset({"MR", "NM", "PT", "US"})


class Basis(StrEnum):
    """What is known of a study in a pause, and so what it rests on that it was called complete; strongest first.

    These words are stored with the study.
    """

    ANNOUNCED = "announced"  # all that a performed procedure step or an availability notification lists is here
    STEP_OPEN = "step-open"  # a performed procedure step of it is in progress
    EXPECTED_MISSING = "expected-missing"  # somebody told of images that are not here
    COUNTED = "counted"  # the PACS that sends it has no more
    ASSOCIATION_OPEN = "association-open"  # an association that sent for it last is open
    HOLES = "holes"  # numbers, or an acquisition's count, say that images are missing
    UNSURE = "unsure"  # an acquisition's count can be read as met and as not met
    SINGLE = "single"  # each image stands for itself: projections, multi-frame objects
    CONTIGUOUS = "contiguous"  # the numbers of each series run from 1 without a hole
    QUIET = "quiet"  # nothing but the quiet


@dataclass(frozen=True, slots=True)
class Series:
    """What has arrived of one series.

    Attributes:
        instances: how many.
        numbers: different InstanceNumbers among them; 0 where they have none.
        lowest, highest: of these numbers.
        stated: ImagesInAcquisition (0020,1002), where all instances are of one acquisition and agree; else None.
        acquisition: AcquisitionNumber (0020,0012), where they are of one and it says which.
        frames: the most frames of one instance.
    """

    modality: str
    instances: int
    numbers: int = 0
    lowest: int | None = None
    highest: int | None = None
    stated: int | None = None
    frames: int = 1
    acquisition: int | None = None


@dataclass(frozen=True, slots=True)
class Announced:
    """What performed procedure steps and availability notifications say of a study.

    Attributes:
        listed: instances that completed steps and notifications name.
        missing: of these, how many are not here.
        unlisted: images that are here and that nobody named, not even a discontinued step.
        in_progress: a step is.
    """

    listed: int = 0
    missing: int = 0
    unlisted: int = 0
    in_progress: bool = False


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends what: the same PACS sends radiographs in one piece and MR as it is acquired."""

    calling_ae: str
    modality: str


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a study.

    Attributes:
        sender: of its last instance.
        touched_at: when that came, in the seconds of the caller's clock.
        sending: the association that sent it is open and has not gone on to another study.
        counted: images that the PACS says to have more than we have; None where it did not say, or has fewer.
        from_pacs: the sender is the PACS that was asked.
        required: the adopted versions' required series are here; None where none is required.
        refused: images that this node did not take, and that have not come since.
    """

    sender: Sender
    touched_at: float
    series: Sequence[Series]
    sending: bool = False
    announced: Announced = field(default_factory=Announced)
    counted: int | None = None
    from_pacs: bool = False
    required: bool | None = None
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Bounds:
    """The times of a site's configuration, in seconds.

    Attributes:
        quiet: start value for studies of single images of a sender that nobody knows.
        longest: no study is held longer by quiet, or by images that were told of.
        longest_step: no study is held longer by a performed procedure step in progress.
    """

    quiet: float
    longest: float = 60.0
    longest_step: float = 600.0


@dataclass(frozen=True, slots=True)
class Complete:
    """Read it now."""

    basis: Basis


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again at `until`, or when something is new."""

    basis: Basis
    until: float


Decision = Complete | Wait
Key = tuple[Sender, Basis]


@dataclass(slots=True)
class Habit:
    """How a sender pauses within a study, on one basis: a histogram of each study's longest pause, of fixed size.

    Attributes:
        seen: studies; old ones count less and less.
        clean: studies since it was wrong too often last.
        late: studies that were called complete too early; decays with `seen`.
        gaps: weight by `_EDGES`; studies without a pause are only in `seen`.
    """

    seen: float = 0.0
    clean: int = 0
    late: float = 0.0
    gaps: list[float] = field(default_factory=lambda: [0.0] * len(_EDGES))

    def add(self, gap: float) -> None:
        """A study ended whose longest pause was `gap` seconds."""
        self.seen += 1
        self.clean = min(self.clean + 1, _ENOUGH)
        if gap > _EDGES[0]:
            self.gaps[min(bisect.bisect_left(_EDGES, gap), len(_EDGES) - 1)] += 1
        if self.seen > _REMEMBERED:
            self.seen, self.late = self.seen / 2, self.late / 2
            self.gaps = [weight / 2 if weight >= 0.25 else 0.0 for weight in self.gaps]

    def refute(self, gap: float) -> None:
        """An image came `gap` seconds after the one before, and the study had been called complete meanwhile."""
        self.add(gap)
        self.late += 1
        if self.doubtful:
            self.clean = 0

    @property
    def doubtful(self) -> bool:
        """It was wrong more often than it may be; one surprise in hundreds of studies changes nothing."""
        return self.late > _TARGET * self.seen

    def quiet(self, start: float, doubted: float, shortest: float, longest: float) -> float:
        """How long it has to be quiet, in seconds.

        From the start value to the shortest time in equal ratios over `_ENOUGH` studies without a surprise: the chance
        that the next one brings a longer pause than all before falls as 1/n (Laplace), and of the length of that pause
        nothing is known but its order of magnitude. Never less than what was seen, and some more.

        Args:
            start: for a sender that was never wrong.
            doubted: for one that was, too often.
        """
        begin = max(start, doubted) if self.doubtful else start
        end = min(shortest, begin)
        drift = begin * (end / begin) ** min(1.0, self.clean / _ENOUGH) if begin > 0.0 else 0.0
        # how far the next longest pause goes beyond those seen is the less known the fewer they are
        stretch = 1.0 + 2.0 / math.sqrt(1.0 + sum(self.gaps))
        return min(max(drift, stretch * self._longest_pause(longest)), longest)

    def _longest_pause(self, below: float) -> float:
        """The pause that all but `_TARGET` of the studies stay under; longer ones than can be waited for set apart."""
        weight = 0.0
        for step in range(bisect.bisect_left(_EDGES, below), 0, -1):
            weight += self.gaps[step] if _EDGES[step - 1] < below else 0.0
            if weight > _TARGET * self.seen:
                return _EDGES[step]
        return 0.0


def judge(facts: Facts) -> tuple[Basis, ...]:
    """What is known of a study: every reason to wait, strongest first, and what its images look like.

    A step in progress does not hide that slices are missing: a study waits for as long as any of them asks. That
    images look whole is not asked while more may come over the association that sent them.
    """
    announced = facts.announced
    doubts: list[Basis] = []
    if announced.in_progress:
        doubts.append(Basis.STEP_OPEN)
    if announced.missing or facts.counted or facts.refused or facts.required is False:
        doubts.append(Basis.EXPECTED_MISSING)
    if not doubts and announced.listed and not announced.unlisted:
        return (Basis.ANNOUNCED,)
    # another one's PACS may be receiving as we are: that it has no more than we says nothing
    if facts.counted == 0 and facts.from_pacs:
        return (*doubts, Basis.COUNTED)
    structure = _structure(facts.series)
    if facts.sending:
        doubts.append(Basis.ASSOCIATION_OPEN)
        return (*doubts, structure) if structure is Basis.HOLES else tuple(doubts)
    return (*doubts, structure)


def missing(facts: Facts) -> int:
    """How many images a study is known to have that are not here: announced, counted at the PACS, refused, or stated.

    Each is another witness of the same images, so the greatest counts. What images state of their acquisition is not
    held against a list or a count that says that all is here.
    """
    listed = {Basis.ANNOUNCED, Basis.COUNTED}.intersection(judge(facts))
    return max(facts.announced.missing, facts.counted or 0, facts.refused, 0 if listed else lacking(facts.series))


def lacking(series: Sequence[Series]) -> int:
    """How many images series lack of those that they state, at least; 0 where that cannot be told."""
    return sum(one.missing for one in _counted(series))


@dataclass(frozen=True, slots=True)
class _Count:
    """What the series of one acquisition prove by the number that they state.

    Attributes:
        missing: images that are not here, whatever the number is meant to count.
        unsure: none is proven to be missing, and some are by one of the meanings.
    """

    missing: int
    unsure: bool


def _counted(series: Sequence[Series]) -> list[_Count]:
    """The acquisitions of a study, as far as their series state a number.

    A series without an AcquisitionNumber may be of any acquisition that states the same number, so it is held in favour
    of each.
    """
    acquisitions: dict[int, dict[int | None, list[int]]] = {}
    for one in _stacks(series):
        if one.stated is not None and one.stated > 0:
            acquisitions.setdefault(one.stated, {}).setdefault(one.acquisition, []).append(one.instances)
    found: list[_Count] = []
    for stated, groups in acquisitions.items():
        nobodys = groups.pop(None, [])
        found += [_count(stated, [*one, *nobodys]) for one in groups.values()] or [_count(stated, nobodys)]
    return found


def _count(stated: int, instances: Sequence[int]) -> _Count:
    """Hold a number against the series that state it.

    ImagesInAcquisition is the number of images that resulted from the acquisition (PS3.3 C.7.6.1.1), and three meanings
    of that are in use: all its series together, beside which others may be made of these; each series for itself; and
    the series that the others are made of, whose number they carry on. What is missing by all three is missing. The
    first is the one that asks for least: some of the series, as many as fit, are the acquisition. Where these are as
    many as it states, only another meaning can tell that a shorter series is cut, and which one holds nobody says.
    """
    together = {0}
    for some in instances:
        together |= {others + some for others in together if others + some <= stated}
    if max(instances) > stated > max(together):
        return _Count(
            0, unsure=any(some < stated for some in instances)
        )  # one alone has more: it counts something else
    return _Count(stated - max(together), unsure=max(together) == stated and any(some < stated for some in instances))


def _stacks(series: Sequence[Series]) -> list[Series]:
    images = [one for one in series if one.modality not in NO_IMAGE]
    return [one for one in images if one.modality not in _ONE_IMAGE and one.frames <= 1]


def _structure(series: Sequence[Series]) -> Basis:
    stacks = _stacks(series)
    if not stacks:
        return Basis.SINGLE
    counts = _counted(stacks)
    if any(one.missing for one in counts) or any(_has_gaps(one) for one in stacks):
        return Basis.HOLES
    if any(one.unsure for one in counts):
        return Basis.UNSURE
    return Basis.CONTIGUOUS if all(_runs_from_one(one) for one in stacks) else Basis.QUIET


def _has_gaps(series: Series) -> bool:
    if series.lowest is None or series.highest is None:
        return False
    return series.numbers == series.instances and series.highest - series.lowest >= series.numbers


def _runs_from_one(series: Series) -> bool:
    # some number from 0
    return series.lowest in (0, 1) and series.numbers == series.instances


class Patience:
    """Watches the studies that are being received, decides, and learns from how they went on.

    Args:
        habits: what was learned before.
    """

    def __init__(self, bounds: Bounds, habits: Mapping[Key, Habit] | None = None) -> None:
        self._bounds = bounds
        self._habits: dict[Key, Habit] = dict(habits or {})
        self._watched: dict[str, _Watched] = {}
        self._changed: set[Key] = set()

    def look(self, uid: str, facts: Facts, now: float, resumed: Callable[[float], float]) -> Decision:
        """Decide on a study in a pause.

        Args:
            resumed: when the first instance came after a moment; asked where there were some since the last look.
        """
        watched = self._watched.get(uid)
        bases = judge(facts)
        # a stall while it sends says nothing of pauses between associations, where slices are missing or not
        stalled = Basis.ASSOCIATION_OPEN in bases
        keys = tuple((facts.sender, basis) for basis in bases if not (stalled and basis is Basis.HOLES))
        if watched is None:
            watched = self._watched[uid] = _Watched(facts.touched_at)
        elif watched.touched_at != facts.touched_at:
            watched.end_pause(resumed(watched.touched_at), facts.touched_at)
        watched.keys = keys
        watched.step = next((key for key in keys if key[1] is Basis.STEP_OPEN), watched.step)
        quiet = {basis: self.quiet(facts, basis) for basis in bases}
        basis = max(bases, key=lambda one: quiet[one])
        elapsed = now - facts.touched_at
        # a clock that was set back must not hold a study until it has caught up
        if elapsed >= quiet[basis] or elapsed < -1.0:
            return Complete(Basis.EXPECTED_MISSING if Basis.EXPECTED_MISSING in bases else basis)
        return Wait(basis, facts.touched_at + quiet[basis])

    def quiet(self, facts: Facts, basis: Basis) -> float:
        """How many seconds a study has to be quiet on this basis."""
        bounds = self._bounds
        unknown = min(bounds.longest, _UNKNOWN * bounds.quiet)
        start, doubted, shortest, longest = unknown, unknown, min(bounds.quiet, _SHORTEST_SECONDS), bounds.longest
        if basis is Basis.ANNOUNCED:
            start = 0.0
        elif basis in (Basis.SINGLE, Basis.COUNTED):
            start = bounds.quiet
        elif basis in (Basis.HOLES, Basis.UNSURE):
            start = doubted = min(longest, _INCOMPLETE * bounds.quiet)
        elif basis is Basis.EXPECTED_MISSING:
            start = doubted = longest
            shortest = min(longest, 5 * bounds.quiet)
        elif basis is Basis.ASSOCIATION_OPEN:
            start = doubted = LONGEST_HOLD_SECONDS + bounds.quiet
            longest = max(longest, start)
        elif basis is Basis.STEP_OPEN:
            start, doubted = longest, bounds.longest_step
            longest = max(longest, bounds.longest_step)
            if facts.sender.modality in _SLOW:
                start = doubted
            elif facts.sender.modality in _ONE_IMAGE:
                start = min(longest, _RADIOGRAPH_STEP_SECONDS)
        habit = self._habits.get((facts.sender, basis)) or Habit()
        return habit.quiet(start, doubted, shortest, longest)

    def close(self, uid: str) -> None:
        """A study was called complete: its pauses become habits."""
        watched = self._watched.pop(uid, None)
        if watched is None:
            return
        ended = {*watched.keys, *watched.longest}
        if watched.step is not None:
            ended.add(watched.step)
        for key in ended:
            self._learn(key).add(watched.longest.get(key, 0.0))

    def refute(self, sender: Sender, basis: Basis, gap: float) -> None:
        """An image came for a study that had been called complete on this basis, `gap` seconds after the one before.

        What comes later than anybody would wait for teaches nothing.
        """
        longest = self._bounds.longest_step if basis is Basis.STEP_OPEN else self._bounds.longest
        if 0.0 <= gap < longest:
            self._learn((sender, basis)).refute(gap)

    def watches(self, uid: str) -> bool:
        """It has looked at this study since it was last called complete."""
        return uid in self._watched

    def learned(self) -> dict[Key, Habit]:
        """The habits that changed since this was asked last."""
        changed, self._changed = self._changed, set()
        return {key: self._habits[key] for key in changed}

    def _learn(self, key: Key) -> Habit:
        """The habit to write to; of the senders that nothing was learned of for longest, the first are forgotten."""
        habit = self._habits.pop(key, None) or Habit()
        self._habits[key] = habit
        self._changed.add(key)
        if len(self._habits) > MOST_HABITS:
            forgotten = next(iter(self._habits))
            del self._habits[forgotten]
            self._changed.discard(forgotten)
        return habit


@dataclass(slots=True)
class _Watched:
    """A study that is being received: its present pause, and its longest ones that images ended.

    Attributes:
        keys: what was known at the last look; what the sender is judged by when the pause ends.
        step: known in this pause, though it may have been completed since. That an association was open is not: it
            is left behind in the middle of a pause, and a stall while it sends is another thing.
    """

    touched_at: float
    keys: tuple[Key, ...] = ()
    step: Key | None = None
    longest: dict[Key, float] = field(default_factory=lambda: dict[Key, float]())

    def end_pause(self, resumed_at: float, touched_at: float) -> None:
        for key in self.keys:
            self.longest[key] = max(self.longest.get(key, 0.0), resumed_at - self.touched_at)
        self.touched_at, self.step = touched_at, None
