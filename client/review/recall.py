"""Takes back what a version has said, every result of it, or what was said of another patient, in the PACS and on the
worklist.

First the version is suspended, so that nothing new is scored with it. Then each of its results, of every revision, is
withdrawn by a key object selection where nobody has signed it, and put before its signer where somebody has: a signed
document is the signer's to amend, not ours to withdraw, also where another reader has rejected what it was made of.
What became of a result is written in the transaction that queues its withdrawal, so that a recall may be interrupted
anywhere and begun again.

Where a person's choice among copies of an image shows that a study is of somebody else, what was said of it before is
taken back alike, under the patient whom it names (`disown`). There what a version made goes also from under a
signature: its signer has the signed report to withdraw, and nothing else. So it is where the images that a result rests
on were rejected (`forsake`).
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, and_, delete, exists, func, insert, or_, select

from client.delivery.standing import drop
from client.dicom.person import Person, differ, person_of
from client.results.amend import QUALITY, SAFETY, Opinion, local, withdraw
from client.results.result import ResultObject
from client.review import lost
from client.review.regrown import measure_again
from client.review.verdict import Decision, Verdict, named_by, read, standing
from client.store import versions
from client.store.archive import Archive
from client.store.ledger import append
from client.store.site import Site
from client.store.tables import delivery, ledger, outcome, recall, study, verdict
from models.coding import Coding
from models.errors import Conflict, NotFound

log = logging.getLogger(__name__)

Action = Literal["withdrawn", "to_signer", "already_withdrawn"]
_TOGETHER: Final = 50
_DOCUMENTS: Final = ("verified", "kos")
_RECALL_NUMBER: Final = 0  # of the opinion: verdicts count from one, so a recall has a document of its own


@dataclass(frozen=True, slots=True)
class Problem:
    """A result that somebody has to look for in the PACS, and why."""

    study_uid: str
    revision: int
    why: str


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What became of a version's results.

    Attributes:
        label: name@number of the version.
        found: its results, of every revision, and its refusals of which the PACS was told.
        withdrawn: by this recall.
        without_document: of these, those of which nothing was withdrawn in the PACS: no object was ever made of them,
            or `problems` say why.
        to_signer: put before whoever has signed them.
        already_withdrawn: a clinician had rejected them before, and nobody's signature stands.
        problems: what the PACS goes on showing, for the withdrawal could not be made, or not of all objects.
    """

    label: str
    found: int
    withdrawn: int
    without_document: int
    to_signer: int
    already_withdrawn: int
    problems: tuple[Problem, ...] = ()

    @property
    def exact(self) -> bool:
        return self.found == self.withdrawn + self.to_signer + self.already_withdrawn


def named(site: Site, text: str) -> versions.HeldVersion:
    """The version with this name@number, or whose digest begins so.

    Raises:
        NotFound: there is none.
        Conflict: there are several.
    """
    held = [
        one for one in versions.listed(site) if text == one.label or (len(text) >= 6 and one.digest.startswith(text))
    ]
    if not held:
        raise NotFound(f"no version {text!r} here: write name@number, or six digits or more of its digest")
    if len(held) > 1:
        raise Conflict(f"{len(held)} versions are called {text!r}: name one by its digest")
    return held[0]


def take_back(
    site: Site, text: str, by: str, *, safety: bool = True, tell: Callable[[int, int], None] = lambda done, found: None
) -> Reconciled:
    """Recall a version; called again, it goes on where it was interrupted, and does nothing twice.

    Args:
        text: name@number or the beginning of the digest.
        by: who recalls it, named in the withdrawals.
        safety: for patient safety, else for quality.
        tell: is told how many results are done, of how many.

    Raises:
        NotFound, Conflict: see `named`.
    """
    held = named(site, text)
    label = held.label
    why = versions.RECALLED_FOR_SAFETY if safety else versions.RECALLED_FOR_QUALITY
    versions.put(site, held.digest, "withdrawn", why)
    archive = Archive(site.archive)
    found, done = _count(site, held.digest), len(_actions(site, held.digest))
    tell(done, found)
    for batch in _remaining(site, held.digest):
        done += _take_back(site, archive, batch, by, label, SAFETY if safety else QUALITY)
        tell(done, found)
    told = reconcile(site, held)
    with site.database.write() as connection:
        of_version = select(outcome.c.study_uid).where(outcome.c.version_digest == held.digest, _spoken())
        measure_again(connection, site, set(connection.execute(of_version).scalars()))
        facts = {"found": told.found, "withdrawn": told.withdrawn, "to_signer": told.to_signer}
        facts["already_withdrawn"] = told.already_withdrawn
        append(connection, "version.recalled", {"digest": held.digest, "version": label, **facts})
    return told


