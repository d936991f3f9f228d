"""What a retraining corrects and what it spoils, at equal steps: errors drawn more often, and all cases alike.

The served version is what the default retraining of `scripts/bench accuracy` made. Since then each hospital has found
the truth of cases that nobody trained on (those of the gate's fold): four rounds are learned from these and from the
ones before, in three ways.

- uniform: every case is drawn as often as any other (`hyper.error_weight=1`).
- default: as `vigie retrain launch` does it; cases that the served version had wrong are drawn more often.
- penalised: the default, held to what the served version had right (`hyper.flip_penalty=1`).

Then served version and new one read patients of whom neither has learned, each at the threshold that the hospital sets
on its training patients. Corrected: the served version erred, the new one does not. Spoiled: the other way about, a
negative flip. With `--fold gate` and `--quick` the rounds learn from the training patients alone.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from models.stats.intervals import Bools
from scripts.benchmarks import federation
from scripts.benchmarks.accuracy import Study, add_options, of_each_seed, show
from scripts.benchmarks.federation import HOSPITALS, Cases, Weights
from scripts.benchmarks.report import Report, at_most

_WAYS = {"uniform": ("hyper.error_weight=1",), "default": (), "penalised": ("hyper.flip_penalty=1",)}
_LENGTH = ("rounds=4",)
_SHORT = ("rounds=1", "hyper.steps=2")


def run(arguments: Sequence[str]) -> Report:
    """Retrain in each way, print what was corrected and spoiled.

    Raises:
        ConfigurationError: the radiographs are not there.
    """
    parser = argparse.ArgumentParser(
        prog="scripts/bench corrections", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    options = parser.parse_args(arguments)
    runs = of_each_seed(options, partial(_corrected, quick=options.quick))
    show(runs)

    def total(way: str, what: str) -> int:
        return sum(row[what] for row in runs if row["way"] == way)

    return Report(
        {"corrections": runs},
        [
            at_most("errors left, default / uniform", total("default", "errors") / total("uniform", "errors"), 1.0),
            at_most(
                "spoiled for each that is corrected, default",
                total("default", "spoiled") / max(total("default", "corrected"), 1),
                1.0,
            ),
            at_most(
                "spoiled, penalised / default", total("penalised", "spoiled") / max(total("default", "spoiled"), 1), 1.0
            ),
        ],
    )


def _corrected(study: Study, quick: bool) -> list[dict[str, Any]]:
    served = study.retrained(HOSPITALS, study.vendor()).weights
    known = {site: _known(study, site) for site in HOSPITALS}
    before = {site: _wrong(study, served, known[site], site) for site in HOSPITALS}
    rows: list[dict[str, Any]] = []
    for way, settings in _WAYS.items():
        found = _retrained(study, served, known, (*(_SHORT if quick else _LENGTH), *settings))
        for site in HOSPITALS:
            after = _wrong(study, found, known[site], site)
            rows.append(
                {
                    "seed": study.seed,
                    "fold": study.fold,
                    "way": way,
                    "hospital": site,
                    "patients read": len(after),
                    "errors before": int(before[site].sum()),
                    "errors": int(after.sum()),
                    "corrected": int((before[site] & ~after).sum()),
                    "spoiled": int((after & ~before[site]).sum()),
                    "area": study.area(found, site),
                }
            )
        study.say(f"{way}: {sum(row['errors'] for row in rows[-len(HOSPITALS) :])} errors")
    return rows


def _retrained(study: Study, served: Weights, known: dict[str, Cases], overrides: Sequence[str]) -> Weights:
    plan = federation.plan(HOSPITALS, overrides, study.seed)
    lessons = {
        site: federation.lesson(
            study.facts,
            served,
            federation.threshold(study.facts, served, cases, study.threads),
            cases,
            plan.hyper,
            study.threads,
        )
        for site, cases in known.items()
    }
    return federation.retrain(plan, study.facts, served, lessons, threads=study.threads).weights


def _known(study: Study, site: str) -> Cases:
    cohort = study.cohorts[site]
    return cohort["train"] if study.fold == "gate" else federation.together([cohort["train"], cohort["gate"]])


def _wrong(study: Study, weights: Weights, known: Cases, site: str) -> Bools:
    """(N,) where a version errs on the hospital's patients that it has not learned from."""
    at = federation.threshold(study.facts, weights, known, study.threads)
    read = study.cohorts[site][study.fold]
    said = federation.read_with(study.facts, weights, read.images, study.threads)
    return np.asarray((said >= at) != read.positive)
