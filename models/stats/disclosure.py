"""Counts that may leave a hospital: none that is so small that it could show a patient.

A count under `LEAST` is not sent, and neither is what would let it be worked out: the other half of its row, whose sum
is known, and a second table over the same patients that differs from the first by a few. Zero is a count under it.

Source: the rule of eleven of the CMS cell size suppression policy, made stricter for zero; complementary suppression
as in Willenborg & de Waal, Elements of Statistical Disclosure Control, 2001, ch. 6.
"""

from dataclasses import dataclass
from typing import Final

LEAST: Final = 11
DECIMALS: Final = 3
"""Of shares. A threshold is a patient's own score, and an area over m x n pairs gives away both to whoever has all of
its digits."""


@dataclass(frozen=True, slots=True)
class Row:
    """The cases of one class, split by what a version called them. Both halves are there, or neither.

    Attributes:
        few_right, few_wrong: the half is under `LEAST`; the other is then kept back because the sum is known.
    """

    right: int | None = None
    wrong: int | None = None
    few_right: bool = False
    few_wrong: bool = False


def rows(local: int, vendor: int, total: int) -> tuple[Row, Row]:
    """What may be told of one class of a known size at two thresholds.

    A half is called small only where that says nothing of the other: of eleven cases with a small half that is not
    the other one, that half is nought. A second split beside a whole first one is told whole or not at all: who lies
    between the two thresholds is a stratum, too, and a small half of the second would be that stratum's edge.

    Args:
        local: of the class, called right at the hospital's threshold.
        vendor: at the vendor's.
        total: cases of the class.
    """
    one, other = _row(local, total), _row(vendor, total)
    if one.right is not None and (other.right is None or not apart(local, vendor)):
        return one, Row()
    return one, other


def _row(right: int, total: int) -> Row:
    wrong = total - right
    if min(right, wrong) >= LEAST:
        return Row(right, wrong)
    if total < 2 * LEAST:
        return Row()
    return Row(None, None, right < LEAST, wrong < LEAST)


def apart(one: int, other: int) -> bool:
    """Whether two counts of the same patients at two thresholds may both be known."""
    return abs(one - other) >= LEAST


def part(of: int, whole: int) -> int | None:
    """A part of a known whole; None where it or what remains is under `LEAST`."""
    return of if of >= LEAST and whole - of >= LEAST else None


def pair(one: int, other: int) -> tuple[int, int] | tuple[None, None]:
    """Two counts whose difference is known elsewhere: both or neither."""
    return (one, other) if min(one, other) >= LEAST else (None, None)


def coarse(count: int) -> int:
    """The largest power of two that is not above a count: what is told of one where no exact figure may be; 0 of 0."""
    return 1 << (count.bit_length() - 1) if count > 0 else 0


def rounded(share: float) -> float:
    """A share with the digits that may leave."""
    return round(share, DECIMALS)
