"""Versions that the coordinator withdraws: what this hospital does with its word, and what a person says of it.

    notice ─► signature ─► policy: obey ─► the version reads no further study, as after a recall
                                   ask ──► a person: obey, or keep

The results that the version has left stay: to take them back is a person's decision (`vigie site recall`), as it is to
go back to an earlier version. What is withdrawn is so for good. A notice that comes again changes nothing, also where a
person has decided to keep the version; one of a version that is not here is kept, so that it is not adopted should it
still be on its way.
"""

import time
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from sqlalchemy import Connection, insert, or_, select, update

from client.store import ledger, versions
from client.store.site import Site
from client.store.tables import version, withdrawal
from models import withdrawal as signed
from models.errors import Conflict, NotAllowed, NotFound
from models.exchange import Taken, Withdrawal, Withdrawn
from models.signing import load_trust
from models.withdrawal import Notice

State = Literal["obeyed", "waiting", "kept"]
BY_COORDINATOR: Final = "coordinator"
"""The reason in the ledger of what a hospital withdraws at the coordinator's word."""


@dataclass(frozen=True, slots=True)
class Noticed:
    """A withdrawal as this hospital keeps it.

    Attributes:
        held: the version is here.
        served: it read studies here when the notice came.
        by: the person who decided; empty: the policy.
        seen_by: who has taken note; empty: nobody yet.
    """

    notice: Notice
    signer: str
    state: State
    held: bool
    served: bool
    by: str
    seen_by: str
    received_at: float

    @property
    def pressing(self) -> bool:
        """Whether a person should look: to decide, or because a version that served does not any more."""
        return self.held and (self.state == "waiting" or (self.served and self.state == "obeyed" and not self.seen_by))


def answer(site: Site, order: Withdrawal) -> Withdrawn:
    """Take in the withdrawal of a version, and say what became of it here; asked again, it says how it stands.

    Raises:
        NotAllowed: nobody whose signature counts here has signed it.
    """
    try:
        if order.signer not in site.config.consent.signers:
            raise NotAllowed(f"a withdrawal signed by {order.signer!r} does not count here (consent.signers)")
        signed.verify(order.notice, order.signature, order.signer, load_trust(site.trust))
    except NotAllowed as error:
        site.ledger.append("version.withdrawal-refused", {"digest": order.digest, "why": str(error)})
        raise
    obey = site.config.consent.withdrawals == "obey"
    with site.database.write() as connection:
        state = _state(connection, order.digest)
        if state is None:
            state = _note(connection, order, "obeyed" if obey else "waiting")
        elif state == "waiting" and obey:
            state = _decide(connection, order.digest, "obeyed", "")
        if state == "obeyed":
            versions.put_in(connection, order.digest, "withdrawn", BY_COORDINATOR)
        held = _held(connection, order.digest)
    taken: Taken = "not-held" if not held else "withdrawn" if state == "obeyed" else state
    return Withdrawn(digest=order.digest, notice=order.sha256, state=taken)


# ── What people ask ──────────────────────────────────────────────────────────────────────────────────────────────────


def listed(site: Site) -> list[Noticed]:
    """All withdrawals that were ever told, newest first."""
    held = {one.digest for one in versions.listed(site)}
    with site.database.read() as connection:
        rows = connection.execute(select(withdrawal).order_by(withdrawal.c.received_at.desc())).all()
    return [_read(row, row.version_digest in held) for row in rows]


def decide(site: Site, name: str, state: Literal["obeyed", "kept"], by: str) -> Noticed:
    """Obey a withdrawal that waits for a person, or one that a person has kept; or keep the version.

    Args:
        name: name@number of the version, or the beginning of its digest.
        by: whose word it is.

    Raises:
        NotFound: nobody has withdrawn it.
        Conflict: it is withdrawn already, which is for good; or several are called so.
    """
    found = _named(site, name)
    digest = found.notice.version
    with site.database.write() as connection:
        if _state(connection, digest) == "obeyed" and state == "kept":
            raise Conflict(f"{found.notice.label} is withdrawn here: a version that is withdrawn does not come back")
        _decide(connection, digest, state, by)
        if state == "obeyed":
            versions.put_in(connection, digest, "withdrawn", BY_COORDINATOR)
    return _named(site, digest)


def see(site: Site, name: str, by: str) -> Noticed:
    """Take note of a withdrawal: it is shown on the worklist no more.

    Raises:
        NotFound, Conflict: see `decide`.
    """
    found = _named(site, name)
    with site.database.write() as connection:
        changed = connection.execute(
            update(withdrawal)
            .where(withdrawal.c.version_digest == found.notice.version, withdrawal.c.seen_by == "")
            .values(seen_by=by)
        ).rowcount
        if changed:
            ledger.append(connection, "version.withdrawal-seen", {"digest": found.notice.version, "by": by})
    return _named(site, found.notice.version)


# ── Inside ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _note(connection: Connection, order: Withdrawal, state: State) -> State:
    # by its own form of it a hospital serves a version too
    serves = select(version.c.digest).where(
        or_(version.c.digest == order.digest, version.c.form_of == order.digest), version.c.state == "adopted"
    )
    connection.execute(
        insert(withdrawal).values(
            version_digest=order.digest,
            notice=order.notice.decode(),
            signer=order.signer,
            signature=order.signature.hex(),
            state=state,
            served=connection.execute(serves).first() is not None,
            received_at=time.time(),
            decided_at=time.time() if state == "obeyed" else None,
        )
    )
    # the reason is free text of somebody else's, and stays out of the chain: its digest is in it
    facts: dict[str, ledger.Fact] = {"notice": order.sha256, "signer": order.signer, "state": state}
    ledger.append(connection, "version.withdrawal", {"digest": order.digest, **facts})
    return state


def _decide(connection: Connection, digest: str, state: State, by: str) -> State:
    changed = connection.execute(
        update(withdrawal)
        .where(withdrawal.c.version_digest == digest, withdrawal.c.state != state)
        .values(state=state, by=by, decided_at=time.time(), seen_by=by)
    ).rowcount
    if changed:
        ledger.append(connection, "version.withdrawal", {"digest": digest, "state": state, "by": by})
    return state


def _state(connection: Connection, digest: str) -> State | None:
    query = select(withdrawal.c.state).where(withdrawal.c.version_digest == digest)
    return cast(State | None, connection.execute(query).scalar_one_or_none())


def _held(connection: Connection, digest: str) -> bool:
    return connection.execute(select(version.c.digest).where(version.c.digest == digest)).first() is not None


def _named(site: Site, name: str) -> Noticed:
    found = [
        one
        for one in listed(site)
        if name == one.notice.label or (len(name) >= 6 and one.notice.version.startswith(name.lower()))
    ]
    if not found:
        raise NotFound(
            f"no version {name!r} was withdrawn by the coordinator: `vigie site withdrawals list` shows them"
        )
    if len(found) > 1:
        raise Conflict(f"{len(found)} withdrawn versions are called {name!r}: name one by its digest")
    return found[0]


def _read(row: Any, held: bool) -> Noticed:
    return Noticed(
        signed.read(row.notice.encode()),
        row.signer,
        cast(State, row.state),
        held,
        row.served,
        row.by,
        row.seen_by,
        row.received_at,
    )
