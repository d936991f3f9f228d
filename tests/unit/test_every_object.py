"""What holds of every object of ours, of whatever kind.

What the check before sending says of it is the same whatever was sent before, a modality's UIDs are copied as they are,
and its times are right where the modality keeps another zone than the node.
"""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian

from client.delivery.workitem import Place, discontinued, performed
from client.dicom import series
from client.inference.measure import measure
from client.results import outlines
from client.results.amend import SAFETY, Opinion, local, verify, withdraw
from client.results.conformity import examine
from client.results.dciodvfy import Checker, errors
from client.results.finding import Finding
from client.results.outlined import Outlined, OutlinedStudy
from client.results.radiograph import make as make_scored
from client.results.result import ResultObject
from client.results.shape import shape
from models.bundle import Bundle

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, on the odd values that are meant here
Made = dict[str, ResultObject]
SAID = ((local("DECISION", "Reader's decision"), local("CORRECT", "Correct")),)
OPINION = Opinion("Ada Lovelace", "Hospital", 1_700_000_100.0, False, SAID, 1)


@pytest.fixture
def outline(volumes: ModuleType) -> Callable[..., Made]:
    """All objects of one outlined series, by kind: `outline(count=8, **DICOM keywords)`."""

    def make(
        count: int = 8, change: Callable[[Dataset, int], object] = lambda image, number: None, **said: Any
    ) -> Made:
        images = volumes.series(count=count, shape=(48, 48), step=4.0)
        for number, image in enumerate(images):
            for keyword, value in said.items():
                setattr(image, keyword, value)
            change(image, number)
        found = series.stack([plane for n, image in enumerate(images) for plane in series.planes(f"{n:064}", image)])
        labels = np.stack([volumes.inside(volumes.grid(image)) for image in images]).astype(np.uint8)
        declared = volumes.declared(radiotherapy=True)
        bundle = Bundle(Path("nowhere"), "ab" * 32, "vendor", volumes.facts(declared))
        key = np.zeros(found.shape[1:], np.float32)
        measured = tuple(measure(labels, found.spacing, declared))
        chances = labels * np.uint8(255)
        one = Outlined(found, labels, key, measured, {}, 1.0, 0.5, 1, bundle, "Hospital", 1.7e9, chances=chances)
        return with_opinion(outlines.make(OutlinedStudy((one,)), structure_sets=True))

    return make


@pytest.fixture
def score(bundles: ModuleType, radiograph: Callable[..., Dataset]) -> Callable[..., Made]:
    """All objects of one scored radiograph, by kind: `score(**DICOM keywords)`."""

    def make(**said: Any) -> Made:
        bundle = Bundle(Path("nowhere"), "ab" * 32, "vendor", bundles.facts())
        pixels, cam = np.zeros((64, 64), np.float32), np.array([[-4, 1], [2, 6]], np.float32)
        finding = Finding(radiograph(**said), "c" * 64, 1, pixels, 0.8, 0.5, True, cam, bundle, "Hospital", 1.7e9)
        return with_opinion(make_scored(finding, heat_map=True))

    return make


def with_opinion(made: list[ResultObject]) -> Made:
    by_kind = {item.kind: item for item in made}
    first = by_kind["sr"]
    named = [
        (str(item.dataset.SOPClassUID), item.sop_uid, str(item.dataset.SeriesInstanceUID)) for item in by_kind.values()
    ]
    amended = (verify(first.content, OPINION), withdraw(first.content, named, SAFETY, OPINION))
    return by_kind | {item.kind: item for item in amended}


def told(checker: Checker, made: ResultObject, folder: Path) -> tuple[str, ...]:
    path = folder / "object.dcm"
    path.write_bytes(made.content)
    return checker.problems(path, examine(made.content).shape)


@pytest.mark.peers("dciodvfy")
@pytest.mark.parametrize("thickness", ["", "0"])
def test_an_object_is_judged_the_same_before_and_after_a_good_one(
    outline: Callable[..., Made], tmp_path: Path, thickness: str
) -> None:
    good = outline()["seg"]
    bad = outline()["seg"]
    dataset = bad.dataset
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SliceThickness = thickness or None
    buffer = io.BytesIO()
    dataset.save_as(buffer)
    bad = replace(bad, content=buffer.getvalue())
    alone = told(Checker(), bad, tmp_path)
    assert any("SliceThickness" in problem for problem in alone)

    checker = Checker()
    assert told(checker, good, tmp_path) == ()
    assert told(checker, bad, tmp_path) == alone


