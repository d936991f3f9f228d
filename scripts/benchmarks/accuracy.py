"""How good a retrained version is at each hospital: areas under the curve on patients that nobody trained on.

The three hospitals' radiographs of `VIGIE_DATA`, patients apart, drawn into folds anew for each seed. Contenders have
the same network, hyper-parameters (configs/version.yaml, configs/retraining.yaml) and steps a case can take part in:

- local: what each hospital would have alone: a first training there, then the rounds there.
- pooled: the same with all images in one place; as many steps a round as the hospitals take together.
- fedavg: the vendor's first training at one hospital, then rounds at all; every hospital counts by its cases.
- default: the same as `vigie retrain launch` does it without any setting.
- personal: from what `default` has led to, four rounds more in which all but the first layer is each hospital's own
  (strategy=fedbn). Its global part is what a hospital gets that did not train.
- left out: the default over the other two hospitals, first trained at one of them; tested where nothing was trained.
  Against it, the better of those two hospitals' local models, tested there too.

Each training is kept once it is done (`--trained`), so that a run that was interrupted goes on where it was.

Choices are made with `--fold gate`; `--fold test` is for what is reported.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from client.federation.trainer import Lesson
from models.bundle import Facts
from models.hyperparameters import Hyperparameters
from scripts.benchmarks import federation
from scripts.benchmarks.federation import HOSPITALS, Cases, Cohort, Fold, Trained, Weights
from scripts.benchmarks.poison import Attack
from scripts.benchmarks.report import Claim, Report, at_least, at_most
from scripts.benchmarks.trained import Shelf
from server.plan import Plan

_PERSONAL = (
    *("strategy=fedbn", "strategy.head=true", "strategy.layers=[layer1,layer2,layer3,layer4]"),
    "rounds=4",
)
_FEW = 24
Row = dict[str, Any]


def run(arguments: Sequence[str]) -> Report:
    """Train everything, print the areas.

    Raises:
        ConfigurationError: the radiographs are not there.
    """
    parser = argparse.ArgumentParser(
        prog="scripts/bench accuracy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    runs = of_each_seed(options, Study.compared)
    show(runs)
    return Report({"accuracy": runs}, _good(runs))


def of_each_seed(options: argparse.Namespace, ask: "Callable[[Study], list[Row]]") -> list[Row]:
    """What is asked of each seed's study, in the order of seeds; they run side by side, a process each.

    Args:
        ask: a function of a module, since it is sent to another process.
    """
    jobs = min(options.jobs, len(options.seeds))
    one = partial(_of_one_seed, options, ask)
    if jobs == 1:
        return [row for seed in options.seeds for row in one(seed)]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        return [row for rows in pool.map(one, options.seeds) for row in rows]


def _of_one_seed(options: argparse.Namespace, ask: "Callable[[Study], list[Row]]", seed: int) -> list[Row]:
    rows, pixels = federation.images(options.data)
    return ask(Study(federation.cohorts(rows, pixels, seed, _FEW if options.quick else 0), seed, options))


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every benchmark of learning can be told."""
    data = Path(os.environ.get("VIGIE_DATA", "../shared/data"))
    parser.add_argument("--data", type=Path, default=data, help="folder that holds cxr/manifest.csv")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--fold", choices=("gate", "test"), default="test", help="gate: to choose by; test: to report")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="seeds that run at once")
    trained = Path("runs/bench/trained")
    parser.add_argument("--trained", type=Path, default=trained, help="where trainings are kept that are done")
    parser.add_argument(
        "--quick", action="store_true", help="some images of the gate's fold, a round of two steps: only to see it work"
    )
    parser.add_argument("overrides", nargs="*", default=[], help="of configs/retraining.yaml, for all but `fedavg`")


