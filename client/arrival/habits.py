"""Keeps what was learned of senders, so that a restart forgets nothing; the table has a largest size."""

import time
from collections.abc import Mapping

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from client.arrival.completeness import MOST_HABITS, Basis, Habit, Key, Sender
from client.store.tables import habit


def load(connection: Connection) -> dict[Key, Habit]:
    """All habits, those first that nothing was learned of for longest."""
    found: dict[Key, Habit] = {}
    known, edges = set(Basis), len(Habit().gaps)
    for row in connection.execute(select(habit).order_by(habit.c.changed_at)):
        # of a release that knew other words or edges: it is learned again
        if row.basis in known and len(row.gaps) == edges:
            key = (Sender(row.calling_ae, row.modality), Basis(row.basis))
            found[key] = Habit(row.seen, row.clean, row.late, list(row.gaps))
    return found


def keep(connection: Connection, learned: Mapping[Key, Habit]) -> None:
    """Write what changed, inside the caller's transaction."""
    now = time.time()
    for (sender, basis), learnt in learned.items():
        values = {
            "seen": learnt.seen,
            "clean": learnt.clean,
            "late": learnt.late,
            "gaps": [round(weight, 3) for weight in learnt.gaps],
            "changed_at": now,
        }
        statement = upsert(habit).values(
            calling_ae=sender.calling_ae, modality=sender.modality, basis=str(basis), **values
        )
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=[habit.c.calling_ae, habit.c.modality, habit.c.basis], set_=values
            )
        )
    newest = select(habit.c.changed_at).order_by(habit.c.changed_at.desc()).offset(MOST_HABITS).limit(1)
    limit = connection.execute(newest).scalar()
    if limit is not None:
        connection.execute(delete(habit).where(habit.c.changed_at <= limit))
