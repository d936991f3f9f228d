"""A clinician's word on a result: what may be said, and how it is kept.

The first half is pure: the closed sets, and `check`, which refuses what contradicts itself. `record` keeps a verdict
with its ledger entry and the documents it makes, all in one transaction; what a withdrawal does to objects that were
not sent yet stands in `client/delivery/standing.py`. History is never overwritten: a later verdict by the same reader
stands in place of theirs, and of several readers the highest truth tier counts, in it the newest.
"""

import io
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Final

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial
from sqlalchemy import Connection, insert, literal_column, or_, select, update

from client.delivery.standing import drop, named
from client.dicom.person import TAGS, Person, differ
from client.results.amend import QUALITY, SAFETY, Opinion, local, verified_as, verify, withdraw
from client.results.result import COMPUTED, ResultObject
from client.review import earlier, lost
from client.review.regrown import measure_again
from client.store.archive import Archive
from client.store.ledger import append
from client.store.site import Site
from client.store.tables import delivery, outcome, recall, study, verdict, version
from models.bundle import label
from models.errors import Conflict, InvalidVerdict, NotFound

log = logging.getLogger(__name__)


class TruthTier(StrEnum):
    """How much a verdict is worth as truth, lowest first; never pooled silently."""

    AI_VISIBLE = "ai_visible"
    REPORT = "report"
    SINGLE_READER = "single_reader"
    BLIND_CONSENSUS = "blind_consensus"
    FOLLOW_UP = "follow_up"
    BIOPSY = "biopsy"

    @property
    def rank(self) -> int:
        return _RANK[self]


_RANK: Final = {tier: rank for rank, tier in enumerate(TruthTier)}
_SERIES_UID: Final = 0x0020000E
_NAMED: Final = (0x00080016, 0x00080018, _SERIES_UID)
_TAKEN_BACK: Final = ("withdrawn", "already_withdrawn")
_BLIND: Final = (TruthTier.SINGLE_READER, TruthTier.BLIND_CONSENSUS)


class Decision(StrEnum):
    """Agree with the AI, correct its answer, or reject its result so that it is withdrawn."""

    AGREE = "agree"
    CORRECT = "correct"
    REJECT = "reject"


class Answer(StrEnum):
    """What is on the image, whatever the AI said."""

    POSITIVE = "positive"
    NEGATIVE = "negative"
    NOT_ASSESSABLE = "not_assessable"


class Mode(StrEnum):
    """Who read first."""

    AI_FIRST = "ai_first"
    DOCTOR_FIRST = "doctor_first"
    SECOND_READER = "second_reader"


class Reason(StrEnum):
    """Why a clinician departs from the AI."""

    SUBTLE = "subtle"
    OVERLAP = "overlap"
    ARTEFACT = "artefact"
    OLD_CHANGE = "old_change"
    OTHER_DISEASE = "other_disease"
    IMAGE_QUALITY = "image_quality"
    WRONG_PLACE = "wrong_place"
    NOT_INTENDED_USE = "not_intended_use"
    WRONG_PATIENT = "wrong_patient"
    DANGEROUS = "dangerous"
    OTHER = "other"

    @property
    def meaning(self) -> str:
        return _MEANINGS[self]

    @property
    def safety(self) -> bool:
        """Whether a rejection for it is withdrawn for patient safety, not for quality."""
        return self in (Reason.WRONG_PATIENT, Reason.DANGEROUS)


