"""Storage commitment as SCU: the PACS is asked to confirm that it keeps our results (PS3.4 annex J).

After a while a result that was sent is named in an N-ACTION request; the N-EVENT-REPORT that answers comes over the
same association or over one that the PACS opens to our gateway. What the PACS confirms is `committed`, what it says it
does not keep is offered again, unless it was withdrawn. A report counts once, for the transaction it names, from the
PACS alone; whatever else comes changes nothing. We confirm nothing ourselves: a modality might purge its images on our
word.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import generate_uid
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,  # type: ignore[attr-defined]  # made from a table at import
    StorageCommitmentPushModelInstance,  # type: ignore[attr-defined]
)
from sqlalchemy import Connection, Row, insert, select, update

from client.delivery.carrier import caller, rejecting
from client.delivery.standing import fallen
from client.delivery.transmission import refusal
from client.dicom.listener import client_tls
from client.dicom.requestor import associate
from client.store.archive import Archive
from client.store.database import Watch
from client.store.ledger import append
from client.store.site import Site
from client.store.tables import commitment, delivery

log = logging.getLogger(__name__)

MOST_ASKS: Final = 4
MOST_OFFERS: Final = 8
_TOGETHER: Final = 200
_AGAIN_SECONDS: Final = 2.0

SUCCESS: Final = 0x0000
# PS3.7 C.4 and C.5: what a peer is told
UNKNOWN_TRANSACTION: Final = 0x0115
NOT_AUTHORIZED: Final = 0x0124
PROCESSING_FAILURE: Final = 0x0110


@dataclass(frozen=True, slots=True)
class Waits:
    """How patient the committer is, all in seconds; tests are less so.

    Attributes:
        settle: after an object was sent, before its commitment is asked for, so that many are asked for together.
        report: for a report, before it is asked for again.
        linger: with the association open, for a PACS that reports over the same one.
        away: before the PACS is called again that could not be reached, doubled up to `longest`.
        answer: for an answer to a request.
    """

    settle: float = 2.0
    report: float = 600.0
    linger: float = 2.0
    away: float = 2.0
    longest: float = 300.0
    answer: float = 30.0


class Committer(threading.Thread):
    """Asks for the commitment of what was sent; one of it per hospital, where `pacs.commitment` is set."""

    def __init__(self, site: Site, waits: Waits | None = None) -> None:
        super().__init__(name="committer", daemon=True)
        self._site = site
        self._waits = waits or Waits()
        self._archive = Archive(site.archive)
        self._stop_asked = threading.Event()
        self._away = 0

    def run(self) -> None:
        with closing(Watch(self._site.database)) as watch:
            while not self._stop_asked.is_set():
                try:
                    expire(self._site, self._waits.report)
                    asked = self._ask()
                except Exception:
                    log.exception("asking for storage commitment failed; trying again")
                    asked, self._away = False, self._away + 1
                if self._away:
                    self._stop_asked.wait(min(self._waits.longest, self._waits.away * 2.0 ** min(self._away - 1, 20)))
                elif not asked:
                    # what was sent becomes due by the clock, without anybody having written anything
                    watch.wait(self._stop_asked, min(0.5, self._waits.settle), max(0.1, self._waits.settle))

    def stop(self, timeout: float = 5.0) -> None:
        """End after the request under way."""
        self._stop_asked.set()
        if self.is_alive():
            self.join(timeout)

    def _ask(self) -> bool:
        due = self._due()
        if not due:
            return False
        told = threading.Event()

        def on_report(event: evt.Event) -> tuple[int, None]:
            status = report(self._site, event)
            told.set()
            return status, None

        entity = caller(self._site, self._waits.answer)
        entity.add_requested_context(StorageCommitmentPushModel)
        peer = self._site.config.pacs
        association = associate(
            entity,
            peer.host,
            peer.port,
            peer.ae_title,
            client_tls(self._site),
            handlers=[(evt.EVT_N_EVENT_REPORT, on_report)],
        )
        if not association.is_established:
            self._away += 1
            if self._away == 1:
                log.warning("the PACS %s; confirmation of %d objects waits", self._absence(association), len(due))
            return False
        self._away = 0
        try:
            if self._request(association, due):
                told.wait(self._waits.linger)
        finally:
            if association.is_established:
                with suppress(RuntimeError):  # it ended meanwhile
                    association.release()
        return True

    def _absence(self, association: Association) -> str:
        if why := refusal(association):
            return rejecting(self._site, why)
        return "does not offer storage commitment" if association.rejected_contexts else "cannot be reached"

    def _due(self) -> Sequence[Row[Any]]:
        with self._site.database.read() as connection:
            return connection.execute(
                select(delivery)
                .where(
                    delivery.c.state == "sent",
                    delivery.c.transaction_uid.is_(None),
                    delivery.c.asked < MOST_ASKS,
                    delivery.c.sent_at <= time.time() - self._waits.settle,
                )
                .order_by(delivery.c.sent_at)
                .limit(_TOGETHER)
            ).all()

    def _request(self, association: Association, due: Sequence[Row[Any]]) -> bool:
        """N-ACTION for these; what was asked stands in the database before, since the report may be faster than us."""
        request = Dataset()
        request.TransactionUID = generate_uid(prefix=None)
        request.ReferencedSOPSequence = [self._reference(row) for row in due]
        transaction = str(request.TransactionUID)
        with self._site.database.write() as connection:
            connection.execute(
                insert(commitment).values(transaction_uid=transaction, state="asked", asked_at=time.time())
            )
            connection.execute(
                update(delivery)
                .where(delivery.c.sop_uid.in_([row.sop_uid for row in due]), delivery.c.state == "sent")
                .values(transaction_uid=transaction, asked=delivery.c.asked + 1)
            )
        try:
            status, _ = association.send_n_action(
                request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
        except RuntimeError:
            return False  # whether it was heard is not known: the transaction stays open until it is too old
        code = status.get("Status")
        if code is not None and code != SUCCESS:
            log.warning("the PACS did not take the request for storage commitment: status %04X", code)
            with self._site.database.write() as connection:
                _give_up(connection, [transaction])
        return code == SUCCESS

    def _reference(self, row: Row[Any]) -> Dataset:
        item = Dataset()
        item.ReferencedSOPClassUID = read_file_meta_info(self._archive.path(row.sha256)).MediaStorageSOPClassUID
        item.ReferencedSOPInstanceUID = row.sop_uid
        return item


def handlers(site: Site) -> list[tuple[Any, Callable[..., Any]]]:
    """What the gateway does with the service: it takes reports of the PACS and refuses to confirm anything itself."""

    def on_report(event: evt.Event) -> tuple[int, None]:
        caller_title = str(event.assoc.requestor.ae_title).strip()
        if not site.config.pacs.commitment or caller_title != site.config.pacs.ae_title.strip():
            log.warning("a storage commitment report was refused: it is not from the PACS")
            return NOT_AUTHORIZED, None
        return report(site, event), None

    def on_request(_event: evt.Event) -> tuple[int, None]:
        log.warning("a request for storage commitment was refused: this node is no archive")
        return NOT_AUTHORIZED, None

    return [(evt.EVT_N_EVENT_REPORT, on_report), (evt.EVT_N_ACTION, on_request)]


def report(site: Site, event: evt.Event) -> int:
    """Enter a report as it came over the wire; the status to answer it with."""
    try:
        told = event.event_information
        transaction = str(told.get("TransactionUID", ""))
        kept = [_names(item) for item in told.get("ReferencedSOPSequence") or []]
        refused = {_names(item): int(item.get("FailureReason") or 0) for item in told.get("FailedSOPSequence") or []}
    except Exception as error:  # noqa: BLE001  # whatever a peer's bytes do to the decoder
        log.warning("a storage commitment report cannot be read: %s", type(error).__name__)
        return PROCESSING_FAILURE
    return enter(site, transaction, kept, refused)


def enter(site: Site, transaction: str, kept: Sequence[str], refused: dict[str, int]) -> int:
    """Keep what a report says of the objects of its transaction; the status to answer it with.

    Args:
        kept: SOP instance UIDs that the PACS keeps.
        refused: SOP instance UIDs that it does not keep → reason (PS3.3 C.14); it wins where both name an object.
    """
    with site.database.write() as connection:
        known = connection.execute(
            select(commitment.c.state).where(commitment.c.transaction_uid == transaction)
        ).scalar_one_or_none()
        if known is None:
            log.warning("a storage commitment report names a transaction that nobody asked for")
            return UNKNOWN_TRANSACTION
        if known != "asked":
            return SUCCESS  # twice, or after it was given up: what counts is the report of the present transaction
        connection.execute(
            update(commitment).where(commitment.c.transaction_uid == transaction).values(state="reported")
        )
        rows = connection.execute(
            select(delivery).where(delivery.c.transaction_uid == transaction, delivery.c.state == "sent")
        ).all()
        counts = {"committed": 0, "refused": 0, "unmentioned": 0, "withdrawn": 0}
        archive = Archive(site.archive)
        named = set(kept)
        for row in rows:
            change = update(delivery).where(delivery.c.sop_uid == row.sop_uid)
            if row.sop_uid in refused and (gone := fallen(connection, archive, row.sop_uid)) and gone.withdrawn:
                counts["withdrawn"] += 1  # it was told not to keep it
                connection.execute(change.values(state="dropped", problem=gone.why, transaction_uid=None))
            elif row.sop_uid in refused:
                counts["refused"] += 1
                connection.execute(change.values(**_offered_again(row, refused[row.sop_uid])))
            elif row.sop_uid in named:
                counts["committed"] += 1
                connection.execute(change.values(state="committed", problem=""))
            else:
                counts["unmentioned"] += 1
                connection.execute(change.values(transaction_uid=None))
        append(connection, "delivery.reported", {"transaction": transaction, **counts})
    if counts["refused"]:
        log.warning("the PACS does not keep %d objects that it took; they are offered again", counts["refused"])
    return SUCCESS


def _offered_again(row: Row[Any], reason: int) -> dict[str, Any]:
    given_up = row.attempts + 1 >= MOST_OFFERS
    return {
        "state": "failed" if given_up else "pending",
        "attempts": row.attempts + 1,
        "problem": f"the PACS took it and does not keep it: reason {reason:04X}",
        "transaction_uid": None,
        "not_before": time.time() + _AGAIN_SECONDS if not given_up else row.not_before,
    }


def expire(site: Site, patience: float) -> int:
    """Give up transactions that had no report for so many seconds; their objects are asked for again."""
    old = (commitment.c.state == "asked", commitment.c.asked_at < time.time() - patience)
    with site.database.read() as connection:
        if connection.execute(select(commitment.c.transaction_uid).where(*old).limit(1)).first() is None:
            return 0
    with site.database.write() as connection:
        found = list(connection.execute(select(commitment.c.transaction_uid).where(*old)).scalars())
        _give_up(connection, found)
    return len(found)


def _give_up(connection: Connection, transactions: Sequence[str]) -> None:
    connection.execute(
        update(commitment).where(commitment.c.transaction_uid.in_(transactions)).values(state="unanswered")
    )
    open_ = (delivery.c.transaction_uid.in_(transactions), delivery.c.state == "sent")
    connection.execute(
        update(delivery)
        .where(*open_, delivery.c.asked >= MOST_ASKS)
        .values(problem="the PACS has not confirmed that it keeps it")
    )
    connection.execute(update(delivery).where(*open_).values(transaction_uid=None))


def _names(item: Dataset) -> str:
    return str(item.get("ReferencedSOPInstanceUID", ""))
