"""What training costs the clinic: the 95th percentile of a reading's time beside a training, and without one.

A reading is DenseNet121 at 224 x 224 on the engine that the node uses, with the node's threads, one after the other
with a pause between, as studies come. The training is the product's own (`models.training.fit`), of the same network,
in a process that has given way as the hospital's trainer does (`resident.give_way`, `resident.bound_memory`), without
a pause. Turns with and without it alternate: the trainer is halted and goes on. `--priority normal` trains without
giving way.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.table import Table

from client.cores import allowed
from client.federation import resident
from client.inference.engine import Engine
from models.children import Child
from models.hyperparameters import Hyperparameters
from scripts.benchmarks import versions
from scripts.benchmarks.options import positive
from scripts.benchmarks.report import Report, at_least, at_most, p95

_CASES = 64


def run(arguments: Sequence[str]) -> Report:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench yielding", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--readings", type=positive, default=60, help="a turn")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two readings")
    parser.add_argument("--threads", type=positive, default=allowed().to_compute, help="of one computation")
    parser.add_argument("--priority", choices=("idle", "low", "normal"), default="idle", help="of the training")
    options = parser.parse_args(arguments)
    found: dict[str, list[dict[str, Any]]] = {"alone": [], "beside a training": []}
    with tempfile.TemporaryDirectory(prefix="yielding-") as name:
        folder = Path(name)
        print("exporting DenseNet121", flush=True)
        bundle = versions.radiographs(folder / "version", Ed25519PrivateKey.generate())
        engine = Engine(bundle, options.threads)
        steps = folder / "steps"
        words = [
            sys.executable,
            "-m",
            "scripts.benchmarks.yielding",
            str(steps),
            str(options.threads),
            options.priority,
        ]
        child = Child("trainer", words, os.environ, folder / "trainer.log")
        try:
            child.wait_ready(steps.exists, 300.0)
            for number in range(-1, options.rounds):
                for contender, training in (("alone", False), ("beside a training", True)):
                    os.kill(child.pid, signal.SIGCONT if training else signal.SIGSTOP)
                    before = _steps(steps)
                    times = _turn(engine, options.readings if number >= 0 else 5, options.pause)
                    row = {"p95 ms": p95(times), "median ms": float(np.median(times)), "steps": _steps(steps) - before}
                    if number >= 0:
                        found[contender].append(row | {"times ms": times})
                        print(f"{contender:<18} p95 {row['p95 ms']:6.1f} ms, {row['steps']} steps trained", flush=True)
        finally:
            if child.returncode is None:
                os.kill(child.pid, signal.SIGCONT)  # a halted process hears of nothing else
            child.stop()
    return _report(found)


def _report(found: dict[str, list[dict[str, Any]]]) -> Report:
    every = {name: [value for row in rows for value in row["times ms"]] for name, rows in found.items()}
    table = Table("a reading", "median ms", "p95 ms", "steps trained")
    for name, rows in found.items():
        steps = sum(row["steps"] for row in rows)
        table.add_row(name, f"{np.median(every[name]):.1f}", f"{p95(every[name]):.1f}", str(steps))
    Console().print(table)
    trained = sum(row["steps"] for row in found["beside a training"])
    slower = p95(every["beside a training"]) / p95(every["alone"])
    return Report(
        found,
        [
            at_most("p95 of a reading, beside a training / alone", slower, 1.3),
            at_least("steps trained meanwhile", trained, 1),
        ],
    )


def _turn(engine: Engine, readings: int, pause: float) -> list[float]:
    """Milliseconds of each reading."""
    draw, times = np.random.default_rng(0), list[float]()
    for _ in range(readings):
        image = draw.normal(0, 1, (1, versions.SIDE, versions.SIDE)).astype(np.float32)
        began = time.perf_counter()
        engine.run(image)
        times.append(1000 * (time.perf_counter() - began))
        time.sleep(pause)
    return times


def _steps(path: Path) -> int:
    return path.stat().st_size


def train(steps: Path, threads: int, priority: str) -> None:
    """Train until ended; each step adds one byte to the file `steps`."""
    from models.training import fit

    resident.give_way(priority)
    resident.bound_memory(0)
    draw = np.random.default_rng(0)
    images = draw.normal(0, 1, (_CASES, 1, versions.SIDE, versions.SIDE)).astype(np.float32)
    positive_ = (np.arange(_CASES) % 2).astype(np.float32)
    hyper = Hyperparameters(steps=100_000, batch_size=8, averaging=0.0)

    def note(_step: int, _all: int, _loss: float) -> None:
        with steps.open("ab") as file:
            file.write(b".")

    fit(versions.network().train(), images, positive_, np.ones(_CASES), hyper, 0, threads, note)


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
