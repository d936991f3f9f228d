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


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_of_mlflow_is_left(tmp_path: Path, eventually: Callable[..., Any], how: int):
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

        coordinator.send_signal(how)

        eventually(lambda: not any(process.is_running() for process in family), timeout=30)
    finally:
        coordinator.kill()
        coordinator.wait()
        coordinator.stdout.close()
