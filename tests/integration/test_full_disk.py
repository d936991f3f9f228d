"""A disk that is full costs nobody a result: studies wait, and are read when there is room."""

import contextlib
import errno
import logging
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from full import no_room
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from sqlalchemy import event, insert, select
from sqlalchemy.exc import OperationalError

from client import node
from client.arrival.completeness import Bounds
from client.arrival.gateway import Gateway
from client.arrival.receive import Receiving
from client.inference import outcomes, shortage
from client.inference.memory import Memory
from client.inference.panel import Panel
from client.inference.pipeline import Pipeline
from client.inference.shortage import Shortage
from client.inference.study import Study
from client.inference.tensors import Tensors
from client.inference.worker import Worker
from client.store.archive import Archive
from client.store.fullness import out_of_room
from client.store.site import Site
from client.store.tables import outcome, patient, study
from models.preprocessing import Preprocessing

pytestmark = pytest.mark.integration

DX = "1.2.840.10008.5.1.4.1.1.1.1"
AT_ONCE = Bounds(0.0, 0.0, 0.0)


class Disk:
    """Is full while `full` is set; counts who met that."""

    def __init__(self) -> None:
        self.full = True
        self.met = 0

    def fill(self) -> None:
        if self.full:
            self.met += 1
            raise OSError(errno.ENOSPC, "No space left on device")


class Shelves(Archive):
    """An archive on such a disk."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        super().__init__(folder)
        self._disk = disk

    def store(self, *parts: bytes | memoryview) -> str:
        self._disk.fill()
        return super().store(*parts)


def bounded(site: Site, disk: Disk, *statements: str) -> None:
    """SQLite meets the end of the disk at these statements."""
    with site.database.read() as connection:
        engine = connection.engine

    def before(_connection: Any, cursor: Any, statement: str, values: Any, _context: Any, _many: bool) -> Any:
        if not statement.startswith(statements):
            return statement, values
        cursor.execute(f"PRAGMA max_page_count = {1 if disk.full else 1 << 30}")  # not less than it has already
        if not disk.full:
            return statement, values
        disk.met += 1
        return "CREATE TABLE more AS SELECT zeroblob(1000000)", ()

    event.listen(engine, "before_cursor_execute", before, retval=True)


def send(site: Site, *images: Dataset) -> None:
    gateway = Gateway(site)
    try:
        entity = AE("MODALITY")
        entity.add_requested_context(DX, ExplicitVRLittleEndian)
        association = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
        assert [association.send_c_store(image).Status for image in images] == [0] * len(images)
        association.release()
    finally:
        gateway.close()
    assert Receiving(site, AT_ONCE).complete() == len(images)


@contextlib.contextmanager
def working(site: Site, archive: Archive, pipeline: Pipeline | None = None) -> Iterator[None]:
    """A worker in this process, as the node's child is one."""
    panel, stop = Panel(site), threading.Event()
    pipeline = pipeline or Pipeline(archive, Tensors(site.tensors, archive), panel.members, "Hospital")
    worker = Worker(site, pipeline, archive, panel, None, Memory(1 << 29), None, lambda: None, stop, threading.Event())
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(20)


def concluded(site: Site) -> list[tuple[str, list[str]]]:
    with site.database.read() as connection:
        rows = connection.execute(select(outcome)).all()
    return [(row.kind, [reason["code"] for reason in row.reasons]) for row in rows]


def queue(site: Site) -> set[tuple[str, int]]:
    with site.database.read() as connection:
        return {(row.state, row.attempts) for row in connection.execute(select(study))}


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shortage, "_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(shortage, "_LONGEST_SECONDS", 0.05)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("where", ["archive", "database", "queue"])
def test_studies_wait_for_room_as_long_as_it_takes_and_are_then_read_once(
    site: Site,
    radiograph: Callable[..., Dataset],
    eventually: Callable[..., Any],
    where: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "client.inference.shortage")
    send(site, radiograph(), radiograph(), radiograph())
    disk = Disk()
    archive = Shelves(site.archive, disk) if where == "archive" else Archive(site.archive)
    if where == "database":  # what was read is not written, nor is its attempt given back
        bounded(site, disk, "INSERT INTO outcome", "UPDATE study SET attempts=?")
    if where == "queue":
        bounded(site, disk, "UPDATE study SET")
    with working(site, archive):
        often = 3 * site.config.max_attempts  # as often as all of them together may be tried
        eventually(lambda: disk.met > often, 90)
        assert concluded(site) == []
        assert {state for state, _ in queue(site)} == {"queued"}
        disk.full = False
        eventually(lambda: len(concluded(site)) == 3, 60)
    assert concluded(site) == [("scored", [])] * 3
    assert queue(site) == {("scored", 1)}
    said = [record.getMessage().split(":")[0] for record in caplog.records]
    assert said == ["there is no room on the disk", "there is room on the disk again"]


