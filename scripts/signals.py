"""Waiting for Ctrl-C or a service manager's SIGTERM."""

import signal
import threading
from collections.abc import Callable


def wait_for_signal(ended: Callable[[], bool] = lambda: False, poll: float = 0.5) -> bool:
    """Wait until told to stop; True then, False when `ended` says so first."""
    stop = threading.Event()

    def ask(_number: int, _frame: object) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    while not ended():
        if stop.wait(poll):
            return True
    return False
