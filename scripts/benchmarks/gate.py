"""How often the adoption gate adopts a version whose worth is known, because it was planted.

Patients are drawn, each with their images, and the answers of two versions; `models.gate.adoption` is the code that a
hospital runs. In the class that is tested the planted version is worse by the margin exactly, or much worse, or good;
in the other class it is so much better that nothing there can stop it, which is the most favourable to a wrong
adoption. Answers within a patient are alike: with the probability `alike` all of a patient's images get the same.
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from models.gate import Case, GateVerdict, Look, Margins, adoption
from models.stats.intervals import proportion
from scripts.benchmarks.report import Claim, Report, at_least, at_most

RUNS: Final = 10_000
_POWER_RUNS: Final = 0.2  # of them are enough to tell a power
_MARGIN: Final = Margins().margin
_MOST_IMAGES: Final = 12
_GOOD: Final = 0.3  # of the other class's images are mended, none broken


@dataclass(frozen=True, slots=True)
class Planted:
    """A version to be judged, and the hospital that judges it.

    Attributes:
        patients: of the sample, when it is complete.
        prevalence: share of patients with the finding.
        images: of a patient, on average; their numbers are geometric.
        alike: how much the answers within a patient are.
        worse: share of right answers lost, less those gained, in the tested class.
        gained: share of images that the planted version mends in the tested class.
        tested: the class in which it is so.
        looks: shares of the patients at which the gate looks.
        spending: how several looks share the error rate; None: one fixed look.
    """

    patients: int
    prevalence: float
    images: float = 1.0
    alike: float = 0.0
    worse: float = _MARGIN
    gained: float = 0.02
    tested: Literal["positive", "negative"] = "positive"
    looks: tuple[float, ...] = (1.0,)
    spending: Literal["obrien-fleming", "pocock"] | None = None


_FIVE: Final = (0.2, 0.4, 0.6, 0.8, 1.0)
AT_THE_MARGIN: Final = (
    Planted(100, 0.5, gained=0.05),
    Planted(150, 0.2, gained=0.1),
    Planted(400, 0.05, gained=0.15),
    Planted(200, 0.5),
    Planted(200, 0.5, gained=0.0),
    Planted(200, 0.5, tested="negative"),
    Planted(800, 0.1, tested="negative", gained=0.05),
    Planted(800, 0.5, gained=0.1),
    Planted(80, 0.5, images=3.0, alike=0.7, gained=0.0),
    Planted(80, 0.5, images=3.0, alike=1.0, gained=0.0),
    Planted(160, 0.5, images=1.5, alike=0.7, gained=0.0),
    Planted(160, 0.5, images=3.0, alike=0.7, gained=0.0),
    Planted(300, 0.5, images=3.0, alike=0.7, gained=0.0),
    Planted(300, 0.5, images=3.0, alike=1.0, gained=0.03),
    Planted(300, 0.3, images=1.5, alike=1.0, gained=0.05),
    Planted(300, 0.5, images=1.5, alike=0.3, gained=0.1),
    Planted(300, 0.5, gained=0.05, looks=_FIVE, spending="obrien-fleming"),
    Planted(300, 0.5, gained=0.05, looks=_FIVE, spending="pocock"),
    Planted(500, 0.3, images=1.5, alike=0.7, gained=0.03, looks=_FIVE, spending="obrien-fleming"),
    Planted(500, 0.3, images=1.5, alike=0.7, gained=0.03, looks=_FIVE, spending="pocock"),
)
GROSSLY_BAD: Final = (
    Planted(100, 0.5, worse=0.25),
    Planted(400, 0.05, worse=0.35),
    Planted(300, 0.5, images=3.0, alike=1.0, worse=0.2),
    Planted(300, 0.5, worse=0.2, looks=_FIVE, spending="obrien-fleming"),
    Planted(300, 0.5, worse=0.25, looks=_FIVE, spending="pocock"),
)
GOOD: Final = tuple(
    Planted(patients, 0.5, images=images, alike=0.7 if images > 1 else 0.0, worse=worse, gained=0.02 - min(worse, 0.0))
    for patients in (100, 200, 400, 800)
    for images in (1.0, 2.0)
    for worse in (0.0, -0.05)
) + tuple(Planted(400, 0.5, worse=0.0, looks=_FIVE, spending=spending) for spending in ("obrien-fleming", "pocock"))


def run(arguments: Sequence[str]) -> Report:
    """Judge every planted version as often as asked, and hold the adoptions against the targets."""
    parser = argparse.ArgumentParser(prog="scripts/bench gate", description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, help="of each planted version")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    few = max(round(options.runs * _POWER_RUNS), 1)
    found = {
        name: [_row(planted, runs, options.seed + number) for number, planted in enumerate(several)]
        for name, several, runs in (
            ("at the margin", AT_THE_MARGIN, options.runs),
            ("grossly bad", GROSSLY_BAD, options.runs),
            ("good", GOOD, few),
        )
    }
    _show(found)
    return Report(found, _claims(found))


def adopted(planted: Planted, runs: int, seed: int) -> int:
    """How often of `runs` a planted version is adopted."""
    random = np.random.default_rng(seed)
    margins = _margins(planted)
    return sum(_judged(planted, margins, random) is GateVerdict.ADOPT for _ in range(runs))


def _judged(planted: Planted, margins: Margins, random: np.random.Generator) -> GateVerdict:
    """One hospital, from its first look to its last."""
    cases, of = _sample(planted, random)
    looks: list[Look] = []
    for share in planted.looks:
        seen = cases[: int(np.searchsorted(of, share * planted.patients))]
        result = adoption(seen, margins, looks)
        if result.verdict is not GateVerdict.SHADOW:
            return result.verdict
        if result.look is not None:
            looks.append(result.look)
    return GateVerdict.SHADOW


def _margins(planted: Planted) -> Margins:
    positives = round(planted.patients * planted.prevalence)
    return Margins(
        looks=planted.spending or "fixed",
        planned_positives=positives,
        planned_negatives=planted.patients - positives,
    )


def _sample(planted: Planted, random: np.random.Generator) -> tuple[list[Case], NDArray[np.intp]]:
    """The cases in the order in which their patients come, and the patients' numbers."""
    # so many of each class at every look: how many there are is not what is tested
    order = np.arange(planted.patients)
    positive = np.floor((order + 1) * planted.prevalence + 1e-9) > np.floor(order * planted.prevalence + 1e-9)
    sizes = np.minimum(random.geometric(1 / planted.images, planted.patients), _MOST_IMAGES)
    same = random.random((planted.patients, 1)) < planted.alike
    drawn = np.where(same, random.random((planted.patients, 1)), random.random((planted.patients, int(sizes.max()))))[
        np.arange(sizes.max()) < sizes[:, None]
    ]
    of = np.repeat(order, sizes)
    tested = positive[of] == (planted.tested == "positive")
    lost = np.where(tested, planted.gained + planted.worse, 0.0)
    gained = np.where(tested, planted.gained, _GOOD)
    old_right, new_right = (drawn < lost) | (drawn >= lost + gained), drawn >= lost
    columns = (of.tolist(), positive[of].tolist(), old_right.tolist(), new_right.tolist())
    return [_case(*one) for one in zip(*columns, strict=True)], of


