"""A hospital's peak hour, and a quarter more, in minutes, while the PACS is away and node and worker are killed.

150 radiographs, 63 ultrasounds (no version reads them: each has to be refused), 38 CT of 300 slices and 31 MR of 200
come at drawn moments from six senders at once, which try again as modalities do: after a failure or a lost association
the image that was not acknowledged is sent again. CT and MR are told of by performed procedure steps. DenseNet121 reads
the radiographs, a threshold outlines in the volumes.

At a quarter of the time the PACS goes away, at six tenths it is back; at 0.35 the worker is killed with SIGKILL, at 0.5
the node with its worker, which is started again a second later. Then everything that was acknowledged has to be in the
archive, each study has to have one outcome that stands, and each result object has to be at the PACS once: one that
came again after a crash has to be the same to the byte, since a PACS keeps one of those.

At full scale about 8 GB are written and deleted again; `--scale 0.1` sends a tenth of the slices.
"""

import argparse
import hashlib
import random
import shutil
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydicom.dataset import Dataset
from rich.console import Console
from rich.table import Table
from sqlalchemy import func, select

from client.store.site import Site
from client.store.tables import delivery, instance, outcome, study
from models.errors import ConfigurationError
from scripts.benchmarks import pictures, versions
from scripts.benchmarks.hospital import AE_TITLE, Hospital
from scripts.benchmarks.modality import Association, announce, prepare
from scripts.benchmarks.pacs import Stored
from scripts.benchmarks.report import Claim, Report, at_most, p95

_AGAIN_SECONDS: Final = 1.0
_SENDERS: Final = {"DX": 2, "US": 1, "CT": 2, "MR": 1}
_OBJECTS: Final = {"DX": 2, "CT": 4, "MR": 4}
_LEFT_FREE: Final = 2 * 2**30


@dataclass
class Sent:
    """A study of the hour and what its sender knows of it; `at` in seconds from the start, others since the epoch."""

    kind: pictures.Kind
    number: int
    at: float
    uid: str = ""
    acknowledged: list[str] = field(default_factory=lambda: list[str]())
    began_at: float = 0.0
    answered_at: float = 0.0
    again: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """What became of it all.

    Attributes:
        lost: acknowledged images that are not in the archive as they were said to be.
        without: studies that have no outcome for their present revision, or several.
        twice: outcomes of one revision beyond the first, and objects at the PACS that are not those of an outcome or
            came with other bytes the second time.
        missing: result objects that are not at the PACS.
    """

    lost: int
    without: int
    twice: int
    missing: int
    resent: int
    amended: int
    states: dict[str, Counter[str]]


