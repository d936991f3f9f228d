"""A network's windows over a volume, blended, in memory that does not grow with the volume's depth.

Windows, their order, their Gaussian weights and the padding of a small volume are those of MONAI's
`sliding_window_inferer`; so are the values, to float32 rounding (`tests/unit/test_sliding.py`). MONAI sums all windows
into an array of the whole output and counts in another; here a slab as deep as one window is enough, because planes
that no further window touches are finished and handed on.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise, product
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Shape = tuple[int, int, int]

_SIGMA: Final = 0.125  # of the window, MONAI's sigma_scale
_LEAST: Final = 1e-3
_TOGETHER: Final = 8  # planes that are finished at once


def slide(
    shape: Shape,
    window: Shape,
    overlap: float,
    cut: Callable[[tuple[slice, slice, slice]], Floats],
    predict: Callable[[Floats], Floats],
    finished: Callable[[int, Floats], None],
    batch: int = 1,
) -> None:
    """Predict a volume window by window.

    Args:
        shape: of the volume, (d, h, w).
        window: that the network sees, (d, h, w); where the volume is smaller, zeros are put around it.
        overlap: share of a window that the next one sees again, 0 <= overlap < 1.
        cut: gives a part of the volume as the network takes it, float32.
        predict: (n, 1, *window) to (n, channels, *window).
        finished: told the index of the first plane, and the blended output (channels, planes, h, w) of some planes;
            each plane comes once, in ascending order. The array is its own to keep.
        batch: windows per prediction.
    """
    padded = tuple(max(side, size) for side, size in zip(shape, window, strict=True))
    before = [(large - side) // 2 for large, side in zip(padded, shape, strict=True)]
    starts = [_starts(side, size, overlap) for side, size in zip(padded, window, strict=True)]
    weight = importance(window)
    slab = _Slab(shape, before, padded, weight, list(product(starts[1], starts[2])), finished)
    apart = all(_apart(some, size) for some, size in zip(starts[1:], window[1:], strict=True))
    groups = [slab.places[at : at + batch] for at in range(0, len(slab.places), batch)]

    def images(first: int, some: list[tuple[int, int]]) -> Floats:
        cuts = [_cut((first, *place), shape, window, before, cut) for place in some]
        return cuts[0][None, None] if len(cuts) == 1 else np.stack(cuts)[:, None]

    following = _one_ahead(images, product(starts[0], groups))
    for number, first in enumerate(starts[0]):
        around = starts[0][max(number - 1, 0) : number + 2]
        alone = apart and _apart(around, window[0])
        for some in groups:
            for place, output in zip(some, predict(next(following)), strict=True):
                if alone:
                    slab.put(place, output)
                else:
                    slab.add(place, output)
        if alone:
            slab.pass_on(first)
            continue
        slab.turn(first)
        slab.finish(starts[0][number + 1] if number + 1 < len(starts[0]) else padded[0])


def _one_ahead(
    images: Callable[[int, list[tuple[int, int]]], Floats], places: Iterable[tuple[int, list[tuple[int, int]]]]
) -> Iterator[Floats]:
    """What the network sees at each place, made while it computes what it saw at the place before."""
    with ThreadPoolExecutor(1, "windows") as making:
        coming: Future[Floats] | None = None
        for place in places:
            ready, coming = coming, making.submit(images, *place)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def importance(window: Shape) -> Floats:
    """(d, h, w) Gaussian weights, nowhere below 1e-3; MONAI's `compute_importance_map(mode="gaussian")`."""
    made: Floats = np.ones((1, 1, 1), np.float32)
    for axis, side in enumerate(window):
        at = np.arange(-(side - 1) / 2.0, (side - 1) / 2.0 + 1, dtype=np.float32)[:side]
        profile = np.exp(at**2 / np.float32(-2 * (side * _SIGMA) ** 2)).astype(np.float32)
        made = made * profile.reshape([side if other == axis else 1 for other in range(3)])
    return np.maximum(made, np.float32(max(float(made.min()), _LEAST)))


def _starts(side: int, size: int, overlap: float) -> list[int]:
    """Where windows begin along one axis; the last one is moved back to end with the volume."""
    interval = max(1, int(size * (1 - overlap))) if side > size else size
    count = 1
    while (count - 1) * interval + size < side:
        count += 1
    return [min(number * interval, side - size) for number in range(count)]


def _apart(starts: list[int], size: int) -> bool:
    """No two of these windows see the same voxel."""
    return all(after - before >= size for before, after in pairwise(starts))


