"""What a study needs of the memory, from what the index knows of its images; and how much there is.

A worker that the kernel kills for its memory takes every study in hand with it. So a study is begun when there is room
for it beside those that are being written, and one that needs more than there is fails with the figures, instead of
failing by being killed again and again.
"""

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from client.cgroups import MOUNTED, OWN, folders
from client.inference.scope import Reason
from client.inference.study import Image
from models.bundle import Facts
from models.segmentation import Segmentation

TOO_LARGE: Final = "too-large-for-memory"

# Bytes; the peaks were measured beside what the libraries take. A header as pydicom holds it, with every element read.
_HEADER: Final = 64 << 10
_RADIOGRAPH_PIXEL: Final = 26  # stored, decoded, rescaled, presented
_VOXEL: Final = 7  # decoded, cut into windows, labelled; of the largest series
_RESAMPLED_VOXEL: Final = 26  # its own grid, as floats on its way to the network's and back
_GRID_VOXEL: Final = 8  # of the network's grid: the voxels, and an axis on its way
_GRID_CHANNEL: Final = 1  # probabilities of the whole, as bytes
_ACQUIRED_CHANNEL: Final = 5  # the same brought back, and as floats once more
_FLOAT: Final = 4
_PLANE: Final = 512 * 512  # of a multi-frame image, of which the index knows all pixels together
_TOGETHER: Final = 8  # planes that are blended, activated and decided at once
_BLENDED: Final = 4  # copies of these, as floats
_OUTPUTS: Final = 3  # of one window: the network's, what is added, and the next one's input
_READ_PIXEL: Final = 6  # what is left once it is read, until its objects are written
_SHARE: Final = 0.5  # of the machine: libraries, models, the node and its database take the rest
_AHEAD: Final = 0.25  # of the budget, for what is decoded before a study is complete
_MIB: Final = 1 << 20


T = TypeVar("T")


class Crowded(Exception):
    """A study that is being read needs more than was reserved for it, and others have that now.

    Args:
        wanted: bytes, of all there is no more than there are.
    """

    def __init__(self, wanted: int) -> None:
        super().__init__(f"{wanted // _MIB} MiB are not there now")
        self.wanted = wanted


class Memory:
    """What studies that are being read and written may take together.

    How fine the grid of a network is shows only in the headers, after a study was begun. What it takes beyond what was
    reserved is reserved then, if it is there. If it is not, nothing waits with something in its hands, for two that
    wait for each other wait for ever: what was reserved is given back, and the study is begun again with all it needs.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._taken = 0
        self._changed = threading.Condition()
        self._mine = threading.local()  # what is reserved for the study that this thread reads

    def within(self, size: int, read: Callable[[], T]) -> tuple[T, int]:
        """Read a study with bytes reserved for it.

        Returns:
            What reading it gives, and what is reserved, to be given back by `release`; where it raises, nothing is.
        """
        while True:
            self._mine.taken = self.reserve(size)
            try:
                return read(), self._mine.taken
            except Crowded as crowded:
                self.release(self._mine.taken)
                size = crowded.wanted
            except BaseException:
                self.release(self._mine.taken)
                raise
            finally:
                self._mine.taken = None

    def reserve(self, size: int) -> int:
        """Take bytes, when they are there; others give theirs back meanwhile.

        Returns:
            What was taken, to be given back by `release`: never more than there is at all.
        """
        size = min(size, self.limit)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + size <= self.limit)
            self._taken += size
        return size

    def release(self, size: int) -> None:
        """Give bytes back."""
        with self._changed:
            self._taken -= size
            self._changed.notify_all()

    def admit(self, facts: Facts, images: Sequence[Image], grown: float = 1.0) -> Reason | None:
        """Why a version cannot read these images here, None where it can.

        Where it is asked of a study that is being read `within` this memory, what it takes is reserved by then.

        Args:
            grown: voxels of the network's grid for each acquired one, which only the images' headers tell.

        Raises:
            Crowded: it could, and others have the memory now.
        """
        wanted = need([facts], images, grown)
        if wanted <= self.limit:
            self._extend(wanted)
            return None
        return Reason(
            TOO_LARGE,
            f"reading it takes about {wanted // _MIB} MiB of memory, there are {self.limit // _MIB} (memory_mib)",
        )

    def _extend(self, wanted: int) -> None:
        taken: int | None = getattr(self._mine, "taken", None)
        if taken is None or wanted <= taken:
            return
        with self._changed:
            if self._taken + wanted - taken > self.limit:
                raise Crowded(wanted)
            self._taken += wanted - taken
        self._mine.taken = wanted


def need(versions: Sequence[Facts], images: Sequence[Image], grown: float = 1.0) -> int:
    """Bytes that it takes to read images with any one of some versions, estimated from their sizes.

    Args:
        grown: as for `Memory.admit`.
    """
    return len(images) * _HEADER + max((_pixels_of(facts, images, grown) for facts in versions), default=0)


def left(images: Sequence[Image]) -> int:
    """Bytes that a study still takes once it is read."""
    return _READ_PIXEL * sum(image.pixels for image in images)


def budgets(memory_mib: int) -> tuple[int, int]:
    """Bytes for studies that are being read and written, and for what is decoded ahead.

    Args:
        memory_mib: both together; 0: half of what this process may use.
    """
    both = memory_mib * _MIB if memory_mib else int(usable() * _SHARE)
    ahead = int(both * _AHEAD)
    return both - ahead, ahead


def usable(mounted: Path = MOUNTED, own: Path = OWN) -> int:
    """Bytes that this process may use: of the machine, or of the container or service that it runs in.

    Source: Linux admin-guide/cgroup-v2 (memory.max) and cgroup-v1/memory (memory.limit_in_bytes).
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    names = ("memory.max", "memory.limit_in_bytes")
    limits = (_limit(folder / name) for folder in folders("memory", mounted, own) for name in names)
    return min([machine, *(limit for limit in limits if limit > 0)])


def _limit(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # not there, or the word max
        return 0


def _pixels_of(facts: Facts, images: Sequence[Image], grown: float) -> int:
    readable = [image for image in images if image.sop_class in facts.intended_use.sop_classes]
    if facts.segmentation is None:
        return _RADIOGRAPH_PIXEL * max((image.pixels for image in readable), default=0)
    series: dict[str, list[int]] = {}
    for image in readable:
        series.setdefault(image.series_uid, []).append(image.pixels)
    return max((_volume(facts.segmentation, pixels, grown) for pixels in series.values()), default=0)


def _volume(declared: Segmentation, pixels: Sequence[int], grown: float) -> int:
    """Bytes for one series.

    What is blended lies across the volume, as large as one of its planes; of which axis is not asked.

    Args:
        pixels: of each image.
        grown: as for `Memory.admit`; it is taken to be the same along each axis.
    """
    voxels = sum(pixels)
    if not voxels:
        return 0
    plane = max(min(size, _PLANE) for size in pixels)
    depth, height, width = declared.window
    across = max(plane * grown ** (2 / 3), height * width)
    slab = declared.channels * (depth + _BLENDED * _TOGETHER) * across * _FLOAT
    outputs = _OUTPUTS * declared.channels * depth * height * width * _FLOAT
    each: float = _VOXEL
    if declared.spacing_mm is not None:
        each = _RESAMPLED_VOXEL + _ACQUIRED_CHANNEL * declared.channels
        each += grown * (_GRID_VOXEL + _GRID_CHANNEL * declared.channels)
    return int(each * voxels + slab + outputs)
