"""Lets a hospital's worklist follow what becomes of each study that the node reads.

What is to be told stands in the `workitem` table, written in the transaction that takes a study into hand; what has
become of the study is read from the tables that say so anyway. So nothing here can hold a reading up, and a server that
is down, a kill at any instant or an answer that was lost only delay: a step is derived from study and revision, the
lock (Transaction UID) is on the disk before it is used, and where the server refuses, its actual state decides.

The node only claims what is scheduled for its own station. A step that somebody else has claimed, ended or removed is
theirs: it is `lost`, and the study is read all the same.
"""

import logging
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, Literal

import pydicom
from pydicom.dataset import Dataset
from sqlalchemy import Connection, Row, and_, select, update
from sqlalchemy.dialects.sqlite import insert as sqlite_insert

from client.delivery import workitem as said
from client.delivery.sender import Pace
from client.delivery.ups import Away, Worklist
from client.delivery.workitem import Place, Referenced, State
from client.dicom.malformed import MALFORMED
from client.results.result import COMPUTED, derive_uid
from client.store.archive import Archive
from client.store.database import Watch
from client.store.excluded import excluded
from client.store.ledger import append
from client.store.site import Site
from client.store.tables import delivery, instance, outcome, study, workitem

log = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 8
_OPEN: Final = ("due", "scheduled", "claimed")
_UNSENT: Final = ("pending", "failed", "quarantined")
_ARRIVED: Final = ("sent", "committed")
_HEADER: Final = ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID"]
_READING: Final = 0  # percent, as the worklist shows it
_WAITING_FOR_PACS: Final = 90


@dataclass(frozen=True, slots=True)
class Fate:
    """What has become of one revision of a study.

    Attributes:
        phase: waiting for its turn; in the worker's hands; read, and some of its objects not at the PACS yet; done;
            not done, for `codes`.
        failed: it should have been read, and was not.
        at: when the outcome was written, seconds since the epoch.
        outcome_id: of the outcome, where there is one.
    """

    phase: Literal["waiting", "reading", "delivering", "done", "not done"]
    codes: tuple[str, ...] = ()
    failed: bool = False
    at: float = 0.0
    outcome_id: int = 0


def begin(connection: Connection, study_uid: str, revision: int) -> None:
    """Note that a study is taken into hand: its step is to follow; a second note changes nothing."""
    now = time.time()
    values = {
        "study_uid": study_uid,
        "revision": revision,
        "transaction_uid": f"2.25.{uuid.uuid4().int}",
        "state": "due",
        "created_at": now,
    }
    connection.execute(sqlite_insert(workitem).values(**values).on_conflict_do_nothing())


