"""The hospital's SuperNode: the one process that speaks to the outside, over TLS, to one address, calling out only.

`start` makes it a child of the site's own process; `python -m client.federation.supernode` is that child.
"""

import logging
import os
import shlex
import signal
import stat
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from models.children import Child, follow_parent

log = logging.getLogger(__name__)

SITE = "VIGIE_SITE"
"""Environment variable that holds the hospital's folder; set here and never by a message."""

COMMAND = "flower-superexec"
"""What Flower's SuperNode starts, found on its PATH, to run tasks; our launcher stands there instead."""

LAUNCHER = (sys.executable, "-m", "client.federation.launcher")
_KEPT = (
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS",
    "HTTPS_PROXY",
)


@dataclass(frozen=True, slots=True)
class SuperNodeSettings:
    """Where the SuperNode calls to and what it proves itself with.

    Attributes:
        site: the hospital's folder.
        superlink: the coordinator, host:port.
        runtime_port: a free loopback port for the SuperNode's own API.
        key: the hospital's ECDSA P-384 private key; `secrets/supernode.key` of the site when None.
        ca: the coordinator's certificate authority; `trust/ca.crt` of the site when None.
    """

    site: Path
    superlink: str
    runtime_port: int
    key: Path | None = None
    ca: Path | None = None


def start(settings: SuperNodeSettings, launcher: Sequence[str] = LAUNCHER) -> Child:
    """Start the hospital's SuperNode; it keeps calling until the coordinator answers.

    Args:
        settings: see there.
        launcher: the program that answers messages; only tests give another.
    """
    site = settings.site.resolve()
    home = site / "flower"
    programs = home / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    _write_program(programs / COMMAND, launcher)
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # Nothing else is on PATH: Flower's own programs, which run what a bundle brings, cannot be found.
    environment |= {"PATH": str(programs), "HOME": str(home), "FLWR_HOME": str(home), SITE: str(site)}
    command = [
        *(sys.executable, "-m", "client.federation.supernode"),
        *("--superlink", settings.superlink),
        *("--root-certificates", str(settings.ca or site / "trust" / "ca.crt")),
        *("--auth-supernode-private-key", str(settings.key or site / "secrets" / "supernode.key")),
        *("--host", "127.0.0.1", "--port", str(settings.runtime_port)),
    ]
    return Child("supernode", command, environment, site / "logs" / "supernode.log")


def _write_program(path: Path, command: Sequence[str]) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(stat.S_IRWXU)


def main() -> None:
    """Be the SuperNode: Flower's, followed closely and gone with its parent."""
    from client.federation import flower_internals

    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("flwr").propagate = False  # it writes its own lines
    logging.getLogger("httpx").setLevel(logging.WARNING)
    follow_parent()
    _follow_launcher()
    flower_internals.quicken()
    flower_internals.end_with(_end)
    flower_internals.flower_supernode()


def _follow_launcher(interval: float = 0.2) -> None:
    """End when the launcher does: nobody else would answer, and Flower would wait for it for ever."""

    def watch() -> None:
        while (launcher := _launcher()) is None:
            time.sleep(interval)
        launcher.wait()
        _end("the launcher")

    threading.Thread(target=watch, name="follow-launcher", daemon=True).start()


def _launcher() -> psutil.Process | None:
    """The child that Flower gave its address; another one (`uname`, for instance) may come and go beside it."""
    for child in psutil.Process().children():
        try:
            if "--runtime-api-address" in child.cmdline():
                return child
        except psutil.Error:
            continue
    return None


def _end(lost: str) -> None:
    """End this process, to be started again: connecting anew tells the coordinator that it has to ask again."""
    log.error("the SuperNode ends, and is to be started again: lost %s", lost)
    signal.raise_signal(signal.SIGTERM)
    time.sleep(5.0)
    os._exit(1)


if __name__ == "__main__":
    main()
