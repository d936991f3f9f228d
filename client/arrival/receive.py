"""Calls studies complete: brings together what is known of them, and queues those that `completeness.py` says to read.

What has arrived and what was announced stands in the database, so that a restart changes nothing; which associations
are open is known to the gateway only, and none is after a restart.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, func, select, update

from client.arrival import habits, priority
from client.arrival.census import Census
from client.arrival.completeness import (
    NO_IMAGE,
    Announced,
    Basis,
    Bounds,
    Complete,
    Facts,
    Patience,
    Sender,
    Series,
    missing,
)
from client.arrival.procedure_steps import announced, changed
from client.arrival.refused import Refused
from client.arrival.required import Required
from client.arrival.urgency import Urgency
from client.dicom.malformed import MALFORMED
from client.store import ledger
from client.store.archive import Archive
from client.store.database import Watch
from client.store.site import Site
from client.store.tables import delivery, instance, outcome, study

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 0.05  # an image that comes sooner after another over the same association is no pause
_POLL_SECONDS: Final = 0.01
_LONGEST_POLL_SECONDS: Final = 0.5
_TOGETHER: Final = 500
_MOST_SERIES: Final = 8  # of a study, that are asked how urgent it is


@dataclass(frozen=True, slots=True)
class _Ready:
    row: Row[Any]
    basis: Basis
    missing: int


class Receiving:
    """The studies of a site that are being received.

    Args:
        bounds: the times of the site's configuration, when not given.
        census: asks the PACS; None where it may not be asked.
        refused: the images that the doors have not taken; None where there are no doors.
    """

    def __init__(
        self,
        site: Site,
        bounds: Bounds | None = None,
        census: Census | None = None,
        refused: Refused | None = None,
    ) -> None:
        config = site.config
        self._site = site
        self._bounds = bounds or Bounds(config.quiet_seconds, config.longest_quiet_seconds, config.longest_step_seconds)
        self._census = census
        self._refused = refused or Refused()
        self._archive = Archive(site.archive)
        self._required = Required(site, self._archive)
        self._rules = priority.rules(config)
        with site.database.read() as connection:
            self._patience = Patience(self._bounds, habits.load(connection))
        self._waiting: dict[str, tuple[object, float]] = {}

    def complete(self, sending: Set[str] = frozenset()) -> int:
        """Queue every study that is complete.

        Args:
            sending: the studies that open associations have sent of last.

        Returns:
            How many studies were queued.
        """
        self._reopen()
        now = time.time()
        quiet_since = now - min(_LOOK_SECONDS, self._bounds.quiet)
        query = select(study.c.uid, study.c.touched_at, study.c.completed_at, study.c.completed_by, study.c.calling_ae)
        with self._site.database.read() as connection:
            waiting: dict[str, tuple[object, float]] = {}
            rows: list[Any] = []
            for row in connection.execute(query.where(study.c.state == "receiving")):
                # more is coming, and is looked at together; later than now: the clock was set back
                if row.uid in sending and quiet_since < row.touched_at <= now + 1:
                    waiting[row.uid] = (None, row.touched_at + _LOOK_SECONDS)
                else:
                    rows.append(row)
            ready: list[_Ready] = []
            for start in range(0, len(rows), _TOGETHER):
                ready += self._looked(connection, rows[start : start + _TOGETHER], sending, now, waiting)
        self._waiting = waiting
        return self._queue(ready) if ready else 0

    def _looked(
        self,
        connection: Connection,
        rows: Sequence[Row[Any]],
        sending: Set[str],
        now: float,
        waiting: dict[str, tuple[object, float]],
    ) -> list[_Ready]:
        """As `_look`; where that falls over one study, the others do not wait for it, and it is read after the longest
        quiet time there is, so that it has an outcome.
        """
        try:
            return self._look(connection, rows, sending, now, waiting)
        except MALFORMED as error:
            if len(rows) > 1:
                alone = (self._looked(connection, [row], sending, now, waiting) for row in rows)
                return [one for found in alone for one in found]
            (row,) = rows
            until = row.touched_at + self._bounds.longest
            if now >= until:
                key = self._site.study_key(row.uid)
                log.error("study %s cannot be looked at (%s): it is read as it is", key, type(error).__name__)
                return [_Ready(row, Basis.QUIET, 0)]
            waiting[row.uid] = (None, until)
            return []

    def pause(self) -> float:
        """Seconds until a study that waits is due by the clock; at most some tenths."""
        due = min((until for _, until in self._waiting.values()), default=float("inf"))
        return min(max(due - time.time(), _POLL_SECONDS), _LONGEST_POLL_SECONDS)

    def _look(
        self,
        connection: Connection,
        rows: Sequence[Row[Any]],
        sending: Set[str],
        now: float,
        waiting: dict[str, tuple[object, float]],
    ) -> list[_Ready]:
        told = changed(connection, [row.uid for row in rows])
        fresh: list[tuple[Row[Any], object]] = []
        for row in rows:
            count = self._census.count(row.uid, row.touched_at) if self._census else None
            known = (row.touched_at, row.uid in sending, told.get(row.uid), count, self._refused.of(row.uid))
            before = self._waiting.get(row.uid)
            if before is not None and before[0] == known and now < before[1]:
                waiting[row.uid] = before
            else:
                fresh.append((row, known))
        if not fresh:
            return []
        gathered = self._gather(connection, [row for row, _ in fresh], sending, told.keys())
        ready: list[_Ready] = []
        for row, known in fresh:
            facts = gathered[row.uid]
            self._notice_late(connection, row)
            decision = self._patience.look(row.uid, facts, now, lambda at, uid=row.uid: _after(connection, uid, at))
            if isinstance(decision, Complete):
                ready.append(_Ready(row, decision.basis, missing(facts)))
            else:
                waiting[row.uid] = (known, decision.until)
        return ready

    def _gather(
        self, connection: Connection, rows: Sequence[Row[Any]], sending: Set[str], told: Set[str]
    ) -> dict[str, Facts]:
        uids = [row.uid for row in rows]
        series = _series(connection, uids)
        senders = _senders(connection, uids)
        found: dict[str, Facts] = {}
        for row in rows:
            sender = senders.get(row.uid, Sender("", ""))
            found[row.uid] = Facts(
                sender=sender,
                touched_at=row.touched_at,
                series=series.get(row.uid, []),
                sending=row.uid in sending,
                announced=announced(connection, row.uid) if row.uid in told else Announced(),
                counted=self._counted(connection, row, series.get(row.uid, [])),
                from_pacs=sender.calling_ae == self._site.config.pacs.ae_title,
                required=self._required.here(connection, row.uid),
                refused=self._outside(connection, row.uid),
            )
        return found

    def _reopen(self) -> None:
        """A study that was read before images of it were refused is read again, as what it is: not whole."""
        fresh = set(self._refused.fresh())
        try:
            for uid in tuple(fresh):
                with self._site.database.read() as connection:
                    row = connection.execute(
                        select(study.c.state, study.c.revision, study.c.missing).where(study.c.uid == uid)
                    ).first()
                    outside = self._outside(connection, uid)
                if row is not None and row.state not in ("receiving", "prior") and outside > row.missing:
                    self._receive_again(uid, row)
                fresh.discard(uid)
        finally:
            self._refused.again(fresh)

    def _receive_again(self, uid: str, row: Any) -> None:
        revision = row.revision + (row.state != "queued")
        with self._site.database.write() as connection:
            changed = connection.execute(
                update(study)
                .where(study.c.uid == uid, study.c.state == row.state, study.c.revision == row.revision)
                .values(state="receiving", revision=revision, attempts=0, touched_at=time.time())
            )
            if changed.rowcount and revision != row.revision:
                facts: dict[str, ledger.Fact] = {"study": self._site.study_key(uid), "revision": revision}
                ledger.append(connection, "study.reopened", facts)

    def _outside(self, connection: Connection, uid: str) -> int:
        """How many images of a study were refused and are not here: one that is here may have been sent again."""
        refused = self._refused.of(uid)
        if not refused:
            return 0
        here = connection.execute(select(instance.c.sop_uid).where(instance.c.study_uid == uid)).scalars()
        return len(refused - set(here))

    def _said(self, uid: str) -> list[Urgency | None]:
        """What the images of a study say of its urgency: the first one's of each series."""
        first = (
            select(func.min(instance.c.id))
            .where(instance.c.study_uid == uid, ~instance.c.conflicting)
            .group_by(instance.c.series_uid)
            .limit(_MOST_SERIES)
        )
        with self._site.database.read() as connection:
            digests = connection.execute(select(instance.c.sha256).where(instance.c.id.in_(first))).scalars().all()
        return [priority.stated_in(self._archive.path(digest)) for digest in digests]

    def _counted(self, connection: Connection, row: Row[Any], series: Sequence[Series]) -> int | None:
        """Images that the PACS has more than we; asks it, for a later look, where it has not answered."""
        if self._census is None:
            return None
        count = self._census.count(row.uid, row.touched_at)
        if count is None:
            self._census.ask(row.uid)
            return None
        query = (
            select(func.count())
            .select_from(delivery.join(outcome, outcome.c.id == delivery.c.outcome_id))
            .where(outcome.c.study_uid == row.uid, delivery.c.kind.in_(("sc", "pm")), delivery.c.state == "sent")
        )
        ours = int(connection.execute(query).scalar() or 0)
        here = sum(one.instances for one in series if one.modality not in NO_IMAGE)
        more = count.images - ours - here
        return more if more >= 0 else None

    def _notice_late(self, connection: Connection, row: Row[Any]) -> None:
        """An image came for a study that had been called complete: its sender needs longer."""
        if row.completed_at is None or self._patience.watches(row.uid) or row.completed_by not in set(Basis):
            return
        before = (
            select(instance.c.calling_ae, instance.c.modality, instance.c.received_at)
            .where(instance.c.study_uid == row.uid, ~instance.c.conflicting)
            .where(instance.c.received_at <= row.completed_at)
            .order_by(instance.c.id.desc())
            .limit(1)
        )
        last = connection.execute(before).first()
        if last is None:
            return
        gap = _after(connection, row.uid, row.completed_at) - last.received_at
        self._patience.refute(Sender(last.calling_ae, last.modality), Basis(row.completed_by), gap)
        key = self._site.study_key(row.uid)
        log.info("study %s: an image came %.1f s after the one before, it had been called complete", key, gap)

    def _queue(self, ready: Sequence[_Ready]) -> int:
        said = {one.row.uid: self._said(one.row.uid) for one in ready}
        now = time.time()
        queued: list[_Ready] = []
        with self._site.database.write() as connection:
            for one in ready:
                row = one.row
                urgency = priority.settle(connection, self._site, row.uid, row.calling_ae, said[row.uid])
                done = connection.execute(
                    update(study)
                    .where(study.c.uid == row.uid, study.c.state == "receiving", study.c.touched_at == row.touched_at)
                    .values(
                        state="queued",
                        completed_at=now,
                        completed_by=str(one.basis),
                        missing=one.missing,
                        urgency=str(urgency),
                        due_at=now + self._rules.allowed(urgency, row.calling_ae),
                    )
                )
                if done.rowcount != 1:
                    continue
                queued.append(one)
                self._patience.close(row.uid)
                if one.missing or one.basis is Basis.EXPECTED_MISSING:
                    facts: dict[str, ledger.Fact] = {"study": self._site.study_key(row.uid), "missing": one.missing}
                    ledger.append(connection, "study.incomplete", facts)
            habits.keep(connection, self._patience.learned())
        for one in queued:
            level = logging.WARNING if one.missing or one.basis is Basis.EXPECTED_MISSING else logging.INFO
            waited, key = now - one.row.touched_at, self._site.study_key(one.row.uid)
            log.log(level, "study %s is complete: %s, quiet for %.1f s", key, one.basis, waited)
        return len(queued)


