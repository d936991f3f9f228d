"""What there is to read, most urgent first, and all that is known of one study.

A study's status is derived: `unverified` until a clinician has said something about its present result, `withdrawn`
while any reader's last word on it is a rejection, else `verified`; what has no result keeps its state. To read is what
is unverified, and where a result from before stands that a reader has to answer (`client/review/earlier.py`).
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import pydicom
from PIL import Image
from sqlalchemy import Connection, Select, and_, case, exists, func, literal, literal_column, or_, select, tuple_

from client.arrival import priors
from client.arrival.index import pictured, unsettled
from client.dicom import decode
from client.inference.study import left_out, taken_out
from client.inference.succession import rejected
from client.results import heatmap
from client.results.confidence import Confidence
from client.review import earlier
from client.review.recall import unresolved, withdrawn_by_recall
from client.review.verdict import Verdict, history, read, standing
from client.store import versions
from client.store.archive import Archive
from client.store.excluded import doubted, excluded
from client.store.site import Site
from client.store.tables import (
    delivery,
    exclusion,
    instance,
    outcome,
    patient,
    prior,
    prior_search,
    study,
    verdict,
    version,
)
from models.bundle import Facts, label
from models.errors import InvalidStudy, NotFound

Status = Literal["receiving", "queued", "refused", "failed", "unverified", "verified", "withdrawn", "prior"]
STATUSES: Final[tuple[str, ...]] = get_args(Status)
MOST: Final = 500

_EARLIER: Final = outcome.alias("earlier")


@dataclass(frozen=True, slots=True)
class Result:
    """A scored study's present result, or the one that it had before.

    Attributes:
        revision: of the study that was read.
        engine: what computed it.
        prepared_by: what preprocessed it, program and release.
        chosen: why this version read it.
        structures: what was outlined, a sentence each, with its measures and its growth.
        unread: why a part of the study was not read, or was not there; then no finding is no all-clear.
        confidence: what the score meant when the study was read; None of results of an earlier release.
    """

    outcome_id: int
    revision: int
    score: float
    threshold: float
    positive: bool
    version: str
    version_digest: str
    input_digest: str
    engine: str
    prepared_by: str
    at: float
    chosen: str
    structures: tuple[str, ...]
    unread: tuple[str, ...]
    confidence: Confidence | None

    @property
    def call(self) -> str:
        """What the AI says, in words: of a study that was read in part, never that a finding is not there."""
        if self.positive:
            return "positive"
        return "not found in what was read" if self.unread else "negative"

    @property
    def shade(self) -> str:
        """How that is shown: as an all-clear only where it is one."""
        return "partial" if self.unread and not self.positive else self.call


@dataclass(frozen=True, slots=True)
class Line:
    """One study of the worklist.

    Attributes:
        urgency: how soon it is to be read: emergency, urgent or routine.
        reasons: why it was refused or failed: (code, text).
        verified_by: whose word counts now; empty where nobody's.
        priors: what is known of the patient's earlier studies, in words.
        recalled: who has signed a result whose version was recalled since, and has not judged the study again.
        conflicting: what images of it were left out for having the UID of another one that differs, in words; empty
            where there are none of which nobody has said which stands.
        excluded: what images of it were rejected, or left out by a person, in words; empty where there are none.
        doubted: what images of it somebody has rejected who was not believed, in words; empty where there are none.
    before: a result that it had before and that the present outcome does not take the place of
            (`client/review/earlier.py`), where it still stands.
        earlier: what that said, and who answered it, in words; empty where there is none.
        answered: who answered it and what; empty where nobody did.
        pressing: nobody has answered it, or images of another patient came since; then it goes before the present one.
    """

    uid: str
    patient_id: str
    issuer: str
    accession: str
    status: Status
    revision: int
    received_at: float
    urgency: str
    reasons: tuple[tuple[str, str], ...]
    result: Result | None
    verified_by: str
    priors: str
    recalled: str
    conflicting: str = ""
    excluded: str = ""
    doubted: str = ""
    before: Result | None = None
    earlier: str = ""
    answered: str = ""
    pressing: bool = False

    @property
    def shown(self) -> Result | None:
        """The result that a reader sees and judges: one from before that nobody has answered, then the present one,
        else the one before."""
        return self.before if self.pressing else self.result or self.before

    @property
    def looks_back(self) -> bool:
        """Whether that is one from before."""
        return self.before is not None and self.shown is self.before


@dataclass(frozen=True, slots=True)
class Detail:
    """One study with its verdicts, oldest first, and what became of its objects; `pictured`: the revisions whose result
    has a picture of its map."""

    line: Line
    verdicts: tuple[Verdict, ...]
    deliveries: tuple[tuple[str, str, str], ...]
    pictured: frozenset[int]


def page(site: Site, *, status: str = "", q: str = "", limit: int = 100, after: str = "") -> list[Line]:
    """A page of the worklist: positives by falling score, then the longest waiting.

    Args:
        status: one of `STATUSES`, `to_read` for what a reader has to answer, `scored` for all that have a result,
            `recalled` for those whose signer has to look at them again, or empty for all.
        q: accession number, or the start of a patient or study identifier.
        limit: at most `MOST`.
        after: the UID of the last study of the page before.

    Raises:
        NotFound: no such status, or `after` names no study.
    """
    query = _lines()
    state = _status()
    if status == "to_read":
        query = query.where(_to_read())
    elif status == "scored":
        query = query.where(study.c.state == "scored")
    elif status == "recalled":
        query = query.where(unresolved().is_not(None))
    elif status:
        if status not in STATUSES:
            raise NotFound(f"no study has a status {status!r}: {', '.join(STATUSES)}")
        query = query.where(state == status)
    if q:
        query = query.where(
            or_(
                study.c.accession == q,
                patient.c.patient_id.startswith(q, autoescape=True),
                study.c.uid.startswith(q, autoescape=True),
            )
        )
    order = _order()
    with site.database.read() as connection:
        if after:
            place = connection.execute(
                _joined(select(*(column.label(f"k{i}") for i, column in enumerate(order)))).where(study.c.uid == after)
            ).first()
            if place is None:
                raise NotFound("`after` names no study")
            query = query.where(tuple_(*order) > tuple_(*(literal(key) for key in place)))
        rows = connection.execute(query.order_by(*order).limit(max(1, min(limit, MOST)))).all()
        return _read(connection, rows)


def counts(site: Site) -> dict[str, int]:
    """How many studies have each status, are to be read, and wait for their signer after a recall."""
    state = _status()
    with site.database.read() as connection:
        rows = connection.execute(_joined(select(state.label("status"), func.count().label("n"))).group_by(state)).all()
        recalled = connection.execute(select(func.count()).select_from(study).where(unresolved().is_not(None)))
        waiting = connection.execute(_joined(select(func.count())).where(_to_read()))
        found = dict.fromkeys(STATUSES, 0) | {row.status: row.n for row in rows}
        overlapping = {"to_read": int(waiting.scalar_one()), "recalled": int(recalled.scalar_one())}
    return found | overlapping


def one(site: Site, uid: str) -> Detail:
    """All about one study.

    Raises:
        NotFound: as said.
    """
    with site.database.read() as connection:
        rows = connection.execute(_lines().where(study.c.uid == uid)).all()
        if not rows:
            raise NotFound("no such study here")
        line = _read(connection, rows)[0]
        sent = connection.execute(
            select(outcome.c.revision, delivery.c.kind, delivery.c.state, delivery.c.problem)
            .join(outcome, outcome.c.id == delivery.c.outcome_id)
            .where(outcome.c.study_uid == uid)
            .order_by(delivery.c.outcome_id, delivery.c.kind)
        ).all()
        pictured = frozenset(row.revision for row in sent if row.kind == "sc")
        said = tuple((row.kind, row.state, row.problem) for row in sent)
        return Detail(line, tuple(history(connection, uid)), said, pictured)


def next_uid(site: Site) -> str | None:
    """The most urgent study that nobody has judged."""
    judged = or_(_status() == "unverified", and_(study.c.state.in_(earlier.JUDGED_IN), earlier.unanswered()))
    with site.database.read() as connection:
        return connection.execute(_joined(select(study.c.uid)).where(judged).order_by(*_order()).limit(1)).scalar()


def map_png(site: Site, uid: str, revision: int | None = None) -> bytes:
    """The picture of the map as it went to the PACS.

    Args:
        revision: whose result it is of; None: of the one that is shown first.

    Raises:
        NotFound: no such study, or it has no such picture.
    """
    return _png(np.asarray(_picture(site, uid, revision).pixel_array))


def image_png(site: Site, uid: str, revision: int | None = None) -> bytes:
    """The radiograph itself, framed as the map is, so that one can be laid over the other.

    Args:
        revision: as for `map_png`.

    Raises:
        NotFound: no such study, or its image cannot be shown.
    """
    found = _looked_at(site, uid, revision)
    try:
        pixels = decode.read(_archive(site.archive).path(found.input_digest)).pixels
    except (InvalidStudy, OSError) as error:
        raise NotFound("the image cannot be shown") from error
    facts = facts_of(site, found.version_digest)
    if facts is not None and facts.segmentation is not None:
        return _png(heatmap.paint(pixels, np.zeros(pixels.shape, np.uint8), {}, "Original image, without the outlines"))
    flat = np.zeros((1, 1), np.float32)
    return _png(heatmap.draw(pixels, flat, "Original image, without the map"))


def patient_name(site: Site, uid: str, revision: int | None = None) -> str:
    """As the image has it; empty where it has none. Names are in no table: erasing a patient is short.

    Args:
        revision: as for `map_png`.
    """
    try:
        return str(_picture(site, uid, revision).get("PatientName", "")).replace("^", " ").strip()
    except NotFound:
        return ""


def facts_of(site: Site, digest: str) -> Facts | None:
    """What a version says of itself, to be shown; None where its folder is gone."""
    return versions.facts(site, digest)


def readable_modalities(site: Site) -> set[str]:
    """The modalities that the adopted versions read."""
    known = [facts_of(site, held.digest) for held in versions.panel(site)]
    return {modality for facts in known if facts for modality in facts.intended_use.modalities}


def card_of(site: Site, digest: str) -> str:
    """The model card as text; empty where the version's folder is gone."""
    try:
        return (site.versions / digest / "docs" / "README.md").read_text()
    except OSError:
        return ""


