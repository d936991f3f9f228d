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

import pydicom
import pytest
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, AllStoragePresentationContexts, build_context, evt
from pynetdicom.dsutils import encode
from pynetdicom.sop_class import Verification
from sqlalchemy import func, select, update

from client.delivery.carrier import StoreCarrier
from client.delivery.sender import Pace, Sender
from client.delivery.transmission import Transmission
from client.review.deadletters import resend
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, study
from configs.schema import PeerConfig
from models import children
from models.errors import Conflict, NotFound

FAST = Pace(first=0.05, longest=0.2, poll=0.05, answer=5.0)


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
        self.came: dict[str, tuple[str, bytes]] = {}  # the transfer syntax and the dataset of each object
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
        self.came[uid] = str(event.context.transfer_syntax), event.request.DataSet.getvalue()
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


class Sending:
    """A hospital that has results, its sender, and the PACS stand-ins that they go to."""

    def __init__(self, site: Site, scored: Callable[..., str], eventually: Callable[..., Any]) -> None:
        self.site = site
        self.wait = eventually
        self._scored = scored
        self._scps: list[Scp] = []
        self._senders: list[Sender] = []

    def results(self, number: int = 1) -> list[str]:
        """Put studies there, each with a report and a picture that are to be sent; their UIDs."""
        return [self._scored(objects=True) for _ in range(number)]

    def start(self, port: int, **settings: Any) -> Sender:
        """Send what there is to the PACS at a port."""
        self.site.config.pacs = PeerConfig("127.0.0.1", port, "PACS")
        made = Sender(self.site, **({"pace": FAST} | settings))
        self._senders.append(made)
        made.start()
        return made

    def pacs(self, port: int = 0, **said: Any) -> Scp:
        """A PACS that is closed at the end of the test."""
        self._scps.append(Scp(port, **said))
        return self._scps[-1]

    def close(self) -> None:
        for made in self._scps:
            made.close()
        for sender in self._senders:
            sender.stop()

    def states(self) -> dict[str, int]:
        query = select(delivery.c.state, func.count().label("n")).group_by(delivery.c.state)
        with self.site.database.read() as connection:
            return {row.state: row.n for row in connection.execute(query)}

    def becomes(self, **states: int) -> None:
        """Wait until so many objects are in these states, and none in another."""
        self.wait(lambda: self.states() == states)

    def one(self, kind: str = "sr") -> Any:
        """The only delivery of a kind."""
        with self.site.database.read() as connection:
            return connection.execute(select(delivery).where(delivery.c.kind == kind)).one()

    def row(self, sop_uid: str) -> Any:
        with self.site.database.read() as connection:
            return connection.execute(select(delivery).where(delivery.c.sop_uid == sop_uid)).one()

    def problem(self) -> str:
        """What is said of some delivery."""
        with self.site.database.read() as connection:
            return connection.execute(select(delivery.c.problem).limit(1)).scalar_one()

    def away(self, **settings: Any) -> tuple[Sender, int]:
        """Start a sender to a port where nobody is, and wait until it says so."""
        port = children.free_port()
        made = self.start(port, **settings)
        self.wait(lambda: self.problem() == "the PACS cannot be reached")
        return made, port


@pytest.fixture
def sending(site: Site, scored: Callable[..., str], eventually: Callable[..., Any]) -> Iterator[Sending]:
    made = Sending(site, scored, eventually)
    yield made
    made.close()


def test_a_pacs_that_is_down_and_comes_back_gets_everything_once(sending: Sending) -> None:
    sending.results(10)
    _, port = sending.away(max_attempts=2)
    time.sleep(1.0)  # far more pauses than attempts: absence must not cost any
    assert sending.states() == {"pending": 20}
    pacs = sending.pacs(port)
    sending.becomes(sent=20)
    assert len(pacs.count) == 20
    assert set(pacs.count.values()) == {1}
    assert pacs.associations == 1
    assert len(list(sending.site.ledger.entries("delivery.sent"))) == 20