def reconcile(site: Site, held: versions.HeldVersion) -> Reconciled:
    """Count what became of a version's results."""
    actions = _actions(site, held.digest)
    return Reconciled(
        label=held.label,
        found=_count(site, held.digest),
        withdrawn=sum(row.action == "withdrawn" for row in actions),
        without_document=sum(row.action == "withdrawn" and not row.document for row in actions),
        to_signer=sum(row.action == "to_signer" for row in actions),
        already_withdrawn=sum(row.action == "already_withdrawn" for row in actions),
        problems=_problems(site, held.digest),
    )


def _problems(site: Site, digest: str) -> tuple[Problem, ...]:
    """As they were written when the results were taken back."""
    query = select(ledger.c.facts).where(ledger.c.event == "result.recalled", ledger.c.facts.contains('"problem":'))
    with site.database.read() as connection:
        told = [json.loads(text) for text in connection.execute(query.order_by(ledger.c.seq)).scalars()]
        if not told:
            return ()
        of_version = select(outcome.c.study_uid).where(outcome.c.version_digest == digest).distinct()
        studies = {site.study_key(uid): uid for uid in connection.execute(of_version).scalars()}
    return tuple(
        Problem(studies[facts["study"]], facts["revision"], facts["problem"])
        for facts in told
        if facts["version"] == digest and facts["study"] in studies
    )


def _count(site: Site, digest: str) -> int:
    query = select(func.count()).where(outcome.c.version_digest == digest, _spoken())
    with site.database.read() as connection:
        return int(connection.execute(query).scalar_one())


def _spoken() -> Any:
    """SQL: whether an outcome is a result, or a refusal that the PACS was told of."""
    told = exists().where(delivery.c.outcome_id == outcome.c.id)
    return or_(outcome.c.kind == "scored", and_(outcome.c.kind == "refused", told))


def _actions(site: Site, digest: str) -> list[Any]:
    with site.database.read() as connection:
        query = select(recall.c.action, recall.c.document).where(recall.c.version_digest == digest)
        return list(connection.execute(query))


def _remaining(site: Site, digest: str) -> Iterator[Sequence[Row[Any]]]:
    """Results with nothing written of them yet, batch by batch, until there are none."""
    query = (
        select(outcome)
        .outerjoin(recall, recall.c.outcome_id == outcome.c.id)
        .where(outcome.c.version_digest == digest, _spoken(), recall.c.outcome_id.is_(None))
        .order_by(outcome.c.id)
        .limit(_TOGETHER)
    )
    while True:
        with site.database.read() as connection:
            batch = connection.execute(query).all()
        if not batch:
            return
        yield batch


def _take_back(site: Site, archive: Archive, batch: Sequence[Row[Any]], by: str, label: str, title: Any) -> int:
    at = time.time()
    opinion = Opinion(
        by,
        site.config.institution,
        at,
        None,
        (
            (local("DECISION", "Decision"), local("RECALL", "Recall of the version")),
            (local("VERSION", "Version of the algorithm"), local("RECALLED", label)),
        ),
        _RECALL_NUMBER,
    )
    with site.database.read() as connection:
        given, made = _given(connection, batch), _made(connection, batch)
        # made and on disk before the transaction that promises their delivery; the lock is held for a moment only
        documents: dict[int, tuple[ResultObject, str]] = {}
        problems: dict[int, str] = {}
        for row in batch:
            if _judge(given.get(row.id, []))[0] != "withdrawn":
                continue
            document, problem = _document(site, connection, archive, row, made.get(row.id, []), title, opinion)
            if document:
                documents[row.id] = (document, archive.store(document.content))
            if problem:
                problems[row.id] = problem
    done = 0
    with site.database.write() as connection:
        given = _given(connection, batch)
        for row in batch:
            action, signer = _judge(given.get(row.id, []))
            document, problem = (documents.get(row.id), problems.get(row.id)) if action == "withdrawn" else (None, None)
            connection.execute(
                insert(recall).values(
                    outcome_id=row.id,
                    version_digest=row.version_digest,
                    action=action,
                    signer=signer,
                    document=document[0].sop_uid if document else "",
                    at=at,
                )
            )
            if action != "to_signer":  # also where no document could be made, or a reader's rejection made it
                drop(connection, [uid for _, uid, _ in made.get(row.id, [])], "its version was recalled")
            if document:
                _queue(connection, row.id, *document)
            facts = {"study": site.study_key(row.study_uid), "revision": row.revision, "version": row.version_digest}
            facts |= {"action": action, "document": document[0].sop_uid if document else None}
            append(connection, "result.recalled", facts | ({"problem": problem} if problem else {}))
            done += 1
    return done


