"""Room on the disk: images are refused while there is still some left, for the database, the results and the logs.

A modality that is told "out of resources" (A700) keeps its images and tries again; one that meets a disk that is
really full meets a node that can no longer write down what it knows.
"""

import logging
import os
import threading
from pathlib import Path

log = logging.getLogger(__name__)


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
        found = os.statvfs(self._folder)
        free = found.f_bavail * found.f_frsize
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
