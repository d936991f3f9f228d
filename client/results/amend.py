"""Makes the documents that a clinician's verdict adds: a verified report, the withdrawal of what is not to be believed.

Nothing in the PACS is ever edited in place: the first report stands, and these name it. A verified report says the
clinician's answer to the finding, and of everything else what the version said: its summary, score, probability and
prediction set are not the clinician's to have said otherwise. What the version measured of a finding that a clinician
calls absent is measured of nothing: a verified report leaves it out.

Source: DICOM PS3.3 C.17.2 (verification, predecessor documents), A.35.4 and PS3.16 TID 2010 (key object selection),
TID 1411 (referenced segment).
"""

import io
import re
import struct
from collections.abc import Callable, Collection
from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any, Final

import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    ParametricMapStorage,
    SecondaryCaptureImageStorage,
)

from client.dicom.identity import MANUFACTURER
from client.results.attributes import concept, dicom_moment, dicom_time, encode, evidence, put, reference, to_part10
from client.results.report import ABSENT, PREDICTION_SET, PRESENT, SCHEME, UNSEEN
from client.results.result import ResultObject, derive_uid
from client.results.source import copy_identity, offset_of
from models.coding import Coding

_CONTENT: Final = struct.pack("<HH2sHI", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF)
_END_OF_SEQUENCE: Final = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
_ITEM: Final = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
_END_OF_ITEM: Final = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
_BORDERS: Final = re.compile(re.escape(_ITEM) + b"|" + re.escape(_END_OF_ITEM))
_NAME: Final = re.compile(
    re.escape(struct.pack("<HH2sHI", 0x0040, 0xA043, b"SQ", 0, 0xFFFFFFFF) + _ITEM) + rb"\x08\x00\x00\x01SH(.)\x00",
    re.DOTALL,
)
_REFERENCED: Final = re.compile(rb"\x08\x00\x55\x11UI(.)\x00", re.DOTALL)
_LIBRARY: Final = "126010"  # imaging measurements
_SEGMENT: Final = "121191"  # referenced segment
_PICTURE: Final = "130401"  # visual explanation
QUALITY: Final = Coding(value="113001", scheme="DCM", meaning="Rejected for Quality Reasons")
_IMAGES: Final = (SecondaryCaptureImageStorage, ParametricMapStorage)
SAFETY: Final = Coding(value="113037", scheme="DCM", meaning="Rejected for Patient Safety Reasons")


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a clinician says of a result, as the documents put it.

    Attributes:
        reader: name of the clinician.
        organization: that they answer to.
        at: seconds since the epoch.
        positive: their own answer; None where they could not tell.
        facts: further coded facts (concept name, value), e.g. decision, tier and reason.
        number: counts the opinions on one result, so that each has a document of its own.
    """

    reader: str
    organization: str
    at: float
    positive: bool | None
    facts: tuple[tuple[Coding, Coding], ...]
    number: int


def local(value: str, meaning: str) -> Coding:
    """A concept that the standard has no code for."""
    return Coding(value=value[:16].upper(), scheme=SCHEME, meaning=meaning)


def verified_as(header: Dataset, number: int) -> tuple[str, str, str]:
    """SOP class, SOP instance and series UID of the report that an opinion makes.

    Args:
        header: of the unverified report.
        number: of the opinion.
    """
    parts = (header.SOPInstanceUID, number)
    return str(header.SOPClassUID), derive_uid("verified", *parts), derive_uid("verified-series", *parts)


def verify(
    first: bytes,
    opinion: Opinion,
    withdrawn: Collection[str] = (),
    earlier: Many[int] = (),
    others: Many[tuple[str, str, str]] = (),
) -> ResultObject:
    """A new, verified report that takes the place of an unverified one and says the clinician's answer.

    Where that is negative and segments were measured, the report names neither these nor any picture of them: the
    caller withdraws them from the PACS. What was withdrawn before stays so, whatever the clinician says now: a report
    names nothing that the PACS was told not to show.

    Args:
        first: the unverified report as it was made, a Part 10 file.
        withdrawn: SOP instance UIDs of what an earlier opinion has withdrawn.
        earlier: numbers of the same reader's opinions whose reports it takes the place of, too.
        others: (SOP class UID, SOP instance UID, series UID) of the same reader's reports on earlier results of the
            study, which it takes the place of as well.
    """
    border = first.index(_CONTENT)
    dataset = pydicom.dcmread(io.BytesIO(first[:border]))
    content = first[border + len(_CONTENT) : -len(_END_OF_SEQUENCE)]
    predecessors = {str(dataset.SeriesInstanceUID): [(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID))]}
    for number in earlier:
        sop_class, sop_uid, series = verified_as(dataset, number)
        predecessors[series] = [(sop_class, sop_uid)]
    for sop_class, sop_uid, series in others:
        predecessors[series] = [(sop_class, sop_uid)]
    put(dataset, "PredecessorDocumentsSequence", evidence(str(dataset.StudyInstanceUID), predecessors))
    _, sop_uid, series = verified_as(dataset, opinion.number)
    put(dataset, "SOPInstanceUID", sop_uid)
    put(dataset, "SeriesInstanceUID", series)
    put(dataset, "SeriesNumber", "9903")
    put(dataset, "SeriesDescription", str(dataset.SeriesDescription).replace("UNVERIFIED", "VERIFIED"))
    _dated(dataset, opinion.at)
    # only a complete document may be verified (PS3.3 C.17.2); that the study was not, its description goes on saying
    put(dataset, "CompletionFlag", "COMPLETE")
    put(dataset, "VerificationFlag", "VERIFIED")
    put(dataset, "PreliminaryFlag", "FINAL")
    observer = Dataset()
    put(observer, "VerifyingOrganization", opinion.organization[:64])
    put(observer, "VerificationDateTime", dicom_moment(opinion.at, offset_of(dataset)))
    put(observer, "VerifyingObserverName", _person(opinion.reader))
    put(observer, "VerifyingObserverIdentificationCodeSequence", Sequence([]))
    put(dataset, "VerifyingObserverSequence", Sequence([observer]))

    language, *rest = _split(content)
    if withdrawn:
        shown = partial(_shown, frozenset(withdrawn))
        rest = [_within(item, shown) if _name_of(item) == _LIBRARY else item for item in rest]
    if opinion.positive is not None:
        positive = opinion.positive
        rest = [_within(item, partial(_answered, positive)) if _name_of(item) == _LIBRARY else item for item in rest]
    if gone := _referenced(content) - _referenced(b"".join(rest)):
        put(dataset, "CurrentRequestedProcedureEvidenceSequence", _left(dataset, gone))
    observer_items = _observer_items(opinion.reader, opinion.organization)
    said = _said_items(tuple((_parts(name), _parts(value)) for name, value in opinion.facts))
    tree = b"".join((_CONTENT, language, observer_items, *rest, said, _END_OF_SEQUENCE))
    return ResultObject("verified", str(dataset.SOPInstanceUID), to_part10(dataset) + tree)


def withdraw(
    first: bytes, objects: Many[tuple[str, str, str]], title: Coding, opinion: Opinion, earlier: Many[int] = ()
) -> ResultObject:
    """A key object selection that tells the PACS not to show the objects of a result that was rejected or found wrong.

    Args:
        first: the unverified report; whose study it is and what it stands for are read from its header.
        objects: (SOP class UID, SOP instance UID, series UID) of everything that is withdrawn.
        title: `QUALITY` or `SAFETY`.
        earlier: numbers of the opinions whose verified reports are withdrawn with them.
    """
    header = pydicom.dcmread(io.BytesIO(first[: first.index(_CONTENT)]))
    dataset = Dataset()
    copy_identity(header, dataset)
    parts = (header.SOPInstanceUID, opinion.number)
    put(dataset, "SOPClassUID", KeyObjectSelectionDocumentStorage)
    put(dataset, "SOPInstanceUID", derive_uid("kos", *parts))
    put(dataset, "SeriesInstanceUID", derive_uid("kos-series", *parts))
    put(dataset, "Modality", "KO")
    put(dataset, "SeriesNumber", "9904")
    put(dataset, "SeriesDescription", f"WITHDRAWN: {header.SeriesDescription}"[:64])
    put(dataset, "InstanceNumber", "1")
    put(dataset, "Manufacturer", MANUFACTURER)
    put(dataset, "InstitutionName", str(header.get("InstitutionName", "")))
    put(dataset, "ReferencedPerformedProcedureStepSequence", Sequence([]))
    _dated(dataset, opinion.at)
    series: dict[str, list[tuple[str, str]]] = {}
    objects = [*objects, *(verified_as(header, number) for number in earlier)]
    for sop_class, sop_uid, series_uid in objects:
        series.setdefault(series_uid, []).append((sop_class, sop_uid))
    put(dataset, "CurrentRequestedProcedureEvidenceSequence", evidence(str(dataset.StudyInstanceUID), series))
    put(dataset, "ValueType", "CONTAINER")
    put(dataset, "ConceptNameCodeSequence", _name(title))
    put(dataset, "ContinuityOfContent", "SEPARATE")
    template = Dataset()
    put(template, "MappingResource", "DCMR")
    put(template, "TemplateIdentifier", "2010")
    put(dataset, "ContentTemplateSequence", Sequence([template]))
    why = "; ".join(f"{name.meaning}: {value.meaning}" for name, value in opinion.facts)
    content = [
        *_observer(opinion.reader, opinion.organization),
        _item("CONTAINS", "TEXT", Coding(value="113012", scheme="DCM", meaning="Key Object Description"), why),
    ]
    for sop_class, sop_uid, _series in objects:
        item = Dataset()
        put(item, "RelationshipType", "CONTAINS")
        put(item, "ValueType", "IMAGE" if sop_class in _IMAGES else "COMPOSITE")
        put(item, "ReferencedSOPSequence", Sequence([reference(sop_class, sop_uid)]))
        content.append(item)
    put(dataset, "ContentSequence", Sequence(content))
    return ResultObject("kos", str(dataset.SOPInstanceUID), to_part10(dataset))


def stand_in(
    source: Dataset, sop_class: str, sop_uid: str, named: Many[tuple[str, str, str]], institution: str
) -> bytes:
    """What `withdraw` reads of a report, for one whose file is lost; it says nothing else and is never sent.

    Args:
        source: a header of an image or of another object that is the same patient's, of the same study.
        named: SOP class, SOP instance and series UID of what was made, as far as they are known.
    """
    dataset = Dataset()
    copy_identity(source, dataset)
    put(dataset, "SOPClassUID", sop_class)
    put(dataset, "SOPInstanceUID", sop_uid)
    put(dataset, "SeriesDescription", "AI result")
    put(dataset, "InstitutionName", institution[:64])
    series: dict[str, list[tuple[str, str]]] = {}
    for one_class, one_uid, series_uid in named:
        series.setdefault(series_uid, []).append((one_class, one_uid))
    put(dataset, "CurrentRequestedProcedureEvidenceSequence", evidence(str(dataset.StudyInstanceUID), series))
    return to_part10(dataset) + _CONTENT + _END_OF_SEQUENCE


def _answered(positive: bool, groups: list[bytes]) -> list[bytes]:
    """The groups of a report's measurements with a clinician's answer to the finding."""
    if not positive and any(_measures(group) for group in groups):
        groups = [_within(group, _without_pictures) for group in groups if not _measures(group)]
    answer, other, unseen = (
        _value(*_parts(said)) for said in ((PRESENT, ABSENT, UNSEEN) if positive else (ABSENT, PRESENT, UNSEEN))
    )

    def with_answer(items: list[bytes]) -> list[bytes]:
        # of what a group evaluates, only the finding and the prediction set are present or absent
        return [
            item if _name_of(item) == PREDICTION_SET else item.replace(other, answer).replace(unseen, answer)
            for item in items
        ]

    return [_within(group, with_answer) for group in groups]


def _shown(withdrawn: frozenset[str], groups: list[bytes]) -> list[bytes]:
    """The groups of a report's measurements without what was measured on, or is shown by, what was withdrawn."""

    def without(items: list[bytes]) -> list[bytes]:
        return [item for item in items if _name_of(item) != _PICTURE or not _referenced(item) & withdrawn]

    return [_within(group, without) for group in groups if not (_measures(group) and _referenced(group) & withdrawn)]


