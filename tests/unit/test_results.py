"""What a scored radiograph leaves in the PACS: valid, readable by others, unverified, and the same each time."""

import io
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from cost import copied, relative
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset

from client.dicom.identity import IMPLEMENTATION_CLASS_UID
from client.inference.study import study_day
from client.results import conformity, heatmap
from client.results.amend import QUALITY, SAFETY, Opinion, local, verify, withdraw
from client.results.confidence import Confidence
from client.results.finding import Finding
from client.results.radiograph import make
from client.results.result import Predecessor, ResultObject
from models.bundle import Bundle
from models.coding import Coding

Make = Callable[..., Finding]
INPUT = "c" * 64


@pytest.fixture
def finding(bundles: ModuleType, radiograph: Callable[..., Dataset]) -> Make:
    def build(source: Dataset | None = None, *, score: float = 0.8312, size: int = 320) -> Finding:
        pixels = np.linspace(0, 4095, size * size, dtype=np.float32).reshape(size, size)
        cam = np.array([[-4, 1, 0], [2, 6, 0], [0, -1, 1]], dtype=np.float32)
        facts = bundles.facts(title="Chest abnormality", number=3)
        bundle = Bundle(Path("nowhere"), "ab" * 32, "vendor", facts)
        image = (
            source if source is not None else radiograph(IssuerOfPatientID="HOSPITAL", FrameOfReferenceUID="1.2.3.4")
        )
        return Finding(image, INPUT, 1, pixels, score, 0.5, score >= 0.5, cam, bundle, "Hôpital Nord", 1_700_000_000.25)

    return build


@pytest.fixture
def opinion() -> Opinion:
    facts = ((local("DECISION", "Reader's decision"), local("CORRECT", "Correct")),)
    return Opinion("Ada Lovelace", "Hôpital Nord", 1_700_000_100.5, False, facts, 1)


def by_kind(objects: list[ResultObject]) -> dict[str, ResultObject]:
    return {item.kind: item for item in objects}


def dciodvfy(content: bytes, folder: Path) -> str:
    path = folder / "object.dcm"
    path.write_bytes(content)
    return subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False).stderr


def amended(first: ResultObject, picture: ResultObject, opinion: Opinion) -> list[ResultObject]:
    objects = [
        (str(item.dataset.SOPClassUID), item.sop_uid, str(item.dataset.SeriesInstanceUID)) for item in (first, picture)
    ]
    return [verify(first.content, opinion), withdraw(first.content, objects, SAFETY, opinion)]


def read_back(made: ResultObject) -> tuple[dict[str, float], dict[str, str], list[str]]:
    """Measurements and evaluations by code, and the algorithm's parameters."""
    document = hd.sr.srread(io.BytesIO(made.content))
    assert isinstance(document, hd.sr.Comprehensive3DSR)
    [group] = document.content.get_image_measurement_groups()
    values = {measurement.name.value: measurement.value for measurement in group.get_measurements()}
    said = {item.name.value: item.value.value for item in group.get_qualitative_evaluations()}
    parameters = [
        str(item.TextValue)
        for item in group[0].ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "111002"
    ]
    return values, said, parameters


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        (("positive",), "52101004"),
        (("negative",), "2667000"),
        (("positive", "negative"), "82334004"),
        ((), "NEITHER"),
    ],
)
def test_the_report_says_how_sure_it_is(finding: Make, answers: tuple[Any, ...], code: str) -> None:
    sure = Confidence(source="site", probability=0.7413, answers=answers, level=0.9, positives=31, negatives=52)
    made = by_kind(make(replace(finding(), confidence=sure)))["sr"]
    values, said, parameters = read_back(made)
    assert values == {"SCORE": pytest.approx(0.8312), "THRESHOLD": 0.5, "122157": pytest.approx(0.7413)}
    assert said["PREDICTION_SET"] == code
    assert f"calibration=site: {sure.basis}" in parameters
    assert conformity.examine(made.content).problems == ()


def test_a_report_without_a_calibration_says_that_there_is_none(finding: Make) -> None:
    none = Confidence(source="none", positives=3, negatives=40)
    made = by_kind(make(replace(finding(), confidence=none)))["sr"]
    values, said, parameters = read_back(made)
    assert set(values) == {"SCORE", "THRESHOLD"}
    assert set(said) == {"111017", "R-42061"}
    assert any(parameter.startswith("calibration=none: No calibration yet: 3 positive") for parameter in parameters)
    assert conformity.examine(made.content).problems == ()


