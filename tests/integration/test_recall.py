"""A recalled version's results: every one accounted for, exactly once, also when the recall was killed."""

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import generate_uid
from sqlalchemy import delete, func, insert, select
from typer.testing import CliRunner

from client.inference import outcomes
from client.results.conformity import examine
from client.results.finding import Finding
from client.review import readers, worklist
from client.review.recall import named, reconcile, take_back
from client.review.verdict import Answer, Decision, Reason, TruthTier, record
from client.store import versions
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, outcome, recall, study, verdict
from models.bundle import verify
from models.errors import Conflict, NotFound
from models.signing import load_trust

pytestmark = pytest.mark.integration
Scored = Callable[..., str]
ADA = "Ada Lovelace"
VERSION = "brightness@1"


@pytest.fixture
def many(site: Site, scored: Scored) -> Callable[[int, int, int], None]:
    """Fill in results by the hundred: unsigned, signed, rejected, each with a report of its own that was sent."""
    readers.add(site, ADA, "clinician")

    def fill(unsigned: int, signed: int, rejected: int) -> None:
        first = scored(objects=True)
        archive = Archive(site.archive)
        with site.database.read() as connection:
            model = connection.execute(select(outcome).where(outcome.c.study_uid == first)).one()._asdict()
            report = connection.execute(select(delivery).where(delivery.c.kind == "sr")).one()
            number = connection.execute(select(func.max(outcome.c.id))).scalar_one()
        content, old = archive.read(report.sha256), report.sop_uid.encode()
        made: list[tuple[Any, ...]] = []
        for index in range(unsigned + signed + rejected - 1):
            new = str(10 ** (len(old) - 6) + index).encode()
            new = b"2.25." + new[: len(old) - 5]
            altered = content.replace(old, new)
            import hashlib

            digest = hashlib.sha256(altered).hexdigest()
            archive.path(digest).write_bytes(altered)  # not synced: this is a test's
            made.append((str(generate_uid(prefix=None)), number + 1 + index, new.decode(), digest))
        now = time.time()
        with site.database.write() as connection:
            who = connection.execute(select(study.c.patient_key).limit(1)).scalar_one()
            connection.execute(
                insert(study),
                [
                    {"uid": uid, "patient_key": who, "state": "scored", "received_at": now, "touched_at": now}
                    for uid, *_ in made
                ],
            )
            connection.execute(insert(outcome), [model | {"id": number, "study_uid": uid} for uid, number, *_ in made])
            connection.execute(
                insert(delivery),
                [
                    {"sop_uid": sop, "outcome_id": number, "kind": "sr", "sha256": digest, "state": "sent"}
                    for _, number, sop, digest in made
                ],
            )
            words = [("agree", "positive", "")] * signed + [("reject", "not_assessable", "dangerous")] * rejected
            for (uid, number, *_), (decision, answer, reason) in zip(made, words, strict=False):
                connection.execute(
                    insert(verdict).values(
                        study_uid=uid,
                        outcome_id=number,
                        reader=ADA,
                        decision=decision,
                        answer=answer,
                        tier="ai_visible",
                        mode="ai_first",
                        reason=reason,
                        created_at=now - 1,
                    )
                )

    return fill


def documents(site: Site) -> list[Any]:
    with site.database.read() as connection:
        return list(connection.execute(select(delivery).where(delivery.c.kind == "kos")))


def test_a_thousand_results_are_reconciled_exactly(site: Site, many: Callable[[int, int, int], None]) -> None:
    many(400, 400, 200)
    told = take_back(site, VERSION, "Grace Hopper")
    assert (told.found, told.withdrawn, told.to_signer, told.already_withdrawn) == (1000, 400, 400, 200)
    assert told.exact
    assert told.without_document == 0
    assert len(documents(site)) == len({row.outcome_id for row in documents(site)}) == 400
    counts = worklist.counts(site)
    assert (counts["withdrawn"], counts["verified"], counts["recalled"], counts["unverified"]) == (600, 400, 400, 0)
    assert take_back(site, VERSION, "Grace Hopper") == told
    assert len(documents(site)) == 400
    assert site.ledger.first_break() is None


