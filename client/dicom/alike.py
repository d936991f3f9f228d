"""Whether two files hold the same image, encoded in two ways.

A PACS that compresses, or gives back uncompressed what it was sent compressed, sends the same instance in other bytes.
Pixels are compared decoded, frame by frame; of the rest, every element but those that say how it is encoded. What was
compressed with loss has other pixels, and is another image under the same UID, as is everything that cannot be read:
nobody can say then that the two are the same.

Run as a program it answers questions, one line each, until there are none for a while: decoders of pictures from
anywhere are no part of the process that answers the modalities.

Source: DICOM PS3.5 7.2 (group lengths), 7.3 (byte order), 8.2 and A.4 (encapsulation); PS3.3 C.7.6.3.1.3 (planar
configuration).
"""

import json
import select
import sys
import warnings
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydicom import dcmread
from pydicom.datadict import keyword_for_tag
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileDataset
from pydicom.errors import InvalidDicomError
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_data_element
from pydicom.pixels import iter_pixels
from pydicom.tag import BaseTag
from pydicom.uid import UID

from client.dicom import syntaxes
from client.dicom.byte_order import WORDS, turned
from client.dicom.decode import MAX_FILE_BYTES, MAX_PIXELS
from client.dicom.malformed import MALFORMED

IDLE_SECONDS: Final = 60.0
_PIXELS: Final = 0x7FE00010
_PLANAR: Final = 0x00280006
_PHOTOMETRIC: Final = 0x00280004
# how it is encapsulated (offset tables, total length), trailing padding, and what is compared in another way
_ENCODING: Final = frozenset({0x7FE00001, 0x7FE00002, 0x7FE00003, 0xFFFCFFFC, _PIXELS, _PLANAR, _PHOTOMETRIC})
# written with as much padding as one likes
_TEXT: Final = frozenset(
    ["AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"]
)
# what a colour transformation makes of each other; told apart by the pixels, decoded to RGB
_COLOURS: Final = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT"})


def alike(first: Path, second: Path) -> bool:
    """Whether two Part 10 files hold the same image; False for what cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values
            if max(path.stat().st_size for path in (first, second)) > MAX_FILE_BYTES:
                return False
            one, other = dcmread(first), dcmread(second)
            return _same_elements(one, other, _little(one, other)) and _same_pixels(one, other)
    except (*MALFORMED, InvalidDicomError):
        return False


def differences(first: Path, second: Path) -> tuple[str, ...]:
    """The names of the elements in which two Part 10 files differ, a private one's as its tag; no value.

    Pixels differ where they are not known to be the same.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values
            one, other = dcmread(first), dcmread(second)
            tags = sorted({*_compared(one), *_compared(other)})
            little = _little(one, other)
            found = [tag for tag in tags if not (tag in one and tag in other and _same(one[tag], other[tag], little))]
            names = [keyword_for_tag(tag) or str(tag) for tag in found]
    except (*MALFORMED, InvalidDicomError):
        return ("what cannot be read",)
    try:
        same = _same_pixels(one, other)
    except MALFORMED:
        same = False
    return (*names, *(() if same else ("PixelData",)))


def _little(one: FileDataset, other: FileDataset) -> tuple[bool, bool]:
    return one.file_meta.TransferSyntaxUID.is_little_endian, other.file_meta.TransferSyntaxUID.is_little_endian


def _same_elements(one: Dataset, other: Dataset, little: tuple[bool, bool]) -> bool:
    tags = _compared(one)
    return tags == _compared(other) and all(_same(one[tag], other[tag], little) for tag in tags)


def _compared(dataset: Dataset) -> list[BaseTag]:
    return [tag for tag in sorted(dataset.keys()) if tag.element != 0 and tag not in _ENCODING]


