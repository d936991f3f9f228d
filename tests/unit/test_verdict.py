"""What a clinician may say, how it is kept, and what it sends to the PACS."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from cost import copied, relative
from pydicom.dataset import Dataset
from sqlalchemy import select, update

from client.results.conformity import examine
from client.review import readers
from client.review.readers import Role
from client.review.verdict import Answer, Decision, Mode, Reason, TruthTier, Verdict, check, history, record, standing
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, study, verdict
from models.errors import Conflict, InvalidVerdict, NotAllowed, NotFound, NotSignedIn

AI = TruthTier.AI_VISIBLE
FIRST = Mode.AI_FIRST
Scored = Callable[..., str]


@pytest.fixture
def ready(site: Site) -> Site:
    for name in ("Ada Lovelace", "Grace Hopper"):
        readers.add(site, name, Role.CLINICIAN)
    return site


def give(site: Site, uid: str, reader: str = "Ada Lovelace", **changes: Any) -> Verdict:
    values: dict[str, Any] = {
        "revision": 1,
        "decision": Decision.AGREE,
        "answer": Answer.POSITIVE,
        "tier": AI,
    }
    return record(site, uid, reader, **(values | changes))


def sent(site: Site) -> list[tuple[str, Dataset]]:
    import io

    import pydicom

    archive = Archive(site.archive)
    with site.database.read() as connection:
        rows = connection.execute(select(delivery).order_by(delivery.c.outcome_id)).all()
    return [(row.kind, pydicom.dcmread(io.BytesIO(archive.read(row.sha256)))) for row in rows]


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("decision", list(Decision))
@pytest.mark.parametrize("answer", list(Answer))
def test_what_may_be_answered(positive: bool, decision: Decision, answer: Answer) -> None:
    same = answer is (Answer.POSITIVE if positive else Answer.NEGATIVE)
    allowed = {
        Decision.AGREE: same,
        Decision.CORRECT: not same and answer is not Answer.NOT_ASSESSABLE,
        Decision.REJECT: True,
    }[decision]
    reason = None if decision is Decision.AGREE else Reason.SUBTLE
    if allowed:
        check(positive, decision, answer, AI, reason, FIRST)
    else:
        with pytest.raises(InvalidVerdict, match="the AI said"):
            check(positive, decision, answer, AI, reason, FIRST)


@pytest.mark.parametrize("decision", [Decision.CORRECT, Decision.REJECT])
def test_a_departure_needs_a_reason(decision: Decision) -> None:
    with pytest.raises(InvalidVerdict, match="needs a reason"):
        check(True, decision, Answer.NEGATIVE, AI, None, FIRST)


def test_agreement_takes_no_reason() -> None:
    with pytest.raises(InvalidVerdict, match="no reason"):
        check(True, Decision.AGREE, Answer.POSITIVE, AI, Reason.SUBTLE, FIRST)


@pytest.mark.parametrize("tier", [TruthTier.SINGLE_READER, TruthTier.BLIND_CONSENSUS])
def test_a_blind_tier_cannot_be_read_with_the_ai_in_view(tier: TruthTier) -> None:
    with pytest.raises(InvalidVerdict, match="AI hidden"):
        check(True, Decision.AGREE, Answer.POSITIVE, tier, None, Mode.AI_FIRST)


def test_tiers_are_ordered() -> None:
    assert [tier.value for tier in sorted(TruthTier, key=lambda tier: tier.rank)] == [
        "ai_visible",
        "report",
        "single_reader",
        "blind_consensus",
        "follow_up",
        "biopsy",
    ]


def test_a_verdict_and_its_trace_are_kept_together(ready: Site, scored: Scored) -> None:
    uid = scored()
    given = give(ready, uid)
    [entry] = list(ready.ledger.entries("verdict"))
    facts = json.loads(entry.facts)
    assert facts["verdict"] == given.id
    assert facts["study"] == ready.study_key(uid)
    assert uid not in entry.facts
    assert "Ada" not in entry.facts
    assert ready.ledger.first_break() is None


def test_a_failing_disk_leaves_neither(ready: Site, scored: Scored, monkeypatch: pytest.MonkeyPatch) -> None:
    uid = scored(objects=True)

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Archive, "store", full)
    with pytest.raises(OSError, match="No space"):
        give(ready, uid)
    with ready.database.read() as connection:
        assert not connection.execute(select(verdict)).all()
    assert not list(ready.ledger.entries("verdict"))


def test_a_double_click_is_one_verdict(ready: Site, scored: Scored) -> None:
    uid = scored(objects=True)
    assert give(ready, uid) == give(ready, uid)
    assert [kind for kind, _ in sent(ready)].count("verified") == 1
    assert len(list(ready.ledger.entries("verdict"))) == 1


def test_changing_one_s_mind_and_back_is_three_verdicts(ready: Site, scored: Scored) -> None:
    uid = scored(objects=True)
    give(ready, uid)
    give(ready, uid, decision=Decision.CORRECT, answer=Answer.NEGATIVE, reason=Reason.OVERLAP)
    give(ready, uid)
    with ready.database.read() as connection:
        assert [given.decision for given in history(connection, uid)] == ["agree", "correct", "agree"]
    assert [kind for kind, _ in sent(ready)].count("verified") == 3


def test_the_highest_tier_counts_and_in_it_the_newest(ready: Site, scored: Scored) -> None:
    uid = scored()
    give(ready, uid, tier=TruthTier.FOLLOW_UP)
    give(ready, uid, "Grace Hopper", decision=Decision.CORRECT, answer=Answer.NEGATIVE, reason=Reason.SUBTLE)
    with ready.database.read() as connection:
        assert standing(history(connection, uid))[0].answer is Answer.POSITIVE
    give(
        ready,
        uid,
        "Grace Hopper",
        decision=Decision.CORRECT,
        answer=Answer.NEGATIVE,
        reason=Reason.SUBTLE,
        tier=TruthTier.FOLLOW_UP,
    )
    with ready.database.read() as connection:
        said = standing(history(connection, uid))
    assert said[0].answer is Answer.NEGATIVE
    assert [given.reader for given in said] == ["Grace Hopper", "Ada Lovelace"]


def test_agreement_sends_a_verified_report(ready: Site, scored: Scored) -> None:
    give(ready, scored(objects=True))
    made = dict(sent(ready))
    assert made["verified"].VerificationFlag == "VERIFIED"
    named = made["verified"].PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == made["sr"].SOPInstanceUID


@pytest.mark.parametrize(("reason", "title"), [(Reason.IMAGE_QUALITY, "113001"), (Reason.WRONG_PATIENT, "113037")])
def test_a_rejection_withdraws_report_and_picture(ready: Site, scored: Scored, reason: Reason, title: str) -> None:
    give(ready, scored(objects=True), decision=Decision.REJECT, answer=Answer.NOT_ASSESSABLE, reason=reason)
    made = dict(sent(ready))
    assert made["kos"].ConceptNameCodeSequence[0].CodeValue == title
    named = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in made["kos"].ContentSequence
        if "ReferencedSOPSequence" in item
    }
    assert named == {made["sr"].SOPInstanceUID, made["sc"].SOPInstanceUID}


def test_a_reader_s_reports_take_each_other_s_place_and_go_with_their_rejection(ready: Site, scored: Scored) -> None:
    uid = scored(objects=True)
    give(ready, uid)
    give(ready, uid, decision=Decision.CORRECT, answer=Answer.NEGATIVE, reason=Reason.OVERLAP)
    give(ready, uid, "Grace Hopper")
    first, second, other = (dataset for kind, dataset in sent(ready) if kind == "verified")
    made = dict(sent(ready))
    assert predecessors(second) == {made["sr"].SOPInstanceUID, first.SOPInstanceUID}
    assert predecessors(other) == {made["sr"].SOPInstanceUID}  # what another one signed is theirs

    give(ready, uid, decision=Decision.REJECT, answer=Answer.NOT_ASSESSABLE, reason=Reason.WRONG_PATIENT)
    withdrawn = {
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in dict(sent(ready))["kos"].ContentSequence
        if "ReferencedSOPSequence" in item
    }
    assert withdrawn == {made[kind].SOPInstanceUID for kind in ("sr", "sc")} | {
        first.SOPInstanceUID,
        second.SOPInstanceUID,
    }

    give(ready, uid)
    last = [dataset for kind, dataset in sent(ready) if kind == "verified"][-1]
    assert predecessors(last) == {made["sr"].SOPInstanceUID}  # and no report that was withdrawn
    assert not any(examine(content).problems for content in contents(ready))


def predecessors(report: Dataset) -> set[str]:
    return {
        named.ReferencedSOPInstanceUID
        for series in report.PredecessorDocumentsSequence[0].ReferencedSeriesSequence
        for named in series.ReferencedSOPSequence
    }


def contents(site: Site) -> list[bytes]:
    with site.database.read() as connection:
        return [
            Archive(site.archive).read(digest) for digest in connection.execute(select(delivery.c.sha256)).scalars()
        ]


def test_no_such_study(ready: Site) -> None:
    with pytest.raises(NotFound):
        give(ready, "1.2.3")


@pytest.mark.parametrize("state", ["receiving", "queued", "refused", "failed"])
def test_a_study_without_a_result_cannot_be_judged(ready: Site, scored: Scored, state: str) -> None:
    uid = scored()
    with ready.database.write() as connection:
        connection.execute(update(study).where(study.c.uid == uid).values(state=state))
    with pytest.raises(Conflict, match=state):
        give(ready, uid)


def test_a_superseded_result_cannot_be_judged(ready: Site, scored: Scored) -> None:
    uid = scored()
    scored(uid=uid, revision=2)
    with pytest.raises(Conflict, match="superseded"):
        give(ready, uid, revision=1)
    assert give(ready, uid, revision=2).revision == 2


def test_a_verdict_costs_less_than_copying_its_report(ready: Site, scored: Scored) -> None:
    uids = [scored(objects=True) for _ in range(20)]
    with ready.database.read() as connection:
        digest = connection.execute(select(delivery.c.sha256).where(delivery.c.kind == "sr")).scalars().first()
    report = Archive(ready.archive).read(str(digest))
    assert relative(lambda: give(ready, uids.pop()), lambda: copied(report)) < 1  # half of it


def test_readers_are_known_by_their_token_only(site: Site) -> None:
    token = readers.add(site, "Ada Lovelace", "clinician")
    assert readers.authenticate(site, token) == readers.Reader("Ada Lovelace", Role.CLINICIAN)
    assert token.encode() not in site.database.path.read_bytes()
    renewed = readers.renew(site, "Ada Lovelace")
    with pytest.raises(NotSignedIn):
        readers.authenticate(site, token)
    assert readers.authenticate(site, renewed).name == "Ada Lovelace"
    with pytest.raises(Conflict):
        readers.add(site, "Ada Lovelace", "it")
    with pytest.raises(NotAllowed, match="role"):
        readers.add(site, "Bob", "root")
    readers.remove(site, "Ada Lovelace")
    with pytest.raises(NotSignedIn):
        readers.authenticate(site, renewed)