def test_another_patient_is_no_other_shape(outline: Callable[..., Made], score: Callable[..., Made]) -> None:
    other = {"PatientName": "Some^Body", "PatientID": "77", "AccessionNumber": "B12", "StudyDate": "20210203"}
    for make in (outline, score):
        one, two = make(), make(**other)
        assert {kind: examine(made.content).shape for kind, made in one.items()} == {
            kind: examine(made.content).shape for kind, made in two.items()
        }


def test_more_planes_are_no_other_shape_of_what_has_frames(outline: Callable[..., Made]) -> None:
    few, many = outline(count=8), outline(count=10)
    for kind in ("seg", "pm", "rtstruct"):
        assert examine(few[kind].content).shape == examine(many[kind].content).shape


def test_all_our_objects_can_be_walked(outline: Callable[..., Made], score: Callable[..., Made]) -> None:
    """What cannot be walked is a shape of its own, and would be shown to the slow checker each time."""
    for made in (*outline().values(), *score().values()):
        another = made.content.replace(b"Test", b"Best")  # of the patient's name
        assert another != made.content
        assert shape(made.content, len(made.content)) == shape(another, len(another))


@given(st.data())
def test_what_is_emptied_or_left_out_anywhere_is_another_shape(data: st.DataObject) -> None:
    dataset = pydicom.dcmread(io.BytesIO(_nested()))
    holder, keyword = data.draw(st.sampled_from(list(_elements(dataset))))
    before = shape(_nested(), len(_nested()))
    if data.draw(st.booleans()):
        delattr(holder, keyword)
    else:
        setattr(holder, keyword, Sequence([]) if holder[keyword].VR == "SQ" else None)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    assert shape(buffer.getvalue(), len(buffer.getvalue())) != before


@given(st.binary(max_size=400))
def test_whatever_the_bytes_there_is_a_shape(noise: bytes) -> None:
    content = _nested()[:200] + noise
    assert len(shape(content, len(content))) == 64


def _elements(dataset: Dataset) -> Iterator[tuple[Dataset, str]]:
    for element in dataset:
        yield dataset, element.keyword
        if element.VR == "SQ":
            for item in element.value:
                yield from _elements(item)


