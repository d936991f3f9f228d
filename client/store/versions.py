"""The model versions that a hospital holds: received, judged, adopted, retired. Every change is in the ledger."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from sqlalchemy import Connection, insert, or_, select, update

from client.store import ledger
from client.store.countersigned import verified, verified_facts
from client.store.site import Site
from client.store.tables import ledger as entries
from client.store.tables import version, withdrawal
from models.bundle import Bundle, Facts, label
from models.errors import Conflict, NotFound

State = Literal["offered", "shadow", "adopted", "refused", "withdrawn", "retired"]


RECALLED_FOR_SAFETY: Final = "recall"
RECALLED_FOR_QUALITY: Final = "recall-quality"
"""Why a version is withdrawn by a recall, as the ledger has it."""


class Why(StrEnum):
    """Why a person changes what serves; closed, since the ledger keeps it and free text may hold a patient."""

    TRIAL = "trial"
    QUALITY = "quality"
    SAFETY = "safety"
    MISTAKE = "mistake"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class HeldVersion:
    """A version as this hospital keeps it.

    Attributes:
        threshold: the site's own; None: the vendor's.
        form_of: of this hospital's own form of a version, that one's digest.
    """

    digest: str
    name: str
    number: int
    state: State
    threshold: float | None
    decision: dict[str, Any] | None
    form_of: str | None = None

    @property
    def label(self) -> str:
        """NAME@NUMBER, with `+local` where it is this hospital's own form."""
        return label(self.name, self.number, self.form_of is not None)


def find(site: Site, digest: str) -> HeldVersion | None:
    """What is known here of the version with this digest."""
    with site.database.read() as connection:
        row = connection.execute(select(version).where(version.c.digest == digest)).first()
    return _held(row) if row else None


def form_of(site: Site, digest: str) -> HeldVersion | None:
    """This hospital's own form of a version, where it has one."""
    with site.database.read() as connection:
        row = connection.execute(select(version).where(version.c.form_of == digest)).first()
    return _held(row) if row else None


def listed(site: Site) -> list[HeldVersion]:
    """All versions, newest first."""
    with site.database.read() as connection:
        rows = connection.execute(select(version).order_by(version.c.received_at.desc())).all()
    return [_held(row) for row in rows]


def panel(site: Site) -> list[HeldVersion]:
    """The adopted versions, one of each model at most, the last adopted first."""
    query = select(version).where(version.c.state == "adopted").order_by(version.c.adopted_at.desc())
    with site.database.read() as connection:
        return [_held(row) for row in connection.execute(query)]


def serving(site: Site, name: str) -> HeldVersion | None:
    """The adopted version of a model."""
    return next((one for one in panel(site) if one.name == name), None)


def held(site: Site, digest: str) -> Bundle | None:
    """The verified bundle of a version that this hospital accepted at its border; None where it has none.

    Raises:
        BundleRefused: what lies on disk is no longer what was signed.
    """
    if find(site, digest) is None:
        return None
    return verified(site, digest)


def signed_facts(site: Site, digest: str) -> Facts | None:
    """What a version that this hospital accepted says of itself, as it was signed; None where it has none. To decide
    by; what is loaded comes from `held`.

    Raises:
        BundleRefused: what lies on disk is no longer what was signed.
    """
    return None if find(site, digest) is None else verified_facts(site, digest)


def facts(site: Site, digest: str) -> Facts | None:
    """What a version says of itself, unverified: to be shown, never to read by; None where its folder is gone."""
    try:
        return _facts(site.versions / digest)
    except (OSError, ValueError, KeyError):
        return None


def finding(site: Site, digest: str) -> tuple[str, str] | None:
    """What a version looks for, scheme and value, as `facts` says."""
    told = facts(site, digest)
    return None if told is None else (told.finding.scheme, told.finding.value)


def first_certified(site: Site, name: str) -> HeldVersion | None:
    """The first certified version of a model that this hospital holds, whether it still serves or not."""
    held_here = sorted((one for one in listed(site) if one.name == name), key=lambda one: (one.number, one.digest))
    for one in held_here:
        told = facts(site, one.digest)
        if told is not None and told.certified and one.state not in ("refused", "withdrawn"):
            return one
    return None


