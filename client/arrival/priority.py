"""Who says how urgent a study is: brings the words together that `urgency.py` judges, and keeps what comes of them.

Words come before the study, with its images, or after it was queued; the last word of each source counts, the most
urgent of all sources decides. Whatever feeds orders into the node (HL7, a worklist) calls `tell` and nothing else.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from pydicom.dataset import Dataset
from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from client.arrival.urgency import Rules, Sender, Urgency, most_urgent, understood
from client.dicom import decode
from client.dicom.malformed import MALFORMED
from client.inference.frames import items
from client.store import ledger
from client.store.site import Site
from client.store.tables import priority, study
from configs.schema import SiteConfig
from models.errors import InvalidStudy

log = logging.getLogger(__name__)

IMAGES: Final = "images"
STEP: Final = "step"
ORDER: Final = "order"
TRIAGE: Final = "triage"

_KEPT_SECONDS: Final = 7 * 86400.0  # of a study that never comes
_KEYWORDS: Final = ("StudyPriorityID", "RequestedProcedurePriority", "ScheduledProcedureStepPriority")
# where some put them
_SEQUENCE: Final = "RequestAttributesSequence"


def rules(config: SiteConfig) -> Rules:
    """A site's settings as plain values."""
    said = config.urgency
    allowed = (said.emergency_seconds, said.urgent_seconds, said.routine_seconds)
    return Rules(
        dict(zip(Urgency, allowed, strict=True)),
        {one.ae_title.strip(): Sender(Urgency(one.urgency), one.seconds or None) for one in said.senders},
    )


def stated(header: Dataset) -> Urgency | None:
    """What a dataset says of the urgency of its study; None where it says nothing.

    What it says in a word that nobody knows counts as routine.
    """
    words = [word for word in _words(header) if word]
    found = [understood(word) for word in words]
    if None in found:
        log.warning("priority not understood: counts as routine")  # the word may be anything
    return most_urgent(one for one in found if one) if words else None


def stated_in(path: Path) -> Urgency | None:
    """As `stated`, of a stored file; of one that cannot be read nothing is known."""
    try:
        return stated(decode.read_header(path))
    except (InvalidStudy, *MALFORMED):
        return None


def tell(
    connection: Connection, site: Site, study_uid: str, source: str, urgency: Urgency, *, version: str | None = None
) -> None:
    """Somebody says how urgent a study is, which may have come, or not yet; inside the caller's write transaction.

    The source's last word counts. A study that waits moves at once; one that was read keeps what it was.

    Args:
        source: `ORDER`, `STEP`, …
        version: digest of the version that says so, where it is one.
    """
    now = time.time()
    connection.execute(delete(priority).where(priority.c.told_at < now - _KEPT_SECONDS))
    row: dict[str, Any] = {"urgency": str(urgency), "told_at": now}
    connection.execute(
        upsert(priority)
        .values(study_uid=study_uid, source=source, **row)
        .on_conflict_do_update(index_elements=[priority.c.study_uid, priority.c.source], set_=row)
    )
    found = connection.execute(select(study).where(study.c.uid == study_uid)).first()
    if found is None or found.state not in ("receiving", "queued"):
        return
    settled = settle(connection, site, study_uid, found.calling_ae)
    if settled == found.urgency:
        return
    values: dict[str, Any] = {"urgency": str(settled)}
    if found.state == "queued" and found.completed_at is not None:
        values["due_at"] = found.completed_at + rules(site.config).allowed(settled, found.calling_ae)
    connection.execute(update(study).where(study.c.uid == study_uid).values(**values))
    facts: dict[str, ledger.Fact] = {"study": site.study_key(study_uid), "urgency": str(settled), "source": source}
    ledger.append(connection, "study.urgency", facts | ({"version": version} if version else {}))


def due(site: Site, row: Row[Any]) -> float:
    """When a study that is queued now is to be read by.

    Args:
        row: of the study table.
    """
    return time.time() + rules(site.config).allowed(Urgency(row.urgency), row.calling_ae)


def settle(
    connection: Connection, site: Site, study_uid: str, calling_ae: str, said: Iterable[Urgency | None] = ()
) -> Urgency:
    """The class of a study, from what its images say now and what is known of it.

    Args:
        said: by its images; kept, so that a later word of somebody else is held against it.
    """
    own = [one for one in said if one is not None]
    if own and most_urgent(own) is not Urgency.ROUTINE:
        row = {"urgency": str(most_urgent(own)), "told_at": time.time()}
        connection.execute(
            upsert(priority)
            .values(study_uid=study_uid, source=IMAGES, **row)
            .on_conflict_do_update(index_elements=[priority.c.study_uid, priority.c.source], set_=row)
        )
    return most_urgent([*own, told(connection, site, study_uid, calling_ae)])


def told(connection: Connection, site: Site, study_uid: str, calling_ae: str) -> Urgency:
    """The class of a study that may not have come yet, from what its sender is and from what has been told of it."""
    words = connection.execute(select(priority.c.urgency).where(priority.c.study_uid == study_uid)).scalars()
    return most_urgent([*(Urgency(one) for one in words), rules(site.config).of_sender(calling_ae)])


def _words(header: Dataset) -> Iterator[str]:
    for item in (header, *items(header, _SEQUENCE)):
        for keyword in _KEYWORDS:
            value = item.get(keyword)
            yield "" if value is None else str(value).strip(" \0")
