"""How much memory a command and all that it starts take."""

import itertools
import threading
from collections.abc import Callable, Sequence

import psutil


class Memory:
    """Watches the resident memory of this process and all its descendants, every two seconds.

    `peak_mib` counts a page that several processes share (libraries, forked memory) once, `peak_sum_mib` once for
    each of them.
    """

    def __init__(self) -> None:
        self.peak_mib = self.peak_sum_mib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        me = psutil.Process()
        for turn in itertools.count():
            if self._stop.wait(2.0):
                return
            family = [me, *me.children(recursive=True)]
            summed = self._sum(family, lambda process: process.memory_info().rss)
            # counting shared pages walks every page table: less often, unless a new peak is likely
            if turn % 5 == 0 or summed > 0.95 * self.peak_sum_mib:
                self.peak_mib = max(self.peak_mib, self._sum(family, lambda process: process.memory_full_info().pss))
            self.peak_sum_mib = max(self.peak_sum_mib, summed)

    @staticmethod
    def _sum(family: Sequence[psutil.Process], measure: Callable[[psutil.Process], int]) -> float:
        total = 0
        for process in family:
            try:
                total += measure(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return total / 2**20
