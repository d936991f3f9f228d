"""The list of all that a version has touched, among a million studies: how long it takes, and whether it is complete.

A hospital's database is filled with a million studies of a quarter as many patients, outcomes and ledger entries of two
versions, reports sent, some read again, some in shadow. What the second version touched is planted at random and
known. Then `vigie site incident lookback` is run as a person would, in a process of its own.
"""

import argparse
import csv
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table
from sqlalchemy import insert

from client.store import site as sites
from client.store.site import Site
from client.store.tables import delivery, ledger, outcome, patient, shadow, study, version
from configs.schema import SiteConfig
from scripts.benchmarks.options import positive
from scripts.benchmarks.report import Report, at_least, at_most

_SECONDS: Final = 60.0
_MIB: Final = 512.0
_TOGETHER: Final = 20_000
_BAD, _GOOD = "b" * 64, "a" * 64


def run(arguments: Sequence[str]) -> Report:
    """Fill, look back, count."""
    parser = argparse.ArgumentParser(prog="scripts/bench lookback", description=__doc__)
    parser.add_argument("--studies", type=positive, default=1_000_000)
    parser.add_argument("--share", type=float, default=0.5, help="of them, read by the version that is looked for")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"))
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lookback-", dir=options.folder) as name:
        folder = Path(name).resolve()
        site = sites.create(folder / "node", SiteConfig())
        planted = _fill(site, options.studies, options.share, random.Random(options.seed))
        found = _look(folder)
    missing, extra = len(planted - found["studies"]), len(found["studies"] - planted)
    row = {
        "studies": options.studies,
        "touched": len(planted),
        "seconds": found["seconds"],
        "memory MiB": found["mib"],
        "missing": missing,
        "extra": extra,
        "complete": found["complete"],
    }
    table = Table(*row)
    table.add_row(*(f"{value:.1f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    return Report(
        {"lookback": [row]},
        [
            at_most(f"{options.studies:,} studies, s", found["seconds"], _SECONDS),
            at_least("of what it touched, found", 1 - missing / max(len(planted), 1), 1.0),
            at_most("found that it did not touch", extra, 0),
            at_least("said complete, by the ledger", float(found["complete"]), 1.0),
            at_most("memory, MiB", found["mib"], _MIB),
        ],
    )


def _look(folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "scripts.vigie", "site", "incident", "lookback", _BAD[:12]]
    began, bytes_ = time.monotonic(), 0
    with subprocess.Popen(
        [*command, "--folder", str(folder / "node"), "--export", str(folder / "list.csv")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            with suppress(psutil.Error):
                bytes_ = max(bytes_, watched.memory_info().rss)
            time.sleep(0.02)
        said = process.stdout.read() if process.stdout else ""
    seconds = time.monotonic() - began
    if not (folder / "list.csv").exists():
        raise RuntimeError(f"the look-back ended with {process.returncode}: {said[-800:]}")
    with (folder / "list.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["study"], row["revision"], row["how"]) for row in csv.DictReader(file)}
    complete = process.returncode == 0 and "complete: the ledger has" in said
    return {"seconds": seconds, "mib": bytes_ / 2**20, "studies": rows, "complete": complete}


def _fill(site: Site, count: int, share: float, draw: random.Random) -> set[tuple[str, str, str]]:
    """Write the hospital's rows and say what the version has touched: study, revision, how."""
    planted: set[tuple[str, str, str]] = set()
    with site.database.write() as connection:
        for number, digest in enumerate((_GOOD, _BAD), start=1):
            values = {"digest": digest, "name": "bench", "number": number, "state": "adopted", "received_at": 1.0}
            connection.execute(insert(version).values(adopted_at=1.0, **values))
    people = max(1, count // 4)
    for begin in range(0, people, _TOGETHER):
        rows = [
            {"key": f"{n:064d}", "patient_id": f"P{n}", "issuer": "", "fold": "train", "first_seen": 1.0}
            for n in range(begin, min(begin + _TOGETHER, people))
        ]
        with site.database.write() as connection:
            connection.execute(insert(patient), rows)
    number = 0
    for begin in range(0, count, _TOGETHER):
        tables: dict[str, list[dict[str, Any]]] = {
            "study": [],
            "outcome": [],
            "shadow": [],
            "delivery": [],
            "ledger": [],
        }
        for n in range(begin, min(begin + _TOGETHER, count)):
            uid, revisions = f"1.2.826.{n}", 2 if draw.random() < 0.05 else 1
            tables["study"].append(_study(uid, draw.randrange(people), revisions))
            for revision in range(1, revisions + 1):
                number += 1
                digest = _BAD if draw.random() < share else _GOOD
                tables["outcome"].append(_outcome(number, uid, revision, digest, draw))
                tables["ledger"].append(_entry(number, digest, revision))
                tables["delivery"].append(_report(number))
                if digest == _BAD:
                    planted.add((uid, str(revision), "read"))
                elif draw.random() < 0.1:
                    tables["shadow"].append(_shadow(number))
                    planted.add((uid, str(revision), "shadow"))
        with site.database.write() as connection:
            for name, table in (("study", study), ("outcome", outcome), ("shadow", shadow), ("delivery", delivery)):
                if tables[name]:
                    connection.execute(insert(table), tables[name])
            connection.execute(insert(ledger), tables["ledger"])
    return planted


def _study(uid: str, person: int, revision: int) -> dict[str, Any]:
    times = {"received_at": 1.0, "touched_at": 1.0}
    return {
        "uid": uid,
        "patient_key": f"{person:064d}",
        "accession": uid[-8:],
        "state": "scored",
        "revision": revision,
    } | times


def _outcome(number: int, uid: str, revision: int, digest: str, draw: random.Random) -> dict[str, Any]:
    score = draw.random()
    return {
        "id": number,
        "study_uid": uid,
        "revision": revision,
        "kind": "scored",
        "reasons": [],
        "version_digest": digest,
        "score": score,
        "threshold": 0.5,
        "positive": score >= 0.5,
        "created_at": float(number),
    }


def _shadow(number: int) -> dict[str, Any]:
    said = {"kind": "scored", "reasons": [], "score": 0.5, "threshold": 0.5, "positive": True, "created_at": 1.0}
    return {"outcome_id": number, "version_digest": _BAD} | said


def _report(number: int) -> dict[str, Any]:
    uid = f"2.25.{number}"
    return {"sop_uid": uid, "outcome_id": number, "kind": "sr", "sha256": f"{number:064x}", "state": "sent"}


def _entry(number: int, digest: str, revision: int) -> dict[str, Any]:
    """As the node writes one; the chain is not looked at here."""
    facts = {"input": "0" * 64, "revision": revision, "score": 0.5, "study": "0" * 64, "version": digest}
    said = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    chain = {"previous": f"{number - 1:064x}", "hash": f"{number:064x}"}
    return {"seq": number, "at": 1.0, "event": "outcome.scored", "facts": said} | chain
