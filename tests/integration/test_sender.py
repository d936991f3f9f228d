"""Results reach the PACS: after it was away, in spite of refusals, none lost, none twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage
from pynetdicom import AE, AllStoragePresentationContexts, build_context, evt
from pynetdicom.sop_class import Verification
from sqlalchemy import func, select, update

from client.delivery.carrier import StoreCarrier
from client.delivery.sender import Pace, Sender
from client.delivery.transmission import Transmission
from client.review.deadletters import resend
from client.store.site import Site
from client.store.tables import delivery, study
from configs.schema import PeerConfig
from models import children
from models.errors import Conflict, NotFound

FAST = Pace(first=0.05, longest=0.2, poll=0.05, answer=5.0)
Scored = Callable[..., str]


class Scp:
    """A PACS that answers as told, on a port of its own."""

    def __init__(
        self, port: int = 0, contexts: Any = AllStoragePresentationContexts, title: str = "PACS", **only: Any
    ) -> None:
        self.statuses: dict[str, int] = {}
        self.count: dict[str, int] = {}
        self.associations = 0
        self.abort_on: set[str] = set()
        self.hangs_up = False
        self.full = False
        self.silent_on = ""  # a SOP class
        self.mended = threading.Event()
        self.order: list[tuple[str, str]] = []  # study and SOP class of what it kept
        self.offered: list[str] = []  # SOP classes
        entity = self.entity = AE(title)
        entity.supported_contexts = contexts
        for name, value in only.items():
            setattr(entity, name, value)
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
        sop_class = str(event.request.AffectedSOPClassUID)
        self.offered.append(sop_class)
        if sop_class == self.silent_on:
            self.mended.wait(20)
        if uid in self.abort_on:
            event.assoc.abort()
            return 0x0000
        self.count[uid] = self.count.get(uid, 0) + 1
        status = 0xA700 if self.full else self.statuses.get(uid, 0x0000)
        if status == 0x0000:
            self.order.append((str(event.dataset.StudyInstanceUID), sop_class))
        return status

    def _established(self, event: Any) -> None:
        self.associations += 1
        if self.hangs_up:
            threading.Timer(0.1, event.assoc.abort).start()  # once its acceptance has gone out

    def close(self) -> None:
        self.mended.set()
        self._server.shutdown()


@pytest.fixture
def free_port() -> int:
    return children.free_port()


@pytest.fixture
def sender(site: Site) -> Iterator[Callable[..., Sender]]:
    started: list[Sender] = []

    def start(port: int, **settings: Any) -> Sender:
        site.config.pacs = PeerConfig("127.0.0.1", port, "PACS")
        made = Sender(site, **({"pace": FAST} | settings))
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


def test_a_pacs_that_accepts_and_hangs_up_costs_no_attempt(
    site: Site,
    scored: Scored,
    sender: Callable[..., Sender],
    eventually: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begin = StoreCarrier._begin

    def and_wait(self: StoreCarrier) -> Transmission:
        transmission = begin(self)
        if pacs.hangs_up:  # it has, before the first object is offered
            eventually(lambda: not transmission.established)
        return transmission

    monkeypatch.setattr(StoreCarrier, "_begin", and_wait)
    # it takes not every kind, which is no reason why it hangs up
    pacs = Scp(contexts=[build_context(Comprehensive3DSRStorage), build_context(SecondaryCaptureImageStorage)])
    pacs.hangs_up = True
    try:
        scored(objects=True)
        sender(pacs.port, max_attempts=1)
        eventually(lambda: pacs.associations >= 3)
        assert states(site) == {"pending": 2}
        pacs.hangs_up = False
        eventually(lambda: states(site) == {"sent": 2})
    finally:
        pacs.close()


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


@pytest.mark.parametrize("reason", ["called AE title not recognised", "calling AE title not recognised"])
def test_a_pacs_that_rejects_us_is_said_to(
    site: Site,
    scored: Scored,
    sender: Callable[..., Sender],
    free_port: int,
    eventually: Callable[..., Any],
    reason: str,
) -> None:
    scored(objects=True)
    sender(free_port, max_attempts=2)
    eventually(lambda: one_problem(site) == "the PACS cannot be reached")
    only = {"require_called_aet": True} if reason.startswith("called") else {"require_calling_aet": ["SOMEBODY"]}
    pacs = Scp(free_port, title="OTHER", **only)
    try:
        said = f"the PACS rejects us, {site.config.ae_title}, calling it PACS: {reason}"
        eventually(lambda: one_problem(site) == said)
        assert one(site).attempts == 0
        pacs.entity.require_called_aet, pacs.entity.require_calling_aet = False, []
        eventually(lambda: states(site) == {"sent": 2})
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


def test_a_pacs_out_of_resources_is_waited_for(
    site: Site, scored: Scored, sender: Callable[..., Sender], eventually: Callable[..., Any]
) -> None:
    pacs = Scp()
    pacs.full = True
    try:
        for _ in range(3):
            scored(objects=True)
        sender(pacs.port, max_attempts=2)
        eventually(lambda: len(pacs.offered) >= 16)  # more than all attempts of all objects
        assert states(site) == {"pending": 6}
        assert one_problem(site) in ("", "the PACS cannot take it just now: status A700")
        with site.database.read() as connection:
            assert set(connection.execute(select(delivery.c.attempts)).scalars()) == {0}
        assert pacs.associations == 1
        pacs.full = False
        eventually(lambda: states(site) == {"sent": 6})
    finally:
        pacs.close()


def test_one_object_without_room_holds_up_no_other_and_is_put_aside_in_the_end(
    site: Site, scored: Scored, sender: Callable[..., Sender], eventually: Callable[..., Any]
) -> None:
    pacs = Scp()
    try:
        scored(objects=True)
        refused = one(site).sop_uid
        pacs.statuses[refused] = 0xA701
        sender(pacs.port, max_attempts=2)
        eventually(lambda: pacs.count.get(refused, 0) >= 6)  # nothing else of its kind: it may be the PACS
        assert states(site) == {"sent": 1, "pending": 1}
        for attempts in (1, 2):
            before = pacs.count[refused]
            eventually(lambda before=before: pacs.count[refused] > before)
            scored(objects=True)
            eventually(lambda attempts=attempts: by_uid(site, refused).attempts == attempts)
        eventually(lambda: states(site) == {"sent": 5, "failed": 1})
        assert by_uid(site, refused).problem == "the PACS cannot take it just now: status A701"
    finally:
        pacs.close()


def by_uid(site: Site, sop_uid: str) -> Any:
    with site.database.read() as connection:
        return connection.execute(select(delivery).where(delivery.c.sop_uid == sop_uid)).one()


def test_emergencies_go_first_then_what_was_due_first_and_pictures_before_their_report(
    site: Site, scored: Scored, sender: Callable[..., Sender], free_port: int, eventually: Callable[..., Any]
) -> None:
    uids = [scored(objects=True) for _ in range(5)]
    due = {uids[0]: ("routine", 300.0), uids[1]: ("urgent", 200.0), uids[2]: ("routine", 100.0)}
    due |= {uids[3]: ("emergency", 900.0), uids[4]: ("emergency", 800.0)}
    with site.database.write() as connection:
        for uid, (urgency, at) in due.items():
            connection.execute(update(study).where(study.c.uid == uid).values(urgency=urgency, due_at=at))
    sender(free_port)
    eventually(lambda: one_problem(site) == "the PACS cannot be reached")
    pacs = Scp(free_port)
    try:
        eventually(lambda: states(site) == {"sent": 10})
        studies = [uids[number] for number in (4, 3, 2, 1, 0)]
        kinds = (SecondaryCaptureImageStorage, Comprehensive3DSRStorage)
        assert pacs.order == [(uid, kind) for uid in studies for kind in kinds]
    finally:
        pacs.close()


def test_a_kind_that_the_pacs_leaves_unanswered_holds_up_no_other_kind(
    site: Site, scored: Scored, sender: Callable[..., Sender], eventually: Callable[..., Any]
) -> None:
    pacs = Scp()
    pacs.silent_on = str(SecondaryCaptureImageStorage)
    try:
        for _ in range(6):
            scored(objects=True)
        sender(pacs.port, pace=Pace(first=0.05, longest=30.0, poll=0.05, answer=0.5))
        eventually(lambda: len(pacs.order) == 6)
        assert {kind for _, kind in pacs.order} == {Comprehensive3DSRStorage}
        last = len(pacs.offered) - pacs.offered[::-1].index(str(Comprehensive3DSRStorage))
        assert pacs.offered[:last].count(str(SecondaryCaptureImageStorage)) <= 2  # not each of the six
        pacs.silent_on = ""
        eventually(lambda: states(site) == {"sent": 12})
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
        self.port, self.http = children.free_port(), children.free_port()
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
    scored: Scored, sender: Callable[..., Sender], free_port: int, eventually: Callable[..., Any], caplog: Any
) -> None:
    scored(objects=True)
    running = sender(free_port, pace=replace(FAST, first=600.0, longest=600.0))
    eventually(lambda: "results wait for it" in caplog.text)
    running.stop(timeout=60.0)  # a tenth of the pause it is in
    assert running not in threading.enumerate()
