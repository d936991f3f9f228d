"""Makes the objects that a scored radiograph leaves in the PACS: a structured report and a picture of the map.

Both are born UNVERIFIED and say so (DESIGN invariant 3). UIDs and bytes follow from image, version and revision, so
that a repeat after a crash is the same object, which a PACS stores once.

The report's content tree is highdicom's, made once per version and call, and kept as bytes; for each study the few
places that differ are filled in. That is some ten times faster than building the tree each time.

Source: DICOM PS3.16 TID 1500, 1501, 4019 and CID 6047; PS3.3 A.35.13 (Comprehensive 3D SR), A.8.1 (Secondary Capture).
"""

import hashlib
import io
import struct
import time
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, Literal, Protocol, cast

import numpy as np
import pydicom
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    ImageContentItem,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from numpy.typing import NDArray
from pydicom import config as pydicom_config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import BytesLengthException
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from client.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, MANUFACTURER
from client.results import heatmap
from client.results.confidence import Confidence
from models.bundle import Bundle
from models.coding import Coding

Kind = Literal["sr", "sc", "seg", "gsps", "verified", "kos"]
COMPUTED: Final[tuple[Kind, ...]] = ("sr", "sc", "seg", "gsps")  # what a version made, as against a person
SCHEME: Final = "99VIGIE"


@dataclass(frozen=True, slots=True)
class Predecessor:
    """A document of the same study that a later one takes the place of (PS3.3 C.17.2)."""

    sop_class: str
    sop_uid: str
    series_uid: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One scored radiograph, with all that its result objects say.

    Attributes:
        source: the scored image's dataset; pixel data may be left out.
        input_digest: SHA-256 of the image's file, hex.
        revision: of the study.
        pixels: (H, W) float32 presentation values, larger is whiter.
        score: 0..1.
        threshold: that was applied, 0..1.
        positive: score reached the threshold.
        cam: (h, w) float32 class activation map over the whole image.
        bundle: the version that computed it.
        institution: the hospital, as the site's configuration names it.
        created_at: seconds since the epoch; the only clock that reaches the objects.
        predecessor: the report of an earlier revision of the study, which this one's takes the place of.
        confidence: what the score means; None where nobody asked.
    """

    source: Dataset
    input_digest: str
    revision: int
    pixels: NDArray[np.float32]
    score: float
    threshold: float
    positive: bool
    cam: NDArray[np.float32]
    bundle: Bundle
    institution: str
    created_at: float
    predecessor: Predecessor | None = None
    confidence: Confidence | None = None


class Computed(Protocol):
    """What every result says of where it comes from; `Finding` of a radiograph is one."""

    @property
    def source(self) -> Dataset: ...
    @property
    def input_digest(self) -> str: ...
    @property
    def revision(self) -> int: ...
    @property
    def bundle(self) -> Bundle: ...
    @property
    def institution(self) -> str: ...
    @property
    def created_at(self) -> float: ...
    @property
    def predecessor(self) -> "Predecessor | None": ...


@dataclass(frozen=True, slots=True)
class ResultObject:
    """A DICOM object ready to be kept and sent; `content` is a Part 10 file."""

    kind: Kind
    sop_uid: str
    content: bytes

    @property
    def dataset(self) -> Dataset:
        return pydicom.dcmread(io.BytesIO(self.content))


def make(finding: Finding) -> list[ResultObject]:
    """The structured report and the picture of the map, in the order in which to send them: the picture first, so
    that the report's reference is never to an object that the PACS does not have yet.
    """
    with warnings.catch_warnings():
        # what a modality wrote into the tags that we copy is not ours to refuse
        warnings.simplefilter("ignore")
        return [_capture(finding), _report(finding)]


def derive_uid(kind: str, *parts: object) -> str:
    """A UID that the same facts always give (PS3.5 B.2)."""
    digest = hashlib.sha256("|".join((kind, *map(str, parts))).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16])}"


def dicom_time(at: float) -> tuple[str, str]:
    """DA and TM of a moment, in the hospital's local time as its other objects have it."""
    moment = time.localtime(at)
    return time.strftime("%Y%m%d", moment), f"{time.strftime('%H%M%S', moment)}.{int(at % 1 * 1e6):06d}"


