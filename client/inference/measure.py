"""What is measured of a mask: volumes, the longest diameter and the short axis, growth since a prior.

Lengths are taken between pixel edges in the acquisition plane, as a reader's calipers do; volumes count voxels, whose
size is the in-plane pixel times the distance of planes along their normal (a tilted gantry changes neither).

Source: RECIST 1.1 (longest diameter in plane, short axis perpendicular to it); PS3.16 TID 1411, CID 7461 and 7470.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

from models.segmentation import Label, Segmentation

Floats = NDArray[np.float64]
_NEIGHBOURS: Final = np.ones((3, 3, 3), bool)  # voxels that touch at a corner belong together


@dataclass(frozen=True, slots=True)
class Measured:
    """One label of one series.

    Attributes:
        value: of the label.
        name: of the label.
        volume_ml: of all its voxels.
        parts: connected pieces.
        long_mm: longest diameter in a plane of the largest piece; None where diameters are not asked for.
        short_mm: perpendicular to it in the same plane.
        plane: the plane of the longest diameter, else the one with the most voxels; counted from 0.
        ends: the longest diameter's two ends, (row, column) in pixels of that plane, pixel centres at whole numbers.
    """

    value: int
    name: str
    volume_ml: float
    parts: int
    long_mm: float | None
    short_mm: float | None
    plane: int
    ends: tuple[tuple[float, float], tuple[float, float]] | None


@dataclass(frozen=True, slots=True)
class Growth:
    """A label's volume against an earlier study's.

    Attributes:
        prior_uid: study.
        days: between the studies.
        prior_ml: its volume then.
        percent: change of the volume.
        doubling_days: at constant exponential growth; None where it did not grow.
    """

    prior_uid: str
    days: float
    prior_ml: float
    percent: float
    doubling_days: float | None


def measure(labels: NDArray[np.uint8], spacing: tuple[float, float, float], declared: Segmentation) -> list[Measured]:
    """Measure the labels that were found.

    Args:
        labels: (n, rows, columns).
        spacing: mm between planes, rows, columns.
    """
    return [one for label in declared.labels if (one := _measured(labels == label.value, spacing, label)) is not None]


def grown(now_ml: float, then_ml: float, days: float, prior_uid: str) -> Growth | None:
    """Growth between two measured volumes; None where there is nothing to divide by."""
    if then_ml <= 0 or now_ml <= 0 or days <= 0:
        return None
    ratio = now_ml / then_ml
    doubling = days * float(np.log(2) / np.log(ratio)) if ratio > 1 else None
    return Growth(prior_uid, days, then_ml, (ratio - 1) * 100, doubling)


def _measured(mask: NDArray[np.bool_], spacing: tuple[float, float, float], label: Label) -> Measured | None:
    box = _box(mask)
    if box is None:
        return None
    mask = mask[box]  # what follows costs by the box, not by the volume
    counts = mask.sum(axis=(1, 2))
    volume = float(counts.sum()) * float(np.prod(spacing)) / 1000
    if volume < label.smallest_ml:
        return None
    pieces, parts = _pieces(mask)
    plane, ends, long_mm, short_mm = int(counts.argmax()), None, None, None
    if label.diameters:
        largest = mask if parts == 1 else pieces == 1 + int(np.bincount(pieces.ravel())[1:].argmax())
        plane, ends, long_mm, short_mm = _longest(largest, spacing[1:])
    corner = (box[1].start, box[2].start)
    placed = None
    if ends is not None:
        (a, b), (c, d) = ends
        placed = ((a + corner[0], b + corner[1]), (c + corner[0], d + corner[1]))
    return Measured(label.value, label.name, volume, parts, long_mm, short_mm, plane + box[0].start, placed)


def _box(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice] | None:
    """The smallest box around what is set; None where nothing is."""
    planes = np.flatnonzero([plane.any() for plane in mask])
    if len(planes) == 0:
        return None
    depth = slice(int(planes[0]), int(planes[-1]) + 1)
    flat: NDArray[np.bool_] = np.logical_or.reduce(mask[depth], axis=0)
    rows, columns = np.flatnonzero(flat.any(axis=1)), np.flatnonzero(flat.any(axis=0))
    return depth, slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _pieces(mask: NDArray[np.bool_]) -> tuple[NDArray[Any], int]:
    labelled: Any = ndimage.label(mask, _NEIGHBOURS)
    return labelled[0], int(labelled[1])


Ends = tuple[tuple[float, float], tuple[float, float]]


def _longest(mask: NDArray[np.bool_], spacing: tuple[float, ...]) -> tuple[int, Ends, float, float]:
    best: tuple[int, Ends, float, float] | None = None
    for number, plane in enumerate(mask):
        if not plane.any():
            continue
        corners = _corners(plane) * np.asarray(spacing)
        apart = np.linalg.norm(corners[:, None] - corners[None], axis=2)
        one, other = np.unravel_index(int(apart.argmax()), apart.shape)
        length = float(apart[one, other])
        if best is None or length > best[2]:
            along = (corners[other] - corners[one]) / length
            beside = corners @ np.array([-along[1], along[0]])
            ends = tuple((float(row / spacing[0]), float(column / spacing[1])) for row, column in corners[[one, other]])
            best = (number, (ends[0], ends[1]), length, float(beside.max() - beside.min()))
    assert best is not None  # the mask is not empty
    return best


def _corners(plane: NDArray[np.bool_]) -> Floats:
    """(k, 2) corners of the convex hull of a plane's pixels, pixels being squares around whole numbers."""
    at = np.argwhere(plane).astype(np.float64)
    points = np.concatenate([at + offset for offset in ((-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5))])
    try:
        return points[ConvexHull(points).vertices]
    except QhullError:  # cannot be: a pixel alone has four corners that do not lie on a line
        return points
