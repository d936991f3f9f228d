"""Whether an object of ours is what the standard and our own conventions say, before a PACS sees it. Pure.

A PACS may take an object that no viewer can show, or that says something else than was meant; then nobody notices. What
was copied from a modality is not judged beyond what a reader of the object stumbles over: a result is not withheld
because a modality wrote an odd date.

Content trees of reports are nearly the same from study to study. What differs in them (UIDs, numbers) is looked at in
their bytes each time; what is left is parsed and judged once and remembered.

Source: DICOM PS3.3 A.8.1 (secondary capture), A.35.13 (Comprehensive 3D SR), A.35.4 (key object selection), A.51
(segmentation), A.75 (parametric map), A.19 (RT structure set); PS3.5 9.1 (UIDs); PS3.16 TID 1500, 1501, 2010, 4019,
CID 6047, CID 6042, CID 217.
"""

import io
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, Final

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import (
    Comprehensive3DSRStorage,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from client.dicom.malformed import MALFORMED
from client.results.shape import shape

LABELMAP_SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.7"
CID_6047: Final = ("111241", "111242", "111243", "111244", "111245")
CID_6042: Final = ("111222", "111223", "111224", "111225")
NOTHING_SUCCEEDED: Final = "111245"
CID_217: Final = ("130402", "130403", "130404")
_PROBABILITY: Final = "110854"  # of CID 7180
_ALGORITHM: Final = [("111001", "algorithm name"), ("111003", "algorithm version")]
_REJECTIONS: Final = ("113001", "113037", "113038", "113039")

_STRICT_UID: Final = re.compile(r"(?=.{1,64}$)(0|[1-9]\d*)(\.(0|[1-9]\d*))+")
_LOOSE_UID: Final = re.compile(r"[0-9.]{1,64}")
_CONTENT: Final = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
_REFERENCED: Final = re.compile(rb"\x08\x00\x55\x11UI(.)\x00", re.DOTALL)
_TRACKED: Final = re.compile(rb"\x40\x00\x24\xa1UI(.)\x00", re.DOTALL)
_NUMBER: Final = re.compile(rb"(\x40\x00\x0a\xa3DS)(.)\x00|(\x40\x00\x61\xa1FD)\x08\x00", re.DOTALL)
_TREES: Final = 256

_EQUIPMENT: Final = ("DeviceSerialNumber", "SoftwareVersions")
_PATIENT_STUDY: Final = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
    "StudyID",
    "AccessionNumber",
)


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found.

    Attributes:
        problems: what is wrong, without any value of the object; empty where it may be sent.
        shape: a digest of how it is built, down to the last item, and of which version made it; objects of the same
            shape differ only in what their values say, so that a slow checker needs to see one of them.
    """

    problems: tuple[str, ...]
    shape: str


def examine(content: bytes) -> Examined:
    """Check one object.

    Args:
        content: a Part 10 file.
    """
    border = content.find(_CONTENT)
    tree = content[border:] if border >= 0 else b""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they would say the value
            dataset = pydicom.dcmread(io.BytesIO(content[:border] if tree else content))
            problems = [*_common(dataset), *_of_its_class(dataset, tree)]
            equipment = "|".join(str(dataset.get(word, "")) for word in _EQUIPMENT).encode()
            built = shape(content, border if tree else len(content), equipment + (_skeleton(tree) if tree else b""))
    except InvalidDicomError:
        return Examined(("it is no DICOM file",), "")
    except MALFORMED as error:
        return Examined((f"it cannot be read ({type(error).__name__})",), "")
    return Examined(tuple(dict.fromkeys(problems)), built)


def _common(dataset: Dataset) -> Iterator[str]:
    yield from _filled(dataset, "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality")
    yield from _present(dataset, *_PATIENT_STUDY, "SeriesNumber")
    for keyword in ("SOPInstanceUID", "SeriesInstanceUID"):
        if not _STRICT_UID.fullmatch(str(dataset.get(keyword, ""))):
            yield f"{keyword} is no UID"
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):  # the modality's
        if keyword in dataset and not _LOOSE_UID.fullmatch(str(dataset[keyword].value or "")):
            yield f"{keyword} is no UID"
    meta = dataset.file_meta
    if str(meta.get("MediaStorageSOPInstanceUID")) != str(dataset.get("SOPInstanceUID")):
        yield "file meta names another instance"
    if str(meta.get("MediaStorageSOPClassUID")) != str(dataset.get("SOPClassUID")):
        yield "file meta names another class"
    if not dataset.get("SpecificCharacterSet"):
        yield "SpecificCharacterSet is missing"


def _of_its_class(dataset: Dataset, tree: bytes) -> Iterator[str]:
    rules: dict[str, Callable[[Dataset, bytes], Iterator[str]]] = {
        str(Comprehensive3DSRStorage): _report,
        str(KeyObjectSelectionDocumentStorage): _selection,
        str(SecondaryCaptureImageStorage): _capture,
        str(SegmentationStorage): _segmentation,
        LABELMAP_SEGMENTATION: _segmentation,
        str(ParametricMapStorage): _map,
        str(RTStructureSetStorage): _structures,
    }
    rule = rules.get(str(dataset.get("SOPClassUID")))
    return rule(dataset, tree) if rule else iter(())


# ---------------------------------------------------------------- documents


def _report(dataset: Dataset, tree: bytes) -> Iterator[str]:
    if dataset.get("Modality") != "SR":
        yield "Modality is not SR"
    yield from _document(dataset, tree)
    if dataset.get("CompletionFlag") not in ("COMPLETE", "PARTIAL"):
        yield "CompletionFlag is neither COMPLETE nor PARTIAL"
    yield from _present(dataset, "PerformedProcedureCodeSequence")
    yield from _verification(dataset)
    if _code(dataset, "ConceptNameCodeSequence") != ("126000", "DCM"):
        yield "the root is not (126000, DCM)"
    if _template(dataset) != "1500":
        yield "the template is not TID 1500"
    if tree:
        yield from _measurements(_skeleton(tree))
        _, replaced = _evidence(dataset, "PredecessorDocumentsSequence")
        if replaced & set(_uids(_REFERENCED, tree)):
            yield "it refers to a report that it takes the place of"


def _verification(dataset: Dataset) -> Iterator[str]:
    flag, preliminary = dataset.get("VerificationFlag"), dataset.get("PreliminaryFlag")
    observers = dataset.get("VerifyingObserverSequence") or []
    description = str(dataset.get("SeriesDescription", ""))
    if flag == "VERIFIED":
        if not observers:
            yield "VERIFIED without a verifying observer"
        for observer in observers:
            yield from _filled(observer, "VerifyingObserverName", "VerifyingOrganization", "VerificationDateTime")
        if preliminary != "FINAL":
            yield "VERIFIED and not FINAL"
        if not dataset.get("PredecessorDocumentsSequence"):
            yield "VERIFIED without the report that it takes the place of"
        if "UNVERIFIED" in description:
            yield "VERIFIED and described as UNVERIFIED"
    elif flag == "UNVERIFIED":
        if observers:
            yield "UNVERIFIED with a verifying observer"
        if preliminary != "PRELIMINARY":
            yield "UNVERIFIED and not PRELIMINARY"
        if "UNVERIFIED" not in description:
            yield "UNVERIFIED and not described so"
    else:
        yield "VerificationFlag is neither VERIFIED nor UNVERIFIED"


def _selection(dataset: Dataset, tree: bytes) -> Iterator[str]:
    if dataset.get("Modality") != "KO":
        yield "Modality is not KO"
    yield from _document(dataset, tree or b"")
    title = _code(dataset, "ConceptNameCodeSequence")
    if title[1] != "DCM" or title[0] not in _REJECTIONS:
        yield "its title is no rejection"
    if _template(dataset) != "2010":
        yield "the template is not TID 2010"
    if not (_uids(_REFERENCED, tree) if tree else list(_references(dataset.get("ContentSequence") or []))):
        yield "it selects nothing"


def _document(dataset: Dataset, tree: bytes) -> Iterator[str]:
    """What every structured document has, and that what it refers to is its evidence."""
    yield from _filled(dataset, "InstanceNumber", "ContentDate", "ContentTime", "SeriesNumber", "Manufacturer")
    yield from _present(dataset, "ReferencedPerformedProcedureStepSequence")
    if dataset.get("ValueType") != "CONTAINER":
        yield "the root is no container"
    if dataset.get("ContinuityOfContent") not in ("SEPARATE", "CONTINUOUS"):
        yield "ContinuityOfContent is missing"
    series, evidence = _evidence(dataset)
    if not evidence:
        yield "no evidence is named"
    if tree:
        if set(_uids(_REFERENCED, tree)) - evidence:
            yield "a reference is not in the evidence"
        for uid in _uids(_TRACKED, tree):
            # the modality's own name of a series is what the PACS knows it by, whatever zeros it begins with
            if not (_LOOSE_UID if uid in series else _STRICT_UID).fullmatch(uid):
                yield "a UID in the content is none"
    elif not dataset.get("ContentSequence"):
        yield "there is no content"


def _evidence(dataset: Dataset, where: str = "CurrentRequestedProcedureEvidenceSequence") -> tuple[set[str], set[str]]:
    """The series and the instances that a document rests on."""
    named: set[str] = set()
    instances: set[str] = set()
    for study in dataset.get(where) or []:
        for series in study.get("ReferencedSeriesSequence") or []:
            named.add(str(series.get("SeriesInstanceUID", "")))
            for item in series.get("ReferencedSOPSequence") or []:
                instances.add(str(item.get("ReferencedSOPInstanceUID", "")))
    return named, instances


def _references(items: Any) -> Iterator[str]:
    for item in items:
        for named in item.get("ReferencedSOPSequence") or []:
            yield str(named.get("ReferencedSOPInstanceUID", ""))
        yield from _references(item.get("ContentSequence") or [])


def _uids(where: re.Pattern[bytes], tree: bytes) -> list[str]:
    found: list[str] = []
    for match in where.finditer(tree):
        length = match.group(1)[0]
        found.append(tree[match.end() : match.end() + length].rstrip(b"\0 ").decode("ascii", "replace"))
    return found


@lru_cache(maxsize=2)  # asked for twice of each object
def _skeleton(tree: bytes) -> bytes:
    """A content tree with what differs from study to study made the same."""
    pieces: list[bytes] = []
    at = 0
    matches = (*_REFERENCED.finditer(tree), *_TRACKED.finditer(tree), *_NUMBER.finditer(tree))
    for match in sorted(matches, key=lambda match: match.start()):
        if match.start() < at:
            continue
        head = match.group(0)[:6]
        length = 8 if head.endswith(b"FD") else match.group(0)[6]
        value = bytes(8) if head.endswith(b"FD") else b"0 " if head.endswith(b"DS") else b"2.25.1"
        pieces += [tree[at : match.start()], head, struct.pack("<H", len(value)), value]
        at = match.end() + length
    return b"".join((*pieces, tree[at:]))


@lru_cache(maxsize=_TREES)
def _measurements(skeleton: bytes) -> tuple[str, ...]:
    """TID 1500: the library of groups, each tracked, each with the algorithm that computed it, and one outcome."""
    root: Any = read_dataset(io.BytesIO(skeleton), False, True)
    items = list(root.get("ContentSequence") or [])
    problems = list(_items(items))
    libraries = [item for item in items if _name(item) == "126010"]
    if not libraries:
        problems.append("there are no imaging measurements (126010)")
    if not any(_name(item) == "121049" for item in items):
        problems.append("the language (121049) is missing")
    if not any(_name(item) == "121005" for item in items):
        problems.append("the observer (121005) is missing")
    groups = [group for library in libraries for group in library.get("ContentSequence") or []]
    for group in groups:
        if _name(group) != "125007":
            continue
        items_of_group = list(group.get("ContentSequence") or [])
        names = [_name(item) for item in items_of_group]
        unread = NOTHING_SUCCEEDED in _values(items_of_group, "111017")
        if unread:
            problems += _unread(items_of_group)
        by = [] if unread and not {"111001", "111003"} & set(names) else _ALGORITHM  # perhaps none was known
        for code, what in (("112039", "tracking identifier"), ("112040", "tracking UID"), *by):
            if names.count(code) != 1:
                problems.append(f"a measurement group has {'no' if code not in names else 'more than one'} {what}")
    outcomes = [item for item in _walk(items) if _name(item) == "111017"]
    if not outcomes:
        problems.append("the outcome (111017) is missing")
    if not set(_values(outcomes, "111017")) <= set(CID_6047):
        problems.append("the outcome is not of CID 6047")
    if not set(_values(_walk(items), "111065")) <= set(CID_6042):
        problems.append("the summary of analyses is not of CID 6042")
    return tuple(problems)


def _unread(group: list[Dataset]) -> Iterator[str]:
    """What says that nothing was read says why, and nothing of what is there."""
    if not set(_values(group, "111065")) & {"111224", "111225"}:
        yield "nothing succeeded, and neither a failure (111224) nor a refusal (111225) is said"
    if not any(_name(item) == "121106" for item in group):
        yield "nothing succeeded, and there is no comment that says why"
    if any(item.get("ValueType") == "NUM" for item in group):
        yield "nothing succeeded, and something was measured"


def _values(items: Iterable[Dataset], name: str) -> list[str]:
    """The codes that stand for a concept."""
    return [_code(item, "ConceptCodeSequence")[0] for item in items if _name(item) == name]


def _items(items: list[Dataset]) -> Iterator[str]:
    values = {
        "TEXT": "TextValue",
        "CODE": "ConceptCodeSequence",
        "NUM": "MeasuredValueSequence",
        "UIDREF": "UID",
        "PNAME": "PersonName",
        "IMAGE": "ReferencedSOPSequence",
        "COMPOSITE": "ReferencedSOPSequence",
        "SCOORD": "GraphicData",
        "SCOORD3D": "GraphicData",
        "DATE": "Date",
        "DATETIME": "DateTime",
        "CONTAINER": "ContinuityOfContent",
    }
    for item in _walk(items):
        kind = str(item.get("ValueType", ""))
        if not item.get("RelationshipType"):
            yield "a content item has no relationship"
        if kind not in values and kind not in ("TIME", "WAVEFORM", "TCOORD", "TABLE"):
            yield "a content item has no value type"
        elif kind in values and not item.get(values[kind]) and kind != "NUM":
            yield f"a {kind} item has no value"
        if kind in ("TEXT", "CODE", "NUM", "UIDREF", "PNAME", "DATE", "DATETIME") and not _name(item):
            yield f"a {kind} item has no name"
        for keyword in ("ConceptNameCodeSequence", "ConceptCodeSequence"):
            for code in item.get(keyword) or []:
                yield from _filled(code, "CodeMeaning")
                if not (code.get("CodeValue") or code.get("LongCodeValue") or code.get("URNCodeValue")):
                    yield "a code has no value"


def _walk(items: Any) -> Iterator[Dataset]:
    for item in items:
        yield item
        yield from _walk(item.get("ContentSequence") or [])


# ---------------------------------------------------------------- images


def _capture(dataset: Dataset, _tree: bytes) -> Iterator[str]:
    yield from _filled(dataset, "ConversionType", "ImageType", "InstanceNumber")
    if "UNVERIFIED" not in str(dataset.get("SeriesDescription", "")):
        yield "the picture is not described as UNVERIFIED"
    if not dataset.get("SourceImageSequence"):
        yield "the image it was made of is not named"
    yield from _pixels(dataset)


def _segmentation(dataset: Dataset, _tree: bytes) -> Iterator[str]:
    if dataset.get("Modality") != "SEG":
        yield "Modality is not SEG"
    kind = dataset.get("SegmentationType")
    allowed = ("LABELMAP",) if str(dataset.SOPClassUID) == LABELMAP_SEGMENTATION else ("BINARY", "FRACTIONAL")
    if kind not in allowed:
        yield "SegmentationType does not fit its class"
    yield from _equipment(dataset)
    yield from _filled(dataset, "ContentLabel", "ContentDate", "ContentTime", "InstanceNumber")
    segments = list(dataset.get("SegmentSequence") or [])
    numbers = [segment.get("SegmentNumber") for segment in segments]
    background = kind == "LABELMAP" and numbers[:1] == [0]
    if not segments or numbers != list(range(0 if background else 1, len(numbers) + (0 if background else 1))):
        yield "segments are not numbered from 1 on"
    for segment in segments:
        yield from _segment(segment)
    yield from _frames(dataset)
    yield from _pixels(dataset)


def _segment(segment: Dataset) -> Iterator[str]:
    yield from _filled(
        segment, "SegmentLabel", "SegmentedPropertyCategoryCodeSequence", "SegmentedPropertyTypeCodeSequence"
    )
    algorithm = segment.get("SegmentAlgorithmType")
    if algorithm not in ("AUTOMATIC", "SEMIAUTOMATIC", "MANUAL"):
        yield "SegmentAlgorithmType is none"
    if algorithm in ("AUTOMATIC", "SEMIAUTOMATIC"):
        yield from _filled(segment, "SegmentAlgorithmName")
    if algorithm == "AUTOMATIC":
        named = segment.get("SegmentationAlgorithmIdentificationSequence") or []
        if not named:
            yield "an AUTOMATIC segment does not name its algorithm"
        for algorithm_item in named:
            yield from _filled(algorithm_item, "AlgorithmName", "AlgorithmVersion")
            if _code(algorithm_item, "AlgorithmFamilyCodeSequence") != ("123110", "DCM"):
                yield "the algorithm's family is not (123110, DCM)"


def _map(dataset: Dataset, _tree: bytes) -> Iterator[str]:
    yield from _equipment(dataset)
    yield from _filled(dataset, "ContentLabel", "ContentDate", "ContentTime", "InstanceNumber", "ImageType")
    if dataset.get("ContentQualification") not in ("RESEARCH", "PRODUCT", "SERVICE"):
        yield "ContentQualification is missing"
    yield from _frames(dataset)
    mappings = [
        mapping
        for group in (
            *(dataset.get("SharedFunctionalGroupsSequence") or []),
            *(dataset.get("PerFrameFunctionalGroupsSequence") or []),
        )
        for mapping in group.get("RealWorldValueMappingSequence") or []
    ]
    if not mappings:
        yield "no real world value mapping"
    said = {
        _code(item, "ConceptCodeSequence")[0]
        for mapping in mappings
        for item in mapping.get("QuantityDefinitionSequence") or []
    }
    if not said & {*CID_217, _PROBABILITY}:
        yield "the mapped quantity is neither of CID 217 nor a probability"
    if "UNVERIFIED" not in str(dataset.get("SeriesDescription", "")):
        yield "the map is not described as UNVERIFIED"
    yield from _pixels(dataset)


def _structures(dataset: Dataset, _tree: bytes) -> Iterator[str]:
    if dataset.get("Modality") != "RTSTRUCT":
        yield "Modality is not RTSTRUCT"
    yield from _filled(dataset, "StructureSetLabel", "StructureSetDate", "StructureSetTime")
    if dataset.get("ApprovalStatus") != "UNAPPROVED":
        yield "the structures are not UNAPPROVED"
    frames = {str(item.get("FrameOfReferenceUID")) for item in dataset.get("ReferencedFrameOfReferenceSequence") or []}
    regions = list(dataset.get("StructureSetROISequence") or [])
    numbers = [region.get("ROINumber") for region in regions]
    if not regions or len(set(numbers)) < len(numbers):
        yield "regions are missing or not told apart by their numbers"
    for region in regions:
        yield from _filled(region, "ROINumber", "ROIName", "ROIGenerationAlgorithm")
        if str(region.get("ReferencedFrameOfReferenceUID")) not in frames:
            yield "a region lies in a frame of reference that is not named"
    contoured = list(dataset.get("ROIContourSequence") or [])
    for what in (contoured, dataset.get("RTROIObservationsSequence") or []):
        if [item.get("ReferencedROINumber") for item in what] != numbers:
            yield "contours or observations are not those of the regions"
    for contour in (one for item in contoured for one in item.get("ContourSequence") or []):
        yield from _contour(contour)


def _contour(contour: Dataset) -> Iterator[str]:
    if contour.get("ContourGeometricType") != "CLOSED_PLANAR":
        yield "a contour is not closed and planar"
    if not contour.get("ContourImageSequence"):
        yield "a contour does not name its image"
    raw = contour.get_item("ContourData").value if "ContourData" in contour else b""
    given = raw.count(b"\\") + 1 if isinstance(raw, bytes) else len(raw)
    if given != 3 * int(contour.get("NumberOfContourPoints") or 0) or given < 9:
        yield "a contour has more or fewer points than it says"


def _equipment(dataset: Dataset) -> Iterator[str]:
    yield from _filled(dataset, "Manufacturer", "ManufacturerModelName", "DeviceSerialNumber", "SoftwareVersions")


def _frames(dataset: Dataset) -> Iterator[str]:
    frames = int(dataset.get("NumberOfFrames") or 0)
    if frames < 1 or frames != len(dataset.get("PerFrameFunctionalGroupsSequence") or []):
        yield "NumberOfFrames is not that of the functional groups"
    yield from _filled(dataset, "SharedFunctionalGroupsSequence", "DimensionOrganizationSequence")
    if not dataset.get("ReferencedSeriesSequence"):
        yield "the series it was made of is not named"


def _pixels(dataset: Dataset) -> Iterator[str]:
    """The pixel attributes fit each other, and the pixels them (PS3.3 C.7.6.3)."""
    words = ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    if missing := list(_filled(dataset, *words, "PhotometricInterpretation")):
        yield from missing
        return
    rows, columns, samples, allocated = (int(dataset[word].value) for word in words)
    colours = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1}
    if samples != colours.get(str(dataset.PhotometricInterpretation), 3):
        yield "SamplesPerPixel does not fit PhotometricInterpretation"
    if samples > 1 and "PlanarConfiguration" not in dataset:
        yield "PlanarConfiguration is missing"
    carriers = [word for word in ("PixelData", "FloatPixelData", "DoubleFloatPixelData") if word in dataset]
    if len(carriers) != 1:
        yield "there are no pixels, or two kinds of them"
        return
    if carriers == ["PixelData"]:
        stored, high = dataset.get("BitsStored"), dataset.get("HighBit")
        if stored is None or high is None or high != stored - 1 or stored > allocated:
            yield "BitsStored, HighBit and BitsAllocated do not fit each other"
        if dataset.get("PixelRepresentation") is None:
            yield "PixelRepresentation is missing"
    if dataset.file_meta.TransferSyntaxUID.is_compressed:
        return
    bits = rows * columns * samples * allocated * int(dataset.get("NumberOfFrames") or 1)
    length = (bits + 7) // 8
    if len(dataset[carriers[0]].value or b"") != length + length % 2:
        yield "there are more or fewer pixels than Rows, Columns and frames say"


# ---------------------------------------------------------------- small words


def _filled(dataset: Dataset, *keywords: str) -> Iterator[str]:
    for keyword in keywords:
        tag = _tag(keyword)
        if tag not in dataset:
            yield f"{keyword} is missing"
        elif not _raw(dataset, tag):
            yield f"{keyword} is empty"


def _present(dataset: Dataset, *keywords: str) -> Iterator[str]:
    for keyword in keywords:
        if _tag(keyword) not in dataset:
            yield f"{keyword} is missing"


def _raw(dataset: Dataset, tag: BaseTag) -> bool:
    """Whether an element has a value, without decoding it."""
    value = dataset.get_item(tag).value
    if isinstance(value, bytes):
        return bool(value.strip(b" \0"))
    return value is not None and value != "" and (not hasattr(value, "__len__") or len(value) > 0)


@cache
def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)


def _code(dataset: Dataset, keyword: str) -> tuple[str, str]:
    for item in dataset.get(keyword) or []:
        return str(item.get("CodeValue", "")), str(item.get("CodingSchemeDesignator", ""))
    return "", ""


def _name(item: Dataset) -> str:
    return _code(item, "ConceptNameCodeSequence")[0]


def _template(dataset: Dataset) -> str:
    for item in dataset.get("ContentTemplateSequence") or []:
        return str(item.get("TemplateIdentifier", ""))
    return ""