def barred(site: Site, digest: str) -> bool:
    """Whether no gate may adopt a version, held here or not: the coordinator has withdrawn it, and nobody keeps it.

    With a version, this hospital's own form of it.
    """
    of = select(version.c.form_of).where(version.c.digest == digest).scalar_subquery()
    query = select(withdrawal.c.state).where(
        or_(withdrawal.c.version_digest == digest, withdrawal.c.version_digest == of)
    )
    with site.database.read() as connection:
        return not {"obeyed", "waiting"}.isdisjoint(connection.execute(query).scalars())


def looks(site: Site, digest: str, against: Sequence[str]) -> list[dict[str, Any]]:
    """What earlier looks at a version rested on, oldest first; from the ledger, where none can be forgotten.

    Args:
        against: digests of the versions that it was compared with.
    """
    found = [json.loads(entry.facts) for entry in site.ledger.entries("version.looked")]
    return [one for one in found if one["digest"] == digest and one["against"] == ",".join(against)]


def receive(site: Site, bundle: Bundle, form_of: str | None = None) -> HeldVersion:
    """Enter a verified bundle; one that is there already keeps its state.

    Args:
        form_of: digest of the version that this is the hospital's own form of.
    """
    with site.database.write() as connection:
        if not connection.execute(select(version.c.digest).where(version.c.digest == bundle.digest)).first():
            connection.execute(
                insert(version).values(
                    digest=bundle.digest,
                    name=bundle.facts.name,
                    number=bundle.facts.number,
                    state="offered",
                    received_at=time.time(),
                    form_of=form_of,
                )
            )
            made: dict[str, ledger.Fact] = {} if form_of is None else {"form_of": form_of}
            _trace(connection, "version.received", bundle.digest, {"version": bundle.facts.label, **made})
    return _known(site, bundle.digest)


def note_decision(
    site: Site,
    digest: str,
    decision: dict[str, Any],
    threshold: float | None,
    look: Mapping[str, ledger.Fact] | None = None,
) -> None:
    """Keep what the adoption gate said; the ledger keeps every look.

    Args:
        look: what it rested on, where the gate looked at answers; in the same transaction, so that no answer is known
            of which the look is not.
    """
    with site.database.write() as connection:
        connection.execute(
            update(version).where(version.c.digest == digest).values(decision=decision, threshold=threshold)
        )
        if look is not None:
            _trace(connection, "version.looked", digest, look)
        _trace(connection, "version.judged", digest, {"decision": json.dumps(decision, sort_keys=True)})


def adopt(site: Site, digest: str, by: str = "", reason: Why | None = None) -> None:
    """Serve this version; the one of the same model that served before is retired. Twice is once.

    Args:
        by: the person whose word it is; empty: the gate's.
        reason: theirs.

    Raises:
        Conflict: it was recalled, perhaps while it was loaded; or the version was that it is a form of; or the
            coordinator has withdrawn either.
    """
    chosen = _known(site, digest)
    with site.database.write() as connection:
        of = select(version.c.state).where(version.c.digest == chosen.form_of)
        if connection.execute(of).scalar() == "withdrawn":
            raise Conflict(f"{chosen.label} is a form of a version that was recalled here, and does not serve")
        standing = select(withdrawal.c.state).where(withdrawal.c.version_digest.in_((digest, chosen.form_of)))
        stands = set(connection.execute(standing).scalars())
        if "obeyed" in stands or ("waiting" in stands and not by):
            raise Conflict(f"{chosen.label} was withdrawn by the coordinator: see `vigie site withdrawals list`")
        changed = connection.execute(
            update(version)
            .where(version.c.digest == digest, version.c.state.not_in(("adopted", "withdrawn")))
            .values(state="adopted", adopted_at=time.time())
        ).rowcount
        if not changed:
            if connection.execute(select(version.c.state).where(version.c.digest == digest)).scalar() == "withdrawn":
                raise Conflict(f"{chosen.label} was recalled here, and serves no more")
            return
        connection.execute(
            update(version)
            .where(version.c.digest != digest, version.c.name == chosen.name, version.c.state == "adopted")
            .values(state="retired")
        )
        said = _said(by, reason)
        _trace(connection, "version.adopted", digest, {"version": chosen.label, **said})


