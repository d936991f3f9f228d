"""The queue of studies and their outcomes: how work is taken, concluded and retried.

An outcome, the study's state, the ledger entry and the deliveries of its result objects are one transaction: after a
kill at any instant either all of them are there or none, and the study is taken again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag
from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    union_all,
    update,
)

from client.arrival import priority
from client.arrival.index import pictured, unsettled
from client.arrival.urgency import Turns, Urgency, Waiting
from client.delivery import workflow
from client.delivery.standing import let_go
from client.dicom.person import TAGS, Person
from client.inference.pipeline import NOT_ONE_PATIENT, Failed, Outcome, Refused, Scored, ScoredVolumes
from client.inference.scope import Reason
from client.inference.structure import structure, told
from client.inference.study import Image, Study, study_day
from client.inference.succession import Reach, covers, replaced
from client.inference.whose import of_two
from client.results.confidence import Confidence
from client.results.result import Predecessor, ResultObject
from client.review.footing import settle, unfounded
from client.store import ledger, versions
from client.store.archive import Archive
from client.store.excluded import excluded
from client.store.site import Site
from client.store.tables import delivery, instance, outcome, recall, study, succession, verdict, version
from models.errors import Conflict, NotFound

if TYPE_CHECKING:
    from client.results.outlined import Outlined

log = logging.getLogger(__name__)


# made once: SQLAlchemy takes longer to make a statement than SQLite to run it
def _first(*also: ColumnElement[bool], urgency: Urgency) -> Select[Any]:
    """The queued studies of a class that are due first; by the index, which holds these only."""
    queued = study.c.state == literal_column("'queued'")  # no parameter would say that it is the index's
    mine = study.c.urgency == literal_column(f"'{urgency}'")
    query = select(study).where(queued, mine, *also).order_by(study.c.due_at, study.c.uid)
    return select(query.limit(bindparam("most")).subquery())


_HEADS = union_all(
    _first(study.c.attempts == literal_column("0"), urgency=Urgency.EMERGENCY),
    *(_first(urgency=urgency) for urgency in Urgency),
)
_TRIED = (
    update(study)
    .where(study.c.uid == bindparam("key"), study.c.state == "queued")
    .where(study.c.attempts == bindparam("before"), study.c.touched_at == bindparam("touched"))
    .values(attempts=bindparam("before") + 1, due_at=bindparam("due"))
)
_EVERY = (
    select(
        instance.c.sop_uid,
        instance.c.sop_class,
        instance.c.sha256,
        instance.c.series_uid,
        (instance.c.rows * instance.c.columns * func.coalesce(instance.c.frames, 1)).label("pixels"),
    )
    .where(instance.c.study_uid == bindparam("key"), ~instance.c.conflicting)
    .order_by(instance.c.id)
)
_IMAGES = _EVERY.where(~excluded())
_GONE = _EVERY.where(excluded("quality", "safety"), pictured())
_LEFT_OUT = select(func.count()).where(instance.c.study_uid == bindparam("key"), unsettled(), pictured())
_EXCLUDED = select(func.count()).where(
    instance.c.study_uid == bindparam("key"), ~instance.c.conflicting, excluded(), pictured()
)

_AT_THE_PACS: Final = ("sent", "committed", "pending")
_NAMED: Final = [Tag("SOPClassUID"), Tag("SeriesInstanceUID"), *TAGS]  # of an earlier report


Mark = Callable[[Study, Refused | Failed, tuple[Predecessor, ...]], list[ResultObject]]
"""What a study that was not read leaves in the PACS, given the reports of earlier revisions that are there."""


@dataclass(frozen=True, slots=True)
class Exhausted:
    """A study that was begun `attempts` times and concluded never: its processing kills the process.

    What raises is concluded, or its attempt is given back; only the worker that saw it raise, and could not write that
    down, knows better.
    """

    study: Study


def take(site: Site, skip: Collection[str] = (), turns: Turns | None = None) -> Study | Exhausted | None:
    """The queued study whose turn it is, its attempt counted before anything is done with it.

    It goes back in the queue by the time that its class allows, so that one whose reading ends the process each time
    holds nobody up.

    Args:
        skip: study UIDs to leave alone for now.
        turns: decides whose turn it is (`client/arrival/urgency.py`).
    """
    turns, rules = turns or Turns(), priority.rules(site.config)
    while True:
        with site.database.read() as connection:
            waiting = _heads(connection, skip)
            head = turns.next(map(_waiting, waiting.values()), time.time())
            if head is None:
                return None
            row = waiting[head.uid]
            taken = Study(
                uid=row.uid,
                revision=row.revision,
                attempts=row.attempts + 1,
                touched_at=row.touched_at,
                images=images_of(connection, row.uid),
                missing=row.missing,
                conflicting=conflicting_in(connection, row.uid),
                excluded=int(connection.execute(_EXCLUDED, {"key": row.uid}).scalar_one()),
                gone=_images(connection.execute(_GONE, {"key": row.uid}).all()),
                standing=_found_before(connection, row.uid) if row.revision > 1 else (),
            )
        if row.attempts >= site.config.max_attempts:
            if row.attempts == site.config.max_attempts:  # what still opens an image of it may know that it did before
                with site.database.write() as connection:
                    connection.execute(_TRIED, _known(row) | {"due": row.due_at})
            return Exhausted(taken)
        due = max(time.time(), head.due_at) + rules.allowed(Urgency(row.urgency), row.calling_ae)
        with site.database.write() as connection:
            if connection.execute(_TRIED, _known(row) | {"due": due}).rowcount:
                if site.config.ups.url:
                    workflow.begin(connection, row.uid, row.revision)
                return taken
        # something came for it meanwhile: whose turn it is, is looked at again


def _known(row: Row[Any]) -> dict[str, Any]:
    return {"key": row.uid, "before": row.attempts, "touched": row.touched_at}


def give_back(site: Site, taken: Study) -> None:
    """An attempt that says nothing of the study, such as one that met a full disk, does not count."""
    mine = study.c.uid == taken.uid, study.c.state == "queued", study.c.revision == taken.revision
    same = study.c.attempts == taken.attempts, study.c.touched_at == taken.touched_at
    with site.database.write() as connection:
        connection.execute(update(study).where(*mine, *same).values(attempts=taken.attempts - 1))


def images_of(connection: Connection, study_uid: str) -> tuple[Image, ...]:
    """The images of a study, oldest first, without the conflicting ones and those that were taken out of it."""
    return _images(connection.execute(_IMAGES, {"key": study_uid}).all())


def _images(rows: Iterable[Any]) -> tuple[Image, ...]:
    return tuple(Image(row.sop_uid, row.sop_class, row.sha256, row.series_uid, max(0, row.pixels or 0)) for row in rows)


def conflicting_in(connection: Connection, study_uid: str) -> int:
    """How many images of a study are left out of it, each with the UID of another one that differs, until a person says
    which of the two stands.
    """
    return int(connection.execute(_LEFT_OUT, {"key": study_uid}).scalar_one())


def _found_before(connection: Connection, study_uid: str) -> tuple[str, ...]:
    query = (
        select(version.c.name)
        .join(outcome, outcome.c.version_digest == version.c.digest)
        .where(outcome.c.study_uid == study_uid, outcome.c.positive, ~replaced(outcome.c.id), ~_withdrawn())
    )
    return tuple(connection.execute(query.distinct()).scalars())


def _heads(connection: Connection, skip: Collection[str]) -> dict[str, Row[Any]]:
    """The queued study that is due first, of each class, and of the emergencies that were not tried before; by UID."""
    left_out = set(skip)
    found: dict[tuple[str, bool], Row[Any]] = {}
    rows = connection.execute(_HEADS, {"most": len(left_out) + 1}).all()
    for row in sorted(rows, key=lambda row: (row.due_at or 0.0, row.uid)):
        if row.uid not in left_out:
            found.setdefault((row.urgency, row.attempts == 0), row)
    return {row.uid: row for row in found.values()}


def _waiting(row: Row[Any]) -> Waiting:
    first = row.urgency == Urgency.EMERGENCY and row.attempts == 0
    return Waiting(row.uid, row.due_at or 0.0, first)


def conclude(
    site: Site,
    archive: Archive,
    taken: Study,
    result: Outcome,
    make: Callable[[Scored | ScoredVolumes], list[ResultObject]],
    mark: Mark = lambda _study, _result, _earlier: [],
) -> bool:
    """Write what became of a study.

    Args:
        make: the objects of a result.
        mark: those that say that there is none.

    Returns:
        False where images came while it was being read, or its version was withdrawn: then nothing is written, and
        it will be read again.
    """
    if isinstance(result, Failed):
        result = _whose(site, archive, taken, result)
    covered: set[int] = set()
    if taken.revision > 1 and isinstance(result, Scored | ScoredVolumes):
        covered = _covered(site, archive, taken, _reach(result))
    earlier = _earlier(site, archive, taken, covered)
    if isinstance(result, Scored | ScoredVolumes):
        objects, by = make(_succeeding(result, earlier)), result.best.bundle.digest
    else:
        objects = mark(taken, result, earlier)
        by = result.version if objects and isinstance(result, Refused) else None
    # durable before the transaction that promises their delivery
    stored = [(item, archive.store(item.content)) for item in objects]
    now = time.time()
    values, facts = _row(result)
    with site.database.write() as connection:
        if by and _suspended(connection, by):
            return False
        changed = connection.execute(
            update(study)
            .where(
                study.c.uid == taken.uid,
                study.c.state == "queued",
                study.c.revision == taken.revision,
                study.c.touched_at == taken.touched_at,
            )
            .values(state=values["kind"])
        )
        if changed.rowcount != 1:
            return False
        written = connection.execute(
            insert(outcome).values(study_uid=taken.uid, revision=taken.revision, created_at=now, **values)
        )
        assert written.inserted_primary_key is not None
        later = int(written.inserted_primary_key[0])
        for one in sorted(covered):
            connection.execute(insert(succession).values(earlier_id=one, later_id=later))
        _deliver(connection, later, stored)
        if stored and taken.revision > 1:
            let_go(connection, {*covered, *_words(connection, taken)})
        if taken.revision > 1:
            settle(connection, site, taken.uid, taken.revision)
        head: dict[str, ledger.Fact] = {"study": site.study_key(taken.uid), "revision": taken.revision}
        ledger.append(connection, f"outcome.{values['kind']}", head | facts)
    return True


def _whose(site: Site, archive: Archive, taken: Study, result: Failed) -> Failed:
    """A failure that says whether there are two people in the study, for reading may end before that is seen; whether
    earlier results of it may still be believed depends on it.

    Where looking at the images has ended the process as well, they are not looked at. What raises is only told: a study
    has an outcome whatever its images are.
    """
    if taken.attempts > site.config.max_attempts + 1:
        return result
    try:
        return replace(result, also=(NOT_ONE_PATIENT,)) if of_two(archive, taken.images) else result
    except Exception as error:  # noqa: BLE001  # as said; its text may hold what a header held
        log.error("study %s: whose it is was not seen: %s", site.study_key(taken.uid), type(error).__name__)
        return result


def _words(connection: Connection, taken: Study) -> Sequence[int]:
    """The words of earlier revisions that nothing was read, whose place whatever is said now takes."""
    query = select(outcome.c.id).where(
        outcome.c.study_uid == taken.uid, outcome.c.revision < taken.revision, outcome.c.kind != "scored"
    )
    return connection.execute(query).scalars().all()


def _succeeding(result: Scored | ScoredVolumes, earlier: tuple[Predecessor, ...]) -> Scored | ScoredVolumes:
    before = tuple(one for one in earlier if one.replaced)
    beside = tuple(one for one in earlier if not one.replaced)
    if isinstance(result, Scored):
        return replace(result, finding=replace(result.finding, predecessors=before, standing=beside))
    return replace(
        result, outlined=tuple(replace(one, predecessors=before, standing=beside) for one in result.outlined)
    )


def _reach(result: Scored | ScoredVolumes) -> Reach:
    best = result.best
    facts = best.bundle.facts
    coded = facts.finding.scheme, facts.finding.value
    return Reach(facts.name, coded, Person.from_dataset(best.source), result.read, bool(result.reasons))


def _covered(site: Site, archive: Archive, taken: Study, later: Reach) -> set[int]:
    """The results of earlier revisions whose place a new one takes (`client/inference/succession.py`)."""
    query = (
        select(outcome.c.id, outcome.c.version_digest, outcome.c.input_digest, outcome.c.read, outcome.c.reasons)
        .add_columns(version.c.name)
        .join(version, version.c.digest == outcome.c.version_digest)
        .where(outcome.c.study_uid == taken.uid, outcome.c.revision < taken.revision, outcome.c.kind == "scored")
    )
    with site.database.read() as connection:
        rows = connection.execute(query).all()
    here = {uid for image in taken.images for uid in (image.sop_uid, image.series_uid)}
    found: set[int] = set()
    for row in rows:
        facts = versions.facts(site, row.version_digest)
        coded = (facts.finding.scheme, facts.finding.value) if facts else None
        # what was taken out of the study since nobody reads again
        read = None if row.read is None else frozenset(here.intersection(row.read))
        if covers(later, Reach(row.name, coded, _person(archive, row.input_digest), read, bool(row.reasons))):
            found.add(row.id)
    return found


def _person(archive: Archive, sha256: str) -> Person:
    """Whom an image is of; nobody known where it cannot be read any more."""
    try:
        return Person.from_dataset(pydicom.dcmread(archive.path(sha256), specific_tags=list(TAGS)))
    except (AttributeError, InvalidDicomError, OSError):
        return Person()


def _earlier(site: Site, archive: Archive, taken: Study, covered: Collection[int]) -> tuple[Predecessor, ...]:
    """The reports of revisions before this one that stand at the PACS, or are on their way there; the latest first.

    Those are the results that none of the others has taken the place of, and the last word that nothing was read where
    it came last: a result takes its place, that word only the place of others like it (`client/results/unread.py`).

    Args:
        covered: the results whose place is taken now.
    """
    if taken.revision == 1:
        return ()
    query = (
        select(delivery.c.sop_uid, delivery.c.sha256, outcome.c.kind, outcome.c.id)
        .join(outcome, outcome.c.id == delivery.c.outcome_id)
        .where(outcome.c.study_uid == taken.uid, outcome.c.revision < taken.revision)
        .where(delivery.c.kind == "sr", delivery.c.state.in_(_AT_THE_PACS))
        .where(~_withdrawn())
        .order_by(outcome.c.revision.desc())
    )
    with site.database.read() as connection:
        falling = {row.id for row in unfounded(connection, taken.uid)} - set(covered)  # is taken back (`settle`)
        rows = [row for row in connection.execute(query) if row.id not in falling]
        followed = connection.execute(
            select(succession).where(succession.c.earlier_id.in_([row.id for row in rows]))
        ).all()
    found: dict[int, Predecessor] = {}
    for row in rows:
        result = row.kind == "scored"
        if found and (not result or any(one.earlier_id == row.id and one.later_id in found for one in followed)):
            continue
        if report := _report(site, archive, taken.uid, row, result=result, follows=row.id in covered or not result):
            found[row.id] = report
    return tuple(found.values())


def _report(
    site: Site, archive: Archive, study_uid: str, row: Any, *, result: bool, follows: bool
) -> Predecessor | None:
    try:
        header = pydicom.dcmread(archive.path(row.sha256), specific_tags=_NAMED)
        by = str(header.SOPClassUID), row.sop_uid, str(header.SeriesInstanceUID)
        return Predecessor(*by, result, Person.from_dataset(header), follows)
    except (AttributeError, InvalidDicomError, OSError) as error:
        log.warning("study %s: an earlier report is not named: %s", site.study_key(study_uid), type(error).__name__)
        return None


def _withdrawn() -> ColumnElement[bool]:
    """Whether the PACS was told not to show an outcome's report: a later one does not name it."""
    recalled = select(recall.c.outcome_id).where(
        recall.c.outcome_id == outcome.c.id, recall.c.action.concat(recall.c.document) != "to_signer"
    )
    withdrawal = delivery.alias("withdrawal")  # of the word that nothing was read, by no version: see `disown`
    disowned = exists().where(withdrawal.c.outcome_id == outcome.c.id, withdrawal.c.kind == "kos")
    rejected = select(verdict.c.id).where(verdict.c.outcome_id == outcome.c.id, verdict.c.decision == "reject")
    return or_(recalled.exists(), rejected.exists(), and_(outcome.c.kind != "scored", disowned))


