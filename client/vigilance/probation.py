"""The shadow period: a version that passed the gate reads beside the served one before it serves, where a site asks.

The gate saw the random sample as it was; here every patient counts who comes afterwards, each once. Two claims are
looked at after every study, and either may be refuted at any time (`models.stats.betting`):

- the version answers otherwise than the served one no more often than it did on the random sample, by the margin; an
  answer that it does not give where the served one gave one is another answer;
- of the patients of the random sample whose truth became known meanwhile, it has no more wrong than the served one, by
  the margin.

The first that is refuted ends the matter: the version is refused. Not refuted until there were enough patients and
days, it serves. That it is *better* is not asked here: that was the gate's question.
"""

import json
import time
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import and_, select

from client.store import versions
from client.store.site import Site
from client.store.tables import outcome, shadow, study
from client.vigilance import register
from models.gate import GateReason
from models.stats.betting import bet
from models.stats.intervals import proportion

_CLAIMS: Final = 2
_DAY: Final = 86400.0


@dataclass(frozen=True, slots=True)
class Probation:
    """Where a version stands in its shadow period.

    Attributes:
        patients: read by both so far.
        wanted: patients.
        days: since it began.
        refuted: which claim is refuted; None: neither.
    """

    patients: int
    wanted: int
    days: float
    refuted: GateReason | None


def advance(site: Site, digest: str) -> Probation | None:
    """See how a version does; adopt it where its period is over, refuse it where a claim is refuted.

    Returns:
        None: the version is in no shadow period.
    """
    known = versions.find(site, digest)
    if known is None or known.state != "shadow" or known.decision is None or known.decision["verdict"] != "adopt":
        return None
    serving = versions.serving(site, known.name)
    if serving is None or serving.digest != known.decision["served"]:
        versions.put(site, digest, "refused", "incumbent-changed")
        return None
    found = _look(site, digest, serving.digest)
    if found.refuted is not None:
        decision = known.decision | {"verdict": "refuse", "reasons": [found.refuted.value]}
        versions.note_decision(site, digest, decision, known.threshold)
        versions.put(site, digest, "refused", found.refuted.value)
    elif _is_over(site, found) and not versions.barred(site, digest):
        versions.adopt(site, digest)
    return found


def _is_over(site: Site, found: Probation) -> bool:
    return found.patients >= found.wanted and found.days >= site.config.gate.shadow_days


def _look(site: Site, digest: str, served: str) -> Probation:
    began, tolerated = _beginning(site, digest)
    gate = site.config.gate
    rows = _read_by_both(site, digest, served, began)
    cases = sorted((case for case in register.cases(site) if case.fold != "train"), key=lambda case: case.at)
    read = {row.uid: row for row in rows}
    others = bet(tolerated + gate.margin, [float(row.aside is not row.shown) for row in rows])
    # in the order in which the truth became known: what came before a bet must not change afterwards
    losses = [
        float(row.aside is not case.positive) - float(row.shown is not case.positive)
        for case in cases
        if (row := read.get(case.study_uid)) is not None
    ]
    worse = bet(gate.margin, losses, low=-1.0)
    refuted = None
    if worse.refuted(gate.alpha / _CLAIMS):
        refuted = GateReason.SHADOW_WORSE
    elif others.refuted(gate.alpha / _CLAIMS):
        refuted = GateReason.SHADOW_DISAGREES
    return Probation(len(rows), gate.shadow_cases, (time.time() - began) / _DAY, refuted)


def _beginning(site: Site, digest: str) -> tuple[float, float]:
    """When the period began, and how often the version may answer otherwise: the upper bound of what the gate saw."""
    began, tolerated = 0.0, 1.0
    for entry in site.ledger.entries("version."):
        facts = json.loads(entry.facts)
        if facts.get("digest") != digest:
            continue
        if entry.event == "version.shadow":
            began = entry.at
        elif entry.event == "version.looked":
            tolerated = proportion(facts["changed"], facts["cases"]).high
    return began, tolerated


@dataclass(frozen=True, slots=True)
class _Row:
    """One study: what was shown, and what the version said; None: nothing."""

    uid: str
    shown: bool
    aside: bool | None


def _read_by_both(site: Site, digest: str, served: str, began: float) -> list[_Row]:
    """The first study of each patient since then, in the order in which the version read them."""
    query = (
        select(study.c.uid, study.c.patient_key, outcome.c.positive.label("shown"), shadow.c.positive.label("aside"))
        .join(outcome, outcome.c.id == shadow.c.outcome_id)
        .join(study, and_(study.c.uid == outcome.c.study_uid, study.c.revision == outcome.c.revision))
        .where(shadow.c.version_digest == digest, outcome.c.version_digest == served, outcome.c.created_at >= began)
        .order_by(shadow.c.created_at, shadow.c.outcome_id)
    )
    first: dict[Any, _Row] = {}
    with site.database.read() as connection:
        for row in connection.execute(query):
            first.setdefault(row.patient_key, _Row(row.uid, row.shown, row.aside))
    return list(first.values())
