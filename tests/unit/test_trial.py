"""`vigie site try`: every file of a folder is accounted for once, and nothing of it stays."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import compress
from pydicom.uid import RLELossless
from sqlalchemy import func, select
from typer.testing import CliRunner

from client import doctor
from client.dicom import decode
from client.inference import trial
from client.inference.panel import Panel
from client.inference.trial import Trial, TriedStudy, try_folder
from client.results.conformity import Examined
from client.results.result import ResultObject
from client.store import versions
from client.store.site import Site
from client.store.tables import instance, outcome, study
from models.errors import NotFound
from tests.integration.test_rejections import rejecting

Make = Callable[..., Dataset]


def save(dataset: Dataset, path: Path) -> Dataset:
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def stored(site: Site) -> tuple[int, ...]:
    with site.database.read() as connection:
        rows = [connection.execute(select(func.count()).select_from(table)).scalar_one() for table in _TABLES]
    files = [path for folder in (site.archive, site.tensors) for path in folder.rglob("*") if path.is_file()]
    return (*rows, len(files), sum(1 for _ in site.ledger.entries()))


def everything(site: Site) -> dict[str, bytes]:
    """Every file in the site; of the database, which is open, that it is there."""
    return {
        str(path.relative_to(site.folder)): b"" if path.name.startswith("site.db") else path.read_bytes()
        for path in site.folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm"))
    }


_TABLES = (instance, study, outcome)


def accounted(tried: Trial, folder: Path) -> None:
    named = [file for one in tried.studies for file in one.files] + [one.file for one in tried.unread]
    assert Counter(named) == Counter(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_folder_of_good_and_bad_files(site: Site, radiograph: Make, tmp_path: Path) -> None:
    folder = tmp_path / "scanner"
    good = save(radiograph(0.8), folder / "good.dcm")
    same = {"StudyInstanceUID": good.StudyInstanceUID, "PatientID": good.PatientID}
    save(radiograph(0.2, **same), folder / "deep" / "second.dcm")
    save(radiograph(BodyPartExamined="HAND"), folder / "hand.dcm")
    save(radiograph(PixelData=b"\0" * 100), folder / "short.dcm")
    save(radiograph(StudyInstanceUID=None), folder / "nameless.dcm")
    clash = save(radiograph(), folder / "clash-1.dcm")
    uids = {name: clash[name].value for name in ("SOPInstanceUID", "StudyInstanceUID", "PatientID")}
    save(radiograph(**uids), folder / "clash-2.dcm")
    recoded = dcmread(folder / "clash-1.dcm")
    compress(recoded, RLELossless, generate_instance_uid=False)
    recoded.save_as(folder / "clash-3.dcm")
    shutil.copy(folder / "good.dcm", folder / "good-again.dcm")
    shutil.copy(str(get_testdata_file("CT_small.dcm")), folder / "ct.dcm")
    (folder / "text.dcm").write_text("not a picture")
    before = stored(site)

    tried = try_folder(site, Panel(site).members, folder)

    accounted(tried, folder)
    outcomes = {one.files[0]: one for one in tried.studies}
    first = outcomes["deep/second.dcm"]
    serving = Panel(site).members()[0]
    assert serving is not None
    assert (first.outcome, first.version) == ("scored", serving.bundle.facts.label)
    assert first.scored_file in ("good.dcm", "good-again.dcm")
    expected = serving.engine.run(serving.preprocessing(decode.read(folder / "good.dcm").pixels)).score
    assert first.score == pytest.approx(expected, abs=1e-6)
    assert {why.code for why in outcomes["hand.dcm"].reasons} == {"body-part"}
    assert {why.code for why in outcomes["short.dcm"].reasons} == {"truncated"}
    assert outcomes["ct.dcm"].outcome == "refused"
    assert [why.code for why in outcomes["clash-1.dcm"].reasons] == ["conflicting"]
    assert [why.code for why in first.reasons] == []
    assert {one.file: one.reason for one in tried.unread} == {
        "clash-2.dcm": "conflicting",
        "clash-3.dcm": "duplicate",
        "good.dcm" if "good-again.dcm" in first.files else "good-again.dcm": "duplicate",
        "nameless.dcm": "uid-missing",
        "text.dcm": "not-dicom",
    }
    assert stored(site) == before


def test_images_that_the_others_state_and_that_are_not_there_are_missed(
    site: Site, volumes: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    bundle = volumes.build(tmp_path / "volume", vendor_key)
    shutil.copytree(bundle.folder, site.versions / bundle.digest)
    versions.receive(site, bundle)
    versions.adopt(site, bundle.digest)
    for name, stated in (("stated", 20), ("unstated", None), ("unsure", "many")):
        for number, image in enumerate(volumes.series(count=20, step=3.0)[:6]):
            if stated == "many":
                image.ImagesInAcquisition = 20 + number
            elif stated:
                image.ImagesInAcquisition = stated
            save(image, tmp_path / "scanner" / name / f"{number}.dcm")

    tried = try_folder(site, Panel(site).members, tmp_path / "scanner")

    said = {one.files[0].split("/")[0]: [(why.code, why.text) for why in one.reasons] for one in tried.studies}
    assert {one.outcome for one in tried.studies} == {"scored"}
    assert said == {
        "stated": [("incomplete", "20 images were expected, 6 came")], "unstated": [], "unsure": []
    }  # fmt: skip


def test_a_study_of_which_every_image_conflicts_is_listed_and_no_file_is_counted_twice(
    site: Site, radiograph: Make, tmp_path: Path
) -> None:
    from scripts.vigie import app

    folder = tmp_path / "scanner"
    first = save(radiograph(0.2), folder / "a.dcm")
    other = save(radiograph(0.8, SOPInstanceUID=first.SOPInstanceUID), folder / "b.dcm")  # of another study
    shutil.copy(folder / "b.dcm", folder / "b-again.dcm")
    recoded = dcmread(folder / "b.dcm")
    compress(recoded, RLELossless, generate_instance_uid=False)
    recoded.save_as(folder / "c.dcm")

    tried = try_folder(site, Panel(site).members, folder)

    accounted(tried, folder)
    found = {one.study: one for one in tried.studies}
    assert found[first.StudyInstanceUID].outcome == "scored"
    lost = found[other.StudyInstanceUID]
    assert (lost.outcome, lost.files, [why.code for why in lost.reasons]) == ("refused", [], ["conflicting"])
    assert sorted(one.reason for one in tried.unread) == ["conflicting", "duplicate", "duplicate"]
    said = CliRunner().invoke(app, ["site", "try", str(folder), "--folder", str(site.folder)])
    assert said.exit_code == 0, said.output
    assert f"0 files  study {other.StudyInstanceUID}" in said.output


def test_what_a_document_in_the_folder_rejects_is_not_read_and_that_is_said(
    site: Site, radiograph: Make, tmp_path: Path
) -> None:
    """A folder that was exported from a PACS holds the images that its quality control has rejected, too."""
    folder = tmp_path / "images"
    folder.mkdir()
    bad, good = radiograph(0.9), radiograph(0.1)
    good.StudyInstanceUID, good.PatientID = bad.StudyInstanceUID, bad.PatientID
    stranger = rejecting(good, PatientID="SOMEBODY^ELSE")  # the node would not believe it either
    for name, one in (("bad", bad), ("good", good), ("note", rejecting(bad)), ("stranger", stranger)):
        one.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    trial = try_folder(site, Panel(site).members, folder)
    (study,) = trial.studies
    assert (study.outcome, study.scored_file) == ("scored", "good.dcm")
    assert [(one.file, one.reason) for one in trial.unread] == [("bad.dcm", "rejected")]
    assert study.files == ["good.dcm", "note.dcm", "stranger.dcm"]


def test_links_to_folders_are_followed_once_and_what_leads_nowhere_is_said(
    site: Site, radiograph: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "scanner"
    save(radiograph(), folder / "own" / "one.dcm")
    save(radiograph(), tmp_path / "elsewhere" / "deep" / "two.dcm")
    (folder / "away").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "a-second-time").symlink_to(folder / "own", target_is_directory=True)
    (tmp_path / "elsewhere" / "deep" / "round").symlink_to(folder, target_is_directory=True)
    (folder / "gone").symlink_to(tmp_path / "nowhere")

    tried = try_folder(site, Panel(site).members, folder)

    assert [one.files for one in tried.studies] == [["away/deep/two.dcm"], ["own/one.dcm"]]
    assert {one.file: one.reason for one in tried.unread} == {
        "a-second-time": "duplicate",
        "away/deep/round": "duplicate",
        "gone": "unreadable",
    }


def test_without_a_version_every_study_says_so(
    make_site: Callable[..., Site], radiograph: Make, tmp_path: Path
) -> None:
    site = make_site(adopted=False)
    save(radiograph(), tmp_path / "scanner" / "one.dcm")

    tried = try_folder(site, Panel(site).members, tmp_path / "scanner")

    assert [(one.outcome, one.version, one.reasons[0].code) for one in tried.studies] == [
        ("refused", None, "no-version")
    ]


class Strict:
    """A version's check that finds everything unlike what the version was trained on."""

    limit = 1.0

    def distance(self, tensor: object) -> float:
        return 2.0


