"""How many bytes of weights cross, and what fewer bits cost in accuracy.

The default retraining of `scripts/bench accuracy`, at all hospitals, once for each encoding of the same orders and
updates, in both directions. Bytes are those of whole messages as they are packed for the wire, layout and all.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np

from scripts.benchmarks.accuracy import Study, add_options, of_each_seed, show
from scripts.benchmarks.federation import HOSPITALS
from scripts.benchmarks.report import Report, at_most

_ENCODINGS = ("none", "float16", "eight-bit")


def run(arguments: Sequence[str]) -> Report:
    """Count, and compare the areas.

    Raises:
        ConfigurationError: the radiographs are not there.
    """
    parser = argparse.ArgumentParser(
        prog="scripts/bench bytes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    runs = of_each_seed(options, _encoded)
    show(runs)

    def total(encoding: str, *directions: str) -> float:
        return sum(row[direction] for row in runs if row["encoding"] == encoding for direction in directions)

    def mean(encoding: str) -> float:
        return float(np.mean([row[site] for row in runs if row["encoding"] == encoding for site in HOSPITALS]))

    return Report(
        {"bytes": runs},
        [
            at_most("eight-bit, updates as a share of FP32", total("eight-bit", "from") / total("none", "from"), 0.25),
            at_most("eight-bit, orders as a share of FP32", total("eight-bit", "to") / total("none", "to"), 0.25),
            at_most("eight-bit, AUC lost, mean over hospitals and seeds", mean("none") - mean("eight-bit"), 0.005),
            at_most(
                "float16, both as a share of FP32", total("float16", "to", "from") / total("none", "to", "from"), 0.51
            ),
            at_most("float16, AUC lost, mean over hospitals and seeds", mean("none") - mean("float16"), 0.005),
        ],
    )


def _encoded(study: Study) -> list[dict[str, Any]]:
    base = study.vendor()
    rows: list[dict[str, Any]] = []
    for encoding in _ENCODINGS:
        found = study.retrained(HOSPITALS, base, (f"compression={encoding}",))
        areas = {site: study.area(found.weights, site) for site in HOSPITALS}
        study.say(f"{encoding}: " + ", ".join(f"{areas[site]:.3f}" for site in HOSPITALS))
        said = {"seed": study.seed, "fold": study.fold, "encoding": encoding}
        rows.append(said | {"to": found.sent, "from": found.received, **areas})
    return rows
