"""Runs the hospital's installed code, and only that, for each message that its SuperNode has fetched.

Flower would unpack the bundle that came with a run and import what it names. Here a bundle is never unpacked: its
digest is compared with the one approved at this hospital, and every other bundle is answered with a code. The
SuperNode finds this program under the name `flower-superexec` in the only folder on its PATH, so that Flower's own
programs, which would run such code, are not even found.

It stays: a fresh process per message would spend two seconds on imports. Each message is answered in a forked child,
so that nothing of one message lives on into the next, and a child that is killed is answered for. What needs torch is
done by another process that stays, the trainer (`resident.py`).
"""

import argparse
import contextlib
import gc
import hashlib
import hmac
import importlib
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
from flwr.app import Context, Error, Message

import client.federation.app as installed
from client.federation import flower_internals as flower
from client.federation.bell import Bell
from client.federation.parcels import ParcelLost, within
from client.federation.resident import Resident
from client.federation.supernode import COMMAND, SITE, channel, home_of
from client.lean import without_unused
from client.store.site import Site
from models import parcels
from models.errors import VigieError
from models.exchange import RefusalCode

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks for a task that nobody rang for
ALIVE = 0.5  # seconds between two looks whether the SuperNode still is, while a message is answered
_HALF_SENT = 3  # status of a child whose reply had begun to go out: its run was stopped, for instance
_CUT_OFF = 4  # status of a child that lost its connection to the coordinator
ERROR = 200  # Flower lets applications number their errors as they like
APPROVED = Path("trust/app.sha256")


def approved_digest(site: Path) -> str | None:
    """The digest of the one bundle that this hospital accepts, as written when its folder was made."""
    try:
        return (site / APPROVED).read_text().strip()
    except FileNotFoundError:
        return None


def approve(site: Path, digest: str) -> None:
    """Write the digest of the bundle to accept."""
    path = site / APPROVED
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(digest + "\n")