@pytest.mark.peers("dciodvfy")
def test_a_report_with_confidence_passes_dciodvfy(finding: Make, tmp_path: Path) -> None:
    sure = Confidence(source="vendor", probability=0.1, answers=("negative",), level=0.9, positives=31, negatives=52)
    made = by_kind(make(replace(finding(score=0.2), confidence=sure)))["sr"]
    assert "Error" not in dciodvfy(made.content, tmp_path)


def test_the_report_is_read_back_by_highdicom(finding: Make) -> None:
    scored = finding()
    made = by_kind(make(scored))
    document = hd.sr.srread(io.BytesIO(made["sr"].content))
    assert isinstance(document, hd.sr.Comprehensive3DSR)
    assert document.ConceptNameCodeSequence[0].CodeValue == "126000"
    assert (document.VerificationFlag, document.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    [group] = document.content.get_image_measurement_groups()
    assert group.tracking_identifier == "AI: Opacity"
    assert group.tracking_uid.startswith("2.25.")
    values = {measurement.name.value: measurement.value for measurement in group.get_measurements()}
    assert values == {"SCORE": pytest.approx(0.8312), "THRESHOLD": 0.5}
    said = {item.name.value: item.value.value for item in group.get_qualitative_evaluations()}
    assert said == {"111017": "111242", "R-42061": "52101004"}
    source = scored.source
    assert group.source_images[0].referenced_sop_instance_uid == source.SOPInstanceUID
    [explanation] = [
        item
        for item in document.content[0].ContentSequence[-1].ContentSequence[0].ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "130401"
    ]
    assert explanation.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == made["sc"].sop_uid
    [observer] = document.content.get_observer_contexts(observer_type=hd.sr.CodedConcept("121007", "DCM", "Device"))
    assert observer.observer_identifying_attributes.uid == scored.bundle.device_uid
    assert document.ContributingEquipmentSequence[0].DeviceUID == scored.bundle.device_uid


def test_a_negative_report_says_no_findings(finding: Make) -> None:
    document = hd.sr.srread(io.BytesIO(by_kind(make(finding(score=0.2)))["sr"].content))
    [group] = document.content.get_image_measurement_groups()
    said = {item.name.value: item.value.value for item in group.get_qualitative_evaluations()}
    assert said == {"111017": "111241", "R-42061": "2667000"}


@pytest.mark.peers("dciodvfy")
@pytest.mark.parametrize(
    ("score", "summary", "answer"), [(0.8312, "111244", "52101004"), (0.2, "111243", "ABSENT_IN_PART")]
)
def test_a_report_of_a_study_in_part_says_so_and_never_absent(
    finding: Make, opinion: Opinion, tmp_path: Path, score: float, summary: str, answer: str
) -> None:
    whole, partial = finding(score=score), replace(finding(score=score), partial=True)
    make(whole)  # its content tree is remembered, and is not the other one's
    made = by_kind(make(partial))
    for item in made.values():
        assert "Error" not in dciodvfy(item.content, tmp_path)
        assert conformity.examine(item.content).problems == ()
    said = read_back(made["sr"])[1]
    assert said == {"111017": summary, "R-42061": answer}
    assert made["sr"].dataset.CompletionFlag == "PARTIAL"
    assert "INCOMPLETE" in made["sc"].dataset.ImageComments
    signed = amended(made["sr"], made["sc"], opinion)[0]
    assert read_back(signed)[1] == {"111017": summary, "R-42061": "2667000"}
    assert conformity.examine(signed.content).problems == ()


def test_identity_is_copied_and_series_are_new(finding: Make) -> None:
    scored = finding()
    for item in make(scored):
        made = item.dataset
        for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "AccessionNumber", "IssuerOfPatientID"):
            assert made[keyword].value == scored.source[keyword].value
        assert made.FrameOfReferenceUID == "1.2.3.4"
        assert made.SeriesInstanceUID != scored.source.SeriesInstanceUID
        assert made.SeriesDescription.startswith("AI ")
        assert made.SeriesDescription.endswith("v3 UNVERIFIED")
        assert made.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID


