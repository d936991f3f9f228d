"""WADO-RS: studies, series and instances as files, their metadata, their frames, their bulk data.

Whatever the size of a study, one piece of one file is in memory at a time. A file is sent as it is stored unless the
client asks for Explicit VR Little Endian, by name or by naming nothing, which then is the standard's default.

Source: PS3.18 10.4, 8.7.3.5.2 (which transfer syntax), 8.7.7 (multipart payloads), RFC 9110 14.2 (ranges).
"""

import io
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pydicom
from pydicom.pixels import get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from client.dicom.byte_order import WORDS, turn_words, turned
from client.dicom.malformed import MALFORMED
from client.dicomweb import accept, json_model, multipart
from client.dicomweb.frames import OCTETS, Image, media_type, native
from client.dicomweb.holdings import Held, Holdings
from client.dicomweb.part10 import find_pixels, opened, quiet, read_header
from models.errors import InvalidStudy, NotFound

DICOM: Final = "application/dicom"
JSON: Final = "application/dicom+json"
_EXPLICIT: Final = str(ExplicitVRLittleEndian)
_PIECE: Final = 1 << 18
_MOST_INLINE: Final = 1 << 20
_DOCUMENT: Final = "00420011"


class NotAcceptable(Exception):
    """Nothing that is wanted can be made of what is asked for."""


@dataclass(frozen=True, slots=True)
class Payload:
    """A body and what it is.

    Attributes:
        content: piece by piece.
        length: in bytes, where it is known before it is made.
        path: the file, where the body is exactly that: it can be sent by ranges.
    """

    media: str
    content: Iterable[bytes]
    length: int | None = None
    path: Path | None = None


def files(holdings: Holdings, held: list[Held], wanted: list[accept.Wanted]) -> Payload:
    """Instances as Part 10 files.

    Raises:
        NotAcceptable: as said.
    """
    for one in wanted:
        if not one.takes(DICOM):
            continue
        # who says nothing at all gets what is there; who asks for DICOM without a transfer syntax, the default
        asked = one.syntax or ("*" if one.media == accept.ANY else _EXPLICIT)
        if not all(asked in ("*", item.syntax) or (asked == _EXPLICIT and _decodable(item)) for item in held):
            continue
        if one.multipart is False:
            if len(held) != 1:
                continue
            return _single_file(holdings, held[0], asked)
        boundary = secrets.token_hex(16)
        media = f'multipart/related; type="{DICOM}"; boundary={boundary}'
        return Payload(media, _file_parts(holdings, held, asked, boundary))
    raise NotAcceptable("instances are application/dicom, as they are stored or in Explicit VR Little Endian")


def metadata(holdings: Holdings, held: list[Held], root: str) -> Payload:
    """Everything but the pixels, in the JSON model; a file that cannot be read is left out.

    Args:
        root: URL of the service.
    """

    def pieces() -> Iterator[bytes]:
        between = b"["
        for item in held:
            made = _metadata(holdings, item, root)
            if made is not None:
                yield between + made
                between = b","
        yield b"[]" if between == b"[" else b"]"

    return Payload(JSON, pieces())


def frames(holdings: Holdings, held: Held, numbers: list[int], wanted: list[accept.Wanted]) -> Payload:
    """Frames as they are stored, or decompressed.

    Raises:
        NotFound: the instance has no such frames.
        InvalidStudy: it says that it has them, and has not.
        NotAcceptable, Undecodable: as said.
    """
    path = holdings.archive.path(held.sha256)
    media, multiple, decompress = _frame_type(held.syntax, wanted, single=len(numbers) == 1)
    with opened(path) as part10:
        image = Image(part10)
        for number in numbers:
            if number > image.frames:
                raise NotFound(f"frame {number}: the instance has {image.frames}")
        # the first is made before anything is answered: what is wrong with an image is wrong with its first frame
        first = image.decompressed(numbers[0]) if decompress else image.stored(numbers[0])
    if not multiple:
        return Payload(media, [first], len(first))
    boundary = secrets.token_hex(16)
    kind = media.partition(";")[0]

    def parts() -> Iterator[bytes]:
        yield multipart.head(boundary, {"Content-Type": media}) + first
        if len(numbers) > 1:
            with opened(path) as part10:
                image = Image(part10)
                for number in numbers[1:]:
                    frame = image.decompressed(number) if decompress else image.stored(number)
                    yield multipart.head(boundary, {"Content-Type": media}) + frame
        yield multipart.tail(boundary)

    return Payload(f'multipart/related; type="{kind}"; boundary={boundary}', parts())


