"""The hospital's trainer: a process that stays, has torch loaded once, and gives way to everything else.

The ClientApp, which talks to the outside, is small, loads no torch and asks it over a pair of connected sockets that
only these two have. Each order is worked on in a forked child, so that nothing of one lives on into the next. All of
it runs only when nothing else on the machine wants the processor, has a bound on its memory, and is the first to be
ended where memory runs out: reading patients' studies comes before learning from them.
"""

import contextlib
import ctypes
import gc
import importlib
import logging
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, Literal, cast

from client.federation import handover
from client.inference.memory import usable
from client.store.site import Site
from models.children import HUGE_PAGES
from models.errors import VigieError
from models.exchange import Decision, Evidence, Offer, Release, TrainOrder, Update

log = logging.getLogger(__name__)

CONNECTION: Final = "VIGIE_TRAINER"
"""Environment variable with the number of the ClientApp's end; without it, orders are worked on in this process."""

Work = Literal["train", "judge", "settle"]
Order = TrainOrder | Offer | Release
_MIB: Final = 1 << 20
_SHARE: Final = 4  # of the machine's memory, a quarter
_LEAST: Final = 2048 * _MIB  # what torch and the hospital's libraries need of it in any case
_ALIVE: Final = 0.5  # seconds between two looks whether the launcher still is, while an order is worked on
_DEATH_SIGNAL: Final = 1  # PR_SET_PDEATHSIG, prctl(2)


class WorkFailed(VigieError):
    """The trainer could not do what an order asks; the code is that of the error there."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code  # pyright: ignore[reportAttributeAccessIssue] - each has that of another error


def train(site: Site, order: TrainOrder) -> Update:
    """See `client.federation.trainer.train`."""
    return cast(Update, _ask("train", site, order))


def judge(site: Site, offer: Offer) -> Evidence:
    """See `client.federation.adoption.judge`."""
    return cast(Evidence, _ask("judge", site, offer))


def settle(site: Site, order: Release) -> Decision:
    """See `client.federation.adoption.settle`."""
    return cast(Decision, _ask("settle", site, order))


def _ask(work: Work, site: Site, order: Order) -> object:
    if (number := os.environ.get(CONNECTION)) is None:
        return _do(work, site, order)
    connection = Connection(os.dup(int(number)))
    try:
        handover.send(connection, (work, order))
        code, answer = handover.receive(connection)
    except (EOFError, OSError):
        raise WorkFailed("interrupted", "the trainer was ended while it worked") from None
    finally:
        connection.close()
    if code:
        raise WorkFailed(code, answer)
    return answer


def _do(work: Work, site: Site, order: Order) -> object:
    # torch, MONAI and ONNX Runtime: only where it is worked
    if isinstance(order, TrainOrder):
        from client.federation.trainer import train as do_train

        return do_train(site, order)
    from client.federation import adoption

    return adoption.judge(site, order) if isinstance(order, Offer) else adoption.settle(site, order)


class Resident:
    """The trainer of one hospital, as its launcher holds it.

    Args:
        site: the hospital's folder.
    """

    def __init__(self, site: Path) -> None:
        self._site = site
        self._process: subprocess.Popen[bytes] | None = None
        self._ours: socket.socket | None = None

    def start(self) -> None:
        """Start it if it does not run; it loads what it needs while others go on."""
        if self._process is not None and self._process.poll() is None:
            return
        self.stop()
        self._ours, theirs = socket.socketpair()
        self._ours.set_inheritable(True)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "client.federation.resident", str(self._site), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=_surroundings(),
            )
        os.environ[CONNECTION] = str(self._ours.fileno())

    def stop(self) -> None:
        """End it and what it works on; whatever an answer that nobody waits for would have been is gone with it."""
        os.environ.pop(CONNECTION, None)
        if self._ours is not None:
            self._ours.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._ours = self._process = None


def _surroundings() -> dict[str, str]:
    """Torch's memory in pages of 2 MiB; what else there is in pages of 4 KiB, of which a fork has to copy what it
    touches.
    """
    kept = {name: value for name, value in os.environ.items() if name not in HUGE_PAGES}
    return {**kept, "THP_MEM_ALLOC_ENABLE": "1"}


def give_way(priority: str = "idle") -> None:
    """Run only when nothing else wants the processor, and be the first that the kernel ends for want of memory.

    Args:
        priority: idle; low: a little of it in any case (nice 10), for a machine that is never idle; or normal.

    Source: sched(7), SCHED_IDLE; proc_pid_oom_score_adj(5).
    """
    if priority != "normal":
        os.nice(19 if priority == "idle" else 10)
    if priority == "idle":  # where a container forbids this, niceness still holds
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError as error:
            log.warning("the trainer runs at the lowest priority, and not only when idle: %s", error.strerror)
    try:
        Path("/proc/self/oom_score_adj").write_text("1000")
    except OSError as error:
        log.warning("the trainer is not the first to be ended for want of memory: %s", error.strerror)


def bound_memory(memory_mib: int) -> int:
    """Let this process take no more memory than this: what asks for more gets a MemoryError.

    Args:
        memory_mib: 0: a quarter of what this machine or container has.

    Returns:
        The bound in bytes.

    Source: getrlimit(2), RLIMIT_DATA, private writable mappings too since Linux 4.7.
    """
    limit = memory_mib * _MIB if memory_mib else max(_LEAST, usable() // _SHARE)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    return limit


def main() -> int:
    """Work on orders until the launcher is gone."""
    from client.lean import without_unused

    folder, number = Path(sys.argv[1]), int(sys.argv[2])
    launcher = os.getppid()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    without_unused()
    # torch's optimisers import torch._dynamo when the first one is made
    for module in (
        "client.federation.adoption",
        "client.federation.trainer",
        "models.networks.residual",
        "torch._dynamo",
    ):
        importlib.import_module(module)
    with contextlib.suppress(VigieError, OSError):
        _ = Site(folder).config  # read and checked once, and not by each child
    gc.collect()
    gc.freeze()  # or each child's collections would touch, and so copy, all that is here
    with Connection(number) as connection:
        while os.getppid() == launcher:
            if not connection.poll(1.0):
                continue
            try:
                work, order = handover.receive(connection)
            except (EOFError, OSError):
                break
            if not _worked(connection, folder, work, order, launcher):
                return 1  # half an answer may be on its way: the launcher starts another one of us
    return 0


def _worked(connection: Connection, folder: Path, work: Work, order: Order, launcher: int) -> bool:
    child = os.fork()
    if child == 0:
        os._exit(_child(connection, folder, work, order))
    watched = os.pidfd_open(child)
    ended = select.poll()
    ended.register(watched, select.POLLIN)
    try:
        while True:
            ended.poll(1000 * _ALIVE)
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                return status == 0
            if os.getppid() != launcher:
                os.kill(child, signal.SIGKILL)
    finally:
        os.close(watched)


def _child(connection: Connection, folder: Path, work: Work, order: Order) -> int:
    ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)  # two of us would write the same files
    try:
        site = Site(folder)
        give_way(site.config.training_priority)  # what it took to load is seconds, once
        bound_memory(site.config.training_memory_mib)
        handover.send(connection, ("", _do(work, site, order)))
    except VigieError as error:
        handover.send(connection, (error.code, str(error)))
    except BaseException as error:
        log.exception("an order was not worked on")
        handover.send(connection, ("failed", type(error).__name__))
    finally:
        logging.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
