"""Decodes and prepares what has come of studies that are not complete yet, while the worker has nothing else to do.

Nothing is scored before a study is complete, and nothing is written: after the last image only less is left to do. What
is kept is named by the digest of the file that it was made from, by the same functions that would make it later, so it
can be too much or too little but never something else. Whoever reads an image takes it out.

It begins with what comes after it was made. An image whose decoding ends the process has then ended one, and is not met
again before its study is complete; there it is counted (`outcomes.take`).
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset
from sqlalchemy import func, select

from client.dicom import decode, series
from client.inference.scope import Acquisition, InScope, check
from client.inference.serving import Outlining, Serving
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import instance, study
from models.errors import BundleRefused, InvalidStudy
from models.preprocessing import Made, Preprocessing

log = logging.getLogger(__name__)

_STEP_SECONDS: Final = 0.05  # a study that is complete meanwhile waits no longer
_TOGETHER: Final = 64
_SWEEP_SECONDS: Final = 60.0
_SHORT_SECONDS: Final = 1.0  # between two sweeps where there is no room
_HEADER: Final = 64 << 10
_PLANE_PIXEL: Final = 2
_RADIOGRAPH_PIXEL: Final = 4


@dataclass(frozen=True, slots=True)
class Opened:
    """A header, and what an intended use asks of it."""

    header: FileDataset
    acquisition: Acquisition


class Reading:
    """Reads stored images when they are asked for."""

    def opened(self, path: Path) -> Opened:
        """As `decode.read_header`."""
        header = decode.read_header(path)
        return Opened(header, Acquisition.from_dataset(header))

    def located(self, path: Path, digest: str, header: FileDataset) -> list[series.Plane]:
        """As `series.planes`."""
        return series.planes(digest, header)

    def radiograph(self, path: Path, header: FileDataset) -> decode.Radiograph:
        """As `decode.read`."""
        return decode.read(path, header)

    def planes(self, path: Path, header: Dataset, frames: Sequence[int]) -> Iterator[NDArray[Any]]:
        """As `decode.read_planes`."""
        return decode.read_planes(path, header, frames)

    def made(self, path: Path, preprocessing: Preprocessing, pixels: NDArray[np.float32]) -> Made:
        """As `preprocessing.made`, of the pixels that `radiograph` gave for this file."""
        return preprocessing.made(pixels)


@dataclass(slots=True)
class _Held:
    """What was made of one file, as far as nobody has taken it."""

    opened: Opened | None = None
    located: list[series.Plane] | None = None
    pixels: NDArray[np.float32] | None = None
    plane: NDArray[Any] | None = None
    made: dict[str, Made] = field(default_factory=lambda: dict[str, Made]())

    @property
    def size(self) -> int:
        tensors = (made.tensor for made in self.made.values())
        arrays = sum(array.nbytes for array in (self.pixels, self.plane, *tensors) if array is not None)
        return arrays + (_HEADER if self.opened is not None or self.located is not None else 0)


class Ahead(Reading):
    """Reads stored images, those that have come lately before they are asked for.

    One thread takes steps, others read.

    Args:
        panel: gives the versions that may read.
        limit: bytes that may be kept; what comes when they are taken is read when it is asked for.
    """

    def __init__(self, site: Site, archive: Archive, panel: Callable[[], Sequence[Serving]], limit: int) -> None:
        self._site = site
        self._archive = archive
        self._panel = panel
        self._limit = limit
        self._held: dict[str, dict[str, _Held]] = {}  # of a study, by digest
        self._study_of: dict[str, str] = {}
        self._size = 0
        self._swept_at = time.monotonic()
        self._lock = threading.Lock()
        with site.database.read() as connection:
            self._at = int(connection.execute(select(func.max(instance.c.id))).scalar() or 0)

    def opened(self, path: Path) -> Opened:
        opened = self._take(path, "opened")
        return super().opened(path) if opened is None else opened

    def located(self, path: Path, digest: str, header: FileDataset) -> list[series.Plane]:
        located = self._take(path, "located")
        return super().located(path, digest, header) if located is None else located

    def radiograph(self, path: Path, header: FileDataset) -> decode.Radiograph:
        pixels = self._take(path, "pixels")
        return super().radiograph(path, header) if pixels is None else decode.Radiograph(pixels, header)

    def planes(self, path: Path, header: Dataset, frames: Sequence[int]) -> Iterator[NDArray[Any]]:
        plane = self._take(path, "plane") if list(frames) == [0] else None
        return super().planes(path, header, frames) if plane is None else iter((plane,))

    def made(self, path: Path, preprocessing: Preprocessing, pixels: NDArray[np.float32]) -> Made:
        with self._lock:
            held = self._of(path.stem)
            made = held.made.pop(preprocessing.digest, None) if held else None
            self._size -= made.tensor.nbytes if made else 0
        return super().made(path, preprocessing, pixels) if made is None else made

    def drop(self, study_uid: str) -> None:
        """A study was read: whatever is left of it is not needed."""
        with self._lock:
            for digest, held in self._held.pop(study_uid, {}).items():
                del self._study_of[digest]
                self._size -= held.size

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return self._size

    def _take(self, path: Path, what: Literal["opened", "located", "pixels", "plane"]) -> Any:
        with self._lock:
            held = self._of(path.stem)
            if held is None:
                return None
            before, taken = held.size, getattr(held, what)
            setattr(held, what, None)
            self._size += held.size - before
            return taken

    def _of(self, digest: str) -> _Held | None:
        return self._held.get(self._study_of.get(digest, ""), {}).get(digest)

    def _keep(self, study_uid: str, digest: str, held: _Held) -> None:
        """The same bytes may stand in two studies: what was made of them is kept once."""
        with self._lock:
            if digest not in self._study_of:
                self._study_of[digest] = study_uid
                self._held.setdefault(study_uid, {})[digest] = held
                self._size += held.size

    def _sweep(self, seconds: float) -> bool:
        """Drop what is left of studies that nobody will read, if the last time is so long ago; whether it is."""
        if time.monotonic() - self._swept_at < seconds:
            return False
        self._swept_at = time.monotonic()
        with self._lock:
            known = set(self._held)
        if known:
            waiting = select(study.c.uid).where(study.c.state.in_(("receiving", "queued")))
            with self._site.database.read() as connection:
                alive = set(connection.execute(waiting).scalars())
            for uid in known - alive:
                self.drop(uid)
        return True

    def step(self) -> bool:
        """Read some of what has come; False where nothing has, or there is no room for it."""
        until = time.monotonic() + _STEP_SECONDS
        self._sweep(_SWEEP_SECONDS)
        rows = self._arrived()
        if not rows:
            return False
        try:
            versions = self._panel()
        except BundleRefused:
            return False  # said where a study is to be read
        room = self._limit - self.size
        for row in rows:
            size = _need(row)
            if self._limit >= size > room:
                return self._sweep(_SHORT_SECONDS)
            self._at = row.id  # before it is tried: whatever goes wrong with it, it is read later, and judged there
            if row.state == "receiving" and not row.conflicting and size <= room:
                room -= self._prepare(row, versions)
            if time.monotonic() >= until:
                break
        return True

    def _arrived(self) -> list[Any]:
        query = (
            select(
                instance.c.id,
                instance.c.sop_class,
                instance.c.sha256,
                instance.c.study_uid,
                instance.c.conflicting,
                func.coalesce(instance.c.frames, 1).label("frames"),
                func.coalesce(instance.c.rows * instance.c.columns * func.coalesce(instance.c.frames, 1), 0).label(
                    "pixels"
                ),
                study.c.state,
            )
            .join(study, study.c.uid == instance.c.study_uid)
            .where(instance.c.id > self._at)
            .order_by(instance.c.id)
            .limit(_TOGETHER)
        )
        with self._site.database.read() as connection:
            return list(connection.execute(query))

    def _prepare(self, row: Any, versions: Sequence[Serving]) -> int:
        """Keep what the versions would make of an image; the bytes that it takes."""
        versions = [one for one in versions if row.sop_class in one.bundle.facts.intended_use.sop_classes]
        if not versions:
            return 0
        held = _Held()
        path = self._archive.path(row.sha256)
        try:
            opened = held.opened = super().opened(path)
            header, acquisition = opened.header, opened.acquisition
            for version in versions:
                if not isinstance(check(version.bundle.facts.intended_use, acquisition), InScope) or row.frames > 1:
                    continue
                if isinstance(version, Outlining):
                    if held.plane is None:
                        (held.plane,) = super().planes(path, header, [0])
                        held.located = super().located(path, row.sha256, header)
                    continue
                if held.pixels is None:
                    held.pixels = super().radiograph(path, header).pixels
                if version.preprocessing.digest not in held.made:
                    made = super().made(path, version.preprocessing, held.pixels)
                    held.made[version.preprocessing.digest] = made
        except (InvalidStudy, OSError) as error:
            log.debug("not read ahead: %s", type(error).__name__)
        self._keep(row.study_uid, row.sha256, held)
        return held.size


def _need(row: Any) -> int:
    return _HEADER + int(row.pixels) * (_PLANE_PIXEL + _RADIOGRAPH_PIXEL)
