"""Whether results still have the images under them that they were made from.

An image leaves its study when the PACS rejects it, when a person leaves it out, or when the copy of it that a person
chose is of another study. What was said on its strength may not stand on: the study is read again, and the new result
takes the place of the earlier one wherever it has read what is left of that (`client/inference/succession.py`). Where
none does, since nothing is left, or what is left is refused, or names somebody else, the earlier one is taken back.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, exists, func, or_, select

from client.arrival.index import pictured
from client.inference.succession import replaced
from client.review.recall import forsake
from client.review.regrown import measure_again
from client.store.excluded import excluded
from client.store.site import Site
from client.store.tables import delivery, exclusion, instance, outcome, recall

_SAFETY = ("safety", "worklist", "other-patient")


def unfounded(connection: Connection, study_uid: str) -> list[Row[Any]]:
    """The results of a study, of every revision, that rest on an image that it no longer has, and stand.

    Of a result of an earlier release, which did not write down what it read, every image may have been a part.
    """
    query = (
        select(outcome)
        .where(outcome.c.study_uid == study_uid, outcome.c.kind == "scored", ~_taken_back(), ~replaced(outcome.c.id))
        .order_by(outcome.c.id)
    )
    rows = connection.execute(query).all()
    if not rows:
        return []
    images = connection.execute(
        select(instance.c.sop_uid, instance.c.series_uid, instance.c.received_at, excluded().label("excluded")).where(
            instance.c.study_uid == study_uid, ~instance.c.conflicting
        )
    ).all()
    left = {uid for row in images if not row.excluded for uid in (row.sop_uid, row.series_uid)}
    out = [row for row in images if row.excluded]
    return [row for row in rows if _rests_on_others(row, left) or any(_was_part(row, one) for one in out)]


def settle(connection: Connection, site: Site, study_uid: str, revision: int) -> int:
    """Take back what no longer has a footing; to be called where a revision is concluded that was read without it.

    The word that earlier images were not read goes too, where no image is left at all and nothing comes in its place.

    Returns:
        How many outcomes that were.
    """
    said = [row for row in unfounded(connection, study_uid) if row.revision < revision]
    if not _any_left(connection, study_uid):
        said += _unread(connection, study_uid, revision)
    words = connection.execute(
        select(exclusion.c.by, exclusion.c.cause)
        .where(exclusion.c.study_uid == study_uid, exclusion.c.lifted_at.is_(None))
        .order_by(exclusion.c.told_at.desc())
    ).all()
    measured = connection.execute(
        select(outcome.c.measurements.is_not(None)).where(
            outcome.c.study_uid == study_uid, outcome.c.revision == revision, outcome.c.kind == "scored"
        )
    ).scalar()
    if words or measured:  # also where what is left has taken its place: it measures something else
        measure_again(connection, site, [study_uid], anew=bool(measured))
    if not said:
        return 0
    by = words[0].by if words else site.config.institution  # a copy of another study was chosen
    return forsake(connection, site, said, by, safety=not words or any(word.cause in _SAFETY for word in words))


def _rests_on_others(row: Row[Any], left: set[str]) -> bool:
    return not left.issuperset([row.sop_uid] if row.read is None else row.read)


def _was_part(row: Row[Any], image: Any) -> bool:
    if image.received_at > row.created_at:
        return False
    return row.read is None or image.sop_uid in row.read or image.series_uid in row.read


def _any_left(connection: Connection, study_uid: str) -> bool:
    query = select(instance.c.id).where(
        instance.c.study_uid == study_uid, ~instance.c.conflicting, ~excluded(), pictured()
    )
    return connection.execute(query.limit(1)).first() is not None


def _unread(connection: Connection, study_uid: str, revision: int) -> Sequence[Row[Any]]:
    told = exists().where(delivery.c.outcome_id == outcome.c.id, delivery.c.kind == "sr")
    last = select(func.max(delivery.c.outcome_id)).join(outcome, outcome.c.id == delivery.c.outcome_id)
    last = last.where(outcome.c.study_uid == study_uid, delivery.c.kind == "sr").scalar_subquery()
    query = select(outcome).where(
        outcome.c.study_uid == study_uid, outcome.c.revision < revision, outcome.c.kind != "scored", told
    )
    return connection.execute(query.where(outcome.c.id == last, ~_taken_back())).all()


def _taken_back() -> Any:
    """SQL: whether what a version made of an outcome was withdrawn."""
    withdrawal = delivery.alias("withdrawal")
    return or_(
        exists().where(recall.c.outcome_id == outcome.c.id, recall.c.action.concat(recall.c.document) != "to_signer"),
        exists().where(withdrawal.c.outcome_id == outcome.c.id, withdrawal.c.kind == "kos", outcome.c.kind != "scored"),
    )
