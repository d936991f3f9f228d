"""All that a version has touched here: every study that it read, refused to read, or read in shadow.

It is read from the outcomes, row by row, and what the version concluded is counted against the ledger, which no
restored backup and no deleted row can change unseen; what it read in shadow the ledger does not have, and a study on
which it failed names no version. The list names patients: it stays in the hospital.
"""

import csv
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, literal, null, or_, select, union_all

from client.store.site import Site
from client.store.tables import delivery, ledger, outcome, patient, shadow, study, verdict
from models.errors import ConfigurationError

How = Literal["read", "refused", "shadow"]
COLUMNS: Final = (
    "patient",
    "issuer",
    "accession",
    "study",
    "revision",
    "at",
    "how",
    "said",
    "score",
    "threshold",
    "sent_to_pacs",
    "answered_by_readers",
    "replaced",
)
_ROWS: Final = 10_000  # at a time
_AT_THE_PACS: Final = ("sent", "committed")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Touched:
    """One study that the version touched; of a study that was read again, each time.

    Attributes:
        how: read, refused (it should have read it), or shadow (nobody was shown what it said).
        said: positive or negative; None where it was not read.
        at: seconds since the epoch.
        sent: its report is at the PACS.
        answered: a reader has answered what was said.
        replaced: the study was read again since.
    """

    patient_id: str
    issuer: str
    accession: str
    study_uid: str
    revision: int
    at: float
    how: How
    said: bool | None
    score: float | None
    threshold: float | None
    sent: bool
    answered: bool
    replaced: bool


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look-back found.

    Attributes:
        rows: of the list.
        studies, patients: each once; whoever is named nowhere is a patient for each study.
        in_ledger: conclusions of the version's that the ledger has; None where a part of the time was asked for.
        concluded: how many of the rows are such conclusions.
    """

    rows: int
    studies: int
    patients: int
    concluded: int
    in_ledger: int | None

    @property
    def complete(self) -> bool:
        """Whether list and ledger agree, as far as that can be told."""
        return self.in_ledger is None or self.in_ledger == self.concluded


def touched(connection: Connection, digest: str, since: float = 0.0, until: float | None = None) -> Iterator[Touched]:
    """What a version touched, by patient, then in the order of time."""
    query = _query(digest, since, until).order_by("patient_id", "issuer", "unnamed", "at", "number")
    rows = connection.execution_options(yield_per=_ROWS).execute(query)
    for row in rows:
        yield Touched(
            row.patient_id or "",
            row.issuer or "",
            row.accession or "",
            row.study_uid,
            row.revision,
            row.at,
            row.how,
            None if row.said is None else bool(row.said),
            row.score,
            row.threshold,
            bool(row.sent),
            bool(row.answered),
            bool(row.replaced),
        )


def export(site: Site, digest: str, path: Path, since: float = 0.0, until: float | None = None) -> Looked:
    """Write the list into a new CSV file, whole or not at all, and count it against the ledger.

    Raises:
        ConfigurationError: the file is there already, or cannot be written.
    """
    part = path.with_name(path.name + ".part")
    if path.exists():
        raise ConfigurationError(f"{path} is there already: name another file")
    try:
        with part.open("w", newline="", encoding="utf-8") as file, site.database.read() as connection:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            found = _written(writer, connection, digest, since, until)
        part.rename(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    site.ledger.append("version.looked-back", {"digest": digest, "rows": found.rows, "patients": found.patients})
    return found


def _written(writer: Any, connection: Connection, digest: str, since: float, until: float | None) -> Looked:
    rows = studies = patients = concluded = 0
    last_patient: tuple[str, str] | None = None
    of_patient = set[str]()
    for one in touched(connection, digest, since, until):
        rows += 1
        concluded += one.how != "shadow"
        whose = (one.patient_id or one.study_uid, one.issuer)
        if whose != last_patient:
            last_patient = whose
            patients += 1
            studies += len(of_patient)
            of_patient = set[str]()
        of_patient.add(one.study_uid)
        writer.writerow(_cells(one))
    whole = since <= 0 and until is None
    in_ledger = _in_ledger(connection, digest) if whole else None
    return Looked(rows, studies + len(of_patient), patients, concluded, in_ledger)


def _cells(one: Touched) -> tuple[object, ...]:
    said = "" if one.said is None else "positive" if one.said else "negative"
    when = time.strftime("%Y-%m-%d %H:%M:%S%z", time.localtime(one.at))
    names = (_plain(one.patient_id), _plain(one.issuer), _plain(one.accession), one.study_uid, one.revision)
    marks = ("yes" if mark else "no" for mark in (one.sent, one.answered, one.replaced))
    return (*names, when, one.how, said, one.score, one.threshold, *marks)


def _plain(text: str) -> str:
    """What a spreadsheet shows and does not compute."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _query(digest: str, since: float, until: float | None) -> Select[Any]:
    def within(at: ColumnElement[float]) -> list[ColumnElement[bool]]:
        return [at >= since, *([] if until is None else [at < until])]

    own = select(
        outcome.c.id.label("number"),
        outcome.c.study_uid,
        outcome.c.revision,
        outcome.c.created_at.label("at"),
        func.iif(outcome.c.kind == "scored", "read", "refused").label("how"),
        outcome.c.positive.label("said"),
        outcome.c.score,
        outcome.c.threshold,
        exists()
        .where(delivery.c.outcome_id == outcome.c.id, delivery.c.kind == "sr", delivery.c.state.in_(_AT_THE_PACS))
        .label("sent"),
        exists().where(verdict.c.outcome_id == outcome.c.id).label("answered"),
    ).where(outcome.c.version_digest == digest, *within(outcome.c.created_at))
    aside = (
        select(
            outcome.c.id.label("number"),
            outcome.c.study_uid,
            outcome.c.revision,
            shadow.c.created_at.label("at"),
            literal("shadow").label("how"),
            shadow.c.positive.label("said"),
            shadow.c.score,
            shadow.c.threshold,
            null().label("sent"),
            null().label("answered"),
        )
        .join(outcome, outcome.c.id == shadow.c.outcome_id)
        .where(shadow.c.version_digest == digest, *within(shadow.c.created_at))
    )
    both = union_all(own, aside).subquery()
    return (
        select(
            both,
            study.c.accession,
            patient.c.patient_id,
            patient.c.issuer,
            func.iif(patient.c.patient_id.is_(None), both.c.study_uid, "").label("unnamed"),
            or_(both.c.revision < study.c.revision, study.c.state.in_(("queued", "receiving"))).label("replaced"),
        )
        .join(study, study.c.uid == both.c.study_uid)
        .outerjoin(patient, patient.c.key == study.c.patient_key)
    )


def _in_ledger(connection: Connection, digest: str) -> int:
    named = ledger.c.facts.like(f'%"version":"{digest}"%')
    events = ledger.c.event.in_(("outcome.scored", "outcome.refused"))
    return int(connection.execute(select(func.count()).where(and_(events, named))).scalar_one())
