"""Which of a version's patients could be counted for its vendor, each once: by how they came to be looked at.

A patient counts by their first exam with the version. Whom the hospital's key drew before anybody read anything, and
whose exam was drawn for a second read, waits until somebody says who did not see the AI's answer, however long that
takes: counted earlier by another's word, they would be missing where they are worth more. Of a retrained version nobody
counts from whom it may have learned; who objects to the reuse of their images counts nowhere.
"""

from dataclasses import dataclass
from typing import Final, cast

from sqlalchemy import and_, select

from client.review.verdict import TruthTier
from client.store import versions
from client.store.site import Site
from client.store.tables import outcome, patient, study
from client.vigilance import register, second_reads
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


def patients(site: Site, digest: str) -> list[Patient]:
    """A version's patients whose truth is known, whether they were told of or not.

    Args:
        digest: of the version.
    """
    facts = versions.facts(site, digest)
    retrained = facts is not None and facts.retraining is not None
    cases = {case.study_uid: case for case in register.cases(site) if case.version_digest == digest}
    drawn = {one.study_uid: one for one in second_reads.verified(site, digest)}
    least = TruthTier(site.config.watch.least_tier)
    query = (
        select(outcome.c.study_uid, outcome.c.positive, outcome.c.stratum, study.c.patient_key, patient.c.fold)
        .add_columns(patient.c.objects_to_reuse)
        .join(study, and_(study.c.uid == outcome.c.study_uid, study.c.revision == outcome.c.revision))
        .join(patient, patient.c.key == study.c.patient_key)
        .where(outcome.c.kind == "scored", study.c.state == "scored", outcome.c.version_digest == digest)
        .order_by(outcome.c.created_at, outcome.c.id)
    )
    found: dict[str, Patient | None] = {}
    with site.database.read() as connection:
        rows = connection.execute(query).all()
    for row in rows:
        if row.patient_key in found:
            continue
        found[row.patient_key] = None
        if row.objects_to_reuse or (retrained and row.fold == "train"):
            continue
        known = _known(cases.get(row.study_uid), drawn.get(row.study_uid), row.fold != "train", least)
        if known is not None:
            column = Column(
                known.stream,
                cast(Tier, str(known.tier)),
                round(100 * known.inclusion),
                "with" if known.positive else "without",
            )
            right = bool(row.positive) is known.positive
            found[row.patient_key] = Patient(row.patient_key, column, groups_of(str(row.stratum)), right, known.at)
    return [one for one in found.values() if one is not None]


def _known(
    case: register.Case | None, drawn: second_reads.Verified | None, sampled: bool, least: TruthTier
) -> _Known | None:
    if sampled:
        if case is None or case.tier.rank < least.rank:
            return None
        return _Known("random", case.tier, 1.0, case.positive, case.at)
    if drawn is not None:
        if drawn.positive is None:
            return None
        return _Known(_STREAMS[drawn.kind], drawn.tier, drawn.probability, drawn.positive, drawn.at)
    return None if case is None else _Known("routine", case.tier, 0.0, case.positive, case.at)