def _same(one: DataElement, other: DataElement, little: tuple[bool, bool]) -> bool:
    """Whether two elements say the same.

    Args:
        little: whether each file is in little endian.
    """
    if one.VR == other.VR == "SQ":
        items = list(zip_longest(one.value, other.value))
        return all(a is not None and b is not None and _same_elements(a, b, little) for a, b in items)
    first, second = _encoded(one, little[0]), _encoded(other, little[1])
    if {one.VR, other.VR} <= _TEXT:
        return first.rstrip(b" \0") == second.rstrip(b" \0")
    if first == second or _padded(first, second) or _padded(second, first):
        return True
    # what is in an unknown VR only its maker can say: it is the same where it is once every word of it is turned round
    in_words = little[0] != little[1] and "UN" in (one.VR, other.VR)
    return in_words and any(turned(first, size) == second for size in (2, 4, 8))


def _padded(odd: bytes, even: bytes) -> bool:
    """Whether they differ by the one byte that makes a length even; more of them may be a number, or pixels."""
    return len(odd) % 2 == 1 and even in (odd + b"\0", odd + b" ")


def _encoded(element: DataElement, little: bool) -> bytes:
    """The value alone, in implicit little endian; text, which pydicom has decoded, in UTF-8, which loses no letter.

    Args:
        little: whether the file is in little endian: pydicom hands on strings of words as they are in it.
    """
    buffer: Any = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, True
    write_data_element(buffer, element, ["ISO_IR 192"])
    value = buffer.getvalue()[8:]
    return value if little else turned(value, WORDS.get(element.VR, 1))


def _same_pixels(one: FileDataset, other: FileDataset) -> bool:
    if (_PIXELS in one) != (_PIXELS in other):
        return False
    if _PIXELS not in one:
        return True
    photometric = [str(dataset.get("PhotometricInterpretation", "")) for dataset in (one, other)]
    if photometric[0] != photometric[1] and not _COLOURS.issuperset(photometric):
        return False
    sizes = [int(dataset.Rows) * int(dataset.Columns) for dataset in (one, other)]
    if max(sizes) > MAX_PIXELS:
        return False
    if _stored(one) == _stored(other):
        return True  # whether it can be decoded or not
    plain = [_plain(dataset) for dataset in (one, other)]
    if None not in plain and photometric[0] == photometric[1]:
        return plain[0] == plain[1]
    pairs = zip_longest(_frames(one), _frames(other))
    return all(a is not None and b is not None and np.array_equal(a, b) for a, b in pairs)


def _stored(dataset: FileDataset) -> tuple[object, ...]:
    """All that a decoder is given, with how it is told to read it; the rest of the header is compared before."""
    syntax: UID = dataset.file_meta.TransferSyntaxUID
    pixels = bytes(dataset.PixelData)
    padded = pixels + bytes(len(pixels) % 2)
    how = syntax if syntax.is_encapsulated else syntax.is_little_endian
    return how, dataset.get("PlanarConfiguration"), dataset.PhotometricInterpretation, padded


def _plain(dataset: FileDataset) -> bytes | None:
    """The stored pixels, where two files with the same bytes have the same picture; None where decoding must tell.

    All of them, or None: what is cut off in a black border is not the whole image.
    """
    syntax: UID = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated or not syntax.is_little_endian or _PLANAR in dataset:
        return None
    if dataset.PhotometricInterpretation == "YBR_FULL_422" or int(dataset.BitsAllocated) % 8:
        return None
    count = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    length = count * int(dataset.get("NumberOfFrames") or 1) * int(dataset.BitsAllocated) // 8
    pixels = bytes(dataset.PixelData)
    return pixels[:length] if length <= len(pixels) <= length + 1 else None


def _frames(dataset: FileDataset) -> Iterator[np.ndarray[Any, Any]]:
    # in the machine's byte order, whatever the file's
    return (frame.astype(frame.dtype.newbyteorder("="), copy=False) for frame in iter_pixels(dataset))


def main() -> None:
    """Answer `["path", "path"]`, a line each, with `true` or `false`."""
    assert syntaxes.JPEG_XL  # known to pydicom from here on
    while select.select([sys.stdin], [], [], IDLE_SECONDS)[0]:
        line = sys.stdin.readline()
        if not line:
            return
        first, second = json.loads(line)
        sys.stdout.write(json.dumps(alike(Path(first), Path(second))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
