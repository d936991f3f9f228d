"""Studies a second: DenseNet121 at 224 x 224 through the whole node, against a bare session and against eager MONAI.

Contenders take turns in a fixed number of rounds; the median of the rounds counts. All have the same threads (those of
the processors that this may use, or `--threads`) and the same images; TCP_NODELAY on every connection. The network's
weights are drawn, not trained, which changes no time.

- node: `python -m client.node`, which is what `vigie site run` starts, with its worker. Radiographs come over one
  association; a study counts when its report and its capture are at the PACS. A report without a score, or a study that
  the node's books do not call scored, ends the bench. Everything between is durable. `quiet_seconds` is 0: how long a
  study waits to be complete is no work, and `latency` measures it.
- bare: ONNX Runtime over tensors that lie in memory, at each batch size; the best counts.
- eager: MONAI's network in PyTorch, in a process that stays, as a MONAI Deploy app would do it if its process stayed:
  the same images over an association to a plain receiver that writes files, pydicom, MONAI's transforms with their
  metadata, the same report and capture, C-STORE to the same PACS; one step after the other, nothing durable. It is
  given our own fast maker of report and capture, where an app would build them with highdicom each time.

Then the node's way is walked in one process, each step timed alone: where the overhead goes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.table import Table

from models.children import Child, free_port
from scripts.benchmarks import pictures, results, versions
from scripts.benchmarks.hospital import AE_TITLE, THREADS, Hospital
from scripts.benchmarks.modality import Association, prepare
from scripts.benchmarks.options import positive
from scripts.benchmarks.pacs import Pacs
from scripts.benchmarks.report import Report, at_least, at_most

_BATCHES = (1, 2, 4, 8, 16, 32)
_PATIENCE_SECONDS = 300.0


def run(arguments: Sequence[str]) -> Report:
    """Measure, print the tables."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench inference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=positive, default=100, help="a turn")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--side", type=int, default=1024, help="of the radiographs, pixels; 1024: 2 MB each")
    parser.add_argument("--threads", type=int, default=THREADS, help="of one computation, for every contender")
    parser.add_argument("--batches", type=int, nargs="+", default=_BATCHES, help="of the bare session")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="on the disk that is to be measured")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {"node": [], "bare": [], "eager": []}
    with tempfile.TemporaryDirectory(prefix="inference-", dir=options.folder) as name:
        folder = Path(name).resolve()
        print("exporting DenseNet121", flush=True)
        key = Ed25519PrivateKey.generate()
        bundle = versions.radiographs(folder / "version", key)
        hospital = Hospital(folder / "hospital", key, bundle, quiet_seconds=0.0, inference_threads=options.threads)
        inbox = Pacs(folder / "inbox", free_port())
        kind = pictures.Kind("DX", pictures.DX, 1, options.side)
        try:
            hospital.pacs.start()
            hospital.start()
            inbox.start()
            eager = _eager(folder, inbox, hospital.pacs, bundle.folder, options.threads)
            try:
                turns: dict[str, Callable[[int], dict[str, Any]]] = {
                    "node": lambda count: _through(
                        hospital.port, AE_TITLE, hospital.pacs, kind, count, [one.pid for one in hospital.processes()]
                    ),
                    "bare": lambda count: _bare(bundle.onnx, count, options.batches, options.threads),
                    "eager": lambda count: _through(inbox.port, "PACS", hospital.pacs, kind, count, [eager.pid]),
                }
                for number in range(-1, options.rounds):
                    for contender, turn in turns.items():
                        os.sync()
                        row = turn(options.studies if number >= 0 else 8)  # the first round warms up
                        if number >= 0:
                            found[contender].append(row)
                            print(f"{contender:<6} {row['studies a second']:6.1f} studies a second", flush=True)
            finally:
                eager.stop()
            uids = {one.study_uid for one in inbox.stored()}
            results.demand_scored(hospital.site, {one.study_uid for one in hospital.pacs.stored()} - uids)
            hospital.close()
            print("walking the node's way in one process", flush=True)
            stages = _stages(folder, bundle.folder, hospital.pacs, options)
        finally:
            hospital.close()
            inbox.kill()
    return _report(found, stages, options.threads)