@cache
def _order() -> tuple[Any, ...]:
    return -_urgency(), study.c.received_at, study.c.uid


@cache
def _urgency() -> Any:
    """The score of a positive study, or of what stands from before unanswered; of one that is not read as it is now,
    that of the result it had before, answered or not."""
    pressing = func.coalesce(earlier.score(), 0.0)
    before = select(_EARLIER.c.score).where(_EARLIER.c.id == earlier.standing(), _EARLIER.c.positive).scalar_subquery()
    return case(
        (study.c.state != "scored", func.coalesce(before, 0.0)),
        (outcome.c.positive, func.max(outcome.c.score, pressing)),
        else_=pressing,
    )


@cache
def _to_read() -> Any:
    return or_(_status() == "unverified", earlier.unanswered())


@cache
def _status() -> Any:
    judged = exists().where(verdict.c.outcome_id == outcome.c.id)
    return case(
        (study.c.state != "scored", study.c.state),
        (or_(rejected(outcome.c.id), withdrawn_by_recall()), "withdrawn"),
        (judged, "verified"),
        else_="unverified",
    )


def _joined(query: Any) -> Select[Any]:
    return (
        query.select_from(study)
        .outerjoin(outcome, and_(outcome.c.study_uid == study.c.uid, outcome.c.revision == study.c.revision))
        .outerjoin(patient, patient.c.key == study.c.patient_key)
        .outerjoin(version, version.c.digest == outcome.c.version_digest)
        .outerjoin(prior_search, prior_search.c.study_uid == study.c.uid)
    )