@cache
def _nested() -> bytes:
    """Frames whose groups differ in one attribute, some deep in others."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    dataset.SOPInstanceUID = "2.25.1"
    dataset.PatientName = "A^B"
    frames: list[Dataset] = []
    for number in range(3):
        origin = Dataset()
        origin.ReferencedSOPInstanceUID = f"2.25.7{number}"
        origin.ReferencedFrameNumber = number + 1
        derivation = Dataset()
        derivation.SourceImageSequence = Sequence([origin])
        place = Dataset()
        place.ImagePositionPatient = [0, -1.5, number]
        frame = Dataset()
        frame.DerivationImageSequence = Sequence([derivation])
        frame.PlanePositionSequence = Sequence([place])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


# ---------------------------------------------------------------- UIDs with leading zeros, as a modality may write them

LEADING = {"StudyInstanceUID": "1.2.03.1", "SeriesInstanceUID": "1.2.03.2", "FrameOfReferenceUID": "1.2.03.3"}


@pytest.mark.peers("dciodvfy")
def test_uids_that_a_modality_made_are_no_reason_to_hold_a_result_back(
    outline: Callable[..., Made], score: Callable[..., Made], tmp_path: Path
) -> None:
    def name(image: Dataset, number: int) -> None:
        image.SOPInstanceUID = f"1.2.03.4.{number}"

    volume = outline(change=name, **LEADING)
    for made in (*volume.values(), *score(SOPInstanceUID="1.2.03.5", **LEADING).values()):
        assert examine(made.content).problems == ()
        assert told(Checker(), made, tmp_path) == ()
    assert b"1.2.03.4." in volume["sr"].content  # as they are: the PACS knows the image by no other name


def test_a_uid_of_ours_in_the_content_is_still_judged(outline: Callable[..., Made]) -> None:
    content = outline()["sr"].content
    assert examine(content).problems == ()
    at = content.rindex(b"\x40\x00\x24\xa1UI") + 8
    assert "a UID in the content is none" in examine(content[:at] + b"1.02." + content[at + 5 :]).problems


def test_a_missing_reference_is_told_though_copied_ones_are_not_judged() -> None:
    where = "</SourceImageSequence(0008,2112)[1]/ReferencedSOPInstanceUID(0008,1155)>"
    invalid = f"Error - {where} - Value invalid for this VR [UI] = <1.02.3> - Leading zeroes\n"
    missing = f"Error - {where} - Missing attribute for Type 1 Required - Module=<GeneralImage>\n"
    assert errors(invalid) == ()
    assert len(errors(missing)) == 1


# ---------------------------------------------------------------- times

COPIED = ("StudyDate", "StudyTime", "PatientBirthDate")
MADE_AT, SIGNED_AT = 1.7e9, OPINION.at


@pytest.fixture
def far_from_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The node stands five hours and three quarters east of Greenwich."""
    monkeypatch.setenv("TZ", "XXX-05:45")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def moments(dataset: Dataset, zone: timezone) -> Iterator[float]:
    """Every date with its time, and every moment, seconds since the epoch, as somebody in that zone wrote them."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from moments(item, zone)
        elif element.VR in ("DA", "DT", "TM") and element.keyword not in COPIED:
            partner = dataset[element.keyword.replace("Date", "Time")].value if element.VR == "DA" else ""
            if element.VR == "TM":
                assert element.keyword.replace("Time", "Date") in dataset
                continue
            if element.VR == "DT":  # says its own zone, which is the object's: not every reader looks for that
                said = datetime.strptime(str(element.value), "%Y%m%d%H%M%S.%f%z")
                assert said.utcoffset() == zone.utcoffset(None), element.keyword
            else:
                said = datetime.strptime(f"{element.value}{partner}", "%Y%m%d%H%M%S.%f").replace(tzinfo=zone)
            yield said.timestamp()


@pytest.mark.usefixtures("far_from_home")
@pytest.mark.parametrize(("offset", "minutes"), [("+0900", 540), ("-0330", -210), ("+0000", 0)])
def test_times_are_written_in_the_zone_that_the_object_states(
    outline: Callable[..., Made], score: Callable[..., Made], offset: str, minutes: int
) -> None:
    said = {"TimezoneOffsetFromUTC": offset}
    for made in (*outline(**said).values(), *score(**said).values()):
        assert made.dataset.TimezoneOffsetFromUTC == offset
        found = set(moments(made.dataset, timezone(timedelta(minutes=minutes))))
        assert found == {MADE_AT, SIGNED_AT} if made.kind == "verified" else found in ({MADE_AT}, {SIGNED_AT})


@pytest.mark.usefixtures("far_from_home")
@pytest.mark.parametrize("offset", ["", "0900", "+09:00", "+1401", "-1201", "-0000", "+0960", "+٠٩٠٠", "JST"])
def test_without_a_zone_that_can_be_they_are_the_hospitals(score: Callable[..., Made], offset: str) -> None:
    for made in score(TimezoneOffsetFromUTC=offset or None, SpecificCharacterSet="ISO_IR 192").values():
        assert "TimezoneOffsetFromUTC" not in made.dataset
        found = set(moments(made.dataset, timezone(timedelta(hours=5, minutes=45))))
        assert found == {MADE_AT, SIGNED_AT} if made.kind == "verified" else found in ({MADE_AT}, {SIGNED_AT})


@pytest.mark.usefixtures("far_from_home")
def test_a_worklist_server_in_another_zone_is_told_the_moment_that_was_meant() -> None:
    at = 1_700_000_000.25
    for item in (
        discontinued("2.25.1", ["crashed"], True, "VIGIE", at, at),
        performed("2.25.1", "2.25.2", [], "VIGIE", at, at, Place("PACS")),
    ):
        [done] = item.UnifiedProcedureStepPerformedProcedureSequence
        for moment in (done.PerformedProcedureStepStartDateTime, done.PerformedProcedureStepEndDateTime):
            assert datetime.strptime(str(moment), "%Y%m%d%H%M%S.%f%z").timestamp() == at
