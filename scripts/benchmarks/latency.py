"""From the last image's answer to the result stored at the PACS: one radiograph, and a CT of 300 slices.

Radiograph, DenseNet121 at 224 x 224 with drawn weights, on an idle node, one after the other:

- node, told: the modality's performed procedure step, completed, names the image before it is sent, so that the node
  need not wait for others. From the answer to the C-STORE to the report's file at the stand-in PACS. Everything is
  durable on the way. The claim is made of this row.
- node, nobody tells: the same without a message, as of a modality that sends none. How long the node waits then is
  learned for each sender; shown, no claim.
- bare: decode, preprocess, run, and write report and capture into files, in one process that stays; not durable, no
  network, no database.

CT with a threshold at -420 HU where a network would stand, so that everything but a network is measured:

- node, told: receives 300 slices, is told as above; from the last answer to the SEG stored at the PACS, beside it
  report, presentation state and capture, checked. The claim is made of the warm row. Nobody tells: as above, warm;
  shown, no claim. Cold: the slices are acknowledged, node and worker killed and started
  again; from the start of the process. From the first slice on is shown too.
- MONAI Deploy App SDK 4.0.0 in an environment of its own: DICOMDataLoader, DICOMSeriesSelector, DICOMSeriesToVolume,
  the threshold, DICOMSegmentationWriter, from files that lie there to a SEG file that lies there; it neither receives
  nor sends, nor is anything durable. Cold: from the start of a process; warm: `run` again in a process that stays.
  The slices are the same but for their UIDs.

The SDK is looked for with `--contender PYTHON`, else in `runs/bench/monai-deploy`, which is made with pip where it is
not there; where that fails the CT is measured without it and its claims are left out. Contenders take turns, the median
counts, all have the same processors, and threads as many as processors.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from client.store.site import Site
from client.store.tables import outcome, study
from scripts.benchmarks import pictures, results, versions
from scripts.benchmarks.hospital import AE_TITLE, THREADS, Hospital
from scripts.benchmarks.modality import Association, announce, prepare
from scripts.benchmarks.report import Claim, Report, at_least, at_most, p95

_PATIENCE_SECONDS = 120.0
_SDK = ("monai-deploy-app-sdk==4.0.0", "torch", "monai", "pydicom", "highdicom", "SimpleITK")
_TOLD, _UNTOLD = "node, told by MPPS", "node, nobody tells"
_APP = Path(__file__).with_name("monai_deploy_app.py")


@dataclass(frozen=True, slots=True)
class Sent:
    """A study that was sent; seconds since the epoch."""

    uid: str
    first_at: float
    answered_at: float


def run(arguments: Sequence[str]) -> Report:
    """Measure, print the tables."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench latency", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--radiographs", type=int, default=30)
    parser.add_argument("--side", type=int, default=1024, help="of the radiographs, pixels; 1024: 2 MB each")
    parser.add_argument("--turns", type=int, default=5, help="of the CT, cold and warm; 0 leaves it out")
    parser.add_argument("--slices", type=int, default=300)
    parser.add_argument("--contender", type=Path, help="the Python of an environment with the SDK")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="on the disk that is to be measured")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    runs: dict[str, list[dict[str, Any]]] = {}
    claims: list[Claim] = []
    with tempfile.TemporaryDirectory(prefix="latency-", dir=options.folder) as name:
        folder = Path(name).resolve()
        key = Ed25519PrivateKey.generate()
        if options.radiographs:
            _radiographs(folder, key, options, runs, claims)
        if options.turns:
            sdk = _sdk(options.contender, options.folder / "monai-deploy")
            _volumes(folder, key, options, sdk, runs, claims)
    return Report(runs, claims)


# ---------------------------------------------------------------- radiographs