class Follower(threading.Thread):
    """Tells the worklist server; one of it per hospital."""

    def __init__(self, site: Site, pace: Pace | None = None) -> None:
        super().__init__(name="workflow", daemon=True)
        self._site = site
        self._pace = pace or Pace()
        self._archive = Archive(site.archive)
        self._worklist = Worklist(site)
        self._stop_asked = threading.Event()
        self._away = 0
        config = site.config
        self._station = config.ups.station or config.ae_title
        self._place = Place(config.pacs.ae_title, config.pacs.stow_url)

    def run(self) -> None:
        with closing(Watch(self._site.database)) as watch:
            while not self._stop_asked.is_set():
                try:
                    self.follow()
                except Exception:
                    log.exception("telling the worklist failed; trying again")
                    self._away += 1
                if self._away:
                    self._stop_asked.wait(self._pace.pause(self._away))
                else:
                    watch.wait(self._stop_asked, self._pace.poll, self._pace.first)

    def stop(self, timeout: float = 10.0) -> None:
        """Finish the step under way and end."""
        self._stop_asked.set()
        if self.is_alive():
            self.join(timeout)
        self._worklist.close()

    def follow(self) -> None:
        """Bring every open step as far as its study is."""
        self._note_queued()
        try:
            for row in self._open():
                if self._stop_asked.is_set():
                    return
                self._advance(row, self._fate(row))
            self._away = 0
        except Away as why:
            self._away += 1
            if self._away == 1:
                log.warning("%s; workitems wait for it", why)

    # ------------------------------------------------------------ what is known here

    def _note_queued(self) -> None:
        """Also studies that wait for their turn stand in the worklist."""
        missing = (
            select(study.c.uid, study.c.revision)
            .outerjoin(workitem, and_(workitem.c.study_uid == study.c.uid, workitem.c.revision == study.c.revision))
            .where(study.c.state == "queued", workitem.c.study_uid.is_(None))
        )
        with self._site.database.read() as connection:
            found = connection.execute(missing).all()
        if found:
            with self._site.database.write() as connection:
                for row in found:
                    begin(connection, row.uid, row.revision)

    def _open(self) -> Sequence[Row[Any]]:
        query = (
            select(workitem)
            .where(workitem.c.state.in_(_OPEN), workitem.c.not_before <= time.time())
            .order_by(workitem.c.created_at)
        )
        with self._site.database.read() as connection:
            return connection.execute(query).all()

    def _fate(self, row: Row[Any]) -> Fate:
        with self._site.database.read() as connection:
            found = connection.execute(
                select(outcome).where(outcome.c.study_uid == row.study_uid, outcome.c.revision == row.revision)
            ).first()
            now = connection.execute(
                select(study.c.revision, study.c.attempts).where(study.c.uid == row.study_uid)
            ).first()
            if found is None:
                if now is None or now.revision != row.revision:
                    return Fate("not done", ("superseded",), at=time.time())
                return Fate("reading" if now.attempts else "waiting")
            if found.kind != "scored":
                codes = tuple(dict.fromkeys(str(reason["code"]) for reason in found.reasons))
                return Fate("not done", codes, found.kind == "failed", found.created_at, found.id)
            states = connection.execute(
                select(delivery.c.state)
                .where(delivery.c.outcome_id == found.id, delivery.c.kind.in_(COMPUTED))
                .distinct()
            ).scalars()
            found_in = set(states)
        if found_in & set(_UNSENT):
            return Fate("delivering", at=found.created_at, outcome_id=found.id)
        if not found_in & set(_ARRIVED):
            return Fate("not done", ("withdrawn",), at=found.created_at, outcome_id=found.id)
        return Fate("done", at=found.created_at, outcome_id=found.id)

    # ------------------------------------------------------------ one step further

    def _advance(self, row: Row[Any], fate: Fate) -> None:
        """As many transactions as there are between what the server was told and what is so."""
        state, uid = row.state, row.uid
        if state == "due":
            uid = self._found_or_made(row, fate)
            if not uid:
                return
            state = "scheduled"
        if state == "scheduled" and (fate.phase == "waiting" or not self._claimed(row, uid)):
            return
        if fate.phase in ("waiting", "reading"):
            self._tell(row, uid, _READING, "Being read")
        elif fate.phase == "delivering":
            self._tell(row, uid, _WAITING_FOR_PACS, "Read; results wait for the PACS")
        else:
            self._end(row, uid, fate)

    def _found_or_made(self, row: Row[Any], fate: Fate) -> str:
        """The step of this study: one that is scheduled for us, or a new one; empty where there is none (yet)."""
        for item in self._worklist.search(self._station):
            if said.is_for(item, row.study_uid, self._station) and (uid := str(item.get("SOPInstanceUID", ""))):
                self._put(row, "scheduled", uid=uid)
                return uid
        if self._site.config.ups.create:
            mine = derive_uid("workitem", self._station, row.study_uid, row.revision)
            if uid := self._worklist.create(self._scheduled(row, mine)):
                self._put(row, "scheduled", uid=uid)
                return uid
            # refused, perhaps because it was made before and nobody heard of it
            if self._worklist.state(mine) is not None:
                self._put(row, "scheduled", uid=mine)
                return mine
            self._refused(row, "due", "the worklist server takes no new workitem")
        elif fate.phase in ("done", "not done", "delivering"):
            self._put(row, "absent")
        else:
            self._put(row, "due", not_before=time.time() + self._pace.first)
        return ""

    def _claimed(self, row: Row[Any], uid: str) -> bool:
        """Take the lock; whoever had it before keeps it."""
        if not self._worklist.change(uid, said.change("IN PROGRESS", row.transaction_uid)):
            actual = self._worklist.state(uid)
            if actual == "SCHEDULED":
                self._refused(row, "scheduled", "the worklist server lets nobody claim it", uid=uid)
                return False
            # in progress: ours where the server takes what is said under our lock, as after an answer that was lost
            lock = said.progress(row.transaction_uid, _READING, "Being read")
            if actual != "IN PROGRESS" or not self._worklist.update(uid, lock):
                self._lost(row, actual)
                return False
        self._put(row, "claimed", uid=uid)
        return True

    def _tell(self, row: Row[Any], uid: str, percent: int, text: str) -> None:
        if row.told is not None and row.told >= percent:
            return
        if self._worklist.update(uid, said.progress(row.transaction_uid, percent, text)):
            self._put(row, "claimed", uid=uid, told=percent)
        else:
            self._look(row, uid, None)

    def _end(self, row: Row[Any], uid: str, fate: Fate) -> None:
        """Say what came out, then close the step: a server wants all of it before (PS3.4 CC.2.5.1.1)."""
        done = fate.phase == "done"
        lock = row.transaction_uid
        if done:
            made = self._made(fate.outcome_id)
            result = said.performed(lock, row.study_uid, made, self._station, row.created_at, fate.at, self._place)
        else:
            result = said.discontinued(lock, fate.codes, fate.failed, self._station, row.created_at, fate.at)
        wanted: State = "COMPLETED" if done else "CANCELED"
        if self._worklist.update(uid, result) and self._worklist.change(uid, said.change(wanted, lock)):
            self._put(row, wanted.lower(), uid=uid)
        else:
            self._look(row, uid, wanted)

    def _look(self, row: Row[Any], uid: str, wanted: State | None) -> None:
        """The server refused: what is the step really in?"""
        actual = self._worklist.state(uid)
        if actual is not None and actual == wanted:
            self._put(row, actual.lower(), uid=uid)  # it had been heard, and the answer was lost
        elif actual == "IN PROGRESS":
            self._refused(row, "claimed", "the worklist server does not take what is said of it", uid=uid)
        else:
            self._lost(row, actual)

    def _refused(self, row: Row[Any], state: str, problem: str, **values: Any) -> None:
        attempts = row.attempts + 1
        log.warning("study %s: %s, attempt %d", self._site.study_key(row.study_uid), problem, attempts)
        pause = self._pace.pause(attempts)
        state = "failed" if attempts >= MAX_ATTEMPTS else state
        self._put(row, state, problem=problem, attempts=attempts, not_before=time.time() + pause, **values)

    def _lost(self, row: Row[Any], actual: State | None) -> None:
        problem = f"it is {actual.lower()} by another" if actual else "it is gone"
        log.warning("study %s: its workitem is not ours: %s", self._site.study_key(row.study_uid), problem)
        self._put(row, "lost", problem=problem)

    def _put(self, row: Row[Any], state: str, **values: Any) -> None:
        with self._site.database.write() as connection:
            connection.execute(
                update(workitem)
                .where(workitem.c.study_uid == row.study_uid, workitem.c.revision == row.revision)
                .values(state=state, **({"problem": ""} | values))
            )
            if state != row.state:
                facts = {"study": self._site.study_key(row.study_uid), "revision": row.revision}
                append(connection, f"workitem.{state}", facts | {"problem": values.get("problem", "")})

    # ------------------------------------------------------------ what goes in, what came out

    def _scheduled(self, row: Row[Any], uid: str) -> Dataset:
        query = (
            select(instance.c.sop_class, instance.c.sop_uid, instance.c.series_uid, instance.c.sha256)
            .where(instance.c.study_uid == row.study_uid, ~instance.c.conflicting, ~excluded())
            .order_by(instance.c.id)
        )
        with self._site.database.read() as connection:
            images = connection.execute(query).all()
        header = Dataset()
        if images:
            try:
                header = pydicom.dcmread(self._archive.path(images[0].sha256), stop_before_pixels=True)
            except MALFORMED:
                log.warning("study %s: a workitem names no patient", self._site.study_key(row.study_uid))
        named = [Referenced(one.sop_class, one.sop_uid, one.series_uid) for one in images]
        label, at = self._site.config.ups.label, time.time()
        return said.scheduled(uid, header, row.study_uid, named, self._station, label, at, self._place)

    def _made(self, outcome_id: int) -> list[Referenced]:
        query = select(delivery.c.sha256).where(
            delivery.c.outcome_id == outcome_id, delivery.c.kind.in_(COMPUTED), delivery.c.state.in_(_ARRIVED)
        )
        with self._site.database.read() as connection:
            digests = connection.execute(query).scalars().all()
        headers = [pydicom.dcmread(self._archive.path(digest), specific_tags=_HEADER) for digest in digests]
        return [
            Referenced(str(one.SOPClassUID), str(one.SOPInstanceUID), str(one.SeriesInstanceUID)) for one in headers
        ]
