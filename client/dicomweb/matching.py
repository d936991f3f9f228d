"""A search as its URL states it, and whether a dataset is what was searched for. Pure.

Source: PS3.18 8.3.4 (query parameters), PS3.4 C.2.2.2 (single value, list of UID, wildcard, range, universal matching).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.tag import Tag

_WILD: Final = ("AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT")
_RANGES: Final = ("DA", "TM", "DT")
_LARGEST: Final = 1 << 31
Element = dict[str, Any]
"""One element in the DICOM JSON model."""


class BadQuery(Exception):
    """A search that cannot be answered as it stands; the message says what of it."""


@dataclass(frozen=True, slots=True)
class Query:
    """A search.

    Attributes:
        wanted: from place (`00100010`, or `00400275.00400009` within a sequence) to the value that it must match.
        fields: further attributes to return, as tags.
        all_fields: whether all that can be had are to be returned.
        limit: how many at most; None for all.
        offset: how many to leave out first.
        fuzzy: whether names were to be matched by sound, which is not done.
    """

    wanted: Mapping[str, str]
    fields: frozenset[str]
    all_fields: bool
    limit: int | None
    offset: int
    fuzzy: bool


def parse(parameters: Iterable[tuple[str, str]]) -> Query:
    """Read the parameters of a URL.

    Raises:
        BadQuery: an unknown attribute, one that is asked for twice, or a number that is none.
    """
    wanted: dict[str, str] = {}
    fields: set[str] = set()
    numbers: dict[str, int] = {}
    fuzzy = all_fields = False
    for name, value in parameters:
        if name in ("limit", "offset"):
            if not (value.isascii() and value.isdigit()) or int(value[:12]) > _LARGEST:
                raise BadQuery(f"{name} is no whole number")
            numbers[name] = int(value)
        elif name == "fuzzymatching":
            if value not in ("true", "false"):
                raise BadQuery("fuzzymatching is true or false")
            fuzzy = value == "true"
        elif name == "includefield":
            names = [item.strip() for item in value.split(",") if item.strip()]
            all_fields = all_fields or "all" in names
            fields.update(place(item).partition(".")[0] for item in names if item != "all")
        elif name != "accept":
            tag = place(name)
            if tag in wanted:
                raise BadQuery(f"{tag} is asked for twice")
            wanted[tag] = value
    return Query(wanted, frozenset(fields), all_fields, numbers.get("limit"), numbers.get("offset", 0), fuzzy)


@lru_cache(maxsize=512)
def place(name: str) -> str:
    """An attribute's keyword, tag, or path of those, as tags of 8 hex digits.

    Raises:
        BadQuery: no such attribute.
    """
    tags: list[str] = []
    for step in name.split("."):
        if re.fullmatch(r"[0-9A-Fa-f]{8}", step):
            tags.append(step.upper())
        elif (tag := tag_for_keyword(step)) is not None:
            tags.append(f"{tag:08X}")
        else:
            raise BadQuery(f"{step[:64]!r} is no attribute")
    return ".".join(tags)


def matches(elements: Mapping[str, Element], wanted: Mapping[str, str]) -> bool:
    """Whether a dataset in the JSON model is what is wanted; every attribute must match, an empty value always does."""
    return all(_element_matches(elements, at.split("."), value) for at, value in wanted.items())


def _element_matches(elements: Mapping[str, Element], steps: list[str], value: str) -> bool:
    if value in ("", '""'):
        return True
    element = elements.get(steps[0])
    values: list[Any] = element.get("Value", []) if element else []
    if len(steps) > 1:
        return any(_element_matches(item, steps[1:], value) for item in values)
    if not values:
        return set(value) == {"*"} and _vr(steps[0], element) in _WILD
    return any(_value_matches(_vr(steps[0], element), text, value) for item in values for text in _texts(item))


def _value_matches(vr: str, text: str, value: str) -> bool:
    if vr == "UI":
        return text in re.split(r"[,\\]", value)
    if vr in _RANGES:
        return _in_range(vr, text, value)
    if vr == "CS":  # neither sign can stand in one; viewers ask for ModalitiesInStudy=CT,MR
        return any(_pattern(one.strip(), False).fullmatch(text) for one in re.split(r"[,\\]", value))
    if vr in _WILD:
        return _pattern(value, vr == "PN").fullmatch(text) is not None
    if vr in ("IS", "DS", "US", "UL", "SS", "SL", "FL", "FD", "SV", "UV"):
        try:
            return float(text) == float(value)
        except ValueError:
            return False
    return text == value


@lru_cache(maxsize=512)
def _pattern(value: str, name: bool) -> re.Pattern[str]:
    first, *rest = (re.escape(part).replace(r"\?", ".") for part in re.split(r"\*+", value))
    # what stands between two stars is found at its first place and stays there (atomic): that decides as rightly as any
    # other place, and a long text of which every letter fits keeps nobody waiting
    rest[:-1] = (f"(?>.*?{piece})" for piece in rest[:-1])
    rest[-1:] = (f".*{piece}" for piece in rest[-1:])
    return re.compile(first + "".join(rest), re.DOTALL | (re.IGNORECASE if name else 0))


def _in_range(vr: str, text: str, value: str) -> bool:
    if vr == "DA":
        text, value = text.replace(".", ""), value.replace(".", "")
    if vr == "TM":
        text, value = text.replace(":", ""), value.replace(":", "")
    first, dash, last = value.partition("-")
    if not dash:
        # a value that is less exact than what is stored stands for all of its time
        return text.startswith(first)
    # what is shorter begins where it says, and ends with the last moment that it can mean
    return (not first or text >= first or text.startswith(first)) and (
        not last or text <= last or text.startswith(last)
    )


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [str(text) for text in value.values() if isinstance(text, str)]
    return [] if value is None else [str(value)]


def _vr(tag: str, element: Element | None) -> str:
    if element:
        return str(element["vr"])
    try:
        return dictionary_VR(Tag(int(tag, 16)))
    except KeyError:
        return "UN"
