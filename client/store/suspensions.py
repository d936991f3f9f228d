"""Versions that read no study here for the time being, by a stop rule or a person's word. Both ways are in the ledger.

A suspended version stays adopted: it is what a candidate is compared with, and reads on once somebody lets it. What it
would have read is refused, with that reason.
"""

import time
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from client.store import ledger
from client.store.site import Site
from client.store.tables import suspension, version
from client.store.versions import HeldVersion, Why
from models.errors import Conflict


@dataclass(frozen=True, slots=True)
class Suspension:
    """Why a version reads nothing.

    Attributes:
        cause: alarm, or person.
        reason: coded: what the alarm was about, or the person's reason.
        by: the person; empty: a stop rule.
        at: seconds since the epoch.
    """

    digest: str
    cause: str
    reason: str
    by: str
    at: float


def standing(site: Site) -> dict[str, Suspension]:
    """The suspensions that stand, by the version's digest."""
    with site.database.read() as connection:
        return standing_in(connection)


def standing_in(connection: Connection) -> dict[str, Suspension]:
    """`standing`, in the caller's transaction."""
    rows = connection.execute(select(suspension).where(suspension.c.lifted_at.is_(None))).all()
    return {row.version_digest: Suspension(row.version_digest, row.cause, row.reason, row.by, row.at) for row in rows}


def suspend(site: Site, held: HeldVersion, reason: Why, by: str) -> None:
    """Let a version read no further study, on a person's word; twice is once.

    Raises:
        Conflict: it does not serve.
    """
    with site.database.write() as connection:
        state = connection.execute(select(version.c.state).where(version.c.digest == held.digest)).scalar()
        if state != "adopted":
            raise Conflict(f"{held.label} reads nothing here: it is {state}")
        suspend_in(connection, held.digest, "person", str(reason), by)


def suspend_in(connection: Connection, digest: str, cause: str, reason: str, by: str = "") -> None:
    """`suspend`, in the caller's transaction, whoever says so."""
    query = select(suspension.c.id).where(suspension.c.version_digest == digest, suspension.c.lifted_at.is_(None))
    if connection.execute(query).first():
        return
    values = {"version_digest": digest, "cause": cause, "reason": reason, "by": by, "at": time.time()}
    connection.execute(insert(suspension).values(**values))
    ledger.append(connection, "version.suspended", {"digest": digest, "cause": cause, "reason": reason, "by": by})


def lift(site: Site, held: HeldVersion, reason: Why, by: str) -> None:
    """Let a suspended version read again, on a person's word; a watch over it begins anew.

    Raises:
        Conflict: it is not suspended.
    """
    with site.database.write() as connection:
        changed = connection.execute(
            update(suspension)
            .where(suspension.c.version_digest == held.digest, suspension.c.lifted_at.is_(None))
            .values(lifted_at=time.time(), lifted_by=by)
        ).rowcount
        if not changed:
            raise Conflict(f"{held.label} is not suspended")
        ledger.append(connection, "version.resumed", {"digest": held.digest, "reason": str(reason), "by": by})


def last_lifted(connection: Connection) -> dict[str, float]:
    """When versions were last let read again, by digest."""
    rows = connection.execute(select(suspension).where(suspension.c.lifted_at.is_not(None)))
    found: dict[str, float] = {}
    for row in rows:
        found[row.version_digest] = max(found.get(row.version_digest, 0.0), row.lifted_at)
    return found