def _measures(group: bytes) -> bool:
    _, _, items = group.partition(_CONTENT)
    return any(_name_of(item) == _SEGMENT for item in _split(items))


def _without_pictures(items: list[bytes]) -> list[bytes]:
    return [item for item in items if _name_of(item) != _PICTURE]


def _left(dataset: Dataset, gone: set[str]) -> Sequence:
    """What a report rests on without the segments and pictures that it no longer names, and their presentation."""
    [study] = dataset.CurrentRequestedProcedureEvidenceSequence
    series: dict[str, list[tuple[str, str]]] = {}
    for listed in study.ReferencedSeriesSequence:
        for one in listed.ReferencedSOPSequence:
            named = str(one.ReferencedSOPClassUID), str(one.ReferencedSOPInstanceUID)
            if named[0] != GrayscaleSoftcopyPresentationStateStorage and named[1] not in gone:
                series.setdefault(str(listed.SeriesInstanceUID), []).append(named)
    return evidence(str(study.StudyInstanceUID), series)


def _dated(dataset: Dataset, at: float) -> None:
    date, moment = dicom_time(at, offset_of(dataset))
    for what in ("InstanceCreation", "Content", "Series"):
        put(dataset, f"{what}Date", date)
        put(dataset, f"{what}Time", moment)


