"""Warnings that the studies that come are not those that came: what is different about them, and the likely cause.

The first studies that a model's versions read are the reference; each patient counts once. What is seen of the others
(`client.inference.traits`) is compared with it (`monitor.py`), and where the evidence is enough, a warning says from
when on, what is different and why that may be (`causes.py`). A warning stops nothing: whether care is worse for it, the
harm alarm says. A cause that needs truths which come later is named once they are known.

A person takes note, and may say that this is how things are now: then what comes is compared with the studies since the
change.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, insert, select, update

from client.inference import observed
from client.store import ledger, versions
from client.store.site import Site
from client.store.tables import drift, outcome, study, trait, version
from client.vigilance import register
from client.vigilance.causes import Cause, Difference, Seen, likely
from client.vigilance.monitor import Monitored, monitor
from models.errors import NotFound
from models.stats.detector import staked

_MOST: Final = 10_000  # studies after the reference that are compared: the newest
_TOLD: Final = 6  # differences that a warning tells of


@dataclass(frozen=True, slots=True)
class Observed:
    """One study, as it is compared.

    Attributes:
        at: when it was read, seconds since the epoch.
        ours: by the version of the model that reads now.
    """

    at: float
    ours: bool
    seen: Seen


@dataclass(frozen=True, slots=True)
class Compared:
    """Where the studies of a model stand.

    Attributes:
        name: of the model.
        since: when the reference began, seconds since the epoch.
        reference: studies in it.
        wanted: how many it takes; while there are fewer, nothing is compared.
        studies: that were compared.
        monitored: how; None: nothing yet.
        cause: likely, where the studies have changed.
        differences: that it rests on, the largest first.
        change_at: from when on, where they have.
    """

    name: str
    since: float
    reference: int
    wanted: int
    studies: int
    monitored: Monitored | None = None
    cause: Cause | None = None
    differences: tuple[Difference, ...] = ()
    change_at: float | None = None


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning that was given."""

    id: int
    name: str
    cause: Cause
    differences: tuple[str, ...]
    change_at: float
    at: float
    seen_by: str
    seen_at: float | None
    usual: bool

    @property
    def text(self) -> str:
        """What it says, for people."""
        day = time.strftime("%Y-%m-%d", time.localtime(self.change_at))
        cause = "cause not known (yet)" if self.cause is Cause.UNKNOWN else f"likely cause: {self.cause}"
        why = f" ({'; '.join(self.differences[:3])})" if self.differences else ""
        return f"{self.name}: studies have changed, from about {day} on; {cause}{why}"


def look(site: Site) -> list[Compared]:
    """Compare what each model's versions read here."""
    wanted = site.config.watch.reference
    names = {held.name: held.digest for held in versions.panel(site)}
    if not wanted or not names:
        return []
    begins = _begins(site)
    a_year = site.config.watch.false_warnings / len(names)
    truths = {case.study_uid: case.positive for case in register.cases(site)}
    found: list[Compared] = []
    for name, digest in sorted(names.items()):
        found.append(compared(name, read(site, name, digest, begins.get(name, 0.0), truths), wanted, a_year))
    return found


def compared(name: str, studies: Sequence[Observed], wanted: int, a_year: float) -> Compared:
    """Compare the studies of a model, in their order, with the first of them. Pure."""
    since = studies[0].at if studies else 0.0
    if len(studies) <= wanted:
        return Compared(name, since, len(studies), wanted, 0)
    first, after = studies[:wanted], studies[wanted:]
    begin = after[-_MOST - 1].at if len(after) > _MOST else first[-1].at
    after = after[-_MOST:]
    used = [*first, *after]
    due = staked(np.maximum.accumulate([one.at for one in after]), begin, a_year)
    found = monitor([one.seen.traits for one in used], wanted, due, [one.ours for one in used])
    if found.change is None:
        return Compared(name, since, wanted, wanted, len(after), found)
    cause, differences = likely([one.seen for one in first], [one.seen for one in after[found.change :]])
    change_at = after[found.change].at
    return Compared(name, since, wanted, wanted, len(after), found, cause, differences, change_at)


