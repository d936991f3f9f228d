"""A declared preprocessing in NumPy: equal to MONAI's up to rounding, and without loading torch.

Only steps whose arithmetic is the same for every picture are here; for a declaration with any other there is no equal,
and MONAI does all of it. Where a picture has next to no contrast, rounding decides what becomes of it: such a picture
is handed back, so that it is the reference's rounding that counts.

Source: MONAI 1.6 `monai.transforms`; PyTorch's adaptive average pooling ("area") and bilinear interpolation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.preprocessing import Declaration

FAINT: Final = 1e-2
"""Part of its magnitude that a picture's spread has to exceed for rounding (some 1e-6) to stay below 1e-3 of it."""

_SMALL: Final = 1 << 18  # pixels up to which two matrix products cost less than a loop over the cells
Plane = NDArray[np.float32]
Step = Callable[[Plane], "Plane | None"]


@dataclass(frozen=True, slots=True)
class NoEqual:
    """A step of the declaration that cannot be had here, and in which form."""

    step: str


class Plain:
    """The steps of a declaration, done by NumPy; as `compiled` gives it."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = steps

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Bring one plane or volume into the network's form; it is not changed.

        Args:
            pixels: (H, W) or (d, h, w) float32.

        Returns:
            The same number of axes; None where only the reference can say, see above.
        """
        made = pixels
        for step in self._steps:
            after = step(made)
            if after is None:
                return None
            made = after
        return made


def compiled(declaration: Declaration, *, volumes: bool = False) -> Plain | NoEqual:
    """The declared steps in NumPy.

    Args:
        volumes: for `Preprocessing.intensities`, where no step may change the shape.
    """
    steps: list[Step] = []
    for declared in declaration:
        name = str(declared["_target_"])
        arguments = {key: value for key, value in declared.items() if key != "_target_"}
        make = (_INTENSITIES if volumes else {**_INTENSITIES, **_GEOMETRY}).get(name)
        step = make(arguments) if make else None
        if step is None:
            return NoEqual(described(declared))
        steps.append(step)
    return Plain(steps)


def described(declared: Mapping[str, Any]) -> str:
    """A step as one reads it, e.g. `Resize area`."""
    mode = declared.get("mode", "area" if declared["_target_"] == "Resize" else "")
    return f"{declared['_target_']} {mode}".strip()


def number(value: Any) -> float | None:
    """A plain number, or None."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def two_sides(value: Any) -> tuple[int, int] | None:
    """(rows, columns) where two positive whole numbers are declared; MONAI reads other forms in other ways."""
    if not isinstance(value, list) or len(value) != 2 or not all(type(side) is int and side > 0 for side in value):
        return None
    return value[0], value[1]


def _resize(arguments: Mapping[str, Any]) -> Step | None:
    size = two_sides(arguments.get("spatial_size"))
    mode = arguments.get("mode", "area")
    if size is None or arguments.get("anti_aliasing") or arguments.get("size_mode", "all") != "all":
        return None
    if mode == "area" and arguments.get("align_corners") is None:
        return lambda plane: plane if plane.shape == size else _area(plane, size)
    if mode == "bilinear" and not arguments.get("align_corners"):
        return lambda plane: plane if plane.shape == size else _bilinear(plane, size)
    return None


def _area(plane: Plane, size: tuple[int, int]) -> Plane:
    """Each pixel of the result is the mean of the whole pixels that its cell touches."""
    rows, columns = size
    across = _shares(plane.shape[1], columns)
    if plane.size <= _SMALL:
        return np.asarray(_shares(plane.shape[0], rows).T @ (plane @ across), dtype=np.float32)
    first, last = _cells(plane.shape[0], rows)
    bands = np.empty((rows, plane.shape[1]), np.float32)
    for band, begin, end in zip(bands, first.tolist(), last.tolist(), strict=True):
        np.add.reduce(plane[begin:end], axis=0, out=band)
    bands /= (last - first).astype(np.float32)[:, None]
    return np.asarray(bands @ across, dtype=np.float32)


def _cells(side: int, cells: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the cells of a side begin and end; neighbours share a pixel where the side does not divide evenly."""
    index = np.arange(cells)
    return index * side // cells, -(-(index + 1) * side // cells)


@lru_cache(maxsize=32)
def _shares(side: int, cells: int) -> Plane:
    shares = np.zeros((side, cells), np.float32)
    first, last = _cells(side, cells)
    for cell, (begin, end) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        shares[begin:end, cell] = 1 / (end - begin)
    shares.setflags(write=False)
    return shares


def _bilinear(plane: Plane, size: tuple[int, int]) -> Plane:
    (above, below, down), (left, right, along) = (
        _between(side, wanted) for side, wanted in zip(plane.shape, size, strict=True)
    )
    down = down[:, None]
    top, bottom = (
        plane[rows[:, None], left] * (1 - along) + plane[rows[:, None], right] * along for rows in (above, below)
    )
    return np.asarray(top * (1 - down) + bottom * down, dtype=np.float32)


def _between(side: int, wanted: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Plane]:
    """The two pixels that each of the result lies between, and how far it is from the first; in float32, as torch."""
    scale = np.float32(side) / np.float32(wanted)
    at = np.maximum(scale * (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), np.float32(0))
    first = np.minimum(at.astype(np.int64), side - 1)
    return first, np.minimum(first + 1, side - 1), (at - first).astype(np.float32)