def retry(site: Site, study_uid: str) -> None:
    """Queue a study again that failed, was refused before something was mended, or whose unsigned result was recalled:
    its next outcome supersedes.

    Raises:
        NotFound: no such study.
        Conflict: it is none of these.
    """
    with site.database.write() as connection:
        row = connection.execute(select(study).where(study.c.uid == study_uid)).first()
        if row is None:
            raise NotFound("no such study")
        if row.state not in ("failed", "refused") and not _recalled(connection, study_uid, row.revision):
            raise Conflict(f"the study is {row.state}; only a failed, refused or recalled one is retried")
        connection.execute(
            update(study)
            .where(study.c.uid == study_uid)
            .values(
                state="queued",
                revision=row.revision + 1,
                attempts=0,
                completed_at=time.time(),
                due_at=priority.due(site, row),
            )
        )
        facts: dict[str, ledger.Fact] = {"study": site.study_key(study_uid), "revision": row.revision + 1}
        ledger.append(connection, "study.retried", facts)


def _recalled(connection: Connection, study_uid: str, revision: int) -> bool:
    query = (
        select(recall.c.outcome_id)
        .join(outcome, outcome.c.id == recall.c.outcome_id)
        .join(study, study.c.uid == outcome.c.study_uid)
        .where(study.c.uid == study_uid, study.c.state == "scored", recall.c.action == "withdrawn")
        .where(outcome.c.revision == revision)
    )
    return connection.execute(query).first() is not None


