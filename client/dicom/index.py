"""What the gateway writes into the hospital's database: instances, their studies, their patients.

Instances of several associations that come at the same time are committed together: one sync of the disk for all.
"""

import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import SQLAlchemyError

from client.store import ledger
from client.store.site import Site
from client.store.tables import delivery, instance, patient, study

log = logging.getLogger(__name__)
_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class Arrival:
    """One instance whose file is durable, as its header describes it.

    Attributes:
        sha256: of the stored file.
        picture: it has rows and columns; what has none (a report, a presentation state) reopens no study.
        fetched: we asked for it as a prior; it is not to be read.
    """

    sop_uid: str
    sha256: str
    study_uid: str
    series_uid: str
    sop_class: str
    transfer_syntax: str
    patient_id: str
    issuer: str
    accession: str
    calling_ae: str
    picture: bool
    fetched: bool = False


class Filed(Enum):
    """What became of an arrival; the peer is told success each time."""

    NEW = "new"
    DUPLICATE = "duplicate"
    CONFLICTING = "conflicting"
    OURS = "ours"


class Index:
    """The one writer of arrivals: a thread that commits what has come in meanwhile, together."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._arrivals: queue.SimpleQueue[tuple[Arrival, Future[Filed]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="index", daemon=True)
        self._thread.start()

    def file(self, arrival: Arrival) -> Future[Filed]:
        """Index one arrival; the result is set once it is committed, or the error of the commit."""
        future: Future[Filed] = Future()
        self._arrivals.put((arrival, future))
        return future

    def close(self) -> None:
        """Commit what is waiting and stop."""
        self._arrivals.put(None)
        self._thread.join()

    def _run(self) -> None:
        closing = False
        while not closing:
            batch = [self._arrivals.get()]
            while len(batch) < _TOGETHER:
                try:
                    batch.append(self._arrivals.get_nowait())
                except queue.Empty:
                    break
            closing = None in batch
            self._commit([item for item in batch if item is not None])

    def _commit(self, batch: Sequence[tuple[Arrival, Future[Filed]]]) -> None:
        if not batch:
            return
        try:
            with self._site.database.write() as connection:
                filed = [file(connection, self._site, arrival) for arrival, _ in batch]
        except (SQLAlchemyError, OSError) as error:
            log.error("arrivals not committed: %s", type(error).__name__)
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, filed, strict=True):
            future.set_result(result)


def file(connection: Connection, site: Site, arrival: Arrival) -> Filed:
    """Enter one arrival, inside the caller's write transaction.

    A second instance with the same UID and other bytes is kept apart: it is never scored and changes no study's
    state, because nobody can say here which of the two is right. A result of our own that the PACS sends back is
    not a new image of the study, or every result would be answered with another one.
    """
    now = time.time()
    if connection.execute(select(delivery.c.sop_uid).where(delivery.c.sop_uid == arrival.sop_uid)).first():
        return Filed.OURS
    known = connection.execute(
        select(instance.c.sha256, instance.c.study_uid).where(instance.c.sop_uid == arrival.sop_uid)
    ).all()
    if known and arrival.picture and not arrival.fetched:
        # fetched as a prior before, perhaps encoded in another way, and now sent for its own sake
        connection.execute(
            update(study)
            .where(study.c.uid == arrival.study_uid, study.c.state == "prior")
            .values(state="receiving", touched_at=now)
        )
    if any(row.sha256 == arrival.sha256 for row in known):
        return Filed.DUPLICATE
    conflicting = bool(known)
    revision = _touch(connection, site, arrival, now, conflicting=conflicting)
    connection.execute(
        insert(instance).values(
            sop_uid=arrival.sop_uid,
            sha256=arrival.sha256,
            study_uid=arrival.study_uid,
            series_uid=arrival.series_uid,
            sop_class=arrival.sop_class,
            transfer_syntax=arrival.transfer_syntax,
            revision=revision,
            conflicting=conflicting,
            received_at=now,
        )
    )
    if conflicting:
        facts: dict[str, ledger.Fact] = {"study": site.study_key(arrival.study_uid), "input": arrival.sha256}
        ledger.append(connection, "instance.conflicting", facts)
        log.warning("conflicting instance kept apart, study %s", site.study_key(arrival.study_uid))
    return Filed.CONFLICTING if conflicting else Filed.NEW


def _touch(connection: Connection, site: Site, arrival: Arrival, now: float, *, conflicting: bool) -> int:
    """Make or reopen the study of an arrival; returns its revision."""
    row = connection.execute(select(study).where(study.c.uid == arrival.study_uid)).first()
    if row is None:
        _open(connection, site, arrival, now)
        return 1
    if conflicting:
        return int(row.revision)
    if row.state == "prior" and (arrival.fetched or not arrival.picture):
        changed: dict[str, Any] = {}
    elif row.state in ("receiving", "queued", "prior"):
        changed = {"state": "receiving", "attempts": 0}  # another study than was tried
    elif arrival.picture:
        changed = {"state": "receiving", "revision": row.revision + 1, "attempts": 0}
        facts: dict[str, ledger.Fact] = {"study": site.study_key(row.uid), "revision": row.revision + 1}
        ledger.append(connection, "study.reopened", facts)
    else:
        return int(row.revision)
    _adopt_patient(connection, site, arrival, now, row, changed)
    connection.execute(update(study).where(study.c.uid == row.uid).values(touched_at=now, **changed))
    return int(changed.get("revision", row.revision))


def _open(connection: Connection, site: Site, arrival: Arrival, now: float) -> None:
    connection.execute(
        insert(study).values(
            uid=arrival.study_uid,
            patient_key=_patient(connection, site, arrival, now),
            accession=arrival.accession,
            calling_ae=arrival.calling_ae,
            state="prior" if arrival.fetched else "receiving",
            received_at=now,
            touched_at=now,
        )
    )
    ledger.append(
        connection,
        "prior.received" if arrival.fetched else "study.received",
        {"study": site.study_key(arrival.study_uid)},
    )


def _adopt_patient(
    connection: Connection, site: Site, arrival: Arrival, now: float, row: Row[Any], changed: dict[str, Any]
) -> None:
    """A study whose first instance named no patient or accession takes them from a later one."""
    if row.patient_key is None:
        changed["patient_key"] = _patient(connection, site, arrival, now)
    if not row.accession:
        changed["accession"] = arrival.accession


def _patient(connection: Connection, site: Site, arrival: Arrival, now: float) -> str | None:
    if not arrival.patient_id:
        return None
    key = site.patient_key(arrival.patient_id, arrival.issuer)
    connection.execute(
        upsert(patient)
        .values(
            key=key,
            patient_id=arrival.patient_id,
            issuer=arrival.issuer,
            fold=site.fold(arrival.patient_id, arrival.issuer),
            first_seen=now,
        )
        .on_conflict_do_nothing(index_elements=[patient.c.key])
    )
    return key
