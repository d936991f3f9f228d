"""Asks a process of its own whether two files hold the same image.

Pictures from anywhere are decoded there: a decoder that falls over takes that process with it, and the modalities that
are sending notice nothing. It is started at the first question and ends by itself when there are none for a while.
"""

import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

ANSWER_SECONDS: Final = 20.0  # a peer waits for its status meanwhile


class Comparison:
    """One question at a time, from any thread.

    Args:
        answer_seconds: what takes longer is not known to be the same.
    """

    def __init__(self, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._answer_seconds = answer_seconds
        self._turn = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def alike(self, first: Path, second: Path) -> bool:
        """Whether two files are known to hold the same image; False where nobody answers that in time."""
        until = time.monotonic() + self._answer_seconds
        if not self._turn.acquire(timeout=self._answer_seconds):
            return False
        try:
            answer = self._asked(first, second, until)
            if not answer and time.monotonic() < until:  # one that was idle may have been ending just then
                answer = self._asked(first, second, until)
        finally:
            self._turn.release()
        if not answer:
            log.warning("two images with the same UID could not be compared")
        return answer == b"true\n"

    def close(self) -> None:
        """End the process, where there is one."""
        with self._turn:
            self._end()

    def _asked(self, first: Path, second: Path, until: float) -> bytes:
        """Its answer; empty where there is none."""
        try:
            if self._child is None:
                self._child = _started()
            assert self._child.stdin is not None
            assert self._child.stdout is not None
            self._child.stdin.write(json.dumps([os.fspath(first), os.fspath(second)]).encode() + b"\n")
            self._child.stdin.flush()
            ready, _, _ = select.select([self._child.stdout], [], [], max(0.0, until - time.monotonic()))
            answer = self._child.stdout.readline() if ready else b""
        except OSError:
            answer = b""
        if not answer:
            self._end()
        return answer

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            try:
                if stream is not None:
                    stream.close()
            except OSError:  # what was written last was never read
                pass


def _started() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "client.dicom.alike"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"OPENBLAS_NUM_THREADS": "1"}
        | os.environ
        | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
