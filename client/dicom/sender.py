"""Carries result objects to the PACS, however long it is away.

What is to be sent stands in the `delivery` table, its bytes in the archive; an object leaves the table's `pending`
state only on the PACS's own answer. A PACS that cannot be reached costs no object an attempt: it is waited for. An
object that the PACS refuses is tried again with growing pauses and becomes `failed` in the end, for a person to look
at and send again.

A repeat after a crash carries the same UIDs and bytes, which a PACS stores once (PS3.4 B.2.3).
"""

import io
import logging
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from sqlalchemy import Row, select, update

from client.dicom.archive import Archive
from client.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from client.store.ledger import append
from client.store.site import Site
from client.store.tables import delivery, outcome
from models.errors import Conflict, NotFound

log = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 8
_TOGETHER: Final = 64


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

    def run(self) -> None:
        while not self._stop_asked.is_set():
            try:
                answered = self.drain()
            except Exception:
                log.exception("sending results failed; trying again")
                answered, self._unreachable = 0, self._unreachable + 1
            if self._unreachable:
                self._stop_asked.wait(self._pace.pause(self._unreachable))
            elif answered == 0:
                self._stop_asked.wait(self._pace.poll)

    def stop(self, timeout: float = 10.0) -> None:
        """Finish the object under way and end."""
        self._stop_asked.set()
        if self.is_alive():
            self.join(timeout)

    def drain(self) -> int:
        """Offer what is due over one association; how many objects the PACS gave an answer on."""
        due = self._due()
        if not due:
            return 0
        ready: list[tuple[Row[Any], Dataset]] = []
        for row in due:
            try:
                ready.append((row, pydicom.dcmread(io.BytesIO(self._archive.read(row.sha256)))))
            except NotFound:
                self._settle(row, _Answer(False, "its file is missing from the archive"))
        if not ready:
            return len(due)
        association = self._associate({str(dataset.SOPClassUID) for _, dataset in ready})
        if not association.is_established and association.rejected_contexts:
            # it is there and takes none of these kinds: a refusal of the objects, not an absence
            for row, _ in ready:
                self._settle(row, _Answer(False, "the PACS does not take this kind of object"))
            return len(ready)
        if not association.is_established:
            self._unreachable += 1
            if self._unreachable == 1:
                log.warning("the PACS cannot be reached; results wait for it")
                self._note([row.sop_uid for row, _ in ready], "the PACS cannot be reached")
            return 0
        if self._unreachable:
            log.info("the PACS answers again")
            self._unreachable = 0
        answered = 0
        try:
            for row, dataset in ready:
                if self._stop_asked.is_set() or not association.is_established:
                    break
                self._settle(row, _store(association, dataset))
                answered += 1
        finally:
            if association.is_established:
                association.release()
        return answered

    def _due(self) -> Sequence[Row[Any]]:
        with self._site.database.read() as connection:
            return connection.execute(
                select(delivery)
                .where(delivery.c.state == "pending", delivery.c.not_before <= time.time())
                .order_by(delivery.c.not_before, delivery.c.outcome_id)
                .limit(_TOGETHER)
            ).all()

    def _associate(self, sop_classes: set[str]) -> Association:
        peer = self._site.config.pacs
        entity = AE(self._site.config.ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.connection_timeout = entity.acse_timeout = min(self._pace.answer, 10.0)
        entity.dimse_timeout = entity.network_timeout = self._pace.answer
        for sop_class in sorted(sop_classes):
            entity.add_requested_context(sop_class, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        handlers: list[tuple[Any, Callable[..., Any]]] = [(evt.EVT_CONN_OPEN, _no_delay)]
        return entity.associate(peer.host, peer.port, ae_title=peer.ae_title, evt_handlers=handlers)  # type: ignore[arg-type]

    def _settle(self, row: Row[Any], answer: _Answer) -> None:
        attempts = row.attempts + 1
        given_up = not answer.sent and attempts >= self._max_attempts
        values: dict[str, Any] = {"attempts": attempts, "problem": answer.problem}
        if answer.sent:
            values |= {"state": "sent", "sent_at": time.time()}
        elif given_up:
            values |= {"state": "failed"}
        else:
            values |= {"not_before": time.time() + self._pace.pause(attempts)}
        with self._site.database.write() as connection:
            connection.execute(
                update(delivery)
                .where(delivery.c.sop_uid == row.sop_uid, delivery.c.state == "pending")
                .values(**values)
            )
            if answer.sent or given_up:
                append(
                    connection,
                    "delivery.sent" if answer.sent else "delivery.failed",
                    {"object": row.sop_uid, "kind": row.kind, "sha256": row.sha256, "problem": answer.problem},
                )
        if not answer.sent:
            log.warning("the PACS did not take a %s (%s), attempt %d", row.kind, answer.problem, attempts)

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


def _store(association: Association, dataset: Dataset) -> _Answer:
    try:
        status = association.send_c_store(dataset)
    except ValueError:
        # no presentation context was accepted for this kind of object
        return _Answer(False, "the PACS does not take this kind of object")
    except RuntimeError:
        return _Answer(False, "the association ended before an answer")
    code = status.get("Status")
    if code is None:
        return _Answer(False, "the association ended before an answer")
    if code == 0x0000:
        return _Answer(True, "")
    # PS3.4 table B.2-1: B000 coerced, B006 elements discarded, B007 does not match its class: stored all the same
    return _Answer(code & 0xF000 == 0xB000, f"status {code:04X}")


def _no_delay(event: evt.Event) -> None:
    # small writes of the protocol must not wait for the acknowledgement of the one before (Nagle)
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
