"""Asks the PACS for the studies of some days that never came here: what was examined while the node was down.

Source: DICOM PS3.4 C.6.2.1 (Study Root, study level).
"""

import datetime
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRootFind  # type: ignore[attr-defined]
from sqlalchemy import select

from client.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from client.dicom.listener import client_tls
from client.dicom.malformed import MALFORMED
from client.dicom.requestor import associate
from client.store.site import Site
from client.store.tables import study
from models.errors import ConfigurationError, NotFound

_ANSWER_SECONDS: Final = 30.0
_MOST: Final = 50_000
_TOGETHER: Final = 500
_PENDING: Final = (0xFF00, 0xFF01)


@dataclass(frozen=True, slots=True)
class Absent:
    """A study that the PACS has and the node was never sent.

    Attributes:
        modalities: as the PACS says; empty where it does not.
    """

    uid: str
    accession: str
    day: str
    modalities: tuple[str, ...]


def absent(site: Site, first: datetime.date, last: datetime.date, modalities: Collection[str]) -> list[Absent]:
    """The studies of these days at the PACS that are not here, the oldest first.

    Args:
        modalities: that the versions of this node read; a study of others only is left out, one whose modalities the
            PACS does not say is not.

    Raises:
        ConfigurationError: the PACS may not be asked.
        NotFound: it does not answer, or not to the end: half a list would be taken for a whole one.
    """
    if not site.config.pacs.query:
        raise ConfigurationError(f"{site.folder / 'site.yaml'}: pacs.query is false, so the PACS may not be asked")
    found = {
        one.uid: one
        for one in _asked(site, f"{first:%Y%m%d}-{last:%Y%m%d}")
        if not one.modalities or not set(modalities).isdisjoint(one.modalities)
    }
    return sorted((found[uid] for uid in found.keys() - _here(site, list(found))), key=lambda one: (one.day, one.uid))


def _asked(site: Site, days: str) -> list[Absent]:
    peer = site.config.pacs
    entity = AE(site.config.ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = _ANSWER_SECONDS
    entity.add_requested_context(StudyRootFind, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    question = Dataset()
    question.QueryRetrieveLevel = "STUDY"
    question.StudyDate = days
    for keyword in ("StudyInstanceUID", "AccessionNumber", "ModalitiesInStudy"):
        setattr(question, keyword, "")
    association = associate(entity, peer.host, peer.port, peer.ae_title, client_tls(site))
    if not association.is_established:
        raise NotFound(f"the PACS does not answer at {peer.ae_title}@{peer.host}:{peer.port}")
    found: list[Absent] = []
    final = None
    for status, answer in association.send_c_find(question, StudyRootFind):
        final = status.get("Status")
        if final in _PENDING and answer is not None:
            found += _read(answer)
            if len(found) > _MOST:
                association.abort()
                raise NotFound(f"the PACS has more than {_MOST} studies of {days}: ask for fewer days")
    if association.is_established:
        association.release()
    if final != 0x0000:
        raise NotFound("the PACS broke off its answer: ask again, or for fewer days")
    return found


def _read(answer: Dataset) -> list[Absent]:
    """One study of the answer; nothing where it names none."""
    try:
        uid = str(answer.get("StudyInstanceUID") or "")
        stated: Any = answer.get("ModalitiesInStudy") or []
        modalities = (stated,) if isinstance(stated, str) else tuple(str(one) for one in stated)
        accession, day = (str(answer.get(keyword) or "") for keyword in ("AccessionNumber", "StudyDate"))
    except MALFORMED:
        return []
    return [Absent(uid, accession, day, modalities)] if uid else []


def _here(site: Site, uids: list[str]) -> set[str]:
    found: set[str] = set()
    with site.database.read() as connection:
        for start in range(0, len(uids), _TOGETHER):
            some = uids[start : start + _TOGETHER]
            found |= set(connection.scalars(select(study.c.uid).where(study.c.uid.in_(some), study.c.state != "prior")))
    return found