def _crop(arguments: Mapping[str, Any], key: str = "roi_size") -> Step | None:
    size = two_sides(arguments.get(key))
    if size is None:
        return None

    def crop(plane: Plane) -> Plane:
        begin = [max(side // 2 - wanted // 2, 0) for side, wanted in zip(plane.shape, size, strict=True)]
        return plane[begin[0] : begin[0] + size[0], begin[1] : begin[1] + size[1]]

    return crop


def _pad(arguments: Mapping[str, Any]) -> Step | None:
    size = two_sides(arguments.get("spatial_size"))
    method = arguments.get("method", "symmetric")
    if size is None or method not in ("symmetric", "end") or arguments.get("mode", "constant") != "constant":
        return None

    def pad(plane: Plane) -> Plane:
        missing = [max(wanted - side, 0) for side, wanted in zip(plane.shape, size, strict=True)]
        before = [gap // 2 if method == "symmetric" else 0 for gap in missing]
        return np.pad(plane, [(first, gap - first) for first, gap in zip(before, missing, strict=True)])

    return pad


def _pad_or_crop(arguments: Mapping[str, Any]) -> Step | None:
    crop, pad = _crop(arguments, "spatial_size"), _pad(arguments)
    if crop is None or pad is None:
        return None

    def both(plane: Plane) -> Plane | None:
        cropped = crop(plane)
        return None if cropped is None else pad(cropped)

    return both


def _range(arguments: Mapping[str, Any]) -> Step | None:
    low, high = number(arguments.get("a_min")), number(arguments.get("a_max"))
    if low is None or high is None or low == high:
        return None
    target = _target(arguments)
    return None if target is None else lambda plane: _scaled(plane, low, high, *target)


def _percentile_range(arguments: Mapping[str, Any]) -> Step | None:
    lower, upper = number(arguments.get("lower")), number(arguments.get("upper"))
    target = _target(arguments)
    if lower is None or upper is None or not 0 <= lower <= upper <= 100 or target is None or arguments.get("relative"):
        return None

    def scale(plane: Plane) -> Plane | None:
        low, high = (float(value) for value in np.percentile(plane, (lower, upper)))
        return None if faint(high - low, low, high) else _scaled(plane, low, high, *target)

    return scale


def _percentile_clip(arguments: Mapping[str, Any]) -> Step | None:
    lower, upper = number(arguments.get("lower")), number(arguments.get("upper"))
    if (
        lower is None
        or upper is None
        or not 0 <= lower <= upper <= 100
        or arguments.get("sharpness_factor") is not None
    ):
        return None

    def clip(plane: Plane) -> Plane:
        low, high = np.percentile(plane, (lower, upper)).astype(np.float32)
        return np.clip(plane, low, high)

    return clip


def _unit(arguments: Mapping[str, Any]) -> Step | None:
    low, high = number(arguments.get("minv", 0.0)), number(arguments.get("maxv", 1.0))
    if low is None or high is None:
        return None

    def scale(plane: Plane) -> Plane | None:
        least, most = float(plane.min()), float(plane.max())
        return None if faint(most - least, least, most) else _scaled(plane, least, most, low, high, False)

    return scale


def _normalize(arguments: Mapping[str, Any]) -> Step | None:
    declared = {key: arguments.get(key) for key in ("subtrahend", "divisor")}
    if arguments.get("nonzero") or any(value is not None and number(value) is None for value in declared.values()):
        return None
    middle, divisor = number(declared["subtrahend"]), number(declared["divisor"])

    def normalize(plane: Plane) -> Plane | None:
        mean = float(plane.mean(dtype=np.float64))
        made = plane - np.float32(mean if middle is None else middle)
        if divisor is None:
            spread = _spread(made if middle is None else plane - np.float32(mean))
            if faint(spread, mean):
                return None
            made /= np.float32(spread)
        elif divisor != 0:
            made /= np.float32(divisor)
        return made

    return normalize


def _spread(centred: Plane) -> float:
    """The standard deviation of values whose mean is taken away, without a copy of them."""
    parts = centred if centred.size > _SMALL else [centred]
    return float(np.sqrt(sum(float(np.vdot(part, part)) for part in parts) / centred.size))


def faint(spread: float, *values: float) -> bool:
    """Whether a spread among values of this magnitude is so small that rounding is seen in what is divided by it."""
    return not spread > FAINT * max(abs(value) for value in values)


def _target(arguments: Mapping[str, Any]) -> tuple[float, float, bool] | None:
    low, high = number(arguments.get("b_min")), number(arguments.get("b_max"))
    if low is None or high is None:
        return None  # MONAI then leaves a step out, or clips one side only
    return low, high, bool(arguments.get("clip", False))


def _scaled(plane: Plane, low: float, high: float, to_low: float, to_high: float, clip: bool) -> Plane:
    made = plane - np.float32(low)
    made /= np.float32(high - low)
    if to_high - to_low != 1:
        made *= np.float32(to_high - to_low)
    if to_low != 0:
        made += np.float32(to_low)
    return np.clip(made, np.float32(to_low), np.float32(to_high), out=made) if clip else made


_INTENSITIES: Final[Mapping[str, Callable[[Mapping[str, Any]], Step | None]]] = {
    "ClipIntensityPercentiles": _percentile_clip,
    "NormalizeIntensity": _normalize,
    "ScaleIntensity": _unit,
    "ScaleIntensityRange": _range,
    "ScaleIntensityRangePercentiles": _percentile_range,
}
_GEOMETRY: Final[Mapping[str, Callable[[Mapping[str, Any]], Step | None]]] = {
    "CenterSpatialCrop": _crop,
    "Resize": _resize,
    "ResizeWithPadOrCrop": _pad_or_crop,
    "SpatialPad": _pad,
}
