"""What could not go to the PACS is seen, held back, and sent again by a person; a silent PACS costs nothing."""

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.uid import Comprehensive3DSRStorage
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification
from sqlalchemy import insert, literal_column, select, update
from typer.testing import CliRunner

from client.delivery.sender import Pace, Sender
from client.review import deadletters, readers
from client.review.deadletters import Override
from client.review.recall import take_back
from client.review.verdict import Answer, Decision, Reason, TruthTier, record
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, outcome, study
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


def test_a_result_is_made_anew_and_the_old_one_kept_until_it_is(
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
    assert (row.state, row.revision, old) == ("queued", 2, "quarantined")
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


class Slow:
    """A PACS that says what it took, in order, and lets a test look at the moment at which a report is on its way."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.holding, self.go = threading.Event(), threading.Event()
        entity = AE("PACS")
        entity.supported_contexts = AllStoragePresentationContexts
        entity.add_supported_context(Verification)
        handlers = [(evt.EVT_C_STORE, self._store)]
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)  # type: ignore[arg-type]
        assert server is not None
        self.server = server
        self.config = PeerConfig("127.0.0.1", server.server_address[1], "PACS")

    def _store(self, event: Any) -> int:
        if event.request.AffectedSOPClassUID == Comprehensive3DSRStorage:
            self.holding.set()
            self.go.wait(20)
        self.taken.append(str(event.request.AffectedSOPInstanceUID))
        return 0x0000


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow()
    yield made
    made.go.set()
    made.server.shutdown()


def reject(site: Site, uid: str, by: str = "Ada") -> None:
    said = {"decision": Decision.REJECT, "answer": Answer.NOT_ASSESSABLE, "reason": Reason.WRONG_PATIENT}
    record(site, uid, by, revision=1, tier=TruthTier.AI_VISIBLE, **said)  # type: ignore[arg-type]


def agree(site: Site, uid: str, by: str = "Ada", revision: int = 1) -> None:
    said = {"decision": Decision.AGREE, "answer": Answer.POSITIVE}
    record(site, uid, by, revision=revision, tier=TruthTier.AI_VISIBLE, **said)  # type: ignore[arg-type]


def put(site: Site, state: str, *uids: str, kinds: tuple[str, ...] = ("sr", "sc", "verified", "kos")) -> None:
    """All objects of some studies stand so."""
    of = select(outcome.c.id).where(outcome.c.study_uid.in_(uids))
    with site.database.write() as connection:
        change = update(delivery).where(delivery.c.outcome_id.in_(of), delivery.c.kind.in_(kinds))
        connection.execute(change.values(state=state))


def objects(site: Site, uid: str) -> list[Any]:
    query = select(delivery).join(outcome, outcome.c.id == delivery.c.outcome_id).where(outcome.c.study_uid == uid)
    with site.database.read() as connection:
        return list(connection.execute(query.order_by(literal_column("delivery.rowid"))))


@pytest.mark.parametrize("state", ["pending", "failed", "quarantined"])
def test_what_is_rejected_before_it_was_sent_never_gets_to_the_pacs(
    site: Site, scored: Scored, sender: Callable[..., Sender], slow: Slow, eventually: Callable[..., Any], state: str
) -> None:
    readers.add(site, "Ada", "clinician")
    uid = scored(objects=True)
    agree(site, uid)
    put(site, state, uid)
    reject(site, uid)
    slow.go.set()
    sender(slow.config)
    eventually(lambda: rows(site)["kos"].state == "sent")
    [selection] = [row.sop_uid for row in objects(site, uid) if row.kind == "kos"]
    assert slow.taken == [selection]
    assert [row.state for row in objects(site, uid) if row.kind != "kos"] == ["dropped"] * 3  # the signed one, too


def test_a_withdrawal_comes_after_what_was_on_its_way_when_it_was_made(
    site: Site, scored: Scored, sender: Callable[..., Sender], slow: Slow, eventually: Callable[..., Any]
) -> None:
    readers.add(site, "Ada", "clinician")
    uid = scored(objects=True)
    site.config.pacs = slow.config
    patient = Sender(site, Pace(first=0.05, longest=0.1, poll=0.05, answer=20.0))
    patient.start()
    try:
        assert slow.holding.wait(20)  # the picture is there, the report on its way
        reject(site, uid)
        slow.go.set()
        eventually(lambda: rows(site)["kos"].state == "sent")
    finally:
        patient.stop()
    assert slow.taken == [row.sop_uid for kind in ("sc", "sr", "kos") for row in objects(site, uid) if row.kind == kind]
    assert [row.state for row in objects(site, uid)] == ["sent"] * 3  # and nobody says that it is not there


def test_all_are_sent_again_but_what_no_longer_stands(
    site: Site, scored: Scored, sender: Callable[..., Sender], pacs: Any, eventually: Callable[..., Any]
) -> None:
    for name in ("Ada", "Bob"):
        readers.add(site, name, "clinician")
    stands, superseded, signed, mixed = (scored(objects=True) for _ in range(4))
    agree(site, signed)
    agree(site, signed, "Bob")
    correct = {"decision": Decision.CORRECT, "answer": Answer.NEGATIVE, "reason": Reason.SUBTLE}
    record(site, signed, "Bob", revision=1, tier=TruthTier.AI_VISIBLE, **correct)  # type: ignore[arg-type]
    put(site, "failed", stands, superseded, signed, mixed)
    old = [row.sop_uid for row in objects(site, superseded)]
    scored(uid=superseded, revision=2, objects=True)
    with site.database.write() as connection:
        reasons = [{"code": "patient-mismatch", "text": "the study's images name different patients"}]
        values = {"kind": "refused", "reasons": reasons, "created_at": 2.0}
        connection.execute(insert(outcome).values(study_uid=mixed, revision=2, **values))
    # of an earlier release, which dropped nothing: withdrawn, and its objects still among the dead letters
    gone = scored(objects=True)
    reject(site, gone)
    put(site, "failed", gone, kinds=("sr", "sc"))
    put(site, "sent", gone, kinds=("kos",))

    told = deadletters.resend_all(site)
    why = {letter.sop_uid: letter.fallen for letter in told.left}
    picture, report, first, second, third = (row.sop_uid for row in objects(site, signed))
    assert told.number == len({*(row.sop_uid for row in objects(site, stands)), picture, first, third})
    assert why == {
        **dict.fromkeys(old, "a newer revision of the study takes its place"),
        **{row.sop_uid: "images of another patient came to its study since" for row in objects(site, mixed)},
        **{row.sop_uid: "it was withdrawn from the PACS" for row in objects(site, gone) if row.kind != "kos"},
        report: "a signed report takes its place",
        second: "its signer has judged the study again since",
    }
    assert {letter.sop_uid: letter.fallen for letter in deadletters.listed(site)} == why
    sender(pacs.config)
    eventually(lambda: not deadletters.listed(site, ("pending",)))
    assert not set(pacs.received) & set(why)
    assert {picture, first, third} <= set(pacs.received)

    # by itself, on somebody's word; but never what was withdrawn
    with pytest.raises(Conflict, match="a newer revision"):
        deadletters.resend(site, old[0])
    deadletters.resend(site, old[0], anyway=True)
    eventually(lambda: old[0] in pacs.received)
    withdrawn = next(row.sop_uid for row in objects(site, gone) if row.kind == "sr")
    for anyway in (False, True):
        with pytest.raises(Conflict, match="withdrawn"):
            deadletters.resend(site, withdrawn, anyway=anyway)
    put(site, "quarantined", gone, kinds=("sr",))
    with pytest.raises(Conflict, match="withdrawn"):
        deadletters.override(site, withdrawn, Override.PACS_TAKES_IT, "Grace Hopper")


def test_results_of_a_recalled_version_are_not_sent_again(site: Site, scored: Scored) -> None:
    readers.add(site, "Ada", "clinician")
    plain, signed, lost = (scored(objects=True) for _ in range(3))
    agree(site, signed)
    [picture] = [row for row in objects(site, lost) if row.kind == "sc"]
    with site.database.read() as connection:
        image = connection.execute(select(outcome.c.input_digest).where(outcome.c.study_uid == lost)).scalar_one()
    for digest in (*(row.sha256 for row in objects(site, lost)), image):  # so that no withdrawal can be made of it
        Archive(site.archive).path(digest).unlink()
    take_back(site, "brightness@1", "Grace Hopper")
    assert [row.state for row in objects(site, lost)] == ["dropped"] * 2
    put(site, "failed", plain, signed, lost)
    told = deadletters.resend_all(site)
    again = {row.kind for uid in (plain, signed, lost) for row in objects(site, uid) if row.state == "pending"}
    assert again == {"kos", "verified"}  # the withdrawal, and what its signer has to amend
    assert {letter.fallen for letter in told.left} == {
        "it was withdrawn from the PACS",
        "the version that made it was recalled",
    }
    with pytest.raises(Conflict, match="recalled"):
        deadletters.resend(site, picture.sop_uid, anyway=True)


def test_people_see_and_send_again_by_interface_page_and_command(site: Site, scored: Scored, served: str) -> None:
    study_uid = scored(objects=True)
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
    # and it says of each that stays why it does
    put(site, "failed", study_uid)
    scored(uid=study_uid, revision=2)
    said = CliRunner().invoke(app, ["deliveries", "--folder", str(site.folder), "--resend", "all"])
    assert "0 objects are sent again" in said.output
    assert f"left: {uid} (sr): a newer revision of the study takes its place" in said.output.replace("\n", " ")
    with httpx.Client(base_url=served) as http:
        http.post("/login", data={"token": it})
        assert "Not sent again with the others: a newer revision" in http.get("/deliveries").text
        header = {"Authorization": f"Bearer {it}"}
        assert http.post(f"/api/deliveries/{uid}/resend", headers=header).status_code == 409
        anyway = http.post(f"/api/deliveries/{uid}/resend", headers=header, params={"anyway": "true"})
        assert anyway.status_code == 204
