"""Carries result objects to the PACS, however long it is away.

What is to be sent stands in the `delivery` table, its bytes in the archive; an object leaves the table's `pending`
state only on the PACS's own answer. A PACS that cannot be reached costs no object an attempt: it is waited for. An
object that the PACS refuses or leaves unanswered is tried again with growing pauses and becomes `failed` in the end,
for a person to look at and send again.

An object goes out as it lies in the archive, unparsed, over an association that is kept for as long as there is more to
send. What the PACS answered is written down several answers at a time: a repeat after a crash carries the same UIDs
and bytes, which a PACS stores once (PS3.4 B.2.3).
"""

import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    GrayscaleSoftcopyPresentationStateStorage,
    ImplicitVRLittleEndian,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from pynetdicom import AE
from pynetdicom import _config as pynetdicom_config
from pynetdicom.association import Association
from sqlalchemy import Connection, Row, select, update

from client.dicom.archive import Archive
from client.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from client.dicom.listener import client_tls
from client.dicom.requestor import associate
from client.store.database import Watch
from client.store.ledger import append
from client.store.site import Site
from client.store.tables import delivery, outcome
from models.errors import Conflict, NotFound

log = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 8
_TOGETHER: Final = 64
_SETTLED: Final = 16  # answers that are written down together
_LOST: Final = "the association ended before an answer"
_LINGER_SECONDS: Final = 1.0
RESULT_CLASSES: Final = (
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    KeyObjectSelectionDocumentStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)


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
    poll: float = 0.25
    answer: float = 30.0

    def pause(self, failures: int) -> float:
        return min(self.longest, self.first * 2.0 ** min(max(0, failures - 1), 30))


