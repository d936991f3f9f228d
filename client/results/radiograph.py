"""Makes the objects that a scored radiograph leaves in the PACS: a structured report and a picture of the map.

Both are born UNVERIFIED and say so (DESIGN invariant 3).

The report's content tree is highdicom's, made once per version and call, and kept as bytes; for each study the few
places that differ are filled in. That is some ten times faster than building the tree each time.

Source: DICOM PS3.16 TID 1500, 1501, 4019 and CID 6047; PS3.3 A.35.13 (Comprehensive 3D SR), A.8.1 (Secondary Capture).
"""

import struct
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, cast

from highdicom.sr import (
    CodedConcept,
    Comprehensive3DSR,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ParametricMapStorage, SecondaryCaptureImageStorage

from client.dicom.identity import MANUFACTURER
from client.dicom.person import Person
from client.results import heatmap
from client.results.attributes import encode, evidence, put, to_part10
from client.results.capture import secondary_capture
from client.results.confidence import Confidence
from client.results.finding import Finding
from client.results.header import INCOMPLETE, UNVERIFIED
from client.results.parametric_map import activation_map, lies
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
    referred,
    report_header,
    summary,
    visual_explanation,
)
from client.results.result import Predecessor, ResultObject, uid_of
from client.results.source import PATIENT, STUDY, text_of
from models.coding import Coding


def make(finding: Finding, *, heat_map: bool = False) -> list[ResultObject]:
    """The structured report and the picture of the map, in the order in which to send them: the picture first, so
    that the report's reference is never to an object that the PACS does not have yet.

    Args:
        heat_map: the map itself is wanted too, where the image lies somewhere in the patient.
    """
    mapped = heat_map and lies(finding.source)
    with warnings.catch_warnings():
        # what a modality wrote into the tags that we copy is not ours to refuse
        warnings.simplefilter("ignore")
        maps = [activation_map(finding)] if mapped else []
        return [*maps, _capture(finding), _report(finding, mapped)]


# ---------------------------------------------------------------- the picture


def _capture(finding: Finding) -> ResultObject:
    facts = finding.bundle.facts
    text = f"AI · {facts.title} v{facts.edition} · {finding.score:.3f} / {finding.threshold:.3f} · {UNVERIFIED}"
    text += f" · {INCOMPLETE}" if finding.partial else ""
    image = heatmap.draw(finding.pixels, finding.cam, text)
    said = f"Class activation map of {facts.title} v{facts.edition} over the image"
    return secondary_capture(finding, image, "Map", said, text)


# ---------------------------------------------------------------- the report


def _report(finding: Finding, mapped: bool) -> ResultObject:
    facts, source = finding.bundle.facts, finding.source
    dataset = report_header(finding, partial=finding.partial)
    image = (text_of(source, "SOPClassUID"), text_of(source, "SOPInstanceUID"))
    picture = (str(SecondaryCaptureImageStorage), uid_of(finding, "sc"))
    named = {text_of(source, "SeriesInstanceUID"): [image], uid_of(finding, "sc-series"): [picture]}
    if mapped:
        named[uid_of(finding, "pm-series")] = [(str(ParametricMapStorage), uid_of(finding, "pm"))]
    beside(named, finding.standing)
    put(dataset, "CurrentRequestedProcedureEvidenceSequence", evidence(str(dataset.StudyInstanceUID), named))

    content = _content(
        _Constant(
            finding.bundle.device_uid,
            finding.bundle.digest,
            facts.title,
            facts.edition,
            facts.vendor,
            facts.certified,
            facts.finding,
            finding.threshold,
            finding.positive,
            finding.partial,
            mapped,
            finding.confidence.model_copy(update={"probability": _LIKELY}) if finding.confidence else None,
            tuple(replace(one, person=Person()) for one in finding.standing),
        )
    )
    likely = finding.confidence.probability if finding.confidence else None
    for placeholder, element in (
        (_TRACKING, _short(0x0040A124, "UI", uid_of(finding, "tracking"))),
        (_IMAGE, _short(0x00081155, "UI", image[1])),
        (_IMAGE_CLASS, _short(0x00081150, "UI", image[0])),
        (_PICTURE, _short(0x00081155, "UI", picture[1])),
        (_MAP, _short(0x00081155, "UI", uid_of(finding, "pm"))),
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


@dataclass(frozen=True, slots=True)
class _Constant:
    """What the content trees of many studies have in common."""

    device_uid: str
    digest: str
    title: str
    edition: str
    vendor: str
    certified: bool
    finding: Coding
    threshold: float
    positive: bool
    partial: bool
    mapped: bool
    confidence: Confidence | None
    standing: tuple[Predecessor, ...]


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
_MAP: Final = _short(0x00081155, "UI", "2.25.20004")  # where there is one
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
    call = answer(positive=constant.positive, partial=constant.partial)
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid="2.25.30003", identifier=f"AI: {constant.finding.meaning}"),
        source_images=[SourceImageForMeasurementGroup(image.SOPClassUID, image.SOPInstanceUID)],
        algorithm_id=algorithm(
            constant.title,
            constant.edition,
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
            QualitativeEvaluation(
                name=codes.DCM.CADProcessingAndFindingsSummary,
                value=summary(positive=constant.positive, partial=constant.partial),
            ),
            QualitativeEvaluation(name=coded(constant.finding), value=coded(call)),
            *prediction_set(constant.confidence),
        ],
    )
    pictures: list[tuple[UID, str]] = [(SecondaryCaptureImageStorage, "2.25.20002")]
    if constant.mapped:
        pictures.append((ParametricMapStorage, "2.25.20004"))
    cast(Any, group)[0].ContentSequence.extend(visual_explanation(*picture) for picture in pictures)
    cast(Any, group)[0].ContentSequence.extend(referred(constant.standing, STANDS))
    report = MeasurementReport(
        observation_context=observed_by(constant.device_uid, constant.title, constant.edition, constant.vendor),
        procedure_reported=CodedConcept("363680008", "SCT", "Radiographic imaging procedure"),
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    document = Comprehensive3DSR(
        evidence=[
            image,
            *(_placeholder(*picture) for picture in pictures),
            *(_placeholder(UID(before.sop_class), before.sop_uid) for before in constant.standing),
        ],
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
    maps = (_MAP,) if constant.mapped else ()
    likely = (_PROBABILITY, _PROBABILITY_FLOAT) if probability(constant.confidence) else ()
    for placeholder in (_TRACKING, _IMAGE, _IMAGE_CLASS, _PICTURE, *maps, _SCORE, _SCORE_FLOAT, *likely):
        if encoded.count(placeholder) != 1:
            raise RuntimeError("this release of highdicom encodes the report's content in another way")
    return encoded


def _placeholder(sop_class: UID, uid: str) -> Dataset:
    image = Dataset()
    for keyword in (*PATIENT, *STUDY):
        put(image, keyword, "")
    put(image, "StudyInstanceUID", "2.25.6")
    put(image, "SeriesInstanceUID", f"{uid}1")
    put(image, "SOPClassUID", sop_class)
    put(image, "SOPInstanceUID", uid)
    for keyword in ("Rows", "Columns"):
        put(image, keyword, 1)
    return image
