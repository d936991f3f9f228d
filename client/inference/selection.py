"""What computes a version here: the first provider that gives the right numbers, or TorchScript where it is faster.

A provider is used only if it passes the version's reference cases on this very machine. One that cannot be loaded, is
left out by ONNX Runtime without an error, or gives other numbers, is skipped, and the reason is kept for the log and
for `vigie site doctor`.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime
import psutil

from client.inference import contest, providers, torchscript
from client.inference.computing import LARGEST, SIZES, Computation, Floats, open_onnx
from client.inference.providers import Named
from models.bundle import Bundle
from models.errors import BundleRefused

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Demand:
    """What an engine asks of what computes for it.

    Attributes:
        test: gives by how much the reference cases differ.
            Raises BundleRefused where that is too much, or the outputs are no such outputs.
        sizes: of the batches that it may be given.
    """

    bundle: Bundle
    outputs: tuple[str, ...]
    threads: int
    test: Callable[[Computation], float]
    sizes: tuple[int, ...] = (1,)


@dataclass(frozen=True, slots=True)
class Selected:
    """What computes, and why.

    Attributes:
        batch: how many images to compute together when they wait.
        differs: from the reference cases, at most.
        skipped: providers that would have come first, and why they do not compute.
        measured: the figures that decided, None where there was nothing to decide.
    """

    computation: Computation
    differs: float
    batch: int = 1
    skipped: Mapping[str, str] = field(default_factory=dict[str, str])
    measured: contest.Figures | None = None

    @property
    def text(self) -> str:
        """For a person: what computes where, what does not, and the figures."""
        where = ", ".join(f"{name} {count}" for name, count in self.computation.placed.items())
        said = [f"{self.computation.name} ({where} operators)"]
        said += [f"{name} skipped: {why}" for name, why in self.skipped.items()]
        if self.measured is not None:
            said.append(f"measured: {self.measured.text}; batches of {self.batch}")
        return "; ".join(said)


class Runtime(Protocol):
    """ONNX Runtime as far as it is asked here."""

    def available(self) -> Sequence[str]: ...

    def open(self, path: Path, stack: Sequence[Named], threads: int) -> Computation: ...


class Installed:
    """The ONNX Runtime that is installed."""

    def available(self) -> Sequence[str]:
        return onnxruntime.get_available_providers()

    def open(self, path: Path, stack: Sequence[Named], threads: int) -> Computation:
        return open_onnx(path, stack, threads)


class Processor(Installed):
    """The ONNX Runtime that is installed, its GPU left alone."""

    def available(self) -> Sequence[str]:
        return [providers.CPU]


class Chosen:
    """What was selected for an engine, and what is selected instead when a GPU fails while it serves.

    A driver that crashes is no reason to refuse studies: the processor goes on, more slowly, until the next start. The
    log says so, and each result names what computed it.
    """

    def __init__(self, demand: Demand, folder: Path | None, runtime: Runtime | None) -> None:
        self._demand = demand
        self._lock = threading.Lock()
        self.selected = select(demand, folder, runtime)

    def run(self, outputs: Sequence[str], images: Floats) -> list[Floats]:
        """As `Computation.run`."""
        computation = self.selected.computation
        try:
            return computation.run(outputs, images)
        except Exception as error:
            if computation.name in (providers.CPU, torchscript.NAME):
                raise
            self._replace(computation, error)
        return self.selected.computation.run(outputs, images)

    def _replace(self, failed: Computation, error: Exception) -> None:
        with self._lock:
            if self.selected.computation is not failed:
                return  # another thread was first
            label = self._demand.bundle.facts.label
            log.error("version %s: %s failed while it served", label, failed.name, exc_info=error)
            skipped = {**self.selected.skipped, failed.name: f"failed while it served ({type(error).__name__})"}
            self.selected = replace(select(self._demand, runtime=Processor()), skipped=skipped)


def select(demand: Demand, folder: Path | None = None, runtime: Runtime | None = None) -> Selected:
    """Decide what computes a version on this machine; it has run once with every size when this returns.

    Args:
        folder: `engines/DIGEST`, for what is built and measured; None: neither is kept, and nothing is measured.

    Raises:
        BundleRefused: not even the processor gives what the version says of itself; why it does not.
    """
    runtime = runtime or Installed()
    selected = _first(demand, folder, runtime)
    if folder is not None and (len(demand.sizes) > 1 or torchscript.possible(demand.bundle)):
        selected = _raced(demand, selected, folder, runtime)
    label = demand.bundle.facts.label
    log.info("version %s: %s; reference differs by %.1e", label, selected.text, selected.differs)
    return selected


def _first(demand: Demand, folder: Path | None, runtime: Runtime) -> Selected:
    label, skipped = demand.bundle.facts.label, dict[str, str]()
    available = runtime.available()
    for name in providers.candidates(available):
        try:
            computation = _opened(name, demand, available, folder, runtime)
            differs = _tested(computation, demand)
        except BundleRefused as error:
            if name == providers.CPU:
                raise
            skipped[name] = str(error).removeprefix(f"{label}: ")
            log.warning("version %s: %s skipped: %s", label, name, skipped[name])
            continue
        return Selected(computation, differs, skipped=skipped)
    raise AssertionError  # the processor is always a candidate


def _opened(name: str, demand: Demand, available: Sequence[str], folder: Path | None, runtime: Runtime) -> Computation:
    label = demand.bundle.facts.label
    largest = LARGEST if len(demand.sizes) > 1 else 1
    if folder is not None and name == providers.TENSORRT:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    stack = providers.stack(name, available, demand.bundle.facts.input_shape, largest, folder)
    try:
        computation = runtime.open(demand.bundle.onnx, stack, demand.threads)
    except Exception as error:  # onnxruntime raises a dozen unrelated types, all meaning this
        raise BundleRefused(f"{label}: the network cannot be loaded ({type(error).__name__})") from error
    if name != providers.CPU and (why := providers.problem(name, computation.registered, computation.placed)):
        raise BundleRefused(f"{label}: {why}")
    return computation


def _tested(computation: Computation, demand: Demand) -> float:
    """Let it pass the reference cases, then run once with every size: the first run of a shape is slow."""
    label = demand.bundle.facts.label
    if list(computation.inputs) != ["image"] or not set(demand.outputs) <= set(computation.outputs):
        wanted = " and ".join(demand.outputs)
        raise BundleRefused(f"{label}: inputs and outputs are not image and {wanted}")
    try:
        differs = demand.test(computation)
        if computation.name != providers.CPU:
            for size in SIZES if len(demand.sizes) > 1 else demand.sizes:
                _run(computation, demand, size)
    except BundleRefused:
        raise
    except Exception as error:  # as above
        raise BundleRefused(f"{label}: the network does not run ({type(error).__name__})") from error
    return differs


def _raced(demand: Demand, usual: Selected, folder: Path, runtime: Runtime) -> Selected:
    """Measure, or recall what was measured here of this architecture, and take the faster one that is right."""
    name = usual.computation.name
    known = _circumstances(demand, usual.computation, runtime)
    measured = contest.recall(folder, known)
    other: tuple[Computation, float] | None = None
    if measured is None:
        refused = dict[str, str]()
        memory = dict[str, float]()
        rivals = [usual.computation]
        if name == providers.CPU and torchscript.possible(demand.bundle):
            before = psutil.Process().memory_info().rss
            other = _torchscript(demand, refused)
            if other is not None:
                rivals.append(other[0])
                memory[torchscript.NAME] = (psutil.Process().memory_info().rss - before) / 2**20
        timed = {rival.name: {size: partial(_run, rival, demand, size) for size in demand.sizes} for rival in rivals}
        for sizes in timed.values():
            for run in sizes.values():
                run()  # what a first run of a shape costs is not what it costs every day
        measured = contest.Figures(ms=contest.by_turns(timed), memory_mib=memory, refused=refused)
        contest.remember(folder, known, measured)
    chosen = measured.fastest(name)
    if chosen == torchscript.NAME:
        other = other or _torchscript(demand, {})
        if other is not None:
            return Selected(*other, measured.batch(chosen), usual.skipped, measured)
    return Selected(usual.computation, usual.differs, measured.batch(name), usual.skipped, measured)


def _circumstances(demand: Demand, usual: Computation, runtime: Runtime) -> dict[str, str]:
    """What the figures depend on; the usual computation is a part of it, since another version's may have been skipped
    for its numbers.
    """
    machine = contest.facts(demand.threads, runtime.available())
    rivals = "TorchScript" if torchscript.possible(demand.bundle) else ""
    of_version = contest.architecture(demand.bundle.facts, usual.placed, demand.sizes)
    return {**machine, **of_version, "usual": usual.name, "rivals": rivals}


def _torchscript(demand: Demand, refused: dict[str, str]) -> tuple[Computation, float] | None:
    label = demand.bundle.facts.label
    try:
        made = torchscript.TorchScript(demand.bundle, demand.outputs, demand.threads)
        return made, _tested(made, demand)
    except Exception as error:  # PyTorch raises as many; the version is computed by ONNX Runtime then
        refused[torchscript.NAME] = str(error).removeprefix(f"{label}: ") or type(error).__name__
        log.warning("version %s: TorchScript cannot be used: %s", label, type(error).__name__, exc_info=error)
        return None


def _run(computation: Computation, demand: Demand, size: int) -> None:
    computation.run(demand.outputs, np.zeros((size, *demand.bundle.facts.input_shape), np.float32))
