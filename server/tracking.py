"""The MLflow tracking server and registry, as a child process of the coordinator.

MLflow does not notice that whoever started it is gone. Between it and the coordinator stands `python -m
server.tracking`, which does, and takes it along.
"""

import os
import signal
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from models.children import Child, follow_parent

_LOG = "VIGIE_MLFLOW_LOG"
_GRACE_SECONDS = 3.0


def start(folder: Path, port: int, host: str = "127.0.0.1") -> Child:
    """Start MLflow on SQLite with artifacts beside it, and wait until it answers.

    Args:
        folder: the coordinator's; `mlflow.db` and `mlartifacts/` lie there.

    Raises:
        ChildFailed: it ended or did not answer in time.
    """
    command = [
        *(sys.executable, "-m", "server.tracking"),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "mlartifacts")),
        *("--host", host, "--port", str(port), "--workers", "1"),
    ]
    # its job runners (for evaluating language models) would be seven idle processes of 100 MB
    log_file = folder / "logs" / "mlflow.log"
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", _LOG: str(log_file)}
    child = Child("mlflow", command, environment, log_file)
    child.wait_ready(lambda: _answers(f"http://{host}:{port}/health"), timeout=120.0)
    return child


def runs(folder: Path, port: int) -> bool:
    """Whether the server on this port is the one of this folder (another MLflow may have taken the port)."""
    database = f"sqlite:///{folder / 'mlflow.db'}"
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if database in words and str(port) in words:
            return _answers(f"http://127.0.0.1:{port}/health")
    return False


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2.0) as response:
            return response.status == 200
    except (URLError, TimeoutError, ConnectionError):
        return False


def main() -> None:
    """Run MLflow's server with the arguments given here until it ends, or until our own parent is gone."""
    follow_parent()
    signal.signal(signal.SIGTERM, _end)
    server = Child(
        "mlflow", [sys.executable, "-m", "mlflow", "server", *sys.argv[1:]], os.environ, Path(os.environ[_LOG])
    )
    try:
        while server.returncode is None:
            time.sleep(0.2)
    finally:
        server.stop(_GRACE_SECONDS)
    sys.exit(server.returncode)


def _end(_number: int, _frame: object) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