def test_a_version_that_finds_the_image_strange_leaves_it_to_the_next_that_fits(
    site: Site, radiograph: Make, tmp_path: Path, bundles: ModuleType, volumes: ModuleType, vendor_key: Any
) -> None:
    built = [
        bundles.build(tmp_path / "eager", vendor_key, gain=9.0, name="eager", rank=1),
        volumes.build(tmp_path / "nodule", vendor_key),  # adopted last, and fits nothing here
    ]
    for bundle in built:
        shutil.copytree(bundle.folder, site.versions / bundle.digest)
        versions.receive(site, bundle)
        versions.adopt(site, bundle.digest)
    members = list(Panel(site).members())
    strict: Any = Strict()
    save(radiograph(), tmp_path / "scanner" / "one.dcm")

    def tried(*strange: str) -> TriedStudy:
        panel = [replace(one, novelty=strict) if one.bundle.facts.name in strange else one for one in members]
        return try_folder(site, lambda: panel, tmp_path / "scanner").studies[0]

    assert (tried().outcome, tried().version) == ("scored", "eager@1")
    assert (tried("eager").outcome, tried("eager").version) == ("scored", "brightness@1")
    neither = tried("eager", "brightness")
    assert (neither.outcome, [why.code for why in neither.reasons]) == ("refused", ["novel-image"])
    assert neither.version == "eager@1"  # whose reason it is
    assert "refused" in neither.version_why


