"""What became known later: a biopsy, an operation, a follow-up, as another system tells it.

Each statement has a reference of its own there, by which it may come twice, be corrected or be taken back; whatever was
said stays, and the last that was said counts. It is about a study of this hospital, which it names by UID or accession
number, and about a patient, whom it names too: where both do not go together it is refused, for a truth of the wrong
patient would be learned from.
"""

import csv
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, insert, select

from client.review.verdict import Answer, Decision, Mode, TruthTier, Verdict
from client.store import ledger
from client.store.site import Site
from client.store.tables import later_truth, study
from models.errors import InvalidVerdict, VigieError

COLUMNS: Final = ("reference", "study", "accession", "patient", "issuer", "answer", "tier", "date", "finding")
_NEEDED: Final = ("reference", "patient", "answer", "tier", "date")
_TIERS: Final = (TruthTier.FOLLOW_UP, TruthTier.BIOPSY)
RETRACTED: Final = "retracted"
Source = Literal["csv", "hl7", "fhir"]
_LONGEST: Final = 200


@dataclass(frozen=True, slots=True)
class Statement:
    """What another system says of a study.

    Attributes:
        reference: of the statement there, unique among all that are brought in.
        study, accession: of the study; one of them is enough.
        patient, issuer: PatientID and who has issued it.
        answer: positive, negative, not_assessable; or retracted: what was said under this reference does not count.
        tier: follow_up or biopsy.
        date: when it was found, YYYY-MM-DD.
        finding: SCHEME:VALUE of what it is about, e.g. SCT:263654008; empty: of whatever the study was read for.
        corrects: it may take the place of what was said before under this reference.
    """

    reference: str
    study: str
    accession: str
    patient: str
    issuer: str
    answer: str
    tier: str
    date: str
    finding: str
    corrects: bool = True

    @property
    def at(self) -> float:
        """When it was found, seconds since the epoch.

        Raises:
            ValueError: that is no date.
        """
        return datetime.strptime(self.date, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()


@dataclass(frozen=True, slots=True)
class Refusal:
    """A statement that was not taken in."""

    place: str
    why: str


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of some statements.

    Attributes:
        new, changed, known: how many were not here, said something else before, and said the same.
    """

    new: int
    changed: int
    known: int
    refused: tuple[Refusal, ...]


def read_csv(path: Path) -> Iterator[tuple[str, Statement]]:
    """The statements of a CSV file with a header, each with where it stands.

    Raises:
        InvalidVerdict: it is no such file.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            missing = [name for name in _NEEDED if name not in (rows.fieldnames or ())]
            if missing or not {"study", "accession"} & set(rows.fieldnames or ()):
                raise InvalidVerdict(
                    f"{path} lacks the column {(missing or ['study, or accession'])[0]}; there may be"
                    f" {', '.join(COLUMNS)}"
                )
            for row in rows:
                yield f"line {rows.line_num}", _statement(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidVerdict(f"{path} cannot be read as CSV in UTF-8: {error}") from error


def take(site: Site, statements: Iterable[tuple[str, Statement | Refusal]], source: Source, by: str) -> Taken:
    """Take statements in, each on its own: one that is refused keeps no other back. The same again changes nothing.

    Args:
        statements: each with where it stands, for whoever has to mend it; or why it could not be read as one.
        by: who brings them in.
    """
    counts = {"new": 0, "changed": 0, "known": 0}
    refused: list[Refusal] = []
    for place, statement in statements:
        if isinstance(statement, Refusal):
            refused.append(statement)
            continue
        try:
            counts[_take(site, statement, source, by)] += 1
        except (VigieError, ValueError) as error:
            refused.append(Refusal(place, str(error)))
    return Taken(**counts, refused=tuple(refused))


def standing(connection: Connection, study_uid: str = "") -> list[Row[Any]]:
    """The last that was said under each reference, where it was not taken back; oldest first.

    Args:
        study_uid: of this study alone.
    """
    query = select(later_truth).order_by(later_truth.c.id)
    if study_uid:
        query = query.where(later_truth.c.study_uid == study_uid)
    last = {row.reference: row for row in connection.execute(query)}
    return [row for row in last.values() if row.answer != RETRACTED]


def by_study(connection: Connection) -> dict[str, list[Row[Any]]]:
    """`standing`, by the study's UID."""
    found: dict[str, list[Row[Any]]] = {}
    for row in standing(connection):
        found.setdefault(row.study_uid, []).append(row)
    return found


def concerns(said: Row[Any], finding: tuple[str, str] | None) -> bool:
    """Whether a statement is about what a version looks for (scheme and value; None: nobody knows)."""
    return not said.finding or (finding is not None and said.finding == ":".join(finding))


def as_verdict(said: Row[Any], present: Any) -> Verdict:
    """A statement as a word on a study's present outcome (a row), to be weighed with the readers'."""
    answer = Answer(said.answer)
    right = answer is (Answer.POSITIVE if present.positive else Answer.NEGATIVE)
    return Verdict(
        id=said.id,
        study_uid=said.study_uid,
        outcome_id=present.outcome_id,
        revision=present.revision,
        reader=f"{said.source} {said.reference}",
        decision=Decision.AGREE if right else Decision.CORRECT,
        answer=answer,
        tier=TruthTier(said.tier),
        mode=Mode.SECOND_READER,
        reason=None,
        at=said.at,
    )


def history(site: Site, study_uid: str) -> list[Row[Any]]:
    """All that was ever said of a study, oldest first."""
    query = select(later_truth).where(later_truth.c.study_uid == study_uid).order_by(later_truth.c.id)
    with site.database.read() as connection:
        return list(connection.execute(query).all())


def _statement(row: Mapping[str, str | None]) -> Statement:
    values = {name: (row.get(name) or "").strip() for name in COLUMNS}
    return Statement(**values, corrects=True)


def _take(site: Site, said: Statement, source: str, by: str) -> str:
    _check(said)
    with site.database.write() as connection:
        uid = _study_of(site, connection, said)
        query = select(later_truth).where(later_truth.c.reference == said.reference).order_by(later_truth.c.id.desc())
        before = connection.execute(query).all()
        values = {"study_uid": uid, "finding": said.finding, "answer": said.answer, "tier": said.tier, "at": said.at}
        if not before and said.answer == RETRACTED:
            raise InvalidVerdict(f"nothing was said under the reference {said.reference!r} that could be retracted")
        if before and before[0].study_uid != uid:
            raise InvalidVerdict(f"the reference {said.reference!r} is about another study here: it cannot move")
        same = [{name: getattr(row, name) for name in values} == values for row in before]
        if any(same[:1]):
            return "known"
        if any(same):  # an old file again, most likely
            raise InvalidVerdict("it was said before, and corrected since: if it holds again, give it that day's date")
        added = {"reference": said.reference, "source": source, "by": by, "imported_at": time.time()}
        if before and not said.corrects:  # most likely it was sent before what is known here, and comes late
            raise InvalidVerdict("something else is known under this reference, and this is not marked as a correction")
        connection.execute(insert(later_truth).values(**values, **added))
        ledger.append(
            connection,
            "truth.imported",
            {
                "study": site.study_key(uid),
                "reference": site.reference_key(said.reference),
                "answer": said.answer,
                "tier": said.tier,
                "source": source,
                "by": by,
            },
        )
    return "changed" if before else "new"


def _check(said: Statement) -> None:
    for name in _NEEDED:
        if not getattr(said, name):
            raise InvalidVerdict(f"{name} is empty")
    if any(len(getattr(said, name)) > _LONGEST for name in COLUMNS):
        raise InvalidVerdict(f"a value is longer than {_LONGEST} characters")
    if said.answer not in (*Answer, RETRACTED):
        raise InvalidVerdict(f"answer {said.answer!r}: {', '.join((*Answer, RETRACTED))}")
    if said.tier not in _TIERS:
        raise InvalidVerdict(f"tier {said.tier!r}: {', '.join(_TIERS)}")
    if said.finding and not all(said.finding.partition(":")[::2]):
        raise InvalidVerdict(f"finding {said.finding!r}: SCHEME:VALUE, e.g. SCT:263654008")
    try:
        found = said.at
    except ValueError:
        raise InvalidVerdict(f"date {said.date!r}: YYYY-MM-DD") from None
    if found > time.time() + 86400:
        raise InvalidVerdict(f"date {said.date!r} is still to come")


def _study_of(site: Site, connection: Connection, said: Statement) -> str:
    """The UID of the study that a statement is about."""
    if not said.study and not said.accession:
        raise InvalidVerdict("neither study nor accession is given")
    query = select(study.c.uid, study.c.patient_key)
    if said.study:
        query = query.where(study.c.uid == said.study)
    if said.accession:
        query = query.where(study.c.accession == said.accession)
    found: Sequence[Any] = connection.execute(query).all()
    if not found:
        raise InvalidVerdict("no such study is here")
    key = site.patient_key(said.patient, said.issuer)
    own = [row.uid for row in found if row.patient_key == key]
    if not own:
        raise InvalidVerdict("the study here is of another patient, or the issuer of the identifier differs")
    if len(own) > 1:
        raise InvalidVerdict(f"{len(own)} studies here have this accession number: name the study")
    return str(own[0])
