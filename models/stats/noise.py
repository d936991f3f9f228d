"""Whole-number noise on counts: with it, whether one patient is in them is uncertain, by a known epsilon. Pure.

The noise is two-sided geometric (the discrete Laplace distribution), drawn from whole numbers alone: noise that was
computed in floating point gives itself away by the numbers that it cannot be.

Sources: Ghosh, Roughgarden & Sundararajan, Universally Utility-Maximizing Privacy Mechanisms, STOC 2009 (what it is);
Canonne, Kamath & Steinke, The Discrete Gaussian for Differential Privacy, NeurIPS 2020, algorithms 1 and 2 (the draw).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Final

from models.stats.disclosure import LEAST
from models.stats.release import TABLES, Line

COUNTS: Final = 1 + len(TABLES)
"""Counts that one patient is in: one of their column, and one of each table."""

Below = Callable[[int], int]
"""A whole number from 0 to below this one, each as likely: `secrets.randbelow`."""


def noised(lines: Sequence[Line], epsilon: float, below: Below) -> tuple[Line, ...]:
    """Lines that are safe to tell, with noise on each count; none gets so small by it that it could not be told.

    Which lines there are, and what is kept back, follows from the true counts, and is not hidden by the noise.

    Args:
        epsilon: of one patient, over all lines.
        below: where chance comes from.
    """
    scale = Fraction(COUNTS) / Fraction(epsilon).limit_denominator(1000)

    def told(count: int) -> int:
        return max(LEAST, count + drawn(scale, below))

    found: list[Line] = []
    for line in lines:
        if line.wrong is None:
            least = max(2 * LEAST, line.column.fewest) if line.few else line.column.fewest
            found.append(replace(line, n=max(least, told(line.n))))
        else:
            right, wrong = told(line.n - line.wrong), told(line.wrong)
            right += max(0, line.column.fewest - right - wrong)
            found.append(replace(line, n=right + wrong, wrong=wrong))
    return tuple(found)


def reach(epsilon: float, level: float = 0.95) -> int:
    """How far the noise on one count is from nothing at most, with this probability."""
    share = math.exp(-epsilon / COUNTS)
    return max(0, math.ceil(math.log((1 - level) * (1 + share) / 2) / math.log(share)) - 1)


def drawn(scale: Fraction, below: Below) -> int:
    """A number k with a probability in proportion to exp(-|k| / scale)."""
    up, down = scale.numerator, scale.denominator
    while True:
        part = below(up)
        if not _happens(part, up, below):
            continue
        whole = 0
        while _happens(1, 1, below):
            whole += 1
        size, negative = (part + up * whole) // down, below(2)
        if size or not negative:  # nought once, not as plus and as minus
            return -size if negative else size


def _happens(up: int, down: int, below: Below) -> bool:
    """With probability exp(-up / down), which is at most 1 below nought."""
    turn = 1
    while below(down * turn) < up:
        turn += 1
    return turn % 2 == 1
