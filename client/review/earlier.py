"""The results that a study had before, and that its present outcome does not take the place of: each stands until a
person has answered it.

A study that is not read as it is now has no present result, and one that is may have one of other images, or of another
model (`client/inference/succession.py`). What was found before is not gone for that: it may be the only finding that
anybody was told of. It no longer stands once its version was recalled, or while a reader's last word on it, or on a
result that took its place, is a rejection. Where images of another patient came since, what readers have said before
has to be looked at again.

Of several the one is shown that nobody has answered, else the last. Beside a present result only a finding is: that
nothing was found in less of the study tells nobody anything.
"""

from typing import Any, Final

from sqlalchemy import Connection, and_, exists, func, literal_column, or_, select

from client.dicom.person import TWO_PEOPLE
from client.inference.succession import replaced
from client.store.tables import outcome, recall, study, succession, verdict

JUDGED_IN: Final = ("scored", "refused", "failed")
"""The states of a study in which an earlier result is judged; in the others it is about to be read."""


def last() -> Any:
    """SQL: the earlier result of a study that is shown, also a rejected one; null where there is none."""
    known = outcome.alias("known")
    pressing = and_(known.c.positive, ~_answered(known))
    return (
        select(known.c.id)
        .where(_beside(known))
        .order_by(pressing.desc(), known.c.id.desc())
        .limit(1)
        .correlate(study)
        .scalar_subquery()
    )


def standing() -> Any:
    """SQL: that result where no reader's rejection of it, or of one that took its place, stands; else null."""
    kept, rejecting, later = outcome.alias("kept"), verdict.alias("rejecting"), verdict.alias("replacing")
    undone = exists().where(
        later.c.outcome_id == rejecting.c.outcome_id, later.c.reader == rejecting.c.reader, later.c.id > rejecting.c.id
    )
    rejected = exists().where(_about(rejecting, kept), rejecting.c.decision == "reject", ~undone)
    return select(kept.c.id).where(kept.c.id == last(), ~rejected).correlate(study).scalar_subquery()


def unanswered() -> Any:
    """SQL: whether a positive one is among them of which no reader has said anything, nor of one in its place."""
    found = outcome.alias("found")
    return exists().where(_beside(found), found.c.positive, ~_answered(found)).correlate(study)


def score() -> Any:
    """SQL: the highest score of those; null where there is none."""
    found = outcome.alias("urgent")
    query = select(func.max(found.c.score)).where(_beside(found), found.c.positive, ~_answered(found))
    return query.correlate(study).scalar_subquery()


def findings() -> Any:
    """SQL: those that are positive, answered or not."""
    known = outcome.alias("known")
    return select(known.c.id).where(_beside(known), known.c.positive).correlate(study)


def doubted(connection: Connection, verdict_id: int) -> bool:
    """Whether images of another patient came to a study after a verdict: said again, it is another one."""
    query = select(verdict.c.id).where(verdict.c.id == verdict_id, _doubted(verdict))
    return connection.execute(query).first() is not None


def _beside(known: Any) -> Any:
    """Whether an outcome is a result from before, of a study of the query around it, and nothing took its place."""
    return and_(
        study.c.revision > 1,  # most studies have no earlier revision
        known.c.study_uid == study.c.uid,
        known.c.kind == "scored",
        known.c.revision < study.c.revision,
        or_(study.c.state != "scored", known.c.positive),
        # one that was signed and has a document beside was taken back, and only its signature is left
        ~exists().where(recall.c.outcome_id == known.c.id, recall.c.action.concat(recall.c.document) != "to_signer"),
        ~replaced(known.c.id),
    )


def _about(given: Any, known: Any) -> Any:
    """Whether a verdict is on an outcome, or on one that took its place."""
    followed = exists().where(succession.c.earlier_id == known.c.id, succession.c.later_id == given.c.outcome_id)
    followed = followed.correlate(known, given)  # two queries up is not correlated by itself
    return and_(given.c.study_uid == known.c.study_uid, or_(given.c.outcome_id == known.c.id, followed))


def _answered(known: Any) -> Any:
    given = verdict.alias("answering")
    return exists().where(_about(given, known), or_(given.c.decision == "reject", ~_doubted(given)))


def _doubted(given: Any) -> Any:
    """Whether images of another patient came to the study after a verdict."""
    since, code = outcome.alias("since"), literal_column(f"'\"{TWO_PEOPLE}\"'")
    return exists().where(
        since.c.study_uid == given.c.study_uid,
        since.c.created_at > given.c.created_at,
        func.instr(since.c.reasons, code) > 0,
    )
