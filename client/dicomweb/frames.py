"""Frames as they are stored, or decompressed to Explicit VR Little Endian, read from the disk one at a time.

Source: PS3.18 10.4.1.1.5, tables 8.7.3-2 to 8.7.3-5 (media types), PS3.5 8.1.1 (single bit) and A.4 (encapsulation).
"""

import struct
from typing import Any, Final, cast

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import get_frame
from pydicom.pixels import convert_color_space, get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, RLELossless

from client.dicom import rle
from client.dicom.decode import check_codestream
from client.dicom.malformed import MALFORMED
from client.dicomweb.part10 import Part10, Pixels, find_pixels, quiet, read_header
from models.errors import InvalidStudy, NotFound

OCTETS: Final = "application/octet-stream"
_MEDIA: Final = {
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.53": "image/jpeg",
    "1.2.840.10008.1.2.4.55": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx",
    "1.2.840.10008.1.2.4.110": "image/jxl",
    "1.2.840.10008.1.2.4.111": "image/jxl",
    "1.2.840.10008.1.2.4.112": "image/jxl",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.4.100": "video/mpeg",
    "1.2.840.10008.1.2.4.101": "video/mpeg",
    "1.2.840.10008.1.2.4.102": "video/mp4",
    "1.2.840.10008.1.2.4.103": "video/mp4",
    "1.2.840.10008.1.2.4.104": "video/mp4",
    "1.2.840.10008.1.2.4.105": "video/mp4",
    "1.2.840.10008.1.2.4.106": "video/mp4",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}
MAX_FRAME: Final = 1 << 30


class Undecodable(Exception):
    """The frames cannot be decompressed here."""


def media_type(syntax: str) -> str:
    """Of frames as they are stored in a transfer syntax."""
    return _MEDIA.get(syntax, OCTETS)


def native(syntax: str) -> bool:
    """Whether frames in it are stored uncompressed."""
    return not UID(syntax).is_encapsulated


