"""Who may look at results, and as what. A token is shown once; only its hash is kept."""

import hashlib
import re
import secrets
import time
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import delete, insert, select

from client.store.ledger import append
from client.store.site import Site
from client.store.tables import reader
from models.errors import Conflict, NotAllowed, NotFound, NotSignedIn

_NOBODY = "-"  # begins what stands in the place of a token's hash where there is no token
_NAME = re.compile(r"[^\x00-\x1f\\=]{1,64}")


class Role(StrEnum):
    """What a reader is here for; a device is no person, and only stores images."""

    CLINICIAN = "clinician"
    IT = "it"
    OPERATOR = "operator"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Reader:
    """A person who has signed in."""

    name: str
    role: Role

    def require(self, *roles: Role) -> None:
        """Refuse whoever has none of the roles.

        Raises:
            NotAllowed: as said.
        """
        if self.role not in roles:
            raise NotAllowed(f"this needs the role {' or '.join(roles)}; {self.name} has {self.role}")


@dataclass(frozen=True, slots=True)
class Admitted:
    """Somebody who is let in; `since` when, as seconds since 1970."""

    name: str
    role: Role
    since: float


def listed(site: Site) -> list[Admitted]:
    """Who is let in, by name."""
    query = select(reader).where(~reader.c.token_sha256.startswith(_NOBODY)).order_by(reader.c.name)
    with site.database.read() as connection:
        return [Admitted(row.name, Role(row.role), row.created_at) for row in connection.execute(query)]


def add(site: Site, name: str, role: Role | str) -> str:
    """Admit a reader and give back their token: shown once, kept nowhere.

    Raises:
        NotAllowed: no such role, or a name that cannot stand in a report.
        Conflict: the name is taken, be it by somebody who was shut out.
    """
    if role not in list(Role):
        raise NotAllowed(f"role {role!r}: one of {', '.join(Role)}")
    if not _NAME.fullmatch(name) or name != name.strip():
        raise NotAllowed("a name has 1 to 64 characters, without line breaks, \\ and =")
    token = secrets.token_urlsafe(32)
    with site.database.write() as connection:
        if connection.execute(select(reader.c.name).where(reader.c.name == name)).first():
            raise Conflict(f"{name} is a reader already: --renew gives another token, --remove shuts them out")
        connection.execute(
            insert(reader).values(name=name, token_sha256=_hash(token), role=str(role), created_at=time.time())
        )
        append(connection, "reader.added", {"role": str(role)})
    return token


def renew(site: Site, name: str) -> str:
    """Give a reader a new token; the old one and every session opened with it end.

    Raises:
        NotFound: nobody of that name.
    """
    token = secrets.token_urlsafe(32)
    with site.database.write() as connection:
        changed = connection.execute(reader.update().where(reader.c.name == name).values(token_sha256=_hash(token)))
        if changed.rowcount == 0:
            raise NotFound(f"no reader is called {name}")
        append(connection, "reader.renewed", {})
    return token


def remove(site: Site, name: str) -> None:
    """Take a reader's access away, and end their sessions; one who has given verdicts stays in their history, without a
    token.

    Raises:
        NotFound: nobody of that name.
    """
    from client.store.tables import verdict

    with site.database.write() as connection:
        if connection.execute(select(verdict.c.id).where(verdict.c.reader == name).limit(1)).first():
            statement = reader.update().where(reader.c.name == name)
            changed = connection.execute(statement.values(token_sha256=_NOBODY + secrets.token_hex(16)))
        else:
            changed = connection.execute(delete(reader).where(reader.c.name == name))
        if changed.rowcount == 0:
            raise NotFound(f"no reader is called {name}")
        append(connection, "reader.removed", {})


def authenticate(site: Site, token: str) -> Reader:
    """Whose token this is.

    Raises:
        NotSignedIn: nobody's.
    """
    # The lookup is by hash: how long it takes says nothing of how much of a guessed token was right.
    return by_hash(site, _hash(token))


def by_hash(site: Site, token_sha256: str) -> Reader:
    """As `authenticate`, for a session that was opened with the token of this hash."""
    with site.database.read() as connection:
        row = connection.execute(
            select(reader.c.name, reader.c.role).where(reader.c.token_sha256 == token_sha256)
        ).first()
    if row is None:
        raise NotSignedIn("sign in with a token of this hospital")
    return Reader(row.name, Role(row.role))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