@cache
def _lines() -> Select[Any]:
    return _joined(
        select(
            study.c.uid,
            study.c.accession,
            study.c.revision,
            study.c.received_at,
            study.c.urgency,
            study.c.state,
            study.c.missing,
            select(func.count())
            .where(instance.c.study_uid == study.c.uid, ~instance.c.conflicting)
            .scalar_subquery()
            .label("images"),
            select(func.count())
            .where(instance.c.study_uid == study.c.uid, unsettled(), pictured())
            .scalar_subquery()
            .label("conflicting"),
            select(func.count())
            .where(instance.c.study_uid == study.c.uid, ~instance.c.conflicting, excluded(), pictured())
            .scalar_subquery()
            .label("excluded"),
            select(func.count(exclusion.c.sop_uid.distinct()))
            .where(exclusion.c.study_uid == study.c.uid, doubted())
            .scalar_subquery()
            .label("doubted"),
            _status().label("status"),
            patient.c.patient_id,
            patient.c.issuer,
            outcome.c.id.label("outcome_id"),
            outcome.c.reasons,
            outcome.c.score,
            outcome.c.threshold,
            outcome.c.positive,
            outcome.c.version_digest,
            outcome.c.input_digest,
            outcome.c.engine,
            outcome.c.prepared_by,
            outcome.c.chosen_text,
            outcome.c.measurements,
            outcome.c.confidence,
            outcome.c.created_at,
            version.c.name,
            version.c.number,
            version.c.form_of,
            prior_search.c.state.label("search_state"),
            prior_search.c.problem.label("search_problem"),
            select(func.count())
            .where(prior.c.study_uid == study.c.uid, prior.c.state == "here")
            .scalar_subquery()
            .label("priors_here"),
            unresolved().label("recalled"),
            earlier.standing().label("earlier"),
            earlier.unanswered().label("pressing"),
        )
    )


