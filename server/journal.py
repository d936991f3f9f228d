"""What a retraining has done so far, one durable line per step, so that it can go on after any crash."""

import fcntl
import json
import os
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.arrays import write
from models.durable import replacing
from models.errors import Conflict

JOURNAL = "journal.jsonl"


class Journal:
    """The journal in a retraining's folder.

    A line counts once it is complete: a torn last line, left by a crash, is cut off when the journal is opened.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / JOURNAL
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            content = self.path.read_bytes()
            whole = content.rfind(b"\n") + 1
            if whole < len(content):
                os.truncate(self.path, whole)

    def write(self, step: str, facts: Mapping[str, Any]) -> None:
        """Add a line and wait until it is on disk."""
        line = json.dumps({"step": step, "at": time.time(), **facts}, sort_keys=True, allow_nan=False)
        with self.path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def last(self, step: str) -> dict[str, Any] | None:
        """The newest line of this kind."""
        return next((line for line in reversed(list(read(self.folder))) if line["step"] == step), None)

    def save_weights(self, round_: int, weights: Mapping[str, NDArray[Any]]) -> None:
        """Keep the weights after a round; the line that names the round comes after them."""
        self._save(self._weights(round_), weights)

    def load_weights(self, round_: int) -> dict[str, NDArray[Any]]:
        """The weights after a round."""
        return self._load(self._weights(round_))

    def save_state(self, round_: int, state: Mapping[str, NDArray[Any]]) -> None:
        """Keep what the strategy remembers after a round, before its weights and the line that names it."""
        if state:
            self._save(self._state(round_), state)

    def load_state(self, round_: int) -> dict[str, NDArray[Any]]:
        """What the strategy remembers after a round; nothing where it has nothing to remember."""
        path = self._state(round_)
        return self._load(path) if path.exists() else {}

    def save_sum(self, round_: int, total: NDArray[Any]) -> None:
        """Keep the sum of a round's masked updates, before the line that says whose they are and before any mask is
        taken off: the hospitals help with one sum alone.
        """
        self._save(self._sum(round_), {"total": total})

    def load_sum(self, round_: int) -> NDArray[Any]:
        """The sum of a round's masked updates."""
        return self._load(self._sum(round_))["total"]

    def _save(self, path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
        with replacing(path) as file:
            write(file, arrays)

    def _load(self, path: Path) -> dict[str, NDArray[Any]]:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}

    def _state(self, round_: int) -> Path:
        return self.folder / f"state-{round_:04d}.npz"

    def _sum(self, round_: int) -> Path:
        return self.folder / f"masked-{round_:04d}.npz"

    def _weights(self, round_: int) -> Path:
        return self.folder / f"round-{round_:04d}.npz"


@contextmanager
def alone(folder: Path) -> Generator[None]:
    """Hold a retraining's folder: two runs on one journal would make two candidates.

    Raises:
        Conflict: another run of this retraining is under way.
    """
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"{folder.name} runs already: follow it with `vigie retrain watch {folder.name}`") from None
        yield


def held(folder: Path) -> bool:
    """Whether a run works on this retraining; the kernel lets go of what a killed process held."""
    try:
        with (folder / "lock").open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a journal, oldest first; nothing if there is none yet."""
    path = folder / JOURNAL
    if not path.exists():
        return
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield json.loads(line)
