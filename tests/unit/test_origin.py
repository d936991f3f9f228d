"""A result object leads to the version that made it, and says nothing else on the way."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import select
from typer.testing import CliRunner

from client.results.origin import origin
from client.review.made import counted, objects
from client.store import versions
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery
from models.errors import InvalidStudy
from scripts.vigie import app


@pytest.fixture
def made(site: Site, scored: Callable[..., str], tmp_path: Path) -> Path:
    """The report that the node made of a study, as a PACS would hand it out."""
    scored(objects=True)
    with site.database.read() as connection:
        row = connection.execute(select(delivery).where(delivery.c.kind == "sr")).one()
    path = tmp_path / "report.dcm"
    path.write_bytes(Archive(site.archive).read(row.sha256))
    return path


def _altered(made: Path, change: Callable[[Dataset], None]) -> Path:
    dataset = dcmread(made)
    change(dataset)
    path = made.with_name("altered.dcm")
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_a_report_leads_to_its_version_and_the_version_back_to_the_report(site: Site, made: Path) -> None:
    held = versions.listed(site)[0]
    found = origin(made)
    assert found.digest == held.digest

    said = counted(site)[held.digest]
    assert (said.scored, said.refused, said.objects, said.withdrawn) == (1, 0, 0, 0)  # not sent yet
    named = [one for one in objects(site, held.digest) if one.kind == "sr"]
    assert [one.sop_uid for one in named] == [str(dcmread(made).SOPInstanceUID)]

    run = CliRunner().invoke(app, ["site", "results", "--folder", str(site.folder), "--of", str(made)])
    assert run.exit_code == 0
    assert run.output.split()[:2] == [f"{held.name}@{held.number}", held.digest]
    run = CliRunner().invoke(app, ["site", "results", "--folder", str(site.folder), f"{held.name}@{held.number}"])
    assert named[0].sop_uid in run.output


def test_a_pacs_that_takes_the_serial_number_away_leaves_the_device(made: Path) -> None:
    def without_serial(dataset: Dataset) -> None:
        del dataset.DeviceSerialNumber

    found = origin(_altered(made, without_serial))
    assert (found.digest, found.device) == ("", origin(made).device)


def test_an_object_that_names_two_versions_or_none_is_not_believed(made: Path, tmp_path: Path) -> None:
    def forged(dataset: Dataset) -> None:
        dataset.DeviceSerialNumber = "0" * 64

    def anothers(dataset: Dataset) -> None:
        del dataset.DeviceSerialNumber
        del dataset.ContributingEquipmentSequence

    for change in (forged, anothers):
        with pytest.raises(InvalidStudy):
            origin(_altered(made, change))
    broken = tmp_path / "broken.dcm"
    for content in (b"", b"no DICOM", made.read_bytes()[:200], io.BytesIO(b"DICM" * 100).getvalue()):
        broken.write_bytes(content)
        with pytest.raises(InvalidStudy):
            origin(broken)
