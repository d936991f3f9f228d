"""Whether two headers can be of one person.

What contradicts decides; what only one of them says decides nothing. In this order:

- another patient identifier, another issuer of the same identifier, another birth date, or M against F: another person.
  Where a device leaves the issuer out, it is unknown and not another one; the sex O is what devices write for unknown.
- another family name: another person, unless identifier and birth date are both given and are the same. Within one
  hospital those two do not meet in two people, but people marry and are written in more than one way.

Of a name only the family name counts, without case, accents and spaces, in whichever of its groups it is written: given
and middle names are shortened and left out. Groups in different scripts cannot be compared and are not.

Source: PS3.3 C.7.1.1 (patient), PS3.5 6.2.1 (person names).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import BaseTag, Tag

from client.dicom.malformed import MALFORMED

TWO_PEOPLE: Final = "patient-mismatch"  # code of the reason why a study of two is not read
_DATE: Final = re.compile(r"[0-9]{8}", re.ASCII)
_SEXES: Final = ("M", "F")
TAGS: Final = tuple(
    Tag(keyword)
    for keyword in (
        "SpecificCharacterSet",
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "PatientBirthDate",
        "PatientSex",
    )
)


@dataclass(frozen=True, slots=True)
class Person:
    """What a header says of whom it is of; empty where it is silent. Never logged, never told.

    Attributes:
        born: YYYYMMDD.
        sex: M or F.
        families: the folded family name in every group that has one, with its script.
    """

    patient_id: str = ""
    issuer: str = ""
    born: str = ""
    sex: str = ""
    families: frozenset[tuple[str, str]] = frozenset()

    @classmethod
    def from_dataset(cls, header: Dataset) -> Person:
        """Read a header or an answer of a PACS; values that cannot be read count as missing."""
        born = re.sub(r"[.\-/ ]", "", _plain(header, "PatientBirthDate"))  # ACR-NEMA wrote 1960.01.31
        sex = _plain(header, "PatientSex").upper()
        return cls(
            _text(header, "PatientID"),
            _text(header, "IssuerOfPatientID"),
            born if _DATE.fullmatch(born) else "",
            sex if sex in _SEXES else "",
            _families(_text(header, "PatientName")),
        )


def differ(one: Person, other: Person) -> bool:
    """Whether the two are certainly not one person."""
    if any(
        _contradict(*pair)
        for pair in (
            (one.patient_id, other.patient_id),
            (one.issuer, other.issuer) if one.patient_id and other.patient_id else ("", ""),
            (one.born, other.born),
            (one.sex, other.sex),
        )
    ):
        return True
    known = bool(one.patient_id and other.patient_id and one.born and other.born)  # and the same, both of them
    comparable = {script for script, _ in one.families} & {script for script, _ in other.families}
    return not known and bool(comparable) and not one.families & other.families


def person_of(path: Path) -> Person:
    """Whom a file names; nobody where it cannot be read."""
    try:
        return Person.from_dataset(dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS)))
    except (OSError, *MALFORMED):
        return Person()


def several(headers: Iterable[Dataset]) -> bool:
    """Whether there are certainly two persons among those that the headers are of, or one header names two."""
    # thousands of slices say the same: the bytes tell that sooner than what they mean
    distinct = {tuple(_stored(header, tag) for tag in TAGS): header for header in headers}
    return any(map(_names_two, distinct.values())) or any(
        differ(*pair) for pair in combinations({Person.from_dataset(one) for one in distinct.values()}, 2)
    )


def _names_two(header: Dataset) -> bool:
    """An identifier has one value (PS3.3 C.7.1.1): of two, a result made from the first may be another patient's."""
    try:
        value = header.get("PatientID")
    except MALFORMED:
        return False
    return isinstance(value, MultiValue) and len({str(one).strip(" \0") for one in value} - {""}) > 1


def _stored(header: Dataset, tag: BaseTag) -> str:
    return repr(header.get_item(tag).value) if tag in header else ""


def _contradict(one: str, other: str) -> bool:
    return bool(one and other) and one != other


def _families(name: str) -> frozenset[tuple[str, str]]:
    folded = (_folded(group.partition("^")[0]) for group in name.split("="))
    return frozenset((_script(family), family) for family in folded if family)


def _folded(text: str) -> str:
    return "".join(letter for letter in unicodedata.normalize("NFKD", text.casefold()) if letter.isalnum())


def _script(text: str) -> str:
    """The first word of the name of the first letter: LATIN, CYRILLIC, CJK, HIRAGANA."""
    return unicodedata.name(text[0], "").partition(" ")[0]


def _plain(header: Dataset, keyword: str) -> str:
    """A value in ASCII, before pydicom looks at it: of one that it does not like, it logs and warns with the value."""
    element = header.get_item(keyword)
    if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
        return element.value.decode("ascii", "replace").strip(" \0")
    return _text(header, keyword)


def _text(header: Dataset, keyword: str) -> str:
    try:
        value = header.get(keyword)
        return "" if value is None else str(value).strip(" \0")
    except MALFORMED:
        return ""
