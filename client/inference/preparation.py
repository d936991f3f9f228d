"""Who does a declared preprocessing on this machine: MONAI, or what gives the same in less time.

The contenders are tried on made-up pictures in a process of their own: DALI and its libraries may end the process that
they run in, and MONAI brings torch, which the worker then never has to load. Where neither holds, no DALI installed and
MONAI loaded already, as in a process that judges a version, they are tried at once: a process costs seconds of imports.
Equal means within 1e-3 of the reference's
value range; the fastest that is equal does the work, by a clear margin over what is better known. What was found is
kept until the machine, a package or the declaration changes. Whatever goes wrong with the others, MONAI does it; steps
that MONAI itself cannot do are found out here too, and nothing may be read with them.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from signal import SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV
from typing import Any, Final, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from client.inference import compiled, plain
from client.inference.measured import MARGIN, Measured, interleaved, machine, packages
from client.inference.plain import NoEqual
from models.errors import InvalidPreprocessing, InvalidStudy
from models.preprocessing import Declaration, Preprocessing

log = logging.getLogger(__name__)

PARITY: Final = 1e-3
_TRUSTED: Final = ("monai", "numpy", "dali")  # the best known first
_PACKAGES: Final = {"monai": "monai", "numpy": "numpy", "dali": compiled.PACKAGE}
_SECONDS: Final = 120.0
_TOLD: Final = "found "
_CRASHES: Final = tuple(-number for number in (SIGSEGV, SIGABRT, SIGBUS, SIGILL, SIGFPE))  # a fault of the program

Verdict = Literal["chosen", "slower", "differs", "no-equal", "not-installed", "fails", "crashed"]


class Contender(BaseModel):
    """What was found of one program.

    Attributes:
        milliseconds: for a radiograph of a detector and a small one together; None where it was not timed.
        difference: the largest from the reference, as a part of the reference's value range.
        why: of `no-equal` the step, of `fails` the kind of error.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    verdict: Verdict
    milliseconds: float | None = None
    difference: float | None = None
    why: str = ""


