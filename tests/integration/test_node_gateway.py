"""The node's DICOM door, with real peers: what is acknowledged is there, once, and ends in an outcome."""

import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLSLossless, RLELossless
from pynetdicom import AE
from pynetdicom.association import Association
from sqlalchemy import func, select

from client.arrival.gateway import Gateway
from client.dicom import decode
from client.store.site import Site
from client.store.tables import delivery, instance, ledger, outcome, study
from models.errors import InvalidStudy

pytestmark = pytest.mark.integration

DX = "1.2.840.10008.5.1.4.1.1.1.1"
STORESCU = Path("/usr/bin/storescu")


def associate(port: int, calling: str = "MODALITY", syntaxes: Any = ExplicitVRLittleEndian) -> Association:
    entity = AE(calling)
    entity.add_requested_context(DX, syntaxes)
    entity.add_requested_context("1.2.840.10008.1.1")
    return entity.associate("127.0.0.1", port, ae_title="VIGIE")


def send(port: int, *datasets: Dataset, calling: str = "MODALITY") -> list[int | None]:
    """The status of each C-STORE; None where there was no answer."""
    syntaxes = list({str(dataset.file_meta.TransferSyntaxUID) for dataset in datasets})
    entity = AE(calling)
    for syntax in syntaxes:
        entity.add_requested_context(DX, syntax)
    association = entity.associate("127.0.0.1", port, ae_title="VIGIE")
    assert association.is_established
    statuses = [association.send_c_store(dataset).get("Status") for dataset in datasets]
    association.release()
    return statuses


def rows(site: Site, table: Any) -> list[Any]:
    with site.database.read() as connection:
        return list(connection.execute(select(table)).all())


def outcome_of(site: Site, uid: str, revision: int = 1) -> Any:
    with site.database.read() as connection:
        query = select(outcome).where(outcome.c.study_uid == uid, outcome.c.revision == revision)
        return connection.execute(query).first()


@pytest.fixture
def gateway(site: Site) -> Iterator[Gateway]:
    made = Gateway(site)
    yield made
    made.close()


def test_a_study_sent_to_the_node_is_scored_and_its_results_reach_the_pacs(
    make_site: Callable[..., Site],
    run_node: Callable[..., Any],
    pacs: Any,
    radiograph: Callable[..., Dataset],
    eventually: Callable[..., Any],
) -> None:
    site = make_site(pacs=pacs.config)
    node = run_node(site)
    bright, dark = radiograph(0.8), radiograph(0.2)
    assert send(node.dicom_port, bright, dark) == [0, 0]
    high = eventually(lambda: outcome_of(site, bright.StudyInstanceUID))
    low = eventually(lambda: outcome_of(site, dark.StudyInstanceUID))
    assert (high.kind, high.positive, high.sop_uid) == ("scored", True, bright.SOPInstanceUID)
    assert (low.kind, low.positive) == ("scored", False)
    # the test version: sigmoid(8 * (mean - 0.5))
    assert high.score == pytest.approx(0.917, abs=0.02)
    assert low.score == pytest.approx(0.083, abs=0.02)
    eventually(lambda: all(row.state == "sent" for row in rows(site, delivery)))
    assert {row.sop_uid for row in rows(site, delivery)} == set(pacs.received)
    assert {dataset.StudyInstanceUID for sent in pacs.received.values() for dataset in sent} == {
        bright.StudyInstanceUID,
        dark.StudyInstanceUID,
    }
    assert site.ledger.first_break() is None
    assert node.stop() == 0


def test_out_of_scope_is_refused_with_every_reason(
    site: Site, run_node: Callable[..., Any], radiograph: Callable[..., Dataset], eventually: Callable[..., Any]
) -> None:
    node = run_node(site)
    knee = radiograph(BodyPartExamined="KNEE", PatientAge="010Y", PatientBirthDate="", ViewPosition=None)
    assert send(node.dicom_port, knee) == [0]
    found = eventually(lambda: outcome_of(site, knee.StudyInstanceUID))
    assert found.kind == "refused"
    assert [reason["code"] for reason in found.reasons] == ["body-part", "view-missing", "age"]
    assert "KNEE" in found.reasons[0]["text"]


def test_without_an_adopted_version_a_study_is_refused(
    make_site: Callable[..., Site],
    run_node: Callable[..., Any],
    radiograph: Callable[..., Dataset],
    eventually: Callable[..., Any],
) -> None:
    site = make_site(adopted=False)
    node = run_node(site)
    image = radiograph()
    assert send(node.dicom_port, image) == [0]
    found = eventually(lambda: outcome_of(site, image.StudyInstanceUID))
    assert (found.kind, found.reasons[0]["code"]) == ("refused", "no-version")


