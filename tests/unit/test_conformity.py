"""What would mislead a reader of an object is found before the PACS sees it; what is right passes, fast."""

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from cost import read_whole, relative
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from sqlalchemy import select

from client.results.conformity import examine
from client.results.dciodvfy import Checker, errors
from client.review import readers
from client.review.verdict import Answer, Decision, Reason, TruthTier, record
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery

Objects = dict[str, bytes]
SR_KINDS = ("sr", "verified")


@pytest.fixture
def objects(site: Site, scored: Callable[..., str]) -> Objects:
    """One object of every kind, as the node makes them."""
    readers.add(site, "Ada Lovelace", "clinician")
    uid = scored(objects=True)
    common = {"revision": 1, "tier": TruthTier.AI_VISIBLE}
    record(site, uid, "Ada Lovelace", decision=Decision.AGREE, answer=Answer.POSITIVE, **common)  # type: ignore[arg-type]
    record(
        site,
        uid,
        "Ada Lovelace",
        decision=Decision.REJECT,
        answer=Answer.NOT_ASSESSABLE,
        reason=Reason.DANGEROUS,
        **common,  # type: ignore[arg-type]
    )
    archive = Archive(site.archive)
    with site.database.read() as connection:
        return {row.kind: archive.read(row.sha256) for row in connection.execute(select(delivery))}


def changed(content: bytes, change: Callable[[Dataset], object]) -> tuple[str, ...]:
    dataset = pydicom.dcmread(io.BytesIO(content))
    change(dataset)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return examine(buffer.getvalue()).problems


def group(dataset: Dataset) -> Dataset:
    return dataset.ContentSequence[-1].ContentSequence[0]


def without(item: Dataset, code: str) -> None:
    item.ContentSequence = Sequence(
        [one for one in item.ContentSequence if one.ConceptNameCodeSequence[0].CodeValue != code]
    )


def library(dataset: Dataset) -> Dataset:
    return next(item for item in dataset.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010")


def outcome(dataset: Dataset) -> Dataset:
    items = library(dataset).ContentSequence[0].ContentSequence
    return next(item for item in items if item.ConceptNameCodeSequence[0].CodeValue == "111017")


def test_every_kind_of_ours_passes(objects: Objects) -> None:
    assert set(objects) == {"sr", "sc", "verified", "kos"}
    for content in objects.values():
        assert examine(content).problems == ()
        assert changed(content, lambda dataset: None) == ()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("sr", lambda d: setattr(d, "PatientID", None) or delattr(d, "PatientID"), "PatientID is missing"),
        ("sr", lambda d: setattr(d, "SeriesInstanceUID", "1.02.3"), "SeriesInstanceUID is no UID"),
        ("sr", lambda d: setattr(d, "VerificationFlag", "VERIFIED"), "VERIFIED without a verifying observer"),
        ("sr", lambda d: setattr(d, "PreliminaryFlag", "FINAL"), "UNVERIFIED and not PRELIMINARY"),
        ("sr", lambda d: setattr(d, "SeriesDescription", "AI"), "UNVERIFIED and not described so"),
        ("verified", lambda d: setattr(d, "VerifyingObserverSequence", Sequence([])), "VERIFIED without a verifying"),
        ("verified", lambda d: setattr(d, "VerificationFlag", "UNVERIFIED"), "UNVERIFIED with a verifying observer"),
        ("sr", lambda d: setattr(d.ConceptNameCodeSequence[0], "CodeValue", "121111"), "the root is not (126000"),
        ("sr", lambda d: without(library(d).ContentSequence[0], "112040"), "no tracking UID"),
        ("sr", lambda d: without(library(d).ContentSequence[0], "112039"), "no tracking identifier"),
        ("sr", lambda d: without(library(d).ContentSequence[0], "111003"), "no algorithm version"),
        ("sr", lambda d: without(library(d).ContentSequence[0], "111017"), "the outcome (111017) is missing"),
        (
            "sr",
            lambda d: setattr(outcome(d).ConceptCodeSequence[0], "CodeValue", "111222"),
            "the outcome is not of CID 6047",
        ),
        ("sr", lambda d: setattr(d, "CurrentRequestedProcedureEvidenceSequence", Sequence([])), "not in the evidence"),
        ("sr", lambda d: without(d, "126010"), "no imaging measurements"),
        ("kos", lambda d: setattr(d.ConceptNameCodeSequence[0], "CodeValue", "113000"), "its title is no rejection"),
        ("kos", lambda d: setattr(d, "CurrentRequestedProcedureEvidenceSequence", Sequence([])), "no evidence"),
        ("sc", lambda d: setattr(d, "Rows", d.Rows + 1), "more or fewer pixels"),
        ("sc", lambda d: setattr(d, "HighBit", 9), "do not fit each other"),
        ("sc", lambda d: setattr(d, "SamplesPerPixel", 1), "SamplesPerPixel does not fit"),
        ("sc", lambda d: setattr(d, "SeriesDescription", "Map"), "not described as UNVERIFIED"),
    ],
)
def test_what_is_wrong_is_found(objects: Objects, kind: str, change: Callable[[Dataset], object], said: str) -> None:
    problems = changed(objects[kind], change)
    assert any(said in problem for problem in problems), problems


