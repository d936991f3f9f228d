"""How long a roll-back takes at a node that has work: from the command to the first study read by the old version.

Radiographs are sent as fast as the node takes them; once some are read, `vigie site rollback` is run as a person would,
and sending goes on until after it has ended. Every study has to have one outcome, by the new version or by the old one,
and none may wait.
"""

import argparse
import itertools
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from client.store import versions as store
from client.store.site import Site
from client.store.tables import outcome, study
from models.children import ChildFailed
from scripts.benchmarks import pictures, versions
from scripts.benchmarks.hospital import AE_TITLE, Hospital
from scripts.benchmarks.modality import Association, prepare
from scripts.benchmarks.report import Report, at_most

_SECONDS: Final = 5.0
_PATIENCE: Final = 600.0


def run(arguments: Sequence[str]) -> Report:
    """Go back some times, in the middle of a queue."""
    parser = argparse.ArgumentParser(prog="scripts/bench rollback", description=__doc__)
    parser.add_argument("--radiographs", type=int, default=60, help="each time, at least; a quarter is read before")
    parser.add_argument("--side", type=int, default=1024, help="of the radiographs, pixels")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    kind = pictures.Kind("DX", pictures.DX, 1, options.side)
    with tempfile.TemporaryDirectory(prefix="rollback-", dir=options.folder) as name:
        folder, key = Path(name).resolve(), Ed25519PrivateKey.generate()
        bundles = [versions.radiographs(folder / f"densenet-{number}", key, number) for number in (1, 2)]
        hospital = Hospital(folder / "hospital", key, *bundles)
        old, new = (bundle.digest for bundle in bundles)
        try:
            hospital.pacs.start()
            hospital.start()
            rows: list[dict[str, Any]] = []
            for _ in range(options.turns):
                store.adopt(hospital.site, new)
                rows.append(_turn(hospital, kind, options.radiographs, old))
        finally:
            hospital.close()
    _show(rows)
    claims = [
        at_most("from the command to the first study by the old version, slowest, s", _most(rows, "took"), _SECONDS),
        at_most("studies without exactly one outcome", sum(row["not once"] for row in rows), 0),
        at_most("studies left waiting", sum(row["waiting"] for row in rows), 0),
        at_most("studies begun after the command had ended and read by the new version", _most(rows, "late"), 0),
    ]
    return Report({"rollback": rows}, claims)


def _turn(hospital: Hospital, kind: pictures.Kind, radiographs: int, old: str) -> dict[str, Any]:
    site, modality = hospital.site, _Modality(hospital.port, kind)
    with ThreadPoolExecutor(max_workers=1) as beside:
        sending = beside.submit(modality.send)
        try:
            _until(lambda: sending.done() or len(_read(site, modality.sent)) >= radiographs // 4)
            began = time.time()
            command = [sys.executable, "-m", "scripts.vigie", "site", "rollback"]
            command += ["--folder", str(site.folder), "densenet", "--reason", "quality"]
            subprocess.run(command, check=True, capture_output=True)
            ended, by_then, at_the_end = time.time(), len(modality.sent), len(_read(site, modality.sent))
            _until(lambda: sending.done() or len(modality.sent) >= max(radiographs, by_then + radiographs // 4))
        finally:
            modality.enough = True
        sending.result()
    uids = modality.sent
    _until(lambda: len({row.study_uid for row in _read(site, uids)}) == len(uids))
    found = _read(site, uids)
    with site.database.read() as connection:
        states = Counter(connection.execute(select(study.c.state).where(study.c.uid.in_(uids))).scalars())
        completed = {
            row.uid: row.completed_at
            for row in connection.execute(select(study.c.uid, study.c.completed_at).where(study.c.uid.in_(uids)))
        }
    by_old = [row for row in found if row.version_digest == old]
    times = [row.created_at for row in found]
    return {
        "command": ended - began,
        "took": min(row.created_at for row in by_old) - began,
        "queued then": by_then - at_the_end,
        "by the new version": len(found) - len(by_old),
        "by the old version": len(by_old),
        "median gap": median(after - before for before, after in itertools.pairwise(times)),
        "longest gap": max(after - before for before, after in itertools.pairwise(times)),
        "not once": sum(count != 1 for count in Counter(row.study_uid for row in found).values()),
        "waiting": len(uids) - states["scored"],
        "late": sum(row.version_digest != old and (completed[row.study_uid] or 0.0) > ended for row in found),
    }


class _Modality:
    """Sends radiographs, each of a study of its own, one after the other, until it is `enough`; `sent` are the studies'
    UIDs.
    """

    def __init__(self, port: int, kind: pictures.Kind) -> None:
        self._port, self._kind = port, kind
        self.sent: tuple[str, ...] = ()
        self.enough = False

    def send(self) -> None:
        association = Association(self._port, AE_TITLE)
        while not self.enough:
            image = next(pictures.study(self._kind, len(self.sent)))
            if association.store(prepare(image)):
                raise ChildFailed("the node refused an image")
            self.sent = (*self.sent, str(image.StudyInstanceUID))
        association.release()


def _read(site: Site, uids: Collection[str]) -> list[Any]:
    query = select(outcome).where(outcome.c.study_uid.in_(uids)).order_by(outcome.c.created_at)
    with site.database.read() as connection:
        return list(connection.execute(query).all())


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise ChildFailed(f"the node did not get there in {_PATIENCE:g} s")
        time.sleep(0.05)


def _most(rows: Sequence[dict[str, Any]], key: str) -> float:
    return max(float(row[key]) for row in rows)


def _show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(*rows[0])
    for row in rows:
        table.add_row(*(f"{value:.3g}" for value in row.values()))
    Console().print(table)
