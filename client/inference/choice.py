"""Which of several versions that fit a study reads it.

The one with the best record here: the lower bounds of its sensitivity and its specificity, averaged, first among
patients like this one, else over everybody. A version without enough validated cases has no record; where none has,
the vendor's order decides. Pure: counts in, a choice and its reason out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from models.stats.intervals import proportion

ENOUGH: Final = 20  # validated positives, and as many negatives
EVERYBODY: Final = ""
_LEVEL: Final = 0.9  # two-sided: each lower bound holds with 95 %
_AGES: Final = ((18.0, "child"), (40.0, "18-39"), (65.0, "40-64"), (float("inf"), "65+"))

Why = Literal["only", "stratum", "site", "vendor"]


@dataclass(frozen=True, slots=True)
class Counts:
    """A version's calls against the truth."""

    true_positive: int = 0
    false_positive: int = 0
    true_negative: int = 0
    false_negative: int = 0

    def with_case(self, *, called: bool, truth: bool) -> "Counts":
        """One case more."""
        return Counts(
            self.true_positive + (called and truth),
            self.false_positive + (called and not truth),
            self.true_negative + (not called and not truth),
            self.false_negative + (not called and truth),
        )

    @property
    def lowest(self) -> float | None:
        """Mean of the lower bounds of sensitivity and specificity; None where there is too little to say."""
        positives = self.true_positive + self.false_negative
        negatives = self.true_negative + self.false_positive
        if min(positives, negatives) < ENOUGH:
            return None
        sensitivity = proportion(self.true_positive, positives, _LEVEL).low
        specificity = proportion(self.true_negative, negatives, _LEVEL).low
        return (sensitivity + specificity) / 2


Record = Mapping[tuple[str, str], Counts]
"""(digest of a version, stratum or `EVERYBODY`) → its counts."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that fits; `rank` is the vendor's order, lower first."""

    digest: str
    label: str
    rank: int


@dataclass(frozen=True, slots=True)
class Choice:
    """The version that reads, why, and the sentence that a person is told."""

    digest: str
    why: Why
    text: str


def choose(candidates: Sequence[Candidate], record: Record, stratum: str) -> Choice:
    """Choose among the versions that fit; there is one at least."""
    if len(candidates) == 1:
        one = candidates[0]
        return Choice(one.digest, "only", f"{one.label} alone fits")
    for why, key in (("stratum", stratum), ("site", EVERYBODY)):
        known = {
            candidate: lowest
            for candidate in candidates
            if (lowest := record.get((candidate.digest, key), Counts()).lowest) is not None
        }
        if known:
            best = min(known, key=lambda candidate: (-known[candidate], candidate.rank, candidate.label))
            whom = f"patients like this one ({stratum})" if why == "stratum" else "validated patients here"
            said = ", ".join(f"{candidate.label} {lowest:.3f}" for candidate, lowest in known.items())
            return Choice(best.digest, "stratum" if why == "stratum" else "site", f"best lower bound on {whom}: {said}")
    first = min(candidates, key=lambda candidate: (candidate.rank, candidate.label))
    return Choice(first.digest, "vendor", f"too few validated cases here; {first.label} is first in the vendor's order")


def stratum_of(sex: str, age_years: float | None, manufacturer: Any) -> str:
    """Patients and scanners that a version may do differently on: sex, age band, manufacturer, e.g. `F|40-64|siemens`.

    Args:
        manufacturer: as the header has it; its first word counts, whatever the company was called that year.
    """
    band = next((name for limit, name in _AGES if age_years is not None and age_years < limit), "?")
    words = str(manufacturer or "").split()
    maker = "".join(letter for letter in words[0].casefold() if letter.isalnum())[:16] if words else "?"
    return f"{sex if sex in ('F', 'M', 'O') else '?'}|{band}|{maker or '?'}"
