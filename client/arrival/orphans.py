"""Puts aside what nothing in the archive refers to: files of a node that was killed between file and entry.

Nobody was told that such an image is kept, so its sender sends it again. But a database that was brought back from a
backup refers to as little of what came after it, and that was acknowledged: so nothing is deleted. Files go to the
archive's folder `lost`, where a person finds and may send them again; where there are many, a database is missing
rather than some entries, and they are left where they are.

Only what was written an hour ago or more is looked at, and an entry that was made while it was put aside gets its file
back.
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
_TOGETHER: Final = 500
LOST: Final = "lost"


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
        """Stop, with every file in one of its two places."""
        self._stop.set()
        self._thread.join()

    def wait(self) -> None:
        """Return when all has been looked through."""
        self._thread.join()

    def _run(self) -> None:
        try:
            self._bring_back(sorted((self._archive.folder / LOST).glob("*.dcm")))
            found: list[Path] = []
            for first in range(0, 256, _FOLDERS):
                prefixes = [f"{number:02x}" for number in range(first, first + _FOLDERS)]
                known = self._referred(prefixes[0], prefixes[-1] + "g")
                found += islice(self._unknown(prefixes, known), _MOST + 1 - len(found))
            if self._stop.is_set():
                return
            if len(found) > _MOST:
                log.error("nothing refers to more than %d files of the archive: none is put aside", _MOST)
            elif lost := self._put_aside(found):
                log.warning("%d files that nothing referred to are in the archive's folder %s", lost, LOST)
        except (OSError, SQLAlchemyError) as error:
            log.warning("the archive was not swept: %s", type(error).__name__)

    def _unknown(self, prefixes: Sequence[str], known: set[bytes]) -> Iterator[Path]:
        for prefix in prefixes:
            with os.scandir(self._archive.folder / prefix) as entries:
                for entry in entries:
                    if self._stop.is_set():
                        return
                    path = Path(entry.path)
                    if path.suffix == ".dcm" and _digest(path) not in known and self._old(path):
                        yield path

    def _old(self, path: Path) -> bool:
        try:
            return path.stat().st_mtime < self._before
        except FileNotFoundError:
            return False

    def _put_aside(self, paths: Sequence[Path]) -> int:
        """Move them, and bring back what has an entry after all."""
        folder = self._archive.folder / LOST
        if paths:
            folder.mkdir(exist_ok=True)
        moved: list[Path] = []
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                moved.append(path.rename(folder / path.name))
        return len(moved) - self._bring_back(moved)

    def _bring_back(self, paths: Sequence[Path]) -> int:
        """Those of the files put aside that have an entry after all, or again; how many."""
        count = 0
        for start in range(0, len(paths), _TOGETHER):
            some = paths[start : start + _TOGETHER]
            referred = self._referring([path.stem for path in some])
            for path in some:
                if path.stem in referred:
                    with contextlib.suppress(FileExistsError):  # it was stored again
                        os.link(path, self._archive.path(path.stem))
                    path.unlink()
                    count += 1
        return count

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
