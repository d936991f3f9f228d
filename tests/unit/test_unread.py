"""The report of a study that was not read: what it says, to machines and to people, and what it never says."""

import io
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import highdicom as hd
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from client.dicom.person import TWO_PEOPLE
from client.inference.scope import Code, Reason
from client.inference.study import Image
from client.results import conformity
from client.results.result import Predecessor
from client.results.unread import Unread, report, words
from models.bundle import Bundle

CLIENT = Path(__file__).parents[2] / "client"
BEFORE = Predecessor("1.2.840.10008.5.1.4.1.1.88.34", "2.25.41", "2.25.42", result=False)
FOUND = Predecessor("1.2.840.10008.5.1.4.1.1.88.34", "2.25.51", "2.25.52")
AGE = Reason(Code.AGE, "the patient's age is 11.5 years; accepted: 18 or more")
PART = Reason(Code.BODY_PART_MISSING, "body part is DOE; accepted: JOHN; accepted: CHEST")


@pytest.fixture
def unread(bundles: ModuleType, radiograph: Callable[..., Dataset]) -> Callable[..., Unread]:
    def make(*, bundle: bool = True, **changes: Any) -> Unread:
        image = radiograph(PatientAge="011Y", StudyInstanceUID="2.25.7", SOPInstanceUID="2.25.8")
        images = (
            Image("2.25.8", str(image.SOPClassUID), "a" * 64, "2.25.9"),
            Image("2.25.10", str(image.SOPClassUID), "b" * 64, "2.25.9"),
            Image("2.25.11", "1.2.840.10008.5.1.4.1.1.88.67", "c" * 64, "2.25.12"),
        )
        known = Bundle(Path("nowhere"), "d" * 64, "vendor", bundles.facts()) if bundle else None
        made = Unread(image, images, (AGE, PART), False, "e" * 64, 2, known, "Hospital", 1_700_000_000.0, (BEFORE,))
        return replace(made, **changes)

    return make


def said(dataset: Dataset) -> tuple[dict[str, str], list[str], list[str]]:
    """Of the one group: coded values by name, reasons, lines of text."""
    [library] = [item for item in dataset.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010"]
    [group] = library.ContentSequence
    coded: dict[str, str] = {}
    why: list[str] = []
    for item in (one for one in group.ContentSequence if one.ValueType == "CODE"):
        value = item.ConceptCodeSequence[0]
        code = value.get("CodeValue") or value.get("LongCodeValue")
        if item.ConceptNameCodeSequence[0].CodeMeaning == "Why it was not read":
            why.append(code)
        else:
            coded[item.ConceptNameCodeSequence[0].CodeValue] = code
    comments = [one for one in group.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue == "121106"]
    return coded, why, [str(one.TextValue) for one in comments]


@pytest.mark.peers("dciodvfy")
@pytest.mark.parametrize(
    ("changes", "status", "head"),
    [
        ({}, "111225", "This study was refused by Brightness v1."),
        ({"bundle": False}, "111225", "This study was refused."),
        ({"bundle": False, "failed": True}, "111224", "Reading this study failed."),
        ({"earlier": (), "images": ()}, "111225", "This study was refused by Brightness v1."),
    ],
)
def test_it_says_that_nothing_was_read_and_why(
    unread: Callable[..., Unread], changes: dict[str, Any], status: str, head: str, tmp_path: Path
) -> None:
    made = report(unread(**changes))
    dataset = made.dataset
    coded, why, lines = said(dataset)
    assert (coded["111017"], coded["111065"]) == ("111245", status)  # of CID 6047, and of CID 6042
    assert why == ["AGE", "BODY-PART-MISSING"]
    assert lines == [
        f"{head} Nobody has looked for a finding: this is not a negative result.",
        "The patient's age is outside of the intended use (accepted: 18 or more)",
        "The body part is not stated in the header (accepted: CHEST)",
    ]
    assert (dataset.VerificationFlag, dataset.PreliminaryFlag, dataset.CompletionFlag) == (
        "UNVERIFIED",
        "PRELIMINARY",
        "PARTIAL",
    )
    assert "not read" in dataset.SeriesDescription
    assert "PredecessorDocumentsSequence" in dataset or "earlier" in changes
    path = tmp_path / "sr.dcm"
    path.write_bytes(made.content)
    told = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False).stderr
    if "images" not in changes:
        assert conformity.examine(made.content).problems == ()
        assert "Error" not in told
        read: Any = hd.sr.srread(path)
        [group] = read.content.get_image_measurement_groups()
        assert group.tracking_uid
        assert not group.get_measurements()
        [evidence] = dataset.CurrentRequestedProcedureEvidenceSequence
        assert [len(one.ReferencedSOPSequence) for one in evidence.ReferencedSeriesSequence] == [2, 1]
    else:
        assert conformity.examine(made.content).problems  # what rests on nothing is not sent


