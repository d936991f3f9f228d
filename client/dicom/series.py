"""From the images of a study to volumes whose voxels lie where the scanner says, or a refusal that says why not.

A network takes an array and believes that neighbours in it are neighbours in the patient. Nothing in DICOM promises
that: slices come unordered, one may be missing, a localizer lies between them, a gantry was tilted. So every step is
computed from Image Position and Image Orientation (Patient), never from Slice Location, Instance Number or Slice
Thickness, and what does not make one regular stack is refused with a word of `REASONS`.

Pure but for `read`: headers in, geometry out.

Source: PS3.3 C.7.6.2 (image plane), C.7.6.16 (functional groups of multi-frame images), C.8.2.1 (gantry tilt).
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from client.dicom import decode
from client.dicom.malformed import MALFORMED
from models.errors import InvalidStudy

REASONS: Final = (
    "no-geometry",
    "too-few-slices",
    "mixed-size",
    "mixed-orientation",
    "no-frame-of-reference",
    "mixed-frame-of-reference",
    "several-volumes",
    "uneven-slices",
    "missing-slices",
    "missing-rescale",
    "too-large",
)

MIN_SLICES: Final = 3
MAX_VOXELS: Final = 1_500_000_000
_ANGLE: Final = 1e-3  # of a direction cosine; DICOM's own rounding is below
_PLACE: Final = 0.05  # of a slice distance that a slice may be off its place
_SPACINGS: Final = (0.01, 50.0)  # mm between pixels: beyond them it is no scanner that speaks
_PIXEL: Final = 0.01  # mm: in-plane offset that counts as none
_CT: Final = "CT"
_CT_CLASSES: Final = frozenset({CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage})
_HOUNSFIELD: Final = "HU"
_UID: Final = re.compile(r"[0-9.]{1,64}")

Floats = NDArray[np.float64]
ReadPlanes = Callable[[Path, Dataset, Sequence[int]], Iterator[NDArray[Any]]]


class Files(Protocol):
    """Where the content with a digest lies."""

    def path(self, digest: str) -> Path: ...


@dataclass(frozen=True, slots=True)
class Plane:
    """One image plane: a classic instance, or one frame of a multi-frame one.

    Attributes:
        digest: of the file.
        frame: counted from 0.
        header: of the instance.
        position: (3,) mm, centre of the first pixel in the patient's coordinate system (x left, y back, z up). Not
            a number, as all of the geometry, for a localizer that does not say where it lies.
        along_row: (3,) unit vector, the way that the column number grows.
        along_column: (3,) unit vector, the way that the row number grows.
        spacing: mm between (rows, columns).
        localizer: it says that it is one.
    """

    digest: str
    frame: int
    header: Dataset
    position: Floats
    along_row: Floats
    along_column: Floats
    spacing: tuple[float, float]
    localizer: bool

    @property
    def size(self) -> tuple[int, int]:
        return int(self.header.Rows), int(self.header.Columns)


@dataclass(frozen=True, slots=True)
class Stack:
    """Planes in their order along the normal of the first, evenly spaced.

    Attributes:
        planes: ascending along `normal`.
        normal: (3,) unit vector, along_row x along_column.
        step: mm between planes, along the normal.
        drift: (n, 2) pixels (rows, columns) by which each plane lies beside the first, seen along the normal: the
            gantry was tilted. Zero where it was not.
        notes: what was left out, as coded reasons.
    """

    planes: tuple[Plane, ...]
    normal: Floats
    step: float
    drift: Floats
    notes: tuple[str, ...] = ()

    @property
    def series_uid(self) -> str:
        return str(self.planes[0].header.SeriesInstanceUID)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Mm between voxels: planes, rows, columns."""
        return (self.step, *self.planes[0].spacing)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (len(self.planes), *self.planes[0].size)

    @property
    def tilted(self) -> bool:
        return bool(np.abs(self.drift).max() > 0)

    @property
    def digest(self) -> str:
        """SHA-256 of what it is made of, hex: the files and frames in their order."""
        parts = (f"{plane.digest}:{plane.frame}" for plane in self.planes)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Volume:
    """A stack's voxels.

    Attributes:
        voxels: (n, rows, columns) int16 or float32 in the modality's unit (Hounsfield units for CT), each plane as it
            was acquired: not straightened, not flipped.
    """

    stack: Stack
    voxels: NDArray[Any]


def planes(digest: str, header: Dataset) -> list[Plane]:
    """The planes of one instance.

    Raises:
        InvalidStudy: `no-geometry`; `inconsistent`, as `decode.frame_count`, or the frames it says are not those that
            it describes.
    """
    try:
        return _located(digest, header)
    except MALFORMED as error:
        raise InvalidStudy("no-geometry", type(error).__name__) from error


