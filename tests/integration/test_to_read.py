"""What a reader has to answer stays before them until they have, whatever comes for the study meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, update

from client.review import readers, worklist
from client.review.recall import take_back
from client.review.verdict import Answer, Decision, Reason, TruthTier, answerable, record
from client.store.site import Site
from client.store.tables import delivery, outcome, study
from models.errors import Conflict

Scored = Callable[..., str]
READ = {"positive": 0.9, "negative": 0.1}
NOT_READ = ("refused", "failed", "receiving", "queued")
SAID: dict[str, dict[str, Any]] = {
    "agree": {"decision": Decision.AGREE},
    "correct": {"decision": Decision.CORRECT, "reason": Reason.OVERLAP},
    "reject": {"decision": Decision.REJECT, "answer": Answer.NOT_ASSESSABLE, "reason": Reason.ARTEFACT},
}
AGREE: dict[str, Any] = SAID["agree"] | {"answer": Answer.POSITIVE, "tier": TruthTier.AI_VISIBLE}
EVENTS = st.lists(st.sampled_from([*READ, *NOT_READ, *SAID, "recall"]), max_size=6)


@pytest.fixture
def ward(site: Site) -> Site:
    for name in ("Ada Lovelace", "Grace Hopper"):
        readers.add(site, name, "clinician")
    return site


def comes(site: Site, uid: str, state: str) -> None:
    """Images come for a study, and it is not read with them, or not yet."""
    with site.database.write() as connection:
        connection.execute(update(study).where(study.c.uid == uid).values(state=state, revision=study.c.revision + 1))
        revision = connection.execute(select(study.c.revision).where(study.c.uid == uid)).scalar_one()
        if state in ("refused", "failed"):
            reasons = [{"code": "truncated", "text": "cut off"}]
            values = {"revision": revision, "kind": state, "reasons": reasons, "created_at": 2.0}
            connection.execute(insert(outcome).values(study_uid=uid, **values))


def answer(site: Site, uid: str, line: worklist.Line, said: str, reader: str = "Ada Lovelace") -> None:
    """Give the verdict that the page's form would give."""
    shown = line.shown
    positive = shown is not None and shown.positive
    words = Answer.POSITIVE if positive == (said == "agree") else Answer.NEGATIVE
    values: dict[str, Any] = {"answer": words, "tier": TruthTier.AI_VISIBLE} | SAID[said]
    record(site, uid, reader, revision=shown.revision if shown else line.revision, **values)


def asked(site: Site, uid: str, reader: str = "Ada Lovelace") -> dict[int, tuple[Decision, ...]]:
    """By revision, what a reader may decide."""
    with site.database.read() as connection:
        return {one.revision: one.decisions for one in answerable(connection, uid, reader)}


def to_read(site: Site) -> list[str]:
    return [line.uid for line in worklist.page(site, status="to_read", limit=500)]


@dataclass
class Said:
    """One result of a study, as it ought to be; each takes the place of all before it.

    Attributes:
        last: what its reader said of it last.
        recalled: before anybody had signed it.
    """

    positive: bool
    last: str = ""
    recalled: bool = False

    @property
    def counts(self) -> bool:
        return not self.recalled and self.last != "reject"


def waits(results: dict[int, Said], state: str) -> bool:
    """Whether a reader has something to answer."""
    *_, present = results
    if state == "scored" and not results[present].last and not results[present].recalled:
        return True
    return any(
        one.positive and not one.last and not one.recalled and (revision != present or state != "scored")
        for revision, one in results.items()
        if not any(later.counts for number, later in results.items() if number > revision)
    )


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS, reader=st.sampled_from(["Ada Lovelace", "Grace Hopper"]))
@example(events=["positive", "reject"], reader="Ada Lovelace")
@example(events=["positive", "reject", "reject", "negative", "reject"], reader="Ada Lovelace")
def test_a_positive_is_to_be_read_until_a_person_answers_it(
    ward: Site, scored: Scored, events: list[str], reader: str
) -> None:
    uid = scored(score=READ["positive"], input_digest="0" * 64)
    revision, state, results = 1, "scored", {1: Said(positive=True)}
    for event in events:
        line = worklist.one(ward, uid).line
        if event in READ:
            revision, state = revision + 1, "scored"
            results[revision] = Said(event == "positive")
            scored(uid=uid, revision=revision, score=READ[event], input_digest="0" * 64)
            with ward.database.write() as connection:
                connection.execute(update(study).where(study.c.uid == uid).values(state="scored"))
        elif event in NOT_READ:
            revision, state = revision + 1, event
            comes(ward, uid, event)
        elif event == "recall":
            take_back(ward, "brightness@1", "IT")
            for one in results.values():
                one.recalled = one.recalled or one.last in ("", "reject")
        elif line.shown and event in asked(ward, uid, reader).get(line.shown.revision, ()):
            if results[line.shown.revision].recalled:
                continue
            answer(ward, uid, line, event, reader)
            results[line.shown.revision].last = event
        else:
            with pytest.raises(Conflict):
                answer(ward, uid, line, event, reader)

        listed = to_read(ward)
        assert (uid in listed) == waits(results, state), event
        assert worklist.counts(ward)["to_read"] == len(listed)
        following = worklist.next_uid(ward)
        if following is not None:  # what is put before a reader is what they may judge
            shown = worklist.one(ward, following).line.shown
            assert shown is not None
            assert asked(ward, following, reader)[shown.revision]


def test_the_most_urgent_is_first_also_where_it_is_not_read_as_it_is_now(ward: Site, scored: Scored) -> None:
    weak, strong, calm, quiet = (scored(score=score) for score in (0.6, 0.97, 0.2, 0.3))
    comes(ward, strong, "refused")
    comes(ward, quiet, "failed")
    assert to_read(ward) == [strong, weak, calm]  # that nothing was found waits for nobody
    assert strong in [line.uid for line in worklist.page(ward, status="refused")]
    assert worklist.next_uid(ward) == strong
    answer(ward, strong, worklist.one(ward, strong).line, "agree")
    assert to_read(ward) == [weak, calm]


def test_an_answer_to_an_earlier_result_signs_what_was_said_of_it_and_the_study_stays_refused(
    ward: Site, scored: Scored
) -> None:
    uid = scored(score=0.97, objects=True)
    comes(ward, uid, "refused")
    with pytest.raises(Conflict, match="look at revision 1"):
        record(ward, uid, "Ada Lovelace", revision=2, **AGREE)
    for _ in range(2):  # a double click
        answer(ward, uid, worklist.one(ward, uid).line, "agree")
    detail = worklist.one(ward, uid)
    assert [(given.decision, given.revision) for given in detail.verdicts] == [("agree", 1)]
    assert detail.line.status == "refused"
    assert detail.line.answered == "Ada Lovelace answered positive"
    with ward.database.read() as connection:
        kinds = connection.execute(select(delivery.c.kind).order_by(delivery.c.kind)).scalars().all()
    assert kinds == ["sc", "sr", "verified"]


def test_nobody_signs_an_all_clear_of_a_study_that_was_not_read(ward: Site, scored: Scored) -> None:
    uid = scored(score=0.2, objects=True)
    comes(ward, uid, "failed")
    line = worklist.one(ward, uid).line
    assert line.before is not None
    assert (asked(ward, uid), line.before.call) == ({1: (Decision.REJECT,)}, "not found in what was read")
    with pytest.raises(Conflict, match="only be rejected"):
        answer(ward, uid, line, "agree")