def _cut(
    place: tuple[int, ...],
    shape: Shape,
    window: Shape,
    before: list[int],
    cut: Callable[[tuple[slice, slice, slice]], Floats],
) -> Floats:
    """What the network sees at a place; an axis that is shorter than the window has one place, and zeros around it."""
    z, y, x = (slice(at, min(at + size, side)) for at, size, side in zip(place, window, shape, strict=True))
    part = cut((z, y, x))
    if part.shape == window:
        return part
    image = np.zeros(window, np.float32)
    image[tuple(slice(pad, pad + side) for pad, side in zip(before, part.shape, strict=True))] = part
    return image


class _Slab:
    """The sums of the planes that windows still touch, from `_first` on.

    What a plane's windows weigh together is worked out when it is finished: kept for a whole slab it would take as much
    memory as the sums.
    """

    def __init__(
        self,
        shape: Shape,
        before: list[int],
        padded: tuple[int, ...],
        weight: Floats,
        places: list[tuple[int, int]],
        finished: Callable[[int, Floats], None],
    ) -> None:
        self._shape, self._before, self._padded, self._finished = shape, before, padded, finished
        self._weight = weight
        self._first = 0
        self._turns: list[int] = []
        self._sums: Floats | None = None
        self._product = np.empty_like(weight)
        self._whole: Floats | None = None
        self.places = places

    def add(self, place: tuple[int, int], output: Floats) -> None:
        """Add a window's output at its row and column."""
        if self._sums is None:
            self._sums = np.zeros((len(output), len(self._weight), *self._padded[1:]), np.float32)
        for sums, channel in zip(self._sums, output, strict=True):
            part = sums[:, *self._area(place)]
            np.add(part, np.multiply(channel, self._weight, out=self._product), out=part)

    def put(self, place: tuple[int, int], output: Floats) -> None:
        """Take a window's output at its row and column as it is: no other window sees anything of it."""
        if len(self.places) == 1:
            self._whole = output
            return
        if self._whole is None:
            self._whole = np.empty((len(output), len(self._weight), *self._padded[1:]), np.float32)
        self._whole[:, :, *self._area(place)] = output

    def pass_on(self, first: int) -> None:
        """Hand on the planes of windows that begin at this plane, all of which were put."""
        assert self._whole is not None
        low, high = self._before[0], self._before[0] + self._shape[0]
        until = first + len(self._weight)
        begin, end = max(first, low), min(until, high)
        rows, columns = self._inside()
        for at in range(begin, end, _TOGETHER):
            planes = slice(at - first, min(at + _TOGETHER, end) - first)
            self._finished(at - low, self._whole[:, planes, rows, columns])
        self._whole = None
        self._first = until

    def turn(self, first: int) -> None:
        """All windows that begin at this plane have been added."""
        self._turns = [begun for begun in self._turns if begun + len(self._weight) > self._first] + [first]

    def finish(self, until: int) -> None:
        """Hand on the planes before `until` (of the padded volume), and make room for those after."""
        assert self._sums is not None  # a turn has at least one window
        low, high = self._before[0], self._before[0] + self._shape[0]
        begin, end = max(self._first, low), min(until, high)
        rows, columns = self._inside()
        for at in range(begin, end, _TOGETHER):
            planes = range(at, min(at + _TOGETHER, end))
            blended = self._sums[:, planes.start - self._first : planes.stop - self._first, rows, columns].copy()
            for number, plane in enumerate(planes):
                blended[:, number] /= self._weighs(plane)[rows, columns]
            self._finished(at - low, blended)
        count = until - self._first
        if until < self._padded[0]:
            for sums in self._sums:
                sums[: len(sums) - count] = sums[count:].copy()
                sums[len(sums) - count :] = 0
        self._first = until

    def _weighs(self, plane: int) -> Floats:
        total = np.zeros(self._padded[1:], np.float32)
        rows = [plane - begun for begun in self._turns if begun <= plane < begun + len(self._weight)]
        weight = self._weight[rows].sum(axis=0)
        for place in self.places:
            total[self._area(place)] += weight
        return total

    def _inside(self) -> tuple[slice, slice]:
        """Rows and columns of the volume, without what was put around it."""
        rows, columns = (slice(pad, pad + side) for pad, side in zip(self._before[1:], self._shape[1:], strict=True))
        return rows, columns

    def _area(self, place: tuple[int, int]) -> tuple[slice, slice]:
        _, height, width = self._weight.shape
        return slice(place[0], place[0] + height), slice(place[1], place[1] + width)
