"""Room for what comes in: on the disk, and in the queue.

Images are refused while there is still some room left, for the database, the results and the logs. A modality that is
told "out of resources" (A700) keeps its images and tries again; one that meets a disk that is really full meets a node
that can no longer write down what it knows, and one whose study is the ten thousandth that waits would not get a result
while that is of use to anybody.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import func, select

from client.store.site import Site
from client.store.tables import study

log = logging.getLogger(__name__)

_COUNTED_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Refusing:
    """That images are refused just now.

    Attributes:
        reason: what senders are told, a key of `client.arrival.intake.STATUS`.
        why: for people of the hospital.
    """

    reason: str
    why: str


def refusing(site: Site) -> Refusing | None:
    """Whether images of new studies are refused, and why; None where they are taken."""
    free = _free(site.archive)
    if free < max(site.config.reserve_mib, 1) << 20:
        return Refusing("disk-full", f"Images are refused, for only {free >> 20} MiB are left on the disk")
    waiting = _waiting(site)
    if waiting >= site.config.most_waiting:
        return Refusing("queue-full", f"New studies but emergencies are refused, for {waiting} wait to be read")
    return None


class Room:
    """How much of a file system is left, held against a reserve; says in the log when that changes.

    Args:
        folder: any folder on the file system.
        reserve: bytes that images may not take.
    """

    def __init__(self, folder: Path, reserve: int) -> None:
        self._folder = folder
        self._reserve = reserve
        self._lock = threading.Lock()
        self._short = False

    def left(self) -> bool:
        """Whether another image may be taken."""
        free = _free(self._folder)
        short = free < self._reserve
        with self._lock:
            changed, self._short = short != self._short, short
        if changed and short:
            log.error(
                "images are refused: %d MiB are free under %s, reserve_mib keeps %d",
                free >> 20,
                self._folder,
                self._reserve >> 20,
            )
        elif changed:
            log.warning("images are accepted again: %d MiB are free under %s", free >> 20, self._folder)
        return not short


class Backlog:
    """How many studies wait, held against a bound; says in the log when that changes.

    Images of studies that are here already are taken: a study of which the half waits would be read as a half. An
    emergency is read before all others, so that it is taken up to a second bound.

    Args:
        most: studies that may wait. A few more get in, those that come within a second.
        beyond: so many more, where they are emergencies.
    """

    def __init__(self, site: Site, most: int, beyond: int = 0) -> None:
        self._site = site
        self._most = most
        self._beyond = beyond
        self._lock = threading.Lock()
        self._counted_at = float("-inf")
        self._waiting = 0
        self._full = False

    def admits(self, study_uid: str, emergency: Callable[[], bool]) -> bool:
        """Whether an image of a study may be taken.

        Args:
            emergency: whether the study is one; asked only where that decides.
        """
        with self._lock:
            if time.monotonic() - self._counted_at > _COUNTED_SECONDS:
                self._count()
            if not self._full:
                return True
            urgent_too = self._waiting >= self._most + self._beyond
        with self._site.database.read() as connection:
            if connection.execute(select(study.c.uid).where(study.c.uid == study_uid)).first() is not None:
                return True
        if urgent_too or not emergency():
            return False
        with self._lock:
            self._waiting += 1  # those of the same second are held against the bound, too
        return True

    def _count(self) -> None:
        self._waiting = _waiting(self._site)
        full = self._waiting >= self._most
        if full and not self._full:
            log.error("new studies but emergencies are refused: %d wait, most_waiting is %d", self._waiting, self._most)
        elif self._full and not full:
            log.warning("new studies are accepted again: %d wait", self._waiting)
        self._full, self._counted_at = full, time.monotonic()


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _waiting(site: Site) -> int:
    query = select(func.count()).select_from(study).where(study.c.state.in_(("receiving", "queued")))
    with site.database.read() as connection:
        return int(connection.execute(query).scalar_one())