def bulk(
    holdings: Holdings, held: Held, place: str, wanted: list[accept.Wanted], span: tuple[int | None, int | None] | None
) -> tuple[Payload, tuple[int, int, int] | None]:
    """One large value of an instance.

    Args:
        place: where it lies, as its address in the metadata says.
        span: (first, last) byte that is asked for; (None, n) for the last n; None for all.

    Returns:
        The value, and (first, last, size) of it where it is a part.

    Raises:
        NotFound: no such value.
        NotAcceptable: as said.
        IndexError: a span outside the value.
    """
    path = holdings.archive.path(held.sha256)
    with opened(path) as part10:
        with quiet():
            header = read_header(part10)
            pixels = find_pixels(part10)
            value = json_model.find(header, place)
            document = str(header.get("MIMETypeOfEncapsulatedDocument", ""))
        if value is None and (pixels is None or f"{pixels.tag:08X}" != place):
            raise NotFound("no such value")
        if value is None and pixels is not None and pixels.length is None:
            every = list(range(1, Image(part10).frames + 1))
            return frames(holdings, held, every, wanted), None
    # only what a browser shows and cannot run
    own = [document] if place == _DOCUMENT and document == "application/pdf" else []
    offset, size = (0, len(value)) if value is not None else (pixels.offset, pixels.length or 0)  # type: ignore[union-attr]

    def piece(first: int, last: int) -> Iterator[bytes]:
        if value is not None:
            yield value[first : last + 1]
            return
        with opened(path) as part10:
            part10.file.seek(offset + first)
            left = last + 1 - first
            while left > 0 and (chunk := part10.file.read(min(left, _PIECE))):
                left -= len(chunk)
                yield chunk

    for one in wanted:
        media = next((offer for offer in (*own, OCTETS) if one.takes(offer)), None)
        if media is None:
            continue
        if one.multipart:
            boundary = secrets.token_hex(16)
            head, tail = multipart.head(boundary, {"Content-Type": media}), multipart.tail(boundary)

            def whole(head: bytes = head, tail: bytes = tail) -> Iterator[bytes]:
                yield head
                yield from piece(0, size - 1)
                yield tail

            return Payload(f'multipart/related; type="{media}"; boundary={boundary}', whole()), None
        if span is None:
            return Payload(media, piece(0, size - 1), size), None
        first, last = _within(span, size)
        return Payload(media, piece(first, last), last + 1 - first), (first, last, size)
    raise NotAcceptable("bulk data is application/octet-stream")


def _within(span: tuple[int | None, int | None], size: int) -> tuple[int, int]:
    first, last = span
    if first is None:
        first, last = max(0, size - (last or 0)), size - 1
        if span[1] == 0:
            raise IndexError
    last = size - 1 if last is None else min(last, size - 1)
    if first > last:
        raise IndexError
    return first, last


def _metadata(holdings: Holdings, held: Held, root: str) -> bytes | None:
    base = f"{root}/studies/{held.study}/series/{held.series}/instances/{held.sop_uid}/bulkdata"
    try:
        with quiet(), opened(holdings.archive.path(held.sha256)) as part10:
            header = read_header(part10)
            return json_model.encode(header, lambda place: f"{base}/{place}", find_pixels(part10))
    except (InvalidStudy, FileNotFoundError):
        return None


def _frame_type(syntax: str, wanted: list[accept.Wanted], *, single: bool) -> tuple[str, bool, bool]:
    """(media type of a frame, whether as parts, whether to decompress)."""
    stored, plain = media_type(syntax), native(syntax)
    labelled = _EXPLICIT if plain else syntax
    for one in wanted:
        if one.multipart is False and not single:
            continue
        multiple = one.multipart is not False
        as_stored = one.syntax in ("*", labelled) or (one.syntax == "" and (plain or one.media != OCTETS))
        if as_stored and (one.takes(stored) or one.media == OCTETS):
            media = stored if one.takes(stored) else OCTETS
            return f"{media}; transfer-syntax={labelled}", multiple, False
        if one.takes(OCTETS) and one.syntax in ("", _EXPLICIT) and _decoder(syntax):
            return f"{OCTETS}; transfer-syntax={_EXPLICIT}", multiple, True
    raise NotAcceptable(f"these frames are {stored}, or application/octet-stream where they can be decompressed")


def _single_file(holdings: Holdings, held: Held, asked: str) -> Payload:
    path = holdings.archive.path(held.sha256)
    made = None if asked in ("*", held.syntax) else explicit(path)
    if made is None:
        return Payload(f"{DICOM}; transfer-syntax={held.syntax}", (), path=path)
    return Payload(f"{DICOM}; transfer-syntax={_EXPLICIT}", [made], len(made))


def _file_parts(holdings: Holdings, held: list[Held], asked: str, boundary: str) -> Iterator[bytes]:
    for item in held:
        path = holdings.archive.path(item.sha256)
        made = None if asked in ("*", item.syntax) else explicit(path)
        if made is not None:
            yield multipart.head(boundary, {"Content-Type": f"{DICOM}; transfer-syntax={_EXPLICIT}"}) + made
            continue
        # also where it turns out that it cannot be converted: the part says which syntax it is in
        with path.open("rb", buffering=0) as file:
            head = multipart.head(boundary, {"Content-Type": f"{DICOM}; transfer-syntax={item.syntax}"})
            while piece := file.read(_PIECE if not head else _MOST_INLINE):
                yield head + piece
                head = b""
    yield multipart.tail(boundary)


def explicit(path: Path) -> bytes | None:
    """A file in Explicit VR Little Endian; None where it cannot be decoded."""
    try:
        with quiet():
            dataset = pydicom.dcmread(path)
            syntax: UID = dataset.file_meta.TransferSyntaxUID
            if syntax.is_encapsulated and "PixelData" in dataset:
                dataset.decompress(generate_instance_uid=False)
            elif syntax == ExplicitVRBigEndian:
                turn_words(dataset)
                for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
                    if name in dataset and (vr := dataset[name].VR) in WORDS:
                        wide = int(dataset.BitsAllocated) // 8 if name == "PixelData" else 0
                        dataset[name].value = turned(dataset[name].value, max(wide, WORDS[vr]))
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            buffer = io.BytesIO()
            # `save_as` would not change the byte order
            pydicom.dcmwrite(buffer, dataset, implicit_vr=False, little_endian=True, enforce_file_format=True)
            return buffer.getvalue()
    except MALFORMED:
        return None


def _decodable(held: Held) -> bool:
    return native(held.syntax) or _decoder(held.syntax)


def _decoder(syntax: str) -> bool:
    try:
        return native(syntax) or get_decoder(UID(syntax)).is_available
    except (NotImplementedError, ValueError):
        return False