def test_an_image_that_comes_after_the_outcome_gives_a_new_one_that_names_the_one_before(
    site: Site, run_node: Callable[..., Any], radiograph: Callable[..., Dataset], eventually: Callable[..., Any]
) -> None:
    node = run_node(site)
    first = radiograph(0.2)
    same = {"StudyInstanceUID": first.StudyInstanceUID, "PatientID": first.PatientID}
    assert send(node.dicom_port, first) == [0]
    assert not eventually(lambda: outcome_of(site, first.StudyInstanceUID)).positive
    second = radiograph(0.9, **same)
    assert send(node.dicom_port, second) == [0]
    newer = eventually(lambda: outcome_of(site, first.StudyInstanceUID, 2))
    assert newer.positive
    assert newer.sop_uid == second.SOPInstanceUID
    assert outcome_of(site, first.StudyInstanceUID, 1) is not None
    reports = {row.outcome_id: row for row in rows(site, delivery) if row.kind == "sr"}
    earlier, later = (reports[outcome_of(site, first.StudyInstanceUID, revision).id] for revision in (1, 2))
    document = pydicom.dcmread(site.archive / later.sha256[:2] / f"{later.sha256}.dcm")
    (named,) = document.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in named.ReferencedSOPSequence] == [earlier.sop_uid]
    before = pydicom.dcmread(site.archive / earlier.sha256[:2] / f"{earlier.sha256}.dcm")
    assert named.SeriesInstanceUID == before.SeriesInstanceUID
    assert "PredecessorDocumentsSequence" not in before
    # another patient's image under the same study UID: nobody can say whose study it is
    stranger = radiograph(0.9, StudyInstanceUID=first.StudyInstanceUID, PatientID="SOMEONE-ELSE")
    assert send(node.dicom_port, stranger) == [0]
    newest = eventually(lambda: outcome_of(site, first.StudyInstanceUID, 3))
    assert (newest.kind, newest.reasons[0]["code"]) == ("refused", "patient-mismatch")


def test_an_image_sent_twice_is_one_image(site: Site, gateway: Gateway, radiograph: Callable[..., Dataset]) -> None:
    image = radiograph()
    assert send(gateway.port, image, image) == [0, 0]
    assert send(gateway.port, image) == [0]
    assert len(rows(site, instance)) == 1
    assert len(list(site.archive.glob("*/*.dcm"))) == 1


def test_other_content_under_the_same_uid_is_kept_apart(
    site: Site, gateway: Gateway, radiograph: Callable[..., Dataset]
) -> None:
    first = radiograph(0.2)
    identity = {
        keyword: first.get(keyword)
        for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID")
    }
    other = radiograph(0.9, **identity)
    assert send(gateway.port, first, other, other) == [0, 0, 0]
    kept = sorted(rows(site, instance), key=lambda row: row.id)
    assert [row.conflicting for row in kept] == [False, True]
    assert [row.revision for row in rows(site, study)] == [1]
    events = [row.event for row in rows(site, ledger)]
    assert events.count("instance.conflicting") == 1


def test_our_own_result_that_comes_back_is_no_new_image(
    make_site: Callable[..., Site],
    run_node: Callable[..., Any],
    pacs: Any,
    radiograph: Callable[..., Dataset],
    eventually: Callable[..., Any],
) -> None:
    site = make_site(pacs=pacs.config)
    node = run_node(site)
    image = radiograph()
    assert send(node.dicom_port, image) == [0]
    eventually(lambda: rows(site, delivery) and all(row.state == "sent" for row in rows(site, delivery)))
    echoes = [sent[0] for sent in pacs.received.values()]
    entity = AE("PACS")
    for echo in echoes:
        entity.add_requested_context(echo.SOPClassUID, ExplicitVRLittleEndian)
        entity.add_requested_context(echo.SOPClassUID, ImplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", node.dicom_port)
    for echo in echoes:
        implicit, _ = echo.original_encoding
        echo.file_meta = pydicom.dataset.FileMetaDataset()
        echo.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        assert association.send_c_store(echo).Status == 0
    association.release()
    assert [row.revision for row in rows(site, study)] == [1]
    assert len(rows(site, instance)) == 1


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"StudyInstanceUID": None}, 0xA900),
        ({"SeriesInstanceUID": None}, 0xA900),
        ({"StudyInstanceUID": "../../etc/passwd"}, 0xA900),
    ],
)
def test_what_cannot_be_filed_is_refused_and_leaves_nothing(
    site: Site, gateway: Gateway, radiograph: Callable[..., Dataset], changes: dict[str, Any], expected: int
) -> None:
    assert send(gateway.port, radiograph(**changes)) == [expected]
    assert rows(site, instance) == []
    assert list(site.archive.glob("*/*")) == []


