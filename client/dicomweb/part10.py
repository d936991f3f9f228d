"""A Part 10 file as the archive keeps it: where its dataset begins, what its header says, where its pixels lie.

Pixels are left where they are: a series is sent slice by slice from the disk and is never held whole.

Source: DICOM PS3.10 7.1, PS3.5 7.1 and A.4.
"""

import contextlib
import threading
import warnings
import zlib
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, ExplicitVRLittleEndian

from client.dicom.byte_order import turn_words
from client.dicom.malformed import MALFORMED
from client.dicom.syntaxes import ACCEPTED
from models.errors import InvalidStudy

_FIRST_READ: Final = 4 << 10
_MOST_META: Final = 64 << 10
_MAX_INFLATED: Final = 1 << 30
_LONG: Final = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")
_FIRST_PIXELS: Final = Tag(0x7FE00008)
_UNDEFINED: Final = 0xFFFFFFFF
_quiet = threading.RLock()


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Keep pydicom's warnings to itself, for they quote values; one thread at a time, for the filters are global."""
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@dataclass(frozen=True, slots=True)
class Part10:
    """An open file.

    Attributes:
        file: the whole of it; one that is deflated on the disk is inflated here.
        syntax: in which `file` is encoded.
        start: where the dataset begins.
    """

    file: BinaryIO
    syntax: UID
    start: int


@dataclass(frozen=True, slots=True)
class Pixels:
    """Where an image's pixels lie in its file.

    Attributes:
        tag: PixelData, or one of its floating-point siblings.
        vr: OB or OW, OF, OD.
        offset: of the value.
        length: of the value in bytes; None where it is encapsulated.
    """

    tag: BaseTag
    vr: str
    offset: int
    length: int | None


@contextlib.contextmanager
def opened(path: Path) -> Generator[Part10]:
    """Open a stored file.

    Raises:
        InvalidStudy: `not-dicom`, `too-large`.
        FileNotFoundError: it is not there.
    """
    with path.open("rb") as file:
        head = file.read(_FIRST_READ)
        try:
            syntax, start = split(head)
        except InvalidStudy:
            syntax, start = split(head + file.read(_MOST_META - _FIRST_READ))
        if syntax.is_deflated:
            file.seek(start)
            yield Part10(BytesIO(_inflated(file.read())), ExplicitVRLittleEndian, 0)
        else:
            yield Part10(file, syntax, start)


def split(content: bytes) -> tuple[UID, int]:
    """The transfer syntax of a Part 10 file and where its dataset begins.

    Args:
        content: the file, or its first 64 KiB.

    Raises:
        InvalidStudy: `not-dicom`.
    """
    if content[128:132] != b"DICM":
        raise InvalidStudy("not-dicom", "no DICOM preamble")
    at, syntax = 132, ""
    while at + 8 <= min(len(content), _MOST_META) and content[at : at + 2] == b"\x02\x00":
        long = content[at + 4 : at + 6] in _LONG
        value = at + (12 if long else 8)
        length = int.from_bytes(content[value - (4 if long else 2) : value], "little")
        if content[at + 2 : at + 4] == b"\x10\x00":
            syntax = content[value : value + length].decode("ascii", "replace").strip(" \0")
        at = value + length
    if syntax not in ACCEPTED or at > len(content):
        raise InvalidStudy("not-dicom", "no transfer syntax that is one")
    return UID(syntax), at


def read_header(part10: Part10, tags: Iterable[int] | None = None, until: int = _FIRST_PIXELS) -> Dataset:
    """Everything before the pixels, or before the element `until`; call it within `quiet`.

    Raises:
        InvalidStudy: `not-dicom`.
    """
    part10.file.seek(part10.start)
    last = int(until)

    def stop(tag: BaseTag, _vr: str | None, _length: int) -> bool:
        return int.__ge__(tag, last)  # a tag's own comparison is some ten times slower

    try:
        header = read_dataset(
            part10.file,
            part10.syntax.is_implicit_VR,
            part10.syntax.is_little_endian,
            stop_when=stop,
            specific_tags=None if tags is None else [Tag(tag) for tag in tags],
        )
        if not part10.syntax.is_little_endian:
            turn_words(header)
        return header
    except MALFORMED as error:
        raise InvalidStudy("not-dicom", type(error).__name__) from error


def find_pixels(part10: Part10) -> Pixels | None:
    """Where the pixels lie, after `read_header` has read up to them; None where there are none."""
    at = part10.file.tell()
    order = "little" if part10.syntax.is_little_endian else "big"
    head = part10.file.read(12)
    if len(head) < 8:
        return None
    tag = Tag(int.from_bytes(head[:2], order), int.from_bytes(head[2:4], order))
    if tag not in (0x7FE00008, 0x7FE00009, 0x7FE00010):
        return None
    if part10.syntax.is_implicit_VR:
        vr, length, offset = "OW", int.from_bytes(head[4:8], order), at + 8
    else:
        vr, length, offset = head[4:6].decode("ascii", "replace"), int.from_bytes(head[8:12], order), at + 12
    return Pixels(tag, vr, offset, None if length == _UNDEFINED else length)


def _inflated(content: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(content, _MAX_INFLATED)
    except zlib.error as error:
        raise InvalidStudy("not-dicom", "cannot be inflated") from error
    if inflater.unconsumed_tail:
        raise InvalidStudy("too-large", "inflates to too much")
    return inflated
