"""Makes the report of a study that no version has read: at a workstation it tells "refused, because" from "not yet".

It says nothing of what is on the images, and is shown nowhere as negative: the outcome is that no algorithm succeeded.
Its reasons are words of ours for codes of ours. What a header says is not repeated, since anything may stand there.

It takes the place of an earlier report that nothing was read, and never of one that says what a version found: a
workstation that shows the last of a chain would show no finding where there is one. To that it refers.

Source: DICOM PS3.3 C.17.2 (predecessor documents); PS3.16 TID 1500, 1501, 4019; CID 6047 (the outcome) and CID 6042
(whether it was attempted).
"""

from dataclasses import dataclass
from typing import Any, Final, cast

from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from client.dicom.person import TWO_PEOPLE
from client.inference.scope import Reason
from client.inference.study import Image
from client.results.attributes import encode, evidence, put, to_part10
from client.results.header import author
from client.results.report import SCHEME, beside, observed_by, procedure, referred, report_header
from client.results.result import Predecessor, ResultObject, uid_of
from client.results.source import text_of
from models.bundle import Bundle

_NOT_READ: Final = "Nothing of the study was read"
_WHY: Final = CodedConcept("NOT_READ_BECAUSE", SCHEME, "Why it was not read")
_COMMENT: Final = codes.DCM.Comment
_STANDS: Final = "An earlier AI report, on the images that came before, is not replaced by this one."
_WHOSE: Final = "An earlier AI report was made before images of another patient came: check whose it is."
_MOST: Final = 20  # reasons

# of what an intended use has a clause about
_CLAUSES: Final = {
    "modality": "The modality",
    "sop-class": "The kind of object",
    "body-part": "The body part",
    "view": "The view",
    "laterality": "The laterality",
    "sex": "The patient's sex",
    "age": "The patient's age",
    "size": "The size of the image",
    "equipment": "The manufacturer or model",
    "kvp": "The tube voltage",
    "tube-current": "The tube current",
    "exposure-time": "The exposure time",
    "exposure": "The exposure",
    "detector-distance": "The detector's distance",
    "slice-thickness": "The slice thickness",
    "slice-spacing": "The slice spacing",
    "pixel-spacing": "The pixel spacing",
    "imager-pixel-spacing": "The detector's pixel spacing",
    "field-strength": "The field strength",
    "repetition-time": "The repetition time",
    "echo-time": "The echo time",
    "contrast": "The contrast agent",
    "contrast-phase": "The contrast phase",
    "convolution-kernel": "The convolution kernel",
    "burned-in": "Burned-in text",
    "image-type": "The image type",
    "lossy": "The ratio of lossy compression",
}
_STATED: Final = {
    "-missing": "is not stated in the header",
    "-contradicted": "is contradicted by the header",
    "-unreadable": "is not readable in the header",
    "": "is outside of the intended use",
}
_OTHERS: Final = {
    "burned-in": "There is text burned into the image",
    "bundle-refused": "The version could not be loaded",
    "colour": "An image is in colour",
    "conflicting": "Different images came under the same identifier",
    "conversion": "The image was converted from something else",
    "conversion-unreadable": "How the image was converted is not readable",
    "crashed": "Reading it ended the program",
    "derived": "The image is derived from others",
    "for-processing": "The image is for processing, not for presentation",
    "for-processing-unreadable": "What the image is for is not readable in the header",
    "incomplete": "Not all images of the study came",
    "inconsistent": "An image does not fit its own header",
    "left-out": "The images were rejected, or left out by a person",
    "memory": "There is not enough memory to read it",
    "missing-file": "A file is missing",
    "missing-rescale": "The images do not say what their numbers mean",
    "missing-slices": "Slices are missing",
    "mixed-frame-of-reference": "The slices lie in different frames of reference",
    "mixed-orientation": "The slices lie at different angles",
    "mixed-size": "The slices are of different sizes",
    "moved": "The images are of another study",
    "multi-frame": "An image has several frames",
    "no-frame-of-reference": "The images name no frame of reference",
    "no-geometry": "The images do not say where they lie",
    "no-pixels": "An image has no pixels",
    "no-version": "No version is adopted here",
    "not-dicom": "A file cannot be read",
    "not-read": "Images that another version reads were not read",
    "not-finite": "An image has values that are no numbers",
    "not-one-plane": "An image has more than one plane",
    "novel-image": "The image is unlike those the version was trained on",
    TWO_PEOPLE: "The images name more than one patient",
    "quality-control": "It is a quality control image or a phantom",
    "quality-control-unreadable": "Whether it is a quality control image is not readable",
    "secondary": "The image was made after the examination",
    "series-missing": "A series that is needed is missing",
    "several-volumes": "One series holds several volumes",
    "species": "The patient is not said to be human",
    "suspended": "The version that would have read it is suspended here",
    "too-coarse": "The slices are too far apart",
    "too-few-slices": "There are too few slices",
    "too-large": "It is too large to be read here",
    "truncated": "An image is cut off",
    "undecodable": "An image cannot be decoded",
    "unexpected": "An unexpected error",
    "uneven-slices": "The slices are unevenly spaced",
    "unsupported-pixels": "The kind of pixels is not supported",
    "unsupported-transfer-syntax": "The compression is not supported",
}


