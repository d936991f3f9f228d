"""What studies are looked for by, kept in a file in the archive: a node that was restarted need not open every image
again to search for a name.

A line is the digest of a stored file and a few of its attributes, so that it can never become wrong; it is as personal
as the archive, lies in the archive's folder and is protected as that is. It is a cache: what is damaged or missing is
read again, and what is no longer in the index is taken out of the file when it is opened.
"""

import json
import logging
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Final

from models.durable import replacing

log = logging.getLogger(__name__)

NAME: Final = "outlines.jsonl"
_TOGETHER: Final = 256


class Outlines:
    """The kept outlines of one archive, by digest; safe to share between threads of one process.

    Args:
        path: of the file; need not exist.
        present: digests that are in the index; the others are forgotten.
    """

    def __init__(self, path: Path, present: Collection[str]) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._unwritten: list[str] = []
        self._known, others = _read(path)
        gone = self._known.keys() - set(present)
        for digest in gone:
            del self._known[digest]
        if gone or others:
            self._rewrite()

    def get(self, digest: str) -> str | None:
        """The outline as JSON, None where it is not known."""
        return self._known.get(digest)

    def put(self, digest: str, outline: str) -> None:
        """Keep one; it is written together with others."""
        with self._lock:
            self._known[digest] = outline
            self._unwritten.append(f"{digest} {outline}\n")
        if len(self._unwritten) >= _TOGETHER:
            self.flush()

    def flush(self) -> None:
        """Write what was not written yet; a disk that is full costs time after the next start, and nothing else."""
        with self._lock:
            lines, self._unwritten = self._unwritten, []
            if not lines:
                return
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write("".join(lines))
            except OSError as error:
                log.warning("outlines are not kept: %s", type(error).__name__)

    def _rewrite(self) -> None:
        try:
            with replacing(self._path) as file:
                file.writelines(f"{digest} {outline}\n".encode() for digest, outline in self._known.items())
        except OSError as error:
            log.warning("outlines are not rewritten: %s", type(error).__name__)


def _read(path: Path) -> tuple[dict[str, str], bool]:
    """The whole lines by digest, and whether there were others."""
    found: dict[str, str] = {}
    damaged = False
    try:
        content = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}, False
    for line in content.splitlines():
        digest, _, outline = line.partition(" ")
        if len(digest) == 64 and _is_object(outline):
            found[digest] = outline
        else:
            damaged = True
    return found, damaged


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
