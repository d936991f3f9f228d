"""Which exams somebody reads again without the AI's answer and the first reader's, and what that tells of all.

Once a first reader has said what an exam shows, a keyed draw decides whether a second one looks: always where AI and
reader differ, now and then where they agree, so that what both have missed is found too. The probability is kept with
each exam: it is what the exams that were drawn stand for. A draw is for good; settings count for exams to come.

Rates are those of a version over its patients here, each once, whether their exam was drawn or not
(`models.stats.verification`). The first reader's own word is no truth to judge by where they agree with the AI: known
is what another reader, a later examination or a biopsy says.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from sqlalchemy import Connection, and_, insert, select

from client.review.verdict import Answer, TruthTier, Verdict, read, standing
from client.store import ledger, versions
from client.store.site import Site
from client.store.tables import outcome, patient, second_read, study, verdict
from client.vigilance import later
from models.errors import NotFound
from models.stats.verification import Cell, Cells, Share, Side, foreseen, predictive, sensitivity, specificity

Kind = Literal["discordant", "double_positive", "double_negative"]
_SHARES: Final = (0.05, 0.15, 0.3, 0.6, 1.0)
_RECENT: Final = 90 * 86400.0  # seconds; nobody reads again what was read before the settings were made


@dataclass(frozen=True, slots=True)
class Due:
    """An exam that waits for a second reader."""

    study_uid: str
    accession: str
    kind: Kind
    first_reader: str
    at: float


@dataclass(frozen=True, slots=True)
class Verified:
    """An exam that was drawn to be read again.

    Attributes:
        positive: the truth; None: nobody else than the first reader has said it yet, or nobody can tell.
        at: when it was said, seconds since the epoch; 0: not yet.
    """

    study_uid: str
    kind: Kind
    probability: float
    positive: bool | None
    tier: TruthTier
    at: float


@dataclass(frozen=True, slots=True)
class Rates:
    """How a version does here, over all its patients or those of a stratum.

    Attributes:
        exams: of its patients, one each.
        unread: of these, nobody has said anything yet; they count for nothing.
        by: sensitivity, specificity, and the predictive values.
    """

    stratum: str
    exams: int
    unread: int
    by: Mapping[str, Share]


@dataclass(frozen=True, slots=True)
class _Read:
    """An exam with its verdicts."""

    outcome_id: int
    study_uid: str
    revision: int
    accession: str
    version_digest: str
    patient_key: str
    fold: str
    positive: bool
    stratum: str
    at: float
    drawn: bool
    verdicts: list[Verdict] = field(default_factory=lambda: list[Verdict]())
    later: list[Verdict] = field(default_factory=lambda: list[Verdict]())

    @property
    def first(self) -> Verdict | None:
        return self.verdicts[0] if self.verdicts else None

    @property
    def kind(self) -> Kind | None:
        """Whether AI and first reader agree; None where there is no first opinion, or it is that nobody can tell."""
        if self.first is None or self.first.answer is Answer.NOT_ASSESSABLE:
            return None
        if (self.first.answer is Answer.POSITIVE) is not self.positive:
            return "discordant"
        return "double_positive" if self.positive else "double_negative"

    @property
    def truth(self) -> Verdict | None:
        """What somebody else than the first reader knows of an exam that was drawn. Of others nothing is counted: who
        is looked at again unasked, or has a biopsy, is not like those who are not.
        """
        known = [
            one
            for one in self.verdicts
            if one.tier.rank >= TruthTier.FOLLOW_UP.rank
            or (one.tier.rank >= TruthTier.SINGLE_READER.rank and one.reader != self.verdicts[0].reader)
        ]
        return standing([*known, *self.later])[0] if self.drawn and (known or self.later) else None


def draw(site: Site, now: float | None = None) -> int:
    """Draw for the exams of which a first opinion has come since; how many of them are to be read again."""
    settings, since = site.config.watch, (time.time() if now is None else now) - _RECENT
    shares: dict[Kind, float] = {
        "discordant": 1.0,
        "double_positive": settings.double_positive,
        "double_negative": settings.double_negative,
    }
    rows: list[dict[str, Any]] = []
    with site.database.read() as connection:  # all exams are looked at: nobody may wait for that
        done = set(connection.execute(select(second_read.c.outcome_id)).scalars())
        for exam in _exams(site, connection):
            if exam.outcome_id in done or exam.at < since or exam.kind is None:
                continue
            chance = shares[exam.kind]
            drawn = site.chance("second-read", exam.study_uid) < chance
            rows.append(
                {
                    "outcome_id": exam.outcome_id,
                    "kind": exam.kind,
                    "probability": chance,
                    "drawn": drawn,
                    "at": time.time(),
                }
            )
    if not rows:
        return 0
    with site.database.write() as connection:
        done = set(connection.execute(select(second_read.c.outcome_id)).scalars())
        rows = [row for row in rows if row["outcome_id"] not in done]  # somebody else has drawn meanwhile
        if rows:
            connection.execute(insert(second_read), rows)
            counted = Counter(f"{row['kind']}{'' if row['drawn'] else '.left'}" for row in rows)
            ledger.append(connection, "second-reads.drawn", dict(sorted(counted.items())))
    return sum(bool(row["drawn"]) for row in rows)


def due(site: Site) -> list[Due]:
    """The exams that were drawn and that no second reader has read yet, oldest first."""
    with site.database.read() as connection:
        drawn = {row.outcome_id: row.kind for row in connection.execute(select(second_read).where(second_read.c.drawn))}
        waiting = [exam for exam in _exams(site, connection) if exam.outcome_id in drawn and exam.truth is None]
    return [
        Due(exam.study_uid, exam.accession, drawn[exam.outcome_id], exam.verdicts[0].reader, exam.at)
        for exam in waiting
        if exam.verdicts
    ]


def verified(site: Site, digest: str) -> list[Verified]:
    """The exams of a version that were drawn, and what became known of them."""
    found: list[Verified] = []
    with site.database.read() as connection:
        drawn = {row.outcome_id: row for row in connection.execute(select(second_read).where(second_read.c.drawn))}
        exams = [one for one in _exams(site, connection) if one.version_digest == digest and one.outcome_id in drawn]
    for exam in exams:
        row, truth = drawn[exam.outcome_id], exam.truth
        known = truth is not None and truth.answer is not Answer.NOT_ASSESSABLE
        positive = truth.answer is Answer.POSITIVE if truth is not None and known else None
        tier, at = (truth.tier, truth.at) if truth is not None else (TruthTier.AI_VISIBLE, 0.0)
        found.append(Verified(exam.study_uid, row.kind, row.probability, positive, tier, at))
    return found


def rates(site: Site, digest: str) -> list[Rates]:
    """A version's rates here, over all its patients first, then by stratum."""
    first = _first_of_each(site, digest)
    strata: dict[str, list[_Read]] = defaultdict(list)
    for exam in first:
        strata[exam.stratum].append(exam)
    return [_rates("", first), *(_rates(name, strata[name]) for name in sorted(strata) if name)]