def retire(site: Site, name: str, by: str = "", reason: Why | None = None) -> HeldVersion:
    """Let the adopted version of a model read no further study.

    Args:
        by: the person whose word it is.
        reason: theirs.

    Raises:
        NotFound: no version of it is adopted.
    """
    found = serving(site, name)
    if found is None:
        raise NotFound(f"no version of {name!r} is adopted here")
    with site.database.write() as connection:
        connection.execute(update(version).where(version.c.digest == found.digest).values(state="retired"))
        said = {"version": found.label, **_said(by, reason)}
        _trace(connection, "version.retired", found.digest, said)
    return _known(site, found.digest)


def put(site: Site, digest: str, state: Literal["shadow", "refused", "withdrawn"], reasons: str) -> None:
    """Do not serve this version, and say why; one that was recalled stays so.

    With a version that is withdrawn, this hospital's own form of it is.
    """
    with site.database.write() as connection:
        put_in(connection, digest, state, reasons)


def put_in(connection: Connection, digest: str, state: Literal["shadow", "refused", "withdrawn"], reasons: str) -> None:
    """`put`, in the caller's transaction."""
    changed = connection.execute(
        update(version)
        .where(version.c.digest == digest, version.c.state.not_in((state, "withdrawn")))
        .values(state=state)
    ).rowcount
    if changed:
        _trace(connection, f"version.{state}", digest, {"reasons": reasons})
    if state == "withdrawn":
        for own in connection.execute(select(version.c.digest).where(version.c.form_of == digest)).scalars().all():
            put_in(connection, own, state, reasons)


def roll_back(site: Site, name: str, by: str = "", reason: Why | None = None) -> HeldVersion:
    """Serve again the version of this name that served before the present one.

    The one that is left keeps its state `retired` and forgets that it served: going back once more goes further back,
    and only a person's `adopt` brings it again. Where none serves, the one that a person has retired is left. A study
    that was begun is read to its end by the version that began it.

    Raises:
        NotFound: there is none to go back to.
    """
    query = (
        select(version)
        .where(version.c.name == name, version.c.adopted_at.is_not(None))
        .order_by(version.c.adopted_at.desc(), version.c.number.desc())
    )
    with site.database.write() as connection:
        # by the chain's order: a clock that was wrong for a while would make another version the one before
        turns = _turns(connection)
        served = sorted(connection.execute(query).all(), key=lambda one: turns.get(one.digest, 0), reverse=True)
        present = next((one for one in served if one.state == "adopted"), None)
        if present is None and served and served[0].state == "retired":  # nobody takes a version off to have it back
            present = served[0]
        row = next((one for one in served if one.state == "retired" and one is not present), None)
        if row is None:
            raise NotFound(f"no earlier version of {name!r} has served here: nothing to go back to")
        left = present.digest if present else ""
        connection.execute(update(version).where(version.c.digest == left).values(state="retired", adopted_at=None))
        connection.execute(
            update(version).where(version.c.digest == row.digest).values(state="adopted", adopted_at=time.time())
        )
        said = {"version": _held(row).label, "left": left, **_said(by, reason)}
        _trace(connection, "version.rolled-back", row.digest, said)
    return _known(site, row.digest)


def _turns(connection: Connection) -> dict[str, int]:
    """The ledger's newest entry by which each version came to serve."""
    serves = entries.c.event.in_(("version.adopted", "version.rolled-back"))
    rows = connection.execute(select(entries.c.seq, entries.c.facts).where(serves).order_by(entries.c.seq))
    return {json.loads(row.facts)["digest"]: row.seq for row in rows}


def _said(by: str, reason: Why | None) -> dict[str, ledger.Fact]:
    """Who it was and why, where it was a person."""
    return {"by": by, "reason": str(reason or Why.OTHER)} if by else {}


def _known(site: Site, digest: str) -> HeldVersion:
    found = find(site, digest)
    if found is None:
        raise NotFound(f"this hospital holds no version {digest[:12]}…")
    return found


def _trace(connection: Connection, event: str, digest: str, facts: Mapping[str, ledger.Fact]) -> None:
    ledger.append(connection, event, {"digest": digest, **facts})


def _held(row: Any) -> HeldVersion:
    return HeldVersion(row.digest, row.name, row.number, row.state, row.threshold, row.decision, row.form_of)


@lru_cache(maxsize=64)
def _facts(folder: Path) -> Facts:
    return Facts.model_validate(json.loads((folder / "configs" / "metadata.json").read_text())["vigie"])