@dataclass(frozen=True, slots=True)
class _Answer:
    """What became of one object: a status of PS3.4 table B.2-1, or why there is none."""

    sent: bool
    problem: str
    at: float = field(default_factory=time.time)


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
        self._unreachable = 0
        self._association: Association | None = None
        pynetdicom_config.STORE_SEND_CHUNKED_DATASET = True  # a path is sent as it lies there

    def run(self) -> None:
        with closing(Watch(self._site.database)) as watch:
            self._run(watch)
        self.hang_up()

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
                self.hang_up()
            if self._unreachable:
                self._stop_asked.wait(self._pace.pause(self._unreachable))
            elif answered == 0:
                watch.wait(self._stop_asked, self._pace.poll, self._pace.first)

    def stop(self, timeout: float = 10.0) -> None:
        """Finish the object under way and end."""
        self._stop_asked.set()
        if self.is_alive():
            self.join(timeout)

    def hang_up(self) -> None:
        """Release the association, if there is one."""
        association, self._association = self._association, None
        if association is not None and association.is_established:
            with suppress(RuntimeError):  # it ended meanwhile
                association.release()

    def drain(self) -> int:
        """Offer what is due over one association; how many objects the PACS gave an answer on."""
        due = self._due()
        if not due:
            return 0
        association = self._established()
        if not association.is_established and association.rejected_contexts:
            # it is there and takes none of these kinds: a refusal of the objects, not an absence
            self._settle([(row, _Answer(False, "the PACS does not take this kind of object")) for row in due])
            return len(due)
        if not association.is_established:
            self._unreachable += 1
            if self._unreachable == 1:
                log.warning("the PACS cannot be reached; results wait for it")
                self._note([row.sop_uid for row in due], "the PACS cannot be reached")
            return 0
        if self._unreachable:
            log.info("the PACS answers again")
            self._unreachable = 0
        answers: list[tuple[Row[Any], _Answer]] = []
        answered = 0
        try:
            for row in due:
                if self._stop_asked.is_set() or not association.is_established:
                    break
                answers.append((row, _store(association, self._archive.path(row.sha256), row.sha256)))
                answered += 1
                if answers[-1][1].problem == _LOST:
                    self._association = None  # whatever the library still thinks of it
                    break
                if len(answers) == _SETTLED:
                    self._settle(answers)
                    answers = []
        finally:
            self._settle(answers)
        return answered

    def _established(self) -> Association:
        """The association of before, or a new one, which may not have come about."""
        if self._association is None or not self._association.is_established:
            self._association = self._associate()
        return self._association

    def _due(self) -> Sequence[Row[Any]]:
        with self._site.database.read() as connection:
            return connection.execute(
                select(delivery)
                .where(delivery.c.state == "pending", delivery.c.not_before <= time.time())
                .order_by(delivery.c.not_before, delivery.c.outcome_id)
                .limit(_TOGETHER)
            ).all()

    def _associate(self) -> Association:
        peer = self._site.config.pacs
        entity = AE(self._site.config.ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.connection_timeout = entity.acse_timeout = min(self._pace.answer, 10.0)
        entity.dimse_timeout = entity.network_timeout = self._pace.answer
        for sop_class in RESULT_CLASSES:
            entity.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        return associate(entity, peer.host, peer.port, peer.ae_title, client_tls(self._site))

    def _settle(self, answers: Sequence[tuple[Row[Any], _Answer]]) -> None:
        if not answers:
            return
        with self._site.database.write() as connection:
            for row, answer in answers:
                self._enter(connection, row, answer)
        for row, answer in answers:
            if not answer.sent:
                log.warning("the PACS did not take a %s (%s), attempt %d", row.kind, answer.problem, row.attempts + 1)

    def _enter(self, connection: Connection, row: Row[Any], answer: _Answer) -> None:
        attempts = row.attempts + 1
        given_up = not answer.sent and attempts >= self._max_attempts
        values: dict[str, Any] = {"attempts": attempts, "problem": answer.problem}
        if answer.sent:
            values |= {"state": "sent", "sent_at": answer.at}
        elif given_up:
            values |= {"state": "failed"}
        else:
            values |= {"not_before": time.time() + self._pace.pause(attempts)}
        connection.execute(
            update(delivery).where(delivery.c.sop_uid == row.sop_uid, delivery.c.state == "pending").values(**values)
        )
        if answer.sent or given_up:
            append(
                connection,
                "delivery.sent" if answer.sent else "delivery.failed",
                {"object": row.sop_uid, "kind": row.kind, "sha256": row.sha256, "problem": answer.problem},
            )

    def _note(self, sop_uids: list[str], problem: str) -> None:
        with self._site.database.write() as connection:
            connection.execute(
                update(delivery)
                .where(delivery.c.sop_uid.in_(sop_uids), delivery.c.state == "pending")
                .values(problem=problem)
            )


def resend(site: Site, sop_uid: str) -> None:
    """Put a failed delivery back in the queue, with all its attempts.

    Raises:
        NotFound: no such delivery.
        Conflict: it has not failed.
    """
    with site.database.write() as connection:
        row = connection.execute(
            select(delivery.c.state, outcome.c.study_uid)
            .join(outcome, outcome.c.id == delivery.c.outcome_id)
            .where(delivery.c.sop_uid == sop_uid)
        ).first()
        if row is None:
            raise NotFound("no such delivery")
        if row.state != "failed":
            raise Conflict(f"the delivery is {row.state}: only a failed one is sent again")
        connection.execute(
            update(delivery)
            .where(delivery.c.sop_uid == sop_uid)
            .values(state="pending", attempts=0, not_before=0.0, problem="")
        )
        append(connection, "delivery.resent", {"object": sop_uid, "study": site.study_key(row.study_uid)})


def _store(association: Association, path: Path, sha256: str) -> _Answer:
    try:
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            return _Answer(False, "its file in the archive is damaged")
        meta = read_file_meta_info(path)
        agreed = _agreed(association, meta.MediaStorageSOPClassUID)
    except (AttributeError, EOFError, InvalidDicomError, OSError):
        return _Answer(False, "its file in the archive is missing or damaged")
    if agreed is None:
        return _Answer(False, "the PACS does not take this kind of object")
    try:
        # another transfer syntax than it lies in has to be written first
        status = association.send_c_store(path if agreed == meta.TransferSyntaxUID else pydicom.dcmread(path))
    except ValueError:
        return _Answer(False, "it cannot be written in the transfer syntax that the PACS takes")
    except RuntimeError:
        return _Answer(False, _LOST)
    code = status.get("Status")
    if code is None:
        return _Answer(False, _LOST)
    if code == 0x0000:
        return _Answer(True, "")
    # PS3.4 table B.2-1: B000 coerced, B006 elements discarded, B007 does not match its class: stored all the same
    return _Answer(code & 0xF000 == 0xB000, f"status {code:04X}")


def _agreed(association: Association, sop_class: UID) -> UID | None:
    """The transfer syntax that the PACS took for a class, None where it takes no such object."""
    for context in association.accepted_contexts:
        if context.abstract_syntax == sop_class:
            return context.transfer_syntax[0]
    return None