def _located(digest: str, header: Dataset) -> list[Plane]:
    frames = decode.frame_count(header)
    if "PerFrameFunctionalGroupsSequence" not in header:
        if frames > 1:
            raise InvalidStudy("no-geometry", f"{frames} frames without positions")
        return [_plane(digest, 0, header, header, header, header, header.get("ImageType"))]
    described = len(header.PerFrameFunctionalGroupsSequence or ())
    if described != frames:
        raise InvalidStudy("inconsistent", f"{described} frames are described, the header says {frames}")
    shared = _first(header, "SharedFunctionalGroupsSequence") or Dataset()
    found: list[Plane] = []
    for number, own in enumerate(header.PerFrameFunctionalGroupsSequence):
        place, turn, size, kind = (
            _first(own, name) or _first(shared, name) or Dataset()
            for name in (
                "PlanePositionSequence",
                "PlaneOrientationSequence",
                "PixelMeasuresSequence",
                "CTImageFrameTypeSequence",
            )
        )
        found.append(
            _plane(digest, number, header, place, turn, size, kind.get("FrameType") or header.get("ImageType"))
        )
    return found


def stack(found: Sequence[Plane]) -> Stack:
    """Put the planes of one series into one regular stack.

    Localizers are left out and noted. Planes that lie beside each other instead of above each other (a tilted gantry)
    are described by `drift`; planes that are turned against each other are refused.

    Raises:
        InvalidStudy: with a word of `REASONS`.
    """
    kept = [plane for plane in found if not plane.localizer]
    notes = ("localizer",) if len(kept) < len(found) else ()
    if len(kept) < MIN_SLICES:
        raise InvalidStudy("too-few-slices", f"{len(kept)} images make no volume")
    first = kept[0]
    _same(kept)
    if not frame_of_reference(first.header):
        raise InvalidStudy("no-frame-of-reference", "the images do not say of what their positions are measured")
    normal = np.cross(first.along_row, first.along_column)
    depth = np.array([plane.position @ normal for plane in kept])
    order = np.argsort(depth, kind="stable")
    step = _step(depth[order])
    ordered = tuple(kept[index] for index in order)
    rows, columns = first.size
    if rows * columns * len(ordered) > MAX_VOXELS:
        raise InvalidStudy("too-large", f"{len(ordered)} x {rows} x {columns} voxels")
    return Stack(ordered, normal, step, _drift(ordered), notes)


def group(plane: Plane, name: str) -> Dataset:
    """A functional group of a plane: of its frame, else of all frames, else what a classic image says itself."""
    header = plane.header
    if "PerFrameFunctionalGroupsSequence" not in header:
        return header
    own = header.PerFrameFunctionalGroupsSequence[plane.frame]
    shared = _first(header, "SharedFunctionalGroupsSequence") or Dataset()
    return _first(own, name) or _first(shared, name) or Dataset()


def frame_of_reference(header: Dataset) -> str:
    """The UID of what an image's positions are measured in; empty where it names none.

    Every cross-sectional image has one (PS3.3 A.3.3, A.4.3, A.21.3), and so has what lies over it. None is made up:
    whoever registers images by it would take that as said by the scanner.
    """
    uid = str(header.get("FrameOfReferenceUID") or "").strip(" \0")
    return uid if _UID.fullmatch(uid) else ""


def read(found: Stack, files: Files, read_planes: ReadPlanes = decode.read_planes) -> Volume:
    """Decode a stack's planes into the modality's unit.

    Args:
        read_planes: decodes planes, as `decode.read_planes` does.

    Raises:
        InvalidStudy: as `decode.read_planes`; `missing-rescale` for a CT of which one plane does not say that its
            numbers are Hounsfield units, and how.
    """
    for plane in found.planes:
        _hounsfield(plane)
    voxels: NDArray[Any] | None = None
    by_file: dict[str, list[tuple[int, int]]] = {}
    for place, plane in enumerate(found.planes):
        by_file.setdefault(plane.digest, []).append((place, plane.frame))
    headers = {plane.digest: plane.header for plane in found.planes}
    for digest, wanted in by_file.items():
        frames = [frame for _, frame in wanted]
        for (place, _), values in zip(wanted, read_planes(files.path(digest), headers[digest], frames), strict=True):
            if values.shape != found.shape[1:]:
                raise InvalidStudy("mixed-size", f"an image of {values.shape} among others of {found.shape[1:]}")
            if voxels is None:
                voxels = np.empty(found.shape, values.dtype)
            elif values.dtype != voxels.dtype and voxels.dtype != np.float32:
                voxels = voxels.astype(np.float32)  # rescaled differently from slice to slice, as PET is
            voxels[place] = values
    assert voxels is not None  # a stack has planes
    return Volume(found, voxels)


