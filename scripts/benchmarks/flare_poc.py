"""NVFLARE in its POC mode, for the bench `rounds`: in an environment of its own, by the commands of its manual."""

import json
import os
import re
import shutil
import subprocess
import venv
from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from models.children import ChildFailed, free_port

_PACKAGES: Final = ("nvflare==2.9.0", "numpy")
_JOB: Final = Path(__file__).with_name("flare_job.py")
_PATIENCE: Final = 600.0  # seconds
_ROUND = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) - FedAvg - .*Sampled clients", re.MULTILINE)
_NUMBER = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def python(given: Path | None, folder: Path) -> Path | None:
    """The Python of an environment with NVFLARE, made where there is none; None where that cannot be."""
    found = given or folder.resolve() / "bin" / "python"
    try:
        if not found.exists():
            print(f"making an environment with {_PACKAGES[0]} in {folder}; this takes a minute", flush=True)
            venv.create(folder, with_pip=True)
            subprocess.run([str(found), "-m", "pip", "install", "--quiet", *_PACKAGES], check=True, timeout=1800)
        check = [str(found), "-c", "import nvflare.recipe"]
        subprocess.run(check, check=True, timeout=120, capture_output=True, env={**os.environ, "PYTHONPATH": ""})
    except (OSError, subprocess.SubprocessError) as error:
        print(f"without NVFLARE ({type(error).__name__}): put {', '.join(_PACKAGES)} into {folder}, or --contender")
        return None
    return found


class FlarePoc:
    """A server and clients of NVFLARE on this machine; nothing runs until it is started.

    Args:
        python: of its environment.
        folder: made.
        sites: how many clients.
    """

    def __init__(self, python: Path, folder: Path, sites: int) -> None:
        self._python, self._folder, self._sites = python, folder, sites
        self._running = False
        (folder / "home").mkdir(parents=True)
        (folder / "project.yml").write_text(json.dumps(_project(sites)))  # JSON is YAML
        self._admin = folder / "poc" / "rounds" / "prod_00" / "admin@nvidia.com"

    def start(self) -> None:
        """Provision and start it, until all clients are there.

        Raises:
            ChildFailed: it did not start.
        """
        shutil.rmtree(self._folder / "poc", ignore_errors=True)
        self._flare("poc", "prepare", "-i", str(self._folder / "project.yml"), "--force")
        self._running = True
        self._flare("poc", "start", "--timeout", "120")

    def rounds(self, checkpoint: Path, rounds: int) -> list[float]:
        """Run its NumPy recipe's FedAvg.

        Args:
            checkpoint: the weights as one array, `.npy`.

        Returns:
            Seconds of each round, from its start to the next one's in the server's log. One more is run.

        Raises:
            ChildFailed: the job did not end well.
        """
        job = self._folder / "jobs" / f"{checkpoint.stem}-{rounds}"
        if not job.exists():
            words = [str(checkpoint), str(rounds + 1), str(self._sites), str(job)]
            self._do([str(self._python), str(_JOB), *words])
        kit = ("--startup-kit", str(self._admin))
        submitted = self._flare("job", "submit", "-j", str(job / "rounds"), *kit)
        if (number := _NUMBER.search(submitted)) is None:
            raise ChildFailed(f"NVFLARE took no job: {submitted[-1000:]}")
        ended = self._flare("job", "wait", number[0], "--timeout", f"{_PATIENCE:.0f}", "--interval", "1", *kit)
        if "FINISHED:COMPLETED" not in ended:
            raise ChildFailed(f"NVFLARE's job did not end well: {ended[-1000:]}")
        starts = [datetime.fromisoformat(at) for at in _ROUND.findall(self._flare("job", "logs", number[0], *kit))]
        if len(starts) != rounds + 1:
            raise ChildFailed(f"NVFLARE's log tells of {len(starts)} rounds, and there were {rounds + 1}")
        return [(after - before).total_seconds() for before, after in pairwise(starts)]

    def stop(self) -> None:
        """Stop it; it can be started again."""
        if self._running:
            self._running = False
            self._flare("poc", "stop")

    def _flare(self, *words: str) -> str:
        return self._do([str(self._python.parent / "nvflare"), *words])

    def _do(self, command: list[str]) -> str:
        found = subprocess.run(
            command,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=_PATIENCE + 60,
            cwd=self._folder,
        )
        if found.returncode:
            raise ChildFailed(f"NVFLARE, {' '.join(command[1:3])}: {found.stdout[-2000:]}")
        return found.stdout

    def _environment(self) -> Mapping[str, str]:
        programs = os.pathsep.join([str(self._python.parent), os.environ.get("PATH", "")])
        own = {"HOME": str(self._folder / "home"), "NVFLARE_POC_WORKSPACE": str(self._folder / "poc")}
        return {**os.environ, **own, "PATH": programs, "PYTHONPATH": ""}


def _project(sites: int) -> dict[str, Any]:
    """The project that NVFLARE comes with (`dummy_project.yml`), with free ports and so many clients."""
    server = {"name": "server", "type": "server", "org": "bench"}
    ports = {"fed_learn_port": free_port(), "admin_port": free_port()}
    clients = [{"name": f"site-{number + 1}", "type": "client", "org": "bench"} for number in range(sites)]
    admin = {"name": "admin@nvidia.com", "type": "admin", "org": "bench", "role": "project_admin"}
    implementation = "nvflare.lighter.impl"
    templates = ["master_template.yml", "aws_template.yml", "azure_template.yml"]
    return {
        "api_version": 3,
        "name": "rounds",
        "description": "the bench rounds",
        "participants": [server | ports, *clients, admin],
        "builders": [
            {"path": f"{implementation}.workspace.WorkspaceBuilder", "args": {"template_file": templates}},
            {"path": f"{implementation}.static_file.StaticFileBuilder", "args": {"config_folder": "config"}},
            {"path": f"{implementation}.cert.CertBuilder"},
            {"path": f"{implementation}.signature.SignatureBuilder"},
        ],
    }