_MEANINGS: Final = {
    Reason.SUBTLE: "Subtle or small finding",
    Reason.OVERLAP: "Overlapping anatomy",
    Reason.ARTEFACT: "Artefact, device or foreign body",
    Reason.OLD_CHANGE: "Old or post-operative change",
    Reason.OTHER_DISEASE: "Another disease explains it",
    Reason.IMAGE_QUALITY: "Positioning, exposure or motion",
    Reason.WRONG_PLACE: "The map points to the wrong place",
    Reason.NOT_INTENDED_USE: "Not an image for this AI",
    Reason.WRONG_PATIENT: "Wrong patient or wrong study",
    Reason.DANGEROUS: "Dangerous if believed",
    Reason.OTHER: "Another reason",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One verdict as it is kept."""

    id: int
    study_uid: str
    outcome_id: int
    revision: int
    reader: str
    decision: Decision
    answer: Answer
    tier: TruthTier
    mode: Mode
    reason: Reason | None
    at: float


def check(
    positive: bool, decision: Decision, answer: Answer, tier: TruthTier, reason: Reason | None, mode: Mode
) -> None:
    """Refuse a verdict that contradicts itself or the AI's answer it is about.

    Args:
        positive: what the AI said.

    Raises:
        InvalidVerdict: as said, with what to do instead.
    """
    said = Answer.POSITIVE if positive else Answer.NEGATIVE
    opposite = Answer.NEGATIVE if positive else Answer.POSITIVE
    if decision is Decision.AGREE and answer is not said:
        raise InvalidVerdict(f"the AI said {said}: to answer {answer}, correct or reject it")
    if decision is Decision.CORRECT and answer is not opposite:
        raise InvalidVerdict(
            f"the AI said {said}: a correction answers {opposite}; to answer {answer}, " + _instead(answer)
        )
    if decision is Decision.AGREE and reason is not None:
        raise InvalidVerdict("agreement takes no reason")
    if decision is not Decision.AGREE and reason is None:
        raise InvalidVerdict(f"to {decision} the AI needs a reason, one of {', '.join(Reason)}")
    if tier in _BLIND and mode is Mode.AI_FIRST:
        raise InvalidVerdict(f"tier {tier} is read with the AI hidden: its mode cannot be {mode}")
    if tier is TruthTier.AI_VISIBLE and mode is Mode.DOCTOR_FIRST:
        raise InvalidVerdict(f"tier {tier} is read with the AI in view: its mode cannot be {mode}")


def _instead(answer: Answer) -> str:
    return "reject it" if answer is Answer.NOT_ASSESSABLE else "agree with it"


def record(
    site: Site,
    study_uid: str,
    reader: str,
    *,
    revision: int,
    decision: Decision,
    answer: Answer,
    tier: TruthTier,
    reason: Reason | None = None,
    mode: Mode | None = None,
) -> Verdict:
    """Keep a verdict, its trace and the documents it makes, or none of them.

    The same verdict given twice in a row by the same reader (a double click) is one verdict.

    Args:
        reader: name of an admitted clinician.
        revision: of the study that the reader has seen the result of.
        mode: by default, AI first; with the tiers that are read blind, doctor first.

    Raises:
        NotFound: no such study.
        Conflict: it has no result that may be answered so, or a newer one than the reader has seen.
        InvalidVerdict: see `check`.
    """
    mode = mode or (Mode.DOCTOR_FIRST if tier in _BLIND else Mode.AI_FIRST)
    with site.database.write() as connection:
        present = _present(connection, study_uid, revision, decision, reader)
        gone = _taken_back(connection, present.id)
        if gone and not _bereft(connection, present.id):
            raise Conflict("the version that said this was recalled, and the result withdrawn")
        check(bool(present.positive), decision, answer, tier, reason, mode)
        given = connection.execute(
            select(verdict).where(verdict.c.outcome_id == present.id).order_by(verdict.c.id)
        ).all()
        mine = [row for row in given if row.reader == reader]
        new = {
            "decision": str(decision),
            "answer": str(answer),
            "tier": str(tier),
            "mode": str(mode),
            "reason": str(reason or ""),
        }
        same = bool(mine) and {key: getattr(mine[-1], key) for key in new} == new
        if same and not earlier.doubted(connection, mine[-1].id):
            return read(mine[-1], revision)
        at = time.time()
        values = {"study_uid": study_uid, "outcome_id": present.id, "reader": reader, "created_at": at, **new}
        inserted = connection.execute(insert(verdict).values(**values)).inserted_primary_key
        number = int(inserted[0]) if inserted else 0
        kept = Verdict(number, study_uid, present.id, revision, reader, decision, answer, tier, mode, reason, at)
        # what was taken back with its image has nothing in the PACS any more that a document could be on
        documents = [] if gone else _documents(site, connection, kept, [read(row, revision) for row in given])
        for outcome_id, document in documents:
            if document.kind == "kos":
                drop(connection, named(document.content), "it was withdrawn")
            digest = _archive(site.archive).store(document.content)
            connection.execute(
                insert(delivery).values(
                    sop_uid=document.sop_uid, outcome_id=outcome_id, kind=document.kind, sha256=digest, state="pending"
                )
            )
        if kept.decision is Decision.REJECT and kept.reason is Reason.WRONG_PATIENT:
            measure_again(connection, site, [study_uid])
        own = [document.sop_uid for outcome_id, document in documents if outcome_id == present.id]
        others = [document.sop_uid for outcome_id, document in documents if outcome_id != present.id]
        append(
            connection,
            "verdict",
            {
                "study": site.study_key(study_uid),
                "revision": revision,
                "version": present.version_digest,
                "verdict": kept.id,
                "document": own[0] if own else None,
                **({"withdrawal": own[1]} if own[1:] else {}),
                **({"of_another_patient": ",".join(others)} if others else {}),
                **new,
            },
        )
    return kept


def remake_document(site: Site, sop_uid: str) -> None:
    """Make the document of a verdict anew that could not be sent, under its own UID, and queue it.

    Raises:
        NotFound: no such delivery.
        Conflict: it is not put aside, or no verdict made it.
    """
    with site.database.write() as connection:
        row = connection.execute(select(delivery).where(delivery.c.sop_uid == sop_uid)).first()
        if row is None:
            raise NotFound("no such delivery")
        if row.state not in ("failed", "quarantined"):
            raise Conflict(f"the delivery is {row.state}: only one that was put aside is made anew")
        of_study = select(outcome.c.study_uid).where(outcome.c.id == row.outcome_id).scalar_subquery()
        rows = connection.execute(select(verdict).where(verdict.c.study_uid == of_study).order_by(verdict.c.id)).all()
        given = [read(one, 0) for one in rows]
        made = (
            document
            for number, one in enumerate(given)
            for _, document in _documents(
                site, connection, one, [before for before in given[:number] if before.outcome_id == one.outcome_id]
            )
        )
        document = next((item for item in made if item.sop_uid == sop_uid), None)
        if document is None:
            raise Conflict("no verdict made this document")
        digest = _archive(site.archive).store(document.content)
        connection.execute(
            update(delivery)
            .where(delivery.c.sop_uid == sop_uid)
            .values(sha256=digest, state="pending", attempts=0, not_before=0.0, problem="")
        )
        append(connection, "delivery.remade", {"object": sop_uid, "sha256": digest})


def read(row: Any, revision: int) -> Verdict:
    """A row of the verdict table."""
    return Verdict(
        row.id,
        row.study_uid,
        row.outcome_id,
        revision,
        row.reader,
        Decision(row.decision),
        Answer(row.answer),
        TruthTier(row.tier),
        Mode(row.mode),
        Reason(row.reason) if row.reason else None,
        row.created_at,
    )


def standing(verdicts: list[Verdict]) -> list[Verdict]:
    """Each reader's last verdict, the one that counts first: highest tier, in it the newest."""
    last = {given.reader: given for given in sorted(verdicts, key=lambda given: given.id)}
    return sorted(last.values(), key=lambda given: (given.tier.rank, given.id), reverse=True)


def history(connection: Connection, study_uid: str) -> list[Verdict]:
    """All verdicts on a study, on every revision, oldest first."""
    query = (
        select(verdict, outcome.c.revision)
        .join(outcome, outcome.c.id == verdict.c.outcome_id)
        .where(verdict.c.study_uid == study_uid)
        .order_by(verdict.c.id)
    )
    return [read(row, row.revision) for row in connection.execute(query)]


@dataclass(frozen=True, slots=True)
class Answerable:
    """A result of a study that a reader may say something of.

    Attributes:
        text: what it said, in words.
        decisions: that may be taken on it.
        earlier: it is no result of the study as it is now.
    """

    outcome_id: int
    revision: int
    positive: bool
    text: str
    decisions: tuple[Decision, ...]
    earlier: bool


def answerable(connection: Connection, study_uid: str, reader: str) -> list[Answerable]:
    """What a reader may answer of a study: its present result; of one that is not read as it is now, the one before.

    This is the one rule of what may be judged. Of the latter nobody is to sign that nothing was found, for there are
    images that nobody has read, but whatever it said may be rejected; and who has signed it before images of another
    patient came may say so again, after a look at whose it is. A rejection of a finding can be taken back by another
    answer. A reader whose signature stands under what was recalled may reject that, too.
    """
    row = connection.execute(select(study.c.state, study.c.revision).where(study.c.uid == study_uid)).first()
    if row is None:
        raise NotFound("no such study here")
    asked = (
        select(outcome, version.c.name, version.c.number, version.c.form_of)
        .join(study, study.c.uid == outcome.c.study_uid)
        .outerjoin(version, version.c.digest == outcome.c.version_digest)
        .where(study.c.uid == study_uid, outcome.c.kind == "scored")
    )
    every = tuple(Decision)
    present = asked.where(study.c.state == "scored", outcome.c.revision == row.revision)
    found = [_answerable(one, every) for one in connection.execute(present)]
    if row.state not in earlier.JUDGED_IN or row.revision == 1:
        return found
    before = asked.where(or_(outcome.c.id == earlier.last(), outcome.c.id.in_(earlier.findings())))
    found += [
        _answerable(one, _of_an_earlier(connection, one, reader), earlier=True)
        for one in connection.execute(before.order_by(outcome.c.id.desc()))
    ]
    if row.state == "scored":
        return found  # whoever signed what was recalled answers the present result
    to_signer = select(recall.c.outcome_id).where(recall.c.action == "to_signer")
    signed = [
        _answerable(one, (Decision.REJECT,), earlier=True)
        for one in connection.execute(asked.where(outcome.c.id.in_(to_signer)).order_by(outcome.c.id.desc()))
        if _signs(connection, one.id, reader)
    ]
    return found + [one for one in signed if one.outcome_id not in {known.outcome_id for known in found}]


def _answerable(row: Any, decisions: tuple[Decision, ...], *, earlier: bool = False) -> Answerable:
    by = label(row.name, row.number, row.form_of is not None)
    said = f"{'positive' if row.positive else 'negative'}, {row.score:.2f} ({by})"
    return Answerable(row.id, row.revision, bool(row.positive), said, decisions, earlier)


def _taken_back(connection: Connection, outcome_id: int) -> bool:
    query = select(recall.c.outcome_id).where(recall.c.outcome_id == outcome_id, recall.c.action.in_(_TAKEN_BACK))
    return connection.execute(query).first() is not None


def _bereft(connection: Connection, outcome_id: int) -> bool:
    query = select(outcome.c.id).where(outcome.c.id == outcome_id, earlier.bereft(outcome))
    return connection.execute(query).first() is not None


def _of_an_earlier(connection: Connection, row: Any, reader: str) -> tuple[Decision, ...]:
    if not row.positive:
        return _of_a_negative(connection, row, reader)
    return (Decision.REJECT,) if _bereft(connection, row.id) else tuple(Decision)


def _of_a_negative(connection: Connection, row: Any, reader: str) -> tuple[Decision, ...]:
    """What a reader may say of an earlier result that nothing was found by."""
    again = earlier.in_doubt(connection, row.id) and _signs(connection, row.id, reader)
    return (Decision.AGREE, Decision.REJECT) if again else (Decision.REJECT,)


def _signs(connection: Connection, outcome_id: int, reader: str) -> bool:
    query = select(verdict.c.decision).where(verdict.c.outcome_id == outcome_id, verdict.c.reader == reader)
    last = connection.execute(query.order_by(verdict.c.id.desc()).limit(1)).scalar()
    return last is not None and last != Decision.REJECT


def _present(connection: Connection, study_uid: str, revision: int, decision: Decision, reader: str) -> Any:
    found = answerable(connection, study_uid, reader)
    if not found:
        state = connection.execute(select(study.c.state).where(study.c.uid == study_uid)).scalar()
        raise Conflict(f"the study is {state}: there is no result to judge")
    meant = next((one for one in found if one.revision == revision), None)
    if meant is None:
        raise Conflict(f"revision {revision} is superseded: look at revision {found[0].revision} first")
    if decision not in meant.decisions:
        raise Conflict(f"images came that were not read: the result of revision {revision} can only be rejected")
    return connection.execute(select(outcome).where(outcome.c.id == meant.outcome_id)).one()


def _documents(
    site: Site, connection: Connection, given: Verdict, before: Sequence[Verdict]
) -> list[tuple[int, ResultObject]]:
    """The verified report or the withdrawal, and of which outcome; none where the result was never made an object of.

    Where a finding that was outlined is called absent, both: the report takes the place of the first one, and what was
    drawn of nothing is withdrawn. What the reader signed of earlier results of the study is replaced by the report, or
    withdrawn with the result; where that names another patient, it is withdrawn under whom it names.

    Args:
        before: the verdicts on the same result before this one, oldest first.
    """
    made = connection.execute(
        select(delivery.c.kind, delivery.c.sop_uid, delivery.c.sha256)
        .where(delivery.c.outcome_id == given.outcome_id, delivery.c.kind.in_(COMPUTED))
        .order_by(literal_column("rowid"))
    ).all()
    report = next((row for row in made if row.kind == "sr"), None)
    if report is None:
        return []
    archive = _archive(site.archive)
    first = _report(site, connection, archive, given, report.sha256, [tuple(row) for row in made])
    positive = None if given.answer is Answer.NOT_ASSESSABLE else given.answer is Answer.POSITIVE
    facts = [
        (local("DECISION", "Reader's decision"), local(given.decision, given.decision.capitalize())),
        (local("ANSWER", "Reader's answer"), local(given.answer, given.answer.capitalize().replace("_", " "))),
        (local("TIER", "Truth tier"), local(given.tier, given.tier.capitalize().replace("_", " "))),
    ]
    if given.reason is not None:
        facts.append((local("REASON", "Reason"), local(given.reason, given.reason.meaning)))
    opinion = Opinion(given.reader, site.config.institution, given.at, positive, tuple(facts), len(before) + 1)
    signed = _signed_by(connection, archive, given)
    of_this = [one.number for one in signed if one.outcome_id == given.outcome_id]
    of_others = [one.names for one in signed if one.outcome_id != given.outcome_id and not one.another]
    elsewhere = _of_another(site, given, [one for one in signed if one.another])
    drawn = any(row.kind == "seg" for row in made)
    documents: list[tuple[int, ResultObject]] = []
    if given.decision is not Decision.REJECT:
        gone = (
            [row.sop_uid for row in made if row is not report] if any(_withdraws(one, drawn) for one in before) else []
        )
        documents.append((given.outcome_id, verify(first, opinion, gone, of_this, of_others)))
        if not _withdraws(given, drawn):
            return documents + elsewhere
        made = [row for row in made if row is not report]
    objects = named_by(archive, first, [(row.sop_uid, row.sha256) for row in made])
    title = SAFETY if given.reason is not None and given.reason.safety else QUALITY
    rejected = given.decision is Decision.REJECT
    objects += of_others if rejected else []
    withdrawal = withdraw(first, objects, title, opinion, of_this if rejected else ())
    return [*documents, (given.outcome_id, withdrawal), *elsewhere]


def _report(
    site: Site,
    connection: Connection,
    archive: Archive,
    given: Verdict,
    digest: str,
    made: Sequence[tuple[str, str, str]],
) -> bytes:
    """The report that a verdict is about; of one whose file is lost, what is enough to reject it.

    Raises:
        NotFound: it is lost, and what would be signed cannot be seen any more, or in whose name it was.
    """
    try:
        return archive.read(digest)
    except NotFound:
        row = connection.execute(select(outcome).where(outcome.c.id == given.outcome_id)).one()
        known = lost.report(site, connection, archive, row, made, others=True)
        if given.decision is not Decision.REJECT or known is None:
            raise
        return known


@dataclass(frozen=True, slots=True)
class _Signed:
    """A reader's own report that stands verified.

    Attributes:
        number: of the opinion that made it, on its result.
        first: the unverified report that it took the place of, a Part 10 file.
        names: SOP class, SOP instance and series UID.
        another: it names another patient than the result that is being judged.
    """

    outcome_id: int
    number: int
    first: bytes
    names: tuple[str, str, str]
    another: bool


def _signed_by(connection: Connection, archive: Archive, given: Verdict) -> list[_Signed]:
    """The reader's own reports on the study that stand when a verdict is given, of every revision.

    What another reader signed is theirs to take back. A reader's rejection has withdrawn all of theirs, and an answer
    to a result that names another patient those of the one before.
    """
    said = connection.execute(
        select(verdict.c.id, verdict.c.outcome_id, verdict.c.reader, verdict.c.decision)
        .where(verdict.c.study_uid == given.study_uid, verdict.c.id <= given.id)
        .order_by(verdict.c.id)
    ).all()
    if not any(row.reader == given.reader and row.id != given.id for row in said):
        return []  # as nearly always: a study is judged once
    firsts = _first_reports(connection, archive, {row.outcome_id for row in said if row.reader == given.reader})
    whose = {key: Person.from_dataset(header) for key, (_, header) in firsts.items()}
    nobody = Person()
    count: dict[int, int] = {}
    kept: list[tuple[int, int]] = []
    for row in said:
        count[row.outcome_id] = count.get(row.outcome_id, 0) + 1
        if row.reader != given.reader or row.id == given.id:
            continue
        if row.decision == Decision.REJECT:
            kept = []
            continue
        person = whose.get(row.outcome_id, nobody)
        kept = [one for one in kept if not differ(whose.get(one[0], nobody), person)]
        kept.append((row.outcome_id, count[row.outcome_id]))
    now = whose.get(given.outcome_id, nobody)
    return [
        _Signed(key, number, firsts[key][0], verified_as(firsts[key][1], number), differ(whose[key], now))
        for key, number in kept
        if key in firsts
    ]


def _first_reports(
    connection: Connection, archive: Archive, outcomes: Collection[int]
) -> dict[int, tuple[bytes, Dataset]]:
    """The unverified report of each outcome, with its header; those whose file is lost are left out."""
    rows = connection.execute(
        select(delivery.c.outcome_id, delivery.c.sha256)
        .where(delivery.c.outcome_id.in_(outcomes), delivery.c.kind == "sr")
        .order_by(literal_column("rowid"))
    )
    found: dict[int, tuple[bytes, Dataset]] = {}
    for row in rows:
        if row.outcome_id not in found:
            try:
                content = archive.read(row.sha256)
                header = pydicom.dcmread(io.BytesIO(content), specific_tags=[*_NAMED, *TAGS])
            except (NotFound, OSError, InvalidDicomError) as error:
                log.error("a report that was signed cannot be read: %s", type(error).__name__)
                continue
            found[row.outcome_id] = content, header
    return found


def _of_another(site: Site, given: Verdict, signed: Sequence[_Signed]) -> list[tuple[int, ResultObject]]:
    """The withdrawals of what a reader signed of another patient, each under that patient."""
    why = (local("OTHER_PATIENT", "Reason"), local("OTHER_PATIENT", "The study is another patient's"))
    # numbered apart from the opinions on that result, which count from one, and from a recall
    opinion = Opinion(given.reader, site.config.institution, given.at, None, (why,), -given.id)
    by_outcome: dict[int, list[_Signed]] = {}
    for one in signed:
        by_outcome.setdefault(one.outcome_id, []).append(one)
    return [
        (key, withdraw(ones[0].first, [one.names for one in ones], SAFETY, opinion)) for key, ones in by_outcome.items()
    ]


def _withdraws(given: Verdict, drawn: bool) -> bool:
    """Whether a verdict withdraws what was made beside the report; the report itself goes only with a rejection.

    Args:
        drawn: the version outlined something.
    """
    return given.decision is Decision.REJECT or (drawn and given.answer is Answer.NEGATIVE)


@cache
def _archive(folder: Path) -> Archive:
    return Archive(folder)  # opening one makes its folders


def named_by(archive: Archive, report: bytes, objects: Sequence[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """SOP class, SOP instance and series UID of a result's objects; of one whose file is lost, as the report names it.

    One that is lost and that the report does not name is left out: a withdrawal says what it can, rather than nothing.

    Args:
        report: of the result, a Part 10 file.
        objects: the UID of each, and the digest of its file.
    """
    listed: dict[str, tuple[str, str, str]] | None = None
    found: list[tuple[str, str, str]] = []
    for sop_uid, digest in objects:
        try:
            found.append(names(archive.read(digest)))
        except (NotFound, OSError, AttributeError, InvalidDicomError) as error:
            log.error("the file of a result's object cannot be read: %s", type(error).__name__)
            listed = listed if listed is not None else _evidence(report)
            if sop_uid in listed:
                found.append(listed[sop_uid])
    return found


def _evidence(report: bytes) -> dict[str, tuple[str, str, str]]:
    """By its UID, what a report says it rests on."""
    wanted = ["CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence"]
    header = pydicom.dcmread(io.BytesIO(report), specific_tags=wanted)
    return {
        str(one.ReferencedSOPInstanceUID): (
            str(one.ReferencedSOPClassUID),
            str(one.ReferencedSOPInstanceUID),
            str(series.SeriesInstanceUID),
        )
        for keyword in wanted
        for of_study in header.get(keyword, ())
        for series in of_study.ReferencedSeriesSequence
        for one in series.ReferencedSOPSequence
    }


def names(content: bytes) -> tuple[str, str, str]:
    """SOP class, SOP instance and series UID of an object."""
    header = read_partial(
        io.BytesIO(content),
        stop_when=lambda tag, _vr, _length: tag > _SERIES_UID,  # the content after it is most of a report
        specific_tags=list(_NAMED),
    )
    return str(header.SOPClassUID), str(header.SOPInstanceUID), str(header.SeriesInstanceUID)
