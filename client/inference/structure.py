"""What a label stands for: the same structure in two versions, whatever number and name each of them gives it."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from models.coding import Coding
from models.segmentation import Label, Segmentation

Code = tuple[str, str]  # scheme, value: how a code is called in words may change


@dataclass(frozen=True, slots=True)
class Structure:
    """What is outlined.

    Attributes:
        category: segmented property category.
        finding: segmented property type.
        name: where several labels of a version have the same codes, as the two kidneys may, what tells them apart.
    """

    category: Code
    finding: Code
    name: str = ""


def structure(declared: Segmentation, value: int) -> Structure | None:
    """What the label with a value stands for; None where a version declares no such label."""
    codes = {label.value: _codes(label) for label in declared.labels}
    for label in declared.labels:
        if label.value == value:
            alone = Counter(codes.values())[codes[value]] == 1
            return Structure(*codes[value], "" if alone else label.name)
    return None


def told(one: Structure | None) -> dict[str, Any] | None:
    """A structure as JSON takes it, for `heard`."""
    return None if one is None else {"category": [*one.category], "finding": [*one.finding], "name": one.name}


def heard(said: dict[str, Any] | None) -> Structure | None:
    """What `told` has said; None where nothing was, as in releases before this."""
    if said is None:
        return None
    (category, kind), (scheme, value) = said["category"], said["finding"]
    return Structure((category, kind), (scheme, value), said["name"])


def _codes(label: Label) -> tuple[Code, Code]:
    return _code(label.category), _code(label.finding)


def _code(coding: Coding) -> Code:
    return coding.scheme, coding.value