class Completion:
    """A thread that looks a few times a second while something comes in, until it is closed.

    Args:
        sending: the studies that open associations have sent of last.
        ended: set when an association is over, which nobody writes down and which may complete a study.
        queued: called when studies were queued.
        refused: as for `Receiving`.
    """

    def __init__(
        self,
        site: Site,
        sending: Callable[[], Set[str]],
        ended: threading.Event,
        queued: Callable[[], None] = lambda: None,
        refused: Refused | None = None,
    ) -> None:
        self._site = site
        self._ended = ended
        self._queued = queued
        self._census = Census(site) if site.config.pacs.query else None
        self._receiving = Receiving(site, census=self._census, refused=refused)
        self._sending = sending
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="completion", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        if self._census is not None:
            self._census.close()

    def _run(self) -> None:
        with closing(Watch(self._site.database)) as watch:
            while not self._stop.is_set():
                self._ended.clear()  # before it is asked who is sending: an end after that is another one
                try:
                    if self._receiving.complete(self._sending()):
                        self._queued()
                except Exception as error:  # noqa: BLE001  # supervised: a locked database passes, the next turn tries
                    log.error("completion failed: %s", type(error).__name__)
                watch.wait(self._stop, _POLL_SECONDS, self._receiving.pause(), self._ended)


