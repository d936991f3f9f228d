"""Whether an objection to reuse that was entered is about a patient whom images name."""

from typing import Final

from sqlalchemy import Connection, select

from client.store.tables import patient

_ANY: Final = ""


def same(patient_id: str, issuer: str, entered_id: str, entered_issuer: str) -> bool:
    """Whether both may be the same patient: the identifier is the same but for blanks and capital letters, and so is
    the issuer, where both have one. Pure.
    """
    one, other = _plain(issuer), _plain(entered_issuer)
    return _plain(patient_id) == _plain(entered_id) and (one == other or _ANY in (one, other))


def standing(connection: Connection, patient_id: str, issuer: str) -> bool:
    """Whether somebody who may be this patient, whose first image comes now, has objected."""
    rows = connection.execute(select(patient.c.patient_id, patient.c.issuer).where(patient.c.objects_to_reuse)).all()
    return any(same(patient_id, issuer, row.patient_id, row.issuer) for row in rows)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
