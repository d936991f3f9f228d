"""A few studies read at once; one that may have ended the worker before is read alone."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self


class Several:
    """Threads that read studies; begun by one thread only.

    Args:
        count: how many studies at once.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._room = threading.Semaphore(count)
        self._threads = ThreadPoolExecutor(count, "read")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._threads.shutdown()

    def wait(self) -> None:
        """Until another study can begin: which one it is, is best decided then."""
        self._room.acquire()
        self._room.release()

    def begin(self, read: Callable[[], None], *, alone: bool = False) -> None:
        """Read a study in a thread.

        Args:
            read: never raises.
            alone: when no other is being read, and let none begin until it is done. A study whose reading kills the
                process then costs its neighbours one attempt, and not all that they have.
        """
        places = self._count if alone else 1
        for _ in range(places):
            self._room.acquire()
        self._threads.submit(self._read, read, places)

    def _read(self, read: Callable[[], None], places: int) -> None:
        try:
            read()
        finally:
            self._room.release(places)
