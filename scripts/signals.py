"""Waiting for Ctrl-C or a service manager's SIGTERM."""

import signal
import threading
from collections.abc import Callable


class _Asked(BaseException):
    """It was told to stop in the middle of a look."""


def wait_for_signal(ended: Callable[[], bool] = lambda: False, poll: float = 0.5) -> bool:
    """Wait until told to stop; True then, False when `ended` says so first.

    A look that takes long, because it starts a process again for instance, is broken off.
    """
    stop, looks = threading.Event(), False

    def ask(_number: int, _frame: object) -> None:
        nonlocal looks
        stop.set()
        if looks:
            looks = False  # once: it may be told again
            raise _Asked

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    while not stop.is_set():
        try:
            looks = True
            found = ended()
            looks = False
        except _Asked:
            return True
        if found:
            return False
        stop.wait(poll)
    return True