def test_who_meets_a_full_disk_together_waits_once_and_twice_as_long_each_time_up_to_a_bound(
    site: Site, radiograph: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    send(site, radiograph(), radiograph())
    now = 1000.0
    monkeypatch.setattr("client.inference.shortage.time.monotonic", lambda: now)
    one, other = taken(site), taken(site)
    short = Shortage(site)
    assert not short.lasts()
    assert short.met(one) == short.met(other) == 1.0
    assert queue(site) == {("queued", 0)}  # neither attempt counts
    pauses: list[float] = []
    for _ in range(8):
        begun = now
        while short.lasts():
            now += 0.25
        pauses.append(now - begun)
        short.met(None)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    short.over()
    assert not short.lasts()


def test_an_attempt_that_cannot_be_given_back_yet_is_not_forgotten(
    site: Site, radiograph: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    send(site, radiograph())
    disk, now = Disk(), 1000.0
    monkeypatch.setattr("client.inference.shortage.time.monotonic", lambda: now)
    one, short = taken(site), Shortage(site)
    bounded(site, disk, "UPDATE study SET attempts=?")
    short.met(one)
    now += 100
    assert short.lasts()
    assert queue(site) == {("queued", 1)}
    disk.full = False
    now += 100
    assert not short.lasts()
    assert queue(site) == {("queued", 0)}


def taken(site: Site) -> Study:
    found = outcomes.take(site)
    assert isinstance(found, Study)
    return found


def test_what_raised_and_could_not_be_written_down_is_not_called_a_crash(
    site: Site, radiograph: Callable[..., Dataset], eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    send(site, radiograph())
    conclude, tried = outcomes.conclude, list[str]()

    class Broken(Pipeline):
        def process(self, study: Study) -> Any:
            raise ValueError("Doe^John")

    def busy(*values: Any, **more: Any) -> bool:
        tried.append("once")
        if len(tried) == 1:
            raise sqlite3.OperationalError("database is locked")
        return conclude(*values, **more)

    monkeypatch.setattr(outcomes, "conclude", busy)
    archive = Archive(site.archive)
    broken = Broken(archive, Tensors(site.tensors, archive), list, "Hospital")
    with working(site, archive, broken):
        eventually(lambda: concluded(site), 60)
    assert concluded(site) == [("failed", ["unexpected"])]


def test_a_node_that_cannot_write_where_it_listens_listens(
    site: Site, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (site.folder / "node.json").write_text("of a node that was killed")
    with no_room(), node._announced(site.folder, 104, 8080):
        assert capsys.readouterr().out.startswith("ready ")
        assert not (site.folder / "node.json").exists()
    assert "no room on the disk" in caplog.text


def test_a_log_line_that_cannot_be_written_is_printed_nowhere() -> None:
    program = (
        "import logging\nfrom pathlib import Path\nfrom client import logs\n"
        "logs.to_file(Path('/dev/full'))\n"
        "try:\n    raise OSError('a text with Doe^John')\n"
        "except OSError as error:\n    logging.getLogger('client').error('of %s', 'Doe^John', exc_info=error)\n"
        "import os\nos._exit(0)\n"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout + run.stderr == ""


def test_a_prepared_image_for_which_there_is_no_room_leaves_nothing_behind(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(file: Any, _tensor: Any) -> None:
        file.write(b"half")
        raise OSError("8 requested and 4 written")  # as NumPy says it, without a number

    tensors = Tensors(site.tensors, Archive(site.archive))
    tensor, preprocessing = np.zeros((1, 4, 4), np.float32), Preprocessing()
    monkeypatch.setattr(np, "save", half)
    tensors.keep("a" * 64, preprocessing, tensor)
    assert [path for path in site.tensors.rglob("*") if path.is_file()] == []
    monkeypatch.undo()
    tensors.keep("a" * 64, preprocessing, tensor)
    assert len([path for path in site.tensors.rglob("*") if path.is_file()]) == 1


def test_a_quota_that_is_used_up_is_a_full_disk_to_the_database_too(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # SQLite tells ENOSPC from all else, and a limit on the size of files is what a test can set
    with no_room(), pytest.raises(OperationalError) as told, site.database.write() as connection:
        connection.execute(insert(patient).values(key="k", patient_id="P", issuer="", fold="train", first_seen=0.0))
    assert told.value.orig.sqlite_errorname == "SQLITE_IOERR_WRITE"
    assert out_of_room(told.value)
    with site.database.read() as connection:
        assert connection.execute(select(patient)).all() == []
    monkeypatch.setattr("client.store.database.want_of_room", lambda _folder: None)  # there is room: it fails
    with no_room(), pytest.raises(OperationalError) as told, site.database.write() as connection:
        connection.execute(insert(patient).values(key="k", patient_id="P", issuer="", fold="train", first_seen=0.0))
    assert not out_of_room(told.value)


def test_a_failing_disk_is_no_full_one() -> None:
    chained = RuntimeError()
    chained.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert out_of_room(chained)
    assert not out_of_room(OSError(errno.EIO, "Input/output error"))
    assert not out_of_room(sqlite3.OperationalError("database is locked"))
