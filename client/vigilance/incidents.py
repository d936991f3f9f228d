"""Incidents: what a result or an alarm has led to, whom it has to be told and by when, and what was told.

An incident is a history: opened, told to somebody, closed or withdrawn, each by a person; nothing of it is edited away.
What the person wrote stands in the hospital's database alone; in the ledger stands that it happened, coded.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo
from typing import Any, Final, Literal, get_args
from zoneinfo import ZoneInfo

from sqlalchemy import Connection, insert, select

from client.store import ledger, suspensions, versions
from client.store.site import Site
from client.store.tables import alarm, incident, incident_event, outcome, study
from client.store.versions import HeldVersion
from client.vigilance.deadlines import MEANINGS, Deadline, Severity, State, deadlines
from models.errors import ConfigurationError, Conflict, NotFound

Kind = Literal["missed", "false_positive", "wrong_patient", "misleading", "unavailable", "other"]
KINDS: Final[dict[str, str]] = {
    "missed": "a finding that is there was not called",
    "false_positive": "a finding was called that is not there",
    "wrong_patient": "a result stood under another patient",
    "misleading": "what was shown could be misunderstood",
    "unavailable": "no result came, or too late",
    "other": "other",
}
To = Literal["authority", "manufacturer"]
TO: Final[tuple[To, ...]] = get_args(To)
Event = Literal["opened", "told", "closed", "withdrawn"]


@dataclass(frozen=True, slots=True)
class Happened:
    """One entry of an incident's history.

    Attributes:
        to: of `told`: whom.
        reference: under which they know it.
        text: what the person wrote.
    """

    event: Event
    at: float
    by: str
    to: str
    reference: str
    text: str


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident, as it stands.

    Attributes:
        aware: when somebody here became aware, seconds since the epoch.
        study_uid, accession: of the result, where it is about one.
        alarm: its number, where it is about one.
        zone: where the hospital is; None: where the machine is set to be.
    """

    id: int
    version: HeldVersion
    kind: Kind
    severity: Severity
    aware: float
    study_uid: str
    accession: str
    alarm: int | None
    history: tuple[Happened, ...]
    zone: tzinfo | None = None

    @property
    def state(self) -> Literal["open", "closed", "withdrawn"]:
        """What the last word of it was."""
        last = self.history[-1].event
        return "open" if last in ("opened", "told") else last

    def told(self, to: To) -> float | None:
        """When somebody was told first, whenever that was written down."""
        return min((one.at for one in self.history if one.event == "told" and one.to == to), default=None)

    @property
    def deadlines(self) -> tuple[Deadline, ...]:
        """Who has to tell by when."""
        return deadlines(self.severity, self.aware, self.told("manufacturer"), self.zone)

    def due(self, now: float) -> tuple[tuple[Deadline, State], ...]:
        """The deadlines and where they stand. The manufacturer's own is theirs: it is counted, and never ours to meet
        beyond telling them.
        """
        ours = self.told("authority")
        return tuple((one, one.state(now, ours if one.who == "user" else None)) for one in self.deadlines)

    @property
    def pressing(self) -> bool:
        """Whether this hospital still has to tell somebody."""
        return self.state == "open" and (self.told("authority") is None or self.told("manufacturer") is None)

    @property
    def text(self) -> str:
        """What it is about, for people."""
        what = f"study {self.accession or self.study_uid}" if self.study_uid else f"alarm {self.alarm}"
        about = what if self.study_uid or self.alarm else "the version"
        return f"incident {self.id}: {self.version.label}, {about}: {KINDS[self.kind]} ({MEANINGS[self.severity]})"


def open_incident(
    site: Site,
    held: HeldVersion,
    kind: str,
    severity: Severity,
    text: str,
    by: str,
    *,
    study_uid: str = "",
    number: int | None = None,
    aware: float | None = None,
    suspend: bool = False,
) -> Incident:
    """Open an incident about a version; it may be suspended in the same act.

    Args:
        study_uid: of a result that it is about.
        number: of an alarm that it is about.
        aware: when somebody here became aware; None: now.

    Raises:
        NotFound: no such alarm of the version, or no result of the version's for the study.
        ConfigurationError: no such kind, or aware in the future.
        Conflict: it is to be suspended and does not serve.
    """
    now = time.time()
    if kind not in KINDS:
        raise ConfigurationError(f"--kind {kind!r}: one of {', '.join(KINDS)}")
    if aware is not None and aware > now:
        raise ConfigurationError("nobody can have become aware in the future")
    with site.database.write() as connection:
        _require_about(connection, held, study_uid, number)
        if suspend:
            if not any(one.digest == held.digest for one in versions.panel(site)):
                raise Conflict(f"{held.label} does not read here: there is nothing to suspend")
            suspensions.suspend_in(connection, held.digest, "person", "safety", by)
        values: dict[str, Any] = {
            "version_digest": held.digest,
            "kind": kind,
            "severity": str(severity),
            "aware": now if aware is None else aware,
            "study_uid": study_uid or None,
            "alarm_id": number,
        }
        made = connection.execute(insert(incident).values(**values)).inserted_primary_key
        assert made is not None
        key = int(made[0])
        _write(
            connection,
            key,
            "opened",
            by,
            text=text,
            facts={"digest": held.digest, "kind": kind, "severity": str(severity)},
        )
    return find(site, key)


