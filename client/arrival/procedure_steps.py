"""What modalities and the PACS tell of a study's images: performed procedure steps and availability notifications.

A step is created when an examination begins and names its images when it is completed; a notification names what the
PACS has. Both are only evidence of when a study is complete: an image is not refused because nobody announced it, and
what cannot be understood changes nothing.

Source: DICOM PS3.4 F.7 (Modality Performed Procedure Step), R.3 (Instance Availability Notification); PS3.7 annex C.
"""

import logging
import re
import time
import uuid
from collections.abc import Collection, Generator
from contextlib import contextmanager
from typing import Any, Final

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.sop_class import (
    InstanceAvailabilityNotification,  # type: ignore[attr-defined]  # made at import
    ModalityPerformedProcedureStep,  # type: ignore[attr-defined]
)
from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import SQLAlchemyError

from client.arrival import priority
from client.arrival.completeness import Announced
from client.arrival.urgency import Urgency, most_urgent
from client.dicom.malformed import MALFORMED
from client.store.site import Site
from client.store.tables import announcement, delivery, instance
from models.errors import InvalidStudy

log = logging.getLogger(__name__)

STEP_CLASSES: Final = (str(ModalityPerformedProcedureStep), str(InstanceAvailabilityNotification))
SUCCESS: Final = 0x0000

# PS3.7 annex C; the one table from what is wrong to what the peer is told.
STATUS: Final = {
    "attribute-invalid": 0x0106,
    "malformed": 0x0110,
    "final": 0x0110,  # PS3.4 F.7.2.2.2, with error ID A710
    "duplicate": 0x0111,
    "unknown": 0x0112,
    "class-mismatch": 0x0119,
    "attribute-missing": 0x0120,
    "not-authorised": 0x0124,
    "out-of-resources": 0x0213,
}
_NO_LONGER_UPDATED: Final = 0xA710
_STATES: Final = {"IN PROGRESS": "in progress", "COMPLETED": "completed", "DISCONTINUED": "discontinued"}
_KEPT_SECONDS: Final = 7 * 86400.0
_MOST_KEPT: Final = 20_000
_MOST_INSTANCES: Final = 20_000
_MOST_STUDIES: Final = 16
_TOGETHER: Final = 500
_UID: Final = re.compile(r"[0-9.]{1,64}")


