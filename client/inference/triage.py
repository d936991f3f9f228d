"""A fast version looks first at what waits, and makes an emergency of what it calls positive.

The site names the model; its adopted version is a member of the panel like any other and reads what it is chosen for.
What it says here moves a study in the queue and is shown to nobody. Each study is looked at once, and only where more
than one waits: the only one is read at once. A known emergency is not held up by it.

That it is looked at is written down before it is: an image that ends the process is not met here a second time.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Final

from sqlalchemy import exists, func, literal_column, select

from client.arrival import priority
from client.arrival.urgency import Urgency
from client.inference.memory import Memory, need
from client.inference.outcomes import images_of
from client.inference.pipeline import Pipeline, Scored, ScoredVolumes
from client.inference.serving import Serving
from client.inference.study import Study
from client.store.site import Site
from client.store.tables import priority as told
from client.store.tables import study

log = logging.getLogger(__name__)

_IN_A_ROW: Final = 8


class Triage:
    """Looks at studies that wait.

    Args:
        panel: gives the versions that may read.
    """

    def __init__(self, site: Site, pipeline: Pipeline, panel: Callable[[], Sequence[Serving]], memory: Memory) -> None:
        self._site = site
        self._pipeline = pipeline
        self._panel = panel
        self._memory = memory
        self._looked = 0

    def step(self, skip: Collection[str]) -> bool:
        """Look at one study; False where there is none to look at, or it is a reading's turn.

        Args:
            skip: study UIDs to leave alone.
        """
        found = self._next(skip) if self._looked < _IN_A_ROW else None
        self._looked = self._looked + 1 if found else 0
        if found is None:
            return False
        name = self._site.config.urgency.triage
        version = next((one for one in self._panel() if one.bundle.facts.name == name), None)
        if version is None:
            return False
        digest = version.bundle.digest
        self._tell(found, Urgency.ROUTINE, digest)
        reading = partial(self._pipeline.read_by, found, [version])
        result, taken = self._memory.within(need([version.bundle.facts], found.images), reading)
        self._memory.release(taken)
        if isinstance(result, Scored | ScoredVolumes) and result.best.positive:
            self._tell(found, Urgency.EMERGENCY, digest)
            log.info("study %s: an emergency by triage", self._site.study_key(found.uid))
        return True

    def _next(self, skip: Collection[str]) -> Study | None:
        queued = select(study).where(study.c.state == literal_column("'queued'"), study.c.uid.not_in(skip))
        seen = exists().where(
            told.c.study_uid == study.c.uid,
            told.c.source == priority.TRIAGE,
            told.c.told_at >= func.coalesce(study.c.completed_at, 0.0),  # not of the images that came late
        )
        with self._site.database.read() as connection:
            if len(connection.execute(queued.limit(2)).all()) < 2:
                return None
            known = queued.where(study.c.urgency == str(Urgency.EMERGENCY), study.c.attempts == 0).limit(1)
            if connection.execute(known).first() is not None:
                return None
            fresh = queued.where(study.c.attempts == 0, ~seen).order_by(study.c.due_at, study.c.uid).limit(1)
            row = connection.execute(fresh).first()
            if row is None:
                return None
            return Study(row.uid, row.revision, 1, row.touched_at, images_of(connection, row.uid))

    def _tell(self, found: Study, urgency: Urgency, digest: str) -> None:
        with self._site.database.write() as connection:
            priority.tell(connection, self._site, found.uid, priority.TRIAGE, urgency, version=digest)
