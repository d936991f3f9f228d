"""The planes of a stack as highdicom takes them: headers that may be handed on, and positions.

Where they lie is said by the stack and not by the headers. What was read as one stack may say it a little differently
from slice to slice, or leave out what an object over it needs; the object then says what was computed with.
"""

import math
from typing import Final

import numpy as np
from highdicom import PlanePositionSequence
from highdicom.enum import CoordinateSystemNames
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.valuerep import format_number_as_ds

from client.dicom import series
from client.dicom.malformed import MALFORMED
from client.dicom.series import Plane, Stack, group
from client.results.attributes import put
from client.results.source import copy_identity, text_of

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
_DIMENSIONS: Final = ("DimensionIndexSequence", "DimensionOrganizationSequence")


def sources(found: Stack, planes: NDArray[np.int64]) -> list[Dataset]:
    """What an object over some planes takes over from their images, fit to be handed on."""
    first = found.planes[0]
    if frames_of(first.header) > 1:
        return [of_stack(found, first)]
    return [of_stack(found, found.planes[index]) for index in planes]


def of_stack(found: Stack, plane: Plane) -> Dataset:
    """The header of a plane's image with the geometry that all planes of the stack have.

    A slice thickness that is not given is taken to be the distance of the slices.
    """
    like = found.planes[0]
    return cleaned(plane, like, thickness(like) or found.step)


def cleaned(plane: Plane, like: Plane, thick: float) -> Dataset:
    """An image's header with what highdicom reads of it, and nothing that cannot be handed on.

    Args:
        like: the plane whose directions and pixel spacing it is given; `plane` itself, or one beside it.
        thick: mm, slice thickness.
    """
    header = plane.header
    made = Dataset()
    copy_identity(header, made)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality"):
        put(made, keyword, text_of(header, keyword))
    put(made, "ImageType", list(header.get("ImageType") or ("ORIGINAL", "PRIMARY")))
    many = frames_of(header) > 1
    for keyword in (*_PIXELS, *(_DIMENSIONS if many else ())):
        if keyword in header:
            made[keyword] = header[keyword]
    turn, measures = made, made
    if many:
        turn, measures, shared = Dataset(), Dataset(), Dataset()
        put(shared, "PlaneOrientationSequence", Sequence([turn]))
        put(shared, "PixelMeasuresSequence", Sequence([measures]))
        put(made, "SharedFunctionalGroupsSequence", Sequence([shared]))
        frames = [_placed(frame) for frame in series.planes(plane.digest, header)]
        put(made, "PerFrameFunctionalGroupsSequence", Sequence(frames))
    else:
        put(made, "ImagePositionPatient", _decimals(*plane.position))
    put(turn, "ImageOrientationPatient", _decimals(*like.along_row, *like.along_column))
    put(measures, "PixelSpacing", _decimals(*like.spacing))
    put(measures, "SliceThickness", *_decimals(thick))
    return made


def thickness(plane: Plane) -> float:
    """The slice thickness that an image gives, mm; 0 where it gives none that can be."""
    try:
        value = float(group(plane, "PixelMeasuresSequence").get("SliceThickness") or 0)
    except MALFORMED:
        return 0.0
    return value if math.isfinite(value) and value > 0 else 0.0


def positions(found: Stack, planes: NDArray[np.int64]) -> list[PlanePositionSequence]:
    """Where these planes of a stack lie, as highdicom takes it."""
    return [
        PlanePositionSequence(CoordinateSystemNames.PATIENT, [float(x) for x in found.planes[index].position])
        for index in planes
    ]


def frames_of(header: Dataset) -> int:
    """How many frames the image has."""
    return int(header.get("NumberOfFrames") or 1)


def _placed(frame: Plane) -> Dataset:
    place, item = Dataset(), Dataset()
    put(place, "ImagePositionPatient", _decimals(*frame.position))
    put(item, "PlanePositionSequence", Sequence([place]))
    return item


def _decimals(*numbers: float) -> list[str]:
    return [format_number_as_ds(float(number)) for number in numbers]
