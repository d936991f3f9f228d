"""What could not go to the PACS is seen, held back, and sent again by a person; a silent PACS costs nothing."""

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pydicom
import pytest
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification
from sqlalchemy import select, update
from typer.testing import CliRunner

from client.delivery.sender import Pace, Sender
from client.review import deadletters, readers
from client.review.deadletters import Override
from client.review.verdict import Answer, Decision, TruthTier, record
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, study
from configs.schema import PeerConfig
from models.errors import Conflict

pytestmark = pytest.mark.integration
FAST = Pace(first=0.05, longest=0.1, poll=0.05, answer=0.4)
Scored = Callable[..., str]


@pytest.fixture
def sender(site: Site) -> Iterator[Callable[..., Sender]]:
    started: list[Sender] = []

    def start(config: PeerConfig, **settings: Any) -> Sender:
        site.config.pacs = config
        made = Sender(site, FAST, **settings)
        started.append(made)
        made.start()
        return made

    yield start
    for made in started:
        made.stop()


def rows(site: Site) -> dict[str, Any]:
    with site.database.read() as connection:
        return {row.kind: row for row in connection.execute(select(delivery).where(delivery.c.state != "dropped"))}


def states(site: Site) -> dict[str, str]:
    return {kind: row.state for kind, row in rows(site).items()}


def spoil(site: Site, kind: str = "sr") -> str:
    """Let the object be one that says VERIFIED and nobody has signed; its UID."""
    archive = Archive(site.archive)
    row = rows(site)[kind]
    dataset = pydicom.dcmread(io.BytesIO(archive.read(row.sha256)))
    dataset.VerificationFlag = "VERIFIED"
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    with site.database.write() as connection:
        changed = update(delivery).where(delivery.c.sop_uid == row.sop_uid)
        connection.execute(changed.values(sha256=archive.store(buffer.getvalue())))
    return str(row.sop_uid)


def test_an_object_that_is_not_what_it_should_be_is_never_sent_until_somebody_says_so(
    site: Site, scored: Scored, sender: Callable[..., Sender], pacs: Any, eventually: Callable[..., Any]
) -> None:
    scored(objects=True)
    uid = spoil(site)
    sender(pacs.config)
    eventually(lambda: states(site) == {"sr": "quarantined", "sc": "sent"})
    assert "VERIFIED without a verifying observer" in rows(site)["sr"].problem
    assert uid not in pacs.received
    with pytest.raises(Conflict):
        deadletters.resend(site, uid)
    deadletters.override(site, uid, Override.PACS_TAKES_IT, "Grace Hopper")
    eventually(lambda: states(site) == {"sr": "sent", "sc": "sent"})
    assert uid in pacs.received
    assert rows(site)["sr"].overridden == "pacs_takes_it by Grace Hopper"
    events = [entry.event for entry in site.ledger.entries("delivery.")]
    assert events.count("delivery.quarantined") == events.count("delivery.overridden") == 1


def test_a_result_is_made_anew_and_the_old_one_dropped(
    site: Site, scored: Scored, sender: Callable[..., Sender], pacs: Any, eventually: Callable[..., Any]
) -> None:
    uid = scored(objects=True)
    bad = spoil(site)
    sender(pacs.config)
    eventually(lambda: states(site)["sr"] == "quarantined")
    deadletters.remake(site, bad)
    with site.database.read() as connection:
        row = connection.execute(select(study).where(study.c.uid == uid)).one()
        old = connection.execute(select(delivery.c.state).where(delivery.c.sop_uid == bad)).scalar_one()
    assert (row.state, row.revision, old) == ("queued", 2, "dropped")
    assert bad not in pacs.received