def _suspended(connection: Connection, digest: str) -> bool:
    return connection.execute(select(version.c.state).where(version.c.digest == digest)).scalar() == "withdrawn"


def _row(result: Outcome) -> tuple[dict[str, Any], dict[str, ledger.Fact]]:
    """The columns of an outcome, and what of it the ledger says."""
    if isinstance(result, Scored):
        finding = result.finding
        values: dict[str, Any] = {
            "kind": "scored",
            "reasons": _stated(result.reasons),
            "version_digest": finding.bundle.digest,
            "sop_uid": result.image.sop_uid,
            "input_digest": finding.input_digest,
            "score": finding.score,
            "threshold": finding.threshold,
            "positive": finding.positive,
            "engine": result.engine,
            "prepared_by": result.prepared_by,
            "read": sorted(result.read),
            **_choice(result),
            **_confidence(finding.confidence),
        }
        facts: dict[str, ledger.Fact] = {
            "version": finding.bundle.digest,
            "input": finding.input_digest,
            "score": finding.score,
            "threshold": finding.threshold,
            "positive": finding.positive,
            "reasons": ",".join(dict.fromkeys(str(reason.code) for reason in result.reasons)),
        }
        return values, facts
    if isinstance(result, ScoredVolumes):
        return _volumes_row(result)
    reasons: tuple[Reason, ...]
    if isinstance(result, Refused):
        kind, reasons, version = "refused", result.reasons, result.version
    else:
        kind, reasons, version = "failed", result.reasons, None
    codes = list(dict.fromkeys(str(reason.code) for reason in reasons))
    return (
        {"kind": kind, "reasons": _stated(reasons), "version_digest": version},
        {"version": version, "reasons": ",".join(codes)},
    )


