"""What the PACS confirms is committed, what it has lost is offered again, and nobody else's word changes anything."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, build_role, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance
from sqlalchemy import select, update

from client.arrival.gateway import Gateway
from client.delivery import commitment
from client.delivery.commitment import MOST_ASKS, Committer, Waits
from client.delivery.sender import Pace, Sender
from client.review import readers
from client.review.verdict import Answer, Decision, Reason, TruthTier, record
from client.store.site import Site
from client.store.tables import commitment as transactions
from client.store.tables import delivery
from configs.schema import PeerConfig
from models.children import free_port

pytestmark = pytest.mark.integration
FAST = Pace(first=0.05, longest=0.2, poll=0.05, answer=5.0)
WAITS = Waits(settle=0.05, report=30.0, linger=0.3, away=0.1, longest=0.2, answer=5.0)
Scored = Callable[..., str]


class Archive:
    """A PACS that stores and takes requests for commitment; the test says what it reports, and how."""

    def __init__(self) -> None:
        self.stored: set[str] = set()
        self.requests: list[Dataset] = []
        self.same_association = False
        self.forgets: set[str] = set()
        entity = AE("PACS")
        entity.supported_contexts = AllStoragePresentationContexts
        entity.add_supported_context(StorageCommitmentPushModel)
        self.entity = entity
        server = entity.start_server(
            ("127.0.0.1", 0),
            block=False,
            evt_handlers=[(evt.EVT_C_STORE, self._store), (evt.EVT_N_ACTION, self._action)],  # type: ignore[arg-type]
        )
        assert server is not None
        self.server = server
        self.config = PeerConfig("127.0.0.1", server.server_address[1], "PACS", commitment=True)

    def _store(self, event: Any) -> int:
        self.stored.add(str(event.request.AffectedSOPInstanceUID))
        return 0x0000

    def _action(self, event: Any) -> tuple[int, None]:
        self.requests.append(event.action_information)
        if self.same_association:
            import threading

            request = event.action_information
            threading.Timer(0.05, lambda: self.tell(event.assoc, request)).start()
        return 0x0000, None

    def answer(self, request: Dataset) -> Dataset:
        told = Dataset()
        told.TransactionUID = request.TransactionUID
        kept = [item for item in request.ReferencedSOPSequence if item.ReferencedSOPInstanceUID not in self.forgets]
        lost = [item for item in request.ReferencedSOPSequence if item.ReferencedSOPInstanceUID in self.forgets]
        if kept:
            told.ReferencedSOPSequence = kept
        for item in lost:
            item.FailureReason = 0x0112
        if lost:
            told.FailedSOPSequence = lost
        return told

    def tell(self, association: Any, request: Dataset) -> int:
        told = self.answer(request)
        status, _ = association.send_n_event_report(
            told,
            2 if "FailedSOPSequence" in told else 1,
            StorageCommitmentPushModel,
            StorageCommitmentPushModelInstance,
        )
        return status.Status

    def call(self, port: int, request: Dataset, title: str = "PACS") -> int | None:
        """Report over an association of its own, in the role of SCP; None where it is not taken."""
        entity = AE(title)
        entity.add_requested_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = entity.associate("127.0.0.1", port, ae_title="VIGIE", ext_neg=[role])
        if not association.is_established:
            return None
        try:
            return self.tell(association, request)
        finally:
            association.release()


@pytest.fixture
def archive() -> Iterator[Archive]:
    made = Archive()
    yield made
    made.server.shutdown()


@pytest.fixture
def node(site: Site, archive: Archive) -> Iterator[Callable[..., Gateway]]:
    running: list[Any] = []

    def start(config: PeerConfig | None = None, waits: Waits = WAITS) -> Gateway:
        site.config.pacs = config or archive.config
        gateway, sender, committer = Gateway(site), Sender(site, FAST), Committer(site, waits)
        sender.start()
        committer.start()
        running.extend((committer.stop, sender.stop, gateway.close))
        return gateway

    yield start
    for stop in running:
        stop()


def states(site: Site) -> dict[str, str]:
    with site.database.read() as connection:
        return {row.kind: row.state for row in connection.execute(select(delivery))}


def test_the_pacs_confirms_over_an_association_of_its_own(
    site: Site, scored: Scored, archive: Archive, node: Callable[..., Gateway], eventually: Callable[..., Any]
) -> None:
    scored(objects=True)
    gateway = node(waits=Waits(settle=0.8, report=30.0, linger=0.1, away=0.1, longest=0.2, answer=5.0))
    request = eventually(lambda: archive.requests)[0]
    forged = Dataset()
    forged.TransactionUID = generate_uid()
    forged.ReferencedSOPSequence = request.ReferencedSOPSequence
    assert archive.call(gateway.port, request, title="SOMEONE") == commitment.NOT_AUTHORIZED
    assert archive.call(gateway.port, forged) == commitment.UNKNOWN_TRANSACTION
    assert states(site) == {"sr": "sent", "sc": "sent"}
    assert archive.call(gateway.port, request) == 0x0000
    assert states(site) == {"sr": "committed", "sc": "committed"}
    archive.forgets = archive.stored  # said after it confirmed, and so too late
    assert archive.call(gateway.port, request) == 0x0000
    assert states(site) == {"sr": "committed", "sc": "committed"}
    assert len(archive.requests) == 1
    assert len(list(site.ledger.entries("delivery.reported"))) == 1


def test_what_the_pacs_has_lost_is_offered_again_and_confirmed_over_the_same_association(
    site: Site,
    scored: Scored,
    archive: Archive,
    node: Callable[..., Gateway],
    eventually: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commitment, "_AGAIN_SECONDS", 0.1)
    scored(objects=True)
    with site.database.read() as connection:
        lost = connection.execute(select(delivery.c.sop_uid).where(delivery.c.kind == "sr")).scalar_one()
    archive.forgets = {lost}
    archive.same_association = True
    # a report over the same association may get lost in the stand-in's own library: then it is asked for again
    node(waits=Waits(settle=0.05, report=1.5, linger=0.3, away=0.1, longest=0.2, answer=5.0))

    def of_the_lost() -> Any:
        with site.database.read() as connection:
            return connection.execute(select(delivery).where(delivery.c.sop_uid == lost)).one()

    eventually(lambda: "does not keep it: reason 0112" in of_the_lost().problem)
    archive.forgets = set()
    eventually(lambda: states(site) == {"sr": "committed", "sc": "committed"})
    row = of_the_lost()
    assert row.attempts >= 3  # sent, lost, sent


def test_what_was_withdrawn_is_not_offered_again_because_the_pacs_no_longer_keeps_it(
    site: Site, scored: Scored, archive: Archive, node: Callable[..., Gateway], eventually: Callable[..., Any]
) -> None:
    readers.add(site, "Ada", "clinician")
    uid = scored(objects=True)
    gateway = node()
    eventually(lambda: sum(len(request.ReferencedSOPSequence) for request in archive.requests) == 2)
    asked = list(archive.requests)
    archive.forgets = set(archive.stored)  # as a PACS does that takes what is withdrawn out of its archive
    said = {"decision": Decision.REJECT, "answer": Answer.NOT_ASSESSABLE, "reason": Reason.WRONG_PATIENT}
    record(site, uid, "Ada", revision=1, tier=TruthTier.AI_VISIBLE, **said)  # type: ignore[arg-type]
    for request in asked:
        assert archive.call(gateway.port, request) == 0x0000
    eventually(lambda: states(site) == {"sr": "dropped", "sc": "dropped", "kos": "sent"})


def test_a_report_that_never_comes_is_asked_for_a_few_times_and_a_late_one_changes_nothing(
    site: Site, scored: Scored, archive: Archive, node: Callable[..., Gateway], eventually: Callable[..., Any]
) -> None:
    scored(objects=True)
    gateway = node(waits=Waits(settle=0.02, report=0.1, linger=0.05, away=0.1, longest=0.2, answer=5.0))
    eventually(lambda: sorted(asked(archive).values()) == [MOST_ASKS, MOST_ASKS])
    eventually(lambda: not open_transactions(site))
    time.sleep(0.3)
    assert sorted(asked(archive).values()) == [MOST_ASKS, MOST_ASKS]
    with site.database.read() as connection:
        found = connection.execute(select(delivery)).all()
    assert {(row.state, row.problem) for row in found} == {("sent", "the PACS has not confirmed that it keeps it")}
    archive.forgets = archive.stored
    assert archive.call(gateway.port, archive.requests[0]) == 0x0000
    assert states(site) == {"sr": "sent", "sc": "sent"}


def asked(archive: Archive) -> Counter[str]:
    return Counter(
        item.ReferencedSOPInstanceUID for request in archive.requests for item in request.ReferencedSOPSequence
    )


def open_transactions(site: Site) -> list[Any]:
    with site.database.read() as connection:
        return list(connection.execute(select(transactions).where(transactions.c.state == "asked")))


def test_nobody_gets_a_commitment_of_us(site: Site, archive: Archive) -> None:
    site.config.pacs = archive.config
    gateway = Gateway(site)
    try:
        entity = AE("PACS")
        entity.add_requested_context(StorageCommitmentPushModel)
        association = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
        assert association.is_established
        request, item = Dataset(), Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
        request.TransactionUID, request.ReferencedSOPSequence = generate_uid(), [item]
        status, _ = association.send_n_action(
            request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
        )
        assert status.Status == commitment.NOT_AUTHORIZED
        association.release()
        role = build_role(StorageCommitmentPushModel, scu_role=True)
        refused = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE", ext_neg=[role])
        assert not refused.is_established
    finally:
        gateway.close()


class Orthanc:
    def __init__(self, folder: Path, vigie: int) -> None:
        self.port, self.http = free_port(), free_port()
        settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomPort": self.port,
            "HttpPort": self.http,
            "DicomAet": "PACS",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {"vigie": ["VIGIE", "127.0.0.1", vigie]},
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.process = subprocess.Popen(
            ["/usr/sbin/Orthanc", str(folder / "orthanc.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def ask(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", data, timeout=10) as answer:
            return json.load(answer)

    def up(self) -> bool:
        try:
            return bool(self.ask("/system"))
        except OSError:
            return False


@pytest.mark.peers("Orthanc")
def test_orthanc_confirms_what_it_keeps_and_is_refused_what_it_asks(
    site: Site, scored: Scored, node: Callable[..., Gateway], tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    site.config.dicom_port = free_port()
    orthanc = Orthanc(tmp_path, site.config.dicom_port)
    try:
        eventually(orthanc.up)
        scored(objects=True)
        scored(objects=True)
        node(PeerConfig("127.0.0.1", orthanc.port, "PACS", commitment=True))
        eventually(lambda: set(states(site).values()) == {"committed"})
        # the other way round: Orthanc as SCU asks us, and gets no promise
        with site.database.read() as connection:
            row = connection.execute(select(delivery).limit(1)).one()
        body = {"DicomInstances": [["1.2.840.10008.5.1.4.1.1.7", row.sop_uid]]}
        try:
            asked = orthanc.ask("/modalities/vigie/storage-commitment", body)["Path"]
            eventually(lambda: orthanc.ask(asked)["Status"] != "Pending", timeout=3)
            assert orthanc.ask(asked)["Status"] != "Success"
        except urllib.error.HTTPError as refused:  # Orthanc's own word for it
            refused.close()
    finally:
        orthanc.process.terminate()
        orthanc.process.wait(20)


def test_a_pacs_that_rejects_us_is_said_to_and_not_to_be_away(
    site: Site,
    archive: Archive,
    node: Callable[..., Gateway],
    scored: Callable[..., str],
    eventually: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    scored(objects=True)
    with site.database.write() as connection:
        connection.execute(update(delivery).values(state="sent", sent_at=1.0))
    archive.entity.require_calling_aet = ["SOMEBODY"]
    node()
    said = f"rejects us, {site.config.ae_title}, calling it {archive.config.ae_title}: calling AE title not recognised"
    eventually(lambda: said in caplog.text)
    assert "cannot be reached" not in caplog.text
