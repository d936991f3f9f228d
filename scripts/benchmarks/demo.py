"""What a demonstration has to reach, from one or more summaries.

Without options the summary in `runs/demo` is read. `--seeds 1 2 3` runs one demonstration a seed, each with other
patients held back, and takes the worst figure of them.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.errors import ConfigurationError
from scripts.benchmarks.report import Report, at_least, at_most
from scripts.demonstration.summary import Performance, Summary


def run(arguments: Sequence[str]) -> Report:
    """Read, or make, the summaries and hold them against the targets.

    Raises:
        ConfigurationError: there is no summary, or it is of phantoms.
    """
    parser = argparse.ArgumentParser(prog="scripts/bench demo", description=__doc__)
    parser.add_argument("--summary", type=Path, nargs="+", default=[Path("runs/demo/summary.json")])
    parser.add_argument("--seeds", type=int, nargs="+", default=[])
    options = parser.parse_args(arguments)
    paths = [_demonstrate(seed) for seed in options.seeds] or options.summary
    summaries = [_read(path) for path in paths]
    if any(summary.data != "real radiographs" for summary in summaries):
        raise ConfigurationError("the targets are for real radiographs; this summary is of phantoms")
    runs = [_row(summary) for summary in summaries]
    claims = [
        at_least("version 1, AUC at guangzhou, worst seed", min(run["guangzhou v1"] for run in runs), 0.96),
        at_least("version 2, AUC at nih, worst seed", min(run["nih v2"] for run in runs), 0.76),
        at_least("version 2, AUC at shenzhen, worst seed", min(run["shenzhen v2"] for run in runs), 0.70),
        at_most(
            "guangzhou, AUC lost from version 1 to 2, worst seed",
            max(run["guangzhou v1"] - run["guangzhou v2"] for run in runs),
            0.03,
        ),
        at_most("seconds in all, slowest", max(run["seconds"] for run in runs), 480),
        at_most("peak resident memory of all processes, MiB", max(run["peak memory MiB"] for run in runs), 8192),
        at_most("evaluate against the nodes' scores", max(run["evaluate agrees to"] for run in runs), 1e-4),
    ]
    return Report({"vigie demo": runs}, claims)


def _demonstrate(seed: int) -> Path:
    out = Path(f"runs/bench/demo-{seed}")
    out.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "-m", "scripts.vigie", "demo", "--seed", str(seed), "--out", str(out)], check=True)
    return out / "summary.json"


def _read(path: Path) -> Summary:
    if not path.exists():
        raise ConfigurationError(f"{path} is missing: run scripts/demo first, or say --seeds 1 2 3")
    return Summary.model_validate_json(path.read_text())


def _auc(site: str, performance: Mapping[str, Performance]) -> float:
    value = performance["test"].auc.value if "test" in performance else None
    if value is None:
        raise ConfigurationError(f"no AUC at {site}: the targets are for a whole demonstration, without --limit")
    return value


def _row(summary: Summary) -> dict[str, Any]:
    row: dict[str, Any] = {"seed": summary.seed, "rounds": summary.rounds}
    for site, found in summary.hospitals.items():
        for label, performance in (("v1", found.before), ("v2", found.after)):
            row[f"{site} {label}"] = _auc(site, performance)
        row[f"{site} decision"] = found.decision
        row[f"{site} mended"], row[f"{site} new errors"] = found.mended, found.new_errors
    row["seconds"] = summary.seconds["total"]
    row["peak memory MiB"] = summary.peak_memory_mib
    row["peak memory, shared pages counted again, MiB"] = summary.peak_rss_sum_mib
    row["evaluate agrees to"] = summary.evaluate_agrees_to
    return row
