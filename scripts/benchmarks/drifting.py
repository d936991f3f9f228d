"""Simulated years of a hospital's studies, and what may happen to them, on real radiographs.

Each study is a radiograph of a hospital, slightly shifted, turned and exposed anew so that none comes twice, under a
header as one of the hospital's two machines would write it; every hospital leaves some attributes out. Then one of six
things changes, with parameters drawn anew for each run; whether headers tell of it is drawn too.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count, islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy.ndimage import affine_transform, gaussian_filter

from client.inference.traits import Traits, traits_of
from client.vigilance.causes import Cause, Seen

A_YEAR: Final = 2000
_OFTEN: Final = 4  # how many studies are made of one radiograph
_OPTIONAL: Final = ("SoftwareVersions", "AcquisitionDeviceProcessingDescription", "KVP", "Exposure", "ExposureIndex")

Picture = NDArray[np.float32]
Draw = np.random.Generator


@dataclass(frozen=True, slots=True)
class Pool:
    """Radiographs of one hospital, and the traits of the studies made of them while nothing has changed.

    Attributes:
        pictures: (h, w) float32, 0..255, larger is whiter.
        truths: whether each has the finding.
        plain: traits of the pixels of each study, by number.
    """

    pictures: list[Picture]
    truths: NDArray[np.bool_]
    plain: list[Traits]

    def picture(self, number: int) -> Picture:
        """The radiograph of a study, as it came from the detector."""
        return _varied(self.pictures[number // _OFTEN], np.random.default_rng(number))


def pool(pictures: list[Picture], truths: NDArray[np.bool_]) -> Pool:
    """Make the studies of a hospital."""
    made = Pool(pictures, truths, [])
    made.plain.extend(traits_of(Dataset(), made.picture(n), None) for n in range(_OFTEN * len(pictures)))
    return made


@dataclass(frozen=True, slots=True)
class Machine:
    """What one machine writes."""

    words: dict[str, str]
    numbers: dict[str, float]


@dataclass(frozen=True, slots=True)
class Hospital:
    """How studies come about here.

    Attributes:
        machines: of which the first makes `share` of the studies.
        silent: attributes that nobody fills in here.
        age: mean, years.
        women: share.
        prevalence: of the finding.
    """

    machines: tuple[Machine, Machine]
    share: float
    silent: frozenset[str]
    age: float
    women: float
    prevalence: float


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to a study; nothing by default.

    Attributes:
        hits: whether it happens to a study of this machine (0 or 1) and this truth.
        picture: what becomes of the pixels.
        header: what becomes of the machine's words and numbers.
        hospital: as it is after the change.
        score: added to the log odds.
        truth: of those it happens to; None: theirs.
    """

    cause: Cause | None = None
    hits: Callable[[Draw, int, bool], bool] = lambda _draw, _machine, _truth: False
    picture: Callable[[Draw, Picture], Picture] | None = None
    header: Callable[[Machine], Machine] = lambda machine: machine
    hospital: Callable[[Hospital], Hospital] = lambda hospital: hospital
    score: float = 0.0
    truth: bool | None = None
    age: Callable[[Draw], float] | None = None


def hospital(draw: Draw) -> Hospital:
    """One that nobody has seen before."""

    def machine(number: int) -> Machine:
        rows = int(draw.choice([2022, 2480, 2500, 2992, 3056]))
        words = {
            "Manufacturer": f"maker {draw.integers(6)}",
            "ManufacturerModelName": f"model {draw.integers(40)}",
            "DeviceSerialNumber": f"{number}{draw.integers(10_000)}",
            "SoftwareVersions": f"V{draw.integers(1, 6)}.{draw.integers(9)}",
            "AcquisitionDeviceProcessingDescription": f"chest {draw.integers(3)}",
            "ViewPosition": "PA",
            "PhotometricInterpretation": str(draw.choice(["MONOCHROME1", "MONOCHROME2"])),
        }
        numbers = {
            "Rows": rows,
            "Columns": int(rows * 0.82),
            "ImagerPixelSpacing": round(350 / rows, 4),
            "KVP": float(draw.uniform(95, 125)),
            "Exposure": float(draw.uniform(1.5, 5)),
            "ExposureIndex": float(draw.uniform(200, 600)),
        }
        return Machine(words, numbers)

    silent = {name for name in _OPTIONAL if draw.random() < 0.25}
    if draw.random() < 0.15:
        silent |= {"Manufacturer", "ManufacturerModelName", "DeviceSerialNumber"}
    return Hospital(
        (machine(1), machine(2)),
        draw.uniform(0.3, 0.7),
        frozenset(silent),
        draw.uniform(40, 65),
        draw.uniform(0.4, 0.6),
        draw.uniform(0.2, 0.4),
    )


