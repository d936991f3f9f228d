"""While there is no room on the disk: who waits, for how long, and whose attempt does not count.

A full disk is like a PACS that is away: it says nothing of the study that met it, and it passes. So no study fails for
it. Nothing is begun for a while, twice as long each time, for whatever is read could not be written down; then one
study tries, another one than the last if there is one.
"""

import logging
import threading
import time
from typing import Final

from client.inference import outcomes
from client.inference.study import Study
from client.store.fullness import out_of_room
from client.store.site import Site

log = logging.getLogger(__name__)

_FIRST_SECONDS: Final = 0.5
_LONGEST_SECONDS: Final = 15.0


class Shortage:
    """What a worker knows of the room that is left; called by its threads."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._lock = threading.Lock()
        self._pause = 0.0
        self._until = 0.0
        self._owed: list[Study] = []

    def met(self, taken: Study | None) -> float:
        """There was no room for what came of a study, or to take one.

        Returns:
            The seconds for which that study is better left alone; others try before it.
        """
        with self._lock:
            now = time.monotonic()
            if not self._pause:
                log.error("there is no room on the disk: studies wait until there is some")
            if now >= self._until:  # those that were in hand together have met the same
                self._pause = min(max(_FIRST_SECONDS, 2 * self._pause), _LONGEST_SECONDS)
                self._until = now + self._pause
            if taken is not None:
                self._owed.append(taken)
            self._give_back()
            return self._until - now + self._pause

    def lasts(self) -> bool:
        """Whether nothing is to be begun now: it is not time to try again, or attempts cannot be given back yet."""
        with self._lock:
            now = time.monotonic()
            if now < self._until:
                return True
            if self._owed and not self._give_back():
                self._pause = min(2 * self._pause, _LONGEST_SECONDS)
                self._until = now + self._pause
                return True
            return False

    def over(self) -> None:
        """What came of a study was written."""
        with self._lock:
            if self._pause:
                log.warning("there is room on the disk again: studies are read")
            self._pause = self._until = 0.0

    def _give_back(self) -> bool:
        try:
            while self._owed:
                outcomes.give_back(self._site, self._owed[-1])
                self._owed.pop()
        except Exception as error:  # a full disk does not take this either: later
            if not out_of_room(error):
                log.error("attempts are not given back yet: %s", type(error).__name__, exc_info=error)
            return False
        return True
