"""Every DICOM file of a hospital, named by its content: `archive/aa/<sha256>.dcm`.

A file that `store` returned survives power loss: the bytes are synced under a temporary name, renamed, and the folder
is synced. The same bytes are one file, so storing again after a crash is harmless, and half a file never has a name.
"""

import contextlib
import hashlib
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from models.errors import NotFound

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ABANDONED_SECONDS = 3600.0
_WORTH_A_THREAD = 256 << 10
_HASHERS = ThreadPoolExecutor(max_workers=4, thread_name_prefix="hash")  # threads start with the first large file


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
        with contextlib.closing(self.begin()) as draft:
            for part in parts:
                draft.write(part)
            digest = draft.name()
            self.sync(digest)
            return digest

    def sync(self, digest: str) -> None:
        """Make the name of a file durable, also one that was there: whoever named it may have been killed before this.

        Raises:
            OSError: the disk is failing.
        """
        _sync_folder(self.path(digest).parent)

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
    """A file that has no name yet; whoever begins one closes it, which removes what was not named.

    Attributes:
        path: where its bytes are until then.
        size: how many there are.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._hasher = hashlib.sha256()
        self.path: Path = archive.folder / f".{os.getpid()}-{os.urandom(8).hex()}.part"
        self.size = 0
        self._named = False
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)

    def write(self, content: bytes | memoryview) -> None:
        """Append.

        Raises:
            OSError: the disk is full or failing.
        """
        if len(content) < _WORTH_A_THREAD:
            self._hasher.update(content)
            self._write(content)
            return
        hashing = _HASHERS.submit(self._hasher.update, content)
        try:
            self._write(content)
        finally:
            hashing.result()

    def name(self, content: bytes | memoryview = b"") -> str:
        """Append the last bytes, make all of them durable, and give the file its name; the name is not durable yet.

        Returns:
            The SHA-256 of its bytes, 64 hex digits.

        Raises:
            OSError: the disk is full or failing; nothing is kept under a name then.
        """
        hashing = _HASHERS.submit(self._hasher.update, content) if content else None
        try:
            self._write(content)
            os.fsync(self._file)
        finally:
            if hashing is not None:
                hashing.result()  # also when the disk fails: the bytes are somebody else's afterwards
        digest = self._hasher.hexdigest()
        path = self._archive.path(digest)
        if not path.exists():
            self.path.replace(path)
            self._named = True
        return digest

    def close(self) -> None:
        """Leave nothing behind of what was not named."""
        os.close(self._file)
        if not self._named:
            self.path.unlink(missing_ok=True)

    def _write(self, content: bytes | memoryview) -> None:
        view = memoryview(content)
        while view:
            written = os.write(self._file, view)
            self.size += written
            view = view[written:]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
