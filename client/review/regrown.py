"""Results that say how something has grown since a study of which what was measured does not hold any longer.

A result is taken back, or a reader says that its study is of another patient: a doubling since then is then a doubling
since somebody else's images. Or more of it came, and it is measured anew. What later studies have said of it is
measured again, as a new revision that names the one before as its predecessor; of that, what the PACS does not have is
held back until then.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Connection, String, func, select, type_coerce, update

from client.arrival.again import Identity, read_again
from client.delivery.standing import hold
from client.store.site import Site
from client.store.tables import outcome, recall, study


def measure_again(connection: Connection, site: Site, study_uids: Collection[str], *, anew: bool = False) -> int:
    """Read the studies again whose growth was measured against one of these; how many.

    To be called in the transaction in which what they were measured against falls. What waits to be read is begun
    anew, for what reads it just now may have asked for the earlier volumes before. A result that was itself taken back
    with its version is left to who recalled it.

    Args:
        anew: they have been measured again, so that what was compared with them before they fell may be once more.
    """
    patients = select(study.c.patient_key).where(study.c.uid.in_(study_uids), study.c.patient_key.is_not(None))
    connection.execute(
        update(study)
        .where(study.c.state == "queued", study.c.patient_key.in_(patients), study.c.uid.not_in(study_uids))
        .values(touched_at=study.c.touched_at + 0.001, attempts=0)
    )
    found = dict.fromkeys(row.study_uid for row in hold_back(connection, study_uids))
    if anew:
        rows = connection.execute(_measured(present=False)).all()
        found |= dict.fromkeys(
            row.study_uid for row in rows if not compared_with(row.measurements).isdisjoint(study_uids)
        )
    for uid in found:
        read_again(connection, site, uid, Identity(), images=True)
    return len(found)


def hold_back(connection: Connection, study_uids: Collection[str]) -> list[Any]:
    """Keep what the PACS does not have of the results that were measured against one of these studies, while these are
    in doubt; which results those are.
    """
    rows = connection.execute(_measured(present=True)).all()
    found = [row for row in rows if not compared_with(row.measurements).isdisjoint(study_uids)]
    for row in found:
        hold(connection, row.id)
    return found


def compared_with(measurements: dict[str, Any]) -> set[str]:
    """The studies that growth was measured against.

    Args:
        measurements: of an outcome.
    """
    labels = (label for series in measurements["series"] for label in series["labels"])
    return {label["growth"]["prior_uid"] for label in labels if label.get("growth")}


def _measured(*, present: bool) -> Any:
    """The results that say of growth, and stand; of studies that have a result, the present ones or all."""
    written = type_coerce(outcome.c.measurements, String)
    query = (
        select(outcome.c.id, outcome.c.study_uid, outcome.c.measurements)
        .join(study, study.c.uid == outcome.c.study_uid)
        .outerjoin(recall, recall.c.outcome_id == outcome.c.id)
        .where(study.c.state == "scored", outcome.c.kind == "scored", recall.c.outcome_id.is_(None))
        .order_by(outcome.c.id)
        .where(outcome.c.measurements.is_not(None), func.instr(written, '"prior_uid"') > 0)
    )
    return query.where(study.c.revision == outcome.c.revision) if present else query
