"""What a hospital measured of a version, and of the one it served then: counts and figures, never a case. Pure."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from models.exchange import Evidence, Measure
from server.release import figures


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A version on one fold of a hospital's cases.

    Attributes:
        retraining: that it was offered in.
        fold: gate or test.
        after: quantities of the version, e.g. `auc`, `auc_low`, `auc_high`.
        before: the same of the version served there then; None where none was.
        served: the digest of that one.
        subgroup: of the fold's patients; empty: all.
    """

    retraining: str
    site: str
    fold: str
    n: int
    n_positive: int
    after: Mapping[str, float]
    before: Mapping[str, float] | None = None
    served: str | None = None
    subgroup: str = ""

    @property
    def dataset(self) -> str:
        """`SITE/FOLD`, or `SITE/FOLD/SUBGROUP`."""
        return "/".join(part for part in (self.site, self.fold, self.subgroup) if part)

    @property
    def both(self) -> dict[str, float]:
        """What was measured of the version, and of the served one as `before_QUANTITY`."""
        return {**self.after, **{f"before_{key}": value for key, value in (self.before or {}).items()}}

    @property
    def dataset_digest(self) -> str:
        """Sixteen hex digits over all that is known here of the cases: whose, which fold, and how many.

        A fold grows with the hospital's patients, so another number of cases is another dataset.
        """
        content = f"{self.dataset}|{self.n}|{self.n_positive}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def evaluations(site: str, evidence: Evidence) -> Iterator[Evaluation]:
    """The evaluations that a hospital's evidence holds, one a fold."""
    folds: tuple[tuple[str, Measure | None, Measure | None], ...] = (
        ("gate", evidence.candidate_gate, evidence.served_gate),
        ("test", evidence.candidate_test, evidence.served_test),
    )
    for fold, after, before in folds:
        if after is not None:
            yield Evaluation(
                retraining=evidence.retraining,
                site=site,
                fold=fold,
                n=after.n,
                n_positive=after.n_positive,
                after=figures(after),
                before=figures(before) if before is not None else None,
                served=evidence.served,
            )
