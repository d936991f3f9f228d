"""Fits the novelty check of a version that outlines in volumes: numpy alone, seconds, the same for the same cohort."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import ConfigurationError
from models.volume_novelty import FEATURES, Spread, VolumeNovelty, features, grouped

FEWEST_PATIENTS: Final = 60  # with fewer, the limit is the one oddest patient
_FOLDS: Final = 5
_MOST_AXES: Final = 64  # what they leave over is one variance: a file of half a megabyte
_UNIT: Final = 0.95
_QUANTILE: Final = 0.985  # as of radiographs
_ELSEWHERE: Final = 1.15  # another hospital's scanners lie farther out than held-out patients of the same cohort
_TAIL: Final = 2.0  # of a group's: were a few odd in one, in units of which the rest are alike, all could be in others
_FURTHEST: Final = 3.0  # measured: 1.3 to 2.1; beyond it a check would be open to what no patient of the cohort is like
_FLOOR: Final = {"extents": 0.05, "levels": 0.02, "planes": 0.05}  # what varies less in a cohort is chance or rounding


def fit(
    volumes: Iterable[NDArray[np.generic]],
    spacings: Iterable[Sequence[float]],
    patients: Sequence[str],
    *,
    hounsfield: bool,
) -> VolumeNovelty | None:
    """Fit the check and set its limit by the declared rule.

    The rule: a fifth of the patients after the other is judged by what was fitted to the others; the limit is 1.15
    times the distance within which 98.5 % of them lie, and at most 3 times the one within which 95 % do. Of volumes
    that are nearly all the same (phantoms of two values), the last hundredths may be refused.

    Args:
        volumes: (a, b, c) each, along the axes that the version declares, in the modality's unit; one at a time is
            held.
        spacings: mm between voxels, per axis.
        patients: whose volume each is; nobody is on both sides.
        hounsfield: the intensities are Hounsfield units, to be taken as they are (CT); else they are scaled by each
            volume's own percentiles (MR).

    Returns:
        The check; None with fewer than `FEWEST_PATIENTS` patients, from whom no limit can be set.

    Raises:
        ConfigurationError: a training volume has no structure or holds numbers that are none.
    """
    names = sorted(set(patients))
    if len(names) < FEWEST_PATIENTS:
        return None
    found = np.empty((len(patients), FEATURES), np.float32)
    for number, (voxels, spacing) in enumerate(zip(volumes, spacings, strict=True)):
        row = features(voxels, spacing, hounsfield)
        if row is None:
            raise ConfigurationError(f"training volume {number + 1} has no structure, or no finite numbers")
        found[number] = row
    fold = {name: number % _FOLDS for number, name in enumerate(names)}
    folds = np.array([fold[patient] for patient in patients])
    parts = grouped(found)
    away: dict[str, NDArray[np.float32]] = {}
    for group, part in parts.items():
        away[group] = np.empty(len(part), np.float32)
        for number in range(_FOLDS):
            others = _spread(part[folds != number], _FLOOR[group], 1.0)
            away[group][folds == number] = others.distances(part[folds == number])
    units = {group: _unit(distances) for group, distances in away.items()}
    furthest = np.max([away[group] / units[group] for group in parts], axis=0)
    return VolumeNovelty(
        limit=min(_ELSEWHERE * float(np.quantile(furthest, _QUANTILE, method="higher")), _FURTHEST),
        hounsfield=hounsfield,
        typical=found.mean(0),
        spreads={group: _spread(part, _FLOOR[group], units[group]) for group, part in parts.items()},
    )


def _unit(distances: NDArray[np.float32]) -> float:
    """The distance that counts as 1: the one of the oddest twentieth, unless the oddest few lie far beyond it."""
    common, odd = np.quantile(distances, (_UNIT, _QUANTILE))
    return max(float(common), float(odd) / _TAIL)


def _spread(found: NDArray[np.float32], floor: float, unit: float) -> Spread:
    """Mean and shrunk covariance of (N, F) features, the covariance by its strongest directions."""
    centre = found.mean(0)
    scale = np.maximum(found.std(0), floor)
    apart = ((found - centre) / scale).astype(np.float64)
    count, width = apart.shape
    _, singular, axes = np.linalg.svd(apart, full_matrices=False)
    own = np.square(singular) / count
    mean = float(own.sum()) / width
    shrunk = _shrinkage(apart, own, mean)
    kept = min(_MOST_AXES, int((own > 1e-6 * own[0]).sum()), width)
    left = float(own[kept:].sum()) / (width - kept) if kept < width else 0.0
    return Spread(
        centre=centre,
        scale=scale.astype(np.float32),
        axes=axes[:kept].astype(np.float32),
        variances=((1 - shrunk) * own[:kept] + shrunk * mean).astype(np.float32),
        rest=max((1 - shrunk) * left + shrunk * mean, 1e-3),
        unit=unit,
    )


def _shrinkage(apart: NDArray[np.float64], own: NDArray[np.float64], mean: float) -> float:
    """How much of the covariance is replaced by one variance for all directions, by Ledoit and Wolf."""
    count, width = apart.shape
    size = float(np.square(own).sum())
    scatter = (float(np.square(np.square(apart).sum(1)).sum()) / count - size) / count
    span = size - width * mean * mean
    return min(1.0, max(scatter, 0.0) / span) if span > 0 and math.isfinite(span) else 1.0