def put(dataset: Dataset, keyword: str, value: Any) -> None:
    """Set an attribute as it is: what was copied from a modality is not checked again."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    vr = dictionary_VR(tag)
    dataset[tag] = DataElement(tag, vr, value, validation_mode=pydicom_config.IGNORE)


def to_part10(dataset: Dataset) -> bytes:
    """A Part 10 file in Explicit VR Little Endian, written under our own implementation's name."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    dataset.file_meta = meta
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def concept(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 table 8.8-1)."""
    item = Dataset()
    put(item, "CodeValue", value)
    put(item, "CodingSchemeDesignator", scheme)
    put(item, "CodeMeaning", meaning[:64])
    return item


def reference(sop_class: str, sop_uid: str) -> Dataset:
    """An item that names one instance (PS3.3 table 10-11)."""
    item = Dataset()
    put(item, "ReferencedSOPClassUID", sop_class)
    put(item, "ReferencedSOPInstanceUID", sop_uid)
    return item


def encode(dataset: Dataset) -> bytes:
    """A part of a content tree in Explicit VR Little Endian, UTF-8, all sequences of undefined length: parts can be
    exchanged and added without touching the lengths around them.
    """
    _unbound(dataset)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset, parent_encoding="utf-8")
    return buffer.getvalue()


def _unbound(dataset: Dataset) -> None:
    for element in dataset:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                _unbound(item)


# ---------------------------------------------------------------- what is copied

_PATIENT: Final = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY: Final = ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID")
_OPTIONAL: Final = (
    "IssuerOfPatientID",
    "PatientAge",
    "StudyDescription",
    "TimezoneOffsetFromUTC",
    "FrameOfReferenceUID",
    "PositionReferenceIndicator",
)
_SHAPED: Final = {"DA": (8,), "TM": (2, 4, 6, 8, 9, 10, 11, 12, 13)}
_CLOSED: Final = {"PatientSex": ("M", "F", "O")}


def copy_identity(source: Dataset, target: Dataset) -> None:
    """Copy whose image it is, so that the PACS files the result beside it.

    Type 2 attributes that are missing or cannot be read stand empty, text is brought into UTF-8; a date, time or sex
    that the standard has no room for is left empty rather than handed on.
    """
    put(target, "SpecificCharacterSet", "ISO_IR 192")
    put(target, "StudyInstanceUID", text_of(source, "StudyInstanceUID"))
    for keyword in (*_PATIENT, *_STUDY):
        put(target, keyword, text_of(source, keyword))
    for keyword in _OPTIONAL:
        if value := text_of(source, keyword):
            put(target, keyword, value)
    if "FrameOfReferenceUID" in target and "PositionReferenceIndicator" not in target:
        put(target, "PositionReferenceIndicator", "")
    issuers = source.get("IssuerOfAccessionNumberSequence")
    if issuers:
        item = Dataset()
        for keyword in ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType"):
            if value := text_of(issuers[0], keyword):
                put(item, keyword, value)
        if len(item):
            put(target, "IssuerOfAccessionNumberSequence", Sequence([item]))


def text_of(source: Dataset, keyword: str) -> str:
    """An attribute's first value as it may be handed on; empty where it cannot."""
    try:
        value = source.get(keyword)
    except (BytesLengthException, ValueError, TypeError, LookupError, OverflowError, NotImplementedError):
        return ""  # an attribute that pydicom cannot decode; the rest of the header stands
    if value is None:
        return ""
    if isinstance(value, MultiValue):
        value = value[0] if len(value) else ""
    text = str(value).strip().strip("\0")
    if keyword in _CLOSED:
        return text if text in _CLOSED[keyword] else ""
    vr = dictionary_VR(keyword)
    if vr in _SHAPED:
        fits = len(text) in _SHAPED[vr] and text.replace(".", "", 1).isdigit()
        return text if fits and (vr == "TM" or "." not in text) else ""
    return text


# ---------------------------------------------------------------- the picture


def _capture(finding: Finding) -> ResultObject:
    facts = finding.bundle.facts
    text = (
        f"AI · {facts.title} v{facts.number} · {finding.score:.3f} / {finding.threshold:.3f} · "
        "UNVERIFIED - not for diagnosis without a reader"
    )
    image = heatmap.draw(finding.pixels, finding.cam, text)
    said = f"Class activation map of {facts.title} v{facts.number} over the image"
    return secondary_capture(finding, image, "Map", said, text)


