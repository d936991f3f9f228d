"""Makes the contours of an outlined series for radiotherapy planning.

They run along the edges of the voxels, in millimetres of the patient, each on the plane that it was made on: whoever
fills them on these planes has the mask again. A hole is cut in from outside (`contours.outlines`), since not every
planning system knows another way. The set is UNAPPROVED: a planner approves it, not we.

Source: DICOM PS3.3 A.19 (RT Structure Set), C.8.8.5, C.8.8.6, C.8.8.8.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import RTStructureSetStorage

from client.dicom.series import Plane
from client.results.attributes import concept, dicom_time, put, reference, to_part10
from client.results.contours import Line, outlines
from client.results.header import UNVERIFIED, shell
from client.results.outlined import Outlined
from client.results.planes import frames_of
from client.results.result import ResultObject
from client.results.source import offset_of, text_of
from models.segmentation import Label

_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
_CONTOUR_DATA = Tag("ContourData")


def structure_set(outlined: Outlined) -> ResultObject:
    """One region of interest for each label that was found, in the order of the segments."""
    dataset = shell(outlined, RTStructureSetStorage, "rtstruct", "Structures")
    facts = outlined.bundle.facts
    date, moment = dicom_time(outlined.created_at, offset_of(outlined.source))
    frame = text_of(outlined.source, "FrameOfReferenceUID")
    put(dataset, "Modality", "RTSTRUCT")
    put(dataset, "SeriesNumber", "9906")
    put(dataset, "OperatorsName", "")
    put(dataset, "StructureSetLabel", "AI UNVERIFIED")
    put(dataset, "StructureSetName", f"{facts.title} v{facts.number}"[:64])
    put(dataset, "StructureSetDescription", UNVERIFIED)
    put(dataset, "StructureSetDate", date)
    put(dataset, "StructureSetTime", moment)
    put(dataset, "ApprovalStatus", "UNAPPROVED")
    put(dataset, "ReferencedFrameOfReferenceSequence", Sequence([_frame_of_reference(outlined, frame)]))
    regions, contours, observations = Sequence([]), Sequence([]), Sequence([])
    for number, (label, _) in enumerate(outlined.found, start=1):
        regions.append(_region(outlined, number, label, frame))
        contours.append(_contours(outlined, number, label))
        observations.append(_observation(number, label))
    put(dataset, "StructureSetROISequence", regions)
    put(dataset, "ROIContourSequence", contours)
    put(dataset, "RTROIObservationsSequence", observations)
    return ResultObject("rtstruct", str(dataset.SOPInstanceUID), to_part10(dataset))


def _frame_of_reference(outlined: Outlined, uid: str) -> Dataset:
    images = {_image(plane).ReferencedSOPInstanceUID: _image(plane, whole=True) for plane in outlined.stack.planes}
    series = Dataset()
    put(series, "SeriesInstanceUID", outlined.stack.series_uid)
    put(series, "ContourImageSequence", Sequence(list(images.values())))
    study = reference(_DETACHED_STUDY, text_of(outlined.source, "StudyInstanceUID"))
    put(study, "RTReferencedSeriesSequence", Sequence([series]))
    item = Dataset()
    put(item, "FrameOfReferenceUID", uid)
    put(item, "RTReferencedStudySequence", Sequence([study]))
    return item


def _image(plane: Plane, *, whole: bool = False) -> Dataset:
    item = reference(text_of(plane.header, "SOPClassUID"), text_of(plane.header, "SOPInstanceUID"))
    if not whole and frames_of(plane.header) > 1:
        put(item, "ReferencedFrameNumber", str(plane.frame + 1))
    return item


def _region(outlined: Outlined, number: int, label: Label, frame: str) -> Dataset:
    facts = outlined.bundle.facts
    item = Dataset()
    put(item, "ROINumber", str(number))
    put(item, "ReferencedFrameOfReferenceUID", frame)
    put(item, "ROIName", label.name)
    put(item, "ROIDescription", f"AI, {facts.title} v{facts.number}, {UNVERIFIED}"[:1024])
    put(item, "ROIGenerationAlgorithm", "AUTOMATIC")
    return item


def _contours(outlined: Outlined, number: int, label: Label) -> Dataset:
    item = Dataset()
    put(item, "ReferencedROINumber", str(number))
    put(item, "ROIDisplayColor", [str(part) for part in label.colour])
    put(item, "ContourSequence", Sequence(list(_each_contour(outlined, label))))
    return item


def _each_contour(outlined: Outlined, label: Label) -> Iterator[Dataset]:
    for plane, values in zip(outlined.stack.planes, outlined.labels, strict=True):
        mask: NDArray[np.bool_] = values == label.value
        if not mask.any():
            continue
        for line in outlines(mask):
            points = _in_patient(line[:-1], plane)  # a closed contour does not repeat its first point
            item = Dataset()
            put(item, "ContourImageSequence", Sequence([_image(plane)]))
            put(item, "ContourGeometricType", "CLOSED_PLANAR")
            put(item, "NumberOfContourPoints", str(len(points)))
            # as bytes: a number of its own type for each coordinate would cost more than all the rest
            text = "\\".join(f"{value:.3f}" for value in points.ravel()).encode()
            text += b" " * (len(text) % 2)
            item[_CONTOUR_DATA] = RawDataElement(_CONTOUR_DATA, "DS", len(text), text, 0, False, True)
            yield item


def _in_patient(line: Line, plane: Plane) -> NDArray[np.float64]:
    """(k, 3) mm of corners (column, row), of which (0, 0) is the upper left corner of the first pixel."""
    down, right = plane.spacing
    columns, rows = line[:, :1] - 0.5, line[:, 1:] - 0.5
    return plane.position + columns * right * plane.along_row + rows * down * plane.along_column


def _observation(number: int, label: Label) -> Dataset:
    item = Dataset()
    put(item, "ObservationNumber", str(number))
    put(item, "ReferencedROINumber", str(number))
    put(item, "ROIObservationLabel", label.name[:16])
    code = concept(label.finding.value, label.finding.scheme, label.finding.meaning)
    put(item, "RTROIIdentificationCodeSequence", Sequence([code]))
    put(item, "RTROIInterpretedType", "")  # organ or target: for the planner to say
    put(item, "ROIInterpreter", "")
    return item
