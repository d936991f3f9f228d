"""Makes the objects that an outlined volume leaves in the PACS: segmentation, picture, presentation state, report.

The segmentation's frames lie on the planes that were read, with their own positions: a viewer lays each over its image
and computes nothing. All are born UNVERIFIED and say so; UIDs follow from version, input and revision.

Source: DICOM PS3.3 A.51 (Segmentation), A.33.1 (Grayscale Softcopy Presentation State), PS3.16 TID 1500, 1411, 1501.
"""

import warnings
from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, cast

import numpy as np
from highdicom import AlgorithmIdentificationSequence, PlanePositionSequence
from highdicom.color import CIELabColor
from highdicom.enum import CoordinateSystemNames
from highdicom.pr import (
    AnnotationUnitsValues,
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GraphicTypeValues,
    GrayscaleSoftcopyPresentationState,
    TextObject,
)
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from highdicom.sr import (
    CodedConcept,
    ImageContentItem,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegment,
    SourceImageForMeasurementGroup,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from client.dicom.identity import MANUFACTURER
from client.dicom.series import Stack
from client.inference.measure import Growth, Measured
from client.results import heatmap
from client.results.confidence import Confidence
from client.results.results import (
    ABSENT,
    PRESENT,
    SCHEME,
    Kind,
    Predecessor,
    ResultObject,
    algorithm,
    coded,
    copy_identity,
    encode,
    evidence,
    observed_by,
    prediction_set,
    probability,
    put,
    report_header,
    secondary_capture,
    shell,
    text_of,
    to_part10,
    uid_of,
)
from models.bundle import Bundle
from models.segmentation import Label

_ML: Final = CodedConcept("mL", "UCUM", "milliliter")
_FAMILY: Final = codes.DCM.ArtificialIntelligence
_UNVERIFIED: Final = "UNVERIFIED - not for diagnosis without a reader"


@dataclass(frozen=True)
class Outlined:
    """One series that a version outlined, with all that its result objects say.

    Attributes:
        stack: the planes that were read.
        labels: (n, rows, columns) uint8 on them: 0, or the value of a label.
        key_pixels: (rows, columns) float32 of the plane that is drawn, larger is whiter.
        measured: the labels that count as found.
        growth: by value of the label, where a prior was measured.
        score: 0..1, highest probability of any label.
        threshold: of a voxel's probability.
        revision: of the study.
        bundle: the version that computed it.
        institution: the hospital, as the site's configuration names it.
        created_at: seconds since the epoch; the only clock that reaches the objects.
        partial: another series of the study fits and could not be read.
        predecessor: the report of an earlier revision of the study, which this one's takes the place of.
        confidence: what the study's score means; on its best series alone.
    """

    stack: Stack
    labels: NDArray[np.uint8]
    key_pixels: NDArray[np.float32]
    measured: tuple[Measured, ...]
    growth: dict[int, Growth]
    score: float
    threshold: float
    revision: int
    bundle: Bundle
    institution: str
    created_at: float
    partial: bool = False
    predecessor: Predecessor | None = None
    confidence: Confidence | None = None

    @property
    def positive(self) -> bool:
        return bool(self.measured)

    @property
    def source(self) -> Dataset:
        return self.stack.planes[self.key_plane].header

    @property
    def input_digest(self) -> str:
        return self.stack.digest

    @property
    def key_plane(self) -> int:
        """The plane to look at first: of the largest found label, else the middle one."""
        if not self.measured:
            return len(self.stack.planes) // 2
        return max(self.measured, key=lambda one: one.volume_ml).plane

    @cached_property
    def found(self) -> tuple[tuple[Label, Measured], ...]:
        """The labels that count as found, as declared and as measured, in the order of the segments."""
        declared = self.bundle.facts.segmentation
        assert declared is not None  # no other version outlines
        by_value = {label.value: label for label in declared.labels}
        return tuple((by_value[one.value], one) for one in self.measured)


def make(outlined: Outlined) -> list[ResultObject]:
    """The objects in the order in which to send them: what the report refers to comes first.

    Where nothing was found there is no segmentation and no presentation state, and the report says that there is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a modality wrote into the tags that we copy is not ours to refuse
        drawn = [_segmentation(outlined), _presentation(outlined)] if outlined.positive else []
        return [*drawn, _capture(outlined), _report(outlined)]


# ---------------------------------------------------------------- the segmentation


def _segmentation(outlined: Outlined) -> ResultObject:
    facts = outlined.bundle.facts
    who = AlgorithmIdentificationSequence(
        name=facts.title, family=_FAMILY, version=str(facts.number), source=facts.vendor[:64]
    )
    described = [
        SegmentDescription(
            segment_number=number,
            segment_label=label.name,
            segmented_property_category=coded(label.category),
            segmented_property_type=coded(label.finding),
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=who,
            tracking_uid=uid_of(outlined, f"tracking-{label.value}"),
            tracking_id=f"AI: {label.name}",
            display_color=CIELabColor.from_rgb(*label.colour),
        )
        for number, (label, _) in enumerate(outlined.found, start=1)
    ]
    # only planes with something on them: the others would be made, to be left out again
    values = [label.value for label, _ in outlined.found]
    planes = np.flatnonzero(np.isin(outlined.labels, values).any(axis=(1, 2)))
    masks = np.stack([outlined.labels[planes] == value for value in values], axis=-1)
    made = Segmentation(
        source_images=_sources(outlined, planes),
        pixel_array=masks,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        plane_positions=_positions(outlined.stack, planes),
        series_instance_uid=uid_of(outlined, "seg-series"),
        series_number=9904,
        sop_instance_uid=uid_of(outlined, "seg"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=facts.title[:64],
        software_versions=str(facts.number),
        device_serial_number=outlined.bundle.digest,
        content_label="AI_UNVERIFIED",
        content_description=f"{facts.title} v{facts.number}, {_UNVERIFIED}"[:64],
    )
    return _finished(outlined, made, "seg", "Outlines")


def _sources(outlined: Outlined, planes: NDArray[np.int64]) -> list[Dataset]:
    """What the segmentation takes over from its images, fit to be handed on."""
    found = outlined.stack
    first = found.planes[0].header
    if _frames(first) > 1:
        return [_cleaned(first, multi_frame=True)]
    return [_cleaned(found.planes[index].header, multi_frame=False) for index in planes]


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


def _cleaned(header: Dataset, *, multi_frame: bool) -> Dataset:
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


def _positions(found: Stack, planes: NDArray[np.int64]) -> Any:
    return [
        PlanePositionSequence(CoordinateSystemNames.PATIENT, [float(x) for x in found.planes[index].position])
        for index in planes
    ]


def _finished(outlined: Outlined, made: Dataset, kind: Kind, what: str) -> ResultObject:
    """Give an object of highdicom's the header that all our results have."""
    ours = shell(outlined, made.SOPClassUID, kind, what)
    for element in ours:
        made[element.tag] = element
    return ResultObject(kind, str(made.SOPInstanceUID), to_part10(made))


# ---------------------------------------------------------------- the presentation state


def _presentation(outlined: Outlined) -> ResultObject:
    """Contours and measures on the planes to look at, for viewers that show no segmentation."""
    facts = outlined.bundle.facts
    layer = GraphicLayer("AI", order=1, description=_UNVERIFIED)
    annotations = [_annotation(outlined, label, one, layer) for label, one in outlined.found]
    shown = sorted({one.plane for _, one in outlined.found})
    headers: dict[str, Dataset] = {}
    for index in shown:
        plane = outlined.stack.planes[index]
        headers.setdefault(plane.digest, _cleaned(plane.header, multi_frame=_frames(plane.header) > 1))
    made = GrayscaleSoftcopyPresentationState(
        referenced_images=list(headers.values()),
        series_instance_uid=uid_of(outlined, "gsps-series"),
        series_number=9905,
        sop_instance_uid=uid_of(outlined, "gsps"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=facts.title[:64],
        software_versions=str(facts.number),
        device_serial_number=outlined.bundle.digest,
        content_label="AI_UNVERIFIED",
        content_description=f"{facts.title} v{facts.number}"[:64],
        graphic_annotations=annotations,
        graphic_layers=[layer],
        institution_name=outlined.institution[:64],
    )
    put(made, "Laterality", text_of(outlined.source, "Laterality"))
    return _finished(outlined, made, "gsps", "Contours")


def _frames(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _annotation(outlined: Outlined, label: Label, one: Measured, layer: GraphicLayer) -> GraphicAnnotation:
    plane = outlined.stack.planes[one.plane]
    lines = contours(outlined.labels[one.plane] == label.value)
    drawn = [GraphicObject(GraphicTypeValues.POLYLINE, line, AnnotationUnitsValues.PIXEL) for line in lines]
    if one.ends is not None:
        # half a pixel: pixel centres here, corners in the standard's coordinates
        ends = np.array([(column + 0.5, row + 0.5) for row, column in one.ends])
        drawn.append(GraphicObject(GraphicTypeValues.POLYLINE, ends, AnnotationUnitsValues.PIXEL))
    height, width = outlined.labels.shape[1:]
    corner = lines[0].max(axis=0)
    # the anchor stays inside the image, also for a structure at its edge
    anchor = (float(min(corner[0], width)), float(min(corner[1], height)))
    text = TextObject(f"AI: {described(label, one)} - UNVERIFIED", AnnotationUnitsValues.PIXEL, anchor_point=anchor)
    header = _cleaned(plane.header, multi_frame=_frames(plane.header) > 1)
    return GraphicAnnotation(
        referenced_images=[header],
        referenced_frame_number=plane.frame + 1 if _frames(plane.header) > 1 else None,
        graphic_layer=layer,
        graphic_objects=drawn,
        text_objects=[text],
    )


def contours(mask: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """Closed lines along the pixel edges of a mask, the longest first.

    Args:
        mask: (rows, columns), not empty.

    Returns:
        Each (k, 2), (column, row), first point repeated at the end; the upper left corner of the image is (0, 0).
    """
    framed = np.pad(mask, 1)
    following: dict[tuple[int, int], list[tuple[int, int]]] = {}
    # each edge between inside and outside once, walked with the inside at its right hand
    for row, column in np.argwhere(framed):
        r, c = int(row) - 1, int(column) - 1
        for outside, start, end in (
            (not framed[row - 1, column], (c, r), (c + 1, r)),
            (not framed[row, column + 1], (c + 1, r), (c + 1, r + 1)),
            (not framed[row + 1, column], (c + 1, r + 1), (c, r + 1)),
            (not framed[row, column - 1], (c, r + 1), (c, r)),
        ):
            if outside:
                following.setdefault(start, []).append(end)
    lines: list[NDArray[np.float64]] = []
    while following:
        begin = next(iter(following))
        line, at = [begin], begin
        while True:
            nexts = following[at]
            to = nexts.pop()
            if not nexts:
                del following[at]
            straight = len(line) > 1 and (line[-1][0] - line[-2][0], line[-1][1] - line[-2][1]) == (
                to[0] - at[0],
                to[1] - at[1],
            )
            if straight:
                line[-1] = to
            else:
                line.append(to)
            at = to
            if at == begin:
                break
        lines.append(np.array(line, dtype=np.float64))
    return sorted(lines, key=len, reverse=True)


def described(label: Label, one: Measured) -> str:
    """A found label in a line: name, volume, diameters."""
    sizes = f", {one.long_mm:.1f} x {one.short_mm:.1f} mm" if one.long_mm is not None else ""
    return f"{label.name} {one.volume_ml:.2f} mL{sizes}"


# ---------------------------------------------------------------- the picture


def _capture(outlined: Outlined) -> ResultObject:
    facts = outlined.bundle.facts
    said = "; ".join(described(label, one) for label, one in outlined.found) or "nothing outlined"
    text = f"AI · {facts.title} v{facts.number} · {said} · {_UNVERIFIED}"
    colours = {label.value: label.colour for label, _ in outlined.found}
    image = heatmap.paint(outlined.key_pixels, outlined.labels[outlined.key_plane], colours, text)
    made = f"Outlines of {facts.title} v{facts.number} over one plane"
    return secondary_capture(outlined, image, "Outlines", made, text)


# ---------------------------------------------------------------- the report


def _report(outlined: Outlined) -> ResultObject:
    facts = outlined.bundle.facts
    dataset = report_header(outlined)
    read: dict[str, list[tuple[str, str]]] = {}
    for plane in outlined.stack.planes:
        one = text_of(plane.header, "SOPClassUID"), text_of(plane.header, "SOPInstanceUID")
        listed = read.setdefault(outlined.stack.series_uid, [])
        if one not in listed[-1:]:  # the frames of one instance
            listed.append(one)
    read[uid_of(outlined, "sc-series")] = [(str(SecondaryCaptureImageStorage), uid_of(outlined, "sc"))]
    if outlined.positive:
        read[uid_of(outlined, "seg-series")] = [(str(SegmentationStorage), uid_of(outlined, "seg"))]
        state = str(GrayscaleSoftcopyPresentationStateStorage)
        read[uid_of(outlined, "gsps-series")] = [(state, uid_of(outlined, "gsps"))]
    put(dataset, "CurrentRequestedProcedureEvidenceSequence", evidence(str(dataset.StudyInstanceUID), read))
    groups = [_summary(outlined), *(_group(outlined, number, one) for number, one in enumerate(outlined.found, 1))]
    report = MeasurementReport(
        observation_context=observed_by(outlined.bundle.device_uid, facts.title, facts.number, facts.vendor),
        procedure_reported=_procedure(text_of(outlined.source, "Modality")),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    tree = Dataset()
    tree["ContentSequence"] = cast(Any, report)[0]["ContentSequence"]
    # the content tree has the highest tag of the document, so it may simply follow the header
    return ResultObject("sr", str(dataset.SOPInstanceUID), to_part10(dataset) + encode(tree))


_PROCEDURES: Final = {
    "CT": CodedConcept("77477000", "SCT", "Computed tomography"),
    "MR": CodedConcept("113091000", "SCT", "Magnetic resonance imaging"),
    "PT": CodedConcept("82918005", "SCT", "Positron emission tomography"),
}


def _procedure(modality: str) -> CodedConcept:
    return _PROCEDURES.get(modality, CodedConcept("363679005", "SCT", "Imaging procedure"))


def _by(outlined: Outlined) -> Any:
    facts = outlined.bundle.facts
    return algorithm(
        facts.title,
        facts.number,
        outlined.threshold,
        outlined.bundle.digest,
        certified=facts.certified,
        confidence=outlined.confidence,
    )


_SUMMARIES: Final = {
    (False, True): codes.DCM.AllAlgorithmsSucceededWithFindings,
    (False, False): codes.DCM.AllAlgorithmsSucceededWithoutFindings,
    (True, True): codes.DCM.NotAllAlgorithmsSucceededWithFindings,
    (True, False): codes.DCM.NotAllAlgorithmsSucceededWithoutFindings,
}


def _summary(outlined: Outlined) -> MeasurementsAndQualitativeEvaluations:
    facts = outlined.bundle.facts
    image = outlined.source
    summary = _SUMMARIES[outlined.partial, outlined.positive]
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=uid_of(outlined, "tracking"), identifier=f"AI: {facts.finding.meaning}"
        ),
        source_images=[SourceImageForMeasurementGroup(text_of(image, "SOPClassUID"), text_of(image, "SOPInstanceUID"))],
        algorithm_id=_by(outlined),
        measurements=[
            Measurement(
                name=CodedConcept("SCORE", SCHEME, "AI score"),
                value=round(outlined.score, 6),
                unit=CodedConcept("{0:1}", "UCUM", "0 to 1"),
            ),
            *probability(outlined.confidence),
        ],
        qualitative_evaluations=[
            QualitativeEvaluation(name=codes.DCM.CADProcessingAndFindingsSummary, value=summary),
            QualitativeEvaluation(name=coded(facts.finding), value=coded(PRESENT if outlined.positive else ABSENT)),
            *prediction_set(outlined.confidence),
        ],
    )
    cast(Any, group)[0].ContentSequence.append(
        ImageContentItem(
            name=CodedConcept("130401", "DCM", "Visual explanation"),
            referenced_sop_class_uid=SecondaryCaptureImageStorage,
            referenced_sop_instance_uid=uid_of(outlined, "sc"),
            relationship_type="CONTAINS",
        )
    )
    return group


def _group(
    outlined: Outlined, number: int, found: tuple[Label, Measured]
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    label, one = found
    measurements = [Measurement(codes.SCT.Volume, round(one.volume_ml, 4), _ML)]
    if one.long_mm is not None and one.short_mm is not None:
        measurements += [
            Measurement(codes.SCT.LongAxis, round(one.long_mm, 3), codes.UCUM.Millimeter),
            Measurement(codes.SCT.ShortAxis, round(one.short_mm, 3), codes.UCUM.Millimeter),
        ]
    if (growth := outlined.growth.get(one.value)) is not None:
        measurements += _since(growth)
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=uid_of(outlined, f"tracking-{label.value}"), identifier=f"AI: {label.name}"
        ),
        referenced_segment=ReferencedSegment(
            sop_class_uid=SegmentationStorage,
            sop_instance_uid=uid_of(outlined, "seg"),
            segment_number=number,
            source_series=SourceSeriesForSegmentation(outlined.stack.series_uid),
        ),
        finding_type=coded(label.finding),
        finding_category=coded(label.category),
        algorithm_id=_by(outlined),
        measurements=measurements,
    )


def _since(growth: Growth) -> Many[Measurement]:
    days = CodedConcept("d", "UCUM", "day")
    return [
        Measurement(
            CodedConcept("PRIOR_VOLUME", SCHEME, "Volume in the prior study"),
            round(growth.prior_ml, 4),
            _ML,
        ),
        Measurement(
            CodedConcept("VOLUME_CHANGE", SCHEME, "Change of volume since the prior study"),
            round(growth.percent, 2),
            codes.UCUM.Percent,
        ),
        Measurement(CodedConcept("INTERVAL", SCHEME, "Time since the prior study"), round(growth.days, 2), days),
    ]
