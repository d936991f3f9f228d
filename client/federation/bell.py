"""How a SuperNode wakes its launcher: a named pipe in the folder that the two have to themselves.

The launcher would else have to ask dozens of times a second whether there is a message, a request over HTTP each,
which at four hospitals of one machine takes as much of the processor as a round's own work. A ring that gets lost costs
nothing but time: whoever waits looks now and then by itself. Nothing is said by it but that there may be something.
"""

import contextlib
import os
import select
from pathlib import Path


class Bell:
    """The pipe of one channel of a hospital, at one end or the other.

    Args:
        home: the channel's folder; a pipe for both channels would wake the wrong launcher.
    """

    def __init__(self, home: Path) -> None:
        path = home / "bell"
        path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # open for both, so that neither end waits for the other or is told that it has gone
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def ring(self) -> None:
        """Wake whoever waits, or will; a full pipe has been rung often enough."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._pipe, b".")

    def wait(self, seconds: float) -> None:
        """Wait until it was rung since the last time, or for so long."""
        if select.select([self._pipe], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._pipe, 1 << 16)

    def close(self) -> None:
        """Let go of it."""
        os.close(self._pipe)
