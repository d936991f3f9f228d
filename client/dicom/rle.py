"""One frame of RLE Lossless, to exactly the pixels that the header says.

pydicom's decoder cuts off what is too much: a frame of 80 rows under a header that says 40 would be half a picture, and
nobody would hear of it.

Source: PS3.5 Annex G.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidStudy

_HEADER: Final = 64
_PADDING: Final = b"\x00\x80"  # of a segment to an even length, and the byte that stands for no operation


def decoded(frame: bytes, shape: tuple[int, int], width: int, samples: int = 1) -> NDArray[np.unsignedinteger]:
    """The pixels of a frame.

    Args:
        frame: RLE header and segments: of each sample, the most significant byte's first.
        shape: (rows, columns) of the header.
        width: bytes of a sample.

    Returns:
        (rows, columns) unsigned integers of `width` bytes, in the machine's byte order; (rows, columns, samples) where
        there are several.

    Raises:
        InvalidStudy: `truncated` or `inconsistent`, the frame holds fewer or more pixels than the header says;
            `undecodable`, it has no segment for each byte.
    """
    fields = np.frombuffer(frame[:_HEADER], "<u4")
    count = width * samples
    if len(fields) != _HEADER // 4 or fields[0] != count or count >= len(fields):
        raise InvalidStudy("undecodable", f"no {count} segments")
    ends = [*(int(start) for start in fields[1 : count + 1]), len(frame)]
    if ends[0] < _HEADER or ends != sorted(ends):
        raise InvalidStudy("undecodable", "segments that are not one after the other")
    rows, columns = shape
    pixels = np.empty((rows * columns, count), np.uint8)
    for number in range(count):
        segment = _segment(frame[ends[number] : ends[number + 1]], rows * columns)
        pixels[:, number] = np.frombuffer(segment, np.uint8)
    return pixels.view(f">u{width}").astype(f"=u{width}").reshape(shape if samples == 1 else (*shape, samples))


def _segment(coded: bytes, size: int) -> bytearray:
    """The `size` bytes of one segment."""
    found = bytearray()
    extend = found.extend
    at, end = 0, len(coded)
    while len(found) < size and at < end:
        count = coded[at] + 2
        if count < 130:
            extend(coded[at + 1 : at + count])
            at += count
        elif count == 130:
            at += 1
        else:
            extend(coded[at + 1 : at + 2] * (259 - count))
            at += 2
    if len(found) < size:
        raise InvalidStudy("truncated", f"{len(found)} bytes in a segment, {size} expected")
    if len(found) > size or coded[at:].strip(_PADDING):
        raise InvalidStudy("inconsistent", f"more in a segment than the {size} bytes that the header says")
    return found