def studies(
    here: Hospital, pool: Pool, count: int, draw: Draw, change: Change | None = None, begin: int = 0
) -> list[Seen]:
    """So many studies as they come, with their truth; from number `begin` on under a change."""
    return list(islice(coming(here, pool, draw, change, begin), count))


def coming(here: Hospital, pool: Pool, draw: Draw, change: Change | None = None, begin: int = 0) -> Iterator[Seen]:
    """As `studies`, one after the other, without end."""
    by_truth = [np.flatnonzero(pool.truths == truth) for truth in (False, True)]
    for number in count():
        now = change if change is not None and number >= begin else None
        place = now.hospital(here) if now else here
        which = int(draw.random() >= place.share)
        truth = bool(draw.random() < place.prevalence)
        hit = now is not None and now.hits(draw, which, truth)
        chosen = int(draw.choice(by_truth[truth])) * _OFTEN + int(draw.integers(_OFTEN))
        machine = place.machines[which]
        if hit and now is not None:
            machine = now.header(machine)
        age = now.age(draw) if hit and now is not None and now.age else draw.normal(place.age, 16)
        header = _header(place, machine, max(age, 0.1), draw)
        odds = draw.normal(1.6 if truth else -1.9, 1.3) + (now.score if hit and now is not None else 0.0)
        score = float(1 / (1 + np.exp(-odds)))
        if hit and now is not None and now.picture is not None:
            traits = traits_of(header, now.picture(draw, pool.picture(chosen)), score)
        else:
            plain, said = pool.plain[chosen], traits_of(header, None, score)
            traits = Traits(said.words, plain.numbers | said.numbers, plain.look)
        yield Seen(traits, now.truth if hit and now is not None and now.truth is not None else truth)


def happening(cause: Cause, here: Hospital, draw: Draw) -> Change:
    """One of the six, as it may happen to a hospital."""
    return _HAPPENINGS[cause](here, draw)


def _header(here: Hospital, machine: Machine, age: float, draw: Draw) -> Dataset:
    numbers = dict(machine.numbers)
    for name, spread in (("KVP", 0.03), ("Exposure", 0.35), ("ExposureIndex", 0.25)):
        numbers[name] = round(numbers[name] * float(np.exp(draw.normal(0, spread))), 2)
    said = machine.words | numbers | {"PatientSex": "F" if draw.random() < here.women else "M"}
    header = Dataset()
    for name, value in said.items():
        if name in here.silent:
            continue
        if name == "Exposure":
            header.ExposureInuAs = round(1000 * float(value))
        else:
            setattr(header, name, [value, value] if name == "ImagerPixelSpacing" else value)
    header.PatientAge = f"{int(age):03d}Y" if age >= 2 else f"{int(age * 12):03d}M"
    return header


def _technique(here: Hospital, draw: Draw) -> Change:
    gamma, zoom, blur = draw.uniform(0.7, 1.4), draw.uniform(0.9, 1.0), draw.uniform(0.4, 1.2)
    sharper, whole = draw.random() < 0.5, draw.random() < 0.4
    old = here.machines[0]
    rows = int(old.numbers["Rows"] * draw.choice([0.7, 0.85, 1.2, 1.4]))
    same = draw.random() < 0.5
    words = old.words | {
        "Manufacturer": old.words["Manufacturer"] if same else "another maker",
        "ManufacturerModelName": "another model",
        "DeviceSerialNumber": "99999",
        "SoftwareVersions": "N1.0",
        "AcquisitionDeviceProcessingDescription": "thorax",
    }
    numbers = old.numbers | {
        "Rows": rows,
        "Columns": int(rows * 0.82),
        "ImagerPixelSpacing": round(350 / rows, 4),
        "KVP": old.numbers["KVP"] * draw.uniform(0.9, 1.1),
        "Exposure": old.numbers["Exposure"] * draw.uniform(0.7, 1.3),
    }
    new = Machine(words, numbers)

    def picture(draw: Draw, one: Picture) -> Picture:
        one = _gamma(_zoomed(one, zoom), gamma)
        return _unsharp(one, blur) if sharper else _blurred(one, blur)

    return Change(
        Cause.TECHNIQUE,
        lambda _draw, machine, _truth: whole or machine == 0,
        picture,
        lambda _machine: new,
        score=draw.normal(0, 0.7),
    )


