"""Whether an image looks like anything that a version was trained on; for headers that cannot be trusted.

A hand, a photograph or an upside-down chest under the header of a chest radiograph has to be refused by its pixels. A
hospital that the version has never seen has other machines, croppings and patients, and has to be read. So it is not
compared with the cohort's grey levels: what is looked at is where in the picture the edges lie and which way they
run, after the grey-level curve has been taken out, and a small classifier says how much more that is like what no
radiograph of the kind looks like (`models/strangers.py`) than like the cohort under other hospitals' conditions.
Where a picture has no grain at all is looked at too: a radiograph has it wherever it was exposed, what a program drew
has not.

It is a file of the bundle, plain arrays, and needs numpy alone: about a millisecond an image.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import BundleRefused

SIDE: Final = 32
_CELL: Final = 4
_DIRECTIONS: Final = 8
_LEVELS: Final = 256
_FLAT: Final = 1e-3
FEATURES: Final = (_DIRECTIONS + 1) * (SIDE // _CELL) ** 2
DESCRIBED: Final = FEATURES + (SIDE // _CELL) ** 2
_EQUAL: Final = 0.02  # of a rank's deviation, over four neighbours: what was never exposed, drawn or cut out
_LARGEST_FILE: Final = 4 * 1024 * 1024

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Novelty:
    """A fitted check.

    Attributes:
        limit: the largest distance that is still accepted.
        typical: (32, 32) mean picture of the cohort, of no patient; a check that refuses it is broken.
        centre: (DESCRIBED,) and
        scale: (DESCRIBED,) bring the features to a common scale; (FEATURES,) of a check from before flatness counted.
        inner: (as many, H) weights and
        inner_bias: (H,) of the hidden layer.
        outer: (H,) weights and
        outer_bias: () of the answer.
    """

    limit: float
    typical: Floats
    centre: Floats
    scale: Floats
    inner: Floats
    inner_bias: Floats
    outer: Floats
    outer_bias: Floats

    def distance(self, tensor: Floats) -> float:
        """How far an image is from what the version was trained on.

        Args:
            tensor: (1, h, w), preprocessed as the version declares.

        Returns:
            Log odds of being something else; larger is stranger, infinite for an image without any structure.
        """
        picture = thumbnails(tensor[None, 0])
        if float(np.ptp(picture)) < _FLAT:
            return math.inf
        return float(self.distances(described(picture))[0])

    def distances(self, found: Floats) -> Floats:
        """(N,) distances of (N, DESCRIBED)."""
        hidden = np.maximum((found[:, : len(self.centre)] - self.centre) / self.scale @ self.inner + self.inner_bias, 0)
        return hidden @ self.outer + self.outer_bias

    def save(self, path: Path) -> None:
        """Write the arrays to an .npz file."""
        np.savez(path, allow_pickle=False, **{field.name: getattr(self, field.name) for field in fields(self)})


def load(path: Path) -> Novelty:
    """Read a check, believing nothing.

    Raises:
        BundleRefused: not the arrays that it takes, or a check that refuses its own cohort's mean or accepts noise.
    """
    arrays = read_arrays(path, _shapes(1, DESCRIBED), _LARGEST_FILE)
    width, count = arrays["inner_bias"].shape, FEATURES if arrays["centre"].size == FEATURES else DESCRIBED
    if len(width) != 1 or any(arrays[name].shape != shape for name, shape in _shapes(width[0], count).items()):
        raise BundleRefused(f"{path.name} holds arrays of other shapes than a novelty check's")
    if not all(bool(np.isfinite(array).all()) for array in arrays.values()) or float(arrays["scale"].min()) <= 0:
        raise BundleRefused(f"{path.name} holds values that are not finite, or a scale that is not positive")
    check = Novelty(limit=float(arrays.pop("limit")), **arrays)
    noise = np.random.default_rng(0).normal(size=(1, SIDE, SIDE)).astype(np.float32)
    if check.distance(check.typical[None]) > check.limit or check.distance(noise) <= check.limit:
        raise BundleRefused(f"{path.name} refuses its cohort's own mean, or accepts noise")
    return check


def read_arrays(path: Path, names: Iterable[str], largest: int) -> dict[str, Floats]:
    """Read named arrays from an .npz file, of any shapes.

    Args:
        largest: bytes that the file may have.

    Returns:
        float32, by name.

    Raises:
        BundleRefused: too large, no such file, or not with these names.
    """
    try:
        if path.stat().st_size > largest:
            raise BundleRefused(f"{path.name} has more than {largest} bytes")
        # opened here: numpy leaves a file open that is no archive
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            return {name: np.asarray(file[name], np.float32) for name in names}
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise BundleRefused(f"{path.name} is no readable novelty check ({type(error).__name__})") from error


def thumbnails(images: NDArray[np.floating]) -> Floats:
    """(N, h, w) to (N, 32, 32) float32 by averaging areas; smaller images are enlarged first."""
    images = np.asarray(images, np.float32)
    for axis in (1, 2):
        side = images.shape[axis]
        if side < SIDE:
            images = np.repeat(images, math.ceil(SIDE / side), axis=axis)
            side = images.shape[axis]
        edges = np.arange(SIDE + 1) * side // SIDE
        sizes = np.diff(edges).astype(np.float32)
        images = np.add.reduceat(images, edges[:-1], axis=axis) / (sizes[:, None] if axis == 1 else sizes)
    return images


def features(pictures: Floats) -> Floats:
    """Describe pictures by where they are bright and where their edges run which way.

    Ranks of grey levels instead of grey levels take out what a machine's curve adds. Directions are signed: an
    inverted picture has the same edges the other way round.

    Args:
        pictures: (N, 32, 32) float32.

    Returns:
        (N, FEATURES) float32; the same numbers for the same picture, whatever batch it is in.

    Source: Dalal and Triggs, Histograms of oriented gradients, CVPR 2005 (here with one norm for the whole picture).
    """
    ranked = _ranked(pictures)
    across, down = np.zeros_like(ranked), np.zeros_like(ranked)
    across[:, :, 1:-1] = ranked[:, :, 2:] - ranked[:, :, :-2]
    down[:, 1:-1, :] = ranked[:, 2:, :] - ranked[:, :-2, :]
    cubed = np.power(across * across + down * down, np.float32(1.5)) + np.float32(1e-6)
    parts: list[Floats] = []
    for direction in range(_DIRECTIONS):
        angle = 2 * math.pi * direction / _DIRECTIONS
        along = np.maximum(across * math.cos(angle) + down * math.sin(angle), 0)
        along *= along
        parts.append(_pooled((along * along / cubed).astype(np.float32)))
    edges = np.concatenate(parts, axis=1)
    edges = 8 * edges / (np.sqrt(np.square(edges).sum(1, keepdims=True)) + 0.05)
    return np.concatenate((edges, _pooled(ranked)), axis=1, dtype=np.float32)


def described(pictures: Floats) -> Floats:
    """`features`, and behind them the share of each cell whose neighbours are all alike.

    Args:
        pictures: (N, 32, 32) float32.

    Returns:
        (N, DESCRIBED) float32.
    """
    ranked = _ranked(pictures)
    steps = np.zeros_like(ranked)
    for axis in (1, 2):
        apart = np.abs(np.diff(ranked, axis=axis))
        inside = np.moveaxis(steps, axis, 1)[:, 1:-1]
        apart = np.moveaxis(apart, axis, 1)
        inside += apart[:, 1:] + apart[:, :-1]
    return np.concatenate((features(pictures), _pooled((steps < _EQUAL).astype(np.float32))), axis=1, dtype=np.float32)


def _pooled(values: Floats) -> Floats:
    """(N, 32, 32) to (N, 64): the mean of each cell."""
    cells = SIDE // _CELL
    return values.reshape(len(values), cells, _CELL, cells, _CELL).mean((2, 4)).reshape(len(values), -1)


def _ranked(pictures: Floats) -> Floats:
    """Each pixel's rank among its picture's, to zero mean and unit variance; equal pixels have equal ranks."""
    flat = pictures.reshape(len(pictures), -1)
    low = flat.min(1, keepdims=True)
    span = np.maximum(flat.max(1, keepdims=True) - low, 1e-6)
    levels = ((flat - low) * ((_LEVELS - 1) / span)).astype(np.int64)
    levels += np.arange(len(flat))[:, None] * _LEVELS
    counts = np.bincount(levels.ravel(), minlength=len(flat) * _LEVELS).reshape(len(flat), _LEVELS)
    middle = (np.cumsum(counts, 1) - 0.5 * counts) / flat.shape[1]
    ranks = ((middle - 0.5) * math.sqrt(12)).astype(np.float32)
    return ranks.ravel()[levels].reshape(pictures.shape)


def _shapes(width: int, count: int) -> dict[str, tuple[int, ...]]:
    return {
        "limit": (),
        "typical": (SIDE, SIDE),
        "centre": (count,),
        "scale": (count,),
        "inner": (count, width),
        "inner_bias": (width,),
        "outer": (width,),
        "outer_bias": (),
    }
