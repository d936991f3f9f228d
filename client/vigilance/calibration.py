"""What scores mean at this hospital: each version's calibration on the hospital's own validated patients.

The rule is that of the local threshold: training patients alone, so that gate and test stay unseen, and nobody who
objects. Counted are readings that the version made itself, shown or in shadow; of a retrained one only patients whom
nobody had validated here before it came, since it may have been trained on the others. One reading a patient, the last
one validated.
"""

import time
from dataclasses import dataclass
from typing import Final

import numpy as np
from sqlalchemy import select

from client.results.confidence import Confidence
from client.store.site import Site
from client.store.tables import outcome, shadow, study, version
from client.vigilance import register
from models.bundle import Bundle
from models.stats.calibration import Calibration, calibrate

_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class Local:
    """A version's calibration here, None where there are too few patients, and how many there are."""

    calibration: Calibration | None
    positives: int
    negatives: int


class Calibrations:
    """The calibrations of a site's versions; a few minutes old at most."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._known: dict[str, tuple[float, Local]] = {}

    def confidence(self, bundle: Bundle, score: float) -> Confidence:
        """What a score of this version means: here, else at its vendor's, else nothing yet."""
        here = self._local(bundle)
        fitted = here.calibration or bundle.facts.calibration
        if fitted is None:
            return Confidence(source="none", positives=here.positives, negatives=here.negatives)
        return Confidence(
            source="site" if here.calibration else "vendor",
            probability=round(fitted.probability(score), 4),
            answers=fitted.answers(score),
            level=fitted.level,
            positives=fitted.positives,
            negatives=fitted.negatives,
        )

    def _local(self, bundle: Bundle) -> Local:
        at, found = self._known.get(bundle.digest, (float("-inf"), None))
        if found is None or time.monotonic() - at > _SECONDS:
            found = local(self._site, bundle.digest, retrained=bundle.facts.retraining is not None)
            self._known[bundle.digest] = time.monotonic(), found
        return found


def local(site: Site, digest: str, *, retrained: bool) -> Local:
    """A version's calibration on this hospital's training patients, as of now.

    Args:
        retrained: the version may have been trained on patients who were validated here before it came.
    """
    known = [case for case in register.cases(site) if case.fold == "train" and not case.objects]
    cases = [case for case in known if register.concerns(site, case, digest)]
    aside = (
        select(outcome.c.study_uid, shadow.c.score)
        .join(outcome, outcome.c.id == shadow.c.outcome_id)
        .join(study, (study.c.uid == outcome.c.study_uid) & (study.c.revision == outcome.c.revision))
        .where(shadow.c.version_digest == digest, shadow.c.kind == "scored")
    )
    with site.database.read() as connection:
        scores: dict[str, float] = {row.study_uid: row.score for row in connection.execute(aside)}
        since = connection.execute(select(version.c.received_at).where(version.c.digest == digest)).scalar()
    scores |= {case.study_uid: case.score for case in cases if case.version_digest == digest}
    seen = {case.patient_key for case in cases if retrained and case.at <= (since or 0.0)}
    last = {
        case.patient_key: case
        for case in sorted(cases, key=lambda case: (case.at, case.study_uid))
        if case.study_uid in scores and case.patient_key not in seen
    }
    chosen = list(last.values())
    positive = np.array([case.positive for case in chosen], dtype=bool)
    found = np.array([scores[case.study_uid] for case in chosen], dtype=np.float64)
    return Local(calibrate(found, positive), int(positive.sum()), int((~positive).sum()))
