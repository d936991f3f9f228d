"""What the DICOM door lets in: the same image in other bytes, classes that nobody knows, titles, emergencies."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.pixels import compress
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless, generate_uid
from pynetdicom import AE, build_context
from pynetdicom.sop_class import (
    ModalityPerformedProcedureStep,
    PatientRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
)
from sqlalchemy import insert, select

from client.arrival import room
from client.arrival.completeness import Bounds
from client.arrival.gateway import Gateway
from client.arrival.orphans import LOST, Orphans
from client.arrival.receive import Receiving
from client.doctor import examine
from client.inference import outcomes
from client.inference.panel import Panel
from client.inference.pipeline import Pipeline, Refused, Scored
from client.inference.tensors import Tensors
from client.review import readers, worklist
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import instance, study
from configs.schema import SenderConfig, UrgencyConfig

pytestmark = pytest.mark.integration

Make = Callable[..., Dataset]
DX = "1.2.840.10008.5.1.4.1.1.1.1"
PRIVATE = "1.3.12.2.1107.5.9.1"  # of a manufacturer's own, and none of pydicom's
NEWER = "1.2.840.10008.5.1.4.1.1.9999"
JPEG_XL = "1.2.840.10008.1.2.4.110"
AT_ONCE = Bounds(0.0, 0.0, 0.0)


@pytest.fixture
def gateway(site: Site) -> Iterator[Gateway]:
    made = Gateway(site)
    yield made
    made.close()


def send(gateway: Gateway, *images: Dataset, title: str = "MODALITY") -> list[int]:
    entity = AE(title)
    wanted = dict.fromkeys((str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)) for one in images)
    entity.requested_contexts = [build_context(*one) for one in wanted]
    association = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
    assert association.is_established
    try:
        return [association.send_c_store(image).Status for image in images]
    finally:
        association.release()


def rows(site: Site, table: Any) -> list[Any]:
    with site.database.read() as connection:
        return list(connection.execute(select(table)).all())


def files(site: Site) -> list[Path]:
    return [path for path in site.archive.rglob("*") if path.is_file()]


def again(image: Dataset, folder: Path, syntax: str) -> Dataset:
    path = folder / f"{syntax}.dcm"
    image.save_as(path, enforce_file_format=True)
    read = dcmread(path)
    compress(read, syntax, generate_instance_uid=False)
    return read


def pipeline_of(site: Site) -> Pipeline:
    return Pipeline(Archive(site.archive), Tensors(site.tensors, site.archive), Panel(site).members, "Hospital")


# ---------------------------------------------------------------- twice under one UID


def test_the_same_image_in_another_transfer_syntax_was_sent_again(
    site: Site, gateway: Gateway, radiograph: Make, tmp_path: Path
) -> None:
    image = radiograph()
    compressed = again(image, tmp_path, RLELossless)
    assert send(gateway, image) == [0]
    assert Receiving(site, AT_ONCE).complete() == 1
    assert send(gateway, compressed, again(image, tmp_path, JPEGLSLossless), image, compressed) == [0] * 4
    (kept,) = rows(site, instance)
    assert kept.transfer_syntax == ExplicitVRLittleEndian
    assert [(row.state, row.revision) for row in rows(site, study)] == [("queued", 1)]
    assert [path.stem for path in files(site)] == [kept.sha256]
    assert worklist.one(site, image.StudyInstanceUID).line.conflicting == ""


def test_what_conflicts_is_told_in_the_result_the_worklist_and_by_the_doctor(
    site: Site, gateway: Gateway, radiograph: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image, clean = radiograph(0.2), radiograph(0.2)
    identity = {name: image[name].value for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")}
    other = radiograph(0.9, PatientID=image.PatientID, **identity)
    damaged = again(other, tmp_path, JPEGLSLossless)
    damaged.PixelData = damaged.PixelData[:-40] + bytes(40)
    assert send(gateway, image, other, again(other, tmp_path, RLELossless), damaged, clean) == [0] * 5
    assert [row.conflicting for row in rows(site, instance)] == [False, True, True, False]
    key = site.study_key(image.StudyInstanceUID)
    assert f"conflicting instance kept apart, study {key}" in caplog.text
    assert image.PatientID not in caplog.text

    assert Receiving(site, AT_ONCE).complete() == 2
    pipeline = pipeline_of(site)
    found: dict[str, Scored] = {}
    for _ in range(2):
        taken = outcomes.take(site, list(found))
        assert isinstance(taken, outcomes.Study)
        result = pipeline.process(taken)
        assert isinstance(result, Scored)
        found[taken.uid] = result
    assert [reason.code for reason in found[image.StudyInstanceUID].reasons] == ["conflicting"]
    assert "2 images were left out" in found[image.StudyInstanceUID].reasons[0].text
    assert found[image.StudyInstanceUID].finding.partial
    assert not found[clean.StudyInstanceUID].finding.partial

    line = worklist.one(site, image.StudyInstanceUID).line
    assert line.conflicting == "2 images were left out: they have the UIDs of others that differ"
    assert worklist.one(site, clean.StudyInstanceUID).line.conflicting == ""
    check = next(check for check in examine(site) if check.name == "images left out")
    assert not check.ok
    assert check.found.startswith("2 of 1 study, the last on ")


# ---------------------------------------------------------------- what nobody knows


def test_objects_of_unknown_classes_and_newer_encodings_are_kept_and_refused_with_a_reason(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    private, newer, jpeg_xl = radiograph(SOPClassUID=PRIVATE), radiograph(SOPClassUID=NEWER), radiograph()
    jpeg_xl.file_meta.TransferSyntaxUID = JPEG_XL
    jpeg_xl.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\x00\xe0\x04\0\0\0\xff\x0a\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    jpeg_xl["PixelData"].VR = "OB"
    jpeg_xl["PixelData"].is_undefined_length = True
    assert send(gateway, private, newer, jpeg_xl) == [0, 0, 0]
    assert {row.sop_class for row in rows(site, instance)} == {PRIVATE, NEWER, DX}

    assert Receiving(site, AT_ONCE).complete() == 3
    pipeline = pipeline_of(site)
    codes: dict[str, list[str]] = {}
    while isinstance(taken := outcomes.take(site, list(codes)), outcomes.Study):
        result = pipeline.process(taken)
        assert isinstance(result, Refused)
        codes[taken.uid] = [reason.code for reason in result.reasons]
    assert codes == {
        private.StudyInstanceUID: ["sop-class"],
        newer.StudyInstanceUID: ["sop-class"],
        jpeg_xl.StudyInstanceUID: ["unsupported-transfer-syntax"],
    }


def test_services_are_not_taken_for_storage(gateway: Gateway) -> None:
    entity = AE("MODALITY")
    services = (
        PatientRootQueryRetrieveInformationModelFind,
        StudyRootQueryRetrieveInformationModelMove,
        "1.2.840.10008.5.1.1.9",  # basic grayscale print management
        "1.2.840.10008.5.1.4.2.9999",  # of the standard's, newer, and no storage
        "1.2.840.10008.1.2.1",
    )
    entity.requested_contexts = [build_context(one, ImplicitVRLittleEndian) for one in (*services, PRIVATE)]
    association = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
    assert [context.abstract_syntax for context in association.accepted_contexts] == [PRIVATE]
    question = Dataset()
    question.QueryRetrieveLevel = "STUDY"
    answers = list(association.send_c_find(question, PRIVATE))  # storage is all that it is good for
    assert [status.get("Status", "none") for status, _ in answers] == ["none"]
    echo = AE("MODALITY")
    echo.add_requested_context("1.2.840.10008.1.1")
    after = echo.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
    assert after.send_c_echo().Status == 0
    after.release()


def test_a_site_may_refuse_what_it_does_not_know_and_who_calls_another(
    make_site: Callable[..., Site], radiograph: Make
) -> None:
    site = make_site(unknown_classes=False, require_called_ae=True)
    gateway = Gateway(site)
    try:
        entity = AE("MODALITY")
        entity.requested_contexts = [build_context(one) for one in (DX, PRIVATE)]
        association = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
        assert [context.abstract_syntax for context in association.accepted_contexts] == [DX]
        association.release()
        stranger = entity.associate("127.0.0.1", gateway.port, ae_title="SOMEBODY")
        assert stranger.is_rejected
        answer = stranger.acceptor.primitive
        # PS3.8 table 9-21: rejected for good, by the service user, called AE title not recognised
        assert (answer.result, answer.result_source, answer.diagnostic) == (1, 1, 7)
        assert not gateway.intake.keeps(PRIVATE)
        check = next(check for check in examine(site) if check.name == "AE titles")
        assert check.ok
        assert check.found.startswith("called VIGIE only")
    finally:
        gateway.close()
        site.database.close()


# ---------------------------------------------------------------- a full queue


def test_a_full_queue_takes_emergencies_up_to_a_second_bound(
    make_site: Callable[..., Site], radiograph: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_COUNTED_SECONDS", 0.0)
    urgency = UrgencyConfig(senders=[SenderConfig("ER", "emergency", 5.0)])
    site = make_site(most_waiting=1, most_emergencies=3, urgency=urgency)
    gateway = Gateway(site)
    try:
        assert send(gateway, radiograph()) == [0]
        assert send(gateway, radiograph(), radiograph(RequestedProcedurePriority="HIGH")) == [0xA700] * 2
        announced = radiograph()
        entity = AE("CT1")
        entity.requested_contexts = [build_context(ModalityPerformedProcedureStep)]
        association = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
        scheduled, step = Dataset(), Dataset()
        scheduled.StudyInstanceUID = announced.StudyInstanceUID
        scheduled.RequestedProcedurePriority = "STAT"
        step.ScheduledStepAttributesSequence = [scheduled]
        step.PerformedProcedureStepStatus = "IN PROGRESS"
        step.PerformedSeriesSequence = []
        status, _ = association.send_n_create(step, ModalityPerformedProcedureStep, generate_uid(prefix=None))
        assert status.Status == 0
        association.release()
        assert send(gateway, announced, title="CT1") == [0]
        assert send(gateway, radiograph(RequestedProcedurePriority="STAT")) == [0]
        assert send(gateway, radiograph(), title="ER") == [0]
        # the second bound
        assert send(gateway, radiograph(), title="ER") == [0xA700]
        more = radiograph(StudyInstanceUID=announced.StudyInstanceUID, PatientID=announced.PatientID)
        assert send(gateway, more) == [0]
    finally:
        gateway.close()
        site.database.close()


# ---------------------------------------------------------------- what a kill leaves behind


def test_files_without_an_entry_are_put_aside_and_come_back_with_one(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    kept = radiograph()
    assert send(gateway, kept) == [0]
    archive = Archive(site.archive)
    orphan, fresh = archive.store(b"orphan"), archive.store(b"being entered")
    os.utime(archive.path(orphan), (time.time() - 300, time.time() - 300))
    (row,) = rows(site, instance)
    lost = site.archive / LOST
    lost.mkdir(exist_ok=True)
    archive.path(row.sha256).rename(lost / f"{row.sha256}.dcm")  # the database was away, and is back

    Orphans(site, archive, old_seconds=60.0).wait()

    assert {path.stem for path in files(site) if path.parent != lost} == {row.sha256, fresh}
    assert [path.read_bytes() for path in lost.iterdir()] == [b"orphan"]
    assert archive.read(row.sha256).endswith(kept.PixelData)
    assert send(gateway, kept) == [0]
    assert len(rows(site, instance)) == 1


def test_an_image_that_is_stored_while_its_orphan_is_put_aside_stays(
    site: Site, gateway: Gateway, radiograph: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert send(gateway, radiograph()) == [0]
    image = radiograph()
    assert send(gateway, image) == [0]
    row = rows(site, instance)[-1]
    content = Archive(site.archive).read(row.sha256)
    path = Archive(site.archive).path(row.sha256)
    past = time.time() - 300
    os.utime(path, (past, past))
    known = Orphans._referred
    monkeypatch.setattr(Orphans, "_referred", lambda *a: known(*a) - {bytes.fromhex(row.sha256)})  # entered since
    sweep = Orphans(site, Archive(site.archive), old_seconds=60.0)
    sweep.wait()
    assert path.read_bytes() == content

    # stored again between the look and the removal: the name is new, and stays
    renamed = Path.rename
    orphan = Archive(site.archive).store(b"orphan")
    path = Archive(site.archive).path(orphan)
    os.utime(path, (past, past))

    def rename(self: Path, target: Path) -> Path:
        made = renamed(self, target)
        Archive(site.archive).store(b"orphan")
        return made

    monkeypatch.setattr(Path, "rename", rename)
    sweep = Orphans(site, Archive(site.archive), old_seconds=60.0)
    sweep.wait()
    assert path.read_bytes() == b"orphan"


def test_what_a_lost_database_knew_stays_where_it_is(
    site: Site, gateway: Gateway, radiograph: Make, caplog: Any
) -> None:
    assert send(gateway, radiograph()) == [0]
    archive = Archive(site.archive)
    past = time.time() - 300
    for number in range(300):
        path = archive.path(f"{number:064x}")
        path.write_bytes(b"x")
        os.utime(path, (past, past))
    sweep = Orphans(site, archive, old_seconds=60.0)
    sweep.wait()
    assert len(files(site)) == 301
    assert "none is put aside" in caplog.text


def test_the_pages_mark_a_study_of_which_an_image_was_left_out(
    served: str, site: Site, scored: Callable[..., str]
) -> None:
    uid, clean = scored(objects=True), scored(objects=True)
    with site.database.write() as connection:
        connection.execute(
            insert(instance).values(
                sop_uid=generate_uid(prefix=None),
                sha256="ab" * 32,
                study_uid=uid,
                series_uid="1.2.3",
                sop_class=DX,
                transfer_syntax=ExplicitVRLittleEndian,
                revision=1,
                conflicting=True,
                received_at=time.time(),
            )
        )
    with httpx.Client(base_url=served, follow_redirects=True) as http:
        http.post("/login", data={"token": readers.add(site, "ada", "clinician")})
        assert http.get("/").text.count("image left out") == 1
        marked = http.get(f"/studies/{uid}").text
        assert "1 image was left out" in marked
        assert "vigie site conflicts keep" in marked  # who can say what is right is told how
        assert "left out" not in http.get(f"/studies/{clean}").text