def run(arguments: Sequence[str]) -> Report:
    """Let the hour pass, look what became of it.

    Raises:
        ConfigurationError: there is not room enough on the disk.
    """
    parser = argparse.ArgumentParser(
        prog="scripts/bench load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the slices of a CT or MR")
    parser.add_argument("--studies", type=float, default=1.0, help="share of the studies")
    parser.add_argument("--minutes", type=float, default=5.0, help="in which they are sent")
    parser.add_argument("--side", type=int, default=2048, help="of the radiographs, pixels")
    parser.add_argument("--patience", type=float, default=30.0, help="minutes after which it is given up")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    plan = hour(options.scale, options.studies, options.side, 60 * options.minutes, options.seed)
    needed = sum(one.kind.images * one.kind.side**2 * (1 if one.kind.modality == "US" else 2) for one in plan)
    if shutil.disk_usage(options.folder).free < needed + _LEFT_FREE:
        raise ConfigurationError(f"{needed / 1e9:.1f} GB are needed on {options.folder}, and some more: --scale")
    images = sum(one.kind.images for one in plan)
    print(f"{len(plan)} studies, {images} images, {needed / 1e9:.1f} GB in {options.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="load-", dir=options.folder) as name:
        folder = Path(name).resolve()
        key = Ed25519PrivateKey.generate()
        bundles = [versions.radiographs(folder / "densenet", key)]
        bundles += [versions.volumes(folder / modality, key, modality) for modality in ("CT", "MR")]
        hospital = Hospital(folder / "hospital", key, *bundles, reserve_mib=256)
        try:
            hospital.pacs.start()
            hospital.start()
            hour_ = _Hour(hospital, plan, 60 * options.minutes)
            finished = hour_.pass_(60 * options.patience)
            found = examine(hospital.site, plan, hospital.pacs.stored())
            intact = hospital.site.ledger.first_break() is None
            figures = _figures(hospital, plan, hour_.depths, found)
        finally:
            hospital.close()
    _show(figures)
    expected = {"US": "refused"}
    odd = sum(
        count
        for modality, states in found.states.items()
        for state, count in states.items()
        if state != expected.get(modality, "scored")
    )
    claims = [
        _none("acknowledged images lost", found.lost),
        _none("studies without exactly one outcome that stands", found.without),
        _none("outcomes or objects twice", found.twice),
        _none("result objects not at the PACS", found.missing),
        _none("studies with another outcome than theirs", odd),
        _none("studies or results unfinished when time was up", 0 if finished else 1),
        _none("breaks in the ledger", 0 if intact else 1),
    ]
    return Report({"load": [figures], "queue over time": hour_.depths}, claims)


def hour(scale: float, share: float, side: int, seconds: float, seed: int) -> list[Sent]:
    """The studies of a peak hour and a quarter more, at drawn moments."""
    draw = random.Random(seed)
    slices = {"CT": max(8, round(300 * scale)), "MR": max(8, round(200 * scale))}
    kinds = {
        pictures.Kind("DX", pictures.DX, 1, side): 150,
        pictures.Kind("US", pictures.US, 1, 768): 63,
        pictures.Kind("CT", pictures.CT, slices["CT"], 512): 38,
        pictures.Kind("MR", pictures.MR, slices["MR"], 256): 31,
    }
    plan = [
        Sent(kind, number, draw.uniform(0, seconds))
        for kind, count in kinds.items()
        for number in range(max(1, round(count * share)))
    ]
    return sorted(plan, key=lambda one: one.at)


def examine(site: Site, plan: Sequence[Sent], stored: Sequence[Stored]) -> Found:
    """Hold what the senders were told against what the hospital and its PACS have."""
    with site.database.read() as connection:
        here = {row.sop_uid: row.sha256 for row in connection.execute(select(instance))}
        studies = {row.uid: row for row in connection.execute(select(study))}
        outcomes = connection.execute(select(outcome)).all()
        deliveries = connection.execute(select(delivery)).all()
    whole: dict[str, bool] = {}
    lost = 0
    for one in plan:
        for uid in one.acknowledged:
            digest = here.get(uid)
            if digest is not None and digest not in whole:
                whole[digest] = _is(site.archive / digest[:2] / f"{digest}.dcm", digest)
            lost += digest is None or not whole[digest]
    by_revision = Counter((row.study_uid, row.revision) for row in outcomes)
    without = sum(one.uid not in studies or by_revision[one.uid, studies[one.uid].revision] != 1 for one in plan)
    copies: dict[str, Counter[str]] = {}
    for item in stored:
        copies.setdefault(item.sop_uid, Counter())[item.sha256] += 1
    promised = {row.sop_uid for row in deliveries}
    modality = {one.uid: one.kind.modality for one in plan}
    due = {row.id: _OBJECTS.get(modality.get(row.study_uid, ""), 0) for row in outcomes if row.kind == "scored"}
    made = Counter(row.outcome_id for row in deliveries)
    states: dict[str, Counter[str]] = {}
    for one in plan:
        row = studies.get(one.uid)
        states.setdefault(one.kind.modality, Counter())[row.state if row else "nothing"] += 1
    return Found(
        lost=lost,
        without=without,
        twice=sum(count - 1 for count in by_revision.values())
        + sum(uid not in promised or len(digests) > 1 for uid, digests in copies.items()),
        missing=len(promised - copies.keys()) + sum(abs(count - made[number]) for number, count in due.items()),
        resent=sum(sum(digests.values()) - 1 for digests in copies.values()),
        amended=sum(row.revision > 1 for row in studies.values()),
        states=states,
    )


def _is(path: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == digest
    except OSError:
        return False


def _none(name: str, count: int) -> Claim:
    return at_most(name, count, 0)


class _Hour:
    """Senders, faults and a look at the queues twice a second."""

    def __init__(self, hospital: Hospital, plan: Sequence[Sent], seconds: float) -> None:
        self._hospital = hospital
        self._plan = plan
        self._seconds = seconds
        self._gone = threading.Event()
        self.depths: list[dict[str, Any]] = []

    def pass_(self, patience: float) -> bool:
        """Send, disturb, and wait until all is done; False where that took too long."""
        began = time.monotonic()
        lanes = {(modality, lane): list[Sent]() for modality, count in _SENDERS.items() for lane in range(count)}
        for number, one in enumerate(self._plan):
            modality = one.kind.modality
            lanes[modality, number % _SENDERS[modality]].append(one)
        senders = [
            threading.Thread(target=self._send, args=(began, f"{modality}_{lane}", some), daemon=True)
            for (modality, lane), some in lanes.items()
        ]
        for sender in senders:
            sender.start()
        faults = [
            (0.25, "the PACS goes away", self._hospital.pacs.kill),
            (0.35, "the worker is killed", self._kill_worker),
            (0.5, "node and worker are killed", self._kill_node),
            (0.6, "the PACS is back", self._hospital.pacs.start),
        ]
        told = 0.0
        try:
            while True:
                now = time.monotonic() - began
                if faults and now >= faults[0][0] * self._seconds:
                    _, text, act = faults.pop(0)
                    print(f"{now:5.0f} s  {text}", flush=True)
                    act()
                depth = self._look(now)
                self.depths.append(depth)
                busy = any(sender.is_alive() for sender in senders)
                if now - told >= 10:
                    told = now
                    print(f"{now:5.0f} s  {_line(depth)}", flush=True)
                if not busy and not faults and not (depth["receiving"] or depth["queued"] or depth["pending"]):
                    print(f"{now:5.0f} s  {_line(depth)}", flush=True)
                    return True
                if now > patience:
                    return False
                time.sleep(0.5)
        finally:
            self._gone.set()
            for sender in senders:
                sender.join(60)

    def _send(self, began: float, calling: str, studies: Sequence[Sent]) -> None:
        for one in studies:
            if self._gone.wait(max(0.0, one.at - (time.monotonic() - began))):
                return
            images = list(pictures.study(one.kind, one.number))
            one.uid = str(images[0].StudyInstanceUID)
            one.began_at = time.time()
            if one.kind.images > 1:
                self._announce(one, calling, images)
            while images and not self._gone.is_set():
                self._associate(one, calling, images)

    def _announce(self, one: Sent, calling: str, images: Sequence[Dataset]) -> None:
        while not self._gone.is_set():
            try:
                announce(self._hospital.port, AE_TITLE, images, calling)
            except RuntimeError:  # the node is away
                one.again += 1
                self._gone.wait(_AGAIN_SECONDS)
            else:
                return

    def _associate(self, one: Sent, calling: str, images: list[Dataset]) -> None:
        """Send over one association; what was acknowledged is taken off the list."""
        association: Association | None = None
        try:
            association = Association(self._hospital.port, AE_TITLE, one.kind.sop_class, calling)
            while images:
                if status := association.store(prepare(images[0])):
                    raise RuntimeError(f"status {status:04X}")
                one.acknowledged.append(str(images.pop(0).SOPInstanceUID))
                one.answered_at = time.time()
            association.release()
        except (OSError, RuntimeError):
            if association is not None:
                association.drop()
            one.again += bool(images)
            self._gone.wait(_AGAIN_SECONDS)

    def _kill_worker(self) -> None:
        for process in self._hospital.processes()[1:]:
            process.kill()

    def _kill_node(self) -> None:
        self._hospital.kill()
        time.sleep(1.0)
        self._hospital.start(wait=False)

    def _look(self, now: float) -> dict[str, Any]:
        memory = 0
        for process in self._hospital.processes():
            try:
                memory += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        with self._hospital.site.database.read() as connection:
            states: dict[str, int] = {
                row[0]: row[1]
                for row in connection.execute(select(study.c.state, func.count()).group_by(study.c.state))
            }
            query = select(func.count()).select_from(delivery).where(delivery.c.state == "pending")
            pending = int(connection.execute(query).scalar() or 0)
        keys = ("receiving", "queued", "scored", "refused", "failed")
        counts = {key: states.get(key, 0) for key in keys}
        return {"s": round(now, 1), **counts, "pending": pending, "MiB": round(memory / 2**20)}


def _line(depth: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in depth.items() if key != "s")


def _figures(
    hospital: Hospital, plan: Sequence[Sent], depths: Sequence[dict[str, Any]], found: Found
) -> dict[str, Any]:
    with hospital.site.database.read() as connection:
        concluded = {
            row.study_uid: row.created_at
            for row in connection.execute(select(outcome).order_by(outcome.c.study_uid, outcome.c.revision))
        }
    first = min(one.began_at for one in plan if one.began_at)
    stored = hospital.pacs.stored()
    last = max([*concluded.values(), *(item.at for item in stored)])
    images = sum(len(one.acknowledged) for one in plan)
    delays: dict[str, list[float]] = {}
    for one in plan:
        if one.uid in concluded:
            delays.setdefault(one.kind.modality, []).append(concluded[one.uid] - one.answered_at)
    return {
        "studies": len(plan),
        "images": images,
        "makespan s": last - first,
        "studies a minute": 60 * len(plan) / (last - first),
        "images a second": images / (last - first),
        "last image to outcome": {
            name: {"p50 s": statistics.median(some), "p95 s": p95(some)} for name, some in delays.items()
        },
        "states": {name: dict(states) for name, states in found.states.items()},
        "images sent again by senders": sum(one.again for one in plan),
        "studies amended": found.amended,
        "objects at the PACS": len({item.sop_uid for item in stored}),
        "objects sent again to the PACS": found.resent,
        "peak MiB": max(depth["MiB"] for depth in depths),
        "most queued": max(depth["queued"] for depth in depths),
        "most results waiting": max(depth["pending"] for depth in depths),
    }


def _show(figures: dict[str, Any]) -> None:
    table = Table("peak hour x 1.25", "")
    for name, value in figures.items():
        if isinstance(value, dict):
            for part, inner in value.items():
                text = ", ".join(f"{key} {_text(one)}" for key, one in inner.items())
                table.add_row(f"{name}, {part}", text)
        else:
            table.add_row(name, _text(value))
    Console().print(table)


def _text(value: float) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
