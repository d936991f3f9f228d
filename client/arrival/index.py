"""What the gateway writes into the hospital's database: instances, their studies, their patients.

Instances of several associations that come at the same time are committed together: one sync of the disk for all.
"""

import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, insert, not_, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from client.store import ledger, objections
from client.store.site import Site
from client.store.tables import delivery, exclusion, instance, patient, study
from models.errors import InvalidStudy

log = logging.getLogger(__name__)
_TOGETHER = 64
_NO_IMAGES = ("88", "11", "66", "104")
_TURN_SECONDS = 60.0
_UNABLE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL)

# made once: SQLAlchemy takes longer to make a statement than SQLite to run it
_OURS = select(delivery.c.sop_uid).where(delivery.c.sop_uid == bindparam("key"))
_KNOWN = select(instance.c.sha256).where(instance.c.sop_uid == bindparam("key")).order_by(instance.c.id)
_WORDS = select(exclusion).where(exclusion.c.study_uid == bindparam("of"), exclusion.c.lifted_at.is_(None))
_NOT_HIS = ("other-patient", "worklist")
_STUDY = select(study).where(study.c.uid == bindparam("key"))
_ADD = insert(instance)
_TOUCH = (
    update(study)
    .where(study.c.uid == bindparam("key"))
    .values(
        {name: bindparam(name) for name in ("state", "revision", "attempts", "patient_key", "accession", "touched_at")}
    )
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One instance whose file is durable, as its header describes it.

    Attributes:
        sha256: of the stored file.
        picture: it has rows and columns; what has none (a report, a presentation state) reopens no study.
        number: InstanceNumber; this and what follows is None where the header says nothing that can be read.
        acquisition: AcquisitionNumber.
        stated: ImagesInAcquisition.
        frames: NumberOfFrames.
        rows: Rows.
        columns: Columns.
        fetched: we asked for it as a prior; it is not to be read.
        compared: by the digest of what is stored under its UID: whether that is the same image, encoded otherwise.
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
    modality: str = ""
    number: int | None = None
    acquisition: int | None = None
    stated: int | None = None
    frames: int | None = None
    rows: int | None = None
    columns: int | None = None
    fetched: bool = False
    compared: Mapping[str, bool] = field(default_factory=lambda: dict[str, bool]())


class Filed(Enum):
    """What became of an arrival; the peer is told success each time, but for `CLASHING`: nothing was written, and it is
    filed again once it has been compared with those of its UID.
    """

    NEW = "new"
    DUPLICATE = "duplicate"
    RECODED = "recoded"
    CLASHING = "clashing"
    CONFLICTING = "conflicting"
    OURS = "ours"


_Entry = tuple[Arrival, Future[Filed]]


class Index:
    """The one writer of arrivals: whose turn it is commits what has come in meanwhile, together.

    In the caller's own thread: where one association sends, nothing is handed from thread to thread, which on a busy
    machine takes longer than the commit.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._arrivals: queue.SimpleQueue[_Entry] = queue.SimpleQueue()
        self._turn = threading.Lock()

    def file(self, arrival: Arrival) -> Future[Filed]:
        """Index one arrival; the result is set once it is committed, or the error of the commit."""
        future: Future[Filed] = Future()
        self._arrivals.put((arrival, future))
        if self._turn.acquire(timeout=_TURN_SECONDS):
            try:
                while not future.done():
                    self._commit(self._waiting())
            finally:
                self._turn.release()
        return future

    def stored(self, sop_uid: str) -> list[str]:
        """The digests of what is stored under a UID, the first one first."""
        with self._site.database.read() as connection:
            return [row.sha256 for row in connection.execute(_KNOWN, {"key": sop_uid})]

    def close(self) -> None:
        """Return when what is being committed is."""
        with self._turn:
            self._commit(self._waiting())

    def _waiting(self) -> list[_Entry]:
        batch: list[_Entry] = []
        with contextlib.suppress(queue.Empty):
            while len(batch) < _TOGETHER:
                batch.append(self._arrivals.get_nowait())
        return batch

    def _commit(self, batch: Sequence[_Entry]) -> None:
        if not batch:
            return
        try:
            with self._site.database.write() as connection:
                filed = [file(connection, self._site, arrival) for arrival, _ in batch]
        except Exception as error:  # noqa: BLE001  # whatever a header made it do must not end the one writer
            if len(batch) > 1 and not _unable(error):
                for entry in batch:  # what is wrong with one of them is no reason to lose the others
                    self._commit([entry])
                return
            log.error("arrivals not committed: %s", type(error).__name__)
            told = isinstance(error, SQLAlchemyError | OSError)
            for _, future in batch:
                future.set_exception(error if told else InvalidStudy("not-dicom", type(error).__name__))
            return
        for (_, future), result in zip(batch, filed, strict=True):
            future.set_result(result)


def _unable(error: Exception) -> bool:
    """Whether the database takes nothing now: a second try would wait as long, once for each arrival."""
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)  # the extended one: its low byte is the kind
    return isinstance(error, PoolTimeout) or (code is not None and code & 0xFF in _UNABLE)


def file(connection: Connection, site: Site, arrival: Arrival) -> Filed:
    """Enter one arrival, inside the caller's write transaction.

    The same image encoded in another way was sent again, and is entered no second time. A second instance with the same
    UID and other content is kept apart: it is never scored and changes no study's state, because nobody can say here
    which of the two is right; a person can (`conflicts.py`). A result of our own that the PACS sends back is not a new
    image of the study, or every result would be answered with another one.
    """
    now = time.time()
    if connection.execute(_OURS, {"key": arrival.sop_uid}).first():
        return Filed.OURS
    known = connection.execute(_KNOWN, {"key": arrival.sop_uid}).all()
    same = any(row.sha256 == arrival.sha256 for row in known)
    recoded = any(arrival.compared.get(row.sha256) for row in known)
    if not (same or recoded) and any(row.sha256 not in arrival.compared for row in known):
        return Filed.CLASHING
    if known and arrival.picture and not arrival.fetched:
        # fetched as a prior before, perhaps encoded in another way, and now sent for its own sake
        promote(connection, [arrival.study_uid])
    if same or recoded:
        return Filed.DUPLICATE if same else Filed.RECODED
    conflicting = bool(known)
    if _left_out(connection, site, arrival, now):
        arrival = replace(arrival, picture=False)  # nothing that is read has come
    revision = _touch(connection, site, arrival, now, conflicting=conflicting)
    connection.execute(
        _ADD,
        {
            "sop_uid": arrival.sop_uid,
            "sha256": arrival.sha256,
            "study_uid": arrival.study_uid,
            "series_uid": arrival.series_uid,
            "sop_class": arrival.sop_class,
            "transfer_syntax": arrival.transfer_syntax,
            "revision": revision,
            "conflicting": conflicting,
            "received_at": now,
            "calling_ae": arrival.calling_ae,
            "modality": arrival.modality,
            "number": arrival.number,
            "acquisition": arrival.acquisition,
            "stated": arrival.stated,
            "frames": arrival.frames,
            "rows": arrival.rows,
            "columns": arrival.columns,
        },
    )
    if conflicting:
        facts: dict[str, ledger.Fact] = {"study": site.study_key(arrival.study_uid), "input": arrival.sha256}
        ledger.append(connection, "instance.conflicting", facts)
        log.warning("conflicting instance kept apart, study %s", site.study_key(arrival.study_uid))
    return Filed.CONFLICTING if conflicting else Filed.NEW


def promote(connection: Connection, study_uids: Collection[str]) -> int:
    """Let studies that are here as priors be read; how many that were."""
    changed = connection.execute(
        update(study)
        .where(study.c.uid.in_(study_uids), study.c.state == "prior")
        .values(state="receiving", attempts=0, touched_at=time.time())
    )
    return changed.rowcount


def unsettled() -> ColumnElement[bool]:
    """SQL: whether an instance is kept apart and nobody has said yet which of those with its UID stands.

    Of images that came, the first one stands. So one that stands and was entered after others of its UID was chosen by
    a person (`conflicts.py`), who knew of these; what comes after that waits for another word.
    """
    chosen = instance.alias("chosen")
    later = select(chosen.c.id).where(
        chosen.c.sop_uid == instance.c.sop_uid, ~chosen.c.conflicting, chosen.c.id > instance.c.id
    )
    return and_(instance.c.conflicting, ~later.correlate(instance).exists())


def pictured() -> ColumnElement[bool]:
    """SQL: whether an instance can be an image that is read, by its SOP class: no report, key object selection,
    presentation state, segmentation, or document (PS3.4 B.5).
    """
    return not_(or_(*(instance.c.sop_class.startswith(f"1.2.840.10008.5.1.4.1.1.{kind}.") for kind in _NO_IMAGES)))


def _left_out(connection: Connection, site: Site, arrival: Arrival, now: float) -> bool:
    """Whether an image was rejected before it came, by a word that may be believed: one that names another patient than
    the image does is not, and a person has to look (`exclusions.py`).
    """
    of_study = connection.execute(_WORDS, {"of": arrival.study_uid}).all()
    words = [row for row in of_study if row.sop_uid == arrival.sop_uid]
    if not words:
        denials = [row for row in of_study if row.cause in _NOT_HIS]
        return bool(denials) and arrival.picture and _denied_too(connection, site, arrival, denials, now)
    mine = site.patient_key(arrival.patient_id) if arrival.patient_id else ""
    doubted = {row.patient for row in words if row.patient and row.patient != mine}
    if doubted:
        connection.execute(
            update(exclusion)
            .where(exclusion.c.sop_uid == arrival.sop_uid, exclusion.c.study_uid == arrival.study_uid)
            .where(exclusion.c.patient.in_(doubted), exclusion.c.lifted_at.is_(None))
            .values(lifted_at=now)
        )
        facts: dict[str, ledger.Fact] = {"study": site.study_key(arrival.study_uid), "images": 1}
        ledger.append(connection, "images.rejection-doubted", facts)
    return any(row.patient not in doubted for row in words)


def _denied_too(connection: Connection, site: Site, arrival: Arrival, denials: Sequence[Row[Any]], now: float) -> bool:
    """Whether what came of a series before, or of a study in the name of the same patient, was all left out as another
    patient's: that is said of the rest of it too, which may still be coming. It is left out by the same word.
    """
    out, said = {row.sop_uid for row in denials}, max(denials, key=lambda row: row.told_at)
    query = select(instance.c.sop_uid, instance.c.series_uid).where(
        instance.c.study_uid == arrival.study_uid, ~instance.c.conflicting, pictured()
    )
    rows = connection.execute(query).all()
    beside = [row for row in rows if row.series_uid == arrival.series_uid]
    if not rows or not out.issuperset(row.sop_uid for row in beside or rows):
        return False
    row = connection.execute(_STUDY, {"key": arrival.study_uid}).one()
    mine = site.patient_key(arrival.patient_id, arrival.issuer) if arrival.patient_id else None
    if not beside and row.patient_key != mine:
        return False  # sent again in the right name
    word = {"sop_uid": arrival.sop_uid, "study_uid": arrival.study_uid, "document": said.document, "told_at": now}
    word |= {"cause": said.cause, "by": said.by, "patient": said.patient, "lifted_at": None, "lifted_by": ""}
    connection.execute(upsert(exclusion).values(**word).on_conflict_do_nothing())
    facts: dict[str, ledger.Fact] = {"study": site.study_key(arrival.study_uid), "cause": said.cause, "images": 1}
    ledger.append(connection, "images.left-out-too", facts)
    log.warning("study %s: an image is left out, as all before it were as another patient's", facts["study"])
    return True


def _touch(connection: Connection, site: Site, arrival: Arrival, now: float, *, conflicting: bool) -> int:
    """Make or reopen the study of an arrival; returns its revision."""
    row = connection.execute(_STUDY, {"key": arrival.study_uid}).first()
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
    kept = {name: getattr(row, name) for name in ("state", "revision", "attempts", "patient_key", "accession")}
    connection.execute(_TOUCH, {"key": row.uid, "touched_at": now, **kept, **changed})
    return int(changed.get("revision", row.revision))


def _open(connection: Connection, site: Site, arrival: Arrival, now: float) -> None:
    connection.execute(
        insert(study).values(
            uid=arrival.study_uid,
            patient_key=enter_patient(connection, site, arrival.patient_id, arrival.issuer, now),
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
        changed["patient_key"] = enter_patient(connection, site, arrival.patient_id, arrival.issuer, now)
    if not row.accession:
        changed["accession"] = arrival.accession


def enter_patient(connection: Connection, site: Site, patient_id: str, issuer: str, now: float) -> str | None:
    """The key of a patient, who is entered where he is not known; None without an identifier."""
    if not patient_id:
        return None
    key = site.patient_key(patient_id, issuer)
    if connection.execute(select(patient.c.key).where(patient.c.key == key)).first() is None:
        values = {"key": key, "patient_id": patient_id, "issuer": issuer, "fold": site.fold(patient_id, issuer)}
        objects = objections.standing(connection, patient_id, issuer)
        connection.execute(insert(patient).values(objects_to_reuse=objects, first_seen=now, **values))
    return key
