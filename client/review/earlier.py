"""The result that a study had before images came that were not read: it stands until a person has answered it.

A study that is not read as it is now has no present result. Its last one is not gone for that: a finding in it may be
the only one that anybody was told of. It no longer stands once its version was recalled, or while a reader's last word
on it, or on a later one, is a rejection.
"""

from typing import Any, Final

from sqlalchemy import exists, func, select

from client.store.tables import outcome, recall, study, verdict

JUDGED_IN: Final = ("refused", "failed")
"""The states of a study in which its earlier result is judged; in the others it is about to be read."""


def last() -> Any:
    """SQL: the last result of a study that is not read as it is now, also a rejected one; null where there is none."""
    known = outcome.alias("known")
    return (
        select(func.max(known.c.id))
        .where(known.c.study_uid == study.c.uid, known.c.kind == "scored", known.c.revision < study.c.revision)
        .where(study.c.state != "scored")
        .where(
            ~exists().where(recall.c.outcome_id == known.c.id, recall.c.action.concat(recall.c.document) != "to_signer")
        )
        .correlate(study)
        .scalar_subquery()
    )


def standing() -> Any:
    """SQL: that result where no reader's rejection of it, or of a later one, stands; else null."""
    kept, rejecting, later = outcome.alias("kept"), verdict.alias("rejecting"), verdict.alias("replacing")
    replaced = exists().where(
        later.c.outcome_id == rejecting.c.outcome_id, later.c.reader == rejecting.c.reader, later.c.id > rejecting.c.id
    )
    rejected = exists().where(
        rejecting.c.study_uid == kept.c.study_uid,
        rejecting.c.outcome_id >= kept.c.id,
        rejecting.c.decision == "reject",
        ~replaced,
    )
    return select(kept.c.id).where(kept.c.id == last(), ~rejected).correlate(study).scalar_subquery()


def unanswered() -> Any:
    """SQL: whether that outcome is positive, and no reader has said anything of it or of a later one."""
    found, given = outcome.alias("found"), verdict.alias("answering")
    answered = exists().where(given.c.study_uid == found.c.study_uid, given.c.outcome_id >= found.c.id)
    return exists().where(found.c.id == standing(), found.c.positive, ~answered)
