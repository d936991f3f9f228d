"""Every DICOM file of a hospital, named by its content: `archive/aa/<sha256>.dcm`.

A file that `store` returned survives power loss: the bytes are synced under a temporary name, renamed, and the folder
is synced. The same bytes are one file, so storing again after a crash is harmless, and half a file never has a name.
"""

import contextlib
import hashlib
import os
import re
import time
from pathlib import Path

from models.errors import NotFound

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ABANDONED_SECONDS = 3600.0


class Archive:
    """A content-addressed folder; safe to share between threads and processes.

    Args:
        folder: an existing folder; its 256 subfolders are made here, so that storing needs one folder sync only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for number in range(256):
            (folder / f"{number:02x}").mkdir(exist_ok=True)
        _sync_folder(folder)

    def begin(self) -> "Draft":
        """A file to be written piece by piece.

        Raises:
            OSError: the disk is full or failing.
        """
        return Draft(self)

    def store(self, *parts: bytes | memoryview) -> str:
        """Keep the concatenation of `parts` for good.

        Returns:
            The SHA-256 of the bytes, 64 hex digits.

        Raises:
            OSError: the disk is full or failing; nothing is kept under a name then.
        """
        draft = self.begin()
        try:
            for part in parts:
                draft.write(part)
            return draft.keep()
        finally:
            draft.discard()

    def sweep(self) -> None:
        """Remove what was being written when a process was killed, an hour ago or more."""
        for path in self.folder.glob(".*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()

    def path(self, digest: str) -> Path:
        """Where the file of that digest lies, or would lie.

        Raises:
            NotFound: not a digest, so that no file can have this name.
        """
        if not _DIGEST.fullmatch(digest):
            raise NotFound("not a SHA-256 digest")
        return self.folder / digest[:2] / f"{digest}.dcm"

    def read(self, digest: str) -> bytes:
        """The bytes of a stored file.

        Raises:
            NotFound: nothing is stored under this digest.
        """
        try:
            return self.path(digest).read_bytes()
        except FileNotFoundError:
            raise NotFound(f"{digest} is not in the archive") from None


class Draft:
    """A file that is not yet kept; whoever begins one ends it with `discard`, which does nothing to what is kept.

    Attributes:
        path: where its bytes are until then.
        size: how many there are.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._hasher = hashlib.sha256()
        self.path: Path = archive.folder / f".{os.getpid()}-{os.urandom(8).hex()}.part"
        self.size = 0
        self._file: int | None = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def write(self, content: bytes | memoryview) -> None:
        """Append.

        Raises:
            OSError: the disk is full or failing.
        """
        assert self._file is not None
        self._hasher.update(content)
        view = memoryview(content)
        while view:
            written = os.write(self._file, view)
            self.size += written
            view = view[written:]

    def keep(self) -> str:
        """Give it its name, for good.

        Returns:
            The SHA-256 of its bytes, 64 hex digits.

        Raises:
            OSError: the disk is full or failing; nothing is kept under a name then.
        """
        assert self._file is not None
        digest = self._hasher.hexdigest()
        path = self._archive.path(digest)
        if not path.exists():
            os.fsync(self._file)
            self._close()
            self.path.replace(path)
        # also when it was there: whoever renamed it may have been killed before this sync
        _sync_folder(path.parent)
        return digest

    def discard(self) -> None:
        """Leave nothing behind of what was not kept."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
