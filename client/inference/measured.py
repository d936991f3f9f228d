"""What was measured on this machine, kept so that it is not measured again before something it depends on changes."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeVar

log = logging.getLogger(__name__)

MARGIN: Final = 0.9
"""A contender has to need less than this part of the time of what is known to work: a tie is no reason to change."""
_LEAST: Final = 3


@dataclass(frozen=True, slots=True)
class Measured:
    """Findings of one site's machine.

    Args:
        folder: where they lie; it may be emptied at any time, then they are found again.
    """

    folder: Path

    def recall(self, subject: str, circumstances: Mapping[str, str]) -> dict[str, Any] | None:
        """What was found under the same circumstances; None where nothing was, or it cannot be read."""
        try:
            kept = json.loads(self._path(subject, circumstances).read_text())
        except (OSError, ValueError):  # missing, or torn by a power cut
            return None
        if not isinstance(kept, dict) or kept.get("circumstances") != dict(circumstances):
            return None
        found = kept.get("found")
        return found if isinstance(found, dict) else None

    def remember(self, subject: str, circumstances: Mapping[str, str], found: Mapping[str, Any]) -> None:
        """Keep a finding, whole or not at all; a folder that cannot be written costs another measurement only."""
        path = self._path(subject, circumstances)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        kept = {"circumstances": dict(circumstances), "found": dict(found)}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
            temporary.replace(path)
        except OSError as error:
            log.warning("%s: what was measured is not kept: %s", subject, type(error).__name__)

    def _path(self, subject: str, circumstances: Mapping[str, str]) -> Path:
        canonical = json.dumps(dict(circumstances), sort_keys=True)
        return self.folder / f"{subject}-{hashlib.sha256(canonical.encode()).hexdigest()[:24]}.json"


def machine() -> dict[str, str]:
    """What of this machine decides which of two programs is the faster one."""
    return {
        "processor": _processor(),
        "processors": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "gpu": "; ".join(gpus()),
        "python": platform.python_version(),
    }


def gpus() -> list[str]:
    """The NVIDIA GPUs whose driver is loaded, by name."""
    found: list[str] = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        lines = path.read_text(errors="replace").splitlines()
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model")]
    return found


def packages(*names: str) -> dict[str, str]:
    """The installed version of each, empty where it is not installed; nothing is imported."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


Name = TypeVar("Name", bound=Hashable)


def interleaved(
    contenders: Mapping[Name, Callable[[], object]],
    rounds: int = 7,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, float]:
    """Median milliseconds of each, taken in turns so that a busy moment falls on all; a first round is not counted.

    Args:
        seconds: after which no further round begins, when there were at least three.
    """
    taken: dict[Name, list[float]] = {name: [] for name in contenders}
    started = clock()
    for turn in range(rounds + 1):
        if turn > _LEAST and clock() - started > seconds:
            break
        for name, run in contenders.items():
            began = clock()
            run()
            if turn:
                taken[name].append((clock() - began) * 1000)
    return {name: median(times) for name, times in taken.items()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
