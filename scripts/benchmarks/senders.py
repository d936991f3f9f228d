"""Simulated senders of studies, for `completeness.py`: when each image, association and message of them comes.

Three sets: one that the start values were chosen on, one of harder senders that the rules were revised on once, and
hospitals whose very senders are drawn from the seed, which were looked at when the rules stood. The code that decides
knows none of these figures.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Image:
    """One C-STORE; `number` is unique in its series, sent again it is a duplicate."""

    at: float
    series: str
    number: int
    calling_ae: str
    modality: str
    association: str
    stated: int | None = None
    frames: int = 1


@dataclass(slots=True)
class Script:
    """All that is sent of one study, in seconds from its first image.

    Attributes:
        released: when each association ends; one that is not named is kept.
        in_pacs: when the PACS has each (series, number).
        step: when its performed procedure step begins and is completed, None where the modality has none.
        step_series: that the step lists; all where empty.
        from_pacs: it is the PACS that sends.
    """

    kind: str
    images: list[Image] = field(default_factory=lambda: list[Image]())
    released: dict[str, float] = field(default_factory=lambda: dict[str, float]())
    in_pacs: dict[tuple[str, int], float] = field(default_factory=lambda: dict[tuple[str, int], float]())
    step: tuple[float, float] | None = None
    step_series: frozenset[str] = frozenset()
    from_pacs: bool = False

    @property
    def last(self) -> float:
        """When the last image comes that had not come before."""
        first: dict[tuple[str, int], float] = {}
        for image in self.images:
            key = (image.series, image.number)
            first[key] = min(image.at, first.get(key, image.at))
        return max(first.values())


Maker = Callable[[random.Random, str], Script]


class _Sending:
    """Writes a script: images one after the other, with the stalls of a network."""

    def __init__(self, draw: random.Random, name: str, kind: str, calling_ae: str, modality: str) -> None:
        self.script = Script(kind)
        self.at = 0.0
        self._draw, self._name, self._ae, self._modality = draw, name, calling_ae, modality
        self._association = 0
        self.label = ""

    def associate(self, kept: str = "") -> None:
        """A new association; a kept one by its name."""
        self._association += 1
        self.label = kept or f"{self._name}-{self._association}"

    def release(self, after: tuple[float, float] = (0.02, 0.8)) -> None:
        self.script.released[self.label] = self.at + self._draw.uniform(*after)

    def send(
        self,
        series: str,
        numbers: list[int],
        *,
        each: tuple[float, float] = (0.01, 0.04),
        stalls: float = 0.002,
        calling_ae: str = "",
        modality: str = "",
        stated: int | None = None,
        frames: int = 1,
        lag: tuple[float, float] = (-0.5, 2.0),
    ) -> None:
        """Send images of one series; the PACS gets each at about the same time."""
        for number in numbers:
            ae, kind = calling_ae or self._ae, modality or self._modality
            self.script.images.append(Image(self.at, series, number, ae, kind, self.label, stated, frames))
            self.script.in_pacs.setdefault((series, number), self.at + self._draw.uniform(*lag))
            self.at += self._draw.uniform(*each)
            if self._draw.random() < stalls:
                self.at += self._draw.uniform(0.5, 4.0)
        # the pause that follows is one from the last image on
        self.at = self.script.images[-1].at

    def pause(self, shortest: float, longest: float) -> None:
        self.at += self._draw.uniform(shortest, longest)

    def step(self, before: tuple[float, float], after: tuple[float, float], *series: str) -> None:
        """Its performed procedure step begins before the first image, and is completed after the last one."""
        begin, end = -self._draw.uniform(*before), self.script.last + self._draw.uniform(*after)
        self.script.step, self.script.step_series = (begin, max(end, 0.01)), frozenset(series)


def _numbers(draw: random.Random, count: int, shuffled: float = 0.3) -> list[int]:
    numbers = list(range(1, count + 1))
    if draw.random() < shuffled:
        draw.shuffle(numbers)
    return numbers


# ---------------------------------------------------------------- the first set


def _radiograph_kept(draw: random.Random, name: str) -> Script:
    sending = _Sending(draw, name, "radiograph, association kept", "DXKEPT", "DX")
    sending.associate("DXKEPT-all-day")
    sending.send("s1", [1])
    return sending.script


def _ct(draw: random.Random, name: str) -> Script:
    sending = _Sending(draw, name, "CT, one association", "CT1", "CT")
    numbers = _numbers(draw, draw.randint(100, 400))
    sending.associate()
    sending.send("s1", numbers, stated=len(numbers) if draw.random() < 0.5 else None)
    if draw.random() < 0.1:
        sending.pause(0.01, 0.1)
        sending.send("s1", draw.sample(numbers, 5))  # sent again
    sending.release()
    sending.step((60, 400), (-20, 120))
    return sending.script


def _ct_split(draw: random.Random, name: str) -> Script:
    sending = _Sending(draw, name, "CT, split over associations", "CT2", "CT")
    numbers = _numbers(draw, draw.randint(100, 400))
    parts = draw.randint(2, 5)
    for part in range(parts):
        some = numbers[part * len(numbers) // parts : (part + 1) * len(numbers) // parts]
        sending.associate()
        sending.send("s1", some)
        sending.release()
        if part + 1 < parts:
            sending.pause(2.0, 30.0)
    sending.step((60, 400), (-20, 120))
    return sending.script


def _ct_late(draw: random.Random, name: str) -> Script:
    sending = _Sending(draw, name, "CT, late slices", "CT3", "CT")
    numbers = _numbers(draw, draw.randint(100, 300))
    late = sorted(draw.sample(numbers, draw.randint(1, 3))) if draw.random() < 0.15 else []
    sending.associate()
    sending.send("s1", [number for number in numbers if number not in late])
    sending.release()
    if late:
        # the PACS had them at once more often than not
        if draw.random() < 0.7:
            sending.script.in_pacs |= {("s1", number): sending.at for number in late}
        sending.pause(5.0, 45.0)
        sending.associate()
        sending.send("s1", late)
        sending.release()
    sending.step((60, 400), (-20, 120))
    return sending.script


def _two_senders(draw: random.Random, name: str) -> Script:
    sending = _Sending(draw, name, "CT, and a workstation's series", "CT4", "CT")
    sending.associate()
    sending.send("s1", _numbers(draw, draw.randint(100, 300)))
    sending.release()
    sending.step((60, 400), (-20, 120), "s1")
    sending.pause(3.0, 25.0)
    sending.associate()
    sending.send("s2", _numbers(draw, draw.randint(40, 100)), calling_ae="WS1")
    sending.release()
    return sending.script


def _slow_mr(draw: random.Random, name: str) -> Script:
    sending = _Sending(draw, name, "MR, series by series", "MR1", "MR")
    count = draw.randint(4, 7)
    for number in range(count):
        sending.associate()
        sending.send(f"s{number}", _numbers(draw, draw.randint(20, 60)))
        sending.release()
        if number + 1 < count:
            sending.at += min(300.0, max(8.0, draw.lognormvariate(3.8, 0.6)))
    sending.step((30, 120), (-5, 60))
    return sending.script


# ---------------------------------------------------------------- the second set


def _two_views(draw: random.Random, name: str) -> Script:
    sending = _Sending(draw, name, "radiograph, often a second view", "DX2", "DX")
    sending.associate()
    sending.send("s1", [1])
    sending.release()
    if draw.random() < 0.5:
        sending.pause(4.0, 20.0)
        sending.associate()
        sending.send("s2", [2])
        sending.release()
    sending.step((20, 90), (1, 60))
    return sending.script


def _forwarded(draw: random.Random, name: str) -> Script:
    modality = draw.choice(["DX", "CT", "MR"])
    sending = _Sending(draw, name, "forwarded by the PACS", "PACS", modality)
    sending.associate()
    many = (-60.0, -20.0)
    for number in range(1 if modality == "DX" else draw.randint(1, 4)):
        count = 1 if modality == "DX" else draw.randint(30, 200)
        sending.send(f"s{number}", _numbers(draw, count), stalls=0.004, lag=many)
        sending.pause(0.05, 2.0)
    sending.release((0.02, 5.0))
    sending.script.from_pacs = True
    return sending.script


def _by_series(draw: random.Random, name: str) -> Script:
    sending = _Sending(draw, name, "CT, an association a series", "CT9", "CT")
    sizes = [2, draw.randint(120, 250), *([draw.randint(60, 90)] if draw.random() < 0.6 else [])]
    for number, size in enumerate(sizes):
        sending.associate()
        sending.send(f"s{number}", _numbers(draw, size, 0.5), stated=size, each=(0.02, 0.08))
        sending.release((0.1, 2.0))
        if number + 1 < len(sizes):
            sending.pause(1.0, 15.0)
    sending.step((60, 300), (-10, 200))
    return sending.script


def _ultrasound(draw: random.Random, name: str) -> Script:
    sending = _Sending(draw, name, "ultrasound, as it is taken", "US1", "US")
    sending.associate("US1-all-day")
    count = draw.randint(8, 25)
    for number in range(1, count + 1):
        sending.send("s1", [number], frames=draw.choice([1, 1, 60]))
        if number < count:
            sending.pause(5.0, 90.0)
    sending.step((10, 60), (5, 120))
    return sending.script


def _mammography(draw: random.Random, name: str) -> Script:
    sending = _Sending(draw, name, "mammography, four views", "MG1", "MG")
    for number in range(1, 5):
        sending.associate()
        sending.send(f"s{number}", [number])
        sending.release()
        if number < 4:
            sending.pause(15.0, 50.0)
    sending.step((20, 60), (5, 90))
    return sending.script


def _pet_ct(draw: random.Random, name: str) -> Script:
    sending = _Sending(draw, name, "PET/CT, two titles", "PTCT", "CT")
    sending.associate()
    sending.send("s1", _numbers(draw, draw.randint(200, 350)))
    sending.release()
    sending.pause(20.0, 50.0)
    sending.associate()
    sending.send("s2", _numbers(draw, draw.randint(150, 250)), calling_ae="PTPT", modality="PT")
    sending.release()
    sending.step((300, 900), (-5, 120))
    return sending.script


FIRST: Final[tuple[Maker, ...]] = (_radiograph_kept, _ct, _ct_split, _ct_late, _two_senders, _slow_mr)
SECOND: Final[tuple[Maker, ...]] = (_two_views, _forwarded, _by_series, _ultrasound, _mammography, _pet_ct)


def _drawn_xray(draw: random.Random, title: str) -> Maker:
    """A modality that keeps its association or not, and sends when the examination ends or as the images are taken."""
    kept, as_taken, several, tells = (draw.random() < chance for chance in (0.3, 0.3, 0.4, 0.6))
    longest = _between(draw, 2.0, 40.0)

    def make(draw: random.Random, name: str) -> Script:
        sending = _Sending(draw, name, "drawn: radiographs", title, "DX")
        views = draw.choice([1, 2, 2, 3]) if several else 1
        if not as_taken or kept:
            sending.associate(f"{title}-all-day" if kept else "")
        for number in range(1, views + 1):
            if as_taken and not kept:
                sending.associate()
            sending.send(f"s{number}", [number])
            if as_taken and not kept:
                sending.release()
            if number < views:
                sending.pause(*((1.0, longest) if as_taken else (0.05, 1.0)))
        if not as_taken and not kept:
            sending.release()
        if tells:
            sending.step((10, 120), (-2, 30))
        return sending.script

    return make


def _drawn_stacks(
    draw: random.Random, title: str, modality: str, series: tuple[int, int], size: tuple[int, int]
) -> Maker:
    """A scanner that sends all at once, an association a series, or each series when it has been acquired."""
    way, tells, stated, shuffled = (
        draw.choice(["at once", "by series", "acquired"]),
        draw.random() < 0.6,
        draw.random() < 0.4,
        draw.random() < 0.4,
    )
    longest = _between(draw, 2.0, 30.0) if way == "by series" else _between(draw, 60.0, 240.0)
    late = draw.choice([0.0, 0.0, 0.05])
    frames = 40 if modality == "US" else 1

    def make(draw: random.Random, name: str) -> Script:
        sending = _Sending(draw, name, f"drawn: {modality}, {way}", title, modality)
        count = draw.randint(*series)
        missed: list[int] = []
        for number in range(1, count + 1):
            numbers = _numbers(draw, draw.randint(*size), 1.0 if shuffled else 0.0)
            if number == 1 or way != "at once":
                sending.associate()
            if number == count and len(numbers) > 9 and draw.random() < late:
                missed = draw.sample(numbers, 2)
            now = [one for one in numbers if one not in missed]
            sending.send(f"s{number}", now, stated=len(numbers) if stated else None, frames=frames)
            if way != "at once":
                sending.release()
            if number < count:
                sending.pause(*((0.05, 1.0) if way == "at once" else (1.0, longest)))
        if way == "at once":
            sending.release()
        if missed:
            sending.pause(3.0, 50.0)
            sending.associate()
            sending.send(f"s{count}", missed)
            sending.release()
        if tells:
            sending.step((10, 300), (-10, 60))
        return sending.script

    return make


def _between(draw: random.Random, least: float, most: float) -> float:
    """Evenly over the orders of magnitude."""
    return least * (most / least) ** draw.random()


def drawn(seed: int) -> tuple[Maker, ...]:
    """A hospital's senders, in the numbers of a peak hour: half radiographs, a fifth ultrasound, then CT and MR."""
    draw = random.Random(f"senders of {seed}")
    return (
        *(_drawn_xray(draw, f"DX{number}") for number in range(1, 6)),
        *(_drawn_stacks(draw, f"US{number}", "US", (3, 15), (1, 1)) for number in (1, 2)),
        *(_drawn_stacks(draw, f"CT{number}", "CT", (1, 4), (60, 300)) for number in (1, 2)),
        _drawn_stacks(draw, "MR1", "MR", (3, 8), (20, 80)),
    )


def studies(
    makers: tuple[Maker, ...], count: int, seed: int, *, first: int | None = None
) -> list[tuple[float, Script]]:
    """So many studies of these senders with their start times.

    A sender begins its next study after the one before, as a modality has one patient at a time.

    Args:
        first: how many times more studies the first sender has than each other; as many as all others, when not given.
    """
    draw = random.Random(seed)
    free = dict.fromkeys(range(len(makers)), 0.0)
    found: list[tuple[float, Script]] = []
    for number in range(count):
        weights = [len(makers) - 1 if first is None else first] + [1] * (len(makers) - 1)
        sender = draw.choices(range(len(makers)), weights)[0]
        script = makers[sender](draw, f"study-{number}")
        start = free[sender] + draw.uniform(60.0, 360.0)
        end = script.last if script.step is None else max(script.last, script.step[1])
        free[sender] = start + end
        found.append((start, script))
    return found
