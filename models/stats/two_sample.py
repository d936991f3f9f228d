"""Whether what comes is like what came: each exam compared with a reference, so that a bet can be placed on it.

A reference of exams is taken in two halves. From the one everything is learned: the scale, and three functions that are
high for exams unlike it. Two are learned anew for every block of exams from those that came before the block, and are
high where recent exams lie closer together than the reference does (the witness of the maximum mean discrepancy with a
Gaussian kernel) or on their side of it (a linear one); the third is the distance from what is nearest in the
reference. The exams' values are ranked among the other half's, which was not learned from. While nothing changes, ranks
are as good as uniform however the function was chosen; after a change they rise, and bets on that
(`models.stats.detector`) may be looked at after each exam.

Source: Gretton et al., A kernel two-sample test, JMLR 2012; Shekhar & Ramdas, Nonparametric two-sample testing by
betting, IEEE Trans. Inf. Theory 2024 (a witness learned from the past, bets on what comes).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.stats.intervals import Floats

BLOCK: Final = 30  # exams for which one witness serves
_RECENT: Final = 10 * BLOCK  # that it is learned from
_NEAREST: Final = 5
_TOP: Final = 0.1
_SLACK: Final = 0.04  # of a mean rank, that no warning is due for
_TOP_SLACK: Final = 0.03
_ERRORS: Final = 2.5  # standard errors that the reference itself may be off by
_CLIP: Final = 6.0
_RARE: Final = 0.02  # of the reference: what is rarer counts as another word
_OTHER: Final = 1.5
_LEAST: Final = 0.02  # of the widest axis, that a narrow one is taken for
_RIDGE: Final = 0.1

STREAMS: Final = ("rank", "top", "far", "line")

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Exams:
    """What is known of exams, one after the other.

    Attributes:
        numbers: (N, numbers) NaN where missing.
        words: N rows of words, each as long.
    """

    numbers: Floats
    words: Sequence[Sequence[str]]

    def __len__(self) -> int:
        return len(self.numbers)

    def half(self, first: int) -> "Exams":
        """Every other one."""
        return Exams(self.numbers[first::2], self.words[first::2])


def compared(reference: Exams, now: Exams, *, whole: bool = False) -> Floats:
    """(N, 4) what each exam says of each of `STREAMS`, between 0 and 1.

    `rank` is the witness's mid-rank among the half of the reference that it was not learned from, `line` that of the
    linear one, `top` whether the witness's and `far` whether the distance is among the highest tenth; each the mean of
    two, where either half is learned from. NaN where nothing came before to learn from.

    Args:
        now: what came after the reference, in its order.
        whole: the numbers are one description, whose main axes are compared, all as wide.
    """
    one, other = reference.half(0), reference.half(1)
    return (_by(one, other, now, whole) + _by(other, one, now, whole)) / 2


def tolerated(reference: int) -> dict[str, float]:
    """The highest mean of each stream that is no change: as good as uniform, for so many exams of a reference."""
    many = max(reference, 1)
    rank = 0.5 + max(_SLACK, _ERRORS * float(np.sqrt(1 / 12 / many)))
    top = _TOP + max(_TOP_SLACK, _ERRORS * float(np.sqrt(_TOP * (1 - _TOP) / many)))
    return {"rank": rank, "top": top, "far": top, "line": rank}


def _by(half: Exams, other: Exams, now: Exams, whole: bool) -> Floats:
    """As `compared`, learned from one half and ranked among the other."""
    scale = _scale(half, whole)
    learned, ranked, rows = (_rows(scale, exams) for exams in (half, other, now))
    found = np.full((len(rows), len(STREAMS)), np.nan)
    if not len(rows):
        return found
    between, to_learned = _squares(learned, learned), _squares(rows, learned)
    width = max(float(np.median(between[np.triu_indices(len(learned), 1)])), 1.0)
    found[:, 2] = _top(_nearest(to_learned), _nearest(_squares(ranked, learned)))
    usual, here = _kernel(_squares(ranked, learned), width).mean(1), _kernel(to_learned, width).mean(1)
    centre, covariance = learned.mean(0), np.cov(learned.T).reshape(learned.shape[1], -1)
    ridge = max(float(np.trace(covariance)) / len(covariance), 1e-3)
    precision = np.linalg.inv(covariance + _RIDGE * ridge * np.eye(len(covariance)))
    for begin in range(BLOCK, len(rows), BLOCK):
        block, recent = slice(begin, begin + BLOCK), rows[max(0, begin - _RECENT) : begin]
        witness = _kernel(_squares(rows[block], recent), width).mean(1) - here[block]
        low, high = _ranks(witness, _kernel(_squares(ranked, recent), width).mean(1) - usual)
        found[block, 0], found[block, 1] = (low + high) / 2, _share(low, high)
        across = precision @ (recent.mean(0) - centre)
        low, high = _ranks(rows[block] @ across, ranked @ across)
        found[block, 3] = (low + high) / 2
    return found


@dataclass(frozen=True, slots=True)
class _Scale:
    """Brings words and numbers to rows of comparable size.

    Attributes:
        centre, spread: (numbers,).
        words: by column, those that come often enough.
        axes: (numbers, components) of one description; None: words and numbers stay apart.
    """

    centre: Floats
    spread: Floats
    words: tuple[tuple[str, ...], ...]
    axes: Floats | None


def _scale(exams: Exams, whole: bool) -> _Scale:
    known = ~np.isnan(exams.numbers).all(0)
    numbers = np.where(known, exams.numbers, 0.0)
    low, centre, high = np.nanpercentile(numbers, (16, 50, 84), axis=0) if numbers.size else np.zeros((3, 0))
    spread = np.maximum((high - low) / 2, 0.25 * np.nanstd(numbers, axis=0))
    spread = np.where(spread > 0, spread, np.maximum(0.01 * np.abs(centre), 1e-3))
    words: list[tuple[str, ...]] = []
    for column in zip(*exams.words, strict=True):
        values, counts = np.unique(column, return_counts=True)
        words.append(tuple(str(value) for value in values[counts >= max(_RARE * len(column), 2)]))
    axes = None
    if whole:
        found = np.nan_to_num(np.clip((numbers - centre) / spread, -_CLIP, _CLIP))
        _, sizes, across = np.linalg.svd(found - found.mean(0), full_matrices=False)
        sizes = np.maximum(sizes / np.sqrt(max(len(found) - 1, 1)), 1e-6)
        axes = across.T / np.maximum(sizes, _LEAST * sizes[0])
    return _Scale(centre, spread, tuple(words), axes)


def _rows(scale: _Scale, exams: Exams) -> Rows:
    found = np.clip((exams.numbers - scale.centre) / scale.spread, -_CLIP, _CLIP)
    missing = np.isnan(found)
    found = np.where(missing, 0.0, found)
    if scale.axes is not None:
        return (found @ scale.axes).astype(np.float32)
    parts = [found, missing.astype(np.float64)]
    for column, known in enumerate(scale.words):
        hot = np.array([[row[column] == one for one in known] for row in exams.words], dtype=np.float64)
        hot = hot.reshape(len(exams), len(known))
        parts += [hot, _OTHER * (1 - hot.sum(1, keepdims=True))]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _squares(one: Rows, other: Rows) -> Rows:
    return np.maximum((one * one).sum(1)[:, None] + (other * other).sum(1)[None] - 2 * one @ other.T, 0)


def _kernel(squares: Rows, width: float) -> Rows:
    return np.exp(-squares / width)


def _nearest(squares: Rows) -> Rows:
    few = min(_NEAREST, squares.shape[1])
    return np.partition(squares, few - 1, axis=1)[:, :few].mean(1)


def _ranks(values: NDArray[np.floating], among: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """The shares of `among` below each value, and not above it; equal is what rounding could make equal."""
    ordered = np.sort(among)
    give = 1e-5 * max(float(np.abs(ordered).max()), 1e-12)
    low = np.searchsorted(ordered, values - give, "left") / len(ordered)
    high = np.searchsorted(ordered, values + give, "right") / len(ordered)
    return low, high


def _top(values: Rows, among: Rows) -> Floats:
    return _share(*_ranks(values, among))


def _share(low: Floats, high: Floats) -> Floats:
    """With which probability a rank drawn between two is among the highest tenth."""
    span = high - low
    inside = np.clip(high - np.maximum(low, 1 - _TOP), 0, None)
    return np.where(span > 0, inside / np.where(span > 0, span, 1), (high > 1 - _TOP).astype(np.float64))
