"""What vendors are told of how their versions do here: in releases that are closed for good, and kept.

    signed question ─► settings ─► the release that it has not had ─► (a person) ─► border

A release is closed at most once a month for a version, of patients whose truth was known before the month began, and
counts nobody whom an earlier one has counted (`models.stats.release`): who holds all of them against each other learns
what one of them says. It never changes: a truth that comes later counts nowhere twice, and a question that is asked
again is answered with the same bytes.
"""

import json
import secrets
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from sqlalchemy import Connection, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from client.federation import budget
from client.store import ledger, versions
from client.store.ledger import Fact
from client.store.site import Site
from client.store.tables import statistics_patient, statistics_release
from client.vigilance import counting
from models import audit
from models.errors import Conflict, ConsentMissing, NotAllowed, NotFound, VigieError
from models.exchange import Audit, Figures, Lines
from models.signing import load_trust
from models.stats import release
from models.stats.noise import noised
from models.stats.release import Block, Line

State = Literal["waiting", "agreed", "declined"]


@dataclass(frozen=True, slots=True)
class Release:
    """One that was closed.

    Attributes:
        version: its digest.
        period: the month in whose beginning it was closed, 202611.
        patients: whom it counts.
        epsilon: of the noise on its counts; 0: there is none.
        by: the person who decided; empty: the policy, or nobody yet.
        asked_at: when it was given in answer first, seconds since the epoch; None: never.
    """

    version: str
    number: int
    period: int
    lines: tuple[Line, ...]
    patients: int
    epsilon: float
    state: State
    by: str
    made_at: float
    decided_at: float | None
    asked_at: float | None


# ── What the coordinator asks ────────────────────────────────────────────────────────────────────────────────────────


def answer(site: Site, order: Audit, now: float | None = None) -> Figures:
    """The next release after those that the coordinator has, closed now where it is time; or that there is nothing new.

    Raises:
        NotAllowed: nobody whose signature counts here has asked, or another hospital was, or long ago.
        BudgetExhausted: see `make`.
    """
    now, asked = time.time() if now is None else now, order.asked
    try:
        _verify(site, order, now)
        agreed = [one for one in listed(site, asked.version) if one.state == "agreed"]
        found = next((one for one in agreed if one.number > asked.after), None)
        if found is None:
            made = make(site, asked.version, now)
            found = made if made is not None and made.state == "agreed" else None
    except VigieError as error:
        site.ledger.append("statistics.refused", {"version": asked.version, "code": error.code, "why": str(error)})
        raise
    if found is None:
        return Figures(digest=asked.version)
    with site.database.write() as connection:
        connection.execute(
            update(statistics_release)
            .where(*_is(found.version, found.number), statistics_release.c.asked_at.is_(None))
            .values(asked_at=now)
        )
    return Figures(
        digest=found.version,
        number=found.number,
        period=found.period,
        epsilon=found.epsilon or None,
        told=Lines.of(found.lines),
    )


def preview(site: Site, digest: str, now: float | None = None) -> Block:
    """What would leave if it were asked for now; closes nothing."""
    begin = month(time.time() if now is None else now)[1]
    with site.database.read() as connection:
        query = select(statistics_patient.c.patient_key).where(statistics_patient.c.version_digest == digest)
        told = set(connection.execute(query).scalars())
    return release.close(counting.patients(site, digest, told, begin), begin)


def make(site: Site, digest: str, now: float | None = None) -> Release | None:
    """Close a release where it is time, and there is something to tell; None: it is not, or one waits for a person.

    Raises:
        BudgetExhausted: the noise that the settings ask for costs more privacy than is left here.
    """
    now = time.time() if now is None else now
    period, agreed = month(now)[0], site.config.consent.statistics == "policy"
    if not _due(listed(site, digest), period):
        return None
    block = preview(site, digest, now)
    if not block.lines:
        return None
    if faults := release.faults(block.lines):  # never: but what is not safe is not even kept
        raise Conflict(f"the counts are not safe to tell: {faults[0]}")
    epsilon = site.config.privacy.statistics
    if epsilon:
        budget.require(site, digest, epsilon)
    told = Lines.of(noised(block.lines, epsilon, secrets.randbelow) if epsilon else block.lines)
    try:
        with site.database.write() as connection:
            number = 1 + (
                connection.execute(
                    select(func.max(statistics_release.c.number)).where(statistics_release.c.version_digest == digest)
                ).scalar()
                or 0
            )
            connection.execute(
                insert(statistics_release).values(
                    version_digest=digest,
                    number=number,
                    period=period,
                    lines=told.model_dump() if told else {},
                    patients=len(block.patients),
                    epsilon=epsilon,
                    state="agreed" if agreed else "waiting",
                    made_at=now,
                    decided_at=now if agreed else None,
                )
            )
            connection.execute(
                insert(statistics_patient),
                [{"version_digest": digest, "patient_key": key, "number": number} for key in sorted(block.patients)],
            )
            _trace(
                connection, "closed", digest, number, {"period": period, "lines": len(block.lines), "epsilon": epsilon}
            )
    except IntegrityError:  # somebody else has closed one meanwhile, of some of the same patients
        pass
    return next((one for one in listed(site, digest) if one.period == period), None)


