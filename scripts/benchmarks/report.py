"""What every benchmark writes: the machine, each contender's every run, and the claims."""

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table


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


def write(name: str, report: Report, folder: Path = Path("runs/bench")) -> Path:
    """Write `NAME.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {
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


def show(report: Report) -> None:
    """Print the claims."""
    table = Table("claim", "value", "target", "holds")
    for claim in report.claims:
        table.add_row(claim.name, f"{claim.value:.4g}", claim.target, "yes" if claim.holds else "NO")
    Console().print(table)
