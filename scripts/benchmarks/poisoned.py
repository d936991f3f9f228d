"""What one poisoned hospital of four costs the honest ones: the area under the curve at each, with and without it.

The three hospitals' radiographs; the largest hospital is cut in two that look alike, and the second of them harms.
`default` is what `vigie retrain launch` does without any setting, `robust` a trimmed mean of bounded updates.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from scripts.benchmarks.accuracy import Study, add_options, of_each_seed, show
from scripts.benchmarks.federation import HOSPITALS, Cases
from scripts.benchmarks.poison import ATTACKS, Attack
from scripts.benchmarks.report import Report, at_most

_STRATEGIES = {"default": (), "robust": ("strategy=trimmed-mean", "strategy.trim=1", "strategy.norm_bound=1.5")}
_POISONED = "poisoned"


def run(arguments: Sequence[str]) -> Report:
    """Train with every attack, print the areas.

    Raises:
        ConfigurationError: the radiographs are not there.
    """
    parser = argparse.ArgumentParser(
        prog="scripts/bench poisoned", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    runs = of_each_seed(options, partial(_harmed, overrides=options.overrides))
    show(runs)
    areas = {(row["seed"], row["strategy"], row["attack"]): float(np.mean([row[s] for s in HOSPITALS])) for row in runs}
    return Report(
        {"poisoned": runs},
        [
            at_most(
                f"{attack}, robust: AUC lost at the honest hospitals, mean of them, worst seed",
                max(areas[seed, "robust", "none"] - areas[seed, "robust", attack] for seed in options.seeds),
                0.02,
            )
            for attack in ATTACKS
        ],
    )


def _harmed(study: Study, overrides: Sequence[str]) -> list[dict[str, Any]]:
    honest, harming = _halved(study.cohorts[HOSPITALS[0]]["train"])
    train = {site: study.cohorts[site]["train"] for site in HOSPITALS} | {HOSPITALS[0]: honest, _POISONED: harming}
    vendor = study.begun(honest)
    rows: list[dict[str, Any]] = []
    for strategy, settings in _STRATEGIES.items():
        for attack in (None, *ATTACKS):
            attacks: dict[str, Attack] = {_POISONED: attack} if attack else {}
            found = study.retrained_on(train, vendor, (*overrides, *settings), attacks)
            areas = {site: study.area(found.weights, site) for site in HOSPITALS}
            study.say(f"{strategy}, {attack or 'no attack'}: " + ", ".join(f"{areas[site]:.3f}" for site in HOSPITALS))
            rows.append(
                {"seed": study.seed, "fold": study.fold, "strategy": strategy, "attack": attack or "none", **areas}
            )
    return rows


def _halved(cases: Cases) -> tuple[Cases, Cases]:
    """Every second case of each kind: two hospitals that look alike."""
    order = np.argsort(cases.positive, kind="stable")
    first, second = order[::2], order[1::2]
    return Cases(cases.images[first], cases.positive[first]), Cases(cases.images[second], cases.positive[second])