def advance(site: Site) -> list[Warned]:
    """Give the warnings that are due, once each, and name causes that have become clear."""
    new: list[int] = []
    for one in look(site):
        if one.cause is None or one.change_at is None:
            continue
        told = [difference.text for difference in one.differences[:_TOLD]]
        facts: dict[str, Any] = {"differences": told, "studies": one.studies}
        with site.database.write() as connection:
            if _begins_in(connection).get(one.name, 0.0) > one.since:
                continue  # a person has said meanwhile what is usual now
            query = select(drift.c.id, drift.c.cause).where(drift.c.name == one.name, drift.c.since == one.since)
            row = connection.execute(query).first()
            if row is None:
                values = {"name": one.name, "since": one.since, "change_at": one.change_at, "cause": str(one.cause)}
                done = connection.execute(insert(drift).values(facts=facts, at=time.time(), **values))
                new.append(int(done.inserted_primary_key[0]) if done.inserted_primary_key else 0)
                ledger.append(connection, "drift.warned", {"model": one.name, "cause": str(one.cause)})
            elif row.cause == Cause.UNKNOWN and one.cause is not Cause.UNKNOWN:
                values = {"cause": str(one.cause), "facts": facts}
                connection.execute(update(drift).where(drift.c.id == row.id).values(**values))
                new.append(int(row.id))
                ledger.append(connection, "drift.named", {"model": one.name, "cause": str(one.cause)})
    return [one for one in warnings(site) if one.id in new]


def warnings(site: Site, *, unseen: bool = False) -> list[Warned]:
    """The warnings that were given here, newest first."""
    query = select(drift).order_by(drift.c.id.desc())
    if unseen:
        query = query.where(drift.c.seen_at.is_(None))
    with site.database.read() as connection:
        rows = connection.execute(query).all()
    return [
        Warned(
            row.id,
            row.name,
            Cause(row.cause),
            tuple(row.facts["differences"]),
            row.change_at,
            row.at,
            row.seen_by,
            row.seen_at,
            row.usual,
        )
        for row in rows
    ]


def begin(site: Site, name: str) -> float:
    """From when on a model's studies are compared, seconds since the epoch."""
    return _begins(site).get(name, 0.0)


def see(site: Site, number: int, by: str, *, usual: bool) -> None:
    """A person has taken note of a warning; twice is once.

    Args:
        usual: it is how things are now: what comes is compared with the studies since the change, once there are
            enough of them.

    Raises:
        NotFound: there is none of this number.
    """
    with site.database.write() as connection:
        row = connection.execute(select(drift).where(drift.c.id == number)).first()
        if row is None:
            raise NotFound(f"there is no warning {number} here")
        if row.seen_at is not None and (row.usual or not usual):
            return
        values = {"seen_by": by, "seen_at": time.time(), "usual": usual}
        connection.execute(update(drift).where(drift.c.id == number).values(**values))
        facts = {"model": row.name, "warning": number, "by": by, "usual": usual}
        ledger.append(connection, "drift.seen", facts)


def read(site: Site, name: str, digest: str, since: float, truths: Mapping[str, bool]) -> list[Observed]:
    """The studies that a model's versions read since a moment, oldest first, the first of each patient.

    Args:
        digest: of the version that reads now.
        truths: what is known of studies, by UID.
    """
    query = (
        select(trait, outcome.c.study_uid, outcome.c.created_at, outcome.c.version_digest, study.c.patient_key)
        .join(outcome, outcome.c.id == trait.c.outcome_id)
        .join(study, study.c.uid == outcome.c.study_uid)
        .join(version, version.c.digest == outcome.c.version_digest)
        .where(version.c.name == name, outcome.c.created_at >= since)
        .order_by(outcome.c.created_at, outcome.c.id)
    )
    first: dict[str, Observed] = {}
    with site.database.read() as connection:
        for row in connection.execute(query):
            if row.patient_key not in first:
                seen = Seen(observed.of_row(row), truths.get(row.study_uid))
                first[row.patient_key] = Observed(row.created_at, row.version_digest == digest, seen)
    return list(first.values())


def _begins(site: Site) -> dict[str, float]:
    with site.database.read() as connection:
        return _begins_in(connection)


def _begins_in(connection: Connection) -> dict[str, float]:
    """From when on studies are compared, by model: from the last change that is how things are now."""
    begins: dict[str, float] = {}
    for row in connection.execute(select(drift.c.name, drift.c.change_at).where(drift.c.usual)):
        begins[row.name] = max(begins.get(row.name, 0.0), row.change_at)
    return begins