def _read(connection: Connection, rows: Any) -> list[Line]:
    shown = [row.outcome_id for row in rows if row.status in ("verified", "withdrawn")]
    given: dict[int, list[Verdict]] = {}
    if shown:
        for row in connection.execute(select(verdict).where(verdict.c.outcome_id.in_(shown))):
            given.setdefault(row.outcome_id, []).append(read(row, 0))
    before = _said_before(connection, [row.earlier for row in rows if row.earlier is not None])
    lines: list[Line] = []
    for row in rows:
        last = standing(given.get(row.outcome_id, []))
        result = _result(row, _absent(row)) if row.state == "scored" else None
        kept = before.get(row.earlier)
        if kept and kept[2] and row.pressing:
            kept = kept[0], f"{kept[1]}, and images of another patient came since", kept[2]
        lines.append(
            Line(
                row.uid,
                row.patient_id or "",
                row.issuer or "",
                row.accession,
                row.status,
                row.revision,
                row.received_at,
                row.urgency,
                tuple((reason["code"], reason["text"]) for reason in row.reasons or ()),
                result,
                last[0].reader if last else "",
                priors.described(row.search_state, row.search_problem, row.priors_here),
                row.recalled or "",
                left_out(row.conflicting) if row.conflicting else "",
                taken_out(row.excluded) if row.excluded else "",
                _waits(row.doubted) if row.doubted else "",
                *(kept or (None, "", "")),
                pressing=bool(row.pressing),
            )
        )
    return lines


def _waits(images: int) -> str:
    return f"a rejection of {images} {'image' if images == 1 else 'images'} waits for a person"


def _result(row: Any, absent: Iterable[str] = ()) -> Result:
    return Result(
        row.outcome_id,
        row.revision,
        row.score,
        row.threshold,
        row.positive,
        label(row.name, row.number, row.form_of is not None),
        row.version_digest,
        row.input_digest,
        row.engine,
        row.prepared_by,
        row.created_at,
        row.chosen_text,
        _structures(row.measurements),
        tuple(dict.fromkeys((*absent, *(reason["text"] for reason in row.reasons)))),
        Confidence.model_validate(row.confidence) if row.confidence else None,
    )