@dataclass(frozen=True, slots=True)
class Planned:
    """What a share of exams read again would tell.

    Attributes:
        double_negative: the share, of exams that neither AI nor first reader called.
        reads: second reads a year, of all kinds.
        by: the rates as they would be known after that year, if exams stay as they are.
    """

    double_negative: float
    reads: int
    by: Mapping[str, Share]


def plan(site: Site, digest: str, a_year: int, shares: Sequence[float] = _SHARES) -> list[Planned]:
    """How many second reads buy which interval, of a version's exams of one year.

    Args:
        a_year: patients whom it reads.

    Raises:
        NotFound: nothing is known yet of what both say alike or differ in.
    """
    now = _cells(_first_of_each(site, digest))
    if not now or any(cell.exams and not cell.known for cell in now.values()):
        raise NotFound("not enough is known to plan by: each kind of exam needs one that was read again")
    found: list[Planned] = []
    for share in shares:
        wanted = {("positive", "positive"): site.config.watch.double_positive, ("negative", "negative"): share}
        cells = foreseen(now, a_year, cast("Mapping[tuple[Side, Side], float]", wanted))
        found.append(Planned(share, sum(cell.known for cell in cells.values()), _by(cells)))
    return found


def _rates(stratum: str, exams: Sequence[_Read]) -> Rates:
    return Rates(stratum, len(exams), sum(exam.first is None for exam in exams), _by(_cells(exams)))


def _by(cells: Cells) -> dict[str, Share]:
    return {
        "sensitivity": sensitivity(cells),
        "specificity": specificity(cells),
        "positive predictive value": predictive(cells, "positive"),
        "negative predictive value": predictive(cells, "negative"),
    }


def _first_of_each(site: Site, digest: str) -> list[_Read]:
    """Each patient's first exam with a version; of a retrained one, no patient whom it may have learned from."""
    facts = versions.facts(site, digest)
    retrained = facts is not None and facts.retraining is not None
    first: dict[str, _Read] = {}
    with site.database.read() as connection:
        for exam in _exams(site, connection):
            if exam.version_digest == digest and not (retrained and exam.fold == "train"):
                first.setdefault(exam.patient_key, exam)
    return list(first.values())


def _cells(exams: Iterable[_Read]) -> Cells:
    counts: dict[tuple[Side, Side], list[int]] = defaultdict(lambda: [0, 0, 0])
    for exam in exams:
        if exam.kind is None or exam.first is None:
            continue
        truth = exam.truth
        if truth is not None and truth.answer is Answer.NOT_ASSESSABLE:
            continue
        cell = counts[_side(exam.positive), _side(exam.first.answer is Answer.POSITIVE)]
        cell[0] += 1
        cell[1] += truth is not None
        cell[2] += truth is not None and truth.answer is Answer.POSITIVE
    return {which: Cell(*cell) for which, cell in counts.items()}


def _side(positive: bool) -> Side:
    return "positive" if positive else "negative"


def _exams(site: Site, connection: Connection) -> list[_Read]:
    """Every exam as it was read last, oldest first, with what was said of that very result."""
    query = (
        select(outcome, study.c.accession, study.c.patient_key, patient.c.fold)
        .join(study, and_(study.c.uid == outcome.c.study_uid, study.c.revision == outcome.c.revision))
        .join(patient, patient.c.key == study.c.patient_key)
        .where(outcome.c.kind == "scored", study.c.state == "scored")
        .order_by(outcome.c.created_at, outcome.c.id)
    )
    drawn = set(connection.execute(select(second_read.c.outcome_id).where(second_read.c.drawn)).scalars())
    said = later.by_study(connection)
    found = {
        row.id: _Read(
            row.id, row.study_uid, row.revision, row.accession, row.version_digest, row.patient_key, row.fold,
            bool(row.positive), row.stratum, row.created_at, row.id in drawn,
        )
        for row in connection.execute(query)
    }  # fmt: skip
    for row in connection.execute(select(verdict).order_by(verdict.c.id)):
        if row.outcome_id in found:
            found[row.outcome_id].verdicts.append(read(row, 0))
    for exam in found.values():
        for one in said.get(exam.study_uid, ()):
            if later.concerns(one, versions.finding(site, exam.version_digest)):
                exam.later.append(later.as_verdict(one, exam))
    return list(found.values())
