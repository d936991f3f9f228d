"""What versions that are not asked would have said: run after the study was read, kept, and shown to nobody.

That is how a version in shadow gets a record, and how the members of a panel can be compared on the same patients.
"""

import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, exists, insert, or_, select

from client.inference.outcomes import images_of
from client.inference.pipeline import Failed, Outcome, Refused
from client.inference.study import Study
from client.store.site import Site
from client.store.tables import outcome, shadow, study, version


@dataclass(frozen=True, slots=True)
class Due:
    """A study that a version has not read yet."""

    study: Study
    outcome_id: int
    digest: str


def due(site: Site) -> Due | None:
    """The newest read study that a version in shadow, or a member of the panel that was not asked, has not seen.

    Studies from before the version came are left alone.
    """
    done = exists().where(shadow.c.outcome_id == outcome.c.id, shadow.c.version_digest == version.c.digest)
    query = (
        select(outcome.c.id, outcome.c.study_uid, outcome.c.revision, version.c.digest, study.c.touched_at)
        .join(study, and_(study.c.uid == outcome.c.study_uid, study.c.revision == outcome.c.revision))
        .join(
            version,
            or_(
                and_(version.c.state == "shadow", outcome.c.created_at >= version.c.received_at),
                and_(version.c.state == "adopted", outcome.c.created_at >= version.c.adopted_at),
            ),
        )
        .where(outcome.c.kind == "scored", outcome.c.version_digest != version.c.digest, ~done)
        .order_by(outcome.c.id.desc())
        .limit(1)
    )
    with site.database.read() as connection:
        row = connection.execute(query).first()
        if row is None:
            return None
        listed = images_of(connection, row.study_uid)
    return Due(Study(row.study_uid, row.revision, 1, row.touched_at, listed), row.id, row.digest)


def keep(site: Site, what: Due, result: Outcome) -> None:
    """Note what the version said; nobody is told."""
    values: dict[str, Any] = {"kind": "refused", "score": None, "threshold": None, "positive": None}
    if isinstance(result, Refused):
        values["reasons"] = sorted({str(reason.code) for reason in result.reasons})
    elif isinstance(result, Failed):
        values |= {"kind": "failed", "reasons": [str(result.reason.code)]}
    else:
        best = result.best
        values |= {
            "kind": "scored",
            "reasons": [],
            "score": best.score,
            "threshold": best.threshold,
            "positive": best.positive,
        }
    with site.database.write() as connection:
        connection.execute(
            insert(shadow).values(
                outcome_id=what.outcome_id, version_digest=what.digest, created_at=time.time(), **values
            )
        )
