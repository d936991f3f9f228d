"""What the archive keeps is what was given to it, on file systems that have nameless files and on others."""

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from client.store.archive import Archive

CONTENT = os.urandom(600_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(params=["nameless", "named"])
def archive(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    if request.param == "named":
        opened = os.open

        def without(path: Any, flags: int, *rest: Any, **others: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "no nameless files here")
            return opened(path, flags, *rest, **others)

        monkeypatch.setattr(os, "open", without)
    return Archive(tmp_path)


def files(archive: Archive) -> list[Path]:
    return [path for path in archive.folder.rglob("*") if path.is_file()]


def test_the_same_bytes_are_one_file_and_replace_what_is_damaged(archive: Archive) -> None:
    assert archive.store(CONTENT[:1000], CONTENT[1000:]) == DIGEST
    assert archive.read(DIGEST) == CONTENT
    archive.path(DIGEST).write_bytes(CONTENT[:10])  # as a power cut may leave it
    assert archive.store(CONTENT) == DIGEST
    assert archive.read(DIGEST) == CONTENT
    assert files(archive) == [archive.path(DIGEST)]
    assert archive.path(DIGEST).stat().st_mode & 0o777 == 0o640 & ~_umask()


def test_what_is_being_written_can_be_read_and_leaves_nothing_when_it_is_given_up(archive: Archive) -> None:
    draft = archive.begin()
    draft.write(CONTENT)
    assert draft.path.read_bytes() == CONTENT
    draft.close()
    assert files(archive) == []


def test_what_was_named_and_not_synced_is_taken_away(archive: Archive) -> None:
    draft = archive.begin()
    draft.write(CONTENT)
    assert draft.name() == DIGEST
    draft.close()
    assert files(archive) == []


def _umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found