class ProcedureSteps:
    """The SCP of both classes."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def handlers(self) -> list[Any]:
        """What the gateway binds to its associations."""
        return [(evt.EVT_N_CREATE, self._on_create), (evt.EVT_N_SET, self._on_set)]

    def _on_create(self, event: evt.Event) -> tuple[int | Dataset, Dataset | None]:
        request: Any = event.request
        given = request.AffectedSOPInstanceUID
        uid = str(given) if given else f"2.25.{uuid.uuid4().int}"
        try:
            with _understood():
                _same_class(event, request.AffectedSOPClassUID)
                attributes = event.attribute_list
                urgency: Urgency | None = None
                if event.context.abstract_syntax == ModalityPerformedProcedureStep:
                    urgency = _urgency(attributes)
                    state, studies, named = "in progress", _begun(attributes), _performed(attributes) or []
                else:
                    state, (studies, named) = "completed", _available(attributes)
            self._create(uid, _calling(event), state, studies, named, urgency)
        except InvalidStudy as error:
            return _refusal(error.reason), None
        if given:
            return SUCCESS, None
        answer = Dataset()
        answer.AffectedSOPInstanceUID = uid
        return SUCCESS, answer

    def _on_set(self, event: evt.Event) -> tuple[int | Dataset, Dataset | None]:
        request: Any = event.request
        try:
            with _understood():
                _same_class(event, request.RequestedSOPClassUID)
                attributes = event.modification_list
                stated = str(attributes.get("PerformedProcedureStepStatus") or "").strip()
                if stated and stated not in _STATES:
                    raise InvalidStudy("attribute-invalid", "no such status")
                named = _performed(attributes)
            self._set(str(request.RequestedSOPInstanceUID), _calling(event), _STATES.get(stated), named)
        except InvalidStudy as error:
            return _refusal(error.reason), None
        return SUCCESS, None

    def _create(
        self, uid: str, calling_ae: str, state: str, studies: list[str], named: list[str], urgency: Urgency | None
    ) -> None:
        now = time.time()
        with _kept(), self._site.database.write() as connection:
            if connection.execute(select(announcement.c.uid).where(announcement.c.uid == uid)).first():
                raise InvalidStudy("duplicate", "this instance is there already")
            connection.execute(delete(announcement).where(announcement.c.created_at < now - _KEPT_SECONDS))
            count = connection.execute(select(func.count()).select_from(announcement)).scalar() or 0
            if count + len(studies) > _MOST_KEPT:
                raise InvalidStudy("out-of-resources", "too many announcements")
            for study_uid in studies:
                connection.execute(
                    insert(announcement).values(
                        uid=uid,
                        study_uid=study_uid,
                        calling_ae=calling_ae,
                        state=state,
                        instances=named,
                        created_at=now,
                        changed_at=now,
                    )
                )
                if urgency is not None:
                    priority.tell(connection, self._site, study_uid, priority.STEP, urgency)
        for study_uid in studies:
            log.info("announced, %s: study %s", state, self._site.study_key(study_uid))

    def _set(self, uid: str, calling_ae: str, state: str | None, named: list[str] | None) -> None:
        with _kept(), self._site.database.write() as connection:
            rows = connection.execute(select(announcement).where(announcement.c.uid == uid)).all()
            if not rows:
                raise InvalidStudy("unknown", "no such procedure step")
            if rows[0].calling_ae != calling_ae:
                raise InvalidStudy("not-authorised", "another one's procedure step")
            if rows[0].state != "in progress":
                raise InvalidStudy("final", "the procedure step has ended")
            if state == "completed" and named is None and not rows[0].instances:
                raise InvalidStudy("attribute-missing", "a completed step names its series")
            changes: dict[str, Any] = {"changed_at": time.time()}
            if state is not None:
                changes["state"] = state
            if named is not None:
                changes["instances"] = named
            connection.execute(update(announcement).where(announcement.c.uid == uid).values(**changes))
        for row in rows:
            log.info("announced, %s: study %s", state or "in progress", self._site.study_key(row.study_uid))


def changed(connection: Connection, study_uids: Collection[str]) -> dict[str, float]:
    """When something was told last of each of these studies; those of which nothing was are left out."""
    query = (
        select(announcement.c.study_uid, func.max(announcement.c.changed_at))
        .where(announcement.c.study_uid.in_(study_uids))
        .group_by(announcement.c.study_uid)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def announced(connection: Connection, study_uid: str) -> Announced:
    """What is told of a study, held against what has come of it."""
    rows = connection.execute(
        select(announcement.c.state, announcement.c.instances).where(announcement.c.study_uid == study_uid)
    ).all()
    if not rows:
        return Announced()
    expected = {uid for row in rows if row.state == "completed" for uid in row.instances}
    named = {uid for row in rows for uid in row.instances}
    here = set(
        connection.execute(
            select(instance.c.sop_uid).where(instance.c.study_uid == study_uid, ~instance.c.conflicting)
        ).scalars()
    )
    # a step may have been for several studies, and the PACS names our own results too
    elsewhere = list(expected - here)
    missing = len(elsewhere)
    for start in range(0, len(elsewhere), _TOGETHER):
        some = elsewhere[start : start + _TOGETHER]
        found = select(instance.c.sop_uid).where(instance.c.sop_uid.in_(some))
        ours = select(delivery.c.sop_uid).where(delivery.c.sop_uid.in_(some))
        missing -= len(connection.execute(found.union(ours)).all())
    return Announced(
        listed=len(expected),
        missing=missing,
        unlisted=len(here - named),
        in_progress=any(row.state == "in progress" for row in rows),
    )


def _begun(attributes: Dataset) -> list[str]:
    """The studies of a step that begins (PS3.4 table F.7.2-1).

    Raises:
        InvalidStudy: it names none, or does not begin.
    """
    status = str(attributes.get("PerformedProcedureStepStatus") or "").strip()
    if not status:
        raise InvalidStudy("attribute-missing", "PerformedProcedureStepStatus")
    if status != "IN PROGRESS":
        raise InvalidStudy("attribute-invalid", "a step begins in progress")
    scheduled = attributes.get("ScheduledStepAttributesSequence") or []
    if not 0 < len(scheduled) <= _MOST_STUDIES:
        raise InvalidStudy("attribute-missing", "ScheduledStepAttributesSequence")
    return list(dict.fromkeys(_uid(item, "StudyInstanceUID") for item in scheduled))


def _urgency(attributes: Dataset) -> Urgency | None:
    """How urgent a step says that it is; the standard has no place for that there, and some say it all the same."""
    said = [priority.stated(one) for one in (attributes, *(attributes.get("ScheduledStepAttributesSequence") or ()))]
    return most_urgent(one for one in said if one) if any(said) else None


def _performed(attributes: Dataset) -> list[str] | None:
    """The instances of the performed series; None where there are no series."""
    series = attributes.get("PerformedSeriesSequence") or []
    named: list[str] = []
    for item in series:
        _uid(item, "SeriesInstanceUID")
        for keyword in ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence"):
            named += (_uid(one, "ReferencedSOPInstanceUID") for one in item.get(keyword) or [])
    return _bounded(named) if series else None


def _available(attributes: Dataset) -> tuple[list[str], list[str]]:
    """Study and available instances of a notification (PS3.4 table R.3.2-1).

    Raises:
        InvalidStudy: it names none.
    """
    study_uid = _uid(attributes, "StudyInstanceUID")
    series = attributes.get("ReferencedSeriesSequence") or []
    if not series:
        raise InvalidStudy("attribute-missing", "ReferencedSeriesSequence")
    named: list[str] = []
    for item in series:
        _uid(item, "SeriesInstanceUID")
        for one in item.get("ReferencedSOPSequence") or []:
            if str(one.get("InstanceAvailability") or "").strip() in ("ONLINE", "NEARLINE"):
                named.append(_uid(one, "ReferencedSOPInstanceUID"))
    return [study_uid], _bounded(named)


def _uid(item: Dataset, keyword: str) -> str:
    value = str(item.get(keyword) or "").strip(" \0")
    if not value:
        raise InvalidStudy("attribute-missing", keyword)
    if not _UID.fullmatch(value):
        raise InvalidStudy("attribute-invalid", keyword)
    return value


def _bounded(named: list[str]) -> list[str]:
    if len(named) > _MOST_INSTANCES:
        raise InvalidStudy("out-of-resources", "too many instances")
    return list(dict.fromkeys(named))


def _same_class(event: evt.Event, sop_class: object) -> None:
    if str(sop_class) != event.context.abstract_syntax:
        raise InvalidStudy("class-mismatch", "of another class than its presentation context")


def _calling(event: evt.Event) -> str:
    return str(event.assoc.requestor.ae_title).strip()[:16]


@contextmanager
def _understood() -> Generator[None]:
    try:
        yield
    except MALFORMED as error:
        raise InvalidStudy("malformed", type(error).__name__) from error


@contextmanager
def _kept() -> Generator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise InvalidStudy("out-of-resources", type(error).__name__) from error


def _refusal(reason: str) -> int | Dataset:
    log.warning("announcement refused: %s", reason)
    if reason != "final":
        return STATUS[reason]
    status = Dataset()
    status.Status = STATUS[reason]
    status.ErrorID = _NO_LONGER_UPDATED
    return status
