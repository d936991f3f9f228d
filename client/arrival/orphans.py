"""Removes files of the archive that nothing refers to: of a node that was killed between a file's name and its entry.

Nobody was told that such an image is kept, so its sender sends it again. A database that was brought back from a backup
refers to as little of what came after it, and that was acknowledged: so only those files go after which other images
were entered within minutes, as they are where a node is started again and goes on; and none where there are many.

Only what was written an hour ago or more is looked at, and it is taken out of the way before it is asked for once more:
whoever stores the same bytes meanwhile writes them anew, under the name that is free then, and an entry that was made
meanwhile gets its file back.
"""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from sqlalchemy import select, union_all
from sqlalchemy.exc import SQLAlchemyError

from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, instance

log = logging.getLogger(__name__)

_OLD_SECONDS: Final = 3600.0
_FOLDERS: Final = 16  # of 256, whose files are held in memory together
_MOST: Final = 256  # of a node that was killed some times; those of a lost database are more
_SOON_SECONDS: Final = 600.0
_ASIDE: Final = ".swept"


class Orphans:
    """A thread that looks through the archive once, and ends; `close` ends it before that."""

    def __init__(self, site: Site, archive: Archive, old_seconds: float = _OLD_SECONDS) -> None:
        self._site = site
        self._archive = archive
        self._before = time.time() - old_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="orphans", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, with every file either where it was or gone for good."""
        self._stop.set()
        self._thread.join()

    def wait(self) -> None:
        """Return when all has been looked through."""
        self._thread.join()

    def _run(self) -> None:
        try:
            found: list[Path] = []
            for first in range(0, 256, _FOLDERS):
                prefixes = [f"{number:02x}" for number in range(first, first + _FOLDERS)]
                known = self._referred(prefixes[0], prefixes[-1] + "g")
                found += islice(self._unknown(prefixes, known), _MOST + 1 - len(found))
            if self._stop.is_set():
                return
            if len(found) > _MOST:
                log.error("nothing refers to more than %d files of the archive: none is removed", _MOST)
            elif removed := self._remove(found):
                log.warning("%d files of the archive were removed: nothing referred to them", removed)
        except (OSError, SQLAlchemyError) as error:
            log.warning("the archive was not swept: %s", type(error).__name__)

    def _unknown(self, prefixes: Sequence[str], known: set[bytes]) -> Iterator[Path]:
        for prefix in prefixes:
            with os.scandir(self._archive.folder / prefix) as entries:
                for entry in entries:
                    if self._stop.is_set():
                        return
                    path = Path(entry.path)
                    unknown = path.suffix == ".dcm" and _digest(path) not in known and self._old(path)
                    if unknown or path.suffix == _ASIDE:  # put there by a process that was killed over it
                        yield path

    def _old(self, path: Path) -> bool:
        try:
            return path.stat().st_mtime < self._before
        except FileNotFoundError:
            return False

    def _remove(self, paths: Sequence[Path]) -> int:
        """Take them out of the way, and bring back what is new, or has an entry after all."""
        aside: list[Path] = []
        for path in paths:
            if path.suffix == _ASIDE or self._went_on(path):
                taken = path.with_suffix(_ASIDE)
                with contextlib.suppress(FileNotFoundError):
                    path.rename(taken)
                    aside.append(taken)
        referred = self._referring([taken.stem for taken in aside])
        removed = 0
        for taken in aside:
            if taken.stem in referred or not self._old(taken):
                with contextlib.suppress(FileExistsError):  # it was stored again
                    os.link(taken, taken.with_suffix(".dcm"))
            else:
                removed += 1
            taken.unlink()
        return removed

    def _went_on(self, path: Path) -> bool:
        """Whether images were entered soon after a file was written."""
        try:
            written = path.stat().st_mtime
        except FileNotFoundError:
            return False
        query = select(instance.c.id).where(instance.c.received_at.between(written, written + _SOON_SECONDS)).limit(1)
        with self._site.database.read() as connection:
            return connection.execute(query).first() is not None

    def _referred(self, first: str, beyond: str) -> set[bytes]:
        tables = (delivery, instance)
        query = union_all(*(select(one.c.sha256).where(one.c.sha256 >= first, one.c.sha256 < beyond) for one in tables))
        with self._site.database.read() as connection:
            return {bytes.fromhex(digest) for digest in connection.execute(query).scalars()}

    def _referring(self, digests: Sequence[str]) -> set[str]:
        query = union_all(*(select(one.c.sha256).where(one.c.sha256.in_(digests)) for one in (delivery, instance)))
        with self._site.database.read() as connection:
            return set(connection.execute(query).scalars())


def _digest(path: Path) -> bytes:
    try:
        return bytes.fromhex(path.stem)
    except ValueError:
        return b""
