"""The hospital's SuperNodes: what speaks to the outside, over TLS, to one address, calling out only.

There are two, since a SuperNode handles one message at a time, and a training takes hours: by the one, `training`,
comes what takes long, by the other, `control`, what is answered in seconds, a withdrawal above all. Each has a key of
its own, by which the coordinator knows it, and one hospital behind both.

`SuperNodes` keeps both up; `start` makes one a child of the site's own process, which is `python -m
client.federation.supernode`.
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
from typing import Final, cast, get_args

import psutil

from client.federation.parcels import CA, KEY, SUPERLINK
from models import pki
from models.children import HUGE_PAGES, Child, Restarted, follow_parent, free_port
from models.errors import ConfigurationError
from models.exchange.words import Channel

log = logging.getLogger(__name__)

SITE = "VIGIE_SITE"
"""Environment variable that holds the hospital's folder; set here and never by a message."""

CHANNEL = "VIGIE_CHANNEL"
"""Environment variable that holds which of the two SuperNodes this is."""

KEYS: Final[dict[Channel, str]] = {"training": "supernode.key", "control": "control.key"}
"""In the site's `secrets/`. The public halves of both stand in `supernode.key.pub`, a line each."""

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
        key: the hospital's ECDSA P-384 private key; the channel's in `secrets` of the site when None.
        ca: the coordinator's certificate authority; `trust/ca.crt` of the site when None.
        channel: which of the two it is.
    """

    site: Path
    superlink: str
    runtime_port: int
    key: Path | None = None
    ca: Path | None = None
    channel: Channel = "training"


def make_keys(secrets: Path) -> Path:
    """Make the keys that are not there yet, and return the one file that the coordinator gets."""
    for name in KEYS.values():
        if not (secrets / name).exists():
            pki.make_supernode(secrets / name, secrets / "supernode.key.pub")
    return pki.join_public([(secrets / name, channel) for channel, name in KEYS.items()], secrets / "supernode.key.pub")


def home_of(site: Path, channel: Channel) -> Path:
    """Where a channel's Flower has its files."""
    return site / ("flower" if channel == "training" else "flower-control")


def channel() -> Channel:
    """Which of the two this process belongs to, as `start` has said."""
    said = os.environ.get(CHANNEL, "training")
    if said not in get_args(Channel):
        raise ConfigurationError(f"{CHANNEL} is {said!r}: {' or '.join(get_args(Channel))}")
    return cast(Channel, said)


class SuperNodes:
    """Both SuperNodes of a hospital, each started again should it end by itself.

    The one for training is given up where it ends again and again. The other is not: a coordinator that has only the
    first one's key does not let it in, and what would come by it then comes by the first.

    Args:
        site: the hospital's folder.
        superlink: the coordinator, host:port.
        runtime_port: of the first one, a free loopback port; 0: any.
        launcher: as for `start`.
    """

    def __init__(
        self, site: Path, superlink: str, runtime_port: int = 0, launcher: Sequence[str] | None = None
    ) -> None:
        def begin(settings: SuperNodeSettings) -> Child:
            return start(settings, launcher or LAUNCHER)

        self._training = Restarted(lambda: begin(SuperNodeSettings(site, superlink, runtime_port or free_port())))
        self._control: Restarted | None = None
        if (site / "secrets" / KEYS["control"]).exists():
            self._control = Restarted(
                lambda: begin(SuperNodeSettings(site, superlink, free_port(), channel="control")),
                most=sys.maxsize,
                pauses=_PAUSES,
            )
        self._looked: Child | None = None  # of the control channel
        self._since, self._ends = 0.0, 0

    @property
    def children(self) -> list[Child]:
        """The processes that there are now, training's first."""
        return [one.child for one in (self._training, self._control) if one is not None]

    @property
    def hindered(self) -> str:
        """Why there is no control channel, and what to do; empty where there seems to be one."""
        if self._control is None:
            return (
                "there is no key for the control channel: run `vigie site init` again, and give the coordinator"
                " supernode.key.pub anew"
            )
        if self._ends >= _ENDS:
            return (
                "the coordinator does not let the control channel in: give it supernode.key.pub, which has two keys"
                " now, anew; see supernode-control.log"
            )
        return ""

    def look(self) -> bool:
        """Start again what has ended; False once that is given up. To be called every now and then."""
        if self._control is not None:
            self._count(self._control.child)
            self._control.look()
        return self._training.look()

    def _count(self, child: Child) -> None:
        """How often in a row the control channel's process has ended soon after its start."""
        now = time.monotonic()
        if child is not self._looked and child.returncode is None:
            self._looked, self._since = child, now
        elif child is self._looked and child.returncode is not None:
            self._looked, self._ends = None, self._ends + 1 if now - self._since < _SOON else 0
        elif child is self._looked and now - self._since > _SOON:
            self._ends = 0

    def stop(self) -> None:
        """End both."""
        stopping = [threading.Thread(target=child.stop) for child in self.children]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()


_PAUSES: Final = (0.0, 1.0, 5.0, 15.0, 30.0, 60.0)
_SOON: Final = 30.0  # seconds
_ENDS: Final = 2


def start(settings: SuperNodeSettings, launcher: Sequence[str] = LAUNCHER) -> Child:
    """Start one of the hospital's SuperNodes; it keeps calling until the coordinator answers.

    Args:
        settings: see there.
        launcher: the program that answers messages; only tests give another.
    """
    site = settings.site.resolve()
    home = home_of(site, settings.channel)
    programs = home / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    _write_program(programs / COMMAND, launcher)
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    # Nothing else is on PATH: Flower's own programs, which run what a bundle brings, cannot be found.
    environment |= {"PATH": str(programs), "HOME": str(home), "FLWR_HOME": str(home), SITE: str(site)}
    environment[CHANNEL] = settings.channel
    environment |= HUGE_PAGES
    ca, key = settings.ca or site / "trust" / "ca.crt", settings.key or site / "secrets" / KEYS[settings.channel]
    environment |= {SUPERLINK: settings.superlink, CA: str(ca), KEY: str(key)}
    command = [
        *(sys.executable, "-m", "client.federation.supernode"),
        *("--superlink", settings.superlink),
        *("--root-certificates", str(ca)),
        *("--auth-supernode-private-key", str(key)),
        *("--host", "127.0.0.1", "--port", str(settings.runtime_port)),
    ]
    name = "supernode" if settings.channel == "training" else "supernode-control"
    return Child(name, command, environment, site / "logs" / f"{name}.log")


def _write_program(path: Path, command: Sequence[str]) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(stat.S_IRWXU)


def main() -> None:
    """Be the SuperNode: Flower's, followed closely and gone with its parent."""
    from client.federation import flower_internals
    from client.federation.bell import Bell

    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("flwr").propagate = False  # it writes its own lines
    logging.getLogger("httpx").setLevel(logging.WARNING)
    follow_parent()
    _follow_launcher()
    flower_internals.quicken(Bell(home_of(Path(os.environ[SITE]), channel())).ring)
    flower_internals.take_bodies_whole()
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
