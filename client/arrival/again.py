"""A study of which other images count than did is read again, as whom and what its images name now."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.uid import UID
from pynetdicom.dsutils import split_dataset
from sqlalchemy import Connection, select, update

from client.arrival import priority
from client.arrival.index import enter_patient
from client.arrival.intake import Header, read_header
from client.dicom.malformed import MALFORMED
from client.store import ledger
from client.store.site import Site
from client.store.tables import study
from models.errors import InvalidStudy


@dataclass(frozen=True, slots=True)
class Again:
    """What a person's word on images means for their study.

    Attributes:
        revision: as which it is read again.
        done: `read-again`, `still-coming` (it is read when it is complete), `prior` (it is never read), or `no-image`
            (what was said is of nothing that is read), `not-a-part` (of what the result rests on).
        disowned: outcomes that were taken back, for they name another patient.
    """

    study_uid: str
    revision: int
    done: str
    disowned: int = 0


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom and what a study is of, where all its images agree; None where they do not, or do not say."""

    patient: tuple[str, str] | None = None
    accession: str | None = None


def agreed(said: Iterable[Header]) -> Identity:
    """A study that had its patient from an image that does not count any longer has another one: when all that count
    now name him. Where they name two, reading it refuses, and says so.
    """
    headers = list(said)
    patients = {(one.patient_id, one.issuer) for one in headers if one.patient_id}
    accessions = {one.accession for one in headers if one.accession}
    return Identity(patients.pop() if len(patients) == 1 else None, accessions.pop() if len(accessions) == 1 else None)


def header_of(path: Path) -> Header | None:
    """As the door read it when it came."""
    try:
        meta, offset = split_dataset(path)
        with path.open("rb") as stream:
            stream.seek(offset)
            return read_header(stream, UID(meta.TransferSyntaxUID))
    except (InvalidStudy, *MALFORMED):
        return None


def read_again(connection: Connection, site: Site, uid: str, identity: Identity, *, images: bool) -> Again:
    """Let a study be read as it is now, by the state that it is in; to be called where that changes.

    Args:
        images: some of what changed are images.
    """
    now = time.time()
    row = connection.execute(select(study).where(study.c.uid == uid)).one()
    values: dict[str, Any] = {}
    if identity.patient is not None:
        values["patient_key"] = enter_patient(connection, site, *identity.patient, now)
    if identity.accession is not None:
        values["accession"] = identity.accession
    revision, done = int(row.revision), "read-again"
    if not images:
        done = "no-image"
    elif row.state in ("receiving", "prior"):
        done = "still-coming" if row.state == "receiving" else "prior"
    elif row.state == "queued":
        values |= {"touched_at": now, "attempts": 0}  # what reads it just now has read something else
    else:
        revision += 1
        values |= {"state": "queued", "revision": revision, "attempts": 0, "completed_at": now}
        values["due_at"] = priority.due(site, row)
        facts: dict[str, ledger.Fact] = {"study": site.study_key(uid), "revision": revision}
        ledger.append(connection, "study.reopened", facts)
    if values:
        connection.execute(update(study).where(study.c.uid == uid).values(**values))
    return Again(uid, revision, done)
