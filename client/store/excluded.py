"""Whether an image is read at all: one that the PACS has rejected, or that a person leaves out, is not.

It stays in the archive and in the index, where it counts as having come; what reads, shows or names the images of a
study asks here.
"""

from typing import Any

from sqlalchemy import ColumnElement, exists

from client.store.tables import exclusion, instance


def excluded(of: Any = instance) -> ColumnElement[bool]:
    """SQL: whether somebody who may say so has taken an instance out of its study, and nobody has put it back.

    Args:
        of: the table of instances, or an alias of it.
    """
    return exists().where(
        exclusion.c.sop_uid == of.c.sop_uid,
        exclusion.c.study_uid == of.c.study_uid,
        exclusion.c.lifted_at.is_(None),
    )
