"""Keeps looking, beside the node: whatever becomes known of the exams is drawn for, and may raise an alarm; studies
that are read are compared with those before.
"""

import logging
import threading
import time
from contextlib import closing
from typing import Final

from sqlalchemy import func, select

from client.store.database import Watch
from client.store.site import Site
from client.store.tables import later_truth, trait, verdict
from client.vigilance import drift, harm, second_reads

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.5
_LONGEST_SECONDS: Final = 60.0
_COMPARE_SECONDS: Final = 60.0  # between comparisons of studies, at least
_SHARE: Final = 20.0  # a look may take a twentieth of the time, however many exams there are


class Watcher:
    """A thread that looks again after each verdict and each truth that came later, until it is told to stop.

    Args:
        site: whose exams.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stop = threading.Event()
        self._seen: list[int | None] = [-1]
        self._compared: int | None = -1
        self._compare_at = 0.0
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Let it end; what it was about to raise is raised by the next one."""
        self._stop.set()
        self._thread.join(seconds)

    def _run(self) -> None:
        with closing(Watch(self._site.database)) as changes:
            while not self._stop.is_set():
                began = time.monotonic()
                for step in (self._look, self._compare):
                    try:
                        step()
                    except Exception as error:  # the node goes on, and the next look may come through
                        log.error("the watch failed: %s", type(error).__name__, exc_info=error)
                pause = _SHARE * (time.monotonic() - began)
                if not self._stop.wait(min(pause, _LONGEST_SECONDS)):
                    changes.wait(self._stop, _POLL_SECONDS, _LONGEST_SECONDS)

    def _look(self) -> None:
        with self._site.database.read() as connection:
            last = [connection.execute(select(func.max(table.c.id))).scalar() for table in (verdict, later_truth)]
        if last == self._seen:
            return
        second_reads.draw(self._site)
        for one in harm.advance(self._site):
            log.error("alarm: %s", one.text)
        self._seen = last

    def _compare(self) -> None:
        """Whether the studies have changed; once a minute at most, and so that it takes a twentieth of the time."""
        began = time.monotonic()
        if began < self._compare_at:
            return
        with self._site.database.read() as connection:
            last = connection.execute(select(func.max(trait.c.outcome_id))).scalar()
        if last == self._compared:
            return
        for one in drift.advance(self._site):
            log.warning("warning: %s", one.text)
        self._compared = last
        self._compare_at = time.monotonic() + max(_COMPARE_SECONDS, _SHARE * (time.monotonic() - began))