def _software(here: Hospital, draw: Draw) -> Change:
    kind, told, whole = draw.integers(3), draw.random() < 0.6, draw.random() < 0.5
    amount, gamma = draw.uniform(0.6, 1.6), float(np.exp(draw.choice([-1, 1]) * draw.uniform(0.25, 0.5)))

    def picture(_draw: Draw, one: Picture) -> Picture:
        if kind == 0:
            return _unsharp(one, amount)
        if kind == 1:
            return _blurred(_gamma(one, gamma**0.5), 0.5 + 0.3 * amount)
        return _gamma(one, gamma)

    def header(machine: Machine) -> Machine:
        return replace(machine, words=machine.words | {"SoftwareVersions": "V9.9 SP2"}) if told else machine

    return Change(
        Cause.SOFTWARE,
        lambda _draw, machine, _truth: whole or machine == 0,
        picture,
        header,
        score=draw.normal(0, 0.5),
    )


def _dose(here: Hospital, draw: Draw) -> Change:
    share, told, whole, grain = draw.uniform(0.35, 0.6), draw.random() < 0.6, draw.random() < 0.5, draw.uniform(5, 12)

    def picture(draw: Draw, one: Picture) -> Picture:
        quantum = np.sqrt(np.maximum(255 - one, 16) / 128)  # fewer quanta where it is black
        return np.clip(one + (grain * quantum * draw.normal(size=one.shape)).astype(np.float32), 0, 255)

    def header(machine: Machine) -> Machine:
        if not told:
            return machine
        by = {name: machine.numbers[name] * share for name in ("Exposure", "ExposureIndex")}
        return replace(machine, numbers=machine.numbers | by)

    return Change(
        Cause.DOSE,
        lambda _draw, machine, _truth: whole or machine == 0,
        picture,
        header,
        score=draw.normal(0, 0.3),
    )


def _therapy(here: Hospital, draw: Draw) -> Change:
    share, lines = draw.uniform(0.5, 0.9), int(draw.integers(2, 5))

    def picture(draw: Draw, one: Picture) -> Picture:
        made, (high, wide) = one.copy(), one.shape
        for _ in range(lines):  # catheters, drains, wires
            at = np.cumsum(draw.normal(0, 0.006, 200)) + draw.uniform(0.3, 0.7)
            along = np.linspace(draw.uniform(0, 0.3), draw.uniform(0.5, 0.9), 200)
            y, x = (along * (high - 3)).astype(int), np.clip(at * wide, 1, wide - 3).astype(int)
            for offset in (0, 1):
                made[y, x + offset] = 235
        top, left = int(draw.uniform(0.1, 0.25) * high), int(draw.uniform(0.6, 0.75) * wide)
        made[top : top + high // 8, left : left + wide // 8] = 240  # a device under the skin
        return made

    return Change(
        Cause.THERAPY, lambda draw, _machine, truth: truth and draw.random() < share, picture, score=-draw.uniform(1, 2)
    )


def _disease(here: Hospital, draw: Draw) -> Change:
    share, count, strength = draw.uniform(0.12, 0.3), int(draw.integers(5, 10)), draw.uniform(40, 80)
    truth, score = bool(draw.random() < 0.5), draw.uniform(0, 1.5)

    def picture(draw: Draw, one: Picture) -> Picture:
        made, (high, wide) = one.copy(), one.shape
        rows, columns = np.mgrid[0:high, 0:wide].astype(np.float32)
        for _ in range(count):  # patches at the edges of both lungs
            x = wide * (draw.uniform(0.12, 0.28) if draw.random() < 0.5 else draw.uniform(0.72, 0.88))
            y, size = high * draw.uniform(0.35, 0.8), wide * draw.uniform(0.03, 0.08)
            made += strength * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * size**2))
        return np.clip(made, 0, 255).astype(np.float32)

    return Change(
        Cause.DISEASE, lambda draw, _machine, _truth: draw.random() < share, picture, score=score, truth=truth
    )


