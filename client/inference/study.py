"""A study that waits to be read, and its instances."""

from dataclasses import dataclass
from datetime import date
from typing import Final

from pydicom.dataset import Dataset

from client.results.source import text_of

NOT_READ: Final = "not-read"  # code of the reason why a result is one of a part: another version reads the rest


@dataclass(frozen=True, slots=True)
class Image:
    """One stored instance of a study.

    Attributes:
        pixels: of all its frames, as its header has it; 0 where it has none.
    """

    sop_uid: str
    sop_class: str
    sha256: str
    series_uid: str = ""
    pixels: int = 0


@dataclass(frozen=True, slots=True)
class Study:
    """A queued study and its instances, oldest first, without the conflicting ones.

    Attributes:
        missing: how many more images it is known to have.
        conflicting: images that were left out of it, each with the UID of another one that differs.
        excluded: images that were left out of it, rejected by the PACS or by a person's word.
        gone: those of them that are of this patient, and bad: a series that had one is not whole.
        standing: names of the models whose positive results of earlier revisions stand.
    """

    uid: str
    revision: int
    attempts: int
    touched_at: float
    images: tuple[Image, ...]
    missing: int = 0
    conflicting: int = 0
    excluded: int = 0
    gone: tuple[Image, ...] = ()
    standing: tuple[str, ...] = ()


def left_out(conflicting: int) -> str:
    """What a person is told of images that were kept apart."""
    if conflicting == 1:
        return "1 image was left out: it has the UID of another one that differs"
    return f"{conflicting} images were left out: they have the UIDs of others that differ"


def taken_out(excluded: int) -> str:
    """What a person is told of images that were rejected."""
    if excluded == 1:
        return "1 image was left out: the PACS has rejected it, or a person has said so"
    return f"{excluded} images were left out: the PACS has rejected them, or a person has said so"


def study_day(header: Dataset) -> date | None:
    """The day of a study as its header has it."""
    text = text_of(header, "StudyDate")
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])) if len(text) == 8 else None
    except ValueError:
        return None
