"""Fifty made-up hospitals on Flower's simulation engine: who took part, how long it takes, how much memory.

What coordinator and hospitals do is the installed code, on fifty folders with databases and ledgers of their own; only
the way between them is the engine's (`scripts/simulation/engine.py` says what is missing). The pictures are drawn, so
the AUCs mean nothing.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from client.cores import allowed
from client.store.site import Site
from scripts.benchmarks.options import positive
from scripts.benchmarks.report import Claim, Report, at_least, at_most
from scripts.simulation.loop import Settings, simulate


def run(arguments: Sequence[str]) -> Report:
    """Make the hospitals, retrain over them, and count what crossed their borders."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench simulated", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hospitals", type=positive, default=50)
    parser.add_argument("--patients", type=positive, default=120)
    parser.add_argument("--rounds", type=positive, default=2)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="vigie-") as name:
        folder = Path(name) / "simulation"
        words = (f"rounds={options.rounds}", "hyper.steps=10")
        settings = Settings(folder, "bench", words, options.hospitals, options.patients, at_once=allowed().count)
        found = simulate(settings, print)
        sound, crossings = _ledgers(folder / "hospitals")
    rounds = [line for line in found.lines if line["step"] == "round"]
    decided = next((len(line["decisions"]) for line in found.lines if line["step"] == "decisions"), 0)
    row: dict[str, Any] = {
        "hospitals": options.hospitals,
        "patients of each": options.patients,
        "rounds": len(rounds),
        "seconds for the hospitals": round(found.making, 1),
        "seconds for the retraining": round(found.retraining, 1),
        "seconds a round": [line["seconds"] for line in rounds],
        "peak memory MiB": round(found.peak_mib),
        "messages through the borders": crossings,
    }
    # terms, each round, candidate and release: in and out
    expected = options.hospitals * 2 * (3 + options.rounds)
    return Report(
        {"simulated": [row]},
        [
            at_least(
                "hospitals in every round", min((len(line["sites"]) for line in rounds), default=0), options.hospitals
            ),
            at_least("hospitals that decided on the candidate", decided, options.hospitals),
            at_least("ledgers whose chain holds", sound, options.hospitals),
            Claim("messages in the ledgers", crossings, f"{expected}", crossings == expected),
            at_most("peak memory of all processes, MiB", found.peak_mib, 8192),
        ],
    )


def _ledgers(hospitals: Path) -> tuple[int, int]:
    """How many ledgers hold, and how many messages all of them have."""
    sound = crossings = 0
    for path in sorted(hospitals.glob("hospital-*")):
        site = Site(path)
        sound += site.ledger.first_break() is None
        crossings += sum(entry.event == "border.crossed" for entry in site.ledger.entries("border."))
        site.database.close()
    return sound, crossings