@lru_cache(maxsize=256)
def _observer_items(reader: str, organization: str) -> bytes:
    return _items(_observer(reader, organization))


@lru_cache(maxsize=256)
def _said_items(facts: tuple[tuple[tuple[str, str, str], tuple[str, str, str]], ...]) -> bytes:
    said = _container(Coding(value="C0034375", scheme="UMLS", meaning="Qualitative Evaluations"))
    put(said, "ContentSequence", Sequence([_code(_coding(*name), _coding(*value)) for name, value in facts]))
    return _items([said])


def _coding(value: str, scheme: str, meaning: str) -> Coding:
    return Coding(value=value, scheme=scheme, meaning=meaning)


def _observer(reader: str, organization: str) -> list[Dataset]:
    person = Coding(value="121006", scheme="DCM", meaning="Person")
    return [
        _code(Coding(value="121005", scheme="DCM", meaning="Observer Type"), person, "HAS OBS CONTEXT"),
        _item(
            "HAS OBS CONTEXT",
            "PNAME",
            Coding(value="121008", scheme="DCM", meaning="Person Observer Name"),
            _person(reader),
        ),
        _item(
            "HAS OBS CONTEXT",
            "TEXT",
            Coding(value="121009", scheme="DCM", meaning="Person Observer's Organization Name"),
            organization,
        ),
    ]