@pytest.mark.peers("dciodvfy")
@pytest.mark.parametrize("earlier", [(FOUND,), (BEFORE, FOUND)])
@pytest.mark.parametrize("reason", [AGE, Reason("patient-mismatch", "the study's images name different patients")])
def test_it_never_takes_the_place_of_a_finding(
    unread: Callable[..., Unread], earlier: tuple[Predecessor, ...], reason: Reason, tmp_path: Path
) -> None:
    made = report(unread(earlier=earlier, reasons=(reason,)))
    dataset = made.dataset
    replaced = {
        named.ReferencedSOPInstanceUID
        for study in dataset.get("PredecessorDocumentsSequence", [])
        for series in study.ReferencedSeriesSequence
        for named in series.ReferencedSOPSequence
    }
    assert replaced == ({BEFORE.sop_uid} if BEFORE in earlier else set())
    [kept] = [item for item in _group(dataset).ContentSequence if item.ValueType == "COMPOSITE"]
    assert kept.ConceptNameCodeSequence[0].CodeMeaning == "Prior report for current patient"
    assert kept.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == FOUND.sop_uid
    _, _, lines = said(dataset)
    wanted = "check whose it is" if reason is not AGE else "is not replaced by this one"
    assert wanted in lines[-1]
    assert len(lines) == 3
    assert conformity.examine(made.content).problems == ()
    path = tmp_path / "sr.dcm"
    path.write_bytes(made.content)
    told = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False).stderr
    assert "Error" not in told
    read: Any = hd.sr.srread(path)
    assert len(read.content.get_image_measurement_groups()) == 1


def test_nothing_that_a_header_says_is_repeated(unread: Callable[..., Unread]) -> None:
    content = report(unread()).content
    tree = content[content.index(b"\x40\x00\x30\xa7") :]
    for value in (b"11.5", b"DOE", b"JOHN", b"Test^", b"19600101"):
        assert value not in tree


def test_the_same_facts_make_the_same_bytes_and_another_revision_other_uids(unread: Callable[..., Unread]) -> None:
    assert report(unread()).content != report(unread(revision=3)).content
    assert report(unread()).sop_uid == report(unread(reasons=(AGE,))).sop_uid
    assert len({report(one).sop_uid for one in (unread(), unread(revision=3), unread(bundle=False))}) == 3


def test_every_reason_there_is_has_words() -> None:
    raised = re.compile(r"""(?:InvalidStudy|Reason)\(\s*"([a-z-]+)\"""")
    read_by = ("dicom/decode.py", "dicom/rle.py", "dicom/series.py", "inference")
    files = [file for name in read_by for file in ([CLIENT / name] if name[-3:] == ".py" else CLIENT.glob(f"{name}/*"))]
    found = {code for file in files if file.suffix == ".py" for code in raised.findall(file.read_text())}
    assert len(found) > 25
    found -= {"uid-missing"}  # refused at the door
    for code in (*map(str, Code), *found, "bundle-refused", TWO_PEOPLE):
        text = words(code)
        assert not text.startswith("Another reason"), code
        assert len(text) <= 64
    assert len(words("of a later release")) <= 64


def _group(dataset: Dataset) -> Dataset:
    [library] = [item for item in dataset.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010"]
    return library.ContentSequence[0]


def _value(dataset: Dataset, name: str, code: str) -> None:
    for item in _group(dataset).ContentSequence:
        if item.ConceptNameCodeSequence[0].CodeValue == name:
            item.ConceptCodeSequence[0].CodeValue = code


def _without(dataset: Dataset, name: str) -> None:
    group = _group(dataset)
    group.ContentSequence = Sequence(
        item for item in group.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue != name
    )


def _replacing(dataset: Dataset) -> None:
    [kept] = [item for item in _group(dataset).ContentSequence if item.ValueType == "COMPOSITE"]
    before = dataset.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    before.ReferencedSOPInstanceUID = kept.ReferencedSOPSequence[0].ReferencedSOPInstanceUID


CHANGES: list[tuple[Callable[[Dataset], object], str]] = [
    (_replacing, "refers to a report that it takes the place of"),
    (lambda d: _value(d, "111017", "111225"), "the outcome is not of CID 6047"),  # it is of CID 6042
    (lambda d: _value(d, "111065", "111245"), "the summary of analyses is not of CID 6042"),
    (lambda d: _value(d, "111065", "111222"), "neither a failure"),
    (lambda d: _without(d, "111065"), "neither a failure"),
    (lambda d: _without(d, "121106"), "no comment that says why"),
    (lambda d: _without(d, "111003"), "no algorithm version"),
    (lambda d: (_without(d, "111001"), _without(d, "111003"), _value(d, "111017", "111243")), "no algorithm name"),
]


@pytest.mark.parametrize(("change", "problem"), CHANGES)
def test_what_contradicts_itself_is_not_sent(
    unread: Callable[..., Unread], change: Callable[[Dataset], object], problem: str
) -> None:
    dataset = pydicom.dcmread(io.BytesIO(report(unread(earlier=(BEFORE, FOUND))).content))
    change(dataset)
    for item in dataset.iterall():
        if item.VR == "SQ":
            item.is_undefined_length = True
            for one in item.value:
                one.is_undefined_length_sequence_item = True
    file = io.BytesIO()
    dataset.save_as(file)
    assert any(problem in one for one in conformity.examine(file.getvalue()).problems)
