"""An object that a version leaves in the PACS, what it is called, and what it says of where it comes from.

UIDs follow from input, version and revision, so that a repeat after a crash is the same object, which a PACS stores
once.
"""

import hashlib
import io
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

import pydicom
from pydicom.dataset import Dataset

from client.dicom.person import Person
from models.bundle import Bundle

Kind = Literal["sr", "sc", "seg", "gsps", "pm", "rtstruct", "verified", "kos"]
# what a version made, as against a person
COMPUTED: Final[tuple[Kind, ...]] = ("sr", "sc", "seg", "gsps", "pm", "rtstruct")


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A report of an earlier revision of the study, which the PACS has or is to have (PS3.3 C.17.2).

    Attributes:
        result: it says what a version found, as against that nothing was read.
        person: whom it is of.
        replaced: a result takes its place, as against standing beside it.
    """

    sop_class: str
    sop_uid: str
    series_uid: str
    result: bool = True
    person: Person = field(default_factory=Person)
    replaced: bool = True


class Stated(Protocol):
    """What every object of ours says of where it comes from; one that no version computed names none."""

    @property
    def source(self) -> Dataset: ...
    @property
    def input_digest(self) -> str: ...
    @property
    def revision(self) -> int: ...
    @property
    def bundle(self) -> Bundle | None: ...
    @property
    def institution(self) -> str: ...
    @property
    def created_at(self) -> float: ...
    @property
    def predecessors(self) -> tuple[Predecessor, ...]:
        """What it takes the place of."""
        ...


class Computed(Stated, Protocol):
    """What a version computed; the scored radiograph and the outlined series are two."""

    @property
    def bundle(self) -> Bundle: ...


@dataclass(frozen=True, slots=True)
class ResultObject:
    """A DICOM object ready to be kept and sent; `content` is a Part 10 file."""

    kind: Kind
    sop_uid: str
    content: bytes

    @property
    def dataset(self) -> Dataset:
        return pydicom.dcmread(io.BytesIO(self.content))


def derive_uid(kind: str, *parts: object) -> str:
    """A UID that the same facts always give (PS3.5 B.2)."""
    digest = hashlib.sha256("|".join((kind, *map(str, parts))).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16])}"


def uid_of(result: Stated, kind: str) -> str:
    """The UID of a result's object or series, the same each time it is made."""
    by = result.bundle.digest if result.bundle else ""
    return derive_uid(kind, by, result.input_digest, result.revision)