def test_the_same_facts_make_the_same_bytes_and_another_revision_other_uids(finding: Make) -> None:
    scored = finding()
    first, again, later = make(scored), make(scored), make(replace(scored, revision=2))
    assert first == again
    assert not {item.sop_uid for item in first} & {item.sop_uid for item in later}


def test_unverified_stands_in_the_picture_s_comment_and_the_map_is_drawn(finding: Make) -> None:
    scored = finding()
    made = by_kind(make(scored))["sc"].dataset
    assert "UNVERIFIED - not for diagnosis without a reader" in made.ImageComments
    picture = made.pixel_array[:320, :320].astype(int)
    coloured = np.abs(picture - picture.mean(axis=2, keepdims=True)).max(axis=2)
    assert coloured[160, 160] > 30  # the strongest cell
    assert coloured[10, 10] == 0  # evidence against: the radiograph as it is


def test_a_flat_map_is_not_stretched_into_colour() -> None:
    pixels = np.full((64, 64), 100, np.float32)
    drawn = heatmap.draw(pixels, np.full((4, 4), -3, np.float32), "AI")
    assert (drawn[:64, :64].max(axis=2) == drawn[:64, :64].min(axis=2)).all()


def test_a_large_image_is_scaled_down(finding: Make) -> None:
    scored = replace(finding(), pixels=np.zeros((2000, 3000), np.float32))
    made = by_kind(make(scored))["sc"].dataset
    assert made.Rows < 800
    assert made.Columns < 1100


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Zoë"}, "Müller^Zoë"),
        (
            {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
            "Yamada^Tarou=山田^太郎",
        ),
        ({"SpecificCharacterSet": "GB18030", "PatientName": "王^小东"}, "王^小东"),
        ({"SpecificCharacterSet": "ISO_IR 192", "PatientName": "Παππάς^Νίκος"}, "Παππάς^Νίκος"),
    ],
)
def test_names_survive_every_character_set(
    finding: Make, radiograph: Callable[..., Dataset], keywords: dict[str, str], expected: str
) -> None:
    buffer = io.BytesIO()
    radiograph(**keywords).save_as(buffer, enforce_file_format=True)
    source = pydicom.dcmread(io.BytesIO(buffer.getvalue()), stop_before_pixels=True)
    for item in make(finding(source)):
        assert item.dataset.SpecificCharacterSet == "ISO_IR 192"
        assert str(item.dataset.PatientName) == expected


BARE = dict.fromkeys(
    (
        "PatientID",
        "PatientName",
        "PatientBirthDate",
        "PatientSex",
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "StudyID",
    )
)


def test_missing_tags_stand_empty(finding: Make, radiograph: Callable[..., Dataset]) -> None:
    for item in make(finding(radiograph(**BARE))):
        for keyword in BARE:
            assert item.dataset[keyword].is_empty


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_the_standard_has_no_room_for_is_not_handed_on(finding: Make, radiograph: Callable[..., Dataset]) -> None:
    odd = radiograph(StudyDate="1st of May", StudyTime="noon", PatientSex="W", PatientBirthDate="unknown")
    made = make(finding(odd))[0].dataset
    assert [made[keyword].is_empty for keyword in ("StudyDate", "StudyTime", "PatientSex", "PatientBirthDate")] == [
        True
    ] * 4


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_devices_write_in_another_way_is_written_as_the_standard_has_it(
    finding: Make, radiograph: Callable[..., Dataset]
) -> None:
    odd = radiograph(StudyDate="2024-01-31", StudyTime="12:05:09.5", PatientSex="female", PatientBirthDate="1960.02.01")
    made = make(finding(odd))[0].dataset
    told = [str(made[keyword].value) for keyword in ("StudyDate", "StudyTime", "PatientSex", "PatientBirthDate")]
    assert told == ["20240131", "120509.5", "F", "19600201"]
    assert study_day(odd) == date(2024, 1, 31)