# ── What people ask ──────────────────────────────────────────────────────────────────────────────────────────────────


def listed(site: Site, digest: str = "") -> list[Release]:
    """All releases, or those of one version; in order."""
    query = select(statistics_release).order_by(statistics_release.c.version_digest, statistics_release.c.number)
    if digest:
        query = query.where(statistics_release.c.version_digest == digest)
    with site.database.read() as connection:
        return [_read(row) for row in connection.execute(query)]


def decide(site: Site, digest: str, number: int, state: Literal["agreed", "declined"], by: str) -> Release:
    """Let a release that waits leave when it is asked for next, or not. Whom it counts is then free for a later one.

    Raises:
        NotFound: there is no such release.
        Conflict: it was decided otherwise.
    """
    with site.database.write() as connection:
        row = connection.execute(select(statistics_release).where(*_is(digest, number))).first()
        if row is None:
            raise NotFound(f"there is no release {number} of this version: `vigie site statistics releases` lists them")
        if row.state not in ("waiting", state):
            raise Conflict(f"release {number} is {row.state} already")
        if row.state == "waiting":
            values = {"state": state, "by": by, "decided_at": time.time()}
            connection.execute(update(statistics_release).where(*_is(digest, number)).values(**values))
            if state == "declined":
                told = statistics_patient.c
                connection.execute(
                    delete(statistics_patient).where(told.version_digest == digest, told.number == number)
                )
            _trace(connection, state, digest, number, {"by": by})
    return next(one for one in listed(site, digest) if one.number == number)


def refusals(site: Site, since: float = 0.0) -> Counter[str]:
    """Why questions were refused that were more than unwelcome, and how often, from the ledger.

    Args:
        since: seconds since the epoch.
    """
    entries = [json.loads(one.facts) for one in site.ledger.entries("statistics.refused") if one.at >= since]
    return Counter(str(facts["why"]) for facts in entries if facts["code"] != ConsentMissing.code)


def month(now: float) -> tuple[int, float]:
    """A month as 202611, and when it began: in UTC, so that a summer time moves nobody from one to the other."""
    at = datetime.fromtimestamp(now, UTC)
    return at.year * 100 + at.month, datetime(at.year, at.month, 1, tzinfo=UTC).timestamp()


def versions_here(site: Site) -> list[versions.HeldVersion]:
    """The versions that vendors could ask about: all but this hospital's own forms, which nobody else knows."""
    return [one for one in versions.listed(site) if one.form_of is None]


# ── Inside ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _verify(site: Site, order: Audit, now: float) -> None:
    if order.signer not in site.config.consent.signers:
        raise NotAllowed(f"a question signed by {order.signer!r} does not count here (consent.signers)")
    audit.verify(order.request, order.signature, order.signer, load_trust(site.trust))
    if order.asked.hospital != site.config.name:
        raise NotAllowed("another hospital was asked")
    if abs(now - order.asked.at) > audit.FRESH:
        raise NotAllowed("the question is of another hour: it was kept, or a clock is wrong")


def _due(before: list[Release], period: int) -> bool:
    return not any(one.state == "waiting" or one.period >= period for one in before)


def _is(digest: str, number: int) -> tuple[Any, Any]:
    return statistics_release.c.version_digest == digest, statistics_release.c.number == number


def _trace(connection: Connection, what: str, digest: str, number: int, facts: dict[str, Fact]) -> None:
    ledger.append(connection, f"statistics.{what}", {"version": digest, "number": number, **facts})


def _read(row: Any) -> Release:
    lines = Lines.model_validate({name: tuple(values) for name, values in row.lines.items()}).lines()
    return Release(
        row.version_digest,
        row.number,
        row.period,
        lines,
        row.patients,
        row.epsilon,
        cast(State, row.state),
        row.by,
        row.made_at,
        row.decided_at,
        row.asked_at,
    )
