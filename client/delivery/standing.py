"""Whether an object that the PACS does not have is still to be sent, and the one rule of what a withdrawal does to it.

What a withdrawal names is not sent any more: in the transaction that queues the key object selection it is dropped,
whether it waited or was put aside. One may be on its way just then; the withdrawal names it, and comes after it, for
one thread sends (`sender.py`), and what it reads of the queue has either the object or its withdrawal. So none comes
before, or without, what it withdraws. It is always sent itself: what the PACS may have, it must hear of.

An object also falls when another takes its place: a result that of a later revision which covers it
(`client/inference/succession.py`), the word that nothing was read any later word, an unsigned report the signed one, a
signed one what its reader says of the study afterwards. A result of a study to which images of another patient came may
be of either, and so may what was signed of it before. None of these is sent again together with others; a person may
still send one by itself, which what was withdrawn never is.
"""

import io
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import pydicom
from pydicom.errors import InvalidDicomError
from sqlalchemy import Connection, case, literal, select, update

from client.dicom.person import TWO_PEOPLE
from client.inference.succession import replaced
from client.results.result import COMPUTED, derive_uid
from client.store.archive import Archive
from client.store.tables import delivery, outcome, recall, verdict
from models.errors import NotFound

log = logging.getLogger(__name__)

_TWO: Final = "images of another patient came to its study since"
_NOT_SENT: Final = ("pending", "failed", "quarantined")
_HELD: Final = "it is made anew"


@dataclass(frozen=True, slots=True)
class Fallen:
    """Why an object does not stand any more.

    Attributes:
        withdrawn: the PACS was told not to show it; else something took its place.
    """

    why: str
    withdrawn: bool


def fallen(connection: Connection, archive: Archive, sop_uid: str) -> Fallen | None:
    """Why an object is not to be sent any more; None while it stands, or where it is not known."""
    row = connection.execute(
        select(delivery.c.kind, delivery.c.outcome_id, outcome.c.kind.label("said"))
        .add_columns(outcome.c.study_uid, outcome.c.revision)
        .join(outcome, outcome.c.id == delivery.c.outcome_id)
        .where(delivery.c.sop_uid == sop_uid)
    ).first()
    if row is None or row.kind == "kos":
        return None
    if sop_uid in _withdrawn(connection, archive, row.outcome_id):
        return Fallen("it was withdrawn from the PACS", withdrawn=True)
    return _signed(connection, row, sop_uid) if row.kind == "verified" else _computed(connection, row)


def drop(connection: Connection, sop_uids: Collection[str], why: str) -> None:
    """What is withdrawn and has not been sent is not going to be; to be called where the withdrawal is queued."""
    connection.execute(
        update(delivery)
        .where(delivery.c.sop_uid.in_(sop_uids), delivery.c.state.in_(_NOT_SENT))
        .values(state="dropped", problem=why)
    )


def hold(connection: Connection, outcome_id: int) -> None:
    """What was made of a result that is made anew, and has not been sent, waits among what was put aside: what comes of
    that may not take its place, and then it is all that there is.
    """
    waits = case((delivery.c.state == "pending", "failed"), else_=delivery.c.state)
    held = delivery.c.problem.startswith(_HELD, autoescape=True), delivery.c.problem
    problem = case((delivery.c.problem == "", _HELD), held, else_=literal(f"{_HELD}; before: ") + delivery.c.problem)
    connection.execute(
        update(delivery)
        .where(delivery.c.outcome_id == outcome_id, delivery.c.state.in_(_NOT_SENT))
        .values(state=waits, problem=problem)
    )


def let_go(connection: Connection, outcomes: Collection[int]) -> None:
    """Drop what waited for these results to be made anew; to be called where what takes their place is queued."""
    connection.execute(
        update(delivery)
        .where(delivery.c.outcome_id.in_(outcomes), delivery.c.state.in_(("failed", "quarantined")))
        .where(delivery.c.problem.startswith(_HELD, autoescape=True))
        .values(state="dropped", problem="made anew")
    )


