"""The hospital's random sample: the patients whom its key drew, and whether those validated still stand for them.

Who is in it was drawn before anybody read anything (`Site.fold`). Whose truth is known was not: readers may confirm
rather what the AI found, or look again where it was wrong. A version compared on such a choice is compared on the
served one's mistakes. So of what the AI called positive and of what it called negative the same share is taken, drawn
by the hospital's key; and that share is known, so that a gate can ask for more.

What this cannot mend is a choice by what the reader saw and the AI did not. The smaller the share, the more room there
is for it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import and_, select

from client.store.site import Fold, Site
from client.store.tables import outcome, patient, study, version
from client.vigilance import register
from client.vigilance.register import Case, ErrorKind


@dataclass(frozen=True, slots=True)
class Sample:
    """The validated part of the random sample, in an order that does not change.

    Attributes:
        cases: of which the same share was validated of either answer of the AI.
        share: of all studies that were read of these patients, the truth is known of.
        least: the same of the answer of which less is known.
        strata: of the cases, by study.
    """

    cases: tuple[Case, ...]
    share: float
    least: float
    strata: Mapping[str, str]


def drawn(site: Site, model: str, cases: Sequence[Case], fold: Fold = "gate") -> Sample:
    """The random sample as it is now, of the studies that a model's versions read.

    Args:
        model: by name.
        cases: validated ones that may be reused.
        fold: which of those that nobody trains on.
    """
    unassessable = {one.study_uid for one in register.errors(site) if one.kind is ErrorKind.NOT_ASSESSABLE}
    query = (
        select(study.c.uid, outcome.c.positive, outcome.c.stratum)
        .join(outcome, and_(outcome.c.study_uid == study.c.uid, outcome.c.revision == study.c.revision))
        .join(patient, patient.c.key == study.c.patient_key)
        .join(version, version.c.digest == outcome.c.version_digest)
        .where(
            version.c.name == model,
            outcome.c.kind == "scored",
            study.c.state == "scored",
            patient.c.fold == fold,
            patient.c.objects_to_reuse.is_(False),
        )
    )
    with site.database.read() as connection:
        rows = {row.uid: row for row in connection.execute(query)}
    # an image that nobody can judge has been looked at: it is no gap
    called = {uid: bool(row.positive) for uid, row in rows.items() if uid not in unassessable}
    chosen = [case for case in cases if case.study_uid in called]
    kept = even(site, chosen, called)
    validated = {case.study_uid for case in chosen}
    return Sample(
        kept,
        len(validated) / len(called) if called else 0.0,
        min(_shares(validated, called).values(), default=0.0),
        {case.study_uid: str(rows[case.study_uid].stratum) for case in kept},
    )


def patients(site: Site, model: str) -> Counter[str]:
    """How many patients a model's versions read here, by stratum; each counts once, as they were when they came last.

    Where it has read nobody yet, those that others read: better known than nothing of whom it would read.
    """
    query = (
        select(study.c.patient_key, outcome.c.stratum, version.c.name)
        .join(outcome, and_(outcome.c.study_uid == study.c.uid, outcome.c.revision == study.c.revision))
        .join(version, version.c.digest == outcome.c.version_digest)
        .where(outcome.c.kind == "scored", study.c.state == "scored")
        .order_by(outcome.c.id)
    )
    with site.database.read() as connection:
        rows = connection.execute(query).all()
    own = [row for row in rows if row.name == model]
    return Counter({row.patient_key: str(row.stratum) for row in own or rows}.values())


def even(site: Site, cases: Sequence[Case], called: Mapping[str, bool]) -> tuple[Case, ...]:
    """As many of either answer as is known of the one of which less is.

    Args:
        cases: validated ones.
        called: the AI's answer to every study that could have been validated.
    """
    shares = _shares({case.study_uid for case in cases}, called)
    least = min(shares.values(), default=0.0)
    # each study has its place for good, so that a case that is left out does not come and go
    return tuple(
        case
        for case in cases
        if int(site.study_key(case.study_uid), 16) / 16**16 * shares[called[case.study_uid]] < least
    )


def _shares(validated: set[str], called: Mapping[str, bool]) -> dict[bool, float]:
    """What is known of each answer of the AI."""
    found: dict[bool, float] = {}
    for answer in (False, True):
        studies = [uid for uid, said in called.items() if said is answer]
        if studies:
            found[answer] = sum(uid in validated for uid in studies) / len(studies)
    return found
