"""The MLflow tracking server and registry, as a child process of the coordinator."""

import os
import sys
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from models.children import Child


def start(folder: Path, port: int, host: str = "127.0.0.1") -> Child:
    """Start MLflow on SQLite with artifacts beside it, and wait until it answers.

    Args:
        folder: the coordinator's; `mlflow.db` and `mlartifacts/` lie there.

    Raises:
        ChildFailed: it ended or did not answer in time.
    """
    command = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"),
        *("--artifacts-destination", str(folder / "mlartifacts")),
        *("--host", host, "--port", str(port), "--workers", "1"),
    ]
    # its job runners (for evaluating language models) would be seven idle processes of 100 MB
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    child = Child("mlflow", command, environment, folder / "logs" / "mlflow.log")
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