def _radiographs(
    folder: Path,
    key: Ed25519PrivateKey,
    options: argparse.Namespace,
    runs: dict[str, list[dict[str, Any]]],
    claims: list[Claim],
) -> None:
    print("exporting DenseNet121", flush=True)
    bundle = versions.radiographs(folder / "densenet", key)
    hospital = Hospital(folder / "radiographs", key, bundle)
    kind = pictures.Kind("DX", pictures.DX, 1, options.side)
    command = [sys.executable, "-m", "scripts.benchmarks.bare_study", str(bundle.folder), str(hospital.site.trust)]
    bare = subprocess.Popen(
        [*command, str(folder / "bare"), str(THREADS)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    rows: dict[str, list[dict[str, Any]]] = {_TOLD: [], _UNTOLD: [], "bare": []}
    try:
        hospital.pacs.start()
        hospital.start()
        for number in range(-3, options.radiographs):
            for name in rows:
                images = list(pictures.study(kind, number))
                if name == "bare":
                    row = _bare(bare, pictures.write(iter(images), folder / "files")[0])
                else:
                    row = _node(hospital, images, "SR", tell=name == _TOLD)
                if number >= 0:
                    rows[name].append(row)
            if number >= 0 and (number + 1) % 10 == 0:
                print(f"{number + 1} radiographs", flush=True)
    finally:
        hospital.close()
        assert bare.stdin is not None
        bare.stdin.close()
        bare.wait(30)
    runs |= {f"radiograph, {name}": found for name, found in rows.items()}
    table = Table("one radiograph", "claimed", "p50 ms", "p95 ms", "complete", "read", "delivered")
    for name, found in rows.items():
        parts = [f"{_p50(found, part):.0f}" if part in found[0] else "" for part in ("complete", "read", "delivered")]
        table.add_row(
            name, _claimed(name), f"{_p50(found, 'ms'):.0f}", f"{p95([row['ms'] for row in found]):.0f}", *parts
        )
    Console().print(table)
    claims.append(
        at_most("radiograph, p50, node told by MPPS / bare", _p50(rows[_TOLD], "ms") / _p50(rows["bare"], "ms"), 1.5)
    )


def _bare(child: "subprocess.Popen[str]", path: Path) -> dict[str, Any]:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{path}\n")
    child.stdin.flush()
    return json.loads(child.stdout.readline())


def _node(hospital: Hospital, images: Sequence[Dataset], wanted: str, *, tell: bool) -> dict[str, Any]:
    """Send a study to a node and wait for its result; milliseconds from the last answer on."""
    sent = _send(hospital.port, images, tell=tell)
    at = _stored(hospital, sent.uid, wanted)
    results.demand_scored(hospital.site, [sent.uid])
    completed, read = _times(hospital.site, sent.uid)
    return {
        "ms": 1000 * (at - sent.answered_at),
        "complete": 1000 * (completed - sent.answered_at),
        "read": 1000 * (read - completed),
        "delivered": 1000 * (at - read),
        "from the first image": 1000 * (at - sent.first_at),
    }


def _send(port: int, images: Sequence[Dataset], *, tell: bool) -> Sent:
    """Send a study as a modality does; with `tell`, its procedure step says before which images there are."""
    messages = [prepare(image) for image in images]
    # what is learned of a sender that tells is not what is learned of one that never does
    calling = "TELLS" if tell else "SILENT"
    if tell:
        announce(port, AE_TITLE, images, calling)
    association = Association(port, AE_TITLE, str(images[0].SOPClassUID), calling)
    began = time.time()
    for message in messages:
        if status := association.store(message):
            raise RuntimeError(f"an image was not stored: {status:04X}")
    answered = time.time()
    association.release()
    return Sent(str(images[0].StudyInstanceUID), began, answered)


def _stored(hospital: Hospital, uid: str, wanted: str) -> float:
    found: list[float] = []

    def there(stored: Sequence[Any]) -> bool:
        found.extend(one.at for one in stored if one.study_uid == uid and one.modality == wanted)
        return bool(found)

    if not hospital.pacs.wait(there, _PATIENCE_SECONDS):
        raise RuntimeError(f"no {wanted} after {_PATIENCE_SECONDS:.0f} s; see {hospital.site.logs}")
    return found[0]


def _times(site: Site, uid: str) -> tuple[float, float]:
    """When a study was called complete, and when its outcome was written."""
    query = select(study.c.completed_at, outcome.c.created_at).join(outcome, outcome.c.study_uid == study.c.uid)
    with site.database.read() as connection:
        row = connection.execute(query.where(study.c.uid == uid)).one()
    return float(row.completed_at), float(row.created_at)


# ---------------------------------------------------------------- volumes


def _volumes(
    folder: Path,
    key: Ed25519PrivateKey,
    options: argparse.Namespace,
    sdk: Path | None,
    runs: dict[str, list[dict[str, Any]]],
    claims: list[Claim],
) -> None:
    print(f"drawing {options.slices} slices", flush=True)
    kind = pictures.Kind("CT", pictures.CT, options.slices, 512)
    source = folder / "slices"
    pictures.write(pictures.study(kind, 0), source)
    hospital = Hospital(folder / "volumes", key, versions.volumes(folder / "threshold", key))
    warm, untold = f"{_TOLD}, warm", f"{_UNTOLD}, warm"
    rows: dict[str, list[dict[str, Any]]] = {warm: [], untold: [], f"{_TOLD}, cold": []}
    if sdk is not None:
        rows |= {"MONAI Deploy, warm": [], "MONAI Deploy, cold": []}
    stays = _Resident(sdk, source, folder / "warm") if sdk is not None else None
    try:
        hospital.pacs.start()
        hospital.start()
        for turn in range(-1, options.turns):
            for name in rows:
                images = list(pictures.study(kind, turn)) if name.startswith("node") else []
                if name in (warm, untold):
                    row = _node(hospital, images, "SEG", tell=name == warm)
                elif images:
                    row = _node_cold(hospital, images)
                elif stays is not None and name == "MONAI Deploy, warm":
                    row = {"ms": 1000 * stays.run()}
                else:
                    assert sdk is not None
                    row = {"ms": 1000 * _sdk_cold(sdk, source, folder / f"cold{turn}")}
                if turn >= 0:  # the first turn warms up
                    rows[name].append(row)
                    print(f"{name:<26} {row['ms'] / 1000:6.2f} s", flush=True)
        ours = _masks(next(hospital.pacs.folder / f"{one.sop_uid}.dcm" for one in _segs(hospital)))
        theirs = _masks(next((folder / "warm").glob("*.dcm"))) if sdk is not None else {}
    finally:
        if stays is not None:
            stays.close()
        hospital.close()
    runs |= {f"CT, {name}": found for name, found in rows.items()}
    table = Table(
        *(f"CT of {options.slices} slices", "claimed", "median s", "longest s"),
        *("complete", "read", "delivered", "first on"),
    )
    for name, found in rows.items():
        parts = ("complete", "read", "delivered", "from the first image")
        cells = [f"{_p50(found, part) / 1000:.2f}" if part in found[0] else "" for part in parts]
        longest = max(row["ms"] for row in found) / 1000
        table.add_row(name, _claimed(name), f"{_p50(found, 'ms') / 1000:.2f}", f"{longest:.2f}", *cells)
    Console().print(table)
    outlined = [sum(int(mask.sum()) for mask in masks.values()) for masks in (ours, theirs)]
    print(f"voxels outlined: node {outlined[0]}, MONAI Deploy {outlined[1] if sdk is not None else 'not there'}")
    if sdk is None:
        return
    for state in ("warm", "cold"):
        ratio = _p50(rows[f"MONAI Deploy, {state}"], "ms") / _p50(rows[f"{_TOLD}, {state}"], "ms")
        if state == "warm":
            claims.append(at_least("CT, MONAI Deploy / node told by MPPS, warm", ratio, 2.0))
        else:
            print(f"cold: MONAI Deploy takes {ratio:.2f} times as long as the node")
    claims.append(at_least("CT, Dice of the two outlines", results.dice(ours, theirs), 0.999))


def _node_cold(hospital: Hospital, images: Sequence[Dataset]) -> dict[str, Any]:
    """The study is acknowledged and nothing more done with it when the process starts."""
    sent = _send(hospital.port, images, tell=True)
    hospital.kill()
    began = time.time()
    hospital.start(wait=False)
    return {"ms": 1000 * (_stored(hospital, sent.uid, "SEG") - began)}


def _segs(hospital: Hospital) -> list[Any]:
    return [one for one in hospital.pacs.stored() if one.modality == "SEG"]


def _masks(path: Path) -> dict[results.Place, NDArray[np.bool_]]:
    return results.masks(pydicom.dcmread(path))


class _Resident:
    """The SDK's app in a process that stays."""

    def __init__(self, python: Path, source: Path, target: Path) -> None:
        self._answers = target.with_suffix(".jsonl")
        self._answers.touch()
        command = [str(python), str(_APP), str(source), str(target), str(versions.ABOVE_HU), str(self._answers)]
        log = target.with_suffix(".log").open("w")
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True)
        log.close()
        self._count = 0

    def run(self) -> float:
        """One run; its seconds.

        Raises:
            RuntimeError: the process ended, or takes too long.
        """
        assert self._child.stdin is not None
        self._child.stdin.write("run\n")
        self._child.stdin.flush()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while len(lines := self._answers.read_text().splitlines()) <= self._count:
            if self._child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the SDK's app gave no answer; see {self._answers.with_suffix('.log')}")
            time.sleep(0.005)
        self._count += 1
        return float(json.loads(lines[-1])["seconds"])

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        try:
            self._child.wait(10)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def _sdk_cold(python: Path, source: Path, target: Path) -> float:
    """From the start of a process to the SEG's file; what it does to end is not counted."""
    began = time.time()
    stays = _Resident(python, source, target)
    try:
        stays.run()
        return max(path.stat().st_mtime for path in target.glob("*.dcm")) - began
    finally:
        stays.close()


def _sdk(given: Path | None, folder: Path) -> Path | None:
    """The Python of an environment with the SDK, made where there is none; None where that cannot be."""
    python = given or folder.resolve() / "bin" / "python"
    try:
        if not python.exists():
            print(f"making an environment with {_SDK[0]} in {folder}; this takes minutes", flush=True)
            venv.create(folder, with_pip=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *_SDK], check=True, timeout=1800)
        environment = {**os.environ, "PYTHONPATH": ""}
        check = [str(python), "-c", "import monai.deploy.core, highdicom"]
        subprocess.run(check, check=True, timeout=120, capture_output=True, env=environment)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"without MONAI Deploy ({type(error).__name__}): put {', '.join(_SDK)} into {folder}, or --contender")
        return None
    return python


def _p50(rows: Sequence[dict[str, Any]], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def _claimed(name: str) -> str:
    """Whether a claim is made of a row, or held against it."""
    return "no" if name.startswith(_UNTOLD) or name.endswith("cold") else "yes"
