"""Makes the structured report of what was outlined: measurements by TID 1411, the outcome by CID 6047.

Source: DICOM PS3.16 TID 1500, 1411, 1501, 4019.
"""

from collections.abc import Sequence as Many
from typing import Any, Final, cast

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
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import GrayscaleSoftcopyPresentationStateStorage, SecondaryCaptureImageStorage, SegmentationStorage

from client.inference.measure import Growth, Measured
from client.results.attributes import encode, evidence, put, to_part10
from client.results.outlined import Outlined
from client.results.report import ABSENT, PRESENT, SCHEME, algorithm, coded, observed_by, report_header
from client.results.result import ResultObject, uid_of
from client.results.source import text_of
from models.segmentation import Label

_ML: Final = CodedConcept("mL", "UCUM", "milliliter")


def report(outlined: Outlined) -> ResultObject:
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
    return algorithm(facts.title, facts.number, outlined.threshold, outlined.bundle.digest, certified=facts.certified)


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
            )
        ],
        qualitative_evaluations=[
            QualitativeEvaluation(name=codes.DCM.CADProcessingAndFindingsSummary, value=summary),
            QualitativeEvaluation(name=coded(facts.finding), value=coded(PRESENT if outlined.positive else ABSENT)),
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
