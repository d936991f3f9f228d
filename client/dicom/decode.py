"""From a stored DICOM file to the picture that a radiologist would see, or a refusal that says why not.

Whatever a file holds, `read` ends in a `Radiograph` or in `InvalidStudy` with one of the words of `REASONS`. What the
header says is held against what is there before anything is decoded: a header alone can ask for gigabytes, and a
codestream of another size than the header's is another picture.

The look-up tables and windows are applied here and not by `pydicom.pixels.processing`: that one inverts the picture
for a negative rescale slope, and overflows on look-up tables that start outside the stored integers' range.
"""

import io
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import get_frame, parse_basic_offsets, parse_fragments
from pydicom.errors import InvalidDicomError
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, RLELossless

from client.dicom import rle
from client.dicom.byte_order import turn_words
from client.dicom.malformed import MALFORMED
from models.errors import InvalidStudy

REASONS: Final = (
    "not-dicom",
    "truncated",
    "no-pixels",
    "undecodable",
    "unsupported-transfer-syntax",
    "unsupported-pixels",
    "too-large",
    "colour",
    "multi-frame",
    "inconsistent",
    "not-one-plane",
    "not-finite",
)

MAX_PIXELS: Final = 100_000_000
MAX_FILE_BYTES: Final = 1 << 30
_PIXELS: Final = "PixelData"
_LARGE: Final = 1 << 17  # pixels from which on a table of all values costs less than a computation for each
_BAND: Final = 32  # rows that stay in the processor's cache
_PIXEL_MODULE: Final = [  # with what turns stored values into the modality's
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PlanarConfiguration",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "FloatPixelData",
    "DoubleFloatPixelData",
    "PixelData",
]
_STARTS_OF_IMAGE: Final = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51")  # SOI of JPEG and JPEG-LS, SOC of JPEG 2000
_END_OF_IMAGE: Final = b"\xff\xd9"  # EOI of JPEG and JPEG-LS, EOC of JPEG 2000


@dataclass(frozen=True, slots=True)
class Radiograph:
    """One projection image, as it is meant to be looked at.

    Attributes:
        pixels: (H, W) float32, larger is whiter: modality and VOI transformations applied, MONOCHROME1 inverted,
            padding as dark as the darkest pixel. Finite. The unit is a grey level without absolute meaning.
        header: the dataset without its pixels.
    """

    pixels: NDArray[np.float32]
    header: Dataset


def read_header(path: Path) -> FileDataset:
    """Read everything before the pixels.

    Raises:
        InvalidStudy: `not-dicom`, or `too-large` for a file that no radiograph needs.
    """
    return _dataset(path, stop_before_pixels=True)


def read(path: Path, header: FileDataset | None = None) -> Radiograph:
    """Decode one stored image into presentation values.

    Args:
        header: what `read_header` gave for it, where the caller has that already.

    Raises:
        InvalidStudy: with one word of `REASONS`; never another exception, never a picture that may be wrong.

    Source: PS3.3 C.7.6.3 (pixels), C.11.1 and C.11.2 (modality and VOI LUT), C.7.5.1.1.2 (padding).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values
        if header is None:
            header = read_header(path)
        shape = _checked_shape(header)
        whole = _dataset(path, stop_before_pixels=False)
        if len(whole) < len(header):
            raise InvalidStudy("truncated", "ends within the pixels")
        _check_frames(whole)
        stored = _stored_values(whole, shape)
        try:
            pixels = present(stored, whole)
        except InvalidStudy:
            raise
        except MALFORMED as error:
            raise InvalidStudy("inconsistent", f"look-up table or window ({type(error).__name__})") from error
    if not np.isfinite(pixels).all():
        raise InvalidStudy("inconsistent", "rescaling makes values that are no numbers")
    return Radiograph(pixels, header)


def read_planes(path: Path, header: Dataset, frames: Sequence[int]) -> Iterator[NDArray[Any]]:
    """Decode frames of one stored cross-sectional image into the modality's unit, without any window.

    Args:
        header: what `read_header` gave for it.
        frames: counted from 0, in the order wanted.

    Yields:
        (H, W) int16 where the values are whole and fit, else float32; padding as low as the lowest value beside it.

    Raises:
        InvalidStudy: with one word of `REASONS`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they quote values
        shape = _checked_shape(header, one_frame=False)
        whole = _dataset(path, stop_before_pixels=False, only=_PIXEL_MODULE)
        if not any(name in whole for name in _PIXEL_MODULE[-3:]):
            raise InvalidStudy("truncated", "ends within the pixels")
        _check_frames(whole)
        for frame in frames:
            stored = _stored_values(whole, shape, frame)
            try:
                values = _modality(stored, transformation(whole, frame))
                padding = _padding(stored, whole)
                if padding is not None and not padding.all():
                    values = np.where(padding, values[~padding].min(), values)
            except InvalidStudy:
                raise
            except MALFORMED as error:
                raise InvalidStudy("inconsistent", f"rescaling ({type(error).__name__})") from error
            yield _smallest(values)