class Image:
    """The frames of one open file.

    Raises:
        NotFound: it has no pixels.
        InvalidStudy: its header cannot be read, or contradicts itself.
    """

    def __init__(self, part10: Part10) -> None:
        self._part10 = part10
        with quiet():
            self.header: Dataset = read_header(part10)
            pixels = find_pixels(part10)
            if pixels is None:
                raise NotFound("this instance has no frames")
            self._pixels: Pixels = pixels
            try:
                self.frames = int(self.header.get("NumberOfFrames") or 1)
                self._bits = int(self.header.BitsAllocated)
                self._samples = int(self.header.get("SamplesPerPixel") or 1)
                self._shape = int(self.header.Rows), int(self.header.Columns)
                self._photometric = str(self.header.get("PhotometricInterpretation", ""))
                self._offsets = bytes(self.header.get("ExtendedOffsetTable") or b"")
                self._lengths = bytes(self.header.get("ExtendedOffsetTableLengths") or b"")
            except MALFORMED as error:
                raise InvalidStudy("inconsistent", f"no image ({type(error).__name__})") from error
        if self.frames < 1 or self._bits not in (1, 8, 16, 32, 64):
            raise InvalidStudy("inconsistent", "no frames, or bits that no image has")
        if part10.syntax.is_encapsulated != (pixels.length is None):
            raise InvalidStudy(
                "inconsistent", "compressed by its transfer syntax, but not encapsulated, or the reverse"
            )

    def stored(self, number: int) -> bytes:
        """Frame `number`, from 1, as it is stored; uncompressed ones in little endian.

        Raises:
            NotFound: there is no such frame.
            InvalidStudy: it is not there although it should be.
        """
        if not 1 <= number <= self.frames:
            raise NotFound(f"frame {number}: the instance has {self.frames}")
        return self._encapsulated(number) if self._pixels.length is None else self._plain(number)

    def decompressed(self, number: int) -> bytes:
        """Frame `number`, from 1, uncompressed, in little endian, colour by pixel.

        Raises:
            NotFound: there is no such frame.
            Undecodable: nothing here can decompress it.
        """
        if self._pixels.length is not None:
            return self.stored(number)
        if not 1 <= number <= self.frames:
            raise NotFound(f"frame {number}: the instance has {self.frames}")
        array = np.ascontiguousarray(self.array(number))
        return array.astype(array.dtype.newbyteorder("<")).tobytes()

    def array(self, number: int) -> np.ndarray[Any, Any]:
        """Frame `number`, from 1, as (rows, columns) or (rows, columns, samples) stored values.

        Raises:
            Undecodable: nothing here can decompress it.
        """
        if self._shape[0] * self._shape[1] * self._samples * max(self._bits // 8, 1) > MAX_FRAME:
            raise Undecodable("too large")
        try:
            with quiet():
                frame = self.stored(number)
                if self._part10.syntax == RLELossless:
                    return self._run_lengths(frame)
                if self._pixels.length is None:
                    check_codestream(frame, self._shape)
                whole = self._single(frame)
                decoder = cast(Any, get_decoder(whole.file_meta.TransferSyntaxUID))
                # colours as the viewer needs them: JPEG's own colour space is undone with the compression
                array, _ = decoder.as_array(whole, index=0, as_rgb=True)
        except InvalidStudy as error:
            raise Undecodable(str(error)) from error
        except MALFORMED as error:
            raise Undecodable(type(error).__name__) from error
        if array.shape[:2] != self._shape:
            raise Undecodable("the codestream is of another size than the header says")
        return array

    def _run_lengths(self, frame: bytes) -> np.ndarray[Any, Any]:
        """A frame of RLE Lossless, as the models see it: one with too much is no picture (`client.dicom.rle`)."""
        width = self._bits // 8
        if not width or self._samples not in (1, 3):
            raise InvalidStudy("unsupported-pixels", f"{self._samples} samples of {self._bits} bits")
        signed = self.header.get("PixelRepresentation") == 1
        array = rle.decoded(frame, self._shape, width, self._samples).view(f"{'i' if signed else 'u'}{width}")
        if self._photometric == "YBR_FULL" and self._samples == 3:
            return convert_color_space(array, "YBR_FULL", "RGB")
        return array

    def _single(self, frame: bytes) -> Dataset:
        """The image as if it had this frame alone."""
        single = Dataset()
        for keyword in (
            "SamplesPerPixel",
            "PhotometricInterpretation",
            "PlanarConfiguration",
            "Rows",
            "Columns",
            "BitsAllocated",
            "BitsStored",
            "HighBit",
            "PixelRepresentation",
        ):
            if keyword in self.header:
                single[keyword] = self.header[keyword]
        single.file_meta = FileMetaDataset()
        if self._pixels.length is None:
            single.file_meta.TransferSyntaxUID = self._part10.syntax
            content = struct.pack("<HHIHHI", 0xFFFE, 0xE000, 0, 0xFFFE, 0xE000, len(frame) + len(frame) % 2)
            content += frame + b"\0" * (len(frame) % 2) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
            single.add_new(0x7FE00010, "OB", content)
            single["PixelData"].is_undefined_length = True
        else:
            single.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            single.add_new(self._pixels.tag, self._pixels.vr, frame)
        return single

    def _plain(self, number: int) -> bytes:
        # YBR_FULL_422 halves the colours of two neighbours (PS3.3 C.7.6.3.1.2)
        samples = 2 if self._photometric == "YBR_FULL_422" else self._samples
        bits = self._shape[0] * self._shape[1] * samples * self._bits
        first, last = bits * (number - 1), bits * number
        length = self._pixels.length or 0
        if bits == 0 or bits // 8 > MAX_FRAME or (last + 7) // 8 > length:
            raise InvalidStudy("truncated", "there are fewer pixels than the header says")
        self._part10.file.seek(self._pixels.offset + first // 8)
        content = self._part10.file.read((last + 7) // 8 - first // 8)
        if len(content) < (last + 7) // 8 - first // 8:
            raise InvalidStudy("truncated", "ends within the pixels")
        if self._bits == 1 and (first % 8 or last % 8):
            # frames of single bits follow one another without padding: each gets its own bytes here
            unpacked = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
            content = np.packbits(unpacked[first % 8 : first % 8 + bits], bitorder="little").tobytes()
        if self._part10.syntax == ExplicitVRBigEndian and self._bits > 8:
            content = np.frombuffer(content, f">u{self._bits // 8}").byteswap().tobytes()
        elif self._part10.syntax == ExplicitVRBigEndian and self._pixels.vr == "OW" and self._bits == 8:
            content = np.frombuffer(content[: len(content) // 2 * 2], ">u2").byteswap().tobytes()
        return content

    def _encapsulated(self, number: int) -> bytes:
        self._part10.file.seek(self._pixels.offset)
        extended = (self._offsets, self._lengths) if self._offsets and self._lengths else None
        try:
            return get_frame(self._part10.file, number - 1, number_of_frames=self.frames, extended_offsets=extended)
        except MALFORMED as error:
            raise InvalidStudy("truncated", f"frame {number} cannot be found") from error


def numbers(text: str) -> list[int]:
    """A list of frames, from a URL: `1,3,4`.

    Raises:
        ValueError: it is none.
    """
    found = [int(item) if item.isascii() and item.isdigit() else 0 for item in text.split(",")]
    if not all(0 < number < 1 << 31 for number in found):
        raise ValueError("frames are numbers from 1, with commas between them")
    return found