def test_a_reference_outside_the_evidence_is_found_though_the_tree_is_known(objects: Objects) -> None:
    assert examine(objects["sr"]).problems == ()  # from here on the tree is remembered
    uid = pydicom.dcmread(io.BytesIO(objects["sc"])).SOPInstanceUID.encode()
    at = objects["sr"].rindex(uid)
    stranger = objects["sr"][:at] + b"9" * len(uid) + objects["sr"][at + len(uid) :]
    assert "a reference is not in the evidence" in examine(stranger).problems


def _segmentation() -> Dataset:
    source = [Dataset() for _ in range(2)]
    for number, image in enumerate(source):
        image.file_meta = pydicom.dataset.FileMetaDataset()
        image.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        for keyword, value in {
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2",
            "SOPInstanceUID": f"2.25.7{number}",
            "StudyInstanceUID": "2.25.5",
            "SeriesInstanceUID": "2.25.6",
            "FrameOfReferenceUID": "2.25.9",
            "PatientID": "1",
            "PatientName": "A^B",
            "PatientBirthDate": "",
            "PatientSex": "",
            "StudyDate": "",
            "StudyTime": "",
            "AccessionNumber": "",
            "ReferringPhysicianName": "",
            "StudyID": "",
            "Modality": "CT",
            "Rows": 16,
            "Columns": 16,
            "PixelSpacing": [1, 1],
            "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            "ImagePositionPatient": [0, 0, number],
            "SliceThickness": 1,
        }.items():
            setattr(image, keyword, value)
    mask = np.zeros((2, 16, 16), np.uint8)
    mask[:, 4:8, 4:8] = 1
    code = hd.sr.CodedConcept("85756007", "SCT", "Tissue")
    description = hd.seg.SegmentDescription(
        1,
        "lesion",
        code,
        code,
        "AUTOMATIC",
        hd.AlgorithmIdentificationSequence("net", hd.sr.CodedConcept("123110", "DCM", "Artificial Intelligence"), "1"),
    )
    return hd.seg.Segmentation(
        source, mask, "BINARY", [description], "2.25.1", 9, "2.25.2", 1, "Vigie", "net", "1", "serial"
    )


def test_a_segmentation_is_judged_too() -> None:
    made = _segmentation()
    made.SpecificCharacterSet = "ISO_IR 192"
    buffer = io.BytesIO()
    made.save_as(buffer)
    assert examine(buffer.getvalue()).problems == ()
    wrong = changed(buffer.getvalue(), lambda d: setattr(d, "NumberOfFrames", 5))
    assert any("NumberOfFrames" in problem for problem in wrong)
    wrong = changed(
        buffer.getvalue(),
        lambda d: delattr(d.SegmentSequence[0], "SegmentationAlgorithmIdentificationSequence"),
    )
    assert "an AUTOMATIC segment does not name its algorithm" in wrong


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_the_bytes_it_says_something_and_never_a_value(data: st.DataObject) -> None:
    content = bytearray(_sample())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for found in (examine(bytes(content)), examine(bytes(content[:cut]))):
        assert not any("Secret" in problem for problem in found.problems)


@cache
def _sample() -> bytes:
    sample = Dataset()
    sample.file_meta = pydicom.dataset.FileMetaDataset()
    sample.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    sample.SOPClassUID = sample.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.34"
    sample.SOPInstanceUID = sample.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    sample.PatientName = "Secret^Name"
    sample.SeriesDescription = "AI"
    buffer = io.BytesIO()
    sample.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "at", [136, 140, 144], ids=["length of the meta group", "its value", "the first element's tag"]
)
def test_a_damaged_file_meta_is_said_and_not_thrown(at: int) -> None:
    content = bytearray(_sample())
    content[at] = 0

    assert examine(bytes(content)).problems


def test_it_costs_no_more_than_reading_an_object_once(objects: Objects) -> None:
    for kind, content in objects.items():
        assert relative(lambda content=content: examine(content), lambda content=content: read_whole(content)) < 2, kind


@pytest.mark.peers("dciodvfy")
def test_dciodvfy_is_asked_once_for_each_shape(
    objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checker, calls = Checker(), []
    import subprocess

    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *args, **more: calls.append(1) or run(*args, **more))
    path = tmp_path / "object.dcm"
    path.write_bytes(objects["sr"])
    shape = examine(objects["sr"]).shape
    assert checker.problems(path, shape) == ()
    assert checker.problems(path, shape) == ()
    assert len(calls) == 1
    dataset = pydicom.dcmread(path)
    dataset.PatientSex = "X"  # a modality's, and no reason to hold a result back
    dataset.CompletionFlag = "PERHAPS"
    dataset.save_as(path)
    found = checker.problems(path, examine(path.read_bytes()).shape + "another")
    assert found
    assert all("CompletionFlag" in problem and "PERHAPS" not in problem for problem in found)


def test_errors_about_what_a_modality_wrote_are_left_out() -> None:
    said = (
        "Warning - </A(0008,0005)> - odd\n"
        "Error - </PatientSex(0010,0040)> - Unrecognized enumerated value = <X>\n"
        "Error - </CompletionFlag(0040,a491)> - Unrecognized enumerated value = <PERHAPS>\n"
    )
    assert errors(said) == ("dciodvfy: CompletionFlag: Unrecognized enumerated value",)
