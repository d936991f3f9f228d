"""Which of several versions that fit a study reads it.

A version's record are the bounds of its sensitivity and its specificity here, averaged. Without enough validated cases
it has none, and records are compared only among versions that have one:

- All have one among patients like this one, or else over everybody: the best lower bound reads. What differs by less
  than `MARGIN` is equal, and the vendor's order decides, so that two equals do not take turns case by case.
- Some have none: one that is shown to be `USEFUL` here reads before those that nobody knows; one that is shown not to
  be reads after them; of the others the vendor's order decides.

Nobody is read by a version in order to learn about it: one without a record gets it by looking on (`evidence.py`).

More right calls of the chosen version leave it chosen. Pure: counts in, a choice and its reason out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from models.stats.intervals import proportion

ENOUGH: Final = 20  # validated positives, and as many negatives
EVERYBODY: Final = ""
MARGIN: Final = 0.03  # of a lower bound: less is noise, with as many cases as a hospital validates
USEFUL: Final = 0.7  # mean of sensitivity and specificity; 0.5 is chance
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
    def bounds(self) -> tuple[float, float] | None:
        """Means of the lower and of the upper bounds of sensitivity and specificity; None: too little to say."""
        positives = self.true_positive + self.false_negative
        negatives = self.true_negative + self.false_positive
        if min(positives, negatives) < ENOUGH:
            return None
        sensitivity = proportion(self.true_positive, positives, _LEVEL)
        specificity = proportion(self.true_negative, negatives, _LEVEL)
        return (sensitivity.low + specificity.low) / 2, (sensitivity.high + specificity.high) / 2


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
    ordered = sorted(candidates, key=lambda candidate: (candidate.rank, candidate.label, candidate.digest))
    if best := _best(ordered, record, stratum):
        return best
    known = {one: bounds for one in ordered if (bounds := _known(one, record, stratum)) is not None}
    if best := _best([one for one, (low, _) in known.items() if low >= USEFUL], record, stratum):
        return best
    bad = {one: bounds for one, bounds in known.items() if bounds[1] < USEFUL}
    first = next(one for one in ordered if one not in bad)  # one at least has no record
    text = f"too few validated cases here; {first.label} is first in the vendor's order"
    if bad:
        said = ", ".join(f"{one.label} {low:.3f} to {high:.3f}" for one, (low, high) in bad.items())
        text += f" of those that were not found to be bad here ({said})"
    return Choice(first.digest, "vendor", text)


def _known(one: Candidate, record: Record, stratum: str) -> tuple[float, float] | None:
    """Its bounds among patients like this one, else over everybody."""
    of_stratum = record.get((one.digest, stratum), Counts()).bounds
    return of_stratum or record.get((one.digest, EVERYBODY), Counts()).bounds


def _best(ordered: Sequence[Candidate], record: Record, stratum: str) -> Choice | None:
    """The best by its lower bound where all have one, with patients like this one first; else None.

    Args:
        ordered: as the vendor has them.
    """
    levels: tuple[tuple[Why, str], ...] = (("stratum", stratum), ("site", EVERYBODY))
    for why, key in levels:
        found = {one: record.get((one.digest, key), Counts()).bounds for one in ordered}
        lowest = {one: bounds[0] for one, bounds in found.items() if bounds is not None}
        if not lowest or len(lowest) < len(ordered):
            continue
        limit = max(lowest.values()) - MARGIN
        best = next(one for one in ordered if lowest[one] >= limit)
        whom = f"patients like this one ({stratum})" if why == "stratum" else "validated patients here"
        said = ", ".join(f"{one.label} {low:.3f}" for one, low in lowest.items())
        what = (
            "best lower bound" if lowest[best] >= limit + MARGIN else f"first in the vendor's order within {MARGIN:g}"
        )
        return Choice(best.digest, why, f"{what} on {whom}: {said}")
    return None


def stratum_of(sex: str, age_years: float | None, manufacturer: Any) -> str:
    """Patients and scanners that a version may do differently on: sex, age band, manufacturer, e.g. `F|40-64|siemens`.

    Args:
        manufacturer: as the header has it; its first word counts, whatever the company was called that year.
    """
    band = next((name for limit, name in _AGES if age_years is not None and age_years < limit), "?")
    words = str(manufacturer or "").split()
    maker = "".join(letter for letter in words[0].casefold() if letter.isalnum())[:16] if words else "?"
    return f"{sex if sex in ('F', 'M', 'O') else '?'}|{band}|{maker or '?'}"
