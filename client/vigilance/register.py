"""The error register: where a hospital's truth and the AI's answer meet. Derived, never kept: it cannot go stale.

Truth is about a finding in an image and outlives a new score of it; so the verdicts counted are those on the very image
that the present score rests on, and on results that looked for the same, and what became known of the study later. No
truth is *missing*, never *agree*.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, and_, exists, select

from client.review.verdict import Answer, TruthTier, Verdict, read, standing
from client.store import versions
from client.store.site import Fold, Site
from client.store.tables import later_truth, outcome, patient, study, verdict, version
from client.vigilance import later


class ErrorKind(StrEnum):
    """How the AI's answer differs from the truth."""

    FALSE_POSITIVE = "false_positive"
    FALSE_NEGATIVE = "false_negative"
    NOT_ASSESSABLE = "not_assessable"


@dataclass(frozen=True, slots=True)
class Case:
    """A scored study whose truth is known.

    Attributes:
        positive: the truth.
        score: the AI's, 0..1.
        ai_positive: the AI's answer at the threshold that was applied.
        tier: what the truth rests on.
        input_digest: SHA-256 of the scored image's file.
        objects: the patient objects to reuse: leave out of training and gates.
        at: when the truth was given, seconds since the epoch.
        model: whose version read it, by name.
        finding: what the truth is about, scheme and value; None where that version's folder is gone.
    """

    study_uid: str
    patient_key: str
    fold: Fold
    objects: bool
    input_digest: str
    version_digest: str
    score: float
    threshold: float
    ai_positive: bool
    positive: bool
    tier: TruthTier
    at: float
    model: str
    finding: tuple[str, str] | None

    @property
    def correct(self) -> bool:
        return self.ai_positive == self.positive


@dataclass(frozen=True, slots=True)
class Error:
    """A study on which the AI was wrong, or should not have answered."""

    study_uid: str
    patient_key: str
    fold: Fold
    objects: bool
    version_digest: str
    kind: ErrorKind
    tier: TruthTier
    reason: str
    score: float
    threshold: float
    at: float


@dataclass(frozen=True, slots=True)
class Tally:
    """How one version did at this hospital, on one truth tier.

    Attributes:
        scored: studies whose present result is this version's, with or without a verdict, over all tiers.
    """

    version_digest: str
    tier: TruthTier
    scored: int
    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int
    not_assessable: int

    @property
    def validated(self) -> int:
        return self.true_positive + self.false_positive + self.true_negative + self.false_negative


def cases(site: Site) -> list[Case]:
    """Every scored study with a truth that is positive or negative, by study UID."""
    with site.database.read() as connection:
        known = [(row, truth) for row, truth in _truths(site, connection) if truth.answer is not Answer.NOT_ASSESSABLE]
    about = {digest: versions.finding(site, digest) for digest in {row.version_digest for row, _ in known}}
    return [_case(row, truth, about[row.version_digest]) for row, truth in known]


def concerns(site: Site, case: Case, digest: str) -> bool:
    """Whether the truth of a case is about what a version looks for: one that looks for something else is not wrong
    where it says something else.
    """
    return digest == case.version_digest or (
        case.finding is not None and case.finding == versions.finding(site, digest)
    )


def errors(site: Site) -> list[Error]:
    """Every study whose truth is not the AI's answer, newest first."""
    found: list[Error] = []
    with site.database.read() as connection:
        for row, truth in _truths(site, connection):
            kind = _kind(bool(row.positive), truth.answer)
            if kind is not None:
                found.append(
                    Error(
                        row.study_uid,
                        row.patient_key,
                        row.fold,
                        row.objects_to_reuse,
                        row.version_digest,
                        kind,
                        truth.tier,
                        str(truth.reason or ""),
                        row.score,
                        row.threshold,
                        truth.at,
                    )
                )
    return sorted(found, key=lambda error: (-error.at, error.study_uid))


def listed(site: Site) -> list[tuple[str, str, Error]]:
    """`errors`, each with the version's label and the study's accession number."""
    found = errors(site)
    labels = {held.digest: held.label for held in versions.listed(site)}
    with site.database.read() as connection:
        numbers = {
            row.uid: row.accession
            for row in connection.execute(select(study.c.uid, study.c.accession).where(study.c.accession != ""))
        }
    return [(labels.get(one.version_digest, ""), numbers.get(one.study_uid, ""), one) for one in found]


