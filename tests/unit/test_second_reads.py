"""Second reads at a hospital: who is drawn, for good; who still waits; and what they tell of all patients."""

import time
from collections import Counter
from collections.abc import Callable

import pytest
from sqlalchemy import select, update

from client.review import readers
from client.review.verdict import Answer, Decision, Mode, Reason, TruthTier, record
from client.store.site import Site
from client.store.tables import outcome, second_read
from client.vigilance import second_reads
from models.errors import NotFound

Scored = Callable[..., str]


@pytest.fixture
def ready(site: Site) -> Site:
    for name in ("ada", "grace"):
        readers.add(site, name, "clinician")
    return site


def say(site: Site, uid: str, called: bool, positive: bool, reader: str = "ada", blind: bool = False) -> None:
    record(
        site,
        uid,
        reader,
        revision=1,
        decision=Decision.AGREE if called is positive else Decision.CORRECT,
        answer=Answer.POSITIVE if positive else Answer.NEGATIVE,
        tier=TruthTier.SINGLE_READER if blind else TruthTier.AI_VISIBLE,
        reason=None if called is positive else Reason.SUBTLE,
        mode=Mode.SECOND_READER if blind else Mode.AI_FIRST,
    )


def read(site: Site, scored: Scored, called: bool, positive: bool, count: int) -> list[str]:
    uids = [scored(score=0.9 if called else 0.1) for _ in range(count)]
    for uid in uids:
        say(site, uid, called, positive)
    return uids


def version(site: Site) -> str:
    with site.database.read() as connection:
        return str(connection.execute(select(outcome.c.version_digest)).scalar())


def test_all_that_differ_are_drawn_and_some_that_agree_once_for_good(ready: Site, scored: Scored) -> None:
    ready.config.watch.double_positive = 0.5
    ready.config.watch.double_negative = 0.0
    differ = read(ready, scored, True, False, 4)
    read(ready, scored, True, True, 40)
    read(ready, scored, False, False, 5)
    scored(score=0.9)  # nobody has said anything of it
    drawn = second_reads.draw(ready)
    assert second_reads.draw(ready) == 0
    due = second_reads.due(ready)
    kinds = Counter(one.kind for one in due)
    assert len(due) == drawn
    assert kinds["discordant"] == 4
    assert {one.study_uid for one in due if one.kind == "discordant"} == set(differ)
    assert 8 < kinds["double_positive"] < 32
    assert kinds["double_negative"] == 0
    ready.config.watch.double_negative = 1.0  # for exams to come
    assert second_reads.draw(ready) == 0
    with ready.database.read() as connection:
        kept = Counter(connection.execute(select(second_read.c.probability)).scalars())
    assert kept == {1.0: 4, 0.5: 40, 0.0: 5}
    [entry] = ready.ledger.entries("second-reads")
    assert '"discordant":4' in entry.facts


def test_the_first_reader_is_no_second_one(ready: Site, scored: Scored) -> None:
    [uid] = read(ready, scored, True, False, 1)
    second_reads.draw(ready)
    say(ready, uid, True, False, reader="ada", blind=True)
    assert [one.first_reader for one in second_reads.due(ready)] == ["ada"]
    say(ready, uid, True, False, reader="grace")  # with the AI's answer in view
    assert len(second_reads.due(ready)) == 1
    say(ready, uid, True, True, reader="grace", blind=True)
    assert second_reads.due(ready) == []


def test_what_was_read_long_before_is_left_alone(ready: Site, scored: Scored) -> None:
    [uid] = read(ready, scored, True, False, 1)
    with ready.database.write() as connection:
        connection.execute(
            update(outcome).where(outcome.c.study_uid == uid).values(created_at=time.time() - 100 * 86400)
        )
    assert second_reads.draw(ready) == 0


def test_rates_count_those_who_were_not_read_again(ready: Site, scored: Scored) -> None:
    ready.config.watch.double_positive = ready.config.watch.double_negative = 0.5
    both, differ = read(ready, scored, True, True, 30), read(ready, scored, False, True, 4)
    neither = read(ready, scored, False, False, 30)
    second_reads.draw(ready)
    with pytest.raises(NotFound):
        second_reads.plan(ready, version(ready), 1000)
    due = {one.study_uid for one in second_reads.due(ready)}
    for uid in due:
        say(ready, uid, uid in both, uid not in neither, reader="grace", blind=True)
    [whole, *_] = second_reads.rates(ready, version(ready))
    known = len(due)
    assert (whole.exams, whole.unread) == (64, 0)
    assert whole.by["sensitivity"].known == known
    # 30 found and 4 missed, whoever was drawn; of misses that both made none was seen: a bound
    assert whole.by["sensitivity"].value == pytest.approx(30 / 34)
    assert whole.by["sensitivity"].basis == "bound"
    assert whole.by["specificity"].value == 1.0
    planned = second_reads.plan(ready, version(ready), 1000)
    assert [one.reads for one in planned] == sorted(one.reads for one in planned)
    assert planned[-1].by["sensitivity"].low > planned[0].by["sensitivity"].low
    assert len(differ) == 4


def test_without_a_second_reader_nothing_is_known(ready: Site, scored: Scored) -> None:
    read(ready, scored, True, True, 5)
    scored(score=0.2)
    [whole, *_] = second_reads.rates(ready, version(ready))
    assert (whole.exams, whole.unread) == (6, 1)
    assert whole.by["sensitivity"].basis == "insufficient"
