"""What is written down of each study that was read, so that one can see later whether the studies have changed.

How the picture was made, what its pixels are like and who the patients are: words and numbers of the header, a few
figures of the grey levels, and a coarse description of what is where in the picture. None of it can be turned back into
an image, and none of it leaves the hospital. Pure.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from models import novelty

TECHNIQUE: Final = "technique"
SOFTWARE: Final = "software"
DOSE: Final = "dose"
POPULATION: Final = "population"
PIXELS: Final = "pixels"
LOOK: Final = "look"
SCORE: Final = "score"

WORDS: Final = {
    "maker": ("Manufacturer", TECHNIQUE),
    "model": ("ManufacturerModelName", TECHNIQUE),
    "device": ("DeviceSerialNumber", TECHNIQUE),
    "view": ("ViewPosition", TECHNIQUE),
    "kernel": ("ConvolutionKernel", TECHNIQUE),
    "photometric": ("PhotometricInterpretation", TECHNIQUE),
    "software": ("SoftwareVersions", SOFTWARE),
    "processing": ("AcquisitionDeviceProcessingDescription", SOFTWARE),
    "contrast": ("ContrastBolusAgent", DOSE),
    "sex": ("PatientSex", POPULATION),
}
NUMBERS: Final = {
    "rows": ("Rows", TECHNIQUE),
    "columns": ("Columns", TECHNIQUE),
    "spacing": ("ImagerPixelSpacing", TECHNIQUE),
    "slice": ("SliceThickness", TECHNIQUE),
    "kvp": ("KVP", DOSE),
    "exposure": ("Exposure", DOSE),
    "exposure_index": ("ExposureIndex", DOSE),
    "ctdi": ("CTDIvol", DOSE),
    "age": ("PatientAge", POPULATION),
}
GREYS: Final = ("dark", "low", "middle", "high", "spread", "black", "white", "sharp", "noise", "edges")
MEANINGS: Final = {
    "maker": "manufacturer",
    "model": "model",
    "device": "device",
    "view": "view",
    "kernel": "reconstruction kernel",
    "photometric": "photometric interpretation",
    "software": "software version",
    "processing": "processing",
    "contrast": "contrast agent",
    "sex": "sex",
    "rows": "rows",
    "columns": "columns",
    "spacing": "pixel spacing",
    "slice": "slice thickness",
    "kvp": "tube voltage",
    "exposure": "exposure",
    "exposure_index": "exposure index",
    "ctdi": "CTDIvol",
    "age": "age",
    "dark": "grey curve, shadows",
    "low": "grey curve, lower quarter",
    "middle": "grey curve, mid-tones",
    "high": "grey curve, upper quarter",
    "spread": "grey curve, contrast",
    "black": "grey curve, share of black",
    "white": "grey curve, share of white",
    "sharp": "sharpness",
    "noise": "noise",
    "edges": "edges over noise",
    "score": "score",
}
SIZE: Final = 136  # of a look
_LONGEST: Final = 64
_SIDE: Final = 256  # the grey curve does not need more
_CROP: Final = 384  # nor noise and sharpness more than this of the middle
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e\u00a0-\uffff]")

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Traits:
    """Of one study that was read.

    Attributes:
        words: by the names of `WORDS`; what the header does not say is left out.
        numbers: by the names of `NUMBERS` and `GREYS`, and `score`.
        look: (SIZE,) where the picture is bright and where its edges are, whatever its grey curve; None: no pixels.
    """

    words: dict[str, str]
    numbers: dict[str, float]
    look: Floats | None


def traits_of(header: Dataset, pixels: Floats | None, score: float | None) -> Traits:
    """What is written down of an image.

    Args:
        header: of the image the result rests on.
        pixels: (H, W) larger is whiter; of a volume the plane that is looked at first.
        score: 0..1; None: it was not scored.
    """
    words = {name: text for name, (keyword, _) in WORDS.items() if (text := _text(header.get(keyword)))}
    numbers = {
        name: value for name, (keyword, _) in NUMBERS.items() if (value := _number(_found(header, keyword))) is not None
    }
    if score is not None:
        numbers["score"] = float(score)
    if pixels is None or min(pixels.shape) < 8:
        return Traits(words, numbers, None)
    numbers |= _greys(pixels)
    return Traits(words, numbers, _look(pixels))


def _found(header: Dataset, keyword: str) -> Any:
    if keyword == "ImagerPixelSpacing":
        return header.get(keyword) or header.get("PixelSpacing")
    if keyword == "Exposure" and (fine := _number(header.get("ExposureInuAs"))) is not None:
        return fine / 1000  # whole mAs are too coarse for a chest
    return header.get(keyword)


def _text(value: Any) -> str:
    if isinstance(value, MultiValue | list):
        value = "/".join(str(one) for one in value)
    return _UNPRINTABLE.sub("", str(value if value is not None else "")).strip()[:_LONGEST]


def _number(value: Any) -> float | None:
    if isinstance(value, MultiValue | list):
        value = value[0] if len(value) else None
    text = str(value if value is not None else "").strip()
    unit = 1.0
    if match := re.fullmatch(r"(\d{3})([DWMY])", text):
        text, unit = match[1], {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}[match[2]]
    try:
        found = float(text) * unit
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _greys(pixels: Floats) -> dict[str, float]:
    """The grey curve, between the darkest and the brightest half per cent; and how grainy and how sharp it is."""
    small = _sampled(pixels)
    low, high = (float(value) for value in np.percentile(small, (0.5, 99.5)))
    span = max(high - low, 1e-6)
    levels = np.clip((small - low) / span, 0, 1)
    dark, lower, middle, upper = (float(value) for value in np.percentile(levels, (5, 25, 50, 75)))
    top, left = (max(0, (side - _CROP) // 2) for side in pixels.shape)
    crop = pixels[top : top + _CROP, left : left + _CROP] / span
    first, second = np.diff(crop, axis=1), np.abs(np.diff(crop, n=2, axis=1))
    grain, edge = (float(value) for value in np.percentile(second, (50, 99)))
    return {
        "dark": dark,
        "low": lower,
        "middle": middle,
        "high": upper,
        "spread": float(levels.std()),
        "black": float((levels <= 0.02).mean()),
        "white": float((levels >= 0.98).mean()),
        "sharp": float(np.sqrt(np.square(second).mean()) / max(float(first.std()), 1e-9)),
        "noise": float(np.log10(grain + 1e-5)),
        "edges": float(np.log10((edge + 1e-4) / (grain + 1e-4))),
    }


def _look(pixels: Floats) -> Floats:
    """Ranks of grey by cell, edges by cell, edges by direction."""
    found = novelty.features(novelty.thumbnails(_sampled(pixels)[None]))[0]
    edges = found[: novelty.FEATURES - 64].reshape(-1, 64)
    return np.concatenate((found[novelty.FEATURES - 64 :], edges.sum(0), edges.sum(1) / 8)).astype(np.float32)


def _sampled(pixels: Floats) -> Floats:
    step = max(1, min(pixels.shape) // _SIDE)
    return np.asarray(pixels[::step, ::step], np.float32)
