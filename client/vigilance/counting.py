"""Which of a version's patients could be counted for its vendor, each once: by how they came to be looked at.

A patient counts by their first exam with the version. Whom the hospital's key drew before anybody read anything, and
whose exam was drawn for a second read, waits until somebody says who did not see the AI's answer, however long that
takes: counted earlier by another's word, they would be missing where they are worth more. Of a retrained version nobody
counts from whom it may have learned; who objects to the reuse of their images counts nowhere.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, cast

from sqlalchemy import and_, select

from client.review.verdict import TruthTier
from client.store import versions
from client.store.site import Site
from client.store.tables import outcome, patient, study
from client.vigilance import register, sample, second_reads
from client.vigilance.register import ErrorKind
from models.stats.release import Column, Patient, Stream, Tier, groups_of

_STREAMS: Final[dict[str, Stream]] = {
    "discordant": "discordant",
    "double_positive": "double-positive",
    "double_negative": "double-negative",
}


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of an exam."""

    stream: Stream
    tier: TruthTier
    inclusion: float
    positive: bool
    at: float


def patients(site: Site, digest: str, told: Collection[str] = (), before: float = math.inf) -> list[Patient]:
    """A version's patients who could be counted.

    Of the random sample as large a share of those whom the AI called counts as of those whom it did not, whichever of
    them are validated more (`sample.even`): else a rate would be one of what somebody chose to look at.

    Args:
        digest: of the version.
        told: keys of patients who were counted.
        before: what became known from then on, seconds since the epoch, is not known yet.
    """
    cases = {case.study_uid: case for case in register.cases(site) if case.version_digest == digest}
    drawn = {one.study_uid: one for one in second_reads.verified(site, digest)}
    least = TruthTier(site.config.watch.least_tier)
    rows = [row for row in _first_exams(site, digest) if row.patient_key not in told]
    known = {row.study_uid: _known(cases.get(row.study_uid), drawn.get(row.study_uid), row, least) for row in rows}
    found = [(row, one) for row in rows if (one := known[row.study_uid]) is not None and one.at < before]
    chosen = [cases[row.study_uid] for row, one in found if one.stream == "random"]
    unassessable = {one.study_uid for one in register.errors(site) if one.kind is ErrorKind.NOT_ASSESSABLE}
    called = {
        row.study_uid: bool(row.positive) for row in rows if row.fold != "train" and row.study_uid not in unassessable
    }
    kept = {case.study_uid for case in sample.even(site, chosen, called)}
    return [_patient(row, one) for row, one in found if one.stream != "random" or row.study_uid in kept]


def _first_exams(site: Site, digest: str) -> list[Any]:
    """Each patient's first exam with a version, but of those who may not be counted."""
    facts = versions.facts(site, digest)
    retrained = facts is not None and facts.retraining is not None
    query = (
        select(outcome.c.study_uid, outcome.c.positive, outcome.c.stratum, study.c.patient_key, patient.c.fold)
        .add_columns(patient.c.objects_to_reuse)
        .join(study, and_(study.c.uid == outcome.c.study_uid, study.c.revision == outcome.c.revision))
        .join(patient, patient.c.key == study.c.patient_key)
        .where(outcome.c.kind == "scored", study.c.state == "scored", outcome.c.version_digest == digest)
        .order_by(outcome.c.created_at, outcome.c.id)
    )
    first: dict[str, Any] = {}
    with site.database.read() as connection:
        for row in connection.execute(query):
            first.setdefault(row.patient_key, row)
    return [row for row in first.values() if not (row.objects_to_reuse or (retrained and row.fold == "train"))]


def _patient(row: Any, known: _Known) -> Patient:
    truth = "with" if known.positive else "without"
    column = Column(known.stream, cast(Tier, str(known.tier)), round(100 * known.inclusion), truth)
    right = bool(row.positive) is known.positive
    return Patient(row.patient_key, column, groups_of(str(row.stratum)), right, known.at)


def _known(
    case: register.Case | None, drawn: second_reads.Verified | None, row: Any, least: TruthTier
) -> _Known | None:
    if row.fold != "train":
        if case is None or case.tier.rank < least.rank:
            return None
        return _Known("random", case.tier, 1.0, case.positive, case.at)
    if drawn is not None:
        if drawn.positive is None:
            return None
        return _Known(_STREAMS[drawn.kind], drawn.tier, drawn.probability, drawn.positive, drawn.at)
    return None if case is None else _Known("routine", case.tier, 0.0, case.positive, case.at)