def secondary_capture(
    result: Computed, image: NDArray[np.uint8], what: str, derivation: str, comments: str
) -> ResultObject:
    """A picture that says which image it was made of.

    Args:
        image: (rows, columns, 3) red, green, blue.
        what: of the series' description, e.g. "Map".
        derivation: how it was made, in a sentence.
        comments: what stands below it, as text.
    """
    dataset = shell(result, SecondaryCaptureImageStorage, "sc", what)
    put(dataset, "Modality", "OT")
    put(dataset, "ConversionType", "SYN")
    put(dataset, "SeriesNumber", "9902")
    put(dataset, "ImageType", ["DERIVED", "SECONDARY"])
    put(dataset, "DerivationDescription", derivation[:1024])
    put(dataset, "ImageComments", comments[:10240])
    put(dataset, "PatientOrientation", "")
    put(dataset, "Laterality", text_of(result.source, "Laterality"))
    if burned_in := text_of(result.source, "BurnedInAnnotation"):
        put(dataset, "BurnedInAnnotation", burned_in)
    for keyword in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
        if value := text_of(result.source, keyword):
            put(dataset, keyword, value)
    origin = reference(text_of(result.source, "SOPClassUID"), text_of(result.source, "SOPInstanceUID"))
    purpose = concept("121322", "DCM", "Source image for image processing operation")
    put(origin, "PurposeOfReferenceCodeSequence", Sequence([purpose]))
    put(dataset, "SourceImageSequence", Sequence([origin]))
    put(dataset, "SamplesPerPixel", 3)
    put(dataset, "PhotometricInterpretation", "RGB")
    put(dataset, "PlanarConfiguration", 0)
    put(dataset, "Rows", image.shape[0])
    put(dataset, "Columns", image.shape[1])
    for keyword, bits in (("BitsAllocated", 8), ("BitsStored", 8), ("HighBit", 7), ("PixelRepresentation", 0)):
        put(dataset, keyword, bits)
    raw = image.tobytes()
    dataset[0x7FE00010] = DataElement(
        0x7FE00010, "OB", raw + b"\0" * (len(raw) % 2), validation_mode=pydicom_config.IGNORE
    )
    return ResultObject("sc", str(dataset.SOPInstanceUID), to_part10(dataset))


def shell(finding: Computed, sop_class: UID, kind: Kind, what: str) -> Dataset:
    """The header that every result of one input shares."""
    facts = finding.bundle.facts
    dataset = Dataset()
    copy_identity(finding.source, dataset)
    date, moment = dicom_time(finding.created_at)
    put(dataset, "SOPClassUID", sop_class)
    put(dataset, "SOPInstanceUID", uid_of(finding, kind))
    put(dataset, "SeriesInstanceUID", uid_of(finding, f"{kind}-series"))
    for keyword in ("InstanceCreationDate", "ContentDate", "SeriesDate"):
        put(dataset, keyword, date)
    for keyword in ("InstanceCreationTime", "ContentTime", "SeriesTime"):
        put(dataset, keyword, moment)
    end = f" v{facts.number} UNVERIFIED"
    put(dataset, "SeriesDescription", f"AI {what}: {facts.title}"[: 64 - len(end)] + end)
    put(dataset, "InstanceNumber", "1")
    put(dataset, "InstitutionName", finding.institution[:64])
    put(dataset, "Manufacturer", MANUFACTURER)
    put(dataset, "ManufacturerModelName", f"{facts.title}"[:64])
    put(dataset, "SoftwareVersions", str(facts.number))
    put(dataset, "DeviceSerialNumber", finding.bundle.digest)
    put(dataset, "ContributingEquipmentSequence", Sequence([_equipment(finding, date + moment)]))
    return dataset


def _equipment(finding: Computed, at: str) -> Dataset:
    facts = finding.bundle.facts
    item = Dataset()
    put(item, "PurposeOfReferenceCodeSequence", Sequence([concept("109102", "DCM", "Processing Equipment")]))
    put(item, "Manufacturer", facts.vendor[:64])
    put(item, "InstitutionName", finding.institution[:64])
    put(item, "ManufacturerModelName", facts.title[:64])
    put(item, "DeviceUID", finding.bundle.device_uid)
    put(item, "SoftwareVersions", str(facts.number))
    put(item, "ContributionDateTime", at)
    put(item, "ContributionDescription", "Computed the AI result")
    return item


def uid_of(finding: Computed, kind: str) -> str:
    """The UID of a result's object or series, the same each time it is made."""
    return derive_uid(kind, finding.bundle.digest, finding.input_digest, finding.revision)


# ---------------------------------------------------------------- the report

PRESENT: Final = Coding(value="52101004", scheme="SCT", meaning="Present")
ABSENT: Final = Coding(value="2667000", scheme="SCT", meaning="Absent")


