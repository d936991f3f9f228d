"""Flower as it comes, for the bench `rounds`: a SuperLink and SuperNodes with TLS and registered keys, `flwr run`."""

import json
import os
import shutil
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from models import pki
from models.children import QUIET, Child, ChildFailed, free_port

_APP: Final = Path(__file__).with_name("stock_flower_app")
_READY: Final = 120.0  # seconds
_PATIENCE: Final = 600.0  # seconds
_LINES: Final = 20


class StockFlower:
    """A SuperLink and SuperNodes; nothing runs until it is started.

    Args:
        folder: made.
        sites: how many SuperNodes.
    """

    def __init__(self, folder: Path, sites: int) -> None:
        self._folder, self._sites, self._port = folder, sites, free_port()
        self._children: list[Child] = []
        self._home = folder / "home"
        self._home.mkdir(parents=True)
        pki.make_server(folder / "pki", ["localhost"])
        self._keys = [pki.make_supernode(folder / f"node-{number}" / "key") for number in range(sites)]
        (self._home / "config.toml").write_text(
            f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "127.0.0.1:{self._port}"\n'
            f'root-certificates = "{folder / "pki" / "ca.crt"}"\n'
        )
        shutil.copytree(_APP, folder / "app", ignore=shutil.ignore_patterns("__pycache__"))

    def start(self) -> None:
        """Start everything, until all SuperNodes are connected.

        Raises:
            ChildFailed: something ended, or is not there in time.
        """
        files = self._folder / "pki"
        shutil.rmtree(self._folder / "state", ignore_errors=True)
        (self._folder / "state").mkdir()
        link = self._run(
            "superlink",
            *("flower-superlink", "--host", "127.0.0.1", "--port", str(self._port)),
            *("--ssl-ca-certfile", str(files / "ca.crt"), "--ssl-certfile", str(files / "server.crt")),
            *("--ssl-keyfile", str(files / "server.key"), "--database", str(self._folder / "state" / "superlink.db")),
            *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        )
        link.wait_ready(lambda: self._flwr("supernode", "list", check=False).returncode == 0, _READY)
        for number, key in enumerate(self._keys):
            self._flwr("supernode", "register", str(key.public), "bench")
            self._run(
                f"supernode-{number}",
                *("flower-supernode", "--superlink", f"127.0.0.1:{self._port}"),
                *("--root-certificates", str(files / "ca.crt"), "--auth-supernode-private-key", str(key.private)),
                *("--host", "127.0.0.1", "--port", str(free_port())),
            )
        self._children[-1].wait_ready(lambda: self._online() == self._sites, _READY)

    def rounds(self, checkpoint: Path, rounds: int) -> list[dict[str, float]]:
        """Run FedAvg.

        Args:
            checkpoint: the weights as one array, `.npy`.

        Returns:
            Of each round, the seconds, and those until its training was over.

        Raises:
            ChildFailed: it ended, or no round came for minutes.
        """
        times = self._folder / f"times-{time.monotonic_ns()}.jsonl"
        config = f"rounds={rounds} nodes={self._sites} checkpoint='{checkpoint}' times='{times}'"
        self._flwr("run", str(self._folder / "app"), "bench", "--run-config", config)
        deadline = time.monotonic() + _PATIENCE
        while len(noted := _read(times)) < 2 * rounds + 1:
            if time.monotonic() > deadline:
                raise ChildFailed(f"Flower did not get there:\n{_last_lines(self._folder / 'superlink.log')}")
            time.sleep(0.2)
        ends = [at for what, at in noted if what == "round"]
        trained = [at for what, at in noted if what == "trained"]
        return [
            {"seconds": after - before, "training": middle - before}
            for (before, after), middle in zip(pairwise(ends), trained, strict=True)
        ]

    def stop(self) -> None:
        """Stop everything; it can be started again."""
        while self._children:
            self._children.pop().stop()

    def _environment(self) -> dict[str, str]:
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        return {**os.environ, **QUIET, "PATH": programs, "PYTHONPATH": "", "FLWR_HOME": str(self._home)}

    def _run(self, name: str, program: str, *words: str) -> Child:
        log = self._folder / f"{name}.log"
        log.unlink(missing_ok=True)
        # each SuperNode has a home of its own, as it has a machine of its own
        environment = self._environment() | {"FLWR_HOME": str(self._folder / "homes" / name)}
        child = Child(name, [str(Path(sys.executable).parent / program), *words], environment, log)
        self._children.append(child)
        return child

    def _flwr(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "flwr"), *words]
        found = subprocess.run(
            command,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=_READY,
            cwd=self._folder,
        )
        if check and found.returncode:
            raise ChildFailed(f"{' '.join(words[:2])}: {found.stdout[-2000:]}{found.stderr[-2000:]}")
        return found

    def _online(self) -> int:
        said = self._flwr("supernode", "list", "bench", "--format", "json", check=False).stdout
        nodes: list[dict[str, Any]] = json.loads(said).get("nodes", []) if said.startswith("{") else []
        return sum(node.get("status") == "online" for node in nodes)


def _read(times: Path) -> list[tuple[str, float]]:
    return [json.loads(line) for line in times.read_text().splitlines()] if times.exists() else []


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LINES:])
