"""How good a retrained version is at each hospital: areas under the curve on patients that nobody trained on.

The three hospitals' radiographs of `VIGIE_DATA`, patients apart, drawn into folds anew for each seed. Contenders have
the same network, hyper-parameters (configs/version.yaml, configs/retraining.yaml) and steps a case can take part in:

- local: what each hospital would have alone: a first training there, then the rounds there.
- pooled: the same with all images in one place; as many steps a round as the hospitals take together.
- fedavg: the vendor's first training at one hospital, then rounds at all; every hospital counts by its cases.
- default: the same as `vigie retrain launch` does it without any setting.
- personal: strategy=fedbn with the head; each hospital with the layers of its own. Its global part is what a hospital
  gets that did not train.
- left out: the default over the other two hospitals, first trained at one of them; tested where nothing was trained.
  Against it, the better of those two hospitals' local models, tested there too.

Choices are made with `--fold gate`; `--fold test` is for what is reported. `--poison` measures instead what one
poisoned hospital of four costs the honest ones.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from models.bundle import Facts
from models.hyperparameters import Hyperparameters
from scripts.benchmarks import federation
from scripts.benchmarks.federation import HOSPITALS, Cases, Cohort, Fold, Weights
from scripts.benchmarks.poison import ATTACKS, Attack
from scripts.benchmarks.report import Claim, Report, at_least, at_most

_PERSONAL = ("strategy=fedbn", "strategy.head=true")
_ROBUST = ("strategy=trimmed-mean", "strategy.trim=1", "strategy.norm_bound=1.5")
_FEW = 24


def run(arguments: Sequence[str]) -> Report:
    """Train everything, print the areas.

    Raises:
        ConfigurationError: the radiographs are not there.
    """
    parser = argparse.ArgumentParser(
        prog="scripts/bench accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--poison", action="store_true", help="one poisoned hospital of four instead")
    options = parser.parse_args(arguments)
    rows, pixels = federation.images(options.data)
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        study = Study(federation.cohorts(rows, pixels, seed, _FEW if options.quick else 0), seed, options)
        runs += study.poisoned() if options.poison else study.compared()
    _show(runs)
    return Report({"poisoned" if options.poison else "accuracy": runs}, _harm(runs) if options.poison else _good(runs))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every benchmark of learning can be told."""
    data = Path(os.environ.get("VIGIE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data, help="folder that holds cxr/manifest.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--fold", choices=("gate", "test"), default="test", help="gate: to choose by; test: to report")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="some images, a round of two steps: only to see it work")
    parser.add_argument("overrides", nargs="*", default=[], help="of configs/retraining.yaml, for all but `fedavg`")


class Study:
    """All trainings of one seed."""

    def __init__(self, cohorts: dict[str, Cohort], seed: int, options: argparse.Namespace) -> None:
        """Prepare; nothing is trained yet."""
        self.cohorts, self.seed, self.threads = cohorts, seed, int(options.threads)
        self._fold: Fold = options.fold
        self._short = ("rounds=1", "hyper.steps=2") if options.quick else ()
        self._overrides = tuple(options.overrides)
        self.facts, self._first = self._version(options.quick)

    def compared(self) -> list[dict[str, Any]]:
        """The areas of all contenders, a row for each hospital."""
        rows: list[dict[str, Any]] = []
        firsts = {site: self._begun(site) for site in HOSPITALS}
        local = {site: self._retrained((site,), firsts[site]).weights for site in HOSPITALS}
        vendor = firsts[HOSPITALS[0]]
        everywhere = federation.together([self.cohorts[site]["train"] for site in HOSPITALS])
        pooled = self._pooled(everywhere)
        averaged = self.retrained(HOSPITALS, vendor, ("strategy=fedavg",), plain=True)
        default = self.retrained(HOSPITALS, vendor)
        personal = self.retrained(HOSPITALS, vendor, _PERSONAL, plain=True)
        for site in HOSPITALS:
            others = tuple(other for other in HOSPITALS if other != site)
            rows.append(
                {
                    "seed": self.seed,
                    "fold": self._fold,
                    "hospital": site,
                    "local": self.area(local[site], site),
                    "pooled": self.area(pooled, site),
                    "fedavg": self.area(averaged.weights, site),
                    "default": self.area(default.weights, site),
                    "personal": self.area(personal.at(site), site),
                    "its global part": self.area(personal.weights, site),
                    "left out": self.area(self.retrained(others, firsts[others[0]]).weights, site),
                    "best single": max(self.area(local[other], site) for other in others),
                }
            )
        return rows

    def poisoned(self) -> list[dict[str, Any]]:
        """The areas at the honest hospitals, with the largest one cut in two and its second half poisoned."""
        half = _halved(self.cohorts[HOSPITALS[0]]["train"])
        train = {site: self.cohorts[site]["train"] for site in HOSPITALS} | {HOSPITALS[0]: half[0], "poisoned": half[1]}
        vendor = federation.first(self.facts, self._first, half[0], self.seed, self.threads)
        rows: list[dict[str, Any]] = []
        for strategy, overrides in (("default", ()), ("robust", _ROBUST)):
            for attack in (None, *ATTACKS):
                plan = federation.plan(tuple(train), (*self._overrides, *self._short, *overrides), self.seed)
                lessons = self._lessons(vendor, train, plan.hyper)
                attacks: dict[str, Attack] = {"poisoned": attack} if attack else {}
                found = federation.retrain(plan, self.facts, vendor, lessons, attacks, self.threads)
                areas = {site: self.area(found.weights, site) for site in HOSPITALS}
                rows.append({"seed": self.seed, "strategy": strategy, "attack": attack or "none", **areas})
        return rows

    def retrained(
        self, sites: Sequence[str], base: Weights, overrides: Sequence[str] = (), plain: bool = False
    ) -> federation.Trained:
        """Rounds over these hospitals.

        Args:
            plain: without what was given on the command line.
        """
        return self._retrained(sites, base, (*(() if plain else self._overrides), *overrides))

    def vendor(self) -> Weights:
        """The first version: trained at the first hospital."""
        return self._begun(HOSPITALS[0])

    def area(self, weights: Weights, site: str) -> float:
        """The area under the curve at one hospital."""
        return federation.performance(self.facts, weights, self.cohorts[site][self._fold], self.threads)

    def _begun(self, site: str) -> Weights:
        return federation.first(self.facts, self._first, self.cohorts[site]["train"], self.seed, self.threads)

    def _retrained(self, sites: Sequence[str], base: Weights, overrides: Sequence[str] = ()) -> federation.Trained:
        plan = federation.plan(sites, (*self._short, *overrides), self.seed)
        train = {site: self.cohorts[site]["train"] for site in sites}
        lessons = self._lessons(base, train, plan.hyper)
        return federation.retrain(plan, self.facts, base, lessons, threads=self.threads)

    def _pooled(self, everywhere: Cases) -> Weights:
        base = federation.first(self.facts, self._first, everywhere, self.seed, self.threads)
        plan = federation.plan(("pooled",), self._short, self.seed)
        hyper = plan.hyper.model_copy(update={"steps": plan.hyper.steps * len(HOSPITALS)})
        lessons = self._lessons(base, {"pooled": everywhere}, hyper)
        plan = plan.model_copy(update={"hyper": hyper})
        return federation.retrain(plan, self.facts, base, lessons, threads=self.threads).weights

    def _lessons(self, base: Weights, train: dict[str, Cases], hyper: Hyperparameters) -> dict[str, federation.Lesson]:
        at = federation.threshold(self.facts, base, next(iter(train.values())), self.threads)
        return {
            site: federation.lesson(self.facts, base, at, cases, hyper, self.threads) for site, cases in train.items()
        }

    def _version(self, quick: bool) -> tuple[Facts, Hyperparameters]:
        return federation.facts(("hyper.steps=4",) if quick else ())


def _halved(cases: Cases) -> tuple[Cases, Cases]:
    """Every second case of each kind: two hospitals that look alike."""
    order = np.argsort(cases.positive, kind="stable")
    first, second = order[::2], order[1::2]
    return Cases(cases.images[first], cases.positive[first]), Cases(cases.images[second], cases.positive[second])


def _good(runs: list[dict[str, Any]]) -> list[Claim]:
    def mean(contender: str, *sites: str) -> float:
        return float(np.mean([run[contender] for run in runs if run["hospital"] in (sites or HOSPITALS)]))

    return [
        at_least(
            "default, mean over hospitals and seeds, as a share of pooled", mean("default") / mean("pooled"), 0.98
        ),
        *(
            at_most(
                f"{site}, personal below local, mean over seeds", mean("local", site) - mean("personal", site), 0.02
            )
            for site in HOSPITALS
        ),
        *(
            at_least(
                f"{site} left out, above the best single-site model, mean over seeds",
                mean("left out", site) - mean("best single", site),
                0.0,
            )
            for site in HOSPITALS
        ),
    ]


def _harm(runs: list[dict[str, Any]]) -> list[Claim]:
    claims: list[Claim] = []
    for attack in ATTACKS:
        lost: list[float] = []
        for run in runs:
            if (run["strategy"], run["attack"]) == ("robust", "none"):
                found = next(
                    other
                    for other in runs
                    if (other["seed"], other["strategy"], other["attack"]) == (run["seed"], "robust", attack)
                )
                lost.append(float(np.mean([run[site] - found[site] for site in HOSPITALS])))
        claims.append(at_most(f"{attack}, AUC lost at the honest hospitals, worst seed", max(lost), 0.02))
    return claims


def _show(runs: list[dict[str, Any]]) -> None:
    table = Table(*runs[0])
    for row in runs:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