def _volumes_row(result: ScoredVolumes) -> tuple[dict[str, Any], dict[str, ledger.Fact]]:
    highest = result.best
    day = study_day(highest.source)
    values: dict[str, Any] = {
        "kind": "scored",
        "reasons": _stated(result.reasons),
        "version_digest": highest.bundle.digest,
        "sop_uid": result.image.sop_uid,
        "input_digest": result.image.sha256,
        "score": highest.score,
        "threshold": highest.threshold,
        "positive": highest.positive,
        "engine": result.engine,
        "prepared_by": result.prepared_by,
        "read": sorted(result.read),
        **_choice(result),
        **_confidence(highest.confidence),
        "measurements": {
            "day": day.isoformat() if day else None,
            "series": [_measurements(one) for one in result.outlined],
        },
    }
    facts: dict[str, ledger.Fact] = {
        "version": highest.bundle.digest,
        "input": highest.input_digest,
        "score": highest.score,
        "threshold": highest.threshold,
        "positive": highest.positive,
        "reasons": ",".join(dict.fromkeys(str(reason.code) for reason in result.reasons)),
    }
    return values, facts


def _choice(result: Scored | ScoredVolumes) -> dict[str, str]:
    chosen = result.choice
    return {"stratum": result.stratum} | ({"chosen": chosen.why, "chosen_text": chosen.text} if chosen else {})


