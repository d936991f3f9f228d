"""What every benchmark writes: when, of which commit, the machine, each contender's every run, and the claims."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from scripts.benchmarks.options import standard


@dataclass(frozen=True, slots=True)
class Claim:
    """One figure against its target."""

    name: str
    value: float
    target: str
    holds: bool


@dataclass(frozen=True, slots=True)
class Report:
    """A benchmark's result; `runs` has for each contender what each of its runs gave."""

    runs: dict[str, list[dict[str, Any]]]
    claims: list[Claim]


def at_least(name: str, value: float, target: float) -> Claim:
    """A claim that a figure is `target` or more."""
    return Claim(name, value, f">= {target:g}", value >= target)


def at_most(name: str, value: float, target: float) -> Claim:
    """A claim that a figure is `target` or less."""
    return Claim(name, value, f"<= {target:g}", value <= target)


def p95(values: Sequence[float]) -> float:
    """What 95 of 100 do not exceed, between two values by their distance; never below the median."""
    return float(np.percentile(values, 95))


def write(name: str, report: Report, folder: Path = Path("runs/bench"), options: Sequence[str] = ()) -> Path:
    """Write `NAME.json`, or `NAME-quick.json` of a run with other than the standard options: it replaces no figure.

    Args:
        options: as they were typed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    whole = standard(options)
    path = folder / (f"{name}.json" if whole else f"{name}-quick.json")
    content = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "options": list(options),
        "standard": whole,
        "machine": {
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "processor": platform.machine(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "runs": report.runs,
        "claims": [asdict(claim) for claim in report.claims],
    }
    path.write_text(json.dumps(content, indent=2))
    return path


def _commit() -> str:
    """Of the code that was measured, with `-dirty` where it was changed since; empty where there is no git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        told = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return told.stdout.strip()


def show(report: Report) -> None:
    """Print the claims."""
    table = Table("claim", "value", "target", "holds")
    for claim in report.claims:
        table.add_row(claim.name, f"{claim.value:.4g}", claim.target, "yes" if claim.holds else "NO")
    Console().print(table)