class Study:
    """All trainings of one seed."""

    def __init__(self, cohorts: dict[str, Cohort], seed: int, options: argparse.Namespace) -> None:
        """Prepare; nothing is trained yet."""
        self.cohorts, self.seed, self.threads = cohorts, seed, int(options.threads)
        self.fold: Fold = "gate" if options.quick else options.fold
        self._short = ("rounds=1", "hyper.steps=2") if options.quick else ()
        self._overrides = tuple(options.overrides)
        self.facts, self._first = self._version(options.quick)
        self._shelf = Shelf(options.trained)

    def compared(self) -> list[Row]:
        """The areas of all contenders, a row for each hospital."""
        rows: list[Row] = []
        firsts = {site: self.begun(self.cohorts[site]["train"]) for site in HOSPITALS}
        local = {site: self._retrained((site,), firsts[site]).weights for site in HOSPITALS}
        self.say("local")
        vendor = firsts[HOSPITALS[0]]
        everywhere = federation.together([self.cohorts[site]["train"] for site in HOSPITALS])
        pooled = self._pooled(everywhere)
        self.say("pooled")
        averaged = self.retrained(HOSPITALS, vendor, ("strategy=fedavg",), plain=True)
        self.say("fedavg")
        default = self.retrained(HOSPITALS, vendor)
        self.say("default")
        personal = self.retrained(HOSPITALS, default.weights, _PERSONAL, plain=True)
        self.say("personal")
        for site in HOSPITALS:
            others = tuple(other for other in HOSPITALS if other != site)
            row = {
                "seed": self.seed,
                "fold": self.fold,
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
            self.say(
                ", ".join(f"{key} {value:.3f}" for key, value in row.items() if isinstance(value, float))
                + f" at {site}"
            )
            rows.append(row)
        return rows

    def say(self, what: str) -> None:
        """Tell who waits how far it is: a seed takes half an hour."""
        Console(stderr=True).log(f"seed {self.seed}: {what}")

    def retrained(
        self, sites: Sequence[str], base: Weights, overrides: Sequence[str] = (), plain: bool = False
    ) -> Trained:
        """Rounds over these hospitals.

        Args:
            plain: without what was given on the command line.
        """
        return self._retrained(sites, base, (*(() if plain else self._overrides), *overrides))

    def vendor(self) -> Weights:
        """The first version: trained at the first hospital."""
        return self.begun(self.cohorts[HOSPITALS[0]]["train"])

    def area(self, weights: Weights, site: str) -> float:
        """The area under the curve at one hospital."""
        return federation.performance(self.facts, weights, self.cohorts[site][self.fold], self.threads)

    def begun(self, cases: Cases) -> Weights:
        """A first version, trained in one place."""
        made_from = (self.facts, self._first, cases, self.seed, self.threads)
        return self._shelf.given(made_from, lambda: Trained(federation.first(*made_from))).weights

    def _retrained(self, sites: Sequence[str], base: Weights, overrides: Sequence[str] = ()) -> Trained:
        train = {site: self.cohorts[site]["train"] for site in sites}
        return self.retrained_on(train, base, overrides)

    def retrained_on(
        self,
        train: dict[str, Cases],
        base: Weights,
        overrides: Sequence[str] = (),
        attacks: Mapping[str, Attack] | None = None,
    ) -> Trained:
        """Rounds over hospitals with these cases, some of which may harm."""
        plan = federation.plan(tuple(train), (*self._short, *overrides), self.seed)
        lessons = self._lessons(base, train, plan.hyper)
        return self._carried_out(plan, base, lessons, attacks)

    def _pooled(self, everywhere: Cases) -> Weights:
        base = self.begun(everywhere)
        plan = federation.plan(("pooled",), self._short, self.seed)
        hyper = plan.hyper.model_copy(update={"steps": plan.hyper.steps * len(HOSPITALS)})
        lessons = self._lessons(base, {"pooled": everywhere}, hyper)
        plan = plan.model_copy(update={"hyper": hyper})
        return self._carried_out(plan, base, lessons).weights

    def _carried_out(
        self,
        plan: Plan,
        base: Weights,
        lessons: Mapping[str, Lesson],
        attacks: Mapping[str, Attack] | None = None,
    ) -> Trained:
        made_from = (plan, self.facts, base, lessons, attacks, self.threads)
        return self._shelf.given(made_from, lambda: federation.retrain(*made_from))

    def _lessons(self, base: Weights, train: dict[str, Cases], hyper: Hyperparameters) -> dict[str, Lesson]:
        at = federation.threshold(self.facts, base, next(iter(train.values())), self.threads)
        return {
            site: federation.lesson(self.facts, base, at, cases, hyper, self.threads) for site, cases in train.items()
        }

    def _version(self, quick: bool) -> tuple[Facts, Hyperparameters]:
        return federation.facts(("hyper.steps=4",) if quick else ())


def _good(runs: list[Row]) -> list[Claim]:
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


def show(runs: list[Row]) -> None:
    """Print rows."""
    table = Table(*runs[0])
    for row in runs:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
