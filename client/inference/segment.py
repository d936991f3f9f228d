"""From a volume to a mask on the very planes that it came from.

The way there is undone on the way back: straightened where the gantry was tilted, turned to the axes that the network
knows, brought to its spacing; the probabilities then go the same steps in reverse. So the mask needs no geometry of its
own: voxel (n, row, column) of it is pixel (row, column) of plane n.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from client.dicom.series import Stack, Volume
from client.inference.sliding import slide
from models.errors import InvalidStudy
from models.preprocessing import Preprocessing
from models.segmentation import Segmentation, activate, decide

MAX_GROWTH: Final = 4.0  # of one axis: more would invent detail
_DIRECTIONS: Final = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
_FULL: Final = 255.0
_Number = TypeVar("_Number", np.float32, np.uint8)


@dataclass(frozen=True, slots=True)
class Mask:
    """What was outlined.

    Attributes:
        labels: (n, rows, columns) uint8 on the stack's planes: 0, or the value of a label.
        score: 0..1, the highest probability of any label at any voxel.
        chances: of the shape of `labels`, 255 times the highest probability of any label; None unless asked for.
    """

    labels: NDArray[np.uint8]
    score: float
    chances: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class _Grid:
    """How the network's grid lies in the stack: network axis i is stack axis `order[i]`, backwards where `flip[i]`."""

    order: tuple[int, int, int]
    flip: tuple[bool, bool, bool]
    spacing: tuple[float, float, float]

    def turned(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of (n, rows, columns) in the network's axes."""
        view = array.transpose(self.order)
        return view[tuple(slice(None, None, -1 if backwards else 1) for backwards in self.flip)]

    def turned_back(self, array: NDArray[Any]) -> NDArray[Any]:
        view = array[tuple(slice(None, None, -1 if backwards else 1) for backwards in self.flip)]
        return view.transpose(np.argsort(self.order))


def upright(volume: Volume, declared: Segmentation) -> tuple[NDArray[Any], tuple[float, float, float]]:
    """A volume as the network sees it but for its spacing and intensities.

    Returns:
        The voxels along the declared axes, straightened where the gantry was tilted; mm between them, per axis.
    """
    grid = _grid(volume.stack, declared)
    return grid.turned(straighten(volume.voxels, volume.stack)[0]), grid.spacing


def growth(found: Stack, declared: Segmentation) -> float:
    """Voxels of the network's grid for each one of a stack; 1 where the network takes it as it was acquired.

    Raises:
        InvalidStudy: as `segment`.
    """
    grid = _grid(found, declared)
    shape = tuple(found.shape[axis] for axis in grid.order)
    return math.prod(_wanted(shape, grid.spacing, declared.spacing_mm or grid.spacing)) / math.prod(shape)


def segment(
    volume: Volume,
    declared: Segmentation,
    preprocessing: Preprocessing,
    threshold: float,
    predict: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    keep_chances: bool = False,
) -> Mask:
    """Outline a version's labels in a volume.

    Args:
        threshold: of a voxel's probability, for labels that stand by themselves (sigmoid).
        predict: (n, 1, *window) float32 to logits (n, channels, *window).
        keep_chances: of each voxel, at the cost of the exponentials of a whole volume.

    Raises:
        InvalidStudy: `too-coarse` where the network's grid is more than four times finer than the volume's.
    """
    found = volume.stack
    straight, shift = straighten(volume.voxels, found)
    grid = _grid(found, declared)
    turned = grid.turned(straight)
    shape, spacing = turned.shape, declared.spacing_mm or grid.spacing
    wanted = _wanted(shape, grid.spacing, spacing)
    resampled = wanted != shape or not np.allclose(spacing, grid.spacing, rtol=1e-3)
    if resampled:
        turned = resample(turned, grid.spacing, spacing, wanted)
    parts = _Parts(turned, preprocessing)
    highest = -np.inf if not resampled else 0.0
    kept = np.zeros((declared.channels, *wanted) if resampled else wanted, np.uint8)
    chances_kept = np.zeros(wanted, np.uint8) if keep_chances and not resampled else None

    def finished(first: int, logits: NDArray[np.float32]) -> None:
        nonlocal highest
        planes = slice(first, first + logits.shape[1])
        if resampled:
            chances = activate(logits, declared)
            highest = max(highest, float(_foreground(chances, declared).max()))
            kept[:, planes] = np.rint(chances * np.float32(_FULL)).astype(np.uint8)
        else:
            kept[planes], strongest = decide_logits(logits, declared, threshold)
            highest = max(highest, strongest)
            if chances_kept is not None:
                strong = _foreground(activate(logits, declared), declared).max(axis=0)
                chances_kept[planes] = np.rint(strong * np.float32(_FULL)).astype(np.uint8)

    slide(wanted, declared.window, declared.overlap, parts.cut, predict, finished)
    score = highest if resampled else float(1 / (1 + np.exp(-np.clip(highest, -80, 80))))
    labels = kept
    if resampled:
        # plane by plane of the network's first axis, so that the probabilities of the whole are never there as floats
        back = np.stack([resample(channel, spacing, grid.spacing, shape) for channel in kept])
        labels = decide(back.astype(np.float32) / np.float32(_FULL), declared, threshold)
        if keep_chances:
            chances_kept = _foreground(back, declared).max(axis=0)

    def placed(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return _bent_back(np.ascontiguousarray(grid.turned_back(array)), found, shift)

    return Mask(placed(labels), score, None if chances_kept is None else placed(chances_kept))


def decide_logits(
    logits: NDArray[np.float32], declared: Segmentation, threshold: float
) -> tuple[NDArray[np.uint8], float]:
    """`decide` of what `activate` gives, without the exponentials of a whole volume.

    Returns:
        The labels, and the highest log-odds of any label.
    """
    chosen = _foreground(logits, declared)
    if declared.activation == "sigmoid":
        with np.errstate(divide="ignore"):
            level = np.float32(np.log(threshold) - np.log1p(-threshold))
        if len(declared.labels) == 1:
            value = np.uint8(declared.labels[0].value)
            return (chosen[0] >= level) * value, float(chosen.max())
        return decide(logits, declared, float(level)), float(chosen.max())
    rest = np.delete(logits, [label.value for label in declared.labels], axis=0)
    # odds of a label against all other channels; the largest logit can be another voxel's than the largest odds
    others = np.stack([_log_sum(np.delete(chosen, index, axis=0), rest) for index in range(len(chosen))])
    return decide(logits, declared, threshold), float((chosen - others).max())


def _log_sum(*parts: NDArray[np.float32]) -> NDArray[np.float32]:
    together = np.concatenate(parts)
    top = together.max(axis=0)
    return top + np.log(np.exp(together - top).sum(axis=0))


def _foreground(chances: NDArray[_Number], declared: Segmentation) -> NDArray[_Number]:
    shift = 0 if declared.activation == "softmax" else 1
    wanted = [label.value - shift for label in declared.labels]
    return chances if wanted == list(range(len(chances))) else chances[wanted]


class _Parts:
    """Parts of a volume as the network takes them; the planes of a window are prepared once for all its neighbours."""

    def __init__(self, voxels: NDArray[Any], preprocessing: Preprocessing) -> None:
        self._pointwise = preprocessing.pointwise
        self._voxels = voxels if self._pointwise else preprocessing.intensities(voxels)
        self._prepare = preprocessing.intensities
        self._table = None
        if self._pointwise and voxels.dtype == np.int16:
            # every value there can be, once, through the same steps; ordered as unsigned integers are
            every = np.arange(1 << 16, dtype=np.uint16).view(np.int16).reshape(16, 64, 64)
            self._table = preprocessing.intensities(every).ravel()
        self._planes: tuple[slice, NDArray[np.float32]] | None = None

    def cut(self, part: tuple[slice, slice, slice]) -> NDArray[np.float32]:
        planes = part[0]
        if self._planes is None or self._planes[0] != planes:
            self._planes = planes, self._made(self._voxels[planes])
        return self._planes[1][:, part[1], part[2]]

    def _made(self, voxels: NDArray[Any]) -> NDArray[np.float32]:
        if self._table is not None:
            made = np.empty(voxels.shape, np.float32)
            for plane, values in zip(made, voxels, strict=True):
                np.take(self._table, np.ascontiguousarray(values).view(np.uint16), out=plane, mode="clip")
            return made
        return self._prepare(voxels) if self._pointwise else np.ascontiguousarray(voxels, dtype=np.float32)


def _grid(found: Stack, declared: Segmentation) -> _Grid:
    first = found.planes[0]
    lines = np.stack([found.normal, first.along_column, first.along_row])  # of stack axes 0, 1, 2
    order: list[int] = []
    flip: list[bool] = []
    for letter in declared.axes:
        line, sign = _DIRECTIONS[letter]
        # the stack axis that is closest, among those not taken: an oblique stack keeps its own grid
        axis = max((axis for axis in range(3) if axis not in order), key=lambda axis: abs(float(lines[axis, line])))
        order.append(axis)
        flip.append(float(lines[axis, line]) * sign < 0)
    spacing = tuple(found.spacing[axis] for axis in order)
    return _Grid((order[0], order[1], order[2]), (flip[0], flip[1], flip[2]), (spacing[0], spacing[1], spacing[2]))


def _wanted(shape: tuple[int, ...], given: tuple[float, ...], wanted: tuple[float, ...]) -> tuple[int, int, int]:
    """Voxels of the network's grid: from the first voxel's centre to the last one that is still inside."""
    sides: list[int] = []
    for side, have, want in zip(shape, given, wanted, strict=True):
        if have / want > MAX_GROWTH:
            raise InvalidStudy("too-coarse", f"voxels of {have:.2f} mm, the version knows {want:.2f} mm")
        sides.append(side if abs(have / want - 1) < 1e-3 else max(1, round((side - 1) * have / want) + 1))
    return (sides[0], sides[1], sides[2])


def resample(
    array: NDArray[Any], given: tuple[float, ...], wanted: tuple[float, ...], shape: tuple[int, ...]
) -> NDArray[Any]:
    """Linear interpolation onto a grid with the same first voxel; beyond the last voxel its value holds.

    Args:
        array: (a, b, c).
        given: mm between its voxels, per axis.
        wanted: mm between those of the result.
        shape: of the result.

    Returns:
        float32, or uint8 where that was given.
    """
    made: NDArray[Any] = array
    for axis in sorted(range(3), key=lambda axis: shape[axis] / array.shape[axis]):  # what shrinks goes first
        side, ratio = made.shape[axis], wanted[axis] / given[axis]
        if shape[axis] == side and abs(ratio - 1) < 1e-3:
            continue
        at = np.minimum(np.arange(shape[axis]) * ratio, side - 1)
        low = np.minimum(at.astype(np.int64), max(side - 2, 0))
        high = np.minimum(low + 1, side - 1)
        share = (at - low).astype(np.float32).reshape([-1 if other == axis else 1 for other in range(3)])
        below, above = (np.take(made, index, axis=axis).astype(np.float32) for index in (low, high))
        made = below + (above - below) * share
    return np.rint(made).astype(np.uint8) if array.dtype == np.uint8 else made.astype(np.float32, copy=False)


def straighten(voxels: NDArray[Any], found: Stack) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Move the planes of a tilted stack to where they lie, onto a canvas that holds them all.

    Whole pixels only: half a pixel of a slice is less than what the patient's breath moves, and nothing is blurred.

    Returns:
        The voxels, and where each plane begins on the canvas, (n, 2) rows and columns.
    """
    shift = np.rint(found.drift).astype(np.int64)
    shift -= shift.min(axis=0)
    if not shift.any():
        return voxels, shift
    count, rows, columns = voxels.shape
    canvas = np.full((count, rows + int(shift[:, 0].max()), columns + int(shift[:, 1].max())), voxels.min())
    canvas = canvas.astype(voxels.dtype)
    for plane, (row, column), values in zip(canvas, shift, voxels, strict=True):
        plane[row : row + rows, column : column + columns] = values
    return canvas, shift


def _bent_back(labels: NDArray[np.uint8], found: Stack, shift: NDArray[np.int64]) -> NDArray[np.uint8]:
    if not shift.any():
        return labels
    _, rows, columns = found.shape
    return np.stack(
        [plane[row : row + rows, column : column + columns] for plane, (row, column) in zip(labels, shift, strict=True)]
    )
