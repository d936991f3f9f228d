"""What differentially private training costs, and how much noise a budget buys. Pure, and no torch until it counts.

The unit is a patient: two hospitals that differ by all studies of one patient are told apart no better than the budget
says. One step draws each patient with the same probability, clips what all of their studies together contribute, and
adds Gaussian noise; what steps cost together is counted by Opacus, over every retraining that a hospital took part in.

Sources: Abadi et al., Deep Learning with Differential Privacy, CCS 2016; Gopi, Lee, Wutschitz, Numerical Composition of
Differential Privacy, NeurIPS 2021 (the accountant); Mironov, Talwar, Zhang, Rényi Differential Privacy of the Sampled
Gaussian Mechanism, 2019 (the bound where the former does not converge).
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from models.errors import InvalidTraining

MOST_NOISE = 1000.0
_ORDERS: list[float] = [*(1 + tenth / 10 for tenth in range(1, 100)), *range(11, 64), 128, 256, 512]
_CLOSE = 0.005  # of epsilon: how far the numerical accountant may be above the truth


@dataclass(frozen=True, slots=True)
class Mechanism:
    """Steps of one kind.

    Attributes:
        noise: standard deviation of the noise in units of the clipping norm.
        share: probability with which a patient is in a step.
        steps: how many.
    """

    noise: float
    share: float
    steps: int

    def __post_init__(self) -> None:
        """Refuse what is no mechanism."""
        if not (0 < self.noise <= MOST_NOISE and 0 < self.share <= 1 and self.steps >= 1):
            raise InvalidTraining(
                f"noise {self.noise}, share {self.share}, steps {self.steps}: noise is positive and at most"
                f" {MOST_NOISE:g}, a share is above 0 and at most 1, and there is a step"
            )


def epsilon(spent: Sequence[Mechanism], delta: float) -> float:
    """What these mechanisms cost together, at this delta; never less than the truth, but for rounding.

    Args:
        spent: in any order; nothing spent costs nothing.
        delta: 0..1, exclusive.

    Raises:
        InvalidTraining: delta is no probability below one.
    """
    if not 0 < delta < 1:
        raise InvalidTraining(f"delta is {delta}: above 0 and below 1")
    history = _gathered(spent)
    if not history:
        return 0.0
    bound = _renyi(history, delta)
    return min(bound, _numerical(history, delta)) if bound < 50 else bound  # beyond, no figure protects anybody


def noise_for(budget: float, delta: float, share: float, steps: int, spent: Sequence[Mechanism] = ()) -> float:
    """The least noise with which further steps keep the whole within a budget.

    Args:
        budget: epsilon, over what was spent and what is to come.
        spent: before.

    Raises:
        InvalidTraining: no noise up to `MOST_NOISE` is enough.
    """

    def cost(noise: float) -> float:
        return epsilon([*spent, Mechanism(noise, share, steps)], delta)

    def bound(noise: float) -> float:
        return _renyi(_gathered([*spent, Mechanism(noise, share, steps)]), delta)

    if cost(MOST_NOISE) > budget:
        raise InvalidTraining(f"no noise keeps {steps} more steps within a budget of {budget:g}: it is spent")
    _, above = _bisect(bound, budget, 1e-2, MOST_NOISE)  # quick, and never too little
    return _bisect(cost, budget, above / 2, above)[1]


def _bisect(cost: Callable[[float], float], budget: float, low: float, high: float) -> tuple[float, float]:
    """Where the cost, which falls, comes down to the budget, to half a percent: just below and just above."""
    while high / low > 1.005:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if cost(middle) <= budget else (middle, high)
    return low, high


def _gathered(spent: Sequence[Mechanism]) -> list[tuple[float, float, int]]:
    """Steps of one kind counted together: composition does not look at the order."""
    steps: dict[tuple[float, float], int] = {}
    for one in spent:
        kind = (one.noise, one.share)
        steps[kind] = steps.get(kind, 0) + one.steps
    return [(noise, share, count) for (noise, share), count in sorted(steps.items())]


def _renyi(history: Sequence[tuple[float, float, int]], delta: float) -> float:
    from opacus.accountants.analysis import rdp

    each = [
        rdp.compute_rdp(q=share, noise_multiplier=noise, steps=count, orders=_ORDERS) for noise, share, count in history
    ]
    total: list[float] = np.sum(each, axis=0).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the best order is the first or last one: the bound holds all the same
        found, _ = rdp.get_privacy_spent(orders=_ORDERS, rdp=total, delta=delta)
    return float(found)


def _numerical(history: Sequence[tuple[float, float, int]], delta: float) -> float:
    """The tighter figure, or infinity where it cannot be had."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = list(history)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(accountant.get_epsilon(delta, eps_error=_CLOSE, delta_error=delta / 1000))
    except (RuntimeError, ValueError, MemoryError, ArithmeticError):
        return math.inf
