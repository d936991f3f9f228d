"""What each adopted version's record here rests on, and whether it is on the way to one.

A version without a record reads behind one that has proven itself, so of its own readings it would never get one. It
need not: every member looks on at what the others read (`shadow.py`), which counts as much as its own readings, and no
patient's result is risked to learn about a version. What can keep it from a record is too few validated cases, readings
that fail, or a node that never rests, since looking on waits for everything else; each of them is said here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import func, select

from client.inference.choice import ENOUGH, EVERYBODY, Counts
from client.inference.panel import record
from client.store import versions
from client.store.site import Site
from client.store.tables import outcome, shadow, study, version

_BEHIND: Final = 100  # studies that wait to be looked at: a day's, more than a night leaves over


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known here of one adopted version.

    Attributes:
        label: e.g. `chest-radiograph@2`.
        counts: its calls against the truth, read or looked on at.
        looked: studies of the others that it has scored.
        declined: that it refused; another kind of study is none of its business.
        failed: that it could not read.
        waiting: read by others since it was adopted, and not looked at yet.
    """

    label: str
    digest: str
    counts: Counts
    looked: int
    declined: int
    failed: int
    waiting: int

    @property
    def text(self) -> str:
        """A sentence for a person."""
        counts = self.counts
        positives = counts.true_positive + counts.false_negative
        negatives = counts.true_negative + counts.false_positive
        if counts.bounds:
            low, high = counts.bounds
            return f"{self.label} {low:.3f} to {high:.3f} on {positives} validated positives and {negatives} negatives"
        return (
            f"{self.label} has no record yet ({positives} of {ENOUGH} validated positives, {negatives} of {ENOUGH} "
            f"negatives); it looked on at {self.looked} studies of the others, refused {self.declined}, failed on "
            f"{self.failed}, {self.waiting} wait"
        )

    @property
    def hindrance(self) -> str:
        """What keeps it from ever having a record, and what to do; empty where nothing does."""
        if self.counts.bounds:
            return ""
        if self.failed and not self.looked:
            return (
                f"{self.label} fails on every study that it looks on at, so nothing is learned of it: `vigie site try` "
                f"with some of these studies says why, `vigie site retire` takes it off the panel"
            )
        if self.waiting >= _BEHIND and self.waiting > self.looked:
            return (
                f"{self.label} hardly looks on, since the node never rests: more cores, or fewer versions in shadow; "
                f"`vigie evaluate` on validated images of this hospital tells of it meanwhile"
            )
        return ""


def gathered(site: Site) -> list[Evidence]:
    """What is known of each adopted version, the last adopted first."""
    known, current = record(site), (study.c.uid == outcome.c.study_uid) & (study.c.revision == outcome.c.revision)
    found: list[Evidence] = []
    with site.database.read() as connection:
        for held in versions.panel(site):
            kinds = {
                row.kind: row.n
                for row in connection.execute(
                    select(shadow.c.kind, func.count().label("n"))
                    .join(outcome, outcome.c.id == shadow.c.outcome_id)
                    .join(study, current)
                    .where(shadow.c.version_digest == held.digest)
                    .group_by(shadow.c.kind)
                )
            }
            done = select(shadow.c.outcome_id).where(shadow.c.version_digest == held.digest)
            adopted_at = select(version.c.adopted_at).where(version.c.digest == held.digest).scalar_subquery()
            waiting = connection.execute(
                select(func.count())
                .select_from(outcome)
                .join(study, current)
                .where(
                    outcome.c.kind == "scored",
                    outcome.c.version_digest != held.digest,
                    outcome.c.created_at >= adopted_at,
                    outcome.c.id.not_in(done),
                )
            ).scalar_one()
            found.append(
                Evidence(
                    held.label,
                    held.digest,
                    known.get((held.digest, EVERYBODY), Counts()),
                    kinds.get("scored", 0),
                    kinds.get("refused", 0),
                    kinds.get("failed", 0),
                    waiting,
                )
            )
    return found


def told(members: Iterable[Evidence]) -> tuple[str, str]:
    """What is known of a panel, and what to do where a member can never have a record (else empty)."""
    listed = list(members)
    if len(listed) < 2:
        return "one version reads: nothing to choose between", ""
    return "; ".join(one.text for one in listed), " ".join(one.hindrance for one in listed if one.hindrance)
