"""The harm alarm: whether a version that reads here has become worse than this hospital tolerates.

Two rates are watched, of the exams of the random sample (`exams.py`): how often the version misses a finding that is
there, and how often it calls one that is not. Neither depends on how many patients have the finding. What is tolerated
is what the adoption gate saw here and the hospital accepted, plus the gate's margin; where no gate has seen a figure,
what the settings say. Bets are that either has risen, or both; those of all versions share one rate of false alarms
(`models.stats.detector`).

An alarm is kept and stays until a person has taken note. Where the site's stop rule says so, it suspends the version:
care goes on without it. The watch over a version begins when it is adopted, and anew when an alarm has been noted or a
suspension lifted.
"""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, insert, select, update

from client.review.verdict import TruthTier
from client.store import ledger, suspensions, versions
from client.store.site import Site
from client.store.tables import alarm, version
from client.store.versions import HeldVersion
from client.vigilance import exams
from client.vigilance.causes import Cause
from client.vigilance.exams import Exam
from client.vigilance.explained import explained
from configs.schema import WatchConfig
from models.errors import NotFound
from models.exchange import Evidence
from models.stats.detector import Bet, Course, follow, staked
from models.stats.intervals import Estimate, Floats, proportion

ERROR: Final = "error"
MISSED: Final = "missed"
FALSE_POSITIVE: Final = "false_positive"
WORDS: Final = {
    ERROR: "errs more often than is tolerated",
    MISSED: "misses more of what is there than is tolerated",
    FALSE_POSITIVE: "calls more of what is not there than is tolerated",
}
_ALONE, _BOTH = 0.25, 0.5  # shares of what may be staked
_OVERDUE: Final = 90 * 86400.0  # seconds; what is not known by then is not late but missing
_HIGHEST: Final = 0.9  # of what may be tolerated: a version that errs in nine of ten exams reads nothing


@dataclass(frozen=True, slots=True)
class Rate:
    """One rate that is watched, or both together, and where it stands.

    Attributes:
        tolerated: the highest that is no alarm; of both together, for as many findings as there were.
        found: what is known of it since the watch began, with its exact interval.
        errors, exams: that it rests on.
        evidence: that it is higher than tolerated; of all together an alarm at 1.
    """

    name: str
    tolerated: float
    found: Estimate
    errors: int
    exams: int
    evidence: float


