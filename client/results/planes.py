"""The planes of a stack as highdicom takes them: headers that may be handed on, and positions."""

from typing import Final

import numpy as np
from highdicom import PlanePositionSequence
from highdicom.enum import CoordinateSystemNames
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from client.dicom.series import Stack
from client.results.attributes import put
from client.results.source import copy_identity, text_of


def sources(found: Stack, planes: NDArray[np.int64]) -> list[Dataset]:
    """What an object over some planes takes over from their images, fit to be handed on."""
    first = found.planes[0].header
    if frames_of(first) > 1:
        return [cleaned(first, multi_frame=True)]
    return [cleaned(found.planes[index].header, multi_frame=False) for index in planes]


_GEOMETRY: Final = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
_PIXELS: Final = (
    "Rows",
    "Columns",
    "InstanceNumber",
    "NumberOfFrames",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
_GREY: Final = ("RescaleSlope", "RescaleIntercept", "RescaleType", "WindowCenter", "WindowWidth", "VOILUTFunction")
_GROUPS: Final = (
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationSequence",
)


def cleaned(header: Dataset, *, multi_frame: bool) -> Dataset:
    """An image's header with what highdicom reads of it, and nothing that cannot be handed on."""
    made = Dataset()
    copy_identity(header, made)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality"):
        put(made, keyword, text_of(header, keyword))
    for keyword in (*_GEOMETRY, *_PIXELS, *_GREY, *(_GROUPS if multi_frame else ())):
        if keyword in header:
            made[keyword] = header[keyword]
    put(made, "PositionReferenceIndicator", text_of(header, "PositionReferenceIndicator"))
    put(made, "ImageType", list(header.get("ImageType") or ("ORIGINAL", "PRIMARY")))
    return made


def positions(found: Stack, planes: NDArray[np.int64]) -> list[PlanePositionSequence]:
    """Where these planes of a stack lie, as highdicom takes it."""
    return [
        PlanePositionSequence(CoordinateSystemNames.PATIENT, [float(x) for x in found.planes[index].position])
        for index in planes
    ]


def frames_of(header: Dataset) -> int:
    """How many frames the image has."""
    return int(header.get("NumberOfFrames") or 1)