def test_a_pacs_that_accepts_and_hangs_up_costs_no_attempt(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = StoreCarrier._begin

    def and_wait(self: StoreCarrier) -> Transmission:
        transmission = begin(self)
        if pacs.hangs_up:  # it has, before the first object is offered
            sending.wait(lambda: not transmission.established)
        return transmission

    monkeypatch.setattr(StoreCarrier, "_begin", and_wait)
    # it takes not every kind, which is no reason why it hangs up
    pacs = sending.pacs(contexts=[build_context(Comprehensive3DSRStorage), build_context(SecondaryCaptureImageStorage)])
    pacs.hangs_up = True
    sending.results()
    sending.start(pacs.port, max_attempts=1)
    sending.wait(lambda: pacs.associations >= 3)
    assert sending.states() == {"pending": 2}
    pacs.hangs_up = False
    sending.becomes(sent=2)


def test_the_association_is_opened_while_objects_are_made(sending: Sending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.delivery.sender._LINGER_SECONDS", 60.0)  # however long making them takes here
    port = children.free_port()
    away = sending.start(port)
    away.expect()  # nobody is there: that shows when there is something to send
    pacs = sending.pacs(port)
    sending.wait(lambda: (away.expect(), pacs.associations)[1] >= 1)
    before = pacs.associations
    sending.results()
    sending.becomes(sent=2)
    assert pacs.associations == before


@pytest.mark.parametrize("reason", ["called AE title not recognised", "calling AE title not recognised"])
def test_a_pacs_that_rejects_us_is_said_to(sending: Sending, reason: str) -> None:
    sending.results()
    _, port = sending.away(max_attempts=2)
    only = {"require_called_aet": True} if reason.startswith("called") else {"require_calling_aet": ["SOMEBODY"]}
    pacs = sending.pacs(port, title="OTHER", **only)
    said = f"the PACS rejects us, {sending.site.config.ae_title}, calling it PACS: {reason}"
    sending.wait(lambda: sending.problem() == said)
    assert sending.one().attempts == 0
    pacs.entity.require_called_aet, pacs.entity.require_calling_aet = False, []
    sending.becomes(sent=2)


def test_a_refused_object_is_put_aside_and_holds_up_nothing(sending: Sending) -> None:
    pacs = sending.pacs()
    sending.results()
    refused = sending.one().sop_uid
    pacs.statuses[refused] = 0xC000
    sending.start(pacs.port, max_attempts=3)
    sending.becomes(sent=1, failed=1)
    row = sending.one()
    assert (row.state, row.attempts, row.problem) == ("failed", 3, "status C000")
    assert pacs.count[refused] == 3
    del pacs.statuses[refused]
    resend(sending.site, refused)
    sending.becomes(sent=2)
    with pytest.raises(Conflict):
        resend(sending.site, refused)
    with pytest.raises(NotFound):
        resend(sending.site, "1.2.3")


def test_a_pacs_out_of_resources_is_waited_for(sending: Sending) -> None:
    pacs = sending.pacs()
    pacs.full = True
    sending.results(3)
    sending.start(pacs.port, max_attempts=2)
    sending.wait(lambda: len(pacs.offered) >= 16)  # more than all attempts of all objects
    assert sending.states() == {"pending": 6}
    assert sending.problem() in ("", "the PACS cannot take it just now: status A700")
    with sending.site.database.read() as connection:
        assert set(connection.execute(select(delivery.c.attempts)).scalars()) == {0}
    assert pacs.associations == 1
    pacs.full = False
    sending.becomes(sent=6)


def test_one_object_without_room_holds_up_no_other_and_is_put_aside_in_the_end(sending: Sending) -> None:
    pacs = sending.pacs()
    sending.results()
    refused = sending.one().sop_uid
    pacs.statuses[refused] = 0xA701
    sending.start(pacs.port, max_attempts=2)
    sending.wait(lambda: pacs.count.get(refused, 0) >= 6)  # nothing else of its kind: it may be the PACS
    assert sending.states() == {"sent": 1, "pending": 1}
    for attempts in (1, 2):
        before = pacs.count[refused]
        sending.wait(lambda before=before: pacs.count[refused] > before)
        sending.results()
        sending.wait(lambda attempts=attempts: sending.row(refused).attempts == attempts)
    sending.becomes(sent=5, failed=1)
    assert sending.row(refused).problem == "the PACS cannot take it just now: status A701"


def test_emergencies_go_first_then_what_was_due_first_and_pictures_before_their_report(sending: Sending) -> None:
    uids = sending.results(5)
    due = {uids[0]: ("routine", 300.0), uids[1]: ("urgent", 200.0), uids[2]: ("routine", 100.0)}
    due |= {uids[3]: ("emergency", 900.0), uids[4]: ("emergency", 800.0)}
    with sending.site.database.write() as connection:
        for uid, (urgency, at) in due.items():
            connection.execute(update(study).where(study.c.uid == uid).values(urgency=urgency, due_at=at))
    _, port = sending.away()
    pacs = sending.pacs(port)
    sending.becomes(sent=10)
    studies = [uids[number] for number in (4, 3, 2, 1, 0)]
    kinds = (SecondaryCaptureImageStorage, Comprehensive3DSRStorage)
    assert pacs.order == [(uid, kind) for uid in studies for kind in kinds]


def test_a_kind_that_the_pacs_leaves_unanswered_holds_up_no_other_kind(sending: Sending) -> None:
    pacs = sending.pacs()
    pacs.silent_on = str(SecondaryCaptureImageStorage)
    sending.results(6)
    sending.start(pacs.port, pace=Pace(first=0.05, longest=30.0, poll=0.05, answer=0.5))
    sending.wait(lambda: len(pacs.order) == 6)
    assert {kind for _, kind in pacs.order} == {Comprehensive3DSRStorage}
    last = len(pacs.offered) - pacs.offered[::-1].index(str(Comprehensive3DSRStorage))
    assert pacs.offered[:last].count(str(SecondaryCaptureImageStorage)) <= 2  # not each of the six
    pacs.silent_on = ""
    sending.becomes(sent=12)


def test_a_warning_is_a_success_with_a_note(sending: Sending) -> None:
    pacs = sending.pacs()
    sending.results()
    pacs.statuses[sending.one().sop_uid] = 0xB000
    sending.start(pacs.port)
    sending.becomes(sent=2)
    assert sending.one().problem == "status B000"


@pytest.mark.parametrize("context", [SecondaryCaptureImageStorage, Verification])
def test_a_kind_that_the_pacs_does_not_take_is_put_aside(sending: Sending, context: str) -> None:
    pacs = sending.pacs(contexts=[build_context(context)])
    sending.results()
    sending.start(pacs.port, max_attempts=2)
    sending.wait(lambda: sending.one().state == "failed")
    assert "does not take" in sending.one().problem
    picture = "sent" if context == SecondaryCaptureImageStorage else "failed"
    sending.wait(lambda: sending.one("sc").state == picture)


@pytest.mark.parametrize("takes", [[ImplicitVRLittleEndian, ExplicitVRLittleEndian], [ImplicitVRLittleEndian]])
def test_an_object_is_sent_as_it_was_checked_wherever_the_pacs_takes_it_so(sending: Sending, takes: list[str]) -> None:
    pacs = sending.pacs(contexts=[build_context(one.abstract_syntax, takes) for one in AllStoragePresentationContexts])
    sending.results()
    sending.start(pacs.port)
    sending.becomes(sent=2)
    for kind in ("sr", "sc"):
        row = sending.one(kind)
        file = pydicom.dcmread(Archive(sending.site.archive).path(row.sha256))
        syntax, dataset = pacs.came[row.sop_uid]
        assert syntax == (ExplicitVRLittleEndian if ExplicitVRLittleEndian in takes else ImplicitVRLittleEndian)
        assert dataset == encode(file, syntax == ImplicitVRLittleEndian, True)


def test_an_object_that_breaks_the_association_holds_up_nothing(sending: Sending) -> None:
    pacs = sending.pacs()
    sending.results()
    pacs.abort_on.add(sending.one().sop_uid)
    sending.results(3)
    sending.start(pacs.port, max_attempts=2)
    sending.becomes(sent=7, failed=1)


def test_a_missing_file_is_put_aside(sending: Sending) -> None:
    sending.results()
    with sending.site.database.write() as connection:
        connection.execute(update(delivery).where(delivery.c.kind == "sr").values(sha256="0" * 64))
    sending.start(sending.pacs().port, max_attempts=2)
    sending.becomes(sent=1, failed=1)
    assert "missing" in sending.one().problem


def test_kill_9_loses_nothing_and_repeats_the_same_object(sending: Sending) -> None:
    pacs = sending.pacs()
    sending.results(15)
    program = (
        "import sys, pathlib; from client.store.site import Site; from client.delivery.sender import Sender, Pace; "
        "from configs.schema import PeerConfig; site = Site(pathlib.Path(sys.argv[1])); "
        "site.config.pacs = PeerConfig('127.0.0.1', int(sys.argv[2]), 'PACS'); "
        "Sender(site, Pace(poll=0.05)).run()"
    )
    arguments = [sys.executable, "-c", program, str(sending.site.folder), str(pacs.port)]
    process = subprocess.Popen(arguments, env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])})
    sending.wait(lambda: len(pacs.count) >= 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert sending.states().get("pending", 0) > 0
    sending.start(pacs.port)
    sending.becomes(sent=30)
    assert len(pacs.count) == 30
    # only what had no answer written down yet at the kill was offered twice, under the same UID
    assert max(pacs.count.values()) <= 2


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
def test_orthanc_gets_everything_also_after_it_was_down(sending: Sending, tmp_path: Path) -> None:
    orthanc = Orthanc(tmp_path)
    try:
        uids = sending.results(3)
        sending.start(orthanc.port)
        time.sleep(0.5)
        assert sending.states() == {"pending": 6}
        orthanc.start()
        sending.becomes(sent=6)
        orthanc.stop()
        uids += sending.results(2)
        orthanc.start()
        sending.becomes(sent=10)
        assert orthanc.get("/statistics")["CountInstances"] == 10
        found = {orthanc.get(f"/studies/{one}")["MainDicomTags"]["StudyInstanceUID"] for one in orthanc.get("/studies")}
        assert found == set(uids)
    finally:
        orthanc.stop()


def test_stopping_is_quick_while_the_pacs_is_away(sending: Sending, caplog: Any) -> None:
    sending.results()
    running = sending.start(children.free_port(), pace=replace(FAST, first=600.0, longest=600.0))
    sending.wait(lambda: "results wait for it" in caplog.text)
    running.stop(timeout=60.0)  # a tenth of the pause it is in
    assert running not in threading.enumerate()
