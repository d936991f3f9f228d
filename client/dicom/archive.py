"""Every DICOM file of a hospital, named by its content: `archive/aa/<sha256>.dcm`.

A file that `store` returned survives power loss: the bytes are synced under a temporary name, renamed, and the folder
is synced. The same bytes are one file, so storing again after a crash is harmless, and half a file never has a name.
"""

import hashlib
import os
import re
from pathlib import Path

from models.errors import NotFound

_DIGEST = re.compile(r"[0-9a-f]{64}")


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

    def store(self, *parts: bytes | memoryview) -> str:
        """Keep the concatenation of `parts` for good.

        Returns:
            The SHA-256 of the bytes, 64 hex digits.

        Raises:
            OSError: the disk is full or failing; nothing is kept under a name then.
        """
        hasher = hashlib.sha256()
        for part in parts:
            hasher.update(part)
        digest = hasher.hexdigest()
        path = self.path(digest)
        if not path.exists():
            _write_synced(path, parts)
        # also when it was there: whoever renamed it may have been killed before this sync
        _sync_folder(path.parent)
        return digest

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


def _write_synced(path: Path, parts: tuple[bytes | memoryview, ...]) -> None:
    temporary = path.with_name(f".{os.getpid()}-{os.urandom(8).hex()}.part")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            for part in parts:
                view = memoryview(part)
                while view:
                    view = view[file.write(view) :]
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