def tell(site: Site, key: int, to: str, reference: str, by: str, text: str = "", at: float | None = None) -> Incident:
    """Write down that somebody was told; more than once is a history, and the first one counts.

    Args:
        at: when that was; None: now.

    Raises:
        NotFound: no such incident.
        Conflict: it is closed or withdrawn.
        ConfigurationError: nobody of this name is to be told, or it was before anybody knew, or is yet to come.
    """
    if at is not None and not find(site, key).aware <= at <= time.time():
        raise ConfigurationError("somebody was told after this hospital became aware, and not in the future")
    if to not in TO:
        raise ConfigurationError(f"--to {to!r}: one of {', '.join(TO)}")
    with site.database.write() as connection:
        _require_open(connection, key)
        _write(connection, key, "told", by, at=at, to=to, reference=reference, text=text, facts={"to": to})
    return find(site, key)


def end(site: Site, key: int, event: Literal["closed", "withdrawn"], text: str, by: str) -> Incident:
    """Close an incident with what it came to, or withdraw one that is none, with the reason.

    Raises:
        NotFound: no such incident.
        Conflict: it is closed or withdrawn already; or to be closed, and somebody has not been told.
        ConfigurationError: nothing is said.
    """
    if not text.strip():
        raise ConfigurationError("say what it came to, or why it is none")
    found = find(site, key)
    if event == "closed" and found.pressing and found.severity is not Severity.NOT_SERIOUS:
        missing = " and ".join(to for to in TO if found.told(to) is None)
        raise Conflict(f"incident {key}: {missing} not told yet; or withdraw it, where it is none")
    with site.database.write() as connection:
        _require_open(connection, key)
        _write(connection, key, event, by, text=text, facts={})
    return find(site, key)


def listed(site: Site) -> list[Incident]:
    """All incidents, newest first."""
    with site.database.read() as connection:
        rows = connection.execute(
            select(incident, study.c.accession)
            .outerjoin(study, study.c.uid == incident.c.study_uid)
            .order_by(incident.c.id.desc())
        ).all()
        events = connection.execute(select(incident_event).order_by(incident_event.c.id)).all()
    held = {digest: versions.find(site, digest) for digest in {row.version_digest for row in rows}}
    histories: dict[int, list[Happened]] = {}
    for row in events:
        happened = Happened(row.event, row.at, row.by, row.to, row.reference, row.text)
        histories.setdefault(row.incident_id, []).append(happened)
    zone = ZoneInfo(site.config.timezone) if site.config.timezone else None
    found: list[Incident] = []
    for row in rows:
        version = held[row.version_digest]
        assert version is not None  # rows of versions are never deleted
        about = (row.study_uid or "", row.accession or "", row.alarm_id)
        severity = Severity(row.severity)
        history = tuple(histories[row.id])
        found.append(Incident(row.id, version, row.kind, severity, row.aware, *about, history, zone))
    return found


def pressing(site: Site, now: float | None = None) -> Sequence[Incident]:
    """Those of which this hospital still has to tell somebody, the one that is due first first."""
    now = time.time() if now is None else now
    found = [one for one in listed(site) if one.pressing and one.severity is not Severity.NOT_SERIOUS]
    return sorted(found, key=lambda one: min(deadline.at for deadline in one.deadlines))


def find(site: Site, key: int) -> Incident:
    """One incident.

    Raises:
        NotFound: there is none of this number.
    """
    found = next((one for one in listed(site) if one.id == key), None)
    if found is None:
        raise NotFound(f"there is no incident {key} here")
    return found


def _require_about(connection: Connection, held: HeldVersion, study_uid: str, number: int | None) -> None:
    if number is not None:
        query = select(alarm.c.id).where(alarm.c.id == number, alarm.c.version_digest == held.digest)
        if connection.execute(query).first() is None:
            raise NotFound(f"there is no alarm {number} of {held.label} here")
    if study_uid:
        query = select(outcome.c.id).where(outcome.c.study_uid == study_uid, outcome.c.version_digest == held.digest)
        if connection.execute(query).first() is None:
            raise NotFound(f"{held.label} has left no result for this study")


def _require_open(connection: Connection, key: int) -> None:
    query = (
        select(incident_event.c.event).where(incident_event.c.incident_id == key).order_by(incident_event.c.id.desc())
    )
    last = connection.execute(query.limit(1)).scalar()
    if last is None:
        raise NotFound(f"there is no incident {key} here")
    if last in ("closed", "withdrawn"):
        raise Conflict(f"incident {key} is {last}: open another one")


def _write(
    connection: Connection,
    key: int,
    event: Event,
    by: str,
    *,
    facts: dict[str, ledger.Fact],
    at: float | None = None,
    to: str = "",
    reference: str = "",
    text: str = "",
) -> None:
    values = {
        "incident_id": key,
        "event": event,
        "at": time.time() if at is None else at,
        "by": by,
        "to": to,
        "reference": reference,
        "text": text,
    }
    connection.execute(insert(incident_event).values(**values))
    ledger.append(connection, f"incident.{event}", {"incident": key, "by": by, **facts})
