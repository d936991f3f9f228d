"""Which computation of a network is the fastest on this machine: measured when a version is adopted, and remembered.

How long a network takes is its architecture's matter and not its weights': a retrained version of one that was measured
here is not measured again. So figures lie beside the folders of the versions (`engines/engine-….json`) under what they
depend on, with another processor, thread count or release of a runtime it is measured again. Where a computation could
not take part because of what this very version's weights gave, the figures are the version's own (`engines/DIGEST`).
They say what is fast, never what is right: whatever computes has passed the reference cases of this very version. The
folder may be deleted at any time.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from client.inference.measured import Measured, interleaved, machine, packages
from models.bundle import Facts

MARGIN: Final = 0.10  # by which another runtime has to be faster: it costs memory, and time at each start
BATCH_MARGIN: Final = 0.05  # by which an image of a batch has to be faster than one alone
_SECONDS: Final = 4.0
_MOST: Final = 9

Timed = Mapping[str, Mapping[int, Callable[[], object]]]


class Figures(BaseModel):
    """What was found.

    Attributes:
        ms: median duration of a run, by computation and size of the batch.
        memory_mib: that a computation took when it was loaded, where that was looked at.
        refused: computations that could not take part, and why.
    """

    model_config = ConfigDict(extra="forbid")

    ms: dict[str, dict[int, float]]
    memory_mib: dict[str, float] = Field(default_factory=dict)
    refused: dict[str, str] = Field(default_factory=dict)

    def fastest(self, usual: str) -> str:
        """The computation that is used: the usual one, unless another is faster for one image by the margin."""
        alone = {name: by_size[1] for name, by_size in self.ms.items() if 1 in by_size}
        if usual not in alone:
            return usual
        best = min(alone, key=lambda name: alone[name])
        return best if alone[best] <= (1 - MARGIN) * alone[usual] else usual

    def batch(self, name: str) -> int:
        """How many images that wait are computed together: the size with the shortest time an image, 1 unless it wins
        by the margin.
        """
        each = {size: taken / size for size, taken in self.ms.get(name, {}).items()}
        if 1 not in each:
            return 1
        best = min(each, key=lambda size: each[size])
        return best if each[best] <= (1 - BATCH_MARGIN) * each[1] else 1

    @property
    def text(self) -> str:
        """The figures for a person."""
        parts: list[str] = []
        for name, by_size in self.ms.items():
            sizes = [
                f"{taken:.2f} ms" + (f" for {size}" if size > 1 else "") for size, taken in sorted(by_size.items())
            ]
            parts.append(f"{name} {', '.join(sizes)}")
        parts += [f"{name} takes {taken:.0f} MiB" for name, taken in self.memory_mib.items()]
        parts += [f"{name} out: {why}" for name, why in self.refused.items()]
        return "; ".join(parts)


def facts(threads: int, providers: Sequence[str]) -> dict[str, str]:
    """What of this machine a measurement depends on, without loading any runtime."""
    return {
        "threads": str(threads),
        "providers": " ".join(providers),
        **machine(),
        **packages("onnxruntime", "onnxruntime-gpu", "torch", "monai"),
    }


def architecture(version: Facts, placed: Mapping[str, int], sizes: Sequence[int]) -> dict[str, str]:
    """What of a version a measurement depends on, whatever its weights are.

    Args:
        placed: operators by where they are computed, as the usual computation has them: two files of one declared
            network that were made in different ways differ in it.
        sizes: of the batches that are measured.
    """
    said = {
        "network": version.network,
        "network_facts": version.network_facts,
        "input": version.input_shape,
        "precision": version.precision,
        "outlines": version.segmentation is not None,
        "operators": dict(placed),
        "sizes": list(sizes),
    }
    return {"architecture": json.dumps(said, sort_keys=True)}


def recall(folder: Path, wanted: Mapping[str, str]) -> Figures | None:
    """What was measured here under the same conditions, of this version or of another one of its architecture.

    Args:
        folder: `engines/DIGEST`.

    Returns:
        None where nothing, or nothing readable, was.
    """
    for place in (folder, folder.parent):
        try:
            return Figures.model_validate(Measured(place).recall("engine", wanted))
        except ValidationError:
            continue
    return None


def remember(folder: Path, known: Mapping[str, str], figures: Figures) -> None:
    """Keep it; that it cannot be kept costs a measurement at the next start, and nothing else.

    Args:
        folder: `engines/DIGEST`.
    """
    # that a computation was refused is the weights' doing: another version must have its chance
    place = folder if figures.refused else folder.parent
    Measured(place).remember("engine", known, figures.model_dump(mode="json"))


def by_turns(
    contenders: Timed, seconds: float = _SECONDS, clock: Callable[[], float] = time.perf_counter
) -> dict[str, dict[int, float]]:
    """Median duration of each, in milliseconds; by turns, so that a busy moment meets all alike.

    Args:
        contenders: what to run, by name and size of the batch; each has run before.
        seconds: after which no further turn begins, when each had at least three.
    """
    flat = {(name, size): run for name, sizes in contenders.items() for size, run in sizes.items()}
    found = interleaved(flat, rounds=_MOST, seconds=seconds, clock=clock)
    return {name: {size: found[name, size] for size in sizes} for name, sizes in contenders.items()}
