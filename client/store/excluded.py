"""Whether an image is read at all: one that the PACS has rejected, or that a person leaves out, is not.

It stays in the archive and in the index, where it counts as having come; what reads, shows or names the images of a
study asks here.
"""

from typing import Any

from sqlalchemy import ColumnElement, and_, exists

from client.store.tables import exclusion, instance


def excluded(*causes: str, of: Any = instance) -> ColumnElement[bool]:
    """SQL: whether somebody who may say so has taken an instance out of its study, and nobody has put it back.

    Args:
        causes: for one of these (`client.arrival.rejection.Cause`); none: for whatever cause.
        of: the table of instances, or an alias of it.
    """
    found = exists().where(
        exclusion.c.sop_uid == of.c.sop_uid,
        exclusion.c.study_uid == of.c.study_uid,
        exclusion.c.lifted_at.is_(None),
    )
    return found.where(exclusion.c.cause.in_(causes)) if causes else found


def doubted() -> ColumnElement[bool]:
    """SQL: whether a word in `exclusion` waits for a person: it was not believed, nobody has said what to make of it,
    and the image is not left out anyway.
    """
    other = exclusion.alias("other_word")
    anyway = exists().where(
        other.c.sop_uid == exclusion.c.sop_uid,
        other.c.study_uid == exclusion.c.study_uid,
        other.c.lifted_at.is_(None),
    )
    unsaid = and_(exclusion.c.lifted_at.is_not(None), exclusion.c.lifted_by == "")
    return and_(unsaid, ~anyway.correlate(exclusion))
