"""A study of nobody that a version's intended use admits: how a node is tried without a patient."""

from __future__ import annotations

import os
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from client.inference.example import headers
from client.inference.serving import Outlining, Serving
from client.results.attributes import put
from client.results.result import derive_uid
from models.intended_use import IntendedUse
from models.novelty import Novelty
from models.segmentation import Segmentation

_SLICES: Final = 12
_LINES: Final = ("LR", "PA", "SI")
_DIRECTIONS: Final = ["1", "0", "0", "0", "1", "0"]  # axial, head first, supine


def study(version: Serving) -> list[Dataset]:
    """The images of one study; none where the version reads multi-frame volumes only, which are not drawn.

    A radiograph is the mean of the training cohort where the version knows it, else noise. A volume is drawn on the
    version's own grid as far as its intended use lets it: a ball in a box, twelve slices of it.
    """
    use = version.bundle.facts.intended_use
    study_uid = derive_uid("doctor", os.urandom(16).hex())
    if not isinstance(version, Outlining):
        return [_radiograph(version.novelty, study_uid, attributes) for attributes in headers(use)]
    sop_class = next((uid for uid in use.sop_classes if not _multi_frame(uid)), None)
    if sop_class is None:
        return []
    own, *required = headers(use)
    own = own | {"SOPClassUID": sop_class}
    spacing = _spacing(use, version.declared)
    made = [_slice(own, study_uid, number, spacing) for number in range(_SLICES)]
    beside = [_slice(attributes, study_uid, number, spacing) for number, attributes in enumerate(required)]
    return made + beside


def _multi_frame(sop_class: str) -> bool:
    name = UID(sop_class).name
    return "Enhanced" in name or "Multi-frame" in name


def _spacing(use: IntendedUse, declared: Segmentation) -> tuple[float, float, float]:
    """Mm between slices, rows and columns: what the network takes, unless a clause wants others."""
    wanted: dict[str, float] = dict.fromkeys(_LINES, 1.0)
    for letter, side in zip(declared.axes, declared.spacing_mm or (), strict=False):
        wanted[next(line for line in _LINES if letter in line)] = side
    limits = {limit.quantity: limit for limit in use.ranges}

    def within(value: float, *quantities: str) -> float:
        for limit in (limits[quantity] for quantity in quantities if quantity in limits):
            value = min(max(value, limit.low or value), value if limit.high is None else limit.high)
        return value

    columns, rows, slices = (wanted[line] for line in _LINES)
    return (
        within(slices, "SliceThickness", "SpacingBetweenSlices"),
        within(rows, "PixelSpacing"),
        within(columns, "PixelSpacing"),
    )


def _slice(attributes: dict[str, Any], study_uid: str, number: int, spacing: tuple[float, float, float]) -> Dataset:
    rows, columns = attributes["Rows"], attributes["Columns"]
    step, down, right = spacing
    z, y, x = (number / (_SLICES - 1) - 0.5, *(np.linspace(-0.5, 0.5, side) for side in (rows, columns)))
    ball = z**2 + y[:, None] ** 2 + x[None, :] ** 2 < 0.1
    return _image(
        study_uid,
        {
            "SliceThickness": step,
            **attributes,
            "SpacingBetweenSlices": step,
            "InstanceNumber": number + 1,
            "FrameOfReferenceUID": derive_uid("doctor", study_uid, "frame"),
            "ImagePositionPatient": ["0", "0", f"{number * step:.6f}"],
            "ImageOrientationPatient": _DIRECTIONS,
            "PixelSpacing": [down, right],
            "RescaleIntercept": -1024,
            "RescaleSlope": 1,
            "RescaleType": "HU",
        },
        np.where(ball, 1064, 124).astype(np.uint16),
    )


def _radiograph(novelty: Novelty | None, study_uid: str, attributes: dict[str, Any]) -> Dataset:
    return _image(study_uid, attributes, _pixels(novelty, (attributes["Rows"], attributes["Columns"])))


def _image(study_uid: str, attributes: dict[str, Any], pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> Dataset:
    bits = pixels.dtype.itemsize * 8
    image = Dataset()
    for keyword, value in {
        **attributes,
        "SOPInstanceUID": derive_uid("doctor", os.urandom(16).hex()),
        "StudyInstanceUID": study_uid,
        "SeriesInstanceUID": derive_uid("doctor", study_uid, attributes.get("SeriesNumber", 0)),
        "PatientID": "VIGIE-DOCTOR",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
        "PixelData": pixels.tobytes(),
    }.items():
        put(image, keyword, value)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return image


def _pixels(novelty: Novelty | None, shape: tuple[int, int]) -> NDArray[np.uint8]:
    if novelty is None:
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    mean = novelty.typical
    rows, columns = (np.arange(side) * len(mean) // side for side in shape)
    grey = (mean - mean.min()) / max(float(np.ptp(mean)), 1e-6) * 255
    return grey.astype(np.uint8)[np.ix_(rows, columns)]
