"""Makes the structured report of what was outlined: measurements by TID 1411, the outcome by CID 6047.

Source: DICOM PS3.16 TID 1500, 1411, 1501, 4019.
"""

from collections.abc import Collection
from collections.abc import Sequence as Many
from typing import Any, Final, cast

from highdicom.sr import (
    CodedConcept,
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
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import (
    UID,
    GrayscaleSoftcopyPresentationStateStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from client.inference.measure import Growth, Measured
from client.results.attributes import encode, evidence, put, to_part10
from client.results.outlined import Outlined, OutlinedStudy
from client.results.report import (
    SCHEME,
    STANDS,
    algorithm,
    answer,
    beside,
    coded,
    observed_by,
    prediction_set,
    probability,
    procedure,
    referred,
    report_header,
    summary,
    visual_explanation,
)
from client.results.result import Kind, ResultObject, uid_of
from client.results.source import text_of
from models.segmentation import Label

Evidence = dict[str, list[tuple[str, str]]]
"""By series UID, what of it: (SOP class, SOP instance)."""

_ML: Final = CodedConcept("mL", "UCUM", "milliliter")


def report(study: OutlinedStudy, made: Collection[str]) -> ResultObject:
    """One report of a study: its answer with the first series, then each series with what was found in it.

    Args:
        made: SOP instance UIDs of the study's other objects; it refers to no other.
    """
    facts = study.bundle.facts
    dataset = report_header(study, partial=study.first.partial)
    read: Evidence = {}
    for outlined in study.series:
        read |= _evidence(outlined, made)
    beside(read, study.standing)
    put(dataset, "CurrentRequestedProcedureEvidenceSequence", evidence(str(dataset.StudyInstanceUID), read))
    groups: list[Any] = []
    for outlined in study.series:
        groups.append(_summary(outlined, made, answers=outlined is study.first))
        groups += [_group(outlined, number, one) for number, one in enumerate(outlined.found, 1)]
    report = MeasurementReport(
        observation_context=observed_by(study.bundle.device_uid, facts.title, facts.number, facts.vendor),
        procedure_reported=procedure(text_of(study.source, "Modality")),
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    tree = Dataset()
    tree["ContentSequence"] = cast(Any, report)[0]["ContentSequence"]
    # the content tree has the highest tag of the document, so it may simply follow the header
    return ResultObject("sr", str(dataset.SOPInstanceUID), to_part10(dataset) + encode(tree))


_OBJECTS: Final[dict[Kind, UID]] = {
    "sc": SecondaryCaptureImageStorage,
    "seg": SegmentationStorage,
    "gsps": GrayscaleSoftcopyPresentationStateStorage,
    "pm": ParametricMapStorage,
}
_EXPLAINING: Final[tuple[Kind, ...]] = ("sc", "pm")


def _evidence(outlined: Outlined, made: Collection[str]) -> Evidence:
    """The images of a series that were read, and what was made of them."""
    read: Evidence = {outlined.stack.series_uid: []}
    for plane in outlined.stack.planes:
        one = text_of(plane.header, "SOPClassUID"), text_of(plane.header, "SOPInstanceUID")
        if one not in read[outlined.stack.series_uid][-1:]:  # the frames of one instance
            read[outlined.stack.series_uid].append(one)
    for kind, sop_class in _OBJECTS.items():
        if (uid := uid_of(outlined, kind)) in made:
            read[uid_of(outlined, f"{kind}-series")] = [(str(sop_class), uid)]
    return read


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


def _summary(outlined: Outlined, made: Collection[str], *, answers: bool) -> MeasurementsAndQualitativeEvaluations:
    # the finding stands once in a document, so that a reader's answer to it is one for the study
    said = coded(answer(positive=outlined.positive, partial=outlined.partial))
    facts = outlined.bundle.facts
    image = outlined.source
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
            QualitativeEvaluation(
                name=codes.DCM.CADProcessingAndFindingsSummary,
                value=summary(positive=outlined.positive, partial=outlined.partial),
            ),
            *([QualitativeEvaluation(name=coded(facts.finding), value=said)] if answers else []),
            *prediction_set(outlined.confidence),
        ],
    )
    for kind in _EXPLAINING:
        if (uid := uid_of(outlined, kind)) in made:
            cast(Any, group)[0].ContentSequence.append(visual_explanation(_OBJECTS[kind], uid))
    if answers:
        cast(Any, group)[0].ContentSequence.extend(referred(outlined.standing, STANDS))
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
