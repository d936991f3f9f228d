"""A frame as a picture that any browser shows: PNG or JPEG, windowed, cut out and scaled as asked.

Grey images go through the presentation that the models see too (`client.dicom.decode.present`), so that what is
looked at and what is scored do not differ.

Source: PS3.18 8.3.5.1 (rendering parameters), 10.4.1.1.3; PS3.3 C.7.6.16.2.9 and .10 (windows per frame).
"""

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from client.dicom import decode
from client.dicom.malformed import MALFORMED
from client.dicomweb.frames import Image, Undecodable
from client.dicomweb.part10 import quiet
from models.errors import InvalidStudy

OFFERED: Final = ("image/jpeg", "image/png")
_FUNCTIONS: Final = {"linear": "LINEAR", "linear-exact": "LINEAR_EXACT", "sigmoid": "SIGMOID"}
_MOST: Final = 16_384
_THUMBNAIL: Final = 256
_PRESENTATION: Final = (
    "RescaleSlope",
    "RescaleIntercept",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "ModalityLUTSequence",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
)


class BadRendering(Exception):
    """A rendering parameter that makes no sense; the message says which."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a picture is wanted.

    Attributes:
        window: (centre, width, function); None for the image's own.
        size: (width, height) to fit into; None for the image's own.
        region: (x, y, width, height) of the image, in its pixels; a negative size flips. None for all of it.
        quality: of a JPEG, 1..100.
    """

    window: tuple[float, float, str] | None = None
    size: tuple[int, int] | None = None
    region: tuple[float, float, float, float] | None = None
    quality: int = 90


THUMBNAIL: Final = Rendering(size=(_THUMBNAIL, _THUMBNAIL), quality=80)


def parse(parameters: Mapping[str, str], default: Rendering) -> Rendering:
    """Read the rendering parameters of a URL.

    Raises:
        BadRendering: one of them is none.
    """
    window, size, region, quality = default.window, default.size, default.region, default.quality
    if text := parameters.get("window"):
        parts = text.split(",")
        if len(parts) not in (2, 3) or (len(parts) == 3 and parts[2].lower() not in _FUNCTIONS):
            raise BadRendering("window is centre,width,function; a function is linear, linear-exact or sigmoid")
        centre, width = (_number("window", part) for part in parts[:2])
        if width < 1:
            raise BadRendering("a window is at least 1 wide")
        window = centre, width, _FUNCTIONS[parts[2].lower()] if len(parts) == 3 else "LINEAR"
    if text := parameters.get("viewport"):
        parts = text.split(",")
        if len(parts) not in (2, 6):
            raise BadRendering("viewport is width,height or width,height,x,y,width,height")
        across, down = (_number("viewport", part) for part in parts[:2])
        if not (1 <= across <= _MOST and 1 <= down <= _MOST):
            raise BadRendering(f"a viewport is 1 to {_MOST} pixels each way")
        size = int(across), int(down)
        if len(parts) == 6:
            x, y = (_number("viewport", part or "0") for part in parts[2:4])
            # nothing is all the rest of the image
            wide, high = (_number("viewport", part) if part else math.nan for part in parts[4:])
            region = x, y, wide, high
    if text := parameters.get("quality"):
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= 100):
            raise BadRendering("quality is 1 to 100")
        quality = int(text)
    return Rendering(window, size, region, quality)


def render(image: Image, number: int, media: str, how: Rendering) -> bytes:
    """Frame `number`, from 1, as a picture of a media type of `OFFERED`.

    Raises:
        NotFound: there is no such frame.
        Undecodable: it cannot be decompressed or shown here.
        BadRendering: the region is not within the image.
    """
    array = image.array(number)
    try:
        with quiet():
            pixels = _eight_bits(array, _presentation(image.header, number, how))
    except (InvalidStudy, *MALFORMED) as error:
        raise Undecodable(type(error).__name__) from error
    picture = Picture.fromarray(pixels)
    picture = _fitted(picture, how)
    buffer = io.BytesIO()
    if media == "image/png":
        picture.save(buffer, "PNG", compress_level=1)
    else:
        picture.save(buffer, "JPEG", quality=how.quality)
    return buffer.getvalue()


def _presentation(header: Dataset, number: int, how: Rendering) -> Dataset:
    """What turns this frame's stored values into grey levels, wherever the header says it."""
    flat = Dataset()
    for keyword in _PRESENTATION:
        if keyword in header:
            flat[keyword] = header[keyword]
    shared = list(header.get("SharedFunctionalGroupsSequence") or [])[:1]
    frames = list(header.get("PerFrameFunctionalGroupsSequence") or [])[number - 1 : number]
    for groups in (*shared, *frames):
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            for item in list(groups.get(name) or [])[:1]:
                for keyword in _PRESENTATION:
                    if keyword in item:
                        flat[keyword] = item[keyword]
    if how.window is not None:
        for keyword in ("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"):
            flat.pop(keyword, None)
        flat.WindowCenter, flat.WindowWidth, flat.VOILUTFunction = how.window
    for name in header.dir("Palette"):
        flat[name] = header[name]
    return flat


def _eight_bits(array: NDArray[Any], header: Dataset) -> NDArray[np.uint8]:
    """(H, W) or (H, W, 3) uint8."""
    photometric = str(header.get("PhotometricInterpretation", ""))
    if photometric == "PALETTE COLOR":
        array = apply_color_lut(array, header)
    if array.ndim == 3:
        if array.dtype == np.uint8:
            return np.ascontiguousarray(array[..., :3])
        return np.ascontiguousarray(array[..., :3] >> max(0, 8 * array.dtype.itemsize - 8)).astype(np.uint8)
    if array.dtype.kind not in "iub":
        raise InvalidStudy("unsupported-pixels", "floating-point pixels")
    if int(header.BitsAllocated) == 1:
        return np.ascontiguousarray(array, dtype=np.uint8) * np.uint8(255)
    pixels = decode.present(array.astype(np.int64), header)
    low, high = float(pixels.min()), float(pixels.max())
    top = decode.window_top(header)
    if top is not None:
        low, high = 0.0, top
    if not math.isfinite(high - low):
        raise InvalidStudy("inconsistent", "values that are no numbers")
    scaled = (pixels - np.float32(low)) * np.float32(255 / (high - low or 1))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _fitted(picture: Picture.Image, how: Rendering) -> Picture.Image:
    if how.region is not None:
        x, y, wide, high = how.region
        wide = picture.width - x if math.isnan(wide) else wide
        high = picture.height - y if math.isnan(high) else high
        left, upper, right, lower = x, y, x + abs(wide), y + abs(high)
        if not (0 <= left < right <= picture.width and 0 <= upper < lower <= picture.height):
            raise BadRendering("the viewport's region is not within the image")
        picture = picture.crop((round(left), round(upper), max(round(right), 1), max(round(lower), 1)))
        if wide < 0:
            picture = picture.transpose(Picture.Transpose.FLIP_LEFT_RIGHT)
        if high < 0:
            picture = picture.transpose(Picture.Transpose.FLIP_TOP_BOTTOM)
    if how.size is not None:
        scale = min(how.size[0] / picture.width, how.size[1] / picture.height)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        picture = picture.resize(size, Picture.Resampling.BILINEAR)
    return picture


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise BadRendering(f"{name} has something that is no number") from None
    if not math.isfinite(number):
        raise BadRendering(f"{name} has something that is no number")
    return number