def tallies(site: Site) -> list[Tally]:
    """Counts per version and truth tier; tiers are never pooled."""
    counts: dict[tuple[str, TruthTier], dict[str, int]] = {}
    with site.database.read() as connection:
        scored: dict[str, int] = {}
        for (digest,) in connection.execute(
            select(outcome.c.version_digest)
            .join(study, and_(study.c.uid == outcome.c.study_uid, study.c.revision == outcome.c.revision))
            .where(outcome.c.kind == "scored")
        ):
            scored[digest] = scored.get(digest, 0) + 1
        for row, truth in _truths(site, connection):
            count = counts.setdefault((row.version_digest, truth.tier), {})
            cell = _cell(bool(row.positive), truth.answer)
            count[cell] = count.get(cell, 0) + 1
    return [
        Tally(
            digest,
            tier,
            scored.get(digest, 0),
            *(count.get(cell, 0) for cell in ("tp", "fp", "tn", "fn", "not_assessable")),
        )
        for (digest, tier), count in sorted(counts.items(), key=lambda item: (item[0][0], item[0][1].rank))
    ]


def _kind(said: bool, answer: Answer) -> ErrorKind | None:
    if answer is Answer.NOT_ASSESSABLE:
        return ErrorKind.NOT_ASSESSABLE
    if said == (answer is Answer.POSITIVE):
        return None
    return ErrorKind.FALSE_POSITIVE if said else ErrorKind.FALSE_NEGATIVE


def _cell(said: bool, answer: Answer) -> str:
    if answer is Answer.NOT_ASSESSABLE:
        return "not_assessable"
    return ("t" if said == (answer is Answer.POSITIVE) else "f") + ("p" if said else "n")


def _case(row: Any, truth: Verdict, about: tuple[str, str] | None) -> Case:
    return Case(
        row.study_uid,
        row.patient_key,
        row.fold,
        row.objects_to_reuse,
        row.input_digest,
        row.version_digest,
        row.score,
        row.threshold,
        row.positive,
        truth.answer is Answer.POSITIVE,
        truth.tier,
        truth.at,
        row.model,
        about,
    )


def _truths(site: Site, connection: Connection) -> Iterator[tuple[Any, Verdict]]:
    """Each scored study's present outcome with the truth that counts for its image and its finding."""
    earlier, judged = outcome.alias("earlier"), version.alias("judged")
    present = (
        outcome.c.version_digest,
        outcome.c.input_digest,
        outcome.c.score,
        outcome.c.threshold,
        outcome.c.positive,
        study.c.patient_key,
        patient.c.fold,
        patient.c.objects_to_reuse,
        version.c.name.label("model"),
    )
    query = (
        select(
            verdict,
            earlier.c.revision,
            *present,
            judged.c.digest.label("judged_digest"),
            judged.c.name.label("judged_model"),
        )
        .join(earlier, earlier.c.id == verdict.c.outcome_id)
        .join(judged, judged.c.digest == earlier.c.version_digest)
        .join(study, study.c.uid == verdict.c.study_uid)
        .join(outcome, and_(outcome.c.study_uid == study.c.uid, outcome.c.revision == study.c.revision))
        .join(patient, patient.c.key == study.c.patient_key)
        .join(version, version.c.digest == outcome.c.version_digest)
        .where(outcome.c.kind == "scored", study.c.state == "scored", earlier.c.input_digest == outcome.c.input_digest)
        .order_by(verdict.c.study_uid, verdict.c.id)
    )
    found: dict[str, tuple[Any, list[Verdict]]] = {}
    for uid, group in groupby(connection.execute(query), key=lambda row: row.study_uid):
        if rows := [row for row in group if _about_the_same(site, row)]:
            found[uid] = rows[-1], [read(row, row.revision) for row in rows]
    said = later.by_study(connection)
    if said:
        query = (
            select(outcome.c.study_uid, outcome.c.id.label("outcome_id"), study.c.revision, *present)
            .join(study, and_(outcome.c.study_uid == study.c.uid, outcome.c.revision == study.c.revision))
            .join(patient, patient.c.key == study.c.patient_key)
            .join(version, version.c.digest == outcome.c.version_digest)
            .where(outcome.c.kind == "scored", study.c.state == "scored")
            .where(exists().where(later_truth.c.study_uid == study.c.uid))
        )
        for row in connection.execute(query):
            about = versions.finding(site, row.version_digest)
            known = [one for one in said.get(row.study_uid, ()) if later.concerns(one, about)]
            if known:
                kept, given = found.get(row.study_uid, (row, list[Verdict]()))
                found[row.study_uid] = kept, [*given, *(later.as_verdict(one, row) for one in known)]
    for uid in sorted(found):
        row, given = found[uid]
        yield row, standing(given)[0]


def _about_the_same(site: Site, row: Any) -> bool:
    """Whether a verdict was on what the present result speaks of: a study may have been read by another model since."""
    if row.judged_digest == row.version_digest:
        return True
    one, other = versions.finding(site, row.judged_digest), versions.finding(site, row.version_digest)
    return row.judged_model == row.model if one is None or other is None else one == other
