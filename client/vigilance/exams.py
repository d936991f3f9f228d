"""The exams that the watch rests on: those of the random sample, in the order in which they were made.

Whose exams these are was drawn by the hospital's key before anybody read anything (`Site.fold`; those that nobody
trains on), and each patient counts once for a version: of cases that were picked since they looked wrong, a good
version would look three times as bad as it is. What an exam shows is known from whoever read it without the AI's
answer, or from later examinations; an opinion given with the AI in view is no truth to watch it by. Patients who object
to the reuse of their images are among them: to watch over care is part of it, and nothing of it leaves.
"""

from dataclasses import dataclass

from sqlalchemy import and_, select

from client.review.verdict import TruthTier
from client.store.site import Site
from client.store.tables import outcome, patient, study
from client.vigilance import register
from client.vigilance.register import ErrorKind


@dataclass(frozen=True, slots=True)
class Exam:
    """One exam that a version read.

    Attributes:
        at: when it was read, seconds since the epoch.
        called: the AI's answer.
        truth: None: nobody knows it yet.
        assessable: False: somebody who knows says that nobody can tell.
    """

    study_uid: str
    version_digest: str
    at: float
    called: bool
    truth: bool | None
    assessable: bool = True

    @property
    def wrong(self) -> bool:
        """Whether the AI is known to have been wrong."""
        return self.truth is not None and self.truth is not self.called


def sampled(site: Site, least: TruthTier) -> list[Exam]:
    """The exams of the random sample that any version read here, oldest first.

    Args:
        least: the lowest tier whose truth counts.
    """
    truths = {case.study_uid: case.positive for case in register.cases(site) if case.tier.rank >= least.rank}
    unassessable = {
        error.study_uid
        for error in register.errors(site)
        if error.kind is ErrorKind.NOT_ASSESSABLE and error.tier.rank >= least.rank
    }
    query = (
        select(
            outcome.c.study_uid,
            outcome.c.version_digest,
            outcome.c.created_at,
            outcome.c.positive,
            study.c.patient_key,
        )
        .join(study, and_(study.c.uid == outcome.c.study_uid, study.c.revision == outcome.c.revision))
        .join(patient, patient.c.key == study.c.patient_key)
        .where(outcome.c.kind == "scored", study.c.state == "scored", patient.c.fold != "train")
        .order_by(outcome.c.created_at, outcome.c.id)
    )
    first: dict[tuple[str, str], Exam] = {}
    with site.database.read() as connection:
        for row in connection.execute(query):
            uid = str(row.study_uid)
            exam = Exam(
                uid, row.version_digest, row.created_at, bool(row.positive), truths.get(uid), uid not in unassessable
            )
            first.setdefault((row.patient_key, row.version_digest), exam)
    return list(first.values())