@dataclass(frozen=True, slots=True)
class Unread:
    """A study that was refused, or whose reading failed for good.

    Attributes:
        source: the header of one of its images: whose study it is.
        images: all of them; of a study of two people, those of whom the report is of.
        reasons: at least one; of their texts only what a version accepts is repeated.
        failed: it should have been read, as against refused.
        input_digest: SHA-256 over the digests of the images, hex.
        bundle: the version that would have read it; None where none is known.
        created_at: seconds since the epoch.
        earlier: reports of earlier revisions of the study.
    """

    source: Dataset
    images: tuple[Image, ...]
    reasons: tuple[Reason, ...]
    failed: bool
    input_digest: str
    revision: int
    bundle: Bundle | None
    institution: str
    created_at: float
    earlier: tuple[Predecessor, ...] = ()

    @property
    def predecessors(self) -> tuple[Predecessor, ...]:
        return tuple(one for one in self.earlier if not one.result)

    @property
    def standing(self) -> tuple[Predecessor, ...]:
        """The results that it leaves as they are."""
        return tuple(one for one in self.earlier if one.result)


def report(unread: Unread) -> ResultObject:
    """The report, unverified; whoever reads the study writes another one, which takes its place."""
    by = author(unread)
    dataset = report_header(unread, what="not read", partial=True)
    put(dataset, "CompletionFlagDescription", _NOT_READ)
    named: dict[str, list[tuple[str, str]]] = {}
    for image in unread.images:
        named.setdefault(image.series_uid, []).append((image.sop_class, image.sop_uid))
    beside(named, unread.standing)
    put(dataset, "CurrentRequestedProcedureEvidenceSequence", evidence(str(dataset.StudyInstanceUID), named))
    report = MeasurementReport(
        observation_context=observed_by(by.device_uid, by.title, by.number, by.vendor),
        procedure_reported=procedure(text_of(unread.source, "Modality")),
        imaging_measurements=[_group(unread)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    tree = Dataset()
    tree["ContentSequence"] = cast(Any, report)[0]["ContentSequence"]
    # the content tree has the highest tag of the document, so it may simply follow the header
    return ResultObject("sr", str(dataset.SOPInstanceUID), to_part10(dataset) + encode(tree))


def words(code: str) -> str:
    """What a reason's code says, for a person; 64 characters at most, without any value of the study."""
    if code in _OTHERS:
        return _OTHERS[code]
    for ending, said in _STATED.items():
        if code.endswith(ending) and (what := _CLAUSES.get(code.removesuffix(ending))):
            return f"{what} {said}"
    return "Another reason; the AI node's worklist says which"


def _group(unread: Unread) -> MeasurementsAndQualitativeEvaluations:
    facts = unread.bundle.facts if unread.bundle else None
    said = tuple(dict.fromkeys((str(one.code), _accepted(one)) for one in unread.reasons))[:_MOST]
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=uid_of(unread, "tracking"), identifier="AI: not read"),
        source_images=_pictures(unread.source),
        algorithm_id=_algorithm(unread.bundle) if unread.bundle else None,
        qualitative_evaluations=[
            QualitativeEvaluation(
                name=codes.DCM.CADProcessingAndFindingsSummary,
                value=codes.DCM.NoAlgorithmsSucceededWithoutFindings,
            ),
            QualitativeEvaluation(
                name=codes.DCM.SummaryOfAnalyses,
                value=codes.DCM.Failed if unread.failed else codes.DCM.NotAttempted,
            ),
            *(
                QualitativeEvaluation(name=_WHY, value=CodedConcept(code.upper(), SCHEME, words(code)))
                for code in dict.fromkeys(code for code, _ in said)
            ),
        ],
    )
    head = "Reading this study failed" if unread.failed else "This study was refused"
    who = f" by {facts.title} v{facts.edition}" if facts and not unread.failed else ""
    lines = (
        f"{head}{who}. Nobody has looked for a finding: this is not a negative result.",
        *(f"{words(code)}{f' (accepted: {accepted})' if accepted else ''}" for code, accepted in said),
    )
    comments = [TextContentItem(name=_COMMENT, value=line, relationship_type="CONTAINS") for line in lines]
    standing = referred(unread.standing, _WHOSE if any(code == TWO_PEOPLE for code, _ in said) else _STANDS)
    cast(Any, group)[0].ContentSequence.extend([*comments, *standing])
    return group


def _accepted(reason: Reason) -> str:
    """What the version accepts instead: the part of a clause's text that is not the study's."""
    head, _, accepted = reason.text.rpartition("; accepted: ")
    stem = str(reason.code).removesuffix("-missing").removesuffix("-contradicted").removesuffix("-unreadable")
    return accepted if head and stem in _CLAUSES else ""


def _pictures(source: Dataset) -> list[SourceImageForMeasurementGroup]:
    if not (source.get("Rows") and source.get("Columns")):
        return []  # a report, or another object that is no image
    return [SourceImageForMeasurementGroup(text_of(source, "SOPClassUID"), text_of(source, "SOPInstanceUID"))]


def _algorithm(bundle: Bundle) -> AlgorithmIdentification:
    certified = "yes" if bundle.facts.certified else "no, for research"
    return AlgorithmIdentification(
        name=bundle.facts.title,
        version=bundle.facts.edition,
        parameters=[f"digest={bundle.digest}", f"certified={certified}"],
    )