@lru_cache(maxsize=8192)
def _case(patient: int, positive: bool, old_right: bool, new_right: bool) -> Case:
    return Case(str(patient), positive, positive == old_right, positive == new_right)


def _row(planted: Planted, runs: int, seed: int) -> dict[str, Any]:
    count = adopted(planted, runs, seed)
    share = proportion(count, runs)
    told = {"runs": runs, "adopted": count, "share": share.value, "low": share.low, "high": share.high}
    return asdict(planted) | told


def _claims(found: dict[str, list[dict[str, Any]]]) -> list[Claim]:
    once = [row["share"] for row in found["at the margin"] if row["spending"] is None]
    often = [row["share"] for row in found["at the margin"] if row["spending"] is not None]
    good = {
        (row["patients"], row["images"], row["worse"]): row["share"] for row in found["good"] if row["spending"] is None
    }
    return [
        at_most("worse by exactly the margin, one look: share adopted, worst of the hospitals", max(once), 0.03),
        at_most("worse by exactly the margin, several looks: share adopted, worst", max(often), 0.03),
        at_most("grossly bad: adopted", sum(row["adopted"] for row in found["grossly bad"]), 0),
        at_least("as good, 800 patients, half of them positive: share adopted", good[800, 1.0, 0.0], 0.9),
        at_least("better by 0.05, 400 patients: share adopted", good[400, 1.0, -0.05], 0.9),
    ]


def _show(found: dict[str, list[dict[str, Any]]]) -> None:
    for name, rows in found.items():
        table = Table("patients", "worse", "gained", "looks", "adopted", "95 %", title=name)
        for row in rows:
            looks = f"{len(row['looks'])} {row['spending']}" if row["spending"] else "1"
            who = f"{row['patients']}, {row['prevalence']:.0%} {row['tested'][:3]}"
            if row["images"] > 1:
                who += f", {row['images']:g} images, {row['alike']:.0%} alike"
            worse, gained = f"{row['worse']:g}", f"{row['gained']:g}"
            table.add_row(who, worse, gained, looks, f"{row['share']:.2%}", f"{row['low']:.2%}-{row['high']:.2%}")
        Console().print(table)