@dataclass(frozen=True, slots=True)
class Watched:
    """A version under watch.

    Attributes:
        since: when this watch began, seconds since the epoch.
        exams: of the random sample since then.
        pending: whose truth is not known yet.
        missing: of these, made so long ago that it is not merely late.
        rates: what is watched.
        course: the evidence at each exam, for a picture.
        at: when those exams were made.
    """

    version: HeldVersion
    since: float
    exams: int
    pending: int
    missing: int
    rates: tuple[Rate, ...]
    course: Course
    at: Floats

    @property
    def alarming(self) -> str | None:
        """The rate that speaks most for an alarm, where there is one."""
        if self.course.alarm is None:
            return None
        return self.rates[int(np.argmax(self.course.evidence[self.course.alarm]))].name


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that was raised."""

    id: int
    version: HeldVersion
    claim: str
    facts: Mapping[str, Any]
    at: float
    seen_by: str
    seen_at: float | None

    @property
    def text(self) -> str:
        """What it says, for people."""
        errors, of = int(self.facts["errors"]), int(self.facts["exams"])
        tolerated = self.facts["tolerated"]
        said = f"{self.version.label} {WORDS[self.claim]}: {errors} of {of} exams, tolerated {tolerated:.0%}"
        if self.facts.get("cause", Cause.UNKNOWN) == Cause.UNKNOWN:
            return said
        return f"{said}; likely cause: {self.facts['cause']} ({self.facts['because']})"


def look(site: Site, now: float | None = None) -> list[Watched]:
    """Where each version stands that reads here, or would if it were not suspended."""
    settings, now = site.config.watch, time.time() if now is None else now
    sample = exams.sampled(site, TruthTier(settings.least_tier))
    begins = _begins(site)
    if not begins:
        return []
    order = [exam for exam in sample if exam.at >= min(begins.values())]
    at = np.array([exam.at for exam in order], dtype=np.float64)
    due = staked(at, min(begins.values()), settings.false_alarms) if order else at
    found: list[Watched] = []
    for held in versions.panel(site):
        if (since := begins.get(held.digest)) is None:  # adopted this moment
            continue
        own = [n for n, exam in enumerate(order) if exam.version_digest == held.digest and exam.at >= since]
        found.append(_watched(site, held, since, [order[n] for n in own], due[own], now))
    return found


def advance(site: Site, now: float | None = None) -> list[Alarm]:
    """Raise the alarms that are due, once each, and suspend where the stop rule says so."""
    due = [one for one in look(site, now) if one.alarming is not None]
    if not due:
        return []
    raised: list[int] = []
    reasons = {one.version.digest: explained(site, one.version) for one in due}
    with site.database.write() as connection:
        begins = _begins_in(connection)
        for one in due:
            digest, claim = one.version.digest, one.alarming or ERROR
            if begins.get(digest) != one.since or _stands(connection, digest, one.since):
                continue
            rate = next(rate for rate in one.rates if rate.name == claim)
            facts: dict[str, ledger.Fact] = {"errors": rate.errors, "exams": rate.exams}
            facts |= {"tolerated": round(rate.tolerated, 4), "cause": str(reasons[digest].cause)}
            kept = facts | {"because": reasons[digest].because}
            values = {"version_digest": digest, "claim": claim, "since": one.since, "facts": kept, "at": time.time()}
            key = connection.execute(insert(alarm).values(**values)).inserted_primary_key
            raised.append(int(key[0]) if key else 0)
            ledger.append(connection, "alarm.raised", {"digest": digest, "claim": claim, **facts})
            if site.config.watch.on_alarm == "suspend":
                suspensions.suspend_in(connection, digest, "alarm", claim)
    return [one for one in alarms(site) if one.id in raised]


def alarms(site: Site, *, unseen: bool = False) -> list[Alarm]:
    """The alarms that were raised here, newest first."""
    query = select(alarm).order_by(alarm.c.id.desc())
    if unseen:
        query = query.where(alarm.c.seen_at.is_(None))
    with site.database.read() as connection:
        rows = connection.execute(query).all()
    held = {digest: versions.find(site, digest) for digest in {row.version_digest for row in rows}}
    return [
        Alarm(row.id, one, row.claim, row.facts, row.at, row.seen_by, row.seen_at)
        for row in rows
        if (one := held[row.version_digest]) is not None
    ]


def see(site: Site, number: int, by: str) -> None:
    """A person has taken note of an alarm; twice is once.

    Raises:
        NotFound: there is none of this number.
    """
    with site.database.write() as connection:
        row = connection.execute(select(alarm).where(alarm.c.id == number)).first()
        if row is None:
            raise NotFound(f"there is no alarm {number} here")
        if row.seen_at is None:
            values = {"seen_by": by, "seen_at": time.time()}
            connection.execute(update(alarm).where(alarm.c.id == number).values(**values))
            ledger.append(connection, "alarm.seen", {"digest": row.version_digest, "alarm": number, "by": by})


def tolerated(settings: WatchConfig, accepted: Evidence | None, margin: float) -> dict[str, float]:
    """What is tolerated of each rate that is watched.

    Args:
        accepted: what the adoption gate saw of the version here, on the random sample.
        margin: by which the gate would have let it be worse.
    """
    wanted = {MISSED: settings.missed, FALSE_POSITIVE: settings.false_positive}
    found = {name: most for name, most in wanted.items() if most}
    seen = accepted.candidate_gate if accepted is not None else None
    if seen is None or seen.tp is None or seen.fn is None or seen.tn is None or seen.fp is None:
        return found
    rates = {
        MISSED: seen.fn / max(seen.tp + seen.fn, 1),
        FALSE_POSITIVE: seen.fp / max(seen.tn + seen.fp, 1),
    }
    return {name: min(max(most, rates[name] + margin), _HIGHEST) for name, most in found.items()}


def bets(limits: Mapping[str, float]) -> dict[str, Bet]:
    """What is bet, by what an alarm of it says."""
    alone = {name: Bet((name,), _ALONE if len(limits) > 1 else 1.0) for name in limits}
    return alone if len(limits) == 1 else {ERROR: Bet(tuple(limits), _BOTH), **alone}


def values(names: Sequence[str], sample: Sequence[Exam]) -> Floats:
    """(N, rates) what each exam says of each rate: 1 an error, 0 none, NaN nothing.

    Of an exam whose truth is not known yet, what says least for an alarm of all that it may turn out to be.
    """
    said = np.array([[_value(name, exam) for name in names] for exam in sample], dtype=np.float64)
    return said.reshape(len(sample), len(names))


def _value(claim: str, exam: Exam) -> float:
    if not exam.assessable:
        return math.nan
    concerned = claim == MISSED  # the truth of which the rate is one
    if exam.truth is not None:
        return float(exam.wrong) if exam.truth is concerned else math.nan
    return 0.0 if exam.called is concerned else math.nan


def _rate_of(truth: bool) -> str:
    """The rate that an exam is one of."""
    return MISSED if truth else FALSE_POSITIVE


def _watched(site: Site, held: HeldVersion, since: float, sample: Sequence[Exam], due: Floats, now: float) -> Watched:
    accepted = None if held.decision is None else Evidence.model_validate_json(json.dumps(held.decision))
    limits = tolerated(site.config.watch, accepted, site.config.gate.margin)
    placed = bets(limits)
    course = follow(limits, list(placed.values()), values(list(limits), sample), due)
    rates: list[Rate] = []
    for number, (name, bet) in enumerate(placed.items()):
        of = [exam for exam in sample if exam.truth is not None and _rate_of(exam.truth) in bet.rates]
        errors = sum(exam.wrong for exam in of)
        most = float(np.mean([limits[_rate_of(bool(exam.truth))] for exam in of] or [limits[bet.rates[0]]]))
        evidence = float(course.evidence[-1, number]) if len(sample) else 0.0
        rates.append(Rate(name, most, proportion(errors, len(of)), errors, len(of), evidence))
    late = [exam for exam in sample if exam.truth is None and exam.assessable]
    at = np.array([exam.at for exam in sample], dtype=np.float64)
    missing = sum(now - exam.at > _OVERDUE for exam in late)
    return Watched(held, since, len(sample), len(late), missing, tuple(rates), course, at)


def _begins(site: Site) -> dict[str, float]:
    with site.database.read() as connection:
        return _begins_in(connection)


def _begins_in(connection: Connection) -> dict[str, float]:
    """When the watch over each adopted version began."""
    rows = connection.execute(select(version.c.digest, version.c.adopted_at).where(version.c.state == "adopted"))
    begins = {row.digest: float(row.adopted_at or 0.0) for row in rows}
    again = suspensions.last_lifted(connection)
    suspended = suspensions.standing_in(connection)
    for row in connection.execute(select(alarm).where(alarm.c.seen_at.is_not(None))):
        if row.version_digest not in suspended:  # a suspended version's watch has ended: it begins when it reads again
            again[row.version_digest] = max(again.get(row.version_digest, 0.0), row.seen_at)
    return {digest: max(at, again.get(digest, 0.0)) for digest, at in begins.items()}


def _stands(connection: Connection, digest: str, since: float) -> bool:
    """Whether the alarm that this watch would raise has been raised."""
    query = select(alarm.c.id).where(alarm.c.version_digest == digest, alarm.c.since == since)
    return connection.execute(query).first() is not None
