"""Results reach the PACS: after it was away, in spite of refusals, none lost, none twice."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification
from sqlalchemy import func, select, update

from client.delivery.sender import Pace, Sender
from client.review.deadletters import resend
from client.store.site import Site
from client.store.tables import delivery
from configs.schema import PeerConfig
from models.errors import Conflict, NotFound

FAST = Pace(first=0.05, longest=0.2, poll=0.05, answer=5.0)
Scored = Callable[..., str]


class Scp:
    """A PACS that answers as told, on a port of its own."""

    def __init__(self, port: int = 0, contexts: Any = AllStoragePresentationContexts) -> None:
        self.statuses: dict[str, int] = {}
        self.count: dict[str, int] = {}
        self.associations = 0
        self.abort_on: set[str] = set()
        entity = AE("PACS")
        entity.supported_contexts = contexts
        server = entity.start_server(
            ("127.0.0.1", port),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_ESTABLISHED, self._established)],
        )
        assert server is not None
        self._server = server
        self.port: int = server.server_address[1]

    def _store(self, event: Any) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        if uid in self.abort_on:
            event.assoc.abort()
            return 0x0000
        self.count[uid] = self.count.get(uid, 0) + 1
        return self.statuses.get(uid, 0x0000)

    def _established(self, _event: Any) -> None:
        self.associations += 1

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def sender(site: Site) -> Iterator[Callable[..., Sender]]:
    started: list[Sender] = []

    def start(port: int, **settings: Any) -> Sender:
        site.config.pacs = PeerConfig("127.0.0.1", port, "PACS")
        made = Sender(site, FAST, **settings)
        started.append(made)
        made.start()
        return made

    yield start
    for made in started:
        made.stop()


def states(site: Site) -> dict[str, int]:
    query = select(delivery.c.state, func.count().label("n")).group_by(delivery.c.state)
    with site.database.read() as connection:
        return {row.state: row.n for row in connection.execute(query)}


def one(site: Site, kind: str = "sr") -> Any:
    with site.database.read() as connection:
        return connection.execute(select(delivery).where(delivery.c.kind == kind)).one()


def test_a_pacs_that_is_down_and_comes_back_gets_everything_once(
    site: Site, scored: Scored, sender: Callable[..., Sender], free_port: int, eventually: Callable[..., Any]
) -> None:
    for _ in range(10):
        scored(objects=True)
    sender(free_port, max_attempts=2)
    eventually(lambda: one_problem(site) == "the PACS cannot be reached")
    time.sleep(1.0)  # far more pauses than attempts: absence must not cost any
    assert states(site) == {"pending": 20}
    pacs = Scp(free_port)
    try:
        eventually(lambda: states(site) == {"sent": 20})
        assert len(pacs.count) == 20
        assert set(pacs.count.values()) == {1}
        assert pacs.associations == 1
    finally:
        pacs.close()
    assert len(list(site.ledger.entries("delivery.sent"))) == 20


def test_the_association_is_opened_while_objects_are_made(
    site: Site,
    scored: Scored,
    sender: Callable[..., Sender],
    free_port: int,
    eventually: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("client.delivery.sender._LINGER_SECONDS", 60.0)  # however long making them takes here
    away = sender(free_port)
    away.expect()  # nobody is there: that shows when there is something to send
    pacs = Scp(free_port)
    try:
        eventually(lambda: (away.expect(), pacs.associations)[1] >= 1)
        before = pacs.associations
        scored(objects=True)
        eventually(lambda: states(site) == {"sent": 2})
        assert pacs.associations == before
    finally:
        pacs.close()


def one_problem(site: Site) -> str:
    with site.database.read() as connection:
        return connection.execute(select(delivery.c.problem).limit(1)).scalar_one()


def test_a_refused_object_is_put_aside_and_holds_up_nothing(
    site: Site, scored: Scored, sender: Callable[..., Sender], eventually: Callable[..., Any]
) -> None:
    pacs = Scp()
    try:
        scored(objects=True)
        refused = one(site).sop_uid
        pacs.statuses[refused] = 0xC000
        sender(pacs.port, max_attempts=3)
        eventually(lambda: states(site) == {"sent": 1, "failed": 1})
        row = one(site)
        assert (row.state, row.attempts, row.problem) == ("failed", 3, "status C000")
        assert pacs.count[refused] == 3
        del pacs.statuses[refused]
        resend(site, refused)
        eventually(lambda: states(site) == {"sent": 2})
        with pytest.raises(Conflict):
            resend(site, refused)
        with pytest.raises(NotFound):
            resend(site, "1.2.3")
    finally:
        pacs.close()


def test_a_warning_is_a_success_with_a_note(
    site: Site, scored: Scored, sender: Callable[..., Sender], eventually: Callable[..., Any]
) -> None:
    pacs = Scp()
    try:
        scored(objects=True)
        pacs.statuses[one(site).sop_uid] = 0xB000
        sender(pacs.port)
        eventually(lambda: states(site) == {"sent": 2})
        assert one(site).problem == "status B000"
    finally:
        pacs.close()


@pytest.mark.parametrize("contexts", [["1.2.840.10008.5.1.4.1.1.7"], [Verification]])
def test_a_kind_that_the_pacs_does_not_take_is_put_aside(
    site: Site, scored: Scored, sender: Callable[..., Sender], eventually: Callable[..., Any], contexts: list[str]
) -> None:
    from pynetdicom import build_context

    pacs = Scp(contexts=[build_context(uid) for uid in contexts])
    try:
        scored(objects=True)
        sender(pacs.port, max_attempts=2)
        eventually(lambda: one(site).state == "failed")
        assert "does not take" in one(site).problem
        eventually(lambda: one(site, "sc").state == ("sent" if contexts[0].endswith("1.1.7") else "failed"))
    finally:
        pacs.close()


def test_an_object_that_breaks_the_association_holds_up_nothing(
    site: Site, scored: Scored, sender: Callable[..., Sender], eventually: Callable[..., Any]
) -> None:
    pacs = Scp()
    try:
        scored(objects=True)
        poison = one(site).sop_uid
        pacs.abort_on.add(poison)
        for _ in range(3):
            scored(objects=True)
        sender(pacs.port, max_attempts=2)
        eventually(lambda: states(site) == {"sent": 7, "failed": 1})
    finally:
        pacs.close()


def test_a_missing_file_is_put_aside(
    site: Site, scored: Scored, sender: Callable[..., Sender], eventually: Callable[..., Any]
) -> None:
    pacs = Scp()
    try:
        scored(objects=True)
        with site.database.write() as connection:
            connection.execute(update(delivery).where(delivery.c.kind == "sr").values(sha256="0" * 64))
        sender(pacs.port, max_attempts=2)
        eventually(lambda: states(site) == {"sent": 1, "failed": 1})
        assert "missing" in one(site).problem
    finally:
        pacs.close()


def test_kill_9_loses_nothing_and_repeats_the_same_object(
    site: Site, scored: Scored, eventually: Callable[..., Any], sender: Callable[..., Sender]
) -> None:
    pacs = Scp()
    try:
        for _ in range(15):
            scored(objects=True)
        program = (
            "import sys, pathlib; from client.store.site import Site; from client.delivery.sender import Sender, Pace; "
            "from configs.schema import PeerConfig; site = Site(pathlib.Path(sys.argv[1])); "
            "site.config.pacs = PeerConfig('127.0.0.1', int(sys.argv[2]), 'PACS'); "
            "Sender(site, Pace(poll=0.05)).run()"
        )
        root = str(Path(__file__).parents[2])
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(site.folder), str(pacs.port)], env=os.environ | {"PYTHONPATH": root}
        )
        eventually(lambda: len(pacs.count) >= 5)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert states(site).get("pending", 0) > 0
        sender(pacs.port)
        eventually(lambda: states(site) == {"sent": 30})
        assert len(pacs.count) == 30
        # only what had no answer written down yet at the kill was offered twice, under the same UID
        assert max(pacs.count.values()) <= 2
    finally:
        pacs.close()


class Orthanc:
    """A real PACS, in memory of a folder, on free ports."""

    def __init__(self, folder: Path) -> None:
        ports: list[int] = []
        with socket.socket() as first, socket.socket() as second:
            for probe in (first, second):
                probe.bind(("127.0.0.1", 0))
                ports.append(probe.getsockname()[1])
        self.port, self.http = ports
        self._settings = folder / "orthanc.json"
        self._settings.write_text(
            json.dumps(
                {
                    "StorageDirectory": str(folder / "storage"),
                    "IndexDirectory": str(folder / "storage"),
                    "DicomPort": self.port,
                    "HttpPort": self.http,
                    "DicomAet": "PACS",
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "DicomCheckCalledAet": False,
                    "Plugins": [],
                }
            )
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            ["/usr/sbin/Orthanc", str(self._settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.get("/statistics")
                return
            except OSError:
                assert time.monotonic() < deadline, "Orthanc does not answer"
                time.sleep(0.1)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)
            self._process = None

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=5) as answer:
            return json.load(answer)


@pytest.mark.peers("Orthanc")
def test_orthanc_gets_everything_also_after_it_was_down(
    site: Site, scored: Scored, sender: Callable[..., Sender], tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    orthanc = Orthanc(tmp_path)
    try:
        uids = [scored(objects=True) for _ in range(3)]
        sender(orthanc.port)
        time.sleep(0.5)
        assert states(site) == {"pending": 6}
        orthanc.start()
        eventually(lambda: states(site) == {"sent": 6})
        orthanc.stop()
        uids += [scored(objects=True) for _ in range(2)]
        orthanc.start()
        eventually(lambda: states(site) == {"sent": 10})
        assert orthanc.get("/statistics")["CountInstances"] == 10
        found = {
            orthanc.get(f"/studies/{study}")["MainDicomTags"]["StudyInstanceUID"] for study in orthanc.get("/studies")
        }
        assert found == set(uids)
    finally:
        orthanc.stop()


def test_stopping_is_quick_while_the_pacs_is_away(
    site: Site, scored: Scored, sender: Callable[..., Sender], free_port: int
) -> None:
    scored(objects=True)
    running = sender(free_port)
    time.sleep(0.3)
    start = time.monotonic()
    running.stop()
    assert time.monotonic() - start < 3
    assert running not in threading.enumerate()
