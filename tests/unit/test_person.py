"""Two people in one study are not scored as one, and one person written in two ways is still scored."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset

from client.dicom.person import Person, differ, several
from client.inference.panel import Panel
from client.inference.trial import try_folder
from client.store.site import Site

Make = Callable[..., Dataset]
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
ALL = {
    "PatientID": "P1",
    "IssuerOfPatientID": "NORTH",
    "PatientName": "Müller^Anna Maria",
    "PatientBirthDate": "19600131",
    "PatientSex": "F",
}
NOBODY = {"PatientID": "", "IssuerOfPatientID": None}
ANOTHER = {"PatientName": "Other^Person", "PatientBirthDate": "19800101", "PatientSex": "M"}


def header(changes: dict[str, Any]) -> Dataset:
    more = {"SpecificCharacterSet": "ISO_IR 192"}
    dataset = Dataset()
    for keyword, value in (more | ALL | changes).items():
        if value is not None:
            setattr(dataset, keyword, value)
    stored = BytesIO()
    dataset.save_as(stored, implicit_vr=False, little_endian=True)
    return dcmread(stored, force=True)


def person(changes: dict[str, Any]) -> Person:
    return Person.from_dataset(header(changes))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (NOBODY, NOBODY | ANOTHER),
        ({}, ANOTHER),
        ({}, NOBODY | ANOTHER),
        ({}, NOBODY | {"PatientName": "Other^Person"}),
        (NOBODY, NOBODY | {"PatientName": "Other^Person"}),
        ({}, {"PatientID": "P2"}),
        ({}, {"IssuerOfPatientID": "SOUTH"}),
        ({}, {"PatientBirthDate": "19600201"}),
        ({}, {"PatientSex": "M"}),
        ({"PatientBirthDate": ""}, {"PatientName": "Other^Person"}),
        (NOBODY | {"PatientName": "Yamada^Tarou=山田^太郎"}, NOBODY | {"PatientName": "Suzuki^Tarou=鈴木^太郎"}),
    ],
)
def test_two_people_are_told_apart(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert differ(person(one), person(other))
    assert several([header(one), header(one), header(other)])


def test_an_identifier_of_two_values_names_two_people() -> None:
    """A result made from the first would be filed with somebody else's."""
    assert several([header({"PatientID": ["P1", "P2"]})])
    assert not several([header({"PatientID": ["P1", ""]})])


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"IssuerOfPatientID": None}),
        ({}, dict.fromkeys(ALL)),
        ({}, {"PatientName": "Schmidt^Anna"}),  # married
        ({}, {"PatientName": "MUELLER^A"}),
        ({}, {"PatientSex": "O"}),
        ({}, {"PatientBirthDate": "1960.01.31"}),
        ({}, {"PatientBirthDate": "1960"}),
        (NOBODY, NOBODY | {"PatientName": "MULLER^ANNA"}),
        (NOBODY, NOBODY | {"PatientName": " Müller ^Anna"}),
        (NOBODY | {"PatientName": "De la Cruz^J"}, NOBODY | {"PatientName": "DELACRUZ^JUAN^PABLO^DR"}),
        (NOBODY | {"PatientName": "Yamada^Tarou"}, NOBODY | {"PatientName": "Yamada^Tarou=山田^太郎=やまだ^たろう"}),
        (NOBODY | {"PatientName": "Yamada^Tarou"}, NOBODY | {"PatientName": "山田^太郎"}),
    ],
)
def test_one_person_written_in_another_way_is_no_other_one(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert not differ(person(one), person(other))
    assert not several([header(one), header(other)])


def test_what_a_device_wrote_for_a_birth_date_is_not_told(recwarn: pytest.WarningsRecorder) -> None:
    dataset = Dataset()
    dataset.PatientBirthDate = "19600101"
    stored = BytesIO()
    dataset.save_as(stored, implicit_vr=False, little_endian=True)
    odd = dcmread(BytesIO(stored.getvalue().replace(b"19600101", b"JAN 1960")), force=True)

    assert Person.from_dataset(odd) == Person()
    assert not recwarn.list


@given(st.lists(st.sampled_from(["", "A", "B"]), min_size=6, max_size=6), st.text(max_size=12))
def test_it_does_not_matter_who_is_asked_first(values: list[str], name: str) -> None:
    one, other = Person(*values[:3]), Person(*values[3:])
    assert differ(one, other) == differ(other, one)
    named = Dataset()
    named.PatientName = name
    assert not differ(Person.from_dataset(named), Person.from_dataset(named))


def tried(site: Site, folder: Path, *images: Dataset) -> tuple[str, list[str]]:
    for number, image in enumerate(images):
        image.StudyInstanceUID = images[0].StudyInstanceUID
        image.save_as(folder / f"{number}.dcm", enforce_file_format=True)
    (study,) = try_folder(site, Panel(site).members, folder).studies
    return study.outcome, [why.code for why in study.reasons]


@pytest.mark.parametrize("whose", ["", "123"])
def test_a_study_of_two_people_is_refused_and_says_nothing_of_them(
    site: Site, radiograph: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture, whose: str
) -> None:
    first, second = radiograph(0.2, PatientID=whose), radiograph(0.9, PatientID=whose, **ANOTHER)

    assert tried(site, tmp_path, first, second) == ("refused", ["patient-mismatch"])
    assert "Other" not in caplog.text
    assert "1980" not in caplog.text


def test_what_a_workstation_adds_does_not_keep_an_image_from_being_scored(
    site: Site, radiograph: Make, tmp_path: Path
) -> None:
    image = radiograph(0.9, PatientID="123")
    state = Dataset()
    state.PatientID, state.SeriesInstanceUID = "123", "2.25.8"
    state.SOPClassUID, state.Modality = PRESENTATION_STATE, "PR"
    state.SOPInstanceUID, state.IssuerOfPatientID = "2.25.7", "WORKSTATION"
    state.PatientName = "Somebody^Else"
    state.PatientBirthDate = "19990101"
    state.file_meta = radiograph().file_meta
    state.file_meta.MediaStorageSOPClassUID = PRESENTATION_STATE
    second = radiograph(0.2, PatientID="123", IssuerOfPatientID="NORTH")  # of another device

    assert tried(site, tmp_path, image, state, second) == ("scored", [])
