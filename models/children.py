"""Child processes that are stopped whole and never outlive their parent.

Flower's processes start others of their own, some in sessions of their own, so a process group is not enough: the
descendants are looked up before the signal is sent.
"""

import logging
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from models.errors import VigieError

log = logging.getLogger(__name__)

PARENT = "VIGIE_PARENT"
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",  # since 1.29 ONNX Runtime reports to its maker on Linux too
    "RAY_USAGE_STATS_ENABLED": "0",
    "DO_NOT_TRACK": "true",
}
"""A hospital's node and the coordinator never call home."""
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""For processes that copy weights: memory in pages of 2 MiB, where the kernel has them (malloc, glibc 2.35). To get
pages of 4 KiB takes longer than to copy into them."""

_given: set[int] = set()


class ChildFailed(VigieError):
    """A child process ended, or was not ready in time; its log says why."""

    code = "child-failed"


class Child:
    """One child process with its log file.

    Args:
        name: for messages, e.g. `superlink`.
        command: program and arguments.
        environment: all of the child's environment but what is added here (`QUIET` and the parent's number).
        log_file: receives standard output and error, appended.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log_file: Path) -> None:
        self.name = name
        self.log_file = log_file
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                env={**environment, **QUIET, PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Process number."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit status, or None while it runs."""
        return self._process.poll()

    def wait_ready(self, ready: Callable[[], bool], timeout: float = 60.0) -> None:
        """Probe until ready.

        Raises:
            ChildFailed: it ended first, or time ran out (then it is stopped).
        """
        deadline = time.monotonic() + timeout
        while not ready():
            if self.returncode is not None:
                raise ChildFailed(f"{self.name} ended with {self.returncode}; see {self.log_file}")
            if time.monotonic() > deadline:
                self.stop()
                raise ChildFailed(f"{self.name} was not ready in {timeout:.0f} s; see {self.log_file}")
            time.sleep(0.05)

    def wait(self, timeout: float) -> int:
        """Wait for its end.

        Raises:
            ChildFailed: it still runs.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise ChildFailed(f"{self.name} still runs after {timeout:.0f} s") from error

    def stop(self, grace: float = 10.0) -> None:
        """Ask it and all its descendants to end, then make them."""
        family = self.family()
        if self.returncode is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            log.warning("%s did not stop in %.0f s and is killed", self.name, grace)
            self._process.kill()
            self._process.wait()
        _, alive = psutil.wait_procs(family, timeout=2.0)
        for process in alive:
            _if_alive(process.kill)
        psutil.wait_procs(alive, timeout=2.0)

    def kill(self) -> None:
        """End it and all its descendants at once, as a power cut would."""
        family = self.family()
        self._process.kill()
        for process in family:
            _if_alive(process.kill)
        self._process.wait()
        psutil.wait_procs(family, timeout=2.0)

    def family(self) -> list[psutil.Process]:
        """Its living descendants, itself not included; of one that has ended, those in its session."""
        if self.returncode is None:
            try:
                return psutil.Process(self.pid).children(recursive=True)
            except psutil.NoSuchProcess:
                pass
        return [process for process in psutil.process_iter() if _session(process.pid) == self.pid]


class Restarted:
    """A child that is started again whenever it ended by itself, and given up where it ends again and again.

    Args:
        start: starts it.
        most: starts within `seconds`, after which it is given up.
        pauses: seconds before each start again, the last one from then on.
    """

    def __init__(
        self,
        start: Callable[[], Child],
        most: int = 6,
        seconds: float = 600.0,
        pauses: Sequence[float] = (0.0, 1.0, 2.0, 5.0, 10.0),
    ) -> None:
        self._start, self._most, self._seconds, self._pauses = start, most, seconds, pauses
        self._starts = [time.monotonic()]
        self._again: float | None = None
        self.child = start()

    def look(self) -> bool:
        """Start it again where it has ended; False once it is given up. To be called every now and then."""
        if self.child.returncode is None:
            return True
        now = time.monotonic()
        recent = [one for one in self._starts if now - one < self._seconds]
        if len(recent) >= self._most:
            return False
        if self._again is None:
            self._again = now + self._pauses[min(len(recent) - 1, len(self._pauses) - 1)]
            log.error("%s ended by itself with %s and is started again", self.child.name, self.child.returncode)
        if now >= self._again:
            self._starts, self._again = [*recent, now], None
            self.child.stop()  # what it may have left running
            self.child = self._start()
        return True


def together(*ends: Callable[[], object]) -> None:
    """Have processes ended at the same time: it takes no longer than the slowest of them.

    Raises:
        Exception: what the first one raised, once all have ended.
    """
    with ThreadPoolExecutor(len(ends)) as threads:
        under_way = [threads.submit(end) for end in ends]
    for one in under_way:
        one.result()


def _session(pid: int) -> int:
    """The session of a process; 0 where it is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _if_alive(act: Callable[[], None]) -> None:
    """Signal a process that may be gone already."""
    try:
        act()
    except psutil.NoSuchProcess:
        return


def follow_parent(interval: float = 0.2) -> None:
    """In a child: end as soon as the parent that started it is gone.

    The parent is whoever `Child` says it is; without that, nothing is watched.
    """
    parent = os.environ.get(PARENT)
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(interval)
        os.kill(os.getpid(), signal.SIGTERM)  # to the process: the main thread, which has to act, may be waiting
        time.sleep(5.0)
        for process in psutil.Process().children(recursive=True):
            _if_alive(process.kill)
        os._exit(1)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()


def keep_quiet() -> None:
    """Let no library of this process, or of any that it starts, call home; before such a library is imported."""
    os.environ.update(QUIET)


def free_port() -> int:
    """A loopback port that nobody listens on, given to nobody else by this process.

    Below the ports that the system gives to outgoing connections: one of those may be taken again by any connection
    that is made before the listener is up.
    """
    draw = random.SystemRandom()  # whoever fixes the seeds of a training does not fix the ports with them
    while True:
        port = draw.randint(15_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
