"""Asks the PACS how many images of a study it has, aside from everything else.

An answer is evidence and nothing more: a PACS that is down, slow, or answers nonsense leaves none, and nobody waits for
it. What it counts of our own results is taken off.

Source: DICOM PS3.4 C.6.2 (Study Root, series level), Number of Series Related Instances (0020,1209).
"""

import logging
import threading
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRootFind  # type: ignore[attr-defined]

from client.arrival.completeness import NO_IMAGE
from client.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from client.dicom.listener import client_tls
from client.dicom.requestor import associate
from client.store.site import Site

log = logging.getLogger(__name__)

_ANSWER_SECONDS: Final = 3.0
_DOWN_SECONDS: Final = 30.0
_LINGER_SECONDS: Final = 5.0
_MOST_SERIES: Final = 2000
_MOST_IMAGES: Final = 1_000_000
_MOST_KEPT: Final = 1024
_PENDING: Final = (0xFF00, 0xFF01)


@dataclass(frozen=True, slots=True)
class Count:
    """What the PACS said.

    Attributes:
        images: of the study, our own pictures among them.
        asked_at: seconds since the epoch; what came to us before is held against it.
    """

    images: int
    asked_at: float


class Census:
    """A thread that asks about one study after the other; started on construction, stopped by `close`."""

    def __init__(self, site: Site, answer_seconds: float = _ANSWER_SECONDS) -> None:
        self._site = site
        self._answer_seconds = answer_seconds
        self._lock = threading.Condition()
        self._asked: OrderedDict[str, None] = OrderedDict()
        self._counts: OrderedDict[str, Count] = OrderedDict()
        self._stopped = False
        self._down_until = 0.0
        self._thread = threading.Thread(target=self._run, name="census", daemon=True)
        self._thread.start()

    def ask(self, study_uid: str) -> None:
        """Ask about a study soon, unless the PACS has just not been there; returns at once."""
        with self._lock:
            if time.monotonic() >= self._down_until and len(self._asked) < _MOST_KEPT:
                self._asked[study_uid] = None
                self._lock.notify()

    def count(self, study_uid: str, since: float) -> Count | None:
        """The last answer on a study, where it was asked for after `since` (seconds since the epoch)."""
        with self._lock:
            found = self._counts.get(study_uid)
        return found if found is not None and found.asked_at > since else None

    def close(self) -> None:
        """Stop; a question under way ends by itself, and nobody hears the answer."""
        with self._lock:
            self._stopped = True
            self._lock.notify()
        self._thread.join(self._answer_seconds)

    def _run(self) -> None:
        association: Association | None = None
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._stopped or self._asked, _LINGER_SECONDS)
                if self._stopped:
                    break
                uid = self._asked.popitem(last=False)[0] if self._asked else None
            if uid is None:
                association = _hang_up(association)
                continue
            try:
                if association is None or not association.is_established:
                    association = self._associate()
                self._keep(uid, association)
            except Exception as error:  # noqa: BLE001  # whatever the PACS does, it is no evidence and no harm
                log.warning("the PACS gave no count: %s", type(error).__name__)
                association = _hang_up(association)
                with self._lock:
                    self._asked.clear()
                    self._down_until = time.monotonic() + _DOWN_SECONDS
        _hang_up(association)

    def _keep(self, uid: str, association: Association) -> None:
        asked_at = time.time()
        images = _images(association, uid)
        with self._lock:
            if images is None:
                self._counts.pop(uid, None)
                return
            self._counts[uid] = Count(images, asked_at)
            self._counts.move_to_end(uid)
            while len(self._counts) > _MOST_KEPT:
                self._counts.popitem(last=False)

    def _associate(self) -> Association:
        peer = self._site.config.pacs
        entity = AE(self._site.config.ae_title)
        entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        entity.connection_timeout = entity.acse_timeout = self._answer_seconds
        entity.dimse_timeout = entity.network_timeout = self._answer_seconds
        entity.add_requested_context(StudyRootFind, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        association = associate(entity, peer.host, peer.port, peer.ae_title, client_tls(self._site))
        if not association.is_established:
            raise ConnectionError("the PACS cannot be asked")
        return association


def _images(association: Association, study_uid: str) -> int | None:
    """The sum over the study's series of images; None where an answer does not say.

    Raises:
        ConnectionError: no final answer.
    """
    question = Dataset()
    question.QueryRetrieveLevel = "SERIES"
    question.StudyInstanceUID = study_uid
    question.SeriesInstanceUID = ""
    question.Modality = ""
    question.NumberOfSeriesRelatedInstances = ""
    series: dict[str, int | None] = {}
    final = None
    for status, answer in association.send_c_find(question, StudyRootFind):
        final = status.get("Status")
        if final in _PENDING and answer is not None and len(series) <= _MOST_SERIES:
            series.update(_series(answer, study_uid))
    if final != 0x0000:
        raise ConnectionError("no answer")
    counts = list(series.values())
    if not counts or len(counts) > _MOST_SERIES or None in counts:
        return None
    return sum(count for count in counts if count is not None)


def _series(answer: Dataset, study_uid: str) -> dict[str, int | None]:
    """One series of the answer by its UID, with its images; nothing where it is of another study or no image."""
    try:
        uid = str(answer.get("SeriesInstanceUID") or "")
        other = str(answer.get("StudyInstanceUID") or study_uid) != study_uid
        if not uid or other or str(answer.get("Modality") or "") in NO_IMAGE:
            return {}
        stated: Any = answer.get("NumberOfSeriesRelatedInstances")
        count = int(stated) if stated not in (None, "") else -1
    except (AttributeError, BytesLengthException, LookupError, NotImplementedError, TypeError, ValueError):
        return {"": None}
    return {uid: count if 0 <= count <= _MOST_IMAGES else None}


def _hang_up(association: Association | None) -> None:
    if association is not None and association.is_established:
        with suppress(RuntimeError):  # it ended meanwhile
            association.release()
