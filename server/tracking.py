"""The MLflow tracking server and registry, as a child process of the coordinator.

MLflow does not notice that whoever started it is gone. Between it and the coordinator stands `python -m
server.tracking`, which does, and takes it along; MLflow's own process follows that one in turn.

What it keeps lies in the coordinator's folder, or where `coordinator.yaml` says: PostgreSQL, and a store that speaks
S3. Their secrets are in no settings, no command line and no log: libpq and boto3 take them from the environment
(PGPASSWORD or PGPASSFILE; AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY), or they lie in the folder's `secrets/`.
"""

import importlib.util
import os
import runpy
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.error import URLError
from urllib.request import urlopen

import psutil

from models.children import Child, follow_parent
from models.errors import ConfigurationError

if TYPE_CHECKING:  # the settings' libraries would be loaded by the process that stands between, too
    from configs.schema import CoordinatorConfig

_LOG = "VIGIE_MLFLOW_LOG"
_WITHIN = "--within"  # be MLflow's own process
_GRACE_SECONDS = 3.0
PASSWORD: Final = "mlflow.password"  # of the database; one line
CREDENTIALS: Final = "s3.credentials"  # in the form of ~/.aws/credentials


@dataclass(frozen=True, slots=True)
class Storage:
    """Where MLflow keeps its tables and files.

    Attributes:
        backend: SQLAlchemy's address of the tables, without a password.
        artifacts: a folder, or `s3://BUCKET/PREFIX`.
        environment: what its libraries find the rest in; secrets too, so it is never shown.
    """

    backend: str
    artifacts: str
    environment: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)


def storage(folder: Path, config: "CoordinatorConfig | None" = None) -> Storage:
    """The storage of a coordinator's folder: SQLite and `mlartifacts/` in it, unless the settings say another.

    Raises:
        ConfigurationError: what speaks to it is not installed, or a file in `secrets/` can be read by others.
    """
    backend = config.mlflow_store if config else ""
    artifacts = config.mlflow_artifacts if config else ""
    environment: dict[str, str] = {}
    if backend:
        _need("psycopg", "mlflow_store", "postgresql")
        if password := _secret(folder / "secrets" / PASSWORD):
            environment["PGPASSWORD"] = password.read_text().strip()
    if artifacts:
        _need("boto3", "mlflow_artifacts", "s3")
        if credentials := _secret(folder / "secrets" / CREDENTIALS):
            environment["AWS_SHARED_CREDENTIALS_FILE"] = str(credentials)
        if config and config.s3_endpoint:
            environment["MLFLOW_S3_ENDPOINT_URL"] = config.s3_endpoint
    return Storage(
        backend or f"sqlite:///{folder / 'mlflow.db'}", artifacts or str(folder / "mlartifacts"), environment
    )


def start(folder: Path, port: int, host: str = "127.0.0.1", kept: Storage | None = None) -> Child:
    """Start MLflow and wait until it answers.

    Args:
        folder: the coordinator's; its log lies there.
        kept: where its tables and files are; None: in the folder.

    Raises:
        ChildFailed: it ended or did not answer in time.
    """
    kept = kept or storage(folder)
    command = [
        *(sys.executable, "-m", "server.tracking"),
        *("--backend-store-uri", kept.backend),
        *("--artifacts-destination", kept.artifacts),
        *("--host", host, "--port", str(port), "--workers", "1"),
    ]
    # its job runners (for evaluating language models) would be seven idle processes of 100 MB
    log_file = folder / "logs" / "mlflow.log"
    environment = {**os.environ, **kept.environment, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", _LOG: str(log_file)}
    child = Child("mlflow", command, environment, log_file)
    child.wait_ready(lambda: _answers(f"http://{host}:{port}/health"), timeout=120.0)
    return child


def runs(kept: Storage, port: int) -> bool:
    """Whether the server on this port is the one of this storage (another MLflow may have taken the port)."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if kept.backend in words and str(port) in words:
            return _answers(f"http://127.0.0.1:{port}/health")
    return False


def _need(module: str, key: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ConfigurationError(f"{key} needs {module}: pip install 'vigie[{extra}]'")


def _secret(path: Path) -> Path | None:
    if not path.exists():
        return None
    if path.stat().st_mode & 0o077:
        raise ConfigurationError(f"{path} can be read by others: chmod 600 {path}")
    return path


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2.0) as response:
            return response.status == 200
    except (URLError, TimeoutError, ConnectionError):
        return False


def main() -> None:
    """Run MLflow's server with the arguments given here until it ends, or until our own parent is gone."""
    follow_parent()
    if sys.argv[1:2] == [_WITHIN]:
        # it hands a SIGTERM on to the web server that it starts, and waits for that
        sys.argv[:2] = ["mlflow", "server"]
        runpy.run_module("mlflow", run_name="__main__", alter_sys=True)
        return
    signal.signal(signal.SIGTERM, _end)
    program = [sys.executable, "-m", "server.tracking", _WITHIN]
    server = Child("mlflow", [*program, *sys.argv[1:]], os.environ, Path(os.environ[_LOG]))
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