def test_killed_in_the_middle_and_run_again_it_does_each_exactly_once(
    site: Site, many: Callable[[int, int, int], None], eventually: Callable[..., Any]
) -> None:
    many(150, 10, 10)
    program = (
        "import sys, pathlib; from client.store.site import Site; from client.review.recall import take_back; "
        "take_back(Site(pathlib.Path(sys.argv[1])), 'brightness@1', 'Grace Hopper')"
    )
    root = str(Path(__file__).parents[2])
    for most in (50, 100):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(site.folder)], env=os.environ | {"PYTHONPATH": root}
        )
        eventually(lambda most=most: recalled(site) >= most)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < recalled(site) < 170
    # suspended before the first result was touched
    assert versions.panel(site) == []
    told = take_back(site, VERSION, "Grace Hopper")
    assert told.exact
    assert (told.found, told.withdrawn, told.to_signer, told.already_withdrawn) == (170, 150, 10, 10)
    found = documents(site)
    assert len(found) == len({row.outcome_id for row in found}) == 150
    assert len(list(site.ledger.entries("result.recalled"))) == 170


def recalled(site: Site) -> int:
    with site.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(recall)).scalar_one())


def test_what_is_signed_goes_before_its_signer_and_what_is_not_is_withdrawn(site: Site, scored: Scored) -> None:
    readers.add(site, ADA, "clinician")
    signed, unsigned, waiting = (scored(objects=True) for _ in range(3))
    give = {"revision": 1, "tier": TruthTier.AI_VISIBLE}
    record(site, signed, ADA, decision=Decision.AGREE, answer=Answer.POSITIVE, **give)  # type: ignore[arg-type]
    with site.database.write() as connection:
        of_waiting = select(outcome.c.id).where(outcome.c.study_uid == waiting).scalar_subquery()
        connection.execute(delivery.update().where(delivery.c.outcome_id != of_waiting).values(state="sent"))
    said = CliRunner().invoke(_app(), ["recall", "--folder", str(site.folder), "--version", VERSION, "--by", "Grace"])
    assert said.exit_code == 0, said.output
    assert "3 results found" in said.output
    assert worklist.one(site, signed).line.recalled == ADA
    assert worklist.one(site, signed).line.status == "verified"
    assert [line.uid for line in worklist.page(site, status="recalled")] == [signed]
    for uid in (unsigned, waiting):
        assert worklist.one(site, uid).line.status == "withdrawn"
        with pytest.raises(Conflict):
            record(site, uid, ADA, decision=Decision.AGREE, answer=Answer.POSITIVE, **give)  # type: ignore[arg-type]
    # what had not been sent need not be: dropped, and withdrawn all the same, in case it was on its way
    assert {state for _, state, _ in worklist.one(site, waiting).deliveries} == {"dropped", "pending"}
    archive = Archive(site.archive)
    for row in documents(site):
        content = archive.read(row.sha256)
        assert examine(content).problems == ()
        document = pydicom.dcmread(io.BytesIO(content))
        assert document.ConceptNameCodeSequence[0].CodeValue == "113037"
        [named_] = document.CurrentRequestedProcedureEvidenceSequence
        assert len(named_.ReferencedSeriesSequence) == 2  # report and picture
    record(
        site,
        signed,
        ADA,
        decision=Decision.REJECT,
        answer=Answer.NOT_ASSESSABLE,
        reason=Reason.OTHER,
        **give,  # type: ignore[arg-type]
    )
    assert worklist.one(site, signed).line.recalled == ""
    assert worklist.counts(site)["recalled"] == 0
    told = reconcile(site, named(site, VERSION))
    assert told.exact
    with pytest.raises(NotFound):
        named(site, "brightness@9")


def judge(site: Site, uid: str, by: str, decision: Decision) -> None:
    answer = {Decision.AGREE: Answer.POSITIVE, Decision.CORRECT: Answer.NEGATIVE}.get(decision, Answer.NOT_ASSESSABLE)
    reason = None if decision is Decision.AGREE else Reason.OTHER
    record(site, uid, by, revision=1, decision=decision, answer=answer, tier=TruthTier.AI_VISIBLE, reason=reason)


@pytest.mark.parametrize("signature", [Decision.AGREE, Decision.CORRECT])
@pytest.mark.parametrize("rejected_first", [False, True])
def test_a_signer_is_told_although_another_reader_rejected_the_result(
    site: Site, scored: Scored, signature: Decision, rejected_first: bool
) -> None:
    uid, gone = scored(objects=True), scored(objects=True)
    for name in (ADA, "Bob Reader", "Cyd Reader"):
        readers.add(site, name, "clinician")
    given = [(ADA, signature), ("Bob Reader", Decision.REJECT)]
    for by, decision in reversed(given) if rejected_first else given:
        judge(site, uid, by, decision)
    judge(site, uid, "Cyd Reader", Decision.AGREE)
    judge(site, gone, ADA, Decision.AGREE)
    judge(site, gone, ADA, Decision.REJECT)  # who takes the signature back knows
    told = take_back(site, VERSION, "Grace Hopper")
    assert (told.to_signer, told.already_withdrawn, told.withdrawn) == (1, 1, 0)
    assert told.exact
    [line] = worklist.page(site, status="recalled")
    assert line.uid == uid
    assert set(line.recalled.split(", ")) == {ADA, "Cyd Reader"}  # each has a verified report in the PACS
    judge(site, uid, "Bob Reader", Decision.AGREE)  # who had signed nothing answers for nobody
    judge(site, uid, ADA, Decision.REJECT)
    [line] = worklist.page(site, status="recalled")
    assert line.recalled == "Cyd Reader"  # nobody else can amend what is signed
    judge(site, uid, "Cyd Reader", Decision.CORRECT)
    assert worklist.counts(site)["recalled"] == 0


