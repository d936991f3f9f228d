"""What one poisoned hospital of four costs the honest ones: the area under the curve at each, with and without it.

The three hospitals' radiographs; the largest hospital is cut in two that look alike, and the second of them harms.

- default: what `vigie retrain launch` does without any setting.
- robust: a trimmed mean of bounded updates.
- personal: all layers but the first are each hospital's own, updates are bounded; tested with its own layers.

A hospital's version that comes out of it does not serve unless its adoption gate says so: beside what came out stands
what serves then, the version or the vendor's that served before, by the gate's own code on the gate's patients, each at
the threshold that the training patients set.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from models.gate import Case, GateVerdict, Margins, adoption
from scripts.benchmarks import federation
from scripts.benchmarks.accuracy import Study, add_options, of_each_seed, show
from scripts.benchmarks.federation import HOSPITALS, Cases, Weights
from scripts.benchmarks.poison import ATTACKS, Attack
from scripts.benchmarks.report import Report, at_most

_STRATEGIES = {
    "default": (),
    "robust": ("strategy=trimmed-mean", "strategy.trim=1", "strategy.norm_bound=1.5"),
    "personal": ("strategy=personal",),
}
_MOST = 0.02
_POISONED = "poisoned"
_SERVING = ", serving"


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
    return Report(
        {"poisoned": runs},
        [
            at_most(
                f"{attack}, {strategy}: AUC lost {where}, mean of the honest hospitals, worst seed",
                max(_lost(runs, seed, strategy, attack, what) for seed in options.seeds),
                _MOST,
            )
            for strategy in ("robust", "personal")
            for what, where in (("", "by the candidate"), (_SERVING, "by what serves"))
            for attack in ATTACKS
        ],
    )


def _lost(runs: Sequence[dict[str, Any]], seed: int, strategy: str, attack: str, what: str) -> float:
    """How much less the honest hospitals have on average than without an attack."""
    areas = {
        row["attack"]: float(np.mean([row[f"{site}{what}"] for site in HOSPITALS]))
        for row in runs
        if (row["seed"], row["strategy"]) == (seed, strategy)
    }
    return areas["none"] - areas[attack]


def _harmed(study: Study, overrides: Sequence[str]) -> list[dict[str, Any]]:
    honest, harming = _halved(study.cohorts[HOSPITALS[0]]["train"])
    train = {site: study.cohorts[site]["train"] for site in HOSPITALS} | {HOSPITALS[0]: honest, _POISONED: harming}
    vendor = study.begun(honest)
    rows: list[dict[str, Any]] = []
    for strategy, settings in _STRATEGIES.items():
        for attack in (None, *ATTACKS):
            attacks: dict[str, Attack] = {_POISONED: attack} if attack else {}
            found = study.retrained_on(train, vendor, (*overrides, *settings), attacks)
            areas = {site: study.area(found.at(site), site) for site in HOSPITALS}
            areas |= {f"{site}{_SERVING}": _serving(study, vendor, found.at(site), site) for site in HOSPITALS}
            study.say(f"{strategy}, {attack or 'no attack'}: " + ", ".join(f"{areas[site]:.3f}" for site in HOSPITALS))
            rows.append(
                {"seed": study.seed, "fold": study.fold, "strategy": strategy, "attack": attack or "none", **areas}
            )
    return rows


def _serving(study: Study, served: Weights, candidate: Weights, site: str) -> float:
    """The area under the curve of what serves at a hospital once its gate has looked at a candidate."""
    train, gate = study.cohorts[site]["train"], study.cohorts[site]["gate"]
    old, new = (
        federation.read_with(study.facts, weights, gate.images, study.threads)
        >= federation.threshold(study.facts, weights, train, study.threads)
        for weights in (served, candidate)
    )
    cases = [
        Case(str(number), bool(truth), bool(old[number]), bool(new[number]))
        for number, truth in enumerate(gate.positive)
    ]
    adopted = adoption(cases, Margins()).verdict is GateVerdict.ADOPT
    return study.area(candidate if adopted else served, site)


def _halved(cases: Cases) -> tuple[Cases, Cases]:
    """Every second case of each kind: two hospitals that look alike."""
    order = np.argsort(cases.positive, kind="stable")
    first, second = order[::2], order[1::2]
    return Cases(cases.images[first], cases.positive[first]), Cases(cases.images[second], cases.positive[second])
