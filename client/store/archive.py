"""Every DICOM file of a hospital, named by its content: `archive/aa/<sha256>.dcm`.

A file whose `sync` returned survives power loss, and so does its name. A new file gets its name before its bytes are on
the disk, so that both are brought there together; a power cut in between may leave half a file under a name that nobody
has been told of yet. Therefore a file that is there already is never trusted and never put at risk: whoever stores the
same bytes again writes them again, under another name, and replaces the old file once they are on the disk.
"""

import contextlib
import hashlib
import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from models.errors import NotFound

_DIGEST = re.compile(r"[0-9a-f]{64}")
_ABANDONED_SECONDS = 3600.0
_WORTH_A_THREAD = 256 << 10
_NAMES = threading.Lock()
_POOL = ThreadPoolExecutor(max_workers=8, thread_name_prefix="archive")  # none of its work waits for other work of it


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
            draft.sync()
            return digest

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
    """A file being written: `write`, `name`, `sync`, and whatever became of it `close`.

    Attributes:
        path: where its bytes are until it has its name.
        size: how many there are.
    """

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._hasher = hashlib.sha256()
        self.size = 0
        self._name: Path | None = None
        self._fresh = self._synced = False
        self._temporary: Path | None = None
        try:
            # without a name until it is whole: nothing is left behind, and one entry is made instead of two
            self._file = os.open(archive.folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o640)
            self.path = Path(f"/proc/self/fd/{self._file}")
        except OSError:  # a file system that has no such files, or a full disk, which then says so again
            self._temporary = self.path = self._other_name()
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
        hashing = _POOL.submit(self._hasher.update, content)
        try:
            self._write(content)
        finally:
            hashing.result()  # also when the disk fails: the bytes are somebody else's afterwards

    def name(self) -> str:
        """All is written: give the file its name.

        Returns:
            The SHA-256 of its bytes, 64 hex digits.

        Raises:
            OSError: the disk is full or failing.
        """
        digest = self._hasher.hexdigest()
        path = self._archive.path(digest)
        try:
            self._link(path)
            self._fresh = True
        except OSError:  # it is there already; or this file system has no links
            if self._temporary is None:
                self._temporary = self._other_name()
                self._link(self._temporary)
            os.fsync(self._file)
            with _NAMES:
                self._temporary.replace(path)
        self._name = path
        return digest

    def sync(self) -> None:
        """Bring bytes and name to the disk, at the same time.

        Raises:
            OSError: the disk is failing; nothing is kept under the name then.
        """
        assert self._name is not None
        naming = _POOL.submit(_sync_folder, self._name.parent)
        try:
            os.fsync(self._file)
        finally:
            naming.result()
        self._synced = True

    def forget(self) -> None:
        """Nobody will be told of it: what `close` leaves behind is as if it had not been synced."""
        self._synced = False

    def close(self) -> None:
        """Leave nothing behind of what was not synced."""
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
        if self._name is not None and self._fresh and not self._synced:
            with _NAMES, contextlib.suppress(FileNotFoundError):
                # or somebody has put a whole file in its place meanwhile
                if self._name.stat().st_ino == os.fstat(self._file).st_ino:
                    self._name.unlink()
        os.close(self._file)

    def _other_name(self) -> Path:
        return self._archive.folder / f".{os.getpid()}-{os.urandom(8).hex()}.part"

    def _link(self, path: Path) -> None:
        # with a folder's descriptor, or the link would be followed no further than to /proc
        os.link(self.path, path, src_dir_fd=self._file, follow_symlinks=True)

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
