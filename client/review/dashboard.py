"""How the AI does at this hospital, month by month: what the dashboard shows and the monthly report prints.

Volumes, turn-around and agreement are added up by the database; what is known of rates rests on the random sample
(`client.vigilance.exams`), so that nobody is misled by the cases that readers happened to answer.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, and_, func, select

from client.review import missed
from client.review.verdict import TruthTier
from client.store import suspensions, versions
from client.store.site import Site
from client.store.tables import delivery, outcome, study, verdict, version
from client.vigilance import drift, exams, harm, incidents, second_reads
from client.vigilance.exams import Exam
from models.stats.intervals import UNKNOWN, Estimate, auc, proportion
from models.stats.reliability import Bin, calibration_error, reliability

MONTHS: Final = 12
_KINDS: Final = ("scored", "refused", "failed")
_AT_THE_PACS: Final = ("sent", "committed")
_YEAR: Final = 365.25 * 86400.0


@dataclass(frozen=True, slots=True)
class Month:
    """One month.

    Attributes:
        name: 2026-11.
        volumes: studies concluded, by kind.
        half, most: seconds from the last image to the report at the PACS: the median and the 95th percentile; NaN
            where none went out.
        agreed: readers' answers that agreed with the AI, with its interval.
        missed, called: of the random sample, the share of findings missed, and called where there was none.
    """

    name: str
    volumes: dict[str, int]
    half: float
    most: float
    agreed: Estimate
    answers: int
    missed: Estimate
    called: Estimate


@dataclass(frozen=True, slots=True)
class Standing:
    """One version, since it was adopted.

    Attributes:
        exams: of the random sample, whose truth is known.
        area: under the ROC curve.
        error: calibration error of the probabilities that were said; `bins` what they meant.
    """

    label: str
    adopted_at: float
    suspended: bool
    exams: int
    area: Estimate
    error: Estimate
    bins: tuple[Bin, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """All of it.

    Attributes:
        changes: when versions were adopted, as (months from the left edge, label).
        due: second reads; `lost`: studies that a version could have read and did not.
        cost: of one study in the last year; None: the settings do not say what the year costs.
        reading: hours from the report at the PACS to the first answer, median: where the AI called, and where not.
    """

    months: tuple[Month, ...]
    versions: tuple[Standing, ...]
    changes: tuple[tuple[float, str], ...]
    alarms: tuple[str, ...]
    warnings: tuple[str, ...]
    incidents: tuple[str, ...]
    due: int
    lost: dict[str, int]
    studies_a_year: int
    cost: float | None
    currency: str
    reading: dict[bool, float]


def board(site: Site, now: float | None = None) -> Board:
    """Gather the last twelve months."""
    now = time.time() if now is None else now
    names = _months(now)
    begin = time.mktime(time.strptime(names[0], "%Y-%m"))
    sample = [one for one in exams.sampled(site, TruthTier(site.config.watch.least_tier)) if one.at <= now]
    with site.database.read() as connection:
        volumes, turns = _volumes(connection, begin), _turns(connection, begin)
        answers, reading = _answers(connection, begin), _reading(connection, begin)
        adopted = connection.execute(
            select(version.c.name, version.c.number, version.c.digest, version.c.form_of, version.c.adopted_at)
            .where(version.c.adopted_at.is_not(None))
            .order_by(version.c.adopted_at)
        ).all()
        said = _said(connection)
    months = tuple(_month(name, volumes, turns, answers, sample) for name in names)
    studies = sum(sum(month.volumes.values()) for month in months)
    value = site.config.value
    return Board(
        months,
        tuple(_standings(site, sample, said, {row.digest: float(row.adopted_at) for row in adopted})),
        tuple(_changes(names, [(float(row.adopted_at), f"{row.name}@{row.number}") for row in adopted])),
        tuple(one.text for one in harm.alarms(site, unseen=True)),
        tuple(one.text for one in drift.warnings(site, unseen=True)),
        tuple(one.text for one in incidents.pressing(site, now)),
        len(second_reads.due(site)),
        {why: count for why, count in missed.counts(missed.listed(site)).items() if count},
        studies,
        value.cost_a_year / studies if value.cost_a_year and studies else None,
        value.currency,
        reading,
    )


def _months(now: float) -> list[str]:
    """The last twelve, oldest first."""
    here = time.localtime(now)
    places = [12 * here.tm_year + here.tm_mon - 1 - back for back in reversed(range(MONTHS))]
    return [f"{place // 12}-{place % 12 + 1:02}" for place in places]


def _name(column: Any) -> Any:
    return func.strftime("%Y-%m", column, "unixepoch", "localtime")


def _volumes(connection: Connection, begin: float) -> dict[tuple[str, str], int]:
    month = _name(outcome.c.created_at).label("month")
    query = select(month, outcome.c.kind, func.count()).where(outcome.c.created_at >= begin)
    return {(name, kind): count for name, kind, count in connection.execute(query.group_by("month", outcome.c.kind))}


def _turns(connection: Connection, begin: float) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
    """Seconds from a study's last image to its first report at the PACS, by month; of studies that were read once."""
    query = (
        select(_name(delivery.c.sent_at), delivery.c.sent_at - study.c.touched_at)
        .join(outcome, outcome.c.id == delivery.c.outcome_id)
        .join(study, and_(study.c.uid == outcome.c.study_uid, study.c.revision == 1))
        .where(delivery.c.kind == "sr", delivery.c.state.in_(_AT_THE_PACS), delivery.c.sent_at >= begin)
    )
    found: dict[str, list[float]] = {}
    for name, seconds in connection.execute(query):
        found.setdefault(name, []).append(max(float(seconds), 0.0))
    return {name: np.array(seconds) for name, seconds in found.items()}


