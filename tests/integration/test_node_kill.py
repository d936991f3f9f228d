"""`kill -9` at any instant loses nothing that was acknowledged, and repeats nothing that was concluded."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from sqlalchemy import func, select

from client.arrival.completeness import Bounds
from client.arrival.gateway import Gateway
from client.arrival.receive import Receiving
from client.inference import outcomes
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, instance, outcome, study

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
DX = "1.2.840.10008.5.1.4.1.1.1.1"


class Modality:
    """Sends images in order and remembers which were acknowledged; survives a receiver that dies."""

    def __init__(self, images: list[Dataset]) -> None:
        self.waiting = list(images)
        self.acknowledged: set[str] = set()

    def send(self, port: int, per_association: int = 10) -> None:
        entity = AE("MODALITY")
        entity.add_requested_context(DX, ExplicitVRLittleEndian)
        entity.dimse_timeout = 20
        while self.waiting:
            association = entity.associate("127.0.0.1", port)
            if not association.is_established:
                return
            for image in self.waiting[:per_association]:
                try:
                    status = association.send_c_store(image)
                except RuntimeError:  # the association is gone
                    return
                if status.get("Status") != 0:
                    return
                self.acknowledged.add(image.SOPInstanceUID)
                self.waiting.remove(image)
            association.release()


def count(site: Site, table: Any) -> int:
    with site.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar() or 0)


def file_one(site: Site, image: Dataset) -> None:
    gateway = Gateway(site)
    try:
        Modality([image]).send(gateway.port)
    finally:
        gateway.close()
    assert Receiving(site, Bounds(0.0, 0.0)).complete() == 1


def test_nothing_acknowledged_is_lost_and_nothing_is_done_twice(
    make_site: Callable[..., Site],
    run_node: Callable[..., Any],
    pacs: Any,
    radiograph: Callable[..., Dataset],
    eventually: Callable[..., Any],
) -> None:
    site = make_site(pacs=pacs.config, quiet_seconds=0.1)
    images = [radiograph(0.2 + 0.012 * number) for number in range(50)]
    modality = Modality(images)
    node = run_node(site)
    for enough in (5, 20):
        sending = threading.Thread(target=modality.send, args=(node.dicom_port,))
        sending.start()
        eventually(lambda enough=enough: count(site, outcome) >= enough)
        node.kill()
        sending.join()
        node.start()
    eventually(lambda: (modality.send(node.dicom_port), not modality.waiting)[1])

    eventually(lambda: count(site, outcome) == 50, timeout=60)
    eventually(lambda: count(site, delivery.select().where(delivery.c.state != "sent").subquery()) == 0, timeout=60)
    time.sleep(0.5)  # whatever is done twice would be done by now
    with site.database.read() as connection:
        concluded = connection.execute(select(outcome)).all()
        delivered = connection.execute(select(delivery)).all()
        stored = connection.execute(select(instance)).all()
        states = {row.state for row in connection.execute(select(study.c.state)).all()}
    assert states == {"scored"}
    assert {row.sop_uid for row in stored} == {str(image.SOPInstanceUID) for image in images} == modality.acknowledged
    assert Counter(row.study_uid for row in concluded) == Counter(str(image.StudyInstanceUID) for image in images)
    assert all(site.archive.joinpath(row.sha256[:2], f"{row.sha256}.dcm").exists() for row in stored)
    # at the PACS: each result of each outcome, and where one came twice it is the same object
    assert Counter((row.outcome_id, row.kind) for row in delivered) == Counter(
        (row.id, kind) for row in concluded for kind in ("sr", "sc")
    )
    assert set(pacs.received) == {row.sop_uid for row in delivered}
    assert all(copies[0] == copy for copies in pacs.received.values() for copy in copies)
    assert site.ledger.first_break() is None
    assert len(list(site.ledger.entries("outcome."))) == 50


def test_a_killed_worker_is_replaced_and_a_killed_parent_takes_its_worker_along(
    site: Site, run_node: Callable[..., Any], radiograph: Callable[..., Dataset], eventually: Callable[..., Any]
) -> None:
    node = run_node(site)
    (worker,) = psutil.Process(node.pid).children()
    worker.kill()
    Modality([radiograph()]).send(node.dicom_port)
    eventually(lambda: count(site, outcome) == 1)
    (worker,) = psutil.Process(node.pid).children()
    psutil.Process(node.pid).kill()
    # gone, or waiting to be buried where nobody adopts orphans
    eventually(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, timeout=10)
    node.kill()


def test_it_stops_in_seconds(site: Site, run_node: Callable[..., Any]) -> None:
    node = run_node(site)
    assert node.stop(timeout=10.0) == 0  # what Docker gives before it kills
    assert not (site.folder / "node.json").exists()


def test_a_folder_has_one_node(site: Site, run_node: Callable[..., Any]) -> None:
    run_node(site)
    with pytest.raises(AssertionError, match="already"):
        run_node(site)


def test_a_study_whose_reading_kills_the_process_fails_visibly_and_can_be_retried(
    site: Site, radiograph: Callable[..., Dataset]
) -> None:
    image = radiograph()
    file_one(site, image)
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom client.dicom import decode\n"
        "from client.inference.worker import run\nfrom client.store.site import Site\n"
        "decode.read = lambda path, header=None: os.abort()\nrun(Site(Path(sys.argv[1])))\n"
    )

    def lives() -> int:
        """One life of a worker, until it dies or has concluded something."""
        worker = subprocess.Popen(
            [sys.executable, "-c", program, str(site.folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while worker.poll() is None and count(site, outcome) == 0:
            time.sleep(0.1)
        assert worker.stdin is not None
        worker.stdin.close()
        return worker.wait(20)

    assert [lives() < 0 for _ in range(site.config.max_attempts)] == [True] * 3
    assert lives() == 0
    with site.database.read() as connection:
        (failed,) = connection.execute(select(outcome)).all()
        assert connection.execute(select(study.c.state)).scalar() == "failed"
    assert (failed.kind, failed.reasons[0]["code"]) == ("failed", "crashed")

    outcomes.retry(site, image.StudyInstanceUID)
    again = outcomes.take(site)
    assert isinstance(again, outcomes.Study)
    assert (again.revision, again.attempts) == (2, 1)


def test_what_came_while_a_study_was_read_makes_the_outcome_void(
    site: Site, radiograph: Callable[..., Dataset]
) -> None:
    first = radiograph()
    file_one(site, first)
    taken = outcomes.take(site)
    assert isinstance(taken, outcomes.Study)
    gateway = Gateway(site)
    try:
        Modality([radiograph(StudyInstanceUID=first.StudyInstanceUID, PatientID=first.PatientID)]).send(gateway.port)
    finally:
        gateway.close()
    late = outcomes.failure(ValueError())
    assert not outcomes.conclude(site, Archive(site.archive), taken, late, lambda _: [])
    assert count(site, outcome) == 0
    assert Receiving(site, Bounds(0.0, 0.0)).complete() == 1
    again = outcomes.take(site)
    assert isinstance(again, outcomes.Study)
    assert len(again.images) == 2


def test_a_study_is_complete_only_when_it_is_quiet_and_its_association_is_gone(
    site: Site, radiograph: Callable[..., Dataset]
) -> None:
    image = radiograph()
    gateway = Gateway(site)
    try:
        Modality([image]).send(gateway.port)
        uid = str(image.StudyInstanceUID)
        assert Receiving(site, Bounds(60)).complete() == 0
        assert Receiving(site, Bounds(0)).complete(sending={uid}) == 0
        assert Receiving(site, Bounds(0)).complete() == 1
        assert Receiving(site, Bounds(0)).complete() == 0
    finally:
        gateway.close()