def disown(
    connection: Connection, site: Site, study_uid: str, replaced: Person, chosen: Collection[Person], by: str
) -> int:
    """Take back what was said of a study in the name of another patient; how many outcomes that were.

    To be called in the transaction in which it becomes another's. An outcome is of whom its report names, else of whom
    its image names.

    Args:
        replaced: of whom it was; whom an outcome is of that does not say so.
        chosen: of whom it is now; taken back is what differs from any of them.
        by: named in the withdrawals.
    """
    archive = Archive(site.archive)
    batch = connection.execute(select(outcome).where(outcome.c.study_uid == study_uid).order_by(outcome.c.id)).all()
    made = _made(connection, batch)
    wrong: list[Row[Any]] = []
    for row in batch:
        named_in = [digest for kind, _, digest in made.get(row.id, []) if kind == "sr"] + [row.input_digest or ""]
        whose = next((one for digest in named_in if (one := _person(archive, digest)) != Person()), replaced)
        if any(differ(whose, one) for one in chosen):
            wrong.append(row)
    return _retract(connection, site, wrong, SAFETY, by, _OTHER_PATIENT)


def forsake(connection: Connection, site: Site, batch: Sequence[Row[Any]], by: str, *, safety: bool) -> int:
    """Take back what was said on the strength of images that do not count any longer; how many outcomes that were.

    As with another patient's (`disown`): it goes also from under a signature, and who signed is asked.

    Args:
        batch: the outcomes.
        by: named in the withdrawals.
        safety: for patient safety, else for quality.
    """
    return _retract(connection, site, batch, SAFETY if safety else QUALITY, by, _IMAGES_GONE)


@dataclass(frozen=True, slots=True)
class _Wrong:
    """Why outcomes are taken back that no recalled version has made."""

    why: str
    reason: Coding
    event: str


_OTHER_PATIENT: Final = _Wrong(
    "the study is another patient's",
    local("OTHER_PATIENT", "The images are of another patient"),
    "result.disowned",
)
_IMAGES_GONE: Final = _Wrong(
    "the images that it rests on were taken out of the study",
    local("IMAGES_GONE", "The images were rejected, or taken out of the study"),
    "result.forsaken",
)


def _retract(
    connection: Connection, site: Site, batch: Sequence[Row[Any]], title: Coding, by: str, wrong: _Wrong
) -> int:
    """Withdraw outcomes, also from under a signature; what was withdrawn before stays so, what was put before its
    signer is so again.
    """
    archive, at = Archive(site.archive), time.time()
    given, made = _given(connection, batch), _made(connection, batch)
    ids = [row.id for row in batch]
    known = {row.outcome_id: row for row in connection.execute(select(recall).where(recall.c.outcome_id.in_(ids)))}
    opinion = Opinion(
        by, site.config.institution, at, None, ((local("DECISION", "Decision"), wrong.reason),), _RECALL_NUMBER
    )
    done = 0
    for row in batch:
        objects = made.get(row.id, [])
        before = known.get(row.id)
        if before and (before.action != "to_signer" or before.document):
            continue
        action, signer = _judge(given.get(row.id, []))
        document, problem = None, ""
        if action != "already_withdrawn":  # the study's other images may be of somebody else now
            document, problem = _document(site, connection, archive, row, objects, title, opinion, others=False)
        if document and _queued(connection, document.sop_uid):
            continue  # the word that nothing was read, by no version, of which no more is written
        drop(connection, [uid for _, uid, _ in objects], wrong.why)
        drop(connection, _signed_objects(connection, row.id), wrong.why)
        if document:
            _queue(connection, row.id, document, archive.store(document.content))
        if row.version_digest:
            values = {"action": action, "signer": signer, "document": document.sop_uid if document else "", "at": at}
            connection.execute(delete(recall).where(recall.c.outcome_id == row.id))
            connection.execute(insert(recall).values(outcome_id=row.id, version_digest=row.version_digest, **values))
        facts = {"study": site.study_key(row.study_uid), "revision": row.revision, "version": row.version_digest}
        facts |= {"action": action, "document": document.sop_uid if document else None}
        append(connection, wrong.event, facts | ({"problem": problem} if problem else {}))
        done += 1
    if batch:
        measure_again(connection, site, {row.study_uid for row in batch})
    return done


def _person(archive: Archive, digest: str) -> Person:
    return person_of(archive.path(digest)) if digest else Person()


def _queued(connection: Connection, sop_uid: str) -> bool:
    return connection.execute(select(delivery.c.sop_uid).where(delivery.c.sop_uid == sop_uid)).first() is not None


def _signed_objects(connection: Connection, outcome_id: int) -> list[str]:
    query = select(delivery.c.sop_uid).where(delivery.c.outcome_id == outcome_id, delivery.c.kind == "verified")
    return list(connection.execute(query).scalars())