def named(selection: bytes) -> set[str]:
    """The SOP instance UIDs of what a key object selection withdraws.

    Args:
        selection: a Part 10 file.

    Raises:
        InvalidDicomError, AttributeError: it is none.
    """
    document = pydicom.dcmread(io.BytesIO(selection), specific_tags=["CurrentRequestedProcedureEvidenceSequence"])
    return {
        str(one.ReferencedSOPInstanceUID)
        for of_study in document.CurrentRequestedProcedureEvidenceSequence
        for series in of_study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }


def _withdrawn(connection: Connection, archive: Archive, outcome_id: int) -> set[str]:
    """What withdrawals of a result name, whatever became of these; all that was computed, where one cannot be read."""
    objects = connection.execute(
        select(delivery.c.sop_uid, delivery.c.kind, delivery.c.sha256).where(delivery.c.outcome_id == outcome_id)
    ).all()
    found: set[str] = set()
    for row in objects:
        if row.kind == "kos":
            try:
                found |= named(archive.read(row.sha256))
            except (AttributeError, InvalidDicomError, NotFound, OSError) as error:
                log.error("a withdrawal cannot be read: %s", type(error).__name__)
                found |= {one.sop_uid for one in objects if one.kind in COMPUTED}
    return found


def _computed(connection: Connection, row: Any) -> Fallen | None:
    action = connection.execute(select(recall.c.action).where(recall.c.outcome_id == row.outcome_id)).scalar()
    if action is not None:
        return Fallen("the version that made it was recalled", withdrawn=action != "to_signer")
    later = connection.execute(
        select(outcome.c.reasons)
        .where(outcome.c.study_uid == row.study_uid, outcome.c.revision > row.revision)
        .order_by(outcome.c.revision)
    ).all()
    taken = select(outcome.c.id).where(outcome.c.id == row.outcome_id, replaced(outcome.c.id))
    if (later and row.said != "scored") or connection.execute(taken).first():
        return Fallen("a newer revision of the study takes its place", withdrawn=False)
    if any(reason["code"] == TWO_PEOPLE for one in later for reason in one.reasons):
        return Fallen(_TWO, withdrawn=False)
    signed = select(delivery.c.sop_uid).where(
        delivery.c.outcome_id == row.outcome_id,
        delivery.c.kind == "verified",
        delivery.c.state.not_in(("quarantined", "dropped")),
    )
    if row.kind == "sr" and connection.execute(signed.limit(1)).first():
        return Fallen("a signed report takes its place", withdrawn=False)
    return None


def _signed(connection: Connection, row: Any, sop_uid: str) -> Fallen | None:
    given = connection.execute(
        select(verdict.c.id, verdict.c.reader, verdict.c.outcome_id, verdict.c.created_at)
        .where(verdict.c.study_uid == row.study_uid)
        .order_by(verdict.c.id)
    ).all()
    first = select(delivery.c.sop_uid).where(delivery.c.outcome_id == row.outcome_id, delivery.c.kind == "sr")
    report = connection.execute(first).scalar()
    mine = [one for one in given if one.outcome_id == row.outcome_id]
    # see `client/results/amend.py`: the opinions on a result are counted
    later = connection.execute(
        select(outcome.c.created_at, outcome.c.reasons).where(
            outcome.c.study_uid == row.study_uid, outcome.c.revision > row.revision
        )
    ).all()
    by = next((one for number, one in enumerate(mine, 1) if derive_uid("verified", report, number) == sop_uid), None)
    if by and any(one.reader == by.reader and one.id > by.id for one in given):
        return Fallen("its signer has judged the study again since", withdrawn=False)
    came = [one.created_at for one in later for reason in one.reasons if reason["code"] == TWO_PEOPLE]
    if by and any(at > by.created_at for at in came):  # who signed afterwards has seen that
        return Fallen(_TWO, withdrawn=False)
    return None
