"""A test that may be looked at after every case: a bet against the claim, whose gain is the evidence.

If the claim holds, no way of betting that looks at the past alone makes money on average; so capital that once reached
1/alpha speaks against it, whenever one looks and whenever one stops.

Source: Waudby-Smith & Ramdas, JRSS B 2024 (betting); Ville 1939; stakes by the approximate growth rate of section B.3.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_BOLD: Final = 0.5  # of what could be lost in one bet: never all of it


@dataclass(frozen=True, slots=True)
class Wager:
    """The bet against "on average this is `claimed` at most"; each case is a number between `low` and `high`.

    Attributes:
        capital: of 1 at the start; 1/alpha and more refutes the claim at alpha.
        highest: that it ever had.
    """

    claimed: float
    low: float = 0.0
    high: float = 1.0
    cases: int = 0
    capital: float = 1.0
    highest: float = 1.0
    _sum: float = 0.0
    _squares: float = 0.0

    def with_case(self, value: float) -> "Wager":
        """The bet after one case more.

        Raises:
            ValueError: a case outside of its bounds, on which more could be lost than was staked.
        """
        if not self.low <= value <= self.high:
            raise ValueError(f"{value} is not between {self.low} and {self.high}")
        capital = self.capital * (1 + self._stake() * (value - self.claimed))
        gain = value - self.claimed
        return Wager(
            self.claimed,
            self.low,
            self.high,
            self.cases + 1,
            capital,
            max(self.highest, capital),
            self._sum + gain,
            self._squares + gain * gain,
        )

    def refuted(self, alpha: float) -> bool:
        """Whether the claim is refuted: at a false alarm rate of `alpha` over all looks together."""
        return self.highest >= 1 / alpha

    def _stake(self) -> float:
        """By what came before this case alone: the mean gain over the mean square gain, nothing where it is a loss."""
        # one imagined case in the middle of the range, so that the first real one is not believed too much
        spread = ((self.high - self.low) / 2) ** 2
        wanted = self._sum / (self._squares + spread)
        most = _BOLD / max(self.claimed - self.low, 1e-12)
        return min(max(wanted, 0.0), most)


def bet(claimed: float, values: Iterable[float], low: float = 0.0, high: float = 1.0) -> Wager:
    """The bet over cases in the order in which they came."""
    wager = Wager(claimed, low, high)
    for value in values:
        wager = wager.with_case(value)
    return wager
