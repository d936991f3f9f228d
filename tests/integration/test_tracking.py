"""MLflow goes with the coordinator, however that goes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from models.children import free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]
PROGRAM = """
import sys, time, pathlib
from server import tracking
tracking.start(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
print("ready", flush=True)
time.sleep(600)
"""


def runs(process: psutil.Process) -> bool:
    """Not where it has ended and its parent, the coordinator of this test, has not looked yet."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("which", "how"), [("", signal.SIGKILL), ("", signal.SIGTERM), ("first", signal.SIGKILL), ("next", signal.SIGKILL)]
)
def test_no_process_of_mlflow_is_left(tmp_path: Path, eventually: Callable[..., Any], which: str, how: int):
    """Whether the coordinator goes, the process that stands between, or MLflow's own that has started a web server."""
    root = str(Path(__file__).parents[2])
    coordinator = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(free_port())],
        env={**os.environ, "PYTHONPATH": root},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert coordinator.stdout is not None
        assert coordinator.stdout.readline() == "ready\n"
        family = psutil.Process(coordinator.pid).children(recursive=True)
        assert len(family) >= 2

        first = psutil.Process(coordinator.pid).children()[0]
        own = first.children()[0]
        assert own.children(), "MLflow starts its web server as another process"
        victims: dict[str, Any] = {"": coordinator, "first": first, "next": own}
        victims[which].send_signal(how)

        eventually(lambda: not any(runs(process) for process in family), timeout=30)
    finally:
        coordinator.kill()
        coordinator.wait()
        coordinator.stdout.close()
