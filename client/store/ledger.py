"""The hospital's ledger: append-only, hash-chained.

Each entry's hash covers its number, time, event, facts and the hash before it, so that one changed byte anywhere
breaks every later link. No personal data goes in: a study stands in it as a keyed hash (`Site.study_key`).
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from client.store.database import Database
from client.store.tables import ledger

Fact = str | int | float | bool | None
GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the ledger; `facts` is the canonical JSON that was hashed."""

    seq: int
    at: float
    event: str
    facts: str
    previous: str
    hash: str

    def holds(self) -> bool:
        """Whether the hash is that of the content."""
        return self.hash == _hash(self.seq, self.at, self.event, self.facts, self.previous)


class Ledger:
    """Appends to and verifies the chain in a hospital's database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def append(self, event: str, facts: Mapping[str, Fact]) -> str:
        """Write one entry in a transaction of its own and return its hash."""
        with self._database.write() as connection:
            return append(connection, event, facts)

    def entries(self, event_prefix: str = "") -> Iterator[Entry]:
        """All entries whose event starts with the prefix, oldest first."""
        query = select(ledger).order_by(ledger.c.seq)
        if event_prefix:
            query = query.where(ledger.c.event.startswith(event_prefix, autoescape=True))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        for row in rows:
            yield Entry(row.seq, row.at, row.event, row.facts, row.previous, row.hash)

    def first_break(self) -> int | None:
        """The number of the first entry that does not hold, or None when the whole chain does."""
        previous, expected = GENESIS, 1
        for entry in self.entries():
            if entry.seq != expected or entry.previous != previous or not entry.holds():
                return expected
            previous, expected = entry.hash, expected + 1
        return None


def append(connection: Connection, event: str, facts: Mapping[str, Fact]) -> str:
    """Write one entry inside the caller's write transaction, so that act and trace stand or fall together."""
    last = connection.execute(select(ledger.c.seq, ledger.c.hash).order_by(ledger.c.seq.desc()).limit(1)).first()
    seq, previous = (last.seq + 1, last.hash) if last else (1, GENESIS)
    text = json.dumps(dict(facts), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    at = time.time()
    digest = _hash(seq, at, event, text, previous)
    connection.execute(insert(ledger).values(seq=seq, at=at, event=event, facts=text, previous=previous, hash=digest))
    return digest


def _hash(seq: int, at: float, event: str, facts: str, previous: str) -> str:
    content = json.dumps([seq, at, event, facts, previous], separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(content.encode()).hexdigest()
