"""DICOM messages as bytes: PDUs and commands, for both sides of an association that is established.

Source: PS3.8 9.3.5, 9.3.6 and annex E (P-DATA-TF, message control header), PS3.7 6.3 and 9.3 (commands).
"""

import struct
from collections.abc import Iterator, Mapping
from typing import Final

P_DATA: Final = 0x04
RELEASE_RQ: Final = 0x05
RELEASE_RP: Final = 0x06
ABORT: Final = 0x07
COMMAND: Final = 1  # bits of the message control header
LAST: Final = 2
C_STORE_RQ: Final = 0x0001
C_STORE_RSP: Final = 0x8001
C_ECHO_RQ: Final = 0x0030
C_ECHO_RSP: Final = 0x8030
HAS_DATASET: Final = 0x0001  # anything but the following
NO_DATASET: Final = 0x0101
PDV_HEADER: Final = 6  # of a PDU's length: the value's own length, context and control header


class Malformed(Exception):
    """What the peer sent is not DICOM upper layer; the association is aborted."""


def elements(command: bytes | bytearray) -> dict[int, bytes]:
    """The elements of a command set, by element number: implicit little endian, group 0000 throughout.

    Raises:
        Malformed: it is none.
    """
    found: dict[int, bytes] = {}
    at = 0
    while at < len(command):
        if at + 8 > len(command):
            raise Malformed("a command set that is cut")
        group, element, length = struct.unpack_from("<HHL", command, at)
        at += 8
        if group or at + length > len(command):
            raise Malformed("a command set that is none")
        found[element] = bytes(command[at : at + length])
        at += length
    return found


def number(command: Mapping[int, bytes], element: int) -> int:
    """The value of an element of VR US.

    Raises:
        Malformed: the command has none.
    """
    value = command.get(element, b"")
    if len(value) != 2:
        raise Malformed(f"a command without (0000,{element:04x})")
    return int.from_bytes(value, "little")


def text(command: Mapping[int, bytes], element: int) -> str:
    """The value of an element that holds text, empty where there is none."""
    return command.get(element, b"").decode("ascii", "replace").strip(" \0")


def uid(value: str) -> bytes:
    """A UID as a value: of even length (PS3.5 9.1)."""
    return value.encode() + b"\0" * (len(value) % 2)


def command(values: Mapping[int, bytes | int]) -> bytes:
    """A command set, its group length first.

    Args:
        values: by element number, ascending; numbers are of VR US.
    """
    encoded = {at: struct.pack("<H", value) if isinstance(value, int) else value for at, value in values.items()}
    body = b"".join(struct.pack("<HHL", 0, at, len(value)) + value for at, value in encoded.items())
    return struct.pack("<HHLL", 0, 0, 4, len(body)) + body


def pdus(context: int, content: bytes | memoryview, kind: int, longest: int) -> Iterator[bytes | memoryview]:
    """A command or a dataset in P-DATA-TF PDUs of one value each, the last of them marked; header and value by turns.

    Args:
        kind: `COMMAND`, or 0 for a dataset.
        longest: that the peer takes, its Maximum Length (PS3.8 D.1); more than 7.
    """
    step = max(longest - PDV_HEADER, 2) & ~1  # fragments are of even length
    view = memoryview(content)
    for at in range(0, len(view), step):
        piece = view[at : at + step]
        control = kind | (LAST if at + step >= len(view) else 0)
        yield struct.pack(">BxLLBB", P_DATA, len(piece) + PDV_HEADER, len(piece) + 2, context, control)
        yield piece