def _said_before(connection: Connection, outcomes: Sequence[int]) -> dict[int, tuple[Result, str, str]]:
    """Results from before images came that were not read: with what they said, and who answered it, in words."""
    if not outcomes:
        return {}
    signed: dict[int, list[Verdict]] = {}
    for row in connection.execute(select(verdict).where(verdict.c.outcome_id.in_(outcomes))):
        signed.setdefault(row.outcome_id, []).append(read(row, 0))
    bereft = earlier.bereft(outcome).label("bereft")
    query = select(
        outcome, outcome.c.id.label("outcome_id"), bereft, version.c.name, version.c.number, version.c.form_of
    ).outerjoin(version, version.c.digest == outcome.c.version_digest)
    found: dict[int, tuple[Result, str, str]] = {}
    for row in connection.execute(query.where(outcome.c.id.in_(outcomes))):
        unread = "its image was rejected" if row.bereft else "it was said before later images came"
        result = _result(row, (unread,))  # so that it is no all-clear of the study
        last = standing(signed.get(row.id, []))
        answered = f"{last[0].reader} answered {last[0].answer}".replace("_", " ") if last else ""
        when = "Its image was rejected; nothing was read instead" if row.bereft else "Before later images came"
        said = f"{when}: {result.call}, {result.score:.2f} ({result.version})"
        found[row.id] = (result, f"{said}; {answered or 'nobody has answered it'}", answered)
    return found


def _absent(row: Any) -> Iterator[str]:
    """What was announced and not waited for any longer, and what came since and differs."""
    if row.conflicting:
        yield left_out(row.conflicting)
    if row.missing:
        yield f"{row.images + row.missing} images were expected, {row.images} came"


def _structures(measurements: dict[str, Any] | None) -> tuple[str, ...]:
    every = (measurements or {}).get("series", ())
    said = [_structure(label) for series in every for label in series["labels"]]
    left_out = [text for series in every if (text := series.get("uncompared"))]  # absent in rows of earlier releases
    return (*said, *dict.fromkeys(left_out))


def _structure(label: dict[str, Any]) -> str:
    said = f"{label['name']}: {label['volume_ml']:.2f} mL"
    if label["long_mm"] is not None:
        said += f", {label['long_mm']:.1f} × {label['short_mm']:.1f} mm"
    if growth := label["growth"]:
        said += f"; {growth['percent']:+.0f} % in {growth['days']:.0f} days"
        if growth["doubling_days"] is not None:
            said += f", doubling in {growth['doubling_days']:.0f}"
    return said


def _looked_at(site: Site, uid: str, revision: int | None) -> Any:
    """The outcome of a revision, or of the one that is shown first."""
    if revision is None:
        shown = one(site, uid).line.shown
        revision = shown.revision if shown else 0
    query = select(outcome.c.id, outcome.c.input_digest, outcome.c.version_digest).where(
        outcome.c.study_uid == uid, outcome.c.revision == revision, outcome.c.kind == "scored"
    )
    with site.database.read() as connection:
        found = connection.execute(query).first()
    if found is None:
        raise NotFound("there is no result, so no image it rests on")
    return found


def _picture(site: Site, uid: str, revision: int | None = None) -> pydicom.Dataset:
    query = (
        select(delivery.c.sha256)
        .where(delivery.c.outcome_id == _looked_at(site, uid, revision).id, delivery.c.kind == "sc")
        .order_by(literal_column("rowid"))  # of several series the first, which is the one to look at first
    )
    with site.database.read() as connection:
        row = connection.execute(query).first()
    if row is None:
        raise NotFound("there is no picture of a map for this study")
    return pydicom.dcmread(io.BytesIO(_archive(site.archive).read(row.sha256)))


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@lru_cache(maxsize=8)
def _archive(folder: Path) -> Archive:
    return Archive(folder)
