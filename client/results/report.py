"""What every structured report of ours says, of whatever kind of result (PS3.16 TID 1500, 1001, 4019)."""

from collections.abc import Collection, Iterable
from typing import Final

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    CompositeContentItem,
    DeviceObserverIdentifyingAttributes,
    ImageContentItem,
    Measurement,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    TextContentItem,
)
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import UID, Comprehensive3DSRStorage

from client.results.attributes import concept, evidence, put
from client.results.confidence import Confidence
from client.results.header import shell
from client.results.result import Predecessor, Stated
from models.coding import Coding

SCHEME: Final = "99VIGIE"
PREDICTION_SET: Final = "PREDICTION_SET"
PRESENT: Final = Coding(value="52101004", scheme="SCT", meaning="Present")
ABSENT: Final = Coding(value="2667000", scheme="SCT", meaning="Absent")
STANDS: Final = "An earlier AI report, of other images or another finding, is not replaced by this one."
# of a study that was read in part: never "absent" of what nobody has looked at
UNSEEN: Final = Coding(value="ABSENT_IN_PART", scheme=SCHEME, meaning="Not found in what was read of the study")


def answer(*, positive: bool, partial: bool) -> Coding:
    """What a version says of its finding."""
    if positive:
        return PRESENT
    return UNSEEN if partial else ABSENT


def summary(*, positive: bool, partial: bool) -> CodedConcept:
    """The outcome by CID 6047."""
    if partial:
        return (
            codes.DCM.NotAllAlgorithmsSucceededWithFindings
            if positive
            else codes.DCM.NotAllAlgorithmsSucceededWithoutFindings
        )
    return codes.DCM.AllAlgorithmsSucceededWithFindings if positive else codes.DCM.AllAlgorithmsSucceededWithoutFindings


def report_header(result: Stated, *, what: str = "Report", partial: bool = False) -> Dataset:
    """Everything of an unverified report but its evidence and its content.

    Args:
        what: its series is called.
        partial: not all of the study was read.
    """
    dataset = shell(result, Comprehensive3DSRStorage, "sr", what)
    put(dataset, "Modality", "SR")
    put(dataset, "SeriesNumber", "9901")
    put(dataset, "ReferencedPerformedProcedureStepSequence", Sequence([]))
    put(dataset, "PerformedProcedureCodeSequence", Sequence([]))
    put(dataset, "CompletionFlag", "PARTIAL" if partial else "COMPLETE")
    if partial:
        put(dataset, "CompletionFlagDescription", "Not all images of the study came or could be read")
    put(dataset, "VerificationFlag", "UNVERIFIED")
    put(dataset, "PreliminaryFlag", "PRELIMINARY")
    put(dataset, "ValueType", "CONTAINER")
    put(dataset, "ConceptNameCodeSequence", Sequence([concept("126000", "DCM", "Imaging Measurement Report")]))
    put(dataset, "ContinuityOfContent", "CONTINUOUS")
    template = Dataset()
    put(template, "MappingResource", "DCMR")
    put(template, "TemplateIdentifier", "1500")
    put(dataset, "ContentTemplateSequence", Sequence([template]))
    if result.predecessors:
        named = {before.series_uid: [(before.sop_class, before.sop_uid)] for before in result.predecessors}
        put(dataset, "PredecessorDocumentsSequence", evidence(str(dataset.StudyInstanceUID), named))
    return dataset


_PROCEDURES: Final = {
    "CR": CodedConcept("363680008", "SCT", "Radiographic imaging procedure"),
    "CT": CodedConcept("77477000", "SCT", "Computed tomography"),
    "DX": CodedConcept("363680008", "SCT", "Radiographic imaging procedure"),
    "MR": CodedConcept("113091000", "SCT", "Magnetic resonance imaging"),
    "PT": CodedConcept("82918005", "SCT", "Positron emission tomography"),
}


def procedure(modality: str) -> CodedConcept:
    """The procedure that is reported on, as far as the modality tells."""
    return _PROCEDURES.get(modality, CodedConcept("363679005", "SCT", "Imaging procedure"))


def observed_by(device_uid: str, title: str, number: int | str, vendor: str) -> ObservationContext:
    """The version as the device that observed (TID 1001 to 1004)."""
    device = DeviceObserverIdentifyingAttributes(
        uid=device_uid, name=f"{title} v{number}", manufacturer_name=vendor, model_name=title
    )
    context = ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    return ObservationContext(observer_device_context=context)


def probability(confidence: Confidence | None) -> list[Measurement]:
    """The calibrated probability of the finding, where there is a calibration."""
    if confidence is None or confidence.source == "none" or confidence.probability is None:
        return []
    unit = CodedConcept("{0:1}", "UCUM", "0 to 1")
    return [Measurement(name=codes.DCM.Probability, value=confidence.probability, unit=unit)]


def prediction_set(confidence: Confidence | None) -> list[QualitativeEvaluation]:
    """The answers that are not ruled out: present, absent, indeterminate where both or none is left."""
    if confidence is None or confidence.level is None:
        return []
    name = CodedConcept(PREDICTION_SET, SCHEME, f"Prediction set at {100 * confidence.level:g} %")
    match confidence.answers:
        case ("positive",):
            value = coded(PRESENT)
        case ("negative",):
            value = coded(ABSENT)
        case ():
            value = CodedConcept("NEITHER", SCHEME, "Indeterminate: unlike cases of either kind")
        case _:
            value = codes.SCT.Indeterminate
    return [QualitativeEvaluation(name=name, value=value)]


def algorithm(
    title: str,
    number: int | str,
    threshold: float,
    digest: str,
    *,
    certified: bool,
    confidence: Confidence | None = None,
) -> AlgorithmIdentification:
    """Who computed it, and with what (TID 4019)."""
    return AlgorithmIdentification(
        name=title,
        version=str(number),
        parameters=[
            f"threshold={threshold:.6f}",
            f"digest={digest}",
            f"certified={'yes' if certified else 'no, for research'}",
            *([f"calibration={confidence.source}: {confidence.basis}"] if confidence else []),
        ],
    )


def beside(named: dict[str, list[tuple[str, str]]], standing: Iterable[Predecessor]) -> None:
    """Add reports that stand to a report's evidence: they are of the same requested procedure, as the images are.

    Args:
        named: by series UID: (SOP class, SOP instance).
    """
    for before in standing:
        named.setdefault(before.series_uid, []).append((before.sop_class, before.sop_uid))


def referred(standing: Collection[Predecessor], said: str) -> list[TextContentItem | CompositeContentItem]:
    """A sentence, and references to the earlier reports that it is about; nothing where there are none."""
    if not standing:
        return []
    sentence = TextContentItem(name=codes.DCM.Comment, value=said, relationship_type="CONTAINS")
    name = codes.DCM.PriorReportForCurrentPatient
    return [
        sentence,
        *(CompositeContentItem(name, one.sop_class, one.sop_uid, relationship_type="CONTAINS") for one in standing),
    ]


def coded(coding: Coding) -> CodedConcept:
    """A coding as highdicom takes it."""
    return CodedConcept(coding.value, coding.scheme, coding.meaning)


def visual_explanation(sop_class: UID, sop_uid: str) -> ImageContentItem:
    """A picture or map that shows what a group's answer rests on (PS3.16 TID 1501, 130401)."""
    return ImageContentItem(
        name=CodedConcept("130401", "DCM", "Visual explanation"),
        referenced_sop_class_uid=sop_class,
        referenced_sop_instance_uid=sop_uid,
        relationship_type="CONTAINS",
    )