def report_header(result: Computed) -> Dataset:
    """Everything of an unverified report but its evidence and its content."""
    dataset = shell(result, Comprehensive3DSRStorage, "sr", "Report")
    put(dataset, "Modality", "SR")
    put(dataset, "SeriesNumber", "9901")
    put(dataset, "ReferencedPerformedProcedureStepSequence", Sequence([]))
    put(dataset, "PerformedProcedureCodeSequence", Sequence([]))
    put(dataset, "CompletionFlag", "COMPLETE")
    put(dataset, "VerificationFlag", "UNVERIFIED")
    put(dataset, "PreliminaryFlag", "PRELIMINARY")
    put(dataset, "ValueType", "CONTAINER")
    put(dataset, "ConceptNameCodeSequence", Sequence([concept("126000", "DCM", "Imaging Measurement Report")]))
    put(dataset, "ContinuityOfContent", "CONTINUOUS")
    template = Dataset()
    put(template, "MappingResource", "DCMR")
    put(template, "TemplateIdentifier", "1500")
    put(dataset, "ContentTemplateSequence", Sequence([template]))
    if before := result.predecessor:
        named = {before.series_uid: [(before.sop_class, before.sop_uid)]}
        put(dataset, "PredecessorDocumentsSequence", evidence(str(dataset.StudyInstanceUID), named))
    return dataset


def _report(finding: Finding) -> ResultObject:
    facts, source = finding.bundle.facts, finding.source
    dataset = report_header(finding)
    image = (text_of(source, "SOPClassUID"), text_of(source, "SOPInstanceUID"))
    picture = (str(SecondaryCaptureImageStorage), uid_of(finding, "sc"))
    put(
        dataset,
        "CurrentRequestedProcedureEvidenceSequence",
        evidence(
            str(dataset.StudyInstanceUID),
            {text_of(source, "SeriesInstanceUID"): [image], uid_of(finding, "sc-series"): [picture]},
        ),
    )

    content = _content(
        _Constant(
            finding.bundle.device_uid,
            finding.bundle.digest,
            facts.title,
            facts.number,
            facts.vendor,
            facts.certified,
            facts.finding,
            finding.threshold,
            finding.positive,
            finding.confidence.model_copy(update={"probability": _LIKELY}) if finding.confidence else None,
        )
    )
    likely = finding.confidence.probability if finding.confidence else None
    for placeholder, element in (
        (_TRACKING, _short(0x0040A124, "UI", uid_of(finding, "tracking"))),
        (_IMAGE, _short(0x00081155, "UI", image[1])),
        (_IMAGE_CLASS, _short(0x00081150, "UI", image[0])),
        (_PICTURE, _short(0x00081155, "UI", picture[1])),
        (_SCORE, _short(0x0040A30A, "DS", f"{finding.score:.6f}")),
        (_SCORE_FLOAT, _short(0x0040A161, "FD", struct.pack("<d", finding.score))),
        *(
            (
                (_PROBABILITY, _short(0x0040A30A, "DS", f"{likely:.6f}")),
                (_PROBABILITY_FLOAT, _short(0x0040A161, "FD", struct.pack("<d", likely))),
            )
            if likely is not None
            else ()
        ),
    ):
        content = content.replace(placeholder, element)
    # the content tree has the highest tag of the document, so it may simply follow the header
    return ResultObject("sr", str(dataset.SOPInstanceUID), to_part10(dataset) + content)


def evidence(study_uid: str, series: dict[str, list[tuple[str, str]]]) -> Sequence:
    """What a document rests on, hierarchically: series UID → (SOP class, SOP instance) (PS3.3 C.17.2.1)."""
    listed: list[Dataset] = []
    for uid, instances in series.items():
        item = Dataset()
        put(item, "SeriesInstanceUID", uid)
        put(item, "ReferencedSOPSequence", Sequence([reference(*instance) for instance in instances]))
        listed.append(item)
    study = Dataset()
    put(study, "StudyInstanceUID", study_uid)
    put(study, "ReferencedSeriesSequence", Sequence(listed))
    return Sequence([study])


@dataclass(frozen=True, slots=True)
class _Constant:
    """What the content trees of many studies have in common."""

    device_uid: str
    digest: str
    title: str
    number: int
    vendor: str
    certified: bool
    finding: Coding
    threshold: float
    positive: bool
    confidence: Confidence | None


def _short(tag: int, vr: str, value: str | bytes) -> bytes:
    """An element with a length of two bytes, Explicit VR Little Endian (PS3.5 table 7.1-2)."""
    raw = value if isinstance(value, bytes) else value.encode()
    raw += (b"\0" if vr == "UI" else b" ") * (len(raw) % 2)
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr.encode(), len(raw)) + raw