class Choice(BaseModel):
    """Who does the steps, and what was found of every contender.

    Attributes:
        unusable: why nobody can do them, empty where they can be done; None where that was not tried.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Literal["monai", "numpy", "dali"] = "monai"
    contenders: dict[str, Contender]
    unusable: str | None = None

    def described(self) -> str:
        """The choice in a line, for people."""
        if self.unusable:
            return f"nobody: {self.unusable}"
        return f"{self.by}; " + ", ".join(
            f"{name}: {_stated(found)}" for name, found in self.contenders.items() if name != self.by
        )


class Does(Protocol):
    """Does declared steps; None where the picture is one of which only the reference can say."""

    def __call__(self, pixels: NDArray[np.float32], /) -> NDArray[np.float32] | None: ...


@dataclass(frozen=True, slots=True)
class Task:
    """A declaration to be tried; `shape` is what the network takes, None where that is not known."""

    declaration: tuple[dict[str, Any], ...]
    threads: int
    volumes: bool
    contenders: tuple[str, ...]
    shape: tuple[int, ...] | None = None


class Preparation(Preprocessing):
    """A declared preprocessing, done by what is the fastest here; the first picture, or `settle`, finds out.

    Args:
        measured: where findings are kept.
        threads: of one computation.
        volumes: the version reads volumes (`intensities`), else single images.
        shape: that the network takes; None: not known, and not held against what the steps make.
    """

    def __init__(
        self,
        declaration: Declaration,
        measured: Measured,
        threads: int,
        *,
        volumes: bool,
        shape: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(declaration)
        self._measured = measured
        self._task = Task(self.declaration, threads, volumes, ("numpy", "dali"), shape)
        self._lock = threading.Lock()
        self._choice: Choice | None = None
        self._does: Does | None = None
        self._name = super().by

    @property
    def by(self) -> str:
        self.settle()
        return self._name

    def settle(self) -> Choice:
        """Who does it, or why nobody can; found out once, some seconds where nothing is remembered."""
        with self._lock:
            if self._choice is None:
                choice = self._recalled() or self._found()
                self._does = _does(choice.by, self._task)
                if self._does is not None:
                    self._name = f"{choice.by} {packages(_PACKAGES[choice.by])[_PACKAGES[choice.by]]}"
                self._choice = choice
            return self._choice

    def intensities(self, voxels: NDArray[np.generic]) -> NDArray[np.float32]:
        self.settle()
        if self._does is not None and self._task.volumes:
            made = self._tried(np.asarray(voxels, dtype=np.float32))
            if made is not None and made.shape == voxels.shape:
                return made
        return super().intensities(voxels)

    def _done(self, plane: NDArray[np.float32]) -> tuple[Any, str]:
        self.settle()
        if self._does is not None and not self._task.volumes:
            made = self._tried(plane)
            if made is not None:
                return made[None], self._name
        return super()._done(plane)

    def _tried(self, pixels: NDArray[np.float32]) -> NDArray[np.float32] | None:
        assert self._does is not None
        try:
            return self._does(pixels)
        except (ArithmeticError, IndexError, RuntimeError, TypeError, ValueError) as error:
            log.warning("%s fails on %s, MONAI does it: %s", self._name, pixels.shape, type(error).__name__)
            return None

    def _circumstances(self) -> dict[str, str]:
        kind = "volumes" if self._task.volumes else "images"
        shape = "x".join(map(str, self._task.shape or ()))
        known = {"preprocessing": self.digest, "kind": kind, "shape": shape, "threads": str(self._task.threads)}
        return known | machine() | packages(*_PACKAGES.values(), "torch")

    def _recalled(self) -> Choice | None:
        kept = self._measured.recall("preprocessing", self._circumstances())
        try:
            found = None if kept is None else Choice.model_validate(kept)
        except ValidationError:
            return None
        return None if found is None or found.unusable != "" else found

    def _found(self) -> Choice:
        choice, lasting = (_tried_here(self._task), True) if _harmless() else _tried_apart(self._task)
        if choice.unusable is None:
            choice = choice.model_copy(update={"unusable": _unusable(self._task)})
        log.info("preprocessing %s: %s", self.digest[:12], choice.described())
        if lasting and not choice.unusable:  # a reason to refuse a version is never a remembered one
            self._measured.remember("preprocessing", self._circumstances(), choice.model_dump(mode="json"))
        return choice


def difference(made: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """The largest difference as a part of the reference's value range; infinite where the shapes differ.

    The range of a picture without contrast is rounding: a hundredth of its magnitude counts at least.
    """
    if made.shape != reference.shape:
        return float("inf")
    span = max(float(np.ptp(reference)), plain.FAINT * float(np.abs(reference).max()))
    worst = float(np.abs(made - reference).max())
    return worst / span if span > 0 else worst


def contend(
    reference: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    contenders: Mapping[str, Does | Contender],
    pictures: Sequence[NDArray[np.float32]],
) -> Choice:
    """Hold programs against the reference and time those that are equal.

    Args:
        reference: (H, W) or (d, h, w) float32 to the network's form, without a channel.
        contenders: by name, the best known first; or why one cannot take part.
        pictures: the first two are timed.
    """
    wanted = [reference(picture) for picture in pictures]
    found: dict[str, Contender] = {}
    equal: dict[str, Callable[[], object]] = {}
    apart: dict[str, float] = {}

    def timed(does: Callable[[NDArray[np.float32]], object]) -> Callable[[], object]:
        return lambda: [does(picture) for picture in pictures[:2]]

    for name, does in contenders.items():
        if isinstance(does, Contender):
            found[name] = does
            continue
        try:
            made = [does(picture) for picture in pictures]
        except Exception as error:  # noqa: BLE001  # whatever a library raises, it is not used
            found[name] = Contender(verdict="fails", why=type(error).__name__)
            continue
        pairs = [(one, want) for one, want in zip(made, wanted, strict=True) if one is not None]
        apart[name] = max((difference(one, want) for one, want in pairs), default=float("inf"))
        if not apart[name] <= PARITY:
            worst = apart[name] if np.isfinite(apart[name]) else None
            found[name] = Contender(verdict="differs", difference=worst)
            continue
        equal[name] = timed(does)
    took = interleaved({"monai": timed(reference), **equal})
    best = "monai"
    for name in equal:
        if took[name] < MARGIN * took[best]:
            best = name
    for name, milliseconds in took.items():
        verdict = "chosen" if name == best else "slower"
        found[name] = Contender(verdict=verdict, milliseconds=round(milliseconds, 3), difference=apart.get(name))
    listed = {name: found[name] for name in ("monai", *contenders)}
    return Choice(by=cast("Any", best), contenders=listed)


def specimens(*, volumes: bool) -> list[NDArray[np.float32]]:
    """Pictures as they come: of a detector and small ones, 8 to 16 bits, a marker, an edge, next to no contrast."""
    rng = np.random.default_rng(20)

    def picture(*shape: int, low: float = 0.0, high: float = 4095.0) -> NDArray[np.float32]:
        axes = np.meshgrid(*(np.linspace(0, 1, side, dtype=np.float32) for side in shape), indexing="ij", sparse=True)
        waves = 0.5 + 0.35 * np.sin(sum((5 + 2 * index) * axis for index, axis in enumerate(axes)))
        grain = rng.random(shape, dtype=np.float32) * np.float32(0.15)
        return np.rint(low + (high - low) * (waves + grain)).astype(np.float32)

    if volumes:
        edge = picture(24, 40, 48, low=-1024, high=400)
        edge[:, :, 24:] = 3071
        return [
            picture(48, 256, 256, low=-1024, high=3071),
            picture(16, 64, 64, low=0, high=255),
            picture(1, 33, 17, low=0, high=65535),
            edge,
            np.full((4, 16, 16), -1000, np.float32),
        ]
    marked, halved = picture(512, 480), picture(300, 200, high=1000)
    marked[10:30, 10:60] = 65535
    halved[:, 100:] = 0
    return [
        picture(2500, 2048),
        picture(512, 512, high=255),
        picture(1501, 1203, low=-1024, high=64511),
        picture(97, 64),
        picture(3, 200),
        marked,
        halved,
        np.full((64, 64), 7, np.float32),
        picture(128, 128, low=1000, high=1001),
    ]


def _does(name: str, task: Task) -> Does | None:
    """The program of this name; None for MONAI, and where it cannot be had (any more)."""
    if name == "monai":
        return None
    made = contender(name, task)
    if isinstance(made, Contender):
        log.warning("preprocessing: %s was chosen and is not there: %s", name, _stated(made))
        return None
    return made


def contender(name: str, task: Task) -> Does | Contender:
    """The program of this name made ready for a declaration, or why it takes no part."""
    try:
        if name == "numpy":
            made = plain.compiled(task.declaration, volumes=task.volumes)
        elif task.volumes:
            made = NoEqual("volumes")  # a window is a look-up per voxel, which the reader of volumes has already
        else:
            made = compiled.compiled(task.declaration, task.threads)
    except ImportError:
        return Contender(verdict="not-installed")
    except Exception as error:  # noqa: BLE001  # of a library that is not needed
        return Contender(verdict="fails", why=type(error).__name__)
    return Contender(verdict="no-equal", why=made.step) if isinstance(made, NoEqual) else made


def _harmless() -> bool:
    """Whether trying costs this process nothing: no library that may end it, none that it has not loaded already."""
    return "monai" in sys.modules and "torch" in sys.modules and not compiled.installed()


def _tried_here(task: Task) -> Choice:
    """Try the contenders in this process, with the threads that the worker will have."""
    import torch  # `_harmless` says that it is there

    before = torch.get_num_threads()
    torch.set_num_threads(task.threads)
    try:
        return _judged(task)
    finally:
        torch.set_num_threads(before)


def _unusable(task: Task) -> str:
    try:
        Preprocessing(task.declaration).prove(task.shape, volumes=task.volumes)
    except InvalidPreprocessing as error:
        return str(error)
    return ""


def _judged(task: Task) -> Choice:
    if why := _unusable(task):
        return Choice(contenders={}, unusable=why)  # a reference that fails is nobody's equal, and reads nothing
    preprocessing = Preprocessing(task.declaration)

    def reference(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        return preprocessing.intensities(pixels) if task.volumes else preprocessing(pixels)[0]

    try:
        choice = contend(
            reference,
            {name: contender(name, task) for name in task.contenders},
            specimens(volumes=task.volumes),
        )
    except InvalidPreprocessing as error:  # of an odd picture only: MONAI is then the judge of all
        choice = _nobody(error.code)
    except InvalidStudy as error:
        choice = _nobody(error.reason)
    return choice.model_copy(update={"unusable": ""})


def _tried_apart(task: Task) -> tuple[Choice, bool]:
    """Try the contenders in a process of their own.

    Returns:
        The choice, and whether it would come out the same again.
    """
    left = task.contenders
    crashed: dict[str, Contender] = {}
    while left:
        asked: dict[str, Any] = {
            "declaration": task.declaration,
            "threads": task.threads,
            "volumes": task.volumes,
            "contenders": left,
        }
        asked["shape"] = task.shape
        try:
            told = subprocess.run(
                [sys.executable, "-m", "client.inference.preparation"],
                input=json.dumps(asked),
                capture_output=True,
                text=True,
                timeout=_SECONDS,
                env=os.environ | {"OMP_NUM_THREADS": str(task.threads)},  # as in the worker, whoever asks
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return _nobody(f"not tried ({type(error).__name__})"), False
        if told.returncode in _CRASHES:  # the last one is the least known: it is the one to do without
            crashed[left[-1]] = Contender(verdict="crashed")
            left = left[:-1]
            continue
        line = next((line for line in told.stdout.splitlines() if line.startswith(_TOLD)), "")
        try:
            choice = Choice.model_validate_json(line.removeprefix(_TOLD))
        except ValidationError:
            return _nobody(f"not tried (exit {told.returncode})"), False
        return choice.model_copy(update={"contenders": choice.contenders | crashed}), True
    return Choice(contenders=crashed), True


def _nobody(why: str) -> Choice:
    return Choice(contenders={name: Contender(verdict="fails", why=why) for name in _TRUSTED[1:]})


def _stated(found: Contender) -> str:
    if found.verdict == "slower":
        return f"slower ({found.milliseconds:.1f} ms)" if found.milliseconds is not None else "slower"
    if found.verdict == "differs":
        return "differs" + (f" by {found.difference:.1e} of the range" if found.difference is not None else "")
    return f"{found.verdict} ({found.why})" if found.why else found.verdict


def main() -> None:
    from client.lean import without_unused

    without_unused()
    asked = json.load(sys.stdin)
    shape = None if asked["shape"] is None else tuple(asked["shape"])
    task = Task(tuple(asked["declaration"]), asked["threads"], asked["volumes"], tuple(asked["contenders"]), shape)
    sys.stdout.write(_TOLD + _judged(task).model_dump_json() + "\n")


if __name__ == "__main__":
    main()