def test_a_verified_report_names_its_signer_and_its_predecessor(finding: Make, opinion: Opinion) -> None:
    made = by_kind(make(finding()))
    signed = verify(made["sr"].content, opinion)
    document = hd.sr.srread(io.BytesIO(signed.content))
    assert (document.VerificationFlag, document.PreliminaryFlag) == ("VERIFIED", "FINAL")
    assert document.VerifyingObserverSequence[0].VerifyingObserverName == "Lovelace^Ada"
    assert document.VerifyingObserverSequence[0].VerifyingOrganization == "Hôpital Nord"
    named = document.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == made["sr"].sop_uid
    assert document.SeriesDescription.endswith(" VERIFIED")
    assert "UNVERIFIED" not in document.SeriesDescription
    [group] = document.content.get_image_measurement_groups()
    said = {item.name.value: item.value.value for item in group.get_qualitative_evaluations()}
    # the AI's own summary stands, the finding is the reader's
    assert said == {"111017": "111242", "R-42061": "2667000"}
    [person] = document.content.get_observer_contexts(observer_type=CodedConcept("121006", "DCM", "Person"))
    assert person.observer_identifying_attributes.name == "Lovelace^Ada"
    assert verify(made["sr"].content, opinion) == signed
    assert verify(made["sr"].content, replace(opinion, number=2)).sop_uid != signed.sop_uid


@pytest.mark.parametrize(("score", "answer", "code"), [(0.8, "positive", "52101004"), (0.2, "negative", "2667000")])
def test_a_correction_is_of_the_finding_and_puts_no_word_into_the_machine_s_mouth(
    finding: Make, opinion: Opinion, score: float, answer: Any, code: str
) -> None:
    sure = Confidence(source="site", probability=score, answers=(answer,), level=0.9, positives=60, negatives=60)
    first = by_kind(make(replace(finding(score=score), confidence=sure)))["sr"]
    before, after = read_back(first), read_back(verify(first.content, replace(opinion, positive=score < 0.5)))
    corrected = {"52101004": "2667000", "2667000": "52101004"}[before[1]["R-42061"]]
    assert after == (before[0], before[1] | {"R-42061": corrected}, before[2])
    assert after[1]["PREDICTION_SET"] == code


def test_agreement_with_a_report_that_is_not_sure_leaves_it_so(finding: Make, opinion: Opinion) -> None:
    unlike = Confidence(source="site", probability=0.51, answers=("negative",), level=0.9, positives=60, negatives=60)
    first = by_kind(make(replace(finding(), confidence=unlike)))["sr"]
    assert read_back(verify(first.content, replace(opinion, positive=True))) == read_back(first)


@pytest.mark.parametrize("title", [QUALITY, SAFETY])
def test_a_withdrawal_names_report_and_picture(finding: Make, opinion: Opinion, title: Coding) -> None:
    made = by_kind(make(finding()))
    objects = [
        (str(made[kind].dataset.SOPClassUID), made[kind].sop_uid, str(made[kind].dataset.SeriesInstanceUID))
        for kind in ("sr", "sc")
    ]
    selection = hd.ko.KeyObjectSelectionDocument.from_dataset(
        withdraw(made["sr"].content, objects, title, opinion).dataset
    )
    assert selection.ConceptNameCodeSequence[0].CodeValue == title.value
    named = {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in selection.content.get_references()}
    assert named == {made["sr"].sop_uid, made["sc"].sop_uid}


@pytest.mark.peers("dciodvfy")
@pytest.mark.parametrize("keywords", [{}, BARE, {"PatientName": "Παππάς^Νίκος", "SpecificCharacterSet": "ISO_IR 192"}])
def test_dciodvfy_finds_no_error(
    finding: Make,
    opinion: Opinion,
    radiograph: Callable[..., Dataset],
    tmp_path: Path,
    keywords: dict[str, str | None],
) -> None:
    scored = finding(radiograph(**keywords))
    made = by_kind(make(scored))
    before = Predecessor(str(made["sr"].dataset.SOPClassUID), made["sr"].sop_uid, made["sr"].dataset.SeriesInstanceUID)
    (_, late) = make(replace(scored, revision=2, predecessors=(before,)))
    for item in (made["sr"], made["sc"], late, *amended(made["sr"], made["sc"], opinion)):
        said = dciodvfy(item.content, tmp_path)
        assert "Error" not in said, f"{item.kind}: {said}"


def test_report_and_picture_cost_less_than_copying_them(finding: Make) -> None:
    scored = finding()
    contents = [item.content for item in make(scored)]
    assert relative(lambda: make(scored), lambda: [copied(content) for content in contents]) < 1