def _series(connection: Connection, uids: Sequence[str]) -> dict[str, list[Series]]:
    query = (
        select(
            instance.c.study_uid,
            func.max(instance.c.modality).label("modality"),
            func.count().label("instances"),
            func.count(instance.c.number.distinct()).label("numbers"),
            func.min(instance.c.number).label("lowest"),
            func.max(instance.c.number).label("highest"),
            func.count(instance.c.stated).label("stating"),
            func.min(instance.c.stated).label("least"),
            func.max(instance.c.stated).label("most"),
            func.count(instance.c.acquisition.distinct()).label("acquisitions"),
            func.min(instance.c.acquisition).label("acquisition"),
            func.max(instance.c.frames).label("frames"),
        )
        .where(instance.c.study_uid.in_(uids), ~instance.c.conflicting)
        .group_by(instance.c.study_uid, instance.c.series_uid)
    )
    found: dict[str, list[Series]] = {}
    for row in connection.execute(query):
        agree = row.stating == row.instances and row.least == row.most and row.acquisitions <= 1
        found.setdefault(row.study_uid, []).append(
            Series(
                modality=row.modality,
                instances=row.instances,
                numbers=row.numbers,
                lowest=row.lowest,
                highest=row.highest,
                stated=row.most if agree else None,
                frames=row.frames or 1,
                acquisition=row.acquisition if row.acquisitions == 1 else None,
            )
        )
    return found


def _senders(connection: Connection, uids: Sequence[str]) -> dict[str, Sender]:
    """Of each study's last instance."""
    last = (
        select(func.max(instance.c.id))
        .where(instance.c.study_uid.in_(uids), ~instance.c.conflicting)
        .group_by(instance.c.study_uid)
    )
    query = select(instance.c.study_uid, instance.c.calling_ae, instance.c.modality).where(instance.c.id.in_(last))
    return {row.study_uid: Sender(row.calling_ae, row.modality) for row in connection.execute(query)}


def _after(connection: Connection, uid: str, at: float) -> float:
    """When the first image of a study came after a moment."""
    query = select(func.min(instance.c.received_at)).where(
        instance.c.study_uid == uid, instance.c.received_at > at, ~instance.c.conflicting
    )
    found = connection.execute(query).scalar()
    return at if found is None else float(found)
