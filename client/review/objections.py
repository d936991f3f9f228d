"""A patient's objection to the reuse of their images; it holds from the next round on, known here or not."""

import time

from sqlalchemy import insert, select, update

from client.store.ledger import append
from client.store.site import Site
from client.store.tables import patient
from models.errors import NotFound


def object_to_reuse(site: Site, patient_id: str, issuer: str = "") -> None:
    """Note an objection, also of a patient whose first image is yet to come."""
    _set(site, patient_id, issuer, objects=True)


def withdraw_objection(site: Site, patient_id: str, issuer: str = "") -> None:
    """Take an objection back.

    Raises:
        NotFound: no such patient is known.
    """
    _set(site, patient_id, issuer, objects=False)


def _set(site: Site, patient_id: str, issuer: str, *, objects: bool) -> None:
    key = site.patient_key(patient_id, issuer)
    with site.database.write() as connection:
        row = connection.execute(select(patient.c.objects_to_reuse).where(patient.c.key == key)).first()
        if row is None and not objects:
            raise NotFound("no such patient here: check identifier and issuer")
        if row is None:
            connection.execute(
                insert(patient).values(
                    key=key,
                    patient_id=patient_id,
                    issuer=issuer,
                    fold=site.fold(patient_id, issuer),
                    objects_to_reuse=True,
                    first_seen=time.time(),
                )
            )
        elif row.objects_to_reuse == objects:
            return
        else:
            connection.execute(update(patient).where(patient.c.key == key).values(objects_to_reuse=objects))
        append(connection, "objection" if objects else "objection.withdrawn", {"patient": key[:16]})