def test_a_full_disk_is_said_to_the_peer_and_leaves_nothing(
    site: Site, radiograph: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    gateway = Gateway(site)
    try:
        monkeypatch.setattr(os, "fsync", full)
        assert send(gateway.port, radiograph()) == [0xA700]
        assert list(site.archive.glob("*/*")) == []
        assert rows(site, instance) == []
        monkeypatch.undo()
        assert send(gateway.port, radiograph()) == [0]
    finally:
        monkeypatch.undo()
        gateway.close()


def test_several_associations_at_once_lose_nothing(
    site: Site, gateway: Gateway, radiograph: Callable[..., Dataset]
) -> None:
    batches = [[radiograph() for _ in range(6)] for _ in range(8)]
    statuses: list[list[int | None]] = []
    threads = [
        threading.Thread(target=lambda batch=batch: statuses.append(send(gateway.port, *batch))) for batch in batches
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [[0] * 6] * 8
    with site.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(instance)).scalar() == 48
        assert connection.execute(select(func.count()).select_from(study)).scalar() == 48


def test_only_the_allowed_may_send(make_site: Callable[..., Site], radiograph: Callable[..., Dataset]) -> None:
    site = make_site(calling_ae_titles=["XRAY1"])
    gateway = Gateway(site)
    try:
        assert not associate(gateway.port, "INTRUDER").is_established
        allowed = associate(gateway.port, "XRAY1")
        assert allowed.is_established
        assert allowed.send_c_echo().Status == 0
        assert allowed.send_c_store(radiograph()).Status == 0
        allowed.release()
    finally:
        gateway.close()
        site.database.close()


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
def test_compressed_images_are_kept_as_they_are(
    site: Site, gateway: Gateway, radiograph: Callable[..., Dataset], syntax: str
) -> None:
    image = radiograph()
    image.compress(syntax, generate_instance_uid=False)
    assert send(gateway.port, image) == [0]
    (stored,) = rows(site, instance)
    assert stored.transfer_syntax == syntax
    kept = pydicom.dcmread(site.archive / stored.sha256[:2] / f"{stored.sha256}.dcm")
    assert kept.PixelData == image.PixelData


def test_what_nothing_here_decodes_is_kept_and_refused_when_it_is_read(
    site: Site, gateway: Gateway, radiograph: Callable[..., Dataset]
) -> None:
    image = radiograph()
    image.compress(RLELossless, generate_instance_uid=False)
    image.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.55")  # retired, and in old archives
    assert send(gateway.port, image) == [0]
    (stored,) = rows(site, instance)
    assert stored.transfer_syntax == "1.2.840.10008.1.2.4.55"
    path = site.archive / stored.sha256[:2] / f"{stored.sha256}.dcm"
    with pytest.raises(InvalidStudy) as refused:
        decode.read(path)
    assert refused.value.reason == "unsupported-transfer-syntax"


def test_nagle_is_off(gateway: Gateway) -> None:
    association = associate(gateway.port)
    (server,) = gateway._server.active_associations
    connection: Any = server.dul.socket
    assert connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    association.release()


@pytest.mark.peers("dcmdump")  # dcmtk; pynetdicom brings another storescu into the environment
def test_dcmtk_stores_and_echoes(
    site: Site, gateway: Gateway, radiograph: Callable[..., Dataset], tmp_path: Path
) -> None:
    folder = tmp_path / "sent"
    folder.mkdir()
    for number in range(5):
        radiograph().save_as(folder / f"{number}.dcm", enforce_file_format=True)
    common = ["-aec", "VIGIE", "127.0.0.1", str(gateway.port)]
    subprocess.run([str(STORESCU), "+sd", *common, str(folder)], check=True, timeout=60)
    assert len(rows(site, instance)) == 5
    if echoscu := shutil.which("echoscu", path="/usr/bin"):
        subprocess.run([echoscu, *common], check=True, timeout=30)


def test_no_identifier_reaches_the_log(
    site: Site, run_node: Callable[..., Any], radiograph: Callable[..., Dataset], eventually: Callable[..., Any]
) -> None:
    node = run_node(site)
    image = radiograph(PatientID="SECRET-ID", PatientName="Secret^Name", AccessionNumber="SECRETACC")
    assert send(node.dicom_port, image) == [0]
    eventually(lambda: outcome_of(site, image.StudyInstanceUID))
    node.stop()
    text = (site.logs / "node.log").read_text()
    for line in text.splitlines():
        json.loads(line)
    for secret in ("SECRET", "Secret", image.StudyInstanceUID, image.SOPInstanceUID):
        assert secret not in text
    assert site.study_key(image.StudyInstanceUID) in text