def _plane(digest: str, frame: int, header: Dataset, place: Dataset, turn: Dataset, size: Dataset, kind: Any) -> Plane:
    types = (
        [str(item).upper() for item in kind] if kind is not None and not isinstance(kind, str) else [str(kind).upper()]
    )
    localizer = "LOCALIZER" in types
    if localizer and "ImagePositionPatient" not in place:
        nowhere = np.full(3, np.nan)
        return Plane(digest, frame, header, nowhere, nowhere, nowhere, (math.nan, math.nan), localizer)
    try:
        position = _numbers(place, "ImagePositionPatient", 3)
        cosines = _numbers(turn, "ImageOrientationPatient", 6)
        between = _numbers(size, "PixelSpacing", 2)
        rows, columns = int(header.Rows), int(header.Columns)
    except MALFORMED as error:
        raise InvalidStudy("no-geometry", "an image does not say where it lies") from error
    along_row, along_column = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(along_row), np.linalg.norm(along_column)
    square = abs(float(along_row @ along_column)) < 1e-2
    possible = _SPACINGS[0] <= between.min() and between.max() <= _SPACINGS[1]
    if min(rows, columns) < 1 or not possible or not square or not np.allclose(lengths, 1, atol=1e-2):
        raise InvalidStudy("no-geometry", "an image's directions or distances cannot be")
    along_row = along_row / lengths[0]
    along_column = along_column - (along_column @ along_row) * along_row
    along_column /= np.linalg.norm(along_column)
    spacing = (float(between[0]), float(between[1]))
    return Plane(digest, frame, header, position, along_row, along_column, spacing, localizer)


def _numbers(source: Dataset, keyword: str, count: int) -> Floats:
    values = (
        np.array([float(value) for value in source[keyword].value], dtype=np.float64) if keyword in source else None
    )
    if values is None or values.shape != (count,) or not np.isfinite(values).all():
        raise ValueError(keyword)
    return values


def _first(source: Dataset, keyword: str) -> Dataset | None:
    items = source.get(keyword)
    return items[0] if items else None


def _same(found: Sequence[Plane]) -> None:
    """Every plane has the size, the direction and the frame of reference of the first."""
    first = found[0]
    for plane in found[1:]:
        if plane.size != first.size or not np.allclose(plane.spacing, first.spacing, rtol=1e-3):
            raise InvalidStudy("mixed-size", "images of different sizes in one series")
        turned = max(
            float(np.abs(plane.along_row - first.along_row).max()),
            float(np.abs(plane.along_column - first.along_column).max()),
        )
        if turned > _ANGLE:
            raise InvalidStudy("mixed-orientation", "images are turned against each other")
        if plane.header.get("FrameOfReferenceUID") != first.header.get("FrameOfReferenceUID"):
            raise InvalidStudy("mixed-frame-of-reference", "images of different frames of reference in one series")


def _step(depth: Floats) -> float:
    """The distance of planes whose ascending positions along the normal are given, mm."""
    gaps = np.diff(depth)
    step = float(np.median(gaps))
    if gaps.min() < 1e-3 or step < 1e-2:
        raise InvalidStudy("several-volumes", "two images lie at one place: several phases, echoes or repetitions")
    # each against its place in a regular stack: a small rounding must not add up to a slice
    even = depth[0] + np.arange(len(depth)) * (depth[-1] - depth[0]) / (len(depth) - 1)
    if np.abs(depth - even).max() <= _PLACE * step:
        return float((depth[-1] - depth[0]) / (len(depth) - 1))
    multiples = gaps / step
    missing = int(np.rint(multiples - 1).sum())
    if missing > 0 and np.abs(multiples - np.rint(multiples)).max() <= _PLACE:
        raise InvalidStudy("missing-slices", f"{missing} of {len(depth) + missing} slices are missing")
    raise InvalidStudy("uneven-slices", f"slice distances from {gaps.min():.2f} to {gaps.max():.2f} mm")


def _drift(ordered: Sequence[Plane]) -> Floats:
    first = ordered[0]
    offset = np.array([plane.position - first.position for plane in ordered])
    rows, columns = offset @ first.along_column, offset @ first.along_row
    beside = np.stack([rows / first.spacing[0], columns / first.spacing[1]], axis=1)
    millimetres = np.stack([rows, columns], axis=1)
    if np.abs(millimetres).max() <= _PIXEL * len(ordered):
        return np.zeros_like(beside)
    tilt = np.linspace(0, 1, len(ordered))[:, None] * beside[-1]
    if np.abs(beside - tilt).max() > 1:  # pixel
        raise InvalidStudy("uneven-slices", "slices lie beside each other, and not as a tilted gantry puts them")
    return beside


def _hounsfield(plane: Plane) -> None:
    """Refuse a plane of a CT whose numbers cannot be turned into Hounsfield units.

    Every plane is asked: the slices of a series need not come from one device, and decoding takes what is not said for
    "as they are stored". A rescale type may be missing where it is Hounsfield's (PS3.3 C.8.2.1.1), a table's may not.
    """
    header = plane.header
    if str(header.get("Modality") or "").strip().upper() != _CT and header.get("SOPClassUID") not in _CT_CLASSES:
        return
    said = decode.transformation(header, plane.frame)
    try:
        if table := said.get("ModalityLUTSequence"):
            unit = str(table[0].get("ModalityLUTType") or "none")
        else:
            unit = str(said.get("RescaleType") or _HOUNSFIELD)
            if not all(math.isfinite(float(said[name].value)) for name in ("RescaleSlope", "RescaleIntercept")):
                raise InvalidStudy("missing-rescale", "slope and intercept that are no numbers")
    except MALFORMED as error:
        raise InvalidStudy("missing-rescale", "without slope and intercept these are no Hounsfield units") from error
    if unit.strip().upper() != _HOUNSFIELD:
        raise InvalidStudy("missing-rescale", "rescaled to something else than Hounsfield units")
