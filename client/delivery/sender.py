"""Carries result objects to the PACS, however long it is away.

What is to be sent stands in the `delivery` table, its bytes in the archive; an object leaves the table's `pending`
state only on the PACS's own answer. Before it is offered it is checked, and one that is not as it should be is
`quarantined`: a person looks at it (`client/review/deadletters.py`). A PACS that cannot be reached, that takes
associations and answers nothing, or that is out of resources, costs no object an attempt: it is waited for. An object
that the PACS refuses, or on which it breaks off while it answers otherwise, is tried again with growing pauses and
becomes `failed` in the end, at once where the refusal says that no attempt will do; so does the one for which it has no
room while it takes others of its kind.

Emergencies go first, then what was due first; of a result the pictures before the report that shows them. A kind of
object that the PACS left unanswered, or had no room for, goes behind the others, one of it at a time, until one is
answered: what hangs a PACS is mostly a kind that it cannot read.

What the PACS answered is written down several answers at a time: a repeat after a crash carries the same UIDs and
bytes, which a PACS stores once (PS3.4 B.2.3).
"""

import hashlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, case, func, select, update

from client.arrival.urgency import Urgency
from client.delivery.carrier import Answer, Carrier, Checked, Lost, StoreCarrier, Unreachable
from client.delivery.stow import StowCarrier
from client.results import conformity
from client.results.dciodvfy import Checker
from client.store.archive import Archive
from client.store.database import Watch
from client.store.ledger import append
from client.store.site import Site
from client.store.tables import delivery, outcome, study

log = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 8
_TOGETHER: Final = 256
_SETTLED: Final = 16  # answers that are written down together
_LINGER_SECONDS: Final = 1.0
_IN_ORDER_SECONDS: Final = 1.0  # then it is looked whether something more urgent has come
# what refers to something goes after it
_RANK: Final = case((delivery.c.kind == "sr", 1), (delivery.c.kind.in_(("verified", "kos")), 2), else_=0)
_EMERGENCY: Final = study.c.urgency == Urgency.EMERGENCY
_SINCE: Final = func.coalesce(study.c.due_at, outcome.c.created_at)


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient the sender is, all in seconds; tests are less so.

    Attributes:
        first: pause after a first failure, doubled after each further one.
        longest: no pause is longer.
        poll: how often to look for new objects.
        answer: how long the PACS may take to answer.
    """

    first: float = 1.0
    longest: float = 60.0
    poll: float = 0.01
    answer: float = 30.0

    def pause(self, failures: int) -> float:
        return min(self.longest, self.first * 2.0 ** min(max(0, failures - 1), 30))


@dataclass(frozen=True, slots=True)
class _Held:
    """A kind of object that goes behind the others.

    Attributes:
        times: in a row that the PACS did not answer on one of it, or could not take it just now.
        until: none of it is offered before.
    """

    times: int
    until: float


class Sender(threading.Thread):
    """Drains the deliveries of a hospital; one of it per hospital.

    Args:
        max_attempts: refusals of one object before it is put aside as failed.
    """

    def __init__(self, site: Site, pace: Pace | None = None, max_attempts: int = MAX_ATTEMPTS) -> None:
        super().__init__(name="sender", daemon=True)
        self._site = site
        self._pace = pace or Pace()
        self._max_attempts = max_attempts
        self._archive = Archive(site.archive)
        self._stop_asked = threading.Event()
        self._expected = threading.Event()
        self._unreachable = 0
        self._absence = ""  # why it could not be reached last
        self._unanswered: dict[str, Row[Any]] = {}  # lost since the PACS last answered on any object
        self._no_room: dict[str, tuple[Row[Any], str]] = {}  # since it last took one of that kind, with what it said
        self._held: dict[str, _Held] = {}  # by kind
        self._checker = Checker()
        by_stow = bool(site.config.pacs.stow_url)
        self._carrier: Carrier = (StowCarrier if by_stow else StoreCarrier)(site, self._pace.answer)

    def run(self) -> None:
        with closing(Watch(self._site.database)) as watch:
            self._run(watch)
        self._carrier.close()

    def _run(self, watch: Watch) -> None:
        last = time.monotonic()
        while not self._stop_asked.is_set():
            try:
                answered = self.drain()
            except Exception:
                log.exception("sending results failed; trying again")
                answered, self._unreachable = 0, self._unreachable + 1
            if answered:
                last = time.monotonic()
            elif time.monotonic() - last > _LINGER_SECONDS:
                self._carrier.close()
            if self._unreachable:
                self._stop_asked.wait(self._pace.pause(self._unreachable))
            elif answered == 0:
                watch.wait(self._stop_asked, self._pace.poll, self._pace.first, self._expected)
                if self._expected.is_set():
                    self._expected.clear()
                    self._carrier.prepare()
                    last = time.monotonic()

    def expect(self) -> None:
        """Objects are there, or being made: the association with the PACS is opened meanwhile, which takes as long."""
        self._expected.set()

    def stop(self, timeout: float = 10.0) -> None:
        """Finish the object under way and end."""
        self._stop_asked.set()
        if self.is_alive():
            self.join(timeout)

    def drain(self) -> int:
        """Offer what is due; how many objects there is a decision on."""
        due = self._due()
        if not due:
            return 0
        answers: list[tuple[Row[Any], Answer]] = []
        answered = 0
        try:
            for row, answer in self._carrier.offer(self._fit(due)):
                if answer.lost in ("broken", "silent"):
                    self._lose(row, answer.lost)
                    break
                answered += 1
                if answer.lost:
                    self._come_again(row, answer.problem)
                    continue
                self._hear(row, answer)
                answers.append((row, answer))
                if len(answers) == _SETTLED:
                    self._settle(answers)
                    answers = []
        except Unreachable as why:
            self._unreachable += 1
            if self._unreachable == 1 or str(why) != self._absence:
                log.warning("%s; results wait for it", why)
                self._note([row.sop_uid for row in due], str(why))
            self._absence = str(why)
        finally:
            self._settle(answers)
        return answered

    def _fit(self, due: Sequence[Row[Any]]) -> Iterator[Checked]:
        """Those that may be offered; what is wrong with the others is written down."""
        until = time.monotonic() + _IN_ORDER_SECONDS
        for row in due:
            if self._stop_asked.is_set() or time.monotonic() > until:
                return
            if row.kind in self._held and time.time() < self._held[row.kind].until:
                continue
            try:
                content = self._archive.path(row.sha256).read_bytes()
            except OSError:
                content = b""
            if hashlib.sha256(content).hexdigest() != row.sha256:
                self._settle([(row, Answer(False, "its file in the archive is missing or damaged"))])
            elif problem := self._wrong(row, content):
                self._quarantine(row, problem)
            else:
                yield Checked(row, content)

    def _wrong(self, row: Row[Any], content: bytes) -> str:
        """What is wrong with an object's content; empty where nothing is, or a person has said that it is to go."""
        if row.overridden:
            return ""
        examined = conformity.examine(content)
        return "; ".join(examined.problems or self._checker.problems(self._archive.path(row.sha256), examined.shape))

    def _hear(self, row: Row[Any], answer: Answer) -> None:
        """The PACS has answered on an object: it is well, so that the one object that it left unanswered is not, nor
        the one of this kind for which it had no room.

        Where there were several, it was the PACS.
        """
        if self._unreachable:
            log.info("the PACS answers again")
            self._unreachable = 0
        self._held.pop(row.kind, None)
        self._unanswered.pop(row.sop_uid, None)
        lost, self._unanswered = list(self._unanswered.values()), {}
        if len(lost) == 1:
            self._settle([(lost[0], Answer(False, "the association ended before an answer"))])
        kinds = {one.kind for one in lost}
        if len(kinds) > 1:
            self._held = {kind: held for kind, held in self._held.items() if kind not in kinds}
        self._no_room.pop(row.sop_uid, None)
        if answer.sent:
            alike = [uid for uid, (other, _) in self._no_room.items() if other.kind == row.kind]
            refused = [self._no_room.pop(uid) for uid in alike]
            if len(refused) == 1:
                self._settle([(other, Answer(False, problem)) for other, problem in refused])

    def _come_again(self, row: Row[Any], problem: str) -> None:
        """The PACS is out of resources, for one of this kind at least: smaller ones may still find room."""
        self._no_room[row.sop_uid] = row, problem
        if row.kind not in self._held:
            log.warning("%s; every %s waits", problem, row.kind)
        self._hold(row, problem)

    def _hold(self, row: Row[Any], problem: str) -> None:
        """Let this kind go behind the others, and this one behind its kind: they may well have an answer."""
        held, now = self._held.get(row.kind), time.time()
        if held is None or held.until <= now:  # else it was on its way together with another
            times = held.times + 1 if held else 1
            held = self._held[row.kind] = _Held(times, now + self._pace.pause(times))
        self._note([row.sop_uid], problem, not_before=held.until)

    def _lose(self, row: Row[Any], lost: Lost) -> None:
        """No answer came. Whether it is the object or the PACS shows only in what the PACS does otherwise."""
        self._carrier.close()
        others = len(self._unanswered.keys() - {row.sop_uid})
        if not others and lost == "broken" and self._carrier.alive():
            # it answers, and breaks off on this one: the object's attempt
            self._settle([(row, Answer(False, "the association ended before an answer"))])
            return
        self._unanswered[row.sop_uid] = row
        self._unreachable += 1
        problem = "the PACS takes associations and leaves objects unanswered"
        if self._unreachable == 1:
            log.warning("%s; results wait for it", problem)
        self._hold(row, problem)

    def _due(self) -> Sequence[Row[Any]]:
        now = time.time()
        resting = [kind for kind, held in self._held.items() if held.until > now]
        with self._site.database.read() as connection:
            return connection.execute(_in_order(now, tuple(self._held), resting)).all()

    def _settle(self, answers: Sequence[tuple[Row[Any], Answer]]) -> None:
        if not answers:
            return
        with self._site.database.write() as connection:
            attempts = [self._enter(connection, row, answer) for row, answer in answers]
        for (row, answer), attempt in zip(answers, attempts, strict=True):
            if not answer.sent:
                log.warning("the PACS did not take a %s (%s), attempt %d", row.kind, answer.problem, attempt)

    def _enter(self, connection: Connection, row: Row[Any], answer: Answer) -> int:
        # not the row's own: another object's answer may have cost this one an attempt since it was read
        count = select(delivery.c.attempts).where(delivery.c.sop_uid == row.sop_uid)
        attempts = (row.attempts if answer.sent else connection.execute(count).scalar() or 0) + 1
        given_up = not answer.sent and (answer.final or attempts >= self._max_attempts)
        values: dict[str, Any] = {"attempts": attempts, "problem": answer.problem}
        if answer.sent:
            values |= {"state": "sent", "sent_at": answer.at}
        elif given_up:
            values |= {"state": "failed"}
        else:
            values |= {"not_before": time.time() + self._pace.pause(attempts)}
        # one that was dropped while it was on its way is at the PACS all the same
        open_ = ("pending", "dropped") if answer.sent else ("pending",)
        changed = connection.execute(
            update(delivery).where(delivery.c.sop_uid == row.sop_uid, delivery.c.state.in_(open_)).values(**values)
        ).rowcount
        if changed and (answer.sent or given_up):
            self._trace(connection, "delivery.sent" if answer.sent else "delivery.failed", row, answer.problem)
        return attempts

    def _quarantine(self, row: Row[Any], problem: str) -> None:
        log.error("a %s is not sent: %s", row.kind, problem)
        with self._site.database.write() as connection:
            changed = connection.execute(
                update(delivery)
                .where(delivery.c.sop_uid == row.sop_uid, delivery.c.state == "pending")
                .values(state="quarantined", problem=problem)
            ).rowcount
            if changed:
                self._trace(connection, "delivery.quarantined", row, problem)

    def _trace(self, connection: Connection, event: str, row: Row[Any], problem: str) -> None:
        append(connection, event, {"object": row.sop_uid, "kind": row.kind, "sha256": row.sha256, "problem": problem})

    def _note(self, sop_uids: list[str], problem: str, **values: Any) -> None:
        with self._site.database.write() as connection:
            connection.execute(
                update(delivery)
                .where(delivery.c.sop_uid.in_(sop_uids), delivery.c.state == "pending")
                .values(problem=problem, **values)
            )


def _in_order(now: float, held: Sequence[str], resting: Sequence[str]) -> Select[Any]:
    """What may be offered, first what goes first; of the kinds that are held, what was not tried yet."""
    behind = case((delivery.c.kind.in_(held), 1), else_=0)
    return (
        select(delivery)
        .join(outcome, outcome.c.id == delivery.c.outcome_id)
        .join(study, study.c.uid == outcome.c.study_uid)
        .where(delivery.c.state == "pending", delivery.c.not_before <= now, delivery.c.kind.not_in(resting))
        .order_by(behind, case((behind == 1, delivery.c.not_before), else_=0.0))
        .order_by(~_EMERGENCY, delivery.c.attempts > 0, _SINCE, delivery.c.outcome_id, _RANK)
        .limit(_TOGETHER)
    )
