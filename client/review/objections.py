"""A patient's objection to the reuse of their images; it holds from the next round on, known here or not.

Who enters it reads an identifier from a letter or another system: blanks, capital letters and the issuer may not be as
the images have them. So it concerns every patient here with this identifier, of this issuer or of none; without an
issuer, of any. One patient too many who is left out harms nobody. What is entered is kept beside, for a patient whose
first image is yet to come (`client.store.objections`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from client.store.ledger import append
from client.store.objections import same
from client.store.site import Site
from client.store.tables import patient, study
from models.errors import ConfigurationError, NotFound


@dataclass(frozen=True, slots=True)
class Objection:
    """A patient who objects.

    Attributes:
        studies: of theirs that are here; 0: their first image is yet to come, or identifier or issuer are not theirs.
    """

    patient_id: str
    issuer: str
    studies: int


def object_to_reuse(site: Site, patient_id: str, issuer: str = "") -> tuple[Objection, ...]:
    """Note an objection, also of a patient whose first image is yet to come.

    Returns:
        The patients here whom it concerns; where none has a study, whoever entered it should look again at what they
        entered.

    Raises:
        ConfigurationError: no identifier.
    """
    patient_id, issuer = patient_id.strip(), issuer.strip()
    if not patient_id:
        raise ConfigurationError("an objection needs the patient's identifier")
    with site.database.write() as connection:
        concerned = _concerned(connection, patient_id, issuer)
        key = site.patient_key(patient_id, issuer)
        if key not in {row.key for row in concerned}:
            values = {"key": key, "patient_id": patient_id, "issuer": issuer, "fold": site.fold(patient_id, issuer)}
            connection.execute(insert(patient).values(objects_to_reuse=False, first_seen=time.time(), **values))
        for one in {key, *(row.key for row in concerned)}:
            _set(connection, one, objects=True)
    return tuple(one for one in listed(site) if same(one.patient_id, one.issuer, patient_id, issuer))


def withdraw_objection(site: Site, patient_id: str, issuer: str = "") -> None:
    """Take an objection back, for all whom it concerned.

    Raises:
        NotFound: no such patient objects here.
    """
    patient_id, issuer = patient_id.strip(), issuer.strip()
    with site.database.write() as connection:
        concerned = [row.key for row in _concerned(connection, patient_id, issuer) if row.objects_to_reuse]
        if not concerned:
            raise NotFound("no such patient objects here: check identifier and issuer (`vigie site objection list`)")
        for key in concerned:
            _set(connection, key, objects=False)


def listed(site: Site) -> list[Objection]:
    """Who objects."""
    with site.database.read() as connection:
        rows = connection.execute(
            select(patient).where(patient.c.objects_to_reuse).order_by(patient.c.patient_id)
        ).all()
        owners = connection.execute(select(study.c.patient_key)).scalars().all()
    counts: dict[str, int] = {}
    for key in owners:
        counts[key] = counts.get(key, 0) + 1
    return [Objection(row.patient_id, row.issuer, counts.get(row.key, 0)) for row in rows]


def _concerned(connection: Connection, patient_id: str, issuer: str) -> Sequence[Row[Any]]:
    rows: Sequence[Row[Any]] = connection.execute(select(patient)).all()
    return [row for row in rows if same(row.patient_id, row.issuer, patient_id, issuer)]


def _set(connection: Connection, key: str, *, objects: bool) -> None:
    changed = connection.execute(
        update(patient)
        .where(patient.c.key == key, patient.c.objects_to_reuse.is_not(objects))
        .values(objects_to_reuse=objects)
    ).rowcount
    if changed:
        append(connection, "objection" if objects else "objection.withdrawn", {"patient": key[:16]})
