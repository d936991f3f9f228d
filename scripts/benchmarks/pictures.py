"""What a bench sends: chest radiographs, ultrasounds, CT and MR series, of the size that hospitals send them in.

The contents are phantoms; a CT or MR has an ellipsoid of 60 in air of -900, so that a threshold outlines it. Pixels
are drawn once and shared by all studies, headers are made for each image.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

DX = "1.2.840.10008.5.1.4.1.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
US = "1.2.840.10008.5.1.4.1.1.6.1"
INSIDE, OUTSIDE = 60, -900  # HU


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of study; `side` in pixels, of square images."""

    modality: str
    sop_class: str
    images: int
    side: int


def study(kind: Kind, number: int) -> Iterator[Dataset]:
    """A study's images, in the order in which a modality sends them; each time another one."""
    uid, series, frame = (str(generate_uid(prefix=None)) for _ in range(3))
    for plane in range(kind.images):
        image = _header(kind, number, plane)
        image.StudyInstanceUID, image.SeriesInstanceUID = uid, series
        image.SOPInstanceUID = generate_uid(prefix=None)
        if kind.modality in ("CT", "MR"):
            image.FrameOfReferenceUID = frame
        yield image


def content(image: Dataset) -> bytes:
    """The image as a Part 10 file, explicit little endian."""
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def write(images: Iterator[Dataset], folder: Path) -> list[Path]:
    """Put a study's images into files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for image in images:
        paths.append(folder / f"{image.SOPInstanceUID}.dcm")
        paths[-1].write_bytes(content(image))
    return paths


def _header(kind: Kind, number: int, plane: int) -> Dataset:
    image = Dataset()
    values: dict[str, Any] = {
        "SOPClassUID": kind.sop_class,
        "Modality": kind.modality,
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "PatientID": f"BENCH{number}",
        "PatientName": "Bench^Mark",
        "PatientBirthDate": "19600101",
        "PatientSex": "O",
        "PatientAge": "064Y",
        "StudyDate": "20240101",
        "StudyTime": "120000",
        "AccessionNumber": f"B{number}",
        "StudyID": "1",
        "SeriesNumber": 1,
        "InstanceNumber": plane + 1,
        "Rows": kind.side,
        "Columns": kind.side,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
    }
    if kind.modality == "DX":
        values |= {"BitsStored": 12, "HighBit": 11, "BodyPartExamined": "CHEST", "ViewPosition": "PA"}
        values |= {"WindowCenter": 2048, "WindowWidth": 4096, "PresentationIntentType": "FOR PRESENTATION"}
        pixels = _radiograph(kind.side)
    elif kind.modality == "US":
        values |= {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
        pixels = _radiograph(kind.side)[1::2]
    else:
        width = 512 * 0.7 / kind.side
        values |= {"RescaleIntercept": -1024, "RescaleSlope": 1, "WindowCenter": 40, "WindowWidth": 1500}
        values |= {"PixelSpacing": [width, width], "SliceThickness": 1, "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        values |= {"ImagePositionPatient": [-179, -179, plane], "KVP": 120}
        pixels = _slice(kind.side, plane, kind.images)
    for keyword, value in values.items():
        setattr(image, keyword, value)
    image.PixelData = pixels
    return image


@lru_cache(maxsize=4)
def _radiograph(side: int) -> bytes:
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    lungs = sum(np.exp(-(((x - at) / 0.3) ** 4) - ((y / 0.62) ** 4)) for at in (-0.42, 0.42))
    noise = np.random.default_rng(0).normal(0, 30, (side, side))
    return np.clip(3000 * (0.8 - 0.5 * lungs) + noise, 0, 4095).astype(np.uint16).tobytes()


@lru_cache(maxsize=1024)
def _slice(side: int, plane: int, planes: int) -> bytes:
    # an ellipsoid a tenth of the volume's sides wide, in noise as a detector has it
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    z = 2 * (plane + 0.5) / planes - 1
    inside = (x**2 + y**2 + z**2) <= 0.1**2 if planes > 20 else (x**2 + y**2) <= 0.1**2
    noise = np.random.default_rng(plane).integers(-12, 13, (side, side))
    return (np.where(inside, INSIDE, OUTSIDE) + 1024 + noise).astype(np.uint16).tobytes()
