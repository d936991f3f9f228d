"""The hospital's node: what `vigie site run` starts, and `python -m client.node --site DIR` too.

One process holds the DICOM door and the web API and never loads torch; its child reads the studies. The child is
started again when it dies; the parent is started again by systemd or the container's engine. Both can be killed at
any instant.
"""

import argparse
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any

import uvicorn
from fastapi import FastAPI

from client import logs
from client.arrival.gateway import Gateway
from client.arrival.priors import Fetcher
from client.arrival.receive import Completion
from client.dicom.listener import networks, server_tls
from client.review.api import create_app
from client.store.fullness import out_of_room
from client.store.site import Site
from client.vigilance.truth_door import TruthDoor
from client.vigilance.watcher import Watcher
from models.children import keep_quiet
from models.errors import ConfigurationError

log = logging.getLogger(__name__)

_STOP_SECONDS = 2.5
_LONGEST_BACKOFF_SECONDS = 30.0


class WorkerProcess:
    """The child that reads studies; `tend` starts it again when it has died.

    Whatever is written to its standard input wakes it, and its end tells it that this process is gone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._failures = 0
        self._start_at = 0.0
        self._child: subprocess.Popen[str] | None = None
        self._closing = (
            threading.Lock()
        )  # nobody writes to what is being closed, whose number may be another file's then
        self.ready = threading.Event()

    def tend(self) -> None:
        """Start the child if there is none, after a growing pause if it died soon after it was started."""
        now = time.monotonic()
        if self._child is not None:
            status = self._child.poll()
            if status is None:
                return
            lasted = now - self._start_at
            self._failures = 0 if lasted > 60 else self._failures + 1
            pause = min(0.1 * 2.0**self._failures, _LONGEST_BACKOFF_SECONDS)
            log.error("worker ended with status %d, next one in %.1f s", status, pause)
            self._close()
            self._start_at = now + pause
        if now >= self._start_at:
            self._start()

    def wake(self) -> None:
        """Studies are queued: it need not find that out by looking, which takes it some hundredths of a second."""
        with self._closing:
            child = self._child
            if child is not None and child.stdin is not None and not child.stdin.closed:
                # it has ended; or it does not read, and will find enough when it does
                with contextlib.suppress(OSError):
                    os.write(child.stdin.fileno(), b"\n")

    def stop(self) -> None:
        """Let the child finish its study for a moment, then kill it; nothing is lost either way."""
        child = self._child
        if child is None:
            return
        with self._closing:
            if child.stdin is not None:
                child.stdin.close()
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        self._close()

    def _start(self) -> None:
        self._start_at = time.monotonic()
        self.ready.clear()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "client.inference.worker", "--site", str(self._folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # read when NumPy is loaded; further threads spin for 30 ms after each product, which takes less than that
            env={"OPENBLAS_NUM_THREADS": "1"}
            | os.environ
            | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        os.set_blocking(self._child.stdin.fileno(), False)
        threading.Thread(target=self._await_ready, args=(self._child.stdout,), name="worker", daemon=True).start()

    def _await_ready(self, output: IO[str]) -> None:
        for line in output:
            if line.strip() == "ready":
                self.ready.set()

    def _close(self) -> None:
        with self._closing:
            if self._child is not None:
                for stream in (self._child.stdin, self._child.stdout):
                    if stream is not None:
                        with contextlib.suppress(OSError):
                            stream.close()
            self._child = None
        self.ready.clear()


def run(folder: Path) -> None:
    """Run a site's node until SIGTERM or SIGINT.

    Prints `ready {"dicom_port": …, "api_port": …, "pid": …}` and writes the same to `node.json` once instances are
    accepted, the API answers and the worker takes studies.

    Raises:
        ConfigurationError: a setting cannot work, the database is of another release, a port is taken, or a node
            runs on this folder already.
    """
    site = Site(folder.resolve())
    config = site.config
    site.database.check()
    logs.to_file(site.logs / "node.log")
    stop = threading.Event()

    def ask(_number: int, _frame: object) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_alone(site.folder))
        listener = stack.enter_context(_listener(config.host, config.api_port))
        gateway = _gateway(site)
        stack.callback(gateway.close)
        api = create_app(site, gateway.intake)
        worker = WorkerProcess(site.folder)
        completion = Completion(site, gateway.intake.sending, gateway.intake.over, worker.wake, gateway.intake.refused)
        stack.callback(completion.close)
        if config.pacs.fetch != "none":
            fetcher = Fetcher(site, gateway.take, gateway.intake.moves)
            fetcher.start()
            stack.callback(fetcher.stop, _STOP_SECONDS)
        watcher = Watcher(site)
        watcher.start()
        stack.callback(watcher.stop, _STOP_SECONDS)
        if config.truth.port:
            truths = TruthDoor(
                site,
                _listener(config.host, config.truth.port, "truth.port"),
                server_tls(site),
                networks(config.truth.addresses),
            )
            stack.callback(truths.close)
        stack.enter_context(_api(api, listener))
        stack.callback(worker.stop)
        announced = False
        while not stop.wait(0.1):
            worker.tend()
            if not announced and worker.ready.is_set():
                stack.enter_context(_announced(site.folder, gateway.port, listener.getsockname()[1]))
                announced = True
        log.info("node stopping")


def _gateway(site: Site) -> Gateway:
    try:
        return Gateway(site)
    except OSError as error:
        raise ConfigurationError(f"dicom_port {site.config.dicom_port} cannot be opened: {error.strerror}") from error


@contextlib.contextmanager
def _alone(folder: Path) -> Generator[None]:
    """Hold the folder for this node."""
    with (folder / "node.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(f"a node runs on {folder} already") from None
        yield


def _listener(host: str, port: int, name: str = "api_port") -> socket.socket:
    try:
        return socket.create_server((host, port))
    except OSError as error:
        raise ConfigurationError(f"{name} {port} cannot be opened: {error.strerror}") from error


@contextlib.contextmanager
def _api(app: FastAPI, listener: socket.socket) -> Generator[None]:
    """Serve the review API in a thread of this process."""
    settings = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="api", daemon=True)
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise ConfigurationError("the API does not start; see logs/node.log")
        time.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(_STOP_SECONDS)


@contextlib.contextmanager
def _announced(folder: Path, dicom_port: int, api_port: int) -> Generator[None]:
    """Say to whoever waits that the node is ready, for as long as it is."""
    facts: dict[str, Any] = {"dicom_port": dicom_port, "api_port": api_port, "pid": os.getpid()}
    path = folder / "node.json"
    temporary = path.with_suffix(".part")
    try:
        temporary.write_text(json.dumps(facts))
        temporary.replace(path)
    except OSError as error:
        if not out_of_room(error):
            raise
        # it says no more than the settings do, and to end for it would cost the senders their door
        path.unlink(missing_ok=True)
        log.error("%s is not written: there is no room on the disk", path)
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(f"ready {json.dumps(facts)}\n")
        sys.stdout.flush()
    log.info("node ready")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a hospital's node.")
    parser.add_argument("--site", type=Path, required=True)
    keep_quiet()
    try:
        run(parser.parse_args().site)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
