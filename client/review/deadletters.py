"""Results that did not get to the PACS, and what a person can do about them.

A `failed` one was refused by the PACS, a `quarantined` one was never offered, because the check before sending
(`client/results/conformity.py`) found it wanting. The first is sent again once the PACS is mended. The second is made
anew once the node is mended, or sent as it is, on somebody's word.

All that failed are sent again together but those that do not stand any more (`client/delivery/standing.py`): a result
that was corrected meanwhile would come to the PACS as if it were news.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import Connection, func, select, update

from client.delivery.standing import fallen, hold
from client.review.earlier import JUDGED_IN
from client.review.verdict import remake_document
from client.store.archive import Archive
from client.store.ledger import Fact, append
from client.store.site import Site
from client.store.tables import delivery, outcome, study, verdict
from models.errors import Conflict, NotFound

DEAD: Final = ("failed", "quarantined")


class Override(StrEnum):
    """Why an object is sent although the check found it wanting."""

    CHECK_IS_WRONG = "check_is_wrong"
    PACS_TAKES_IT = "pacs_takes_it"
    CLINICALLY_NEEDED = "clinically_needed"
    OTHER = "other"

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]


_MEANINGS: Final = {
    Override.CHECK_IS_WRONG: "The check is wrong about it",
    Override.PACS_TAKES_IT: "Our PACS is known to take it as it is",
    Override.CLINICALLY_NEEDED: "It is needed now, as it is",
    Override.OTHER: "Another reason",
}


@dataclass(frozen=True, slots=True)
class Letter:
    """One result object on its way, or beside it.

    Attributes:
        fallen: why one that was put aside is not to be sent any more; empty while it stands.
        withdrawn: the PACS was told not to show it, so that nobody can send it anyway.
    """

    sop_uid: str
    study_uid: str
    accession: str
    kind: str
    state: str
    attempts: int
    problem: str
    sent_at: float | None
    fallen: str
    withdrawn: bool = False


@dataclass(frozen=True, slots=True)
class Resent:
    """What was sent again, of all that failed.

    Attributes:
        number: that are.
        left: those that are not, with why not.
    """

    number: int
    left: tuple[Letter, ...]


def listed(site: Site, states: Sequence[str] = DEAD, limit: int = 500) -> list[Letter]:
    """Deliveries in these states, the longest waiting first."""
    query = (
        select(delivery, outcome.c.study_uid, study.c.accession)
        .join(outcome, outcome.c.id == delivery.c.outcome_id)
        .join(study, study.c.uid == outcome.c.study_uid)
        .where(delivery.c.state.in_(states))
        .order_by(delivery.c.not_before, delivery.c.outcome_id, delivery.c.kind)
        .limit(limit)
    )
    archive = Archive(site.archive)
    with site.database.read() as connection:
        rows = connection.execute(query).all()
        why = {row.sop_uid: fallen(connection, archive, row.sop_uid) for row in rows if row.state in DEAD}
    return [
        Letter(
            row.sop_uid,
            row.study_uid,
            row.accession,
            row.kind,
            row.state,
            row.attempts,
            row.problem,
            row.sent_at,
            gone.why if (gone := why.get(row.sop_uid)) else "",
            gone is not None and gone.withdrawn,
        )
        for row in rows
    ]


def counts(site: Site) -> dict[str, int]:
    """How many objects are in each state."""
    with site.database.read() as connection:
        rows = connection.execute(select(delivery.c.state, func.count()).group_by(delivery.c.state)).all()
    return {str(state): int(number) for state, number in rows}


def resend(site: Site, sop_uid: str, *, anyway: bool = False) -> None:
    """Put a failed delivery back in the queue, with all its attempts; it is checked again, too.

    Args:
        anyway: also where another object has taken its place.

    Raises:
        NotFound: no such delivery.
        Conflict: it has not failed, it was withdrawn, or another took its place and nobody says that it goes anyway.
    """
    _release(site, sop_uid, "failed", "delivery.resent", {"anyway": True} if anyway else {}, anyway=anyway)


def resend_all(site: Site) -> Resent:
    """Put what failed and still stands back in the queue."""
    sent = 0
    left: list[Letter] = []
    for letter in listed(site, ("failed",), limit=-1):
        if letter.fallen:
            left.append(letter)
            continue
        try:
            resend(site, letter.sop_uid)
        except Conflict:  # it fell, or somebody else sent it, just now
            continue
        sent += 1
    return Resent(sent, tuple(left))


def override(site: Site, sop_uid: str, reason: Override, by: str, *, anyway: bool = False) -> None:
    """Send a quarantined object as it is; reason and person are kept with it.

    Args:
        anyway: also where another object has taken its place.

    Raises:
        NotFound: no such delivery.
        Conflict: it is not quarantined, it was withdrawn, or another took its place and nobody says that it goes
            anyway.
    """
    facts: dict[str, Fact] = {"reason": str(reason)}
    if anyway:
        facts["anyway"] = True
    overridden = f"{reason} by {by}"
    _release(site, sop_uid, "quarantined", "delivery.overridden", facts, anyway=anyway, overridden=overridden)


def remake(site: Site, sop_uid: str) -> None:
    """Make an object that could not be sent anew, after the node was mended.

    A result, or the word that there is none, is made by reading the study again, as a new revision. What was made of
    the old one is held back meanwhile, and dropped with the transaction that queues what takes its place; where nothing
    does, it is still there. A document that a verdict made is made of that verdict again.

    Raises:
        NotFound: no such delivery.
        Conflict: it is not put aside, does not stand any more, its study is about to be read, or a clinician has judged
            the result already.
    """
    with site.database.read() as connection:
        kind = connection.execute(select(delivery.c.kind).where(delivery.c.sop_uid == sop_uid)).scalar()
    if kind in ("verified", "kos"):
        with site.database.read() as connection:
            _refuse_fallen(connection, site, sop_uid)
        remake_document(site, sop_uid)
        return
    with site.database.write() as connection:
        row = _found(connection, sop_uid)
        if row.state not in DEAD:
            raise Conflict(f"the delivery is {row.state}: only one that was put aside is made anew")
        if row.study_state not in JUDGED_IN:
            raise Conflict("its study is about to be read again")
        if connection.execute(select(verdict.c.id).where(verdict.c.outcome_id == row.outcome_id)).first():
            raise Conflict("a clinician has judged this result: it cannot be made anew")
        if gone := fallen(connection, Archive(site.archive), sop_uid):
            raise Conflict(f"{gone.why}: it is not made anew")
        hold(connection, row.outcome_id)
        revision = row.study_revision + 1
        connection.execute(
            update(study).where(study.c.uid == row.study_uid).values(state="queued", revision=revision, attempts=0)
        )
        facts = {"object": sop_uid, "study": site.study_key(row.study_uid), "revision": revision}
        append(connection, "delivery.remade", facts)


def _release(
    site: Site, sop_uid: str, state: str, event: str, facts: dict[str, Fact], *, anyway: bool = False, **values: Any
) -> None:
    with site.database.write() as connection:
        row = _found(connection, sop_uid)
        if row.state != state:
            raise Conflict(f"the delivery is {row.state}: this is for one that is {state}")
        _refuse_fallen(connection, site, sop_uid, anyway=anyway)
        connection.execute(
            update(delivery)
            .where(delivery.c.sop_uid == sop_uid)
            .values(state="pending", attempts=0, not_before=0.0, problem="", asked=0, transaction_uid=None, **values)
        )
        append(connection, event, {"object": sop_uid, "study": site.study_key(row.study_uid), **facts})


def _refuse_fallen(connection: Connection, site: Site, sop_uid: str, *, anyway: bool = False) -> None:
    gone = fallen(connection, Archive(site.archive), sop_uid)
    if gone and gone.withdrawn:
        raise Conflict(f"{gone.why}: it is not sent again")
    if gone and not anyway:
        raise Conflict(f"{gone.why}: it is sent by itself only where somebody says that it goes anyway")


def _found(connection: Connection, sop_uid: str) -> Any:
    row = connection.execute(
        select(
            delivery.c.state,
            delivery.c.outcome_id,
            outcome.c.study_uid,
            study.c.state.label("study_state"),
            study.c.revision.label("study_revision"),
        )
        .join(outcome, outcome.c.id == delivery.c.outcome_id)
        .join(study, study.c.uid == outcome.c.study_uid)
        .where(delivery.c.sop_uid == sop_uid)
    ).first()
    if row is None:
        raise NotFound("no such delivery")
    return row
