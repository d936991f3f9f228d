"""The part of `vigilance` about a version that comes to patients unlike those that it was trained on.

A version is trained on guangzhou's training patients alone, children, and says so in its cohort. It then reads all of
nih's and shenzhen's radiographs, adults, at the threshold that guangzhou set, and every truth becomes known: how many
exams until the harm alarm rings, and what it says of the cause. The ages are those of the demonstration's headers,
since the public sets do not come with any; guangzhou's own test patients are there to see that it stays silent where
it should.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from client.vigilance import harm
from client.vigilance.causes import Cause
from client.vigilance.exams import Exam
from client.vigilance.explained import unlike
from configs.schema import WatchConfig
from models.cohort import Cohort
from models.stats.detector import YEAR, follow, staked
from scripts.benchmarks import federation
from scripts.benchmarks.report import Claim, at_least

_A_YEAR: Final = 2000
_TRAINED_AT: Final = "guangzhou"
_STRATA: Final = {"guangzhou": "O|child|example", "nih": "O|40-64|sample", "shenzhen": "O|18-39|model"}
_COHORT: Final = {
    "ages": {"child": 1.0}
}  # of the maker it says nothing: a cohort that names one would explain too much


def run(data: Path, seed: int, threads: int) -> tuple[dict[str, Any], list[Claim]]:
    """Train, watch, print the table."""
    rows, pixels = federation.images(data)
    cohorts = federation.cohorts(rows, pixels, seed)
    facts, hyper = federation.facts()
    training = cohorts[_TRAINED_AT]["train"]
    weights = federation.first(facts, hyper, training, seed, threads)
    cut = federation.threshold(facts, weights, training, threads)
    cohort = Cohort(patients=len(training.positive), **_COHORT)
    found: list[dict[str, Any]] = []
    for site in federation.HOSPITALS:
        folds = ("test",) if site == _TRAINED_AT else ("train", "gate", "test")
        cases = federation.together([cohorts[site][fold] for fold in folds])
        order = np.random.default_rng(seed).permutation(len(cases.positive))
        called = federation.read_with(facts, weights, cases.images[order], threads) >= cut
        alarm = _alarm(called.tolist(), cases.positive[order].tolist())
        said = unlike(cohort, {_STRATA[site]: len(order)})
        wrong = float((called != cases.positive[order]).mean())
        found.append(
            {
                "hospital": site,
                "exams": len(order),
                "wrong": wrong,
                "alarm": alarm,
                "cause": str(said.cause),
                "because": said.because,
            }
        )
    _show(found)
    elsewhere = [row for row in found if row["hospital"] != _TRAINED_AT]
    rung = float(np.mean([row["alarm"] is not None for row in elsewhere]))
    named = float(np.mean([row["cause"] == Cause.POPULATION and "age" in row["because"] for row in elsewhere]))
    silent = float(np.mean([row["alarm"] is None for row in found if row["hospital"] == _TRAINED_AT]))
    return {"transfer": found}, [
        at_least("guangzhou's version elsewhere: hospitals where the alarm rings, share", rung, 1.0),
        at_least("hospitals where it names the population, share", named, 1.0),
        at_least("guangzhou's version at home: silent", silent, 1.0),
    ]


def _alarm(called: Sequence[bool], truth: Sequence[bool]) -> int | None:
    """Exams until the alarm, as a hospital has it whose gate has accepted nothing worse than its settings say."""
    settings = WatchConfig()
    limits = harm.tolerated(settings, None, 0.0)
    exams = [Exam("", "", 0.0, one, other) for one, other in zip(called, truth, strict=True)]
    due = staked((np.arange(len(exams)) + 1) * YEAR / _A_YEAR, 0.0, settings.false_alarms)
    alarm = follow(limits, list(harm.bets(limits).values()), harm.values(list(limits), exams), due).alarm
    return None if alarm is None else alarm + 1


def _show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table("guangzhou's version at", "exams", "wrong", "alarm after", "likely cause", "because")
    for row in rows:
        alarm = "no alarm" if row["alarm"] is None else str(row["alarm"])
        table.add_row(row["hospital"], str(row["exams"]), f"{row['wrong']:.0%}", alarm, row["cause"], row["because"])
    Console().print(table)
