"""Files that are there whole or not at all, also after a power cut."""

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path, mode: int = 0o666) -> Generator[BinaryIO]:
    """A file to write: once this returns, it and its name are on the disk, in the place of what was there before.

    Args:
        path: in a folder that exists; one writer at a time.
        mode: of a new file, less the process' umask.

    Raises:
        OSError: the disk is full or failing; what was there before still is.
    """
    partial = path.with_name(f"{path.name}.partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    _sync(path.parent)


def make(path: Path, content: bytes, mode: int = 0o600) -> bool:
    """Make a file, or leave the one that is there; several may try at once, and one of them makes it.

    Args:
        path: in a folder that exists.
        mode: of the file, less the process' umask.

    Returns:
        False where there is a file already, which stays as it is.

    Raises:
        OSError: the disk is full or failing; nothing is there under this name then.
    """
    if path.exists():
        return False
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(draft)
        except FileExistsError:
            return False
        except OSError:  # a file system that has no links
            draft.rename(path)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    _sync(path.parent)
    return True


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