def _queue(connection: Connection, outcome_id: int, document: ResultObject, digest: str) -> None:
    connection.execute(
        insert(delivery).values(
            sop_uid=document.sop_uid, outcome_id=outcome_id, kind=document.kind, sha256=digest, state="pending"
        )
    )


def _judge(given: list[Verdict]) -> tuple[Action, str]:
    """What a recall does with a result, by what clinicians last said of it; and who has signed it.

    A rejection withdraws what the version made. The verified report of a reader who agreed or corrected stays, whatever
    others say of the result, so whoever signed one has to hear of the recall.
    """
    last = standing(given)
    if signers := [one.reader for one in last if one.decision is not Decision.REJECT]:
        return "to_signer", ", ".join(signers)
    return ("already_withdrawn", "") if last else ("withdrawn", "")


def _given(connection: Connection, batch: Sequence[Row[Any]]) -> dict[int, list[Verdict]]:
    found: dict[int, list[Verdict]] = {}
    for row in connection.execute(select(verdict).where(verdict.c.outcome_id.in_([one.id for one in batch]))):
        found.setdefault(row.outcome_id, []).append(read(row, 0))
    return found


def _made(connection: Connection, batch: Sequence[Row[Any]]) -> dict[int, list[tuple[str, str, str]]]:
    """Of each result, its objects: (kind, UID, digest of the file), several of a kind where several series were
    read.
    """
    found: dict[int, list[tuple[str, str, str]]] = {}
    query = select(delivery.c.outcome_id, delivery.c.kind, delivery.c.sop_uid, delivery.c.sha256).where(
        delivery.c.outcome_id.in_([one.id for one in batch]), delivery.c.kind.not_in(_DOCUMENTS)
    )
    for row in connection.execute(query):
        found.setdefault(row.outcome_id, []).append((row.kind, row.sop_uid, row.sha256))
    return found


def _document(
    site: Site,
    connection: Connection,
    archive: Archive,
    row: Row[Any],
    made: Sequence[tuple[str, str, str]],
    title: Any,
    opinion: Opinion,
    *,
    others: bool = True,
) -> tuple[ResultObject | None, str]:
    """What withdraws a result, and what of it cannot be withdrawn; of one of which nothing was made, nothing.

    Args:
        others: see `lost.report`.
    """
    reports = [digest for kind, _, digest in made if kind == "sr"]
    if not reports:
        return None, ""
    first = _report(archive, reports[0])
    if first is None:
        log.error("study %s: the report of a result is lost", site.study_key(row.study_uid))
        first = lost.report(site, connection, archive, row, made, others=others)
    if first is None:
        return None, lost.NOBODY
    try:
        objects = named_by(archive, first, [(uid, digest) for _, uid, digest in made])
        if not objects:
            return None, lost.NO_SERIES.format(0, len(made))
        document = withdraw(first, objects, title, opinion)
    except (ValueError, OSError) as error:  # it is no report of ours
        return None, f"its report cannot be read: {type(error).__name__}"
    return document, "" if len(objects) == len(made) else lost.NO_SERIES.format(len(objects), len(made))


def _report(archive: Archive, digest: str) -> bytes | None:
    """None where the file is lost, or is not what was written."""
    try:
        content = archive.read(digest)
    except (NotFound, OSError):
        return None
    return content if hashlib.sha256(content).hexdigest() == digest else None


@cache
def unresolved() -> Any:
    """SQL: who signed a result of the study that was recalled, and has not judged the study again since; else null.

    Each signer has a verified report in the PACS, which nobody else can amend.
    """
    of_study, signed, later = outcome.alias("recalled"), verdict.alias("signed"), verdict.alias("later")
    superseded = (
        select(later.c.id)
        .where(later.c.study_uid == signed.c.study_uid, later.c.reader == signed.c.reader, later.c.id > signed.c.id)
        .where(or_(later.c.outcome_id == signed.c.outcome_id, later.c.created_at > recall.c.at))
        .correlate(signed, recall)
    )
    return (
        select(func.replace(func.group_concat(signed.c.reader.distinct()), ",", ", "))
        .select_from(recall)
        .join(of_study, of_study.c.id == recall.c.outcome_id)
        .join(signed, signed.c.outcome_id == recall.c.outcome_id)
        .where(of_study.c.study_uid == study.c.uid, recall.c.action == "to_signer")
        .where(signed.c.created_at <= recall.c.at, signed.c.decision != str(Decision.REJECT), ~superseded.exists())
        .correlate(study)
        .scalar_subquery()
    )


@cache
def withdrawn_by_recall() -> Any:
    """SQL: whether the present result of a study was withdrawn because its version was recalled."""
    return (
        select(recall.c.outcome_id).where(recall.c.outcome_id == outcome.c.id, recall.c.action == "withdrawn").exists()
    )
