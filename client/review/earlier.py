"""The results that a study had before, and that its present outcome does not take the place of: each stands until a
person has answered it.

A study that is not read as it is now has no present result, and one that is may have one of other images, or of another
model (`client/inference/succession.py`). What was found before is not gone for that: it may be the only finding that
anybody was told of. It no longer stands once its version was recalled, or while a reader's last word on it is a
rejection. The rejection of a result that took its place says nothing of it: nobody is told of either then, so that it
stands again, and is answered only where somebody has answered it. Where images of another patient came since, what
readers have said before has to be looked at again, also that nothing was found.

A finding whose image was rejected for its quality was taken back, and yet it is to be read where nothing was read in
its place: the image was bad, and nobody has said that the patient is well. A reader can only reject it.

Of several the one is shown that nobody has answered, else the last. Beside a present result only a finding is, and what
was signed and is in doubt: that nothing was found in less of the study tells nobody anything.
"""

from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, String, and_, exists, func, literal, literal_column, or_, select, type_coerce

from client.dicom.person import TWO_PEOPLE
from client.inference.succession import rejected, replaced
from client.store.tables import exclusion, instance, outcome, recall, study, succession, verdict, version

JUDGED_IN: Final = ("scored", "refused", "failed")
"""The states of a study in which an earlier result is judged; in the others it is about to be read."""

# each is made once: SQLAlchemy takes longer to make it than SQLite to run it


@cache
def last() -> Any:
    """SQL: the earlier result of a study that is shown, also a rejected one; null where there is none."""
    known = outcome.alias("known")
    return (
        select(known.c.id)
        .where(_beside(known))
        .order_by(and_(known.c.positive, ~_answered(known)).desc(), _pressing(known).desc(), known.c.id.desc())
        .limit(1)
        .correlate(study)
        .scalar_subquery()
    )


@cache
def standing() -> Any:
    """SQL: that result where no reader's rejection of it stands; else null."""
    kept = outcome.alias("kept")
    return select(kept.c.id).where(kept.c.id == last(), ~rejected(kept.c.id)).correlate(study).scalar_subquery()


@cache
def unanswered() -> Any:
    """SQL: whether one is among them that a reader has to answer: a positive one of which none has said anything, nor
    of one in its place, or one that was signed before images of another patient came.
    """
    found = outcome.alias("found")
    return exists().where(_beside(found), _pressing(found)).correlate(study)


@cache
def score() -> Any:
    """SQL: the highest score of those; null where there is none."""
    found = outcome.alias("urgent")
    query = select(func.max(found.c.score)).where(_beside(found), found.c.positive, ~_answered(found))
    return query.correlate(study).scalar_subquery()


@cache
def findings() -> Any:
    """SQL: those that are positive, answered or not, and those that are to be answered again."""
    known = outcome.alias("known")
    return select(known.c.id).where(_beside(known), or_(known.c.positive, _pressing(known))).correlate(study)


def doubted(connection: Connection, verdict_id: int) -> bool:
    """Whether images of another patient came to a study after a verdict: said again, it is another one."""
    query = select(verdict.c.id).where(verdict.c.id == verdict_id, _doubted(verdict))
    return connection.execute(query).first() is not None


def in_doubt(connection: Connection, outcome_id: int) -> bool:
    """Whether images of another patient came to a study after a result of it."""
    known = outcome.alias("known")
    query = select(known.c.id).where(known.c.id == outcome_id, _doubted(known))
    return connection.execute(query).first() is not None


def _beside(known: Any) -> Any:
    """Whether an outcome is a result from before, of a study of the query around it, and nothing took its place."""
    return and_(
        study.c.revision > 1,  # most studies have no earlier revision
        known.c.study_uid == study.c.uid,
        known.c.kind == "scored",
        known.c.revision < study.c.revision,
        or_(study.c.state != "scored", known.c.positive, _pressing(known)),
        # one that was signed and has a document beside was taken back, and only its signature is left
        or_(
            ~exists().where(
                recall.c.outcome_id == known.c.id, recall.c.action.concat(recall.c.document) != "to_signer"
            ),
            and_(known.c.positive, bereft(known), ~_answered(known)),
        ),
        ~replaced(known.c.id),
    )


def bereft(known: Any) -> Any:
    """SQL: whether a result was taken back since images under it were rejected for their quality, and nothing else."""
    word, other, made_by = exclusion.alias("word"), exclusion.alias("other_word"), version.alias("made_by")
    taken_back = exists().where(recall.c.outcome_id == known.c.id, recall.c.action == "withdrawn")
    graver = exists().where(_under(known, other), other.c.cause != "quality", other.c.lifted_at.is_(None))
    recalled = exists().where(made_by.c.digest == known.c.version_digest, made_by.c.state == "withdrawn")
    return and_(
        taken_back.correlate(known),
        exists().where(_under(known, word), word.c.lifted_at.is_(None)).correlate(known),
        ~graver.correlate(known),
        ~recalled.correlate(known),
    )


def _under(known: Any, word: Any) -> Any:
    """Whether a word speaks of an image that a result rests on: the one shown, one that was scored, or one of a series
    that was outlined.
    """
    image, read = instance.alias("spoken_of"), type_coerce(known.c.read, String)

    def named(uid: Any) -> Any:
        return func.instr(func.coalesce(read, ""), literal('"').concat(uid).concat('"')) > 0

    of_series = exists().where(
        image.c.study_uid == word.c.study_uid, image.c.sop_uid == word.c.sop_uid, named(image.c.series_uid)
    )
    of_series = of_series.correlate(known, word)
    return and_(
        word.c.study_uid == known.c.study_uid,
        or_(word.c.sop_uid == known.c.sop_uid, named(word.c.sop_uid), of_series),
    )


def _about(given: Any, known: Any) -> Any:
    """Whether a verdict is on an outcome, or on one that took its place."""
    followed = exists().where(succession.c.earlier_id == known.c.id, succession.c.later_id == given.c.outcome_id)
    followed = followed.correlate(known, given)  # two queries up is not correlated by itself
    return and_(given.c.study_uid == known.c.study_uid, or_(given.c.outcome_id == known.c.id, followed))


def _pressing(known: Any) -> Any:
    return and_(or_(known.c.positive, _signed(known)), ~_answered(known))


def _answered(known: Any) -> Any:
    """Whether a reader has rejected an outcome, or says since nobody doubts whose it is what it, or one in its place,
    found.
    """
    given = verdict.alias("answering")
    itself = and_(given.c.outcome_id == known.c.id, given.c.decision == "reject")
    return exists().where(_about(given, known), or_(itself, and_(_signs(given), ~_doubted(given))))


def _signed(known: Any) -> Any:
    given = verdict.alias("signed")
    return exists().where(_about(given, known), _signs(given))


def _signs(given: Any) -> Any:
    """Whether a verdict is no rejection, and its reader has not rejected the same result afterwards."""
    later = verdict.alias("retracting")
    mine = and_(later.c.outcome_id == given.c.outcome_id, later.c.reader == given.c.reader, later.c.id > given.c.id)
    return and_(given.c.decision != "reject", ~exists().where(mine, later.c.decision == "reject"))


def _doubted(given: Any) -> Any:
    """Whether images of another patient came to the study after a verdict, or after a result."""
    since, code = outcome.alias("since"), literal_column(f"'\"{TWO_PEOPLE}\"'")
    return exists().where(
        since.c.study_uid == given.c.study_uid,
        since.c.created_at > given.c.created_at,
        func.instr(since.c.reasons, code) > 0,
    )
