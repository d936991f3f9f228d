"""What a version has said here: its results and the objects that carry them into the PACS, counted and named."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import and_, case, func, select

from client.store.site import Site
from client.store.tables import delivery, outcome, recall

_IN_PACS = ("sent", "committed")


@dataclass(frozen=True, slots=True)
class Counted:
    """A version's results at this hospital.

    Attributes:
        scored: studies that it read, of every revision.
        refused: studies that it refused.
        first: of the first one, seconds since 1970.
        last: of the last one.
        objects: result objects that the PACS has taken.
        withdrawn: results that a recall withdrew.
    """

    scored: int
    refused: int
    first: float
    last: float
    objects: int
    withdrawn: int


@dataclass(frozen=True, slots=True)
class Made:
    """A result object: what it is called in the PACS, and where it stands."""

    study_uid: str
    revision: int
    at: float
    kind: str
    sop_uid: str
    state: str


def counted(site: Site) -> dict[str, Counted]:
    """What each version has said, by its digest; one that has said nothing is not there."""
    said = (
        select(
            outcome.c.version_digest.label("digest"),
            func.sum(case((outcome.c.kind == "scored", 1), else_=0)).label("scored"),
            func.sum(case((outcome.c.kind == "refused", 1), else_=0)).label("refused"),
            func.min(outcome.c.created_at).label("first"),
            func.max(outcome.c.created_at).label("last"),
        )
        .where(outcome.c.version_digest.is_not(None))
        .group_by(outcome.c.version_digest)
    )
    objects = (
        select(outcome.c.version_digest, func.count())
        .join(delivery, and_(delivery.c.outcome_id == outcome.c.id, delivery.c.state.in_(_IN_PACS)))
        .group_by(outcome.c.version_digest)
    )
    withdrawn = (
        select(recall.c.version_digest, func.count())
        .where(recall.c.action == "withdrawn")
        .group_by(recall.c.version_digest)
    )
    with site.database.read() as connection:
        taken = {row[0]: row[1] for row in connection.execute(objects)}
        back = {row[0]: row[1] for row in connection.execute(withdrawn)}
        return {
            row.digest: Counted(
                row.scored, row.refused, row.first, row.last, taken.get(row.digest, 0), back.get(row.digest, 0)
            )
            for row in connection.execute(said)
        }


def objects(site: Site, digest: str) -> Iterator[Made]:
    """Every object that carries a result of a version, oldest first; also those that amend or withdraw one."""
    query = (
        select(
            outcome.c.study_uid,
            outcome.c.revision,
            outcome.c.created_at,
            delivery.c.kind,
            delivery.c.sop_uid,
            delivery.c.state,
        )
        .join(delivery, delivery.c.outcome_id == outcome.c.id)
        .where(outcome.c.version_digest == digest)
        .order_by(outcome.c.id, delivery.c.kind, delivery.c.sop_uid)
    )
    with site.database.read() as connection:
        for row in connection.execute(query):
            yield Made(*row)