class Launcher:
    """Takes tasks from one SuperNode, one at a time.

    Args:
        address: the SuperNode's loopback API.
        site: the hospital's folder.
        alive: whether the SuperNode still is.
        resident: the hospital's trainer, started with the first message that is not refused: it loads what it needs
            while the hospital is asked whether it agrees. None: what works, works in the ClientApp itself.
    """

    def __init__(self, address: str, site: Path, alive: Callable[[], bool], resident: Resident | None = None) -> None:
        self._alive = alive
        self._bell = Bell(home_of(site, channel()))
        self._resident = resident
        self._address = address
        self._site = site
        self._tasks = flower.runtime_client(address, None)

    def serve(self) -> None:
        """Answer tasks until the SuperNode is gone."""
        while self._alive():
            try:
                busy = self.step()
            except Exception as error:  # noqa: BLE001 - whatever was sent must not end the launcher
                if not self._alive():
                    return
                # Flower itself answers, after a minute, for a task that nobody keeps alive.
                log.error("a task was given up: %s", type(error).__name__)
                busy = False
                time.sleep(0.5)
            if not busy:
                self._bell.wait(LOOK)

    def step(self) -> bool:
        """Take and answer one task; False when there was none."""
        acquired = self._tasks.AcquireTask(flower.AcquireTaskRequest(supported_task_types=list(flower.ALL_TASKS)))
        if not acquired.HasField("task") or not acquired.token:
            return False
        self._answer(acquired.task.type, acquired.token)
        return True

    def _answer(self, task_type: str, token: str) -> None:
        client = flower.runtime_client(self._address, token)
        try:
            message, context, _, fab = flower.pull_task_input(client)
            code, half_sent = self.refuses(task_type, fab.content), False
            if code is None:
                if self._resident is not None:
                    self._resident.start()
                status = self._fork(message, context, token, client)
                if status and self._resident is not None:
                    self._resident.stop()  # it may be working for one who waits no more
                # killed, for want of memory for instance, or by somebody: the coordinator may ask again
                code = None if status == 0 else "interrupted" if status < 0 or status == _CUT_OFF else "failed"
                half_sent = status == _HALF_SENT
                if code:
                    log.error("the process that answered a message ended with %d", status)
            else:
                log.error("a run was refused: its bundle is not the approved one, or its task not a ClientApp's")
                installed.open_border().refuse(parcels.opened(message.content), code)
            if code and not half_sent:
                # one reply for each message: the SuperNode would take a second one for the answer to the next message
                flower.push_message(client, Message(Error(ERROR, code), reply_to=message), context)
            flower.push_task_output(client, context, "failed" if code else "completed", code or "")
        finally:
            client.close()

    def refuses(self, task_type: str, bundle: bytes) -> RefusalCode | None:
        """Whether a run is refused: its task is not a ClientApp's, or its bundle not the approved one."""
        approved = approved_digest(self._site)
        digest = hashlib.sha256(bundle).hexdigest()
        if (
            task_type != flower.CLIENT_TASK
            or approved is None
            or not hmac.compare_digest(digest.encode(), approved.encode())
        ):
            return "bundle-refused"
        return None

    def _fork(self, message: Message, context: Context, token: str, client: flower.RuntimeHttpClient) -> int:
        """Answer in a child; meanwhile keep the task alive. Returns the child's status, 0 when its reply was sent."""
        child = os.fork()
        if child == 0:
            os._exit(self._child(message, context, token))
        status: int | None = None
        watched = os.pidfd_open(child)
        try:
            beat = time.monotonic() + flower.HEARTBEAT
            ended = select.poll()
            ended.register(watched, select.POLLIN)
            while self._alive():
                ended.poll(1000 * ALIVE)
                pid, code = os.waitpid(child, os.WNOHANG)
                if pid:
                    status = os.waitstatus_to_exitcode(code)
                    return status
                if time.monotonic() > beat:
                    client.SendTaskHeartbeat(flower.SendTaskHeartbeatRequest())
                    beat = time.monotonic() + flower.HEARTBEAT
            raise RuntimeError("the SuperNode is gone")
        finally:
            os.close(watched)
            # Never two messages at a time, and nothing goes on for a task that was given up.
            if status is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)

    def _child(self, message: Message, context: Context, token: str) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        parent = os.getppid()
        sending = False
        try:
            client = flower.runtime_client(self._address, token)
            reply = _answered(message, context)
            sending = True
            flower.push_message(client, reply, context)
            client.close()
        except ParcelLost as error:
            log.error("a message was not answered: %s", error)
            return _CUT_OFF
        except BaseException as error:  # noqa: BLE001 - a child that returned would be a second launcher
            log.error("a message was not answered: %s (parent %d)", type(error).__name__, parent)
            return _HALF_SENT if sending else 1
        finally:
            logging.shutdown()
        return 0


def _answered(message: Message, context: Context) -> Message:
    """The reply; what is large in either goes beside it."""
    carrier = within()
    if carrier is None:
        return installed.app(message, context)
    try:
        message.content = parcels.attached(message.content, carrier.fetch)
    except ParcelLost:
        installed.open_border().refuse(parcels.opened(message.content), "interrupted")
        raise
    reply = installed.app(message, context)
    if reply.has_content():
        reply.content = parcels.detached(reply.content, carrier.bring)
    return reply


def main(arguments: Sequence[str] | None = None, *, resident: bool = True) -> int:
    """Serve the SuperNode that started this program, with the arguments that it gives `flower-superexec`.

    Args:
        resident: with a trainer of its own; only tests, whose hospitals learn nothing, do without.
    """
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--runtime-api-address", required=True)
    parser.add_argument("--parent-pid", type=int, required=True)
    parser.add_argument("--insecure", action="store_true")
    options = parser.parse_args(arguments)
    without_unused()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.raiseExceptions = False  # as in client.logs
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("flwr").propagate = False  # it writes its own lines

    # what every message that is not refused needs; no torch, and nothing that is open
    importlib.import_module("client.federation.site")

    def alive() -> bool:
        return os.getppid() == options.parent_pid

    site = Path(os.environ[SITE])
    with contextlib.suppress(VigieError, OSError):
        _ = Site(site).config  # read and checked once, and not by each child
    gc.collect()
    gc.freeze()  # or each child's collections would touch, and so copy, all that is here
    trains = resident and channel() == "training"
    Launcher(options.runtime_api_address, site, alive, Resident(site) if trains else None).serve()
    _end_children()
    return 0


def _end_children() -> None:
    for process in psutil.Process().children(recursive=True):
        process.kill()


if __name__ == "__main__":
    sys.exit(main())