def test_a_signed_report_that_was_held_back_is_made_of_its_verdict_again(
    site: Site, scored: Scored, sender: Callable[..., Sender], pacs: Any, eventually: Callable[..., Any]
) -> None:
    uid = scored(objects=True)
    readers.add(site, "Ada Lovelace", "clinician")
    record(
        site,
        uid,
        "Ada Lovelace",
        revision=1,
        decision=Decision.AGREE,
        answer=Answer.POSITIVE,
        tier=TruthTier.AI_VISIBLE,
    )
    archive, row = Archive(site.archive), rows(site)["verified"]
    dataset = pydicom.dcmread(io.BytesIO(archive.read(row.sha256)))
    del dataset.PredecessorDocumentsSequence
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    with site.database.write() as connection:
        connection.execute(
            update(delivery).where(delivery.c.sop_uid == row.sop_uid).values(sha256=archive.store(buffer.getvalue()))
        )
    sender(pacs.config)
    eventually(lambda: states(site)["verified"] == "quarantined")
    with pytest.raises(Conflict):
        deadletters.remake(site, rows(site)["sr"].sop_uid)  # judged, and sent
    deadletters.remake(site, row.sop_uid)
    eventually(lambda: states(site)["verified"] == "sent")
    assert pacs.received[row.sop_uid][0].PredecessorDocumentsSequence


class Silent:
    """A PACS that takes associations, answers C-ECHO, and leaves objects unanswered for as long as it is told."""

    def __init__(self) -> None:
        self.mended = threading.Event()
        self.offered = 0
        entity = AE("PACS")
        entity.supported_contexts = AllStoragePresentationContexts
        entity.add_supported_context(Verification)
        entity.maximum_associations = 100
        handlers = [(evt.EVT_C_STORE, self._store)]
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)  # type: ignore[arg-type]
        assert server is not None
        self.server = server
        self.config = PeerConfig("127.0.0.1", server.server_address[1], "PACS")

    def _store(self, _event: Any) -> int:
        self.offered += 1
        self.mended.wait(20)
        return 0x0000


@pytest.mark.parametrize("studies", [1, 3])
def test_a_pacs_that_answers_no_object_costs_none_an_attempt(
    site: Site, scored: Scored, sender: Callable[..., Sender], eventually: Callable[..., Any], studies: int
) -> None:
    pacs = Silent()
    try:
        for _ in range(studies):
            scored(objects=True)
        sender(pacs.config, max_attempts=2)
        eventually(lambda: pacs.offered >= 4)
        with site.database.read() as connection:
            found = connection.execute(select(delivery)).all()
        assert {(row.state, row.attempts) for row in found} == {("pending", 0)}
        assert any("leaves objects unanswered" in row.problem for row in found)
        pacs.mended.set()
        eventually(lambda: set(states(site).values()) == {"sent"})
    finally:
        pacs.mended.set()
        pacs.server.shutdown()


def test_people_see_and_send_again_by_interface_page_and_command(site: Site, scored: Scored, served: str) -> None:
    scored(objects=True)
    uid = rows(site)["sr"].sop_uid
    with site.database.write() as connection:
        connection.execute(update(delivery).values(state="failed", problem="status A700"))
    clinician, it = readers.add(site, "Ada", "clinician"), readers.add(site, "Ian", "it")
    with httpx.Client(base_url=served) as http:
        header = {"Authorization": f"Bearer {it}"}
        assert {one["sop_uid"] for one in http.get("/api/deliveries", headers=header).json()} >= {uid}
        wrong = http.post(f"/api/deliveries/{uid}/override", headers=header, json={"reason": "other"})
        assert (wrong.status_code, wrong.json()["code"]) == (409, "conflict")
        http.post("/login", data={"token": clinician})
        page = http.get("/deliveries").text
        assert "status A700" in page
        assert "Send again" not in page
        http.post("/logout")
        http.post("/login", data={"token": it})
        page = http.get("/deliveries").text
        csrf = page.partition('name="csrf" value="')[2].partition('"')[0]
        assert http.post(f"/deliveries/{uid}", data={"csrf": "forged", "act": "resend"}).status_code == 403
        assert rows(site)["sr"].state == "failed"
        assert http.post(f"/deliveries/{uid}", data={"csrf": csrf, "act": "resend"}).status_code == 303
    assert states(site) == {"sr": "pending", "sc": "failed"}
    from scripts.site_commands import app

    said = CliRunner().invoke(app, ["deliveries", "--folder", str(site.folder), "--resend", "all"])
    assert said.exit_code == 0, said.output
    assert "1 objects are sent again" in said.output
    assert states(site) == {"sr": "pending", "sc": "pending"}