def _app() -> Any:
    from scripts.site_commands import app

    return app


def test_what_was_being_scored_when_the_version_was_recalled_is_not_concluded_with_it(
    site: Site, scored: Scored
) -> None:
    uid = scored()
    bundle = verify(site.versions / named(site, VERSION).digest, load_trust(site.trust))
    with site.database.write() as connection:
        connection.execute(delete(outcome))
        connection.execute(study.update().values(state="queued"))
    taken = outcomes.take(site)
    assert isinstance(taken, outcomes.Study)
    take_back(site, VERSION, "Grace Hopper")
    finding = Finding(
        source=None,  # type: ignore[arg-type]
        input_digest="0" * 64,
        revision=1,
        pixels=None,  # type: ignore[arg-type]
        score=0.9,
        threshold=0.5,
        positive=True,
        cam=None,  # type: ignore[arg-type]
        bundle=bundle,
        institution="",
        created_at=0.0,
    )
    result = outcomes.Scored(outcomes.Image("1.2", "1.3", "0" * 64), finding, "cpu")
    assert not outcomes.conclude(site, Archive(site.archive), taken, result, lambda _: [])
    with site.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(outcome)).scalar_one() == 0
        assert connection.execute(select(study.c.state).where(study.c.uid == uid)).scalar_one() == "queued"


def objects_of(site: Site, uid: str) -> dict[str, Any]:
    query = select(delivery).join(outcome).where(outcome.c.study_uid == uid)
    with site.database.read() as connection:
        return {row.kind: row for row in connection.execute(query)}


@pytest.mark.parametrize("left", ["picture", "image", "neither"])
def test_a_result_whose_report_is_lost_is_withdrawn_by_what_is_left_of_it(
    site: Site, scored: Scored, left: str
) -> None:
    uid, beside = scored(objects=True, patient_id="P-1", accession="A-1"), scored(objects=True)
    made, archive = objects_of(site, uid), Archive(site.archive)
    with site.database.read() as connection:
        image = connection.execute(select(outcome.c.input_digest).where(outcome.c.study_uid == uid)).scalar_one()
    before = {kind: pydicom.dcmread(archive.path(row.sha256)) for kind, row in made.items()}
    for digest, kept in ((made["sr"].sha256, "report"), (made["sc"].sha256, "picture"), (image, "image")):
        if kept != left:
            archive.path(digest).unlink()
    if left == "image":
        archive.path(made["sr"].sha256).write_bytes(b"damaged")
    told = take_back(site, VERSION, "Grace Hopper")
    assert told.exact
    assert objects_of(site, beside)["kos"].state == "pending"
    if left == "neither":
        # in whose name the PACS has it nobody knows any more, and that is said of this one
        assert [(one.study_uid, one.revision) for one in told.problems] == [(uid, 1)]
        assert "in whose name" in told.problems[0].why
        assert told.without_document == 1
        said = CliRunner().invoke(_app(), ["recall", "--folder", str(site.folder), "--version", VERSION])
        assert f"to look for in the PACS: study {uid}, revision 1: its report is lost" in " ".join(said.output.split())
        return
    assert (told.problems, told.without_document) == ((), 0)
    selection = archive.read(objects_of(site, uid)["kos"].sha256)
    assert examine(selection).problems == ()
    document = pydicom.dcmread(io.BytesIO(selection))
    assert (document.PatientID, document.AccessionNumber, document.StudyInstanceUID) == ("P-1", "A-1", uid)
    [study_named] = document.CurrentRequestedProcedureEvidenceSequence
    named_there = {
        (one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID, series.SeriesInstanceUID)
        for series in study_named.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }
    assert named_there == {(one.SOPClassUID, one.SOPInstanceUID, one.SeriesInstanceUID) for one in before.values()}