def _confidence(confidence: Confidence | None) -> dict[str, Any]:
    return {"confidence": confidence.model_dump(mode="json")} if confidence else {}


def _measurements(outlined: Outlined) -> dict[str, Any]:
    """What was measured in a series; what each number is of, said so that it can be told when the version is gone."""
    growth, declared = outlined.growth, outlined.bundle.facts.segmentation
    assert declared is not None  # no other version outlines
    return {
        "series": outlined.stack.series_uid,
        "spacing_mm": [round(side, 6) for side in outlined.stack.spacing],
        "labels": [
            asdict(one)
            | {"growth": asdict(growth[one.value]) if one.value in growth else None}
            | {"structure": told(structure(declared, one.value))}
            for one in outlined.measured
        ],
        "uncompared": outlined.uncompared,
    }


def _stated(reasons: Sequence[Reason]) -> list[dict[str, str]]:
    return [{"code": str(reason.code), "text": reason.text} for reason in reasons]


def _deliver(connection: Connection, outcome_id: int, stored: list[tuple[ResultObject, str]]) -> None:
    for item, digest in stored:
        connection.execute(
            insert(delivery).values(
                sop_uid=item.sop_uid, outcome_id=outcome_id, kind=item.kind, sha256=digest, state="pending"
            )
        )


def failure(error: BaseException) -> Failed:
    """An exception that nobody expected, as an outcome: its type only, since its text may hold what a header held."""
    return Failed(Reason("unexpected", f"an unexpected {type(error).__name__}"))


def crashed(attempts: int) -> Failed:
    """A study whose processing ended the process, at least the last time."""
    said = f"it was begun {attempts} times, and the last time the process ended while it read this study"
    return Failed(Reason("crashed", said))