# what stands in the template where studies differ, as it is encoded there; each occurs once
_TRACKING: Final = _short(0x0040A124, "UI", "2.25.30003")
_IMAGE: Final = _short(0x00081155, "UI", "2.25.10001")
_IMAGE_CLASS: Final = _short(0x00081150, "UI", DigitalXRayImageStorageForPresentation)
_PICTURE: Final = _short(0x00081155, "UI", "2.25.20002")
_SCORE: Final = _short(0x0040A30A, "DS", "0.123456789")
_SCORE_FLOAT: Final = _short(0x0040A161, "FD", struct.pack("<d", 0.123456789))
_LIKELY: Final = 0.987654321
_PROBABILITY: Final = _short(0x0040A30A, "DS", f"{_LIKELY}")
_PROBABILITY_FLOAT: Final = _short(0x0040A161, "FD", struct.pack("<d", _LIKELY))


@lru_cache(maxsize=16)
def _content(constant: _Constant) -> bytes:
    """The content tree of the version's reports, encoded, with placeholders where studies differ.

    Sequences are of undefined length, so that a value may be exchanged for a longer one.
    """
    image = _placeholder(DigitalXRayImageStorageForPresentation, "2.25.10001")
    number = CodedConcept("{0:1}", "UCUM", "0 to 1")
    call = PRESENT if constant.positive else ABSENT
    summary = (
        codes.DCM.AllAlgorithmsSucceededWithFindings
        if constant.positive
        else codes.DCM.AllAlgorithmsSucceededWithoutFindings
    )
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid="2.25.30003", identifier=f"AI: {constant.finding.meaning}"),
        source_images=[SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)],
        algorithm_id=algorithm(
            constant.title,
            constant.number,
            constant.threshold,
            constant.digest,
            certified=constant.certified,
            confidence=constant.confidence,
        ),
        measurements=[
            Measurement(name=CodedConcept("SCORE", SCHEME, "AI score"), value=0.123456789, unit=number),
            Measurement(
                name=CodedConcept("THRESHOLD", SCHEME, "Operating threshold of the AI score"),
                value=round(constant.threshold, 6),
                unit=number,
            ),
            *probability(constant.confidence),
        ],
        qualitative_evaluations=[
            QualitativeEvaluation(name=codes.DCM.CADProcessingAndFindingsSummary, value=summary),
            QualitativeEvaluation(name=coded(constant.finding), value=coded(call)),
            *prediction_set(constant.confidence),
        ],
    )
    cast(Any, group)[0].ContentSequence.append(
        ImageContentItem(
            name=CodedConcept("130401", "DCM", "Visual explanation"),
            referenced_sop_class_uid=SecondaryCaptureImageStorage,
            referenced_sop_instance_uid="2.25.20002",
            relationship_type="CONTAINS",
        )
    )
    report = MeasurementReport(
        observation_context=observed_by(constant.device_uid, constant.title, constant.number, constant.vendor),
        procedure_reported=CodedConcept("363680008", "SCT", "Radiographic imaging procedure"),
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    document = Comprehensive3DSR(
        evidence=[image, _placeholder(SecondaryCaptureImageStorage, "2.25.20002")],
        content=report,
        series_instance_uid="2.25.4",
        series_number=1,
        sop_instance_uid="2.25.5",
        instance_number=1,
        manufacturer=MANUFACTURER,
        is_complete=True,
    )
    tree = Dataset()
    tree["ContentSequence"] = document["ContentSequence"]
    encoded = encode(tree)
    said = bool(probability(constant.confidence))
    variable = (_TRACKING, _IMAGE, _IMAGE_CLASS, _PICTURE, _SCORE, _SCORE_FLOAT)
    for placeholder in (*variable, *((_PROBABILITY, _PROBABILITY_FLOAT) if said else ())):
        if encoded.count(placeholder) != 1:
            raise RuntimeError("this release of highdicom encodes the report's content in another way")
    return encoded


def observed_by(device_uid: str, title: str, number: int, vendor: str) -> ObservationContext:
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
    name = CodedConcept("PREDICTION_SET", SCHEME, f"Prediction set at {100 * confidence.level:g} %")
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
    title: str, number: int, threshold: float, digest: str, *, certified: bool, confidence: Confidence | None = None
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


def coded(coding: Coding) -> CodedConcept:
    """A coding as highdicom takes it."""
    return CodedConcept(coding.value, coding.scheme, coding.meaning)


def _placeholder(sop_class: UID, uid: str) -> Dataset:
    image = Dataset()
    for keyword in (*_PATIENT, *_STUDY):
        put(image, keyword, "")
    put(image, "StudyInstanceUID", "2.25.6")
    put(image, "SeriesInstanceUID", f"{uid}1")
    put(image, "SOPClassUID", sop_class)
    put(image, "SOPInstanceUID", uid)
    for keyword in ("Rows", "Columns"):
        put(image, keyword, 1)
    return image
