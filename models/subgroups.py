"""Groups of patients that a version may do better or worse in, and which of them may be told of. Pure.

A group is told of with the change of its share of right answers and the score statistic of that change, never with a
count of answers. Groups of fewer than `FEWEST` patients are not told of; nor is the smallest of the others, where what
is left untold would be so few that it came out as a difference.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

Group = Literal["sex-f", "sex-m", "age-child", "age-18-39", "age-40-64", "age-65+"]
Rate = Literal["sensitivity", "specificity"]

FEWEST: Final = 11  # patients
GROUPS: Final[frozenset[str]] = frozenset(get_args(Group))


@dataclass(frozen=True, slots=True)
class Change:
    """What became of one rate in one group, from the served version to the candidate.

    Attributes:
        patients: of the group, with the finding or without it.
        difference: share right of the candidate minus that of the served version.
        z: score statistic against "worse by the margin"; large is good.
    """

    group: Group
    rate: Rate
    patients: int
    difference: float
    z: float


def groups_of(stratum: str) -> dict[str, str]:
    """`F|40-64|siemens` → {"sex": "sex-f", "age": "age-40-64"}; what is not known is empty."""
    sex, age, *_ = (*stratum.split("|"), "", "")
    found = {"sex": f"sex-{sex.lower()}", "age": f"age-{age}"}
    return {kind: word if word in GROUPS else "" for kind, word in found.items()}


def told(sizes: Mapping[str, int]) -> frozenset[str]:
    """The groups of one kind that may be told of.

    Args:
        sizes: patients by group; those of whom it is not known under "".
    """
    named = sorted((size, group) for group, size in sizes.items() if group)
    hidden = sizes.get("", 0) + sum(size for size, _ in named if size < FEWEST)
    rest = [(size, group) for size, group in named if size >= FEWEST]
    while rest and 0 < hidden < FEWEST:
        hidden += rest.pop(0)[0]
    return frozenset(group for _, group in rest)
