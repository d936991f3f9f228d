"""The shape of an object of ours: how it is built, and how its values are written, without what they say. Pure.

A checker of modules and attribute types asks which attributes there are, down to the last item of each sequence, which
of them are empty, zero or outside of what their type allows, and which of the standard's own words they hold. What it
says of one object it therefore says of each object of the same shape.

The bytes are walked and not decoded: a segmentation has tens of thousands of elements.

Source: DICOM PS3.5 7.1.2 (explicit VR), 7.5 (sequences), 6.2 (what may stand in a value).
"""

import hashlib
import re
from functools import lru_cache
from typing import Final

_PREAMBLE: Final = 132
_LONG: Final = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_SHORT: Final = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_BINARY: Final = frozenset(b"AT FD FL OB OD OF OL OV OW SL SS SV UL UN US UV".split())
_MOMENTS: Final = frozenset(b"AS DA DT TM".split())
_MOST_CHARACTERS: Final = {b"AE": 16, b"SH": 16, b"LO": 64, b"PN": 64}
_NUMBER: Final = re.compile(rb" *[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)? *")
_STRICT_UID: Final = re.compile(rb"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_CONTROL: Final = re.compile(rb"[\0-\x08\x0b\x0e-\x1a\x7f]")
_STANDARD: Final = b"1.2.840.10008."
_DIGITS: Final = bytes.maketrans(b"123456789", b"000000000")
_ITEM, _ITEM_END, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
_PIXELS: Final = b"\xe0\x7f"  # the group, which stands last
_UNDEFINED: Final = 0xFFFFFFFF
_DEEPEST: Final = 32
_LONGEST: Final = 128  # of a value that is looked at: longer ones are tables, contours and texts of ours
_FEW: Final = 2  # of a list of numbers, each is looked at; longer ones are places and tables


def shape(content: bytes, border: int, more: bytes = b"") -> str:
    """A digest of how an object is built.

    Args:
        content: a Part 10 file in explicit VR little endian, its pixels in whatever syntax.
        border: where to stop.
        more: what else makes it another shape.

    Returns:
        Hex. Of a file that cannot be walked it is one that no other file has.
    """
    try:
        built, _ = _elements(content, _PREAMBLE, border, 0)
    except (ValueError, IndexError):
        built = content
    return hashlib.sha256(built + more).hexdigest()


def _elements(content: bytes, at: int, end: int, depth: int) -> tuple[bytes, int]:
    """What stands from a place to another, or to where its item ends; and where that is."""
    parts: list[bytes] = []
    while at < end:
        head = content[at : at + 6]
        if head[:4] == _ITEM_END and depth:
            return b"".join(parts), at + 8
        if head[:2] == _PIXELS and not depth:
            return b"".join((*parts, head)), end
        vr = head[4:]
        if vr in _SHORT:
            length, at = content[at + 6] | content[at + 7] << 8, at + 8
        elif vr in _LONG:
            length, at = int.from_bytes(content[at + 8 : at + 12], "little"), at + 12
        else:
            raise ValueError("an element of no known type")
        if vr == b"SQ":
            form, at = _items(content, at, length, depth + 1)
        else:
            value = content[at : at + length]
            form, at = b"v" if length > _LONGEST else _form(vr, value), at + length
        parts += (head, len(form).to_bytes(4, "little"), form)
    if at > end:
        raise ValueError("an element goes beyond its end")
    return b"".join(parts), at


def _items(content: bytes, at: int, length: int, depth: int) -> tuple[bytes, int]:
    """The different items of a sequence, whether it has one or more of them, and where it ends."""
    if depth > _DEEPEST:
        raise ValueError("sequences in sequences without an end")
    end = len(content) if length == _UNDEFINED else at + length
    found: set[bytes] = set()
    count = 0
    while at < end:
        tag, size, at = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little"), at + 8
        if tag == _SEQUENCE_END and length == _UNDEFINED:
            break
        if tag != _ITEM:
            raise ValueError("something else than an item in a sequence")
        item, at = _elements(content, at, end if size == _UNDEFINED else at + size, depth)
        found.add(item)
        count += 1
    listed = b"".join(len(item).to_bytes(4, "little") + item for item in sorted(found))
    return (b"*" if count > 1 else b"") + listed, at


@lru_cache(maxsize=4096)
def _form(vr: bytes, value: bytes) -> bytes:
    """How a value is written: empty where there is none."""
    if vr in _BINARY:
        return b"" if not value else b"v" if any(value) else b"0"
    text = value.strip(b" \0")
    if not text:
        return b""
    if vr == b"CS":
        return text
    if vr == b"UI":
        return text if text.startswith(_STANDARD) else b"v" if _STRICT_UID.fullmatch(text) else b"x"
    if vr in _MOMENTS:
        return text.translate(_DIGITS)
    if vr in (b"DS", b"IS"):
        return _numbers(text)
    return b"x" if len(text) > _MOST_CHARACTERS.get(vr, len(text)) or _CONTROL.search(text) else b"v"


def _numbers(text: bytes) -> bytes:
    numbers = text.split(b"\\")
    if not all(len(number) <= 16 and _NUMBER.fullmatch(number) for number in numbers):
        return b"x"
    if len(numbers) > _FEW:
        return b"v"
    return b",".join(b"-" if float(number) < 0 else b"+" if float(number) else b"0" for number in numbers)