def _answers(connection: Connection, begin: float) -> dict[str, tuple[int, int]]:
    month = _name(verdict.c.created_at).label("month")
    agreed = func.sum(func.iif(verdict.c.decision == "agree", 1, 0))
    query = select(month, agreed, func.count()).where(verdict.c.created_at >= begin).group_by("month")
    return {name: (int(right), int(count)) for name, right, count in connection.execute(query)}


def _reading(connection: Connection, begin: float) -> dict[bool, float]:
    """Median hours from the report at the PACS to the first answer, where the AI called and where not."""
    at = func.min(verdict.c.created_at).label("at")
    first = select(verdict.c.outcome_id, at).group_by(verdict.c.outcome_id).subquery()
    query = (
        select(outcome.c.positive, first.c.at - delivery.c.sent_at)
        .join(first, first.c.outcome_id == outcome.c.id)
        .join(delivery, and_(delivery.c.outcome_id == outcome.c.id, delivery.c.kind == "sr"))
        .where(delivery.c.sent_at >= begin, outcome.c.kind == "scored")
    )
    found: dict[bool, list[float]] = {}
    for positive, seconds in connection.execute(query):
        found.setdefault(bool(positive), []).append(max(float(seconds), 0.0) / 3600)
    return {called: float(np.median(hours)) for called, hours in found.items()}


def _said(connection: Connection) -> dict[tuple[str, str], tuple[float, float | None]]:
    """By study and version: the score, and the probability that was said with it."""
    query = select(outcome.c.study_uid, outcome.c.version_digest, outcome.c.score, outcome.c.confidence)
    return {
        (row.study_uid, row.version_digest): (float(row.score), (row.confidence or {}).get("probability"))
        for row in connection.execute(query.where(outcome.c.kind == "scored"))
    }


def _month(
    name: str,
    volumes: dict[tuple[str, str], int],
    turns: dict[str, np.ndarray[Any, np.dtype[np.float64]]],
    answers: dict[str, tuple[int, int]],
    sample: Sequence[Exam],
) -> Month:
    seconds = turns.get(name)
    half, most = (math.nan, math.nan) if seconds is None else (float(one) for one in np.percentile(seconds, (50, 95)))
    right, count = answers.get(name, (0, 0))
    here = [one for one in sample if one.truth is not None and time.strftime("%Y-%m", time.localtime(one.at)) == name]
    rates = {
        truth: proportion(sum(one.wrong for one in here if one.truth is truth), sum(one.truth is truth for one in here))
        for truth in (True, False)
    }
    return Month(
        name,
        {kind: volumes.get((name, kind), 0) for kind in _KINDS},
        half,
        most,
        proportion(right, count),
        count,
        rates[True],
        rates[False],
    )


def _standings(
    site: Site,
    sample: Sequence[Exam],
    said: dict[tuple[str, str], tuple[float, float | None]],
    adopted: dict[str, float],
) -> list[Standing]:
    stopped = suspensions.standing(site)
    found: list[Standing] = []
    for held in versions.panel(site):
        own = [one for one in sample if one.version_digest == held.digest and one.truth is not None]
        scores = np.array([said[one.study_uid, held.digest][0] for one in own], dtype=np.float64)
        truths = np.array([bool(one.truth) for one in own], dtype=bool)
        sure = [(value, one) for one in own if (value := said[one.study_uid, held.digest][1]) is not None]
        chances = np.array([float(value) for value, _ in sure], dtype=np.float64)
        known = np.array([bool(one.truth) for _, one in sure], dtype=bool)
        both = bool(truths.any()) and not bool(truths.all())
        found.append(
            Standing(
                held.label,
                adopted.get(held.digest, 0.0),
                held.digest in stopped,
                len(own),
                auc(scores, truths) if both else UNKNOWN,
                calibration_error(chances, known),
                reliability(chances, known),
            )
        )
    return found


def _changes(names: Sequence[str], adopted: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    found: list[tuple[float, str]] = []
    for at, label in adopted:
        here = time.localtime(at)
        name = time.strftime("%Y-%m", here)
        if name in names:
            found.append((names.index(name) + (here.tm_mday - 1) / 31, label))
    return found