def _population(here: Hospital, draw: Draw) -> Change:
    kind, share = draw.integers(3), draw.uniform(0.4, 1.0)
    more = draw.uniform(0.8, 1.5)

    def changed(before: Hospital) -> Hospital:
        after = replace(before, prevalence=min(before.prevalence * more, 0.9))
        return replace(after, women=0.95 if before.women < 0.5 else 0.1) if kind == 2 else after

    older, zoom = here.age + draw.uniform(14, 22), draw.uniform(0.85, 0.95)
    ages: list[Callable[[Draw], float] | None] = [
        lambda one: one.normal(older, 10),
        lambda one: one.uniform(1, 14),
        None,
    ]
    return Change(
        Cause.POPULATION,
        lambda draw, _machine, _truth: draw.random() < share,
        (lambda _draw, one: _zoomed(one, zoom)) if kind == 1 else None,
        hospital=changed,
        age=ages[kind],
        score=draw.normal(0, 0.5),
    )


def _always(_draw: Draw, _machine: int, _truth: bool) -> bool:
    return True


def _halved(machine: Machine) -> Machine:
    by = {"Rows": 0.5, "Columns": 0.5, "ImagerPixelSpacing": 2.0}
    return replace(
        machine, numbers=machine.numbers | {name: machine.numbers[name] * times for name, times in by.items()}
    )


def _of_other_make(machine: Machine) -> Machine:
    return replace(machine, words=machine.words | {"Manufacturer": "Never Seen Before Ltd"})


DRILLS: Final[dict[str, tuple[Change, str]]] = {
    "gamma": (Change(Cause.SOFTWARE, _always, lambda _draw, one: _gamma(one, 0.7)), "grey curve"),
    "inversion": (Change(Cause.TECHNIQUE, _always, lambda _draw, one: (255 - one).astype(np.float32)), "inverted"),
    "resolution": (
        Change(Cause.TECHNIQUE, _always, lambda _draw, one: _blurred(one, 1.0)[::2, ::2], _halved),
        "pixel spacing",
    ),
    "manufacturer": (Change(Cause.TECHNIQUE, _always, None, _of_other_make), "manufacturer"),
}
"""Changes of every study from one moment on: the cause that is right, and a word that tells of what is different."""

_HAPPENINGS: Final[dict[Cause, Callable[[Hospital, Draw], Change]]] = {
    Cause.TECHNIQUE: _technique,
    Cause.SOFTWARE: _software,
    Cause.DOSE: _dose,
    Cause.THERAPY: _therapy,
    Cause.DISEASE: _disease,
    Cause.POPULATION: _population,
}


def _varied(one: Picture, draw: Draw) -> Picture:
    """Positioned and exposed a little differently."""
    angle, zoom = np.deg2rad(draw.normal(0, 1.5)), float(np.exp(draw.normal(0, 0.02)))
    return _gamma(_turned(one, angle, zoom, draw.normal(0, 0.012, 2)), float(np.exp(draw.normal(0, 0.05))))


def _turned(one: Picture, angle: float, zoom: float, shift: NDArray[np.float64]) -> Picture:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) * zoom
    middle = (np.array(one.shape) - 1) / 2
    offset: Any = middle - turn @ middle + shift * one.shape
    return affine_transform(one, turn, offset, order=1, mode="nearest").astype(np.float32)


def _zoomed(one: Picture, zoom: float) -> Picture:
    return _turned(one, 0.0, zoom, np.zeros(2))


def _gamma(one: Picture, gamma: float) -> Picture:
    return (255 * (np.clip(one, 0, 255) / 255) ** gamma).astype(np.float32)


def _blurred(one: Picture, sigma: float) -> Picture:
    return np.asarray(gaussian_filter(one, sigma), np.float32)


def _unsharp(one: Picture, amount: float) -> Picture:
    return np.clip(one + amount * (one - _blurred(one, 2.0)), 0, 255).astype(np.float32)