def _report(found: dict[str, list[dict[str, Any]]], stages: dict[str, float], threads: int) -> Report:
    rate = {name: statistics.median(row["studies a second"] for row in rows) for name, rows in found.items()}
    batch = statistics.mode(row["batch"] for row in found["bare"])
    table = Table(f"{threads} threads each", "studies a second", "ms a study", "CPU ms a study")
    for name, rows in found.items():
        spent = [row["cpu ms"] for row in rows if "cpu ms" in row]
        cpu = f"{statistics.median(spent):.1f}" if spent else ""
        label = f"bare, batch {batch}" if name == "bare" else name
        table.add_row(label, f"{rate[name]:.1f}", f"{1000 / rate[name]:.1f}", cpu)
    Console().print(table)
    where = Table("step of the node's way, alone", "ms a study")
    for step, milliseconds in stages.items():
        where.add_row(step, f"{milliseconds:.2f}")
    where.add_row("all of them, one after the other", f"{sum(stages.values()):.2f}")
    Console().print(where)
    overhead = 1000 / rate["node"] - 1000 / rate["bare"]
    print(f"the node's overhead is {overhead:.1f} ms a study beside the bare session")
    runs = found | {"steps alone": [stages], "threads": [{"each": threads}]}
    claims = [
        at_least("studies a second, node / bare session at its best batch", rate["node"] / rate["bare"], 0.6),
        at_least("studies a second, node / eager MONAI", rate["node"] / rate["eager"], 1.3),
        at_most("score, node and eager MONAI, furthest apart", _apart(found["node"], found["eager"]), 1e-3),
    ]
    return Report(runs, claims)


def _apart(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> float:
    """How far two contenders' scores of the same picture lie from each other; all studies show the same."""
    return max(
        abs(one[ours_end] - two[theirs_end])
        for one in ours
        for two in theirs
        for ours_end, theirs_end in (("lowest score", "highest score"), ("highest score", "lowest score"))
    )


def _through(
    port: int, called: str, pacs: Pacs, kind: pictures.Kind, count: int, processes: Sequence[int]
) -> dict[str, Any]:
    """Send studies and wait until the report of each is at the PACS."""
    import psutil

    images = [image for number in range(count) for image in pictures.study(kind, number)]
    wanted = {str(image.StudyInstanceUID) for image in images}
    messages = [prepare(image) for image in images]
    del images
    pacs.stored()
    before = sum(_cpu(psutil.Process(pid)) for pid in processes)
    began = time.time()
    association = Association(port, called)
    for message in messages:
        if status := association.store(message):
            raise RuntimeError(f"an image was not stored: {status:04X}")
    received = time.time() - began
    association.release()
    ends: dict[str, float] = {}

    def all_there(stored: list[Any]) -> bool:
        ends.update({uid: report.at for uid, report in results.complete(stored, wanted).items()})
        return len(ends) == count

    if not pacs.wait(all_there, _PATIENCE_SECONDS):
        raise RuntimeError(f"{len(ends)} of {count} reports are at the PACS after {_PATIENCE_SECONDS:.0f} s")
    spent = sum(_cpu(psutil.Process(pid)) for pid in processes) - before
    said = results.scores(pacs.folder, results.complete(pacs.stored(), wanted).values())
    seconds = max(ends.values()) - began
    return {
        "studies a second": count / seconds,
        "seconds": seconds,
        "received after": received,
        "cpu ms": 1000 * spent / count,
        "lowest score": min(said),
        "highest score": max(said),
    }


def _cpu(process: Any) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _bare(onnx: Path, count: int, batches: Sequence[int], threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "scripts.benchmarks.bare_session", str(onnx), str(count), str(threads)]
    done = subprocess.run([*command, *map(str, batches)], check=True, stdout=subprocess.PIPE, text=True, timeout=600)
    rates: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    best = max(rates, key=lambda batch: rates[batch])
    return {"studies a second": rates[best], "batch": int(best), "by batch": rates}


def _eager(folder: Path, inbox: Pacs, pacs: Pacs, version: Path, threads: int) -> Child:
    command = [sys.executable, "-m", "scripts.benchmarks.eager_app", str(inbox.folder), str(pacs.port), str(version)]
    command += [str(threads), str(folder / "hospital" / "site" / "trust")]
    child = Child("eager", command, os.environ, folder / "eager.log")
    child.wait_ready((inbox.folder / "eager").exists)
    return child


def _stages(folder: Path, version: Path, pacs: Pacs, options: argparse.Namespace) -> dict[str, float]:
    pacs.start()
    command = [sys.executable, "-m", "scripts.benchmarks.stages", str(folder / "alone"), str(version)]
    command += [str(folder / "hospital" / "site" / "trust"), str(pacs.port)]
    command += [str(options.side), str(options.threads), str(min(options.studies, 50))]
    # as the node starts its worker: OpenBLAS' other threads would spin through what follows each resize
    environment = {"OPENBLAS_NUM_THREADS": "1"} | os.environ
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, timeout=_PATIENCE_SECONDS, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])