def frame_count(header: Dataset) -> int:
    """How many frames a header says; 1 where it says nothing.

    Raises:
        InvalidStudy: `inconsistent`, it says something that is no whole number.
    """
    return _whole(header, "NumberOfFrames") or 1


def transformation(dataset: Dataset, frame: int) -> Dataset:
    """Where a frame's rescaling stands: in its own functional group, the shared one, or the image itself.

    Args:
        frame: counted from 0.
    """
    for name, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(name)
        if items and index < len(items) and (found := items[index].get("PixelValueTransformationSequence")):
            return found[0]
    return dataset


def _smallest(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            raise InvalidStudy("inconsistent", "rescaling makes values that are no numbers")
        whole = np.rint(values)
        if not np.array_equal(whole, values):
            return values.astype(np.float32)
        values = whole
    fits = values.min() >= -32768 and values.max() <= 32767
    return values.astype(np.int16 if fits else np.float32)


def _dataset(path: Path, *, stop_before_pixels: bool, only: list[str] | None = None) -> FileDataset:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise InvalidStudy("too-large", f"{path.stat().st_size} bytes")
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            dataset = dcmread(_inflatable(file), stop_before_pixels=stop_before_pixels, specific_tags=only)
            # elements are parsed when first asked for: ask here, where what is wrong with them is expected
            syntax = dataset.file_meta.TransferSyntaxUID
            _settle(dataset)
            if syntax and not syntax.is_little_endian:
                turn_words(dataset)
    except InvalidStudy:
        raise
    except InvalidDicomError as error:
        raise InvalidStudy("not-dicom", "no DICOM preamble") from error
    except EOFError as error:
        raise InvalidStudy("truncated", "ends within an element") from error
    except MALFORMED as error:
        raise InvalidStudy("not-dicom", f"no readable dataset ({type(error).__name__})") from error
    if not syntax or (stop_before_pixels and len(dataset) == 0):
        raise InvalidStudy("not-dicom", "no transfer syntax or no content")
    return dataset


def _settle(dataset: Dataset, *, vital: bool = True) -> None:
    """Parse every element now, those in sequences too; one that is malformed counts as missing, unless the picture
    depends on it.

    Args:
        vital: it is the image itself, or an item with its look-up tables or of its functional groups.
    """
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
            for item in element.value if element.VR == "SQ" else ():
                _settle(item, vital=vital and tag.group in (0x0028, 0x5200))
        except MALFORMED as error:
            if vital and tag.group in (0x0028, 0x7FE0):
                raise InvalidStudy("inconsistent", f"{tag} is malformed ({type(error).__name__})") from error
            del dataset[tag]


def _inflatable(file: BinaryIO) -> BinaryIO:
    """The file itself, unless it is deflated and would inflate to more than any radiograph needs."""
    head = file.read(4096)
    file.seek(0)
    if DeflatedExplicitVRLittleEndian.encode() not in head:
        return file
    content = file.read()
    group_length = int.from_bytes(content[140:144], "little")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflater.decompress(content[144 + group_length :], MAX_FILE_BYTES)
    if inflater.unconsumed_tail:
        raise InvalidStudy("too-large", "inflates to more than any radiograph needs")
    return io.BytesIO(content)


def _checked_shape(header: Dataset, *, one_frame: bool = True) -> tuple[int, int]:
    """(rows, columns) of a grey image that can be decoded here, all without touching the pixels."""
    rows, columns = _whole(header, "Rows"), _whole(header, "Columns")
    if rows is None or columns is None or rows == 0 or columns == 0:
        raise InvalidStudy("no-pixels", "no rows and columns")
    if rows * columns > MAX_PIXELS:
        raise InvalidStudy("too-large", f"{rows} x {columns} pixels")
    if one_frame and frame_count(header) > 1:
        raise InvalidStudy("multi-frame", f"{frame_count(header)} frames")
    photometric = str(header.get("PhotometricInterpretation", ""))
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or (_whole(header, "SamplesPerPixel") or 1) != 1:
        raise InvalidStudy("colour", f"photometric interpretation {photometric[:16]!r}")
    allocated, stored, high = (_whole(header, key) for key in ("BitsAllocated", "BitsStored", "HighBit"))
    if allocated not in (8, 16, 32) or _whole(header, "PixelRepresentation") not in (0, 1):
        raise InvalidStudy("unsupported-pixels", f"{allocated} bits allocated")
    if stored is None or not 1 <= stored <= allocated or (high is not None and high != stored - 1):
        raise InvalidStudy("inconsistent", f"{stored} bits stored up to bit {high} of {allocated}")
    try:
        decodable = get_decoder(header.file_meta.TransferSyntaxUID).is_available
    except (NotImplementedError, ValueError):
        decodable = False
    if not decodable:
        raise InvalidStudy("unsupported-transfer-syntax", str(header.file_meta.TransferSyntaxUID)[:64])
    return rows, columns


def _stored_values(dataset: FileDataset, shape: tuple[int, int], frame: int = 0) -> NDArray[Any]:
    """(H, W) integers as they were stored, unused high bits cleared, sign extended."""
    try:
        content = dataset.get(_PIXELS)
        if not content:
            floating = "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset
            raise InvalidStudy("unsupported-pixels" if floating else "no-pixels", "no pixel data")
        frames = frame_count(dataset)
        if not frame < frames:
            raise InvalidStudy("truncated", f"frame {frame + 1} of {frames}")
        _check_length(dataset, content if isinstance(content, bytes) else bytes(content), shape, frame, frames)
        decoded = _decoded(dataset, content, shape, frame, frames)
    except InvalidStudy:
        raise
    except MALFORMED as error:
        raise InvalidStudy("undecodable", type(error).__name__) from error
    if decoded.shape != shape or decoded.dtype.kind not in "iu":
        raise InvalidStudy("inconsistent", f"decoded to {decoded.shape}, the header says {shape}")
    bits, signed = int(dataset.BitsStored), dataset.PixelRepresentation == 1
    if decoded.dtype.itemsize > 2:
        decoded = decoded.astype(np.int64 if bits > 31 else np.int32)
    syntax: UID = dataset.file_meta.TransferSyntaxUID
    if (syntax.is_encapsulated and syntax != RLELossless) or bits == int(dataset.BitsAllocated):
        return decoded
    return _without_high_bits(decoded, bits, signed)


def _decoded(dataset: FileDataset, content: Any, shape: tuple[int, int], frame: int, frames: int) -> NDArray[Any]:
    """One frame as pydicom gives it; where nothing is compressed or turned, without its copies."""
    syntax: UID = dataset.file_meta.TransferSyntaxUID
    width, count = int(dataset.BitsAllocated) // 8, shape[0] * shape[1]
    kind = "i" if dataset.PixelRepresentation == 1 else "u"
    if syntax == RLELossless:
        stream = get_frame(content, frame, number_of_frames=frames)
        return rle.decoded(stream, shape, width).view(f"{kind}{width}")
    if syntax.is_encapsulated or not syntax.is_little_endian or not isinstance(content, bytes):
        decoded = pixel_array(dataset, index=frame, raw=True) if frames > 1 else dataset.pixel_array
        return decoded.astype(decoded.dtype.newbyteorder("="), copy=False)
    return np.frombuffer(content, f"<{kind}{width}", count, frame * count * width).reshape(shape)


def _without_high_bits(values: NDArray[Any], bits: int, signed: bool) -> NDArray[Any]:
    """Integers of so many bits; old files keep overlays above them."""
    least, most = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    if values.min() >= least and values.max() <= most:
        return values  # what lies above is the sign
    kept = values.astype(np.int64) & ((1 << bits) - 1)
    if signed:
        kept = np.where(kept > most, kept - (1 << bits), kept)
    return kept.astype(values.dtype)


def _check_length(dataset: FileDataset, pixels: bytes, shape: tuple[int, int], frame: int, frames: int) -> None:
    """Hold the length of the pixel data, or the size that its codestream declares, against the header."""
    syntax: UID = dataset.file_meta.TransferSyntaxUID
    rows, columns = shape
    if not syntax.is_encapsulated:
        expected = rows * columns * frames * int(dataset.BitsAllocated) // 8
        if len(pixels) < expected:
            raise InvalidStudy("truncated", f"{len(pixels)} bytes of pixels, {expected} expected")
        if len(pixels) > expected + expected % 2:
            raise InvalidStudy("inconsistent", f"{len(pixels)} bytes of pixels, {expected} expected")
        return
    if dataset[_PIXELS].is_undefined_length is False:
        raise InvalidStudy("inconsistent", "compressed by its transfer syntax, but not encapsulated")
    if syntax != RLELossless:
        check_codestream(get_frame(pixels, frame, number_of_frames=frames), shape)


def _check_frames(dataset: FileDataset) -> None:
    """Hold the number of compressed frames against the header, as far as fragments and offsets tell it.

    A frame of RLE is one fragment (PS3.5 A.4.2). Others may have several, but each begins a codestream.
    """
    syntax: UID = dataset.file_meta.TransferSyntaxUID
    content: Any = dataset.get(_PIXELS)
    if not syntax.is_encapsulated or not content or dataset[_PIXELS].is_undefined_length is False:
        return
    frames = frame_count(dataset)
    try:
        buffer = io.BytesIO(content)
        offsets = parse_basic_offsets(buffer)
        count, starts = parse_fragments(buffer)
        view = buffer.getbuffer()
        begun = sum(view[at + 8 : at + 12].tobytes().startswith(_STARTS_OF_IMAGE) for at in starts)
    except MALFORMED as error:
        raise InvalidStudy("undecodable", type(error).__name__) from error
    listed = (len(offsets), len(dataset.get("ExtendedOffsetTable") or b"") // 8, begun)
    held = count if syntax == RLELossless else next((number for number in listed if number not in (0, frames)), frames)
    if held > frames:
        raise InvalidStudy("inconsistent", f"{held} compressed frames, the header says {frames}")
    if held < frames or count < frames:
        raise InvalidStudy("truncated", f"{min(held, count)} compressed frames of {frames}")


def check_codestream(stream: bytes, shape: tuple[int, int]) -> None:
    """Hold a compressed frame against the header, as far as its kind of codestream says what it is.

    Args:
        shape: (rows, columns) of the header.

    Raises:
        InvalidStudy: `inconsistent`, it is another picture; `truncated`, it has no end.
    """
    declared = _codestream_size(stream)
    if declared is not None and declared != shape:
        raise InvalidStudy("inconsistent", f"the codestream has {declared}, the header says {shape}")
    if declared is not None and _END_OF_IMAGE not in stream.rstrip(b"\0")[-4:]:
        # decoders fill what is missing with grey and call it a picture
        raise InvalidStudy("truncated", "the codestream has no end")


def _codestream_size(pixels: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 codestream declares; None where there is none to be seen.

    Source: ISO 10918-1 B.2.2 and ISO 14495-1 C.2.2 (frame header), ISO 15444-1 A.5.1 (SIZ).
    """
    j2k = pixels.find(b"\xff\x4f\xff\x51")
    if 0 <= j2k < 65536:
        field = [int.from_bytes(pixels[j2k + at : j2k + at + 4], "big") for at in (8, 12, 16, 20)]
        return field[1] - field[3], field[0] - field[2]
    at = pixels.find(b"\xff\xd8\xff")
    if at < 0:
        return None
    at += 2
    while at + 9 < len(pixels) and pixels[at] == 0xFF:
        marker, length = pixels[at + 1], int.from_bytes(pixels[at + 2 : at + 4], "big")
        if marker == 0xFF:
            at += 1
        elif marker in (0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF, 0xF7):
            return int.from_bytes(pixels[at + 5 : at + 7], "big"), int.from_bytes(pixels[at + 7 : at + 9], "big")
        else:
            at += 2 + length
    return None


def present(stored: NDArray[Any], header: Dataset) -> NDArray[np.float32]:
    """Presentation values of an image whose pixels are decoded already.

    Args:
        stored: (H, W) integers.
        header: with its look-up tables, rescaling and window.

    Returns:
        (H, W) float32, larger is whiter.

    Raises:
        InvalidStudy: every pixel is padding, or a table or window that makes no sense.
    """
    _check_polarity(header)
    padding = _padding(stored, header)
    if padding is not None and padding.all():
        raise InvalidStudy("no-pixels", "every pixel is padding")
    pixels = _toned(stored, header)
    seen = pixels if padding is None else pixels[~padding]
    low, high = float(seen.min()), float(seen.max())
    if header.PhotometricInterpretation == "MONOCHROME1":
        # about the ends of the window, not of what is seen of it: a picture does not depend on how it was stored
        top = window_top(header)
        ends = low + high if top is None else top
        np.subtract(np.float32(ends), pixels, out=pixels)
        low = ends - high
    if padding is not None:
        pixels[padding] = low
    return np.ascontiguousarray(pixels, dtype=np.float32)


def _check_polarity(header: Dataset) -> None:
    """Two attributes say which end is white (PS3.3 C.8.11.3.1.2); where they disagree, one viewer shows the negative of
    what another one shows.

    Raises:
        InvalidStudy: they disagree, or a table says it that nobody here applies.
    """
    photometric, shape = str(header.PhotometricInterpretation), str(header.get("PresentationLUTShape") or "").strip()
    if (photometric, shape.upper()) in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")):
        raise InvalidStudy("inconsistent", f"{photometric} with PresentationLUTShape {shape.upper()}")
    if header.get("PresentationLUTSequence"):
        raise InvalidStudy("unsupported-pixels", "a presentation look-up table")


def window_top(header: Dataset) -> float | None:
    """The grey level that a window or VOI LUT makes white, 0 being black; None where there is neither.

    Source: PS3.3 C.11.2.1.1 (the third value of the LUT descriptor), C.11.2.1.2.
    """
    if table := header.get("VOILUTSequence"):
        return float((1 << int(table[0].LUTDescriptor[2])) - 1)
    if _first_real(header, "WindowCenter") is None or _first_real(header, "WindowWidth") is None:
        return None
    return float((1 << int(header.BitsStored)) - 1)


def _toned(stored: NDArray[Any], header: Dataset) -> NDArray[np.float32]:
    """Modality and VOI transformations; of a large picture they are worked out for each value it can have, not for each
    pixel.
    """
    if stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2 or stored.size < _LARGE:
        return _windowed(_modality(stored, header), header)
    # the ends are values of the picture, so that what is asked of all its values has the same answer here
    every = np.arange(int(stored.min()), int(stored.max()) + 1, dtype=np.int32)
    unsigned = np.dtype(f"u{stored.dtype.itemsize}")
    tones = np.zeros(1 << (8 * unsigned.itemsize), np.float32)
    tones[every.astype(unsigned)] = _windowed(_modality(every, header), header)
    pixels = np.empty(stored.shape, np.float32)
    for start in range(0, len(stored), _BAND):
        band = slice(start, start + _BAND)
        np.take(tones, np.ascontiguousarray(stored[band]).view(unsigned), out=pixels[band], mode="clip")
    return pixels


def _padding(stored: NDArray[Any], header: Dataset) -> NDArray[np.bool_] | None:
    """Which pixels are no image, by PixelPaddingValue and its range; None where none is."""
    first = _whole(header, "PixelPaddingValue")
    if first is None:
        return None
    limit = _whole(header, "PixelPaddingRangeLimit")
    last = first if limit is None else limit
    if header.PixelRepresentation == 1:
        # written as US by many devices although the pixels are signed
        size = 1 << int(header.BitsAllocated)
        first, last = (value - size if value >= size // 2 else value for value in (first, last))
    mask = (stored >= min(first, last)) & (stored <= max(first, last))
    return mask if bool(mask.any()) else None


def _modality(stored: NDArray[Any], header: Dataset) -> NDArray[Any]:
    """Manufacturer-independent values: the modality LUT, else rescale slope and intercept."""
    if table := header.get("ModalityLUTSequence"):
        return _looked_up(stored, table[0])
    slope, intercept = _real(header, "RescaleSlope", 1.0), _real(header, "RescaleIntercept", 0.0)
    if slope == 0:
        raise InvalidStudy("inconsistent", "rescale slope is zero")
    if slope == 1 and intercept == 0:
        return stored
    return stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)


def _windowed(values: NDArray[Any], header: Dataset) -> NDArray[np.float32]:
    """The VOI LUT, else the first window, else the values as they are."""
    if table := header.get("VOILUTSequence"):
        return _looked_up(values, table[0]).astype(np.float32)
    center, width = _first_real(header, "WindowCenter"), _first_real(header, "WindowWidth")
    pixels = values.astype(np.float32)
    if center is None or width is None:
        return pixels
    function = str(header.get("VOILUTFunction") or "LINEAR").upper()
    top = np.float32((1 << int(header.BitsStored)) - 1)
    if function == "SIGMOID" and width > 0:
        steepness = np.clip(-4 * (pixels - np.float32(center)) / np.float32(width), -80, 80)
        return np.asarray(top / (1 + np.exp(steepness)), dtype=np.float32)
    if function == "LINEAR" and width >= 1:
        # PS3.3 C.11.2.1.2.1: a width of 1 is a threshold
        center, width = center - 0.5, max(width - 1, 1e-3)
    elif function != "LINEAR_EXACT" or width <= 0:
        raise InvalidStudy("inconsistent", f"window function {function[:16]} of width {width:g}")
    return np.clip((pixels - np.float32(center)) / np.float32(width) + np.float32(0.5), 0, 1) * top


def _looked_up(values: NDArray[Any], item: Dataset) -> NDArray[Any]:
    """Values through one LUT item; below and above the table its first and last entry hold (PS3.3 C.11.1.1)."""
    descriptor = [int(number) for number in item.LUTDescriptor]
    entries, first, bits = descriptor[0] or 1 << 16, descriptor[1], descriptor[2]
    data = item.LUTData
    if isinstance(data, bytes):
        width = 2 if len(data) >= 2 * entries else 1
        table = np.frombuffer(data, dtype=f"<u{width}")
    else:
        table = np.atleast_1d(np.asarray(data, dtype=np.int64))
    if len(table) < entries or not 1 <= bits <= 16:
        raise InvalidStudy("inconsistent", f"a look-up table of {len(table)} entries, {entries} declared")
    if first >= 1 << 15 and np.asarray(values).min() < 0:
        first -= 1 << 16  # a signed first value read as unsigned
    whole = np.rint(values) if np.asarray(values).dtype.kind == "f" else values
    index = np.clip(whole.astype(np.int64) - first, 0, entries - 1)
    return table[index].astype(np.int64)


def _whole(header: Dataset, keyword: str) -> int | None:
    try:
        value: Any = header.get(keyword)
        return None if value is None or value == "" else int(value)
    except MALFORMED:
        raise InvalidStudy("inconsistent", f"{keyword} is no whole number") from None


def _real(header: Dataset, keyword: str, default: float) -> float:
    value = _first_real(header, keyword)
    return default if value is None else value


def _first_real(header: Dataset, keyword: str) -> float | None:
    value: Any = header.get(keyword)
    if value is None or value == "":
        return None
    number = float(value if isinstance(value, int | float | str) else value[0])
    if not math.isfinite(number):
        raise InvalidStudy("inconsistent", f"{keyword} is no number")
    return number