def test_the_command_writes_what_it_prints(site: Site, radiograph: Make, tmp_path: Path) -> None:
    from scripts.vigie import app

    save(radiograph(), tmp_path / "scanner" / "one.dcm")
    written = tmp_path / "tried.json"
    site.measured.unlink()  # nothing is known of this machine: it is measured, and not kept
    before = everything(site)

    done = CliRunner().invoke(
        app, ["site", "try", str(tmp_path / "scanner"), "--folder", str(site.folder), "--json", str(written)]
    )

    assert done.exit_code == 0, done.output
    assert done.output.startswith("scored")
    assert json.loads(written.read_text())["studies"][0]["files"] == ["one.dcm"]
    assert everything(site) == before
    with pytest.raises(NotFound):
        try_folder(site, Panel(site).members, tmp_path / "missing")


def test_what_the_node_would_not_send_or_could_not_make_is_said(
    site: Site, radiograph: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scripts.vigie import app

    folder = tmp_path / "scanner"
    save(radiograph(), folder / "one.dcm")
    (well,) = try_folder(site, Panel(site).members, folder).studies
    assert [(made.kind, made.problems) for made in well.objects] == [("sc", []), ("sr", [])]

    def find(_: bytes) -> Examined:
        return Examined(("it is odd",), "")

    monkeypatch.setattr(trial, "examine", find)
    said = CliRunner().invoke(app, ["site", "try", str(folder), "--folder", str(site.folder)])
    assert said.output.startswith("scored")
    assert "sr would be kept back: it is odd" in said.output
    (check,) = (check for check in doctor.examine(site) if check.name == "test study")
    assert not check.ok
    assert "sr: it is odd" in check.found

    def fail(*_: object) -> list[ResultObject]:
        raise ValueError("a header held something")

    monkeypatch.setattr(trial, "objects", fail)
    (broken,) = try_folder(site, Panel(site).members, folder).studies
    assert (broken.outcome, broken.score, broken.reasons[0].code) == ("failed", None, "unexpected")


def test_a_name_in_another_encoding_is_told_like_any_other(site: Site, radiograph: Make, tmp_path: Path) -> None:
    from scripts.vigie import app

    folder = tmp_path / "scanner"
    folder.mkdir()
    save(radiograph(), folder / "one.dcm").save_as(folder / os.fsdecode(b"radiograf\xeda.dcm"))
    (folder / os.fsdecode(b"\xff.txt")).write_text("not a picture")
    written = tmp_path / "tried.json"

    done = CliRunner().invoke(app, ["site", "try", str(folder), "--folder", str(site.folder), "--json", str(written)])

    assert done.exit_code == 0, done.output
    tried = json.loads(written.read_text())
    named = {*tried["studies"][0]["files"], *(one["file"] for one in tried["unread"])}
    assert named == {"one.dcm", "radiograf\\xeda.dcm", "\\xff.txt"}


def test_what_does_not_fit_into_the_memory_is_not_scored_here_either(
    make_site: Callable[..., Site], radiograph: Make, tmp_path: Path
) -> None:
    site = make_site(memory_mib=64)
    save(radiograph(rows=1600, columns=1600), tmp_path / "scanner" / "large.dcm")
    save(radiograph(), tmp_path / "scanner" / "small.dcm")

    tried = try_folder(site, Panel(site).members, tmp_path / "scanner")

    assert {one.files[0]: [why.code for why in one.reasons] for one in tried.studies} == {
        "large.dcm": ["too-large-for-memory"],
        "small.dcm": [],
    }


def test_real_files_of_many_makers_are_all_accounted_for(site: Site, vigie_data: Path) -> None:
    folder = vigie_data / "dicom"

    tried = try_folder(site, Panel(site).members, folder)

    accounted(tried, folder)
    assert not [one for one in tried.studies if one.outcome == "failed"]


def test_a_grid_that_does_not_fit_into_the_memory_is_known_by_the_headers(
    make_site: Callable[..., Site], volumes: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    """The index knows the acquired voxels; the network's are fifty times as many here."""
    site = make_site(adopted=False, memory_mib=12)
    fine = volumes.declared(window=(32, 48, 48), spacing_mm=(0.8, 0.4, 0.4))
    bundle = volumes.build(tmp_path / "volume", vendor_key, segmentation=fine)
    shutil.copytree(bundle.folder, site.versions / bundle.digest)
    versions.receive(site, bundle)
    versions.adopt(site, bundle.digest)
    (tmp_path / "folder").mkdir()
    for number, image in enumerate(volumes.series(count=20, step=3.0, spacing=(1.5, 1.5), shape=(48, 48))):
        (tmp_path / "folder" / f"{number}.dcm").write_bytes(volumes.content(image))

    (tried,) = try_folder(site, Panel(site).members, tmp_path / "folder").studies
    assert (tried.outcome, [reason.code for reason in tried.reasons]) == ("failed", ["too-large-for-memory"])

    site.config.memory_mib = 100
    (tried,) = try_folder(site, Panel(site).members, tmp_path / "folder").studies
    assert tried.outcome == "scored"
