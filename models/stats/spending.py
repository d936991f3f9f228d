"""How much of an error rate each of several looks at growing data may spend, and the limit that it sets.

A test that is repeated until it says yes says yes in the end. Here the looks share one error rate: `spent` says how
much may be used up by the time that a share of the planned information is there, and the limit of a look is what spends
the rest of it, given that no earlier look ended the matter. When the looks come needs not be planned, only that it does
not depend on what they show.

Source: Lan & DeMets, Biometrika 1983; the recursion of Armitage, McPherson & Rowe, JRSS A 1969.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Final, Literal

import numpy as np
from scipy.special import ndtr, ndtri

from models.stats.intervals import Floats

Spending = Literal["obrien-fleming", "pocock"]

_POINTS: Final = 601
_FAR: Final = 9.0  # standard deviations; beyond lies less than any error rate that is spent


def spent(fraction: float, alpha: float, spending: Spending) -> float:
    """What of `alpha` may be spent by this share of the planned information.

    Args:
        fraction: 0 and more; from 1 on all of it.
        alpha: one-sided.
    """
    if fraction <= 0:
        return 0.0
    if fraction >= 1:
        return alpha
    if spending == "pocock":
        return alpha * math.log(1 + (math.e - 1) * fraction)
    return 2 * float(ndtr(-ndtri(1 - alpha / 2) / math.sqrt(fraction)))


def limits(
    information: Sequence[float], fractions: Sequence[float], alpha: float, spending: Spending
) -> tuple[float, ...]:
    """What z has to reach at each look, for one-sided `alpha` over all of them.

    Args:
        information: at each look, in any unit; growing.
        fractions: by which is spent, the share of what is planned; growing, 1 and more at the last look.

    Raises:
        ValueError: the information does not grow.
    """
    if any(later <= earlier for earlier, later in zip((0.0, *information), information, strict=False)):
        raise ValueError("each look needs more information than the one before")
    # in units of the last look, and the same numbers for the same proportions
    shares = tuple(round(one / information[-1], 9) for one in information)
    return _limits(shares, tuple(fractions), alpha, spending)


@lru_cache(maxsize=256)
def _limits(
    information: tuple[float, ...], fractions: tuple[float, ...], alpha: float, spending: Spending
) -> tuple[float, ...]:
    """By numerical integration of the score process z·√t, whose increments are independent and normal."""
    found: list[float] = []
    # the process as it stands when no look has ended it: places and the mass that lies there
    places: Floats = np.zeros(1)
    mass: Floats = np.ones(1)
    before = gone = 0.0
    for now, fraction in zip(information, fractions, strict=True):
        step = math.sqrt(now - before)
        left = spent(fraction, alpha, spending) - gone
        limit = _crossed_by(places, mass, step, left, _FAR * math.sqrt(now))
        found.append(limit / math.sqrt(now) if math.isfinite(limit) else math.inf)
        top = min(limit, _FAR * math.sqrt(now))
        grid = np.linspace(-_FAR * math.sqrt(now), top, _POINTS)
        density = np.exp(-(((grid[:, None] - places[None, :]) / step) ** 2) / 2) @ mass
        weights = np.full(_POINTS, grid[1] - grid[0])
        weights[[0, -1]] /= 2
        places, mass = grid, density * weights / (step * math.sqrt(2 * math.pi))
        before, gone = now, gone + max(left, 0.0)
    return tuple(found)


def _crossed_by(places: Floats, mass: Floats, step: float, wanted: float, far: float) -> float:
    """The height that the next step crosses with the wanted probability; infinite where that is next to nothing."""
    if wanted <= 1e-12:
        return math.inf
    low, high = -far, far
    for _ in range(60):
        middle = (low + high) / 2
        crossed = float(ndtr((places - middle) / step) @ mass)
        low, high = (middle, high) if crossed > wanted else (low, middle)
    return high
