"""Studies that a version could have read and did not: the loss of chance list. Derived, never kept: it cannot go stale.

Outside every intended use is no loss: nobody could have read it. Listed is what failed, what was refused because a file
or the node was not in order, what waits too long, whose result was recalled, of what one version has read a part and
another one was meant for the rest, and what was announced and never came. A study leaves the list when it is read.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from sqlalchemy import Connection, and_, case, exists, func, literal_column, or_, select

from client.inference.outcomes import retry
from client.inference.scope import Code
from client.inference.study import NOT_READ
from client.review.recall import withdrawn_by_recall
from client.store.site import Site
from client.store.tables import announcement, outcome, patient, study
from models.errors import Conflict

Why = Literal["failed", "refused", "recalled", "in_part", "waiting", "never_came"]
WHYS: Final[tuple[str, ...]] = get_args(Why)
_WAITING_SECONDS: Final = 600.0  # longer than any study takes; then nobody reads, or nobody calls it complete
_OUT_OF_USE: Final = frozenset(str(code) for code in Code)


@dataclass(frozen=True, slots=True)
class Missed:
    """One study, or a part of one, that nobody was told anything of.

    Attributes:
        reasons: (code, text).
        since: when it was to be read, seconds since the epoch.
        again: it can be put into the queue again.
    """

    uid: str
    accession: str
    patient_id: str
    why: Why
    reasons: tuple[tuple[str, str], ...]
    since: float
    again: bool


def listed(site: Site) -> list[Missed]:
    """All of them, the newest first."""
    now = time.time()
    with site.database.read() as connection:
        found = [*_here(connection, now), *_never_came(connection, now)]
    return sorted(found, key=lambda one: (-one.since, one.uid))


def counts(found: Sequence[Missed]) -> dict[str, int]:
    """How many for each reason."""
    return {why: sum(one.why == why for one in found) for why in WHYS}


def read_again(site: Site) -> int:
    """Queue all that can be; how many that were. What is still not in order comes back to the list."""
    done = 0
    for one in listed(site):
        if one.again:
            try:
                retry(site, one.uid)
            except Conflict:  # an image came meanwhile, and it is read anyway
                continue
            done += 1
    return done


def _here(connection: Connection, now: float) -> list[Missed]:
    why = case(
        (study.c.state.in_(("failed", "refused")), study.c.state),
        (and_(study.c.state == "scored", withdrawn_by_recall()), "recalled"),
        (study.c.state == "scored", "in_part"),
        else_="waiting",
    )
    since = case((study.c.state == "queued", func.coalesce(study.c.completed_at, study.c.touched_at)))
    query = (
        select(
            study.c.uid,
            study.c.accession,
            study.c.state,
            patient.c.patient_id,
            outcome.c.reasons,
            why.label("why"),
            func.coalesce(since, outcome.c.created_at, study.c.touched_at).label("since"),
        )
        .select_from(study)
        .outerjoin(outcome, and_(outcome.c.study_uid == study.c.uid, outcome.c.revision == study.c.revision))
        .outerjoin(patient, patient.c.key == study.c.patient_key)
        .where(
            or_(
                study.c.state.in_(("failed", "refused")),
                and_(study.c.state == "scored", or_(withdrawn_by_recall(), _in_part())),
                and_(
                    study.c.state.in_(("queued", "receiving")),
                    func.coalesce(since, study.c.touched_at) < now - _WAITING_SECONDS,
                ),
            )
        )
    )
    return [
        Missed(
            row.uid,
            row.accession,
            row.patient_id or "",
            row.why,
            _reasons(row),
            row.since,
            row.why not in ("waiting", "in_part"),
        )
        for row in connection.execute(query)
        if row.why != "refused" or _could_have(row.reasons or ())
    ]


def _in_part() -> Any:
    """SQL: whether another version than the one that read a study looks at more of it, or for something else."""
    code = literal_column(f"'\"{NOT_READ}\"'")
    return func.instr(outcome.c.reasons, code) > 0


def _could_have(reasons: Sequence[dict[str, Any]]) -> bool:
    """Whether nothing but the state of files or node was against it; any clause of an intended use is a refusal.

    A study that lacks a required series is within a version's use as far as it came (`pipeline.py` says so of no
    other), whatever other versions have against it, so that it might have been read.
    """
    codes = {str(reason["code"]) for reason in reasons}
    return str(Code.SERIES_MISSING) in codes or _OUT_OF_USE.isdisjoint(codes)


def _reasons(row: Any) -> tuple[tuple[str, str], ...]:
    if row.why == "recalled":
        return (("recalled", "the version that read it was recalled, and nobody has signed its result"),)
    if row.why == "waiting":
        text = "nobody reads the queue" if row.state == "queued" else "it was never called complete"
        return (("waiting", f"{text}: is the node running?"),)
    return tuple((reason["code"], reason["text"]) for reason in row.reasons or ())


def _never_came(connection: Connection, now: float) -> list[Missed]:
    """What a procedure step or an availability notification named, and of which no image is here."""
    query = (
        select(announcement.c.study_uid, announcement.c.instances, func.max(announcement.c.changed_at).label("since"))
        .where(
            announcement.c.state == "completed",
            announcement.c.changed_at < now - _WAITING_SECONDS,
            ~exists().where(study.c.uid == announcement.c.study_uid, study.c.state != "prior"),
        )
        .group_by(announcement.c.study_uid)
    )
    return [
        Missed(
            row.study_uid,
            "",
            "",
            "never_came",
            (("never-came", f"{len(row.instances)} images were announced and none came: send them again"),),
            row.since,
            again=False,
        )
        for row in connection.execute(query)
        if row.instances
    ]
