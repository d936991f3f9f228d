"""An alarm for a rate that has become higher than is tolerated, valid however long one watches: an e-detector.

Each exam is a bet against "on average this is tolerated". Nobody knows when a change comes nor how large it
is, so bets begin at every exam and at several stakes, and what all of them together have won is the evidence. What may
be staked falls due with the clock: so much a year, over all bets. As long as the claims hold, the evidence is on
average never more than what has been staked, and so an alarm at 1 is false at most that often a year, however many
exams come and however often somebody looks.

An exam whose truth is not known yet counts as one without an error. That takes evidence away and never adds any, so the
bound holds whatever comes late, and an error counts on the day it is known. Where exams were chosen with unequal
probabilities, an error counts for as many exams as it stands for.

Source: Shin, Ramdas & Rinaldo, E-detectors: a nonparametric framework for sequential change detection, NEJSDS 2024
(Shiryaev-Roberts e-detectors and their mixtures); Waudby-Smith & Ramdas, JRSS B 2024 (bets on bounded means). Stakes
that fall due with time in place of one an exam: the same proof, E[M_n] <= sum of the stakes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from models.stats.intervals import Floats

YEAR: Final = 365.25 * 86400.0
_ODDS: Final = (1.4, 1.8, 2.5, 4.0)  # by which the rate's odds may have risen; what is larger is found soon in any case
_ENOUGH: Final = 1e9  # far beyond an alarm; what is more is not kept, so that no number grows too large


@dataclass(frozen=True, slots=True)
class Bet:
    """Against the claim that some rates are tolerable.

    Attributes:
        rates: names; where there are several, the bet is that all of them have risen.
        share: of what may be staked; all bets' shares add up to 1 at most.
    """

    rates: tuple[str, ...]
    share: float


@dataclass(frozen=True, slots=True)
class Course:
    """The evidence after each exam.

    Attributes:
        evidence: (N, bets) of each bet, in their order; an alarm is where their sum reaches 1.
        alarm: number of the first exam at which it does; None: nowhere.
    """

    evidence: Floats
    alarm: int | None

    @property
    def highest(self) -> float:
        """The most that there has been of all bets together; 0 before the first exam."""
        return float(self.evidence.sum(1).max(initial=0.0))


def follow(tolerated: Mapping[str, float], bets: Sequence[Bet], values: Floats, due: Floats) -> Course:
    """Bet on exams in their order.

    Args:
        tolerated: by name, the highest mean of each rate that is no alarm, above 0 and below 1.
        values: (N, rates) in their order: 0 where there was no error or it is not known yet, the inverse of the exam's
            probability of being chosen where there was one, NaN where the rate is not about this exam.
        due: (N,) what may be staked at each exam, over all bets (`staked`).

    Raises:
        ValueError: shapes do not fit, or a number is none of these.
    """
    if values.shape != (len(due), len(tolerated)) or sum(bet.share for bet in bets) > 1 + 1e-9:
        raise ValueError(f"{len(due)} exams and {len(tolerated)} rates, values {values.shape}")
    if not all(0 < most < 1 for most in tolerated.values()):
        raise ValueError(f"tolerated is {dict(tolerated)}: each above 0 and below 1")
    if (due < 0).any() or bool((values < 0).any()):
        raise ValueError("a stake or a value is below 0")
    won = {name: _gains(most, values[:, number]) for number, (name, most) in enumerate(tolerated.items())}
    gains = np.concatenate([np.prod([won[name] for name in bet.rates], axis=0) for bet in bets], axis=1)
    return _course(gains, bets, due)


def follow_blocks(
    tolerated: Mapping[str, float], bets: Sequence[Bet], errors: Floats, exams: Floats, due: Floats
) -> Course:
    """Bet on blocks of exams, of which only the counts are known: the order within a block does not matter.

    Args:
        tolerated: as of `follow`.
        errors: (N, rates) in each block; where it is between two numbers, the smaller one.
        exams: (N, rates) in each block.
        due: (N,) what may be staked at each block, over all bets.

    Raises:
        ValueError: shapes do not fit, or there are more errors than exams.
    """
    if not errors.shape == exams.shape == (len(due), len(tolerated)) or sum(bet.share for bet in bets) > 1 + 1e-9:
        raise ValueError(f"{len(due)} blocks and {len(tolerated)} rates, errors {errors.shape}, exams {exams.shape}")
    if (due < 0).any() or (errors < 0).any() or (errors > exams).any():
        raise ValueError("a stake or a count is below 0, or there are more errors than exams")
    most = np.array(list(tolerated.values()), dtype=np.float64)
    one, none = (np.log([_gains(rate, np.array([value]))[0] for rate in most]) for value in (1.0, 0.0))
    won = errors[:, :, None] * one + (exams - errors)[:, :, None] * none
    place = {name: number for number, name in enumerate(tolerated)}
    gains = [np.exp(sum(won[:, place[name]] for name in bet.rates)) for bet in bets]
    return _course(np.concatenate(gains, axis=1), bets, due)


def staked(at: Floats, since: float, a_year: float) -> Floats:
    """(N,) what falls due from each exam to the next, so that alarms are false `a_year` times a year at most.

    Who watches several versions takes the exams of all in their order, and stakes at each what fell due since the one
    before: whichever version it is of.

    Args:
        at: (N,) when the exams were made, seconds, never falling.
        since: when the watch began, seconds.

    Raises:
        ValueError: exams out of order, or before the watch began.
    """
    elapsed = np.diff(at, prepend=since)
    if (elapsed < 0).any() or a_year <= 0:
        raise ValueError("exams in their order, none before the watch began, and some alarms a year that may be false")
    return elapsed * (a_year / YEAR)


def _course(gains: Floats, bets: Sequence[Bet], due: Floats) -> Course:
    """What all stakes have become after each exam or block, (N, bets x odds) the gains at it."""
    shares = np.repeat([bet.share / len(_ODDS) for bet in bets], len(_ODDS))
    evidence, held = np.empty(gains.shape), np.zeros(len(shares))
    for number in range(len(due)):
        held = np.minimum((held + due[number] * shares) * gains[number], _ENOUGH)
        evidence[number] = held
    summed = evidence.reshape(len(due), len(bets), len(_ODDS)).sum(2)
    reached = np.flatnonzero(summed.sum(1) >= 1)
    return Course(summed, int(reached[0]) if len(reached) else None)


def _gains(tolerated: float, values: Floats) -> Floats:
    """(N, odds) what a unit becomes that was staked on each exam, at what is best staked where the odds have risen so.

    At most all can be lost, and where the rate is as tolerated, nothing is won on average.
    """
    odds = np.asarray(_ODDS) * tolerated / (1 - tolerated)
    stakes = (odds / (1 + odds) - tolerated) / (tolerated * (1 - tolerated))
    return np.nan_to_num(1 + stakes * (values[:, None] - tolerated), nan=1.0)
