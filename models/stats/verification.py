"""How good a version is where the truth is known of some exams only, and who was looked at again was no accident.

Exams fall into cells by what the AI and the first reader said. Within a cell those whose truth is known were drawn at
random, so that a cell's share of findings is known from them, and each cell counts for as many exams as it holds. Most
findings that both have missed are in the largest cell, of which the least is looked at again: where fewer than five
were found there, no two-sided interval is worth its name, and an exact bound on one side is given instead.

Source: Begg & Greenes, Biometrics 1983 (verification bias); Clopper & Pearson, Biometrika 1934 (the bound); intervals
are quantiles of the ratio under Jeffreys' posteriors of all shares (Brown, Cai & DasGupta, Statistical Science 2001).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from models.stats.intervals import Floats, proportion

Side = Literal["positive", "negative"]
Basis = Literal["interval", "bound", "insufficient"]
CELLS: Final[tuple[tuple[Side, Side], ...]] = (
    ("positive", "positive"),
    ("positive", "negative"),
    ("negative", "positive"),
    ("negative", "negative"),
)
"""What the AI said, and what the first reader said."""
FEW: Final = 5
_DRAWS: Final = 4000
_TAILS: Final = (0.018, 0.982)  # of the draws; with 0.025, 93 of 100 intervals held the truth where exams were few


@dataclass(frozen=True, slots=True)
class Cell:
    """Exams of which AI and first reader said the same two things.

    Attributes:
        exams: all of them.
        known: whose truth is known.
        positive: of these, how many have the finding.
    """

    exams: int = 0
    known: int = 0
    positive: int = 0

    def __post_init__(self) -> None:
        """Refuse counts that do not fit into each other."""
        if not 0 <= self.positive <= self.known <= self.exams:
            raise ValueError(f"{self.positive} findings of {self.known} known of {self.exams} exams")


Cells = Mapping[tuple[Side, Side], Cell]


@dataclass(frozen=True, slots=True)
class Share:
    """A share with what is known of it.

    Attributes:
        value: the best guess; NaN where there is none.
        low, high: 95 %; of a bound, one of the two is that of nothing known.
        basis: interval; bound: fewer than five errors were found where both said the same, and the value is known to
            one side only; insufficient: a cell that counts has no exam whose truth is known.
        known: exams it rests on.
    """

    value: float
    low: float
    high: float
    basis: Basis
    known: int


def sensitivity(cells: Cells) -> Share:
    """Of those who have the finding, the share that the AI called."""
    return _share(cells, "positive")


def specificity(cells: Cells) -> Share:
    """Of those who do not have the finding, the share that the AI did not call."""
    return _share(_turned(cells), "positive")


def predictive(cells: Cells, side: Side) -> Share:
    """Of those whom the AI called so, the share of whom it is true."""
    own = cells if side == "positive" else _turned(cells)
    chosen = [own.get(("positive", reader), Cell()) for reader in ("positive", "negative")]
    known = sum(cell.known for cell in chosen)
    if not known or any(cell.exams and not cell.known for cell in chosen):
        return Share(np.nan, 0.0, 1.0, "insufficient", known)
    exams, shares = _drawn(chosen)
    found = (exams * shares).sum(0) / exams.sum(0)
    value = sum(cell.exams * _rate(cell) for cell in chosen) / sum(cell.exams for cell in chosen)
    return Share(value, *_between(found, value), "interval", known)


def foreseen(cells: Cells, exams: int, shares: Mapping[tuple[Side, Side], float]) -> dict[tuple[Side, Side], Cell]:
    """The cells of so many exams like these, of which such shares are looked at again; what is not named, all of it.

    Args:
        cells: each with exams whose truth is known.
    """
    whole = sum(cell.exams for cell in cells.values())
    found: dict[tuple[Side, Side], Cell] = {}
    for which, cell in cells.items():
        count = round(exams * cell.exams / whole)
        known = round(count * shares.get(which, 1.0))
        found[which] = Cell(count, known, round(known * _rate(cell)))
    return found


def _share(cells: Cells, side: Side) -> Share:
    """Sensitivity; specificity is that of the turned table."""
    every = [cells.get(which, Cell()) for which in CELLS]
    known = sum(cell.known for cell in every)
    alike = every[3]
    if not known or any(cell.exams and not cell.known for cell in every):
        return Share(np.nan, 0.0, 1.0, "insufficient", known)
    exams, shares = _drawn(every)
    findings = [cell.exams * _rate(cell) for cell in every]
    called, missed = findings[0] + findings[1], findings[2] + findings[3]
    if not called + missed:
        return Share(np.nan, 0.0, 1.0, "insufficient", known)
    value = called / (called + missed)
    if alike.known < alike.exams and alike.positive < FEW:
        most = proportion(alike.positive, alike.known, 0.95).high  # one-sided at 97.5 %, half of what may go wrong
        at_most = exams[3] * most
        found = (exams[:2] * shares[:2]).sum(0) / ((exams[:3] * shares[:3]).sum(0) + at_most)
        return Share(value, min(float(np.quantile(found, 0.025)), value), 1.0, "bound", known)
    found = (exams[:2] * shares[:2]).sum(0) / (exams * shares).sum(0)
    return Share(value, *_between(found, value), "interval", known)


def _drawn(cells: list[Cell]) -> tuple[Floats, Floats]:
    """(cells, draws) how many exams there might have been of each cell, and which share has the finding."""
    draw = np.random.default_rng(0)
    counts = np.array([cell.exams for cell in cells])
    exams = draw.gamma(np.maximum(counts, 1e-9)[:, None], 1.0, (len(cells), _DRAWS))
    rates = (
        np.stack([draw.beta(cell.positive + 0.5, cell.known - cell.positive + 0.5, _DRAWS) for cell in cells])
        * (counts > 0)[:, None]
    )
    return exams, rates


def _between(found: Floats, value: float) -> tuple[float, float]:
    low, high = np.quantile(found, _TAILS)
    return min(float(low), value), max(float(high), value)


def _rate(cell: Cell) -> float:
    return cell.positive / cell.known if cell.known else 0.0


def _turned(cells: Cells) -> Cells:
    """The same with finding and no finding exchanged, of AI, reader and truth."""
    other: dict[Side, Side] = {"positive": "negative", "negative": "positive"}
    return {
        (other[ai], other[reader]): Cell(cell.exams, cell.known, cell.known - cell.positive)
        for (ai, reader), cell in cells.items()
    }