def _person(name: str) -> str:
    # the separators of a PN value have no place in a name; 64 characters for a component group (PS3.5 table 6.2-1)
    clean = name.translate({ord(character): " " for character in "\\="})[:63].strip()
    given, _, family = clean.rpartition(" ")
    return clean if "^" in clean else f"{family}^{given}"


def _name(coding: Coding) -> Sequence:
    return Sequence([concept(coding.value, coding.scheme, coding.meaning)])


def _item(relationship: str, value_type: str, name: Coding, value: Any) -> Dataset:
    item = Dataset()
    put(item, "RelationshipType", relationship)
    put(item, "ValueType", value_type)
    put(item, "ConceptNameCodeSequence", _name(name))
    keyword = {"TEXT": "TextValue", "PNAME": "PersonName", "CODE": "ConceptCodeSequence"}[value_type]
    put(item, keyword, value)
    return item


def _code(name: Coding, value: Coding, relationship: str = "CONTAINS") -> Dataset:
    return _item(relationship, "CODE", name, _name(value))


def _container(name: Coding) -> Dataset:
    item = Dataset()
    put(item, "RelationshipType", "CONTAINS")
    put(item, "ValueType", "CONTAINER")
    put(item, "ConceptNameCodeSequence", _name(name))
    put(item, "ContinuityOfContent", "CONTINUOUS")
    return item


def _items(items: list[Dataset]) -> bytes:
    tree = Dataset()
    put(tree, "ContentSequence", Sequence(items))
    return encode(tree)[len(_CONTENT) : -len(_END_OF_SEQUENCE)]


def _parts(coding: Coding) -> tuple[str, str, str]:
    return coding.value, coding.scheme, coding.meaning


@cache
def _value(value: str, scheme: str, meaning: str) -> bytes:
    """The value of a CODE item, encoded."""
    item = Dataset()
    put(item, "ConceptCodeSequence", Sequence([concept(value, scheme, meaning)]))
    return encode(item)


# ---------------------------------------------------------------- content trees as they are encoded


def _split(items: bytes) -> list[bytes]:
    """The items of a sequence, of undefined length as everything in the tree (see `attributes.encode`)."""
    found: list[bytes] = []
    depth = begun = 0
    for border in _BORDERS.finditer(items):
        depth += 1 if border.group() == _ITEM else -1
        if depth == 0:
            found.append(items[begun : border.end()])
            begun = border.end()
    return found


def _within(item: bytes, change: Callable[[list[bytes]], list[bytes]]) -> bytes:
    """A content item with other items below it: its content sequence has its highest tag, so it stands last."""
    head, border, items = item.partition(_CONTENT)
    return b"".join((head, border, *change(_split(items)), _END_OF_SEQUENCE, _END_OF_ITEM)) if border else item


def _name_of(item: bytes) -> str:
    """The code of a content item's name; empty where it has none of its own, or one longer than a short string."""
    head, _, _ = item.partition(_CONTENT)
    return _text(head, match) if (match := _NAME.search(head)) else ""


def _referenced(items: bytes) -> set[str]:
    return {_text(items, match) for match in _REFERENCED.finditer(items)}


def _text(content: bytes, head: re.Match[bytes]) -> str:
    return content[head.end() : head.end() + head.group(1)[0]].rstrip(b"\0 ").decode("ascii", "replace")
