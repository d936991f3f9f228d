"""Noise on counts: distributed as it says, never letting a small count out, reaching as far as is said."""

import math
import random
from collections import Counter
from fractions import Fraction

import pytest

from models.stats.disclosure import LEAST
from models.stats.noise import COUNTS, drawn, noised, reach
from models.stats.release import Column, Line, faults

COLUMN = Column("random", "biopsy", 100, "with")


def chance(seed: int = 1):
    return random.Random(seed).randrange


@pytest.mark.parametrize("scale", [Fraction(1, 2), Fraction(4), Fraction(10, 3)])
def test_noise_is_two_sided_geometric(scale):
    below, count = chance(), 40_000
    found = Counter(drawn(scale, below) for _ in range(count))
    share = math.exp(-1 / scale)
    statistic = 0.0
    for k in range(-8, 9):
        expected = count * (1 - share) / (1 + share) * share ** abs(k)
        if expected >= 10:
            statistic += (found[k] - expected) ** 2 / expected
    assert statistic < 45  # chi-squared with up to 17 cells: one in ten thousand is above


def test_one_patient_more_changes_no_probability_by_more_than_epsilon_says():
    """Exactly, from the distribution: each of the counts that a patient is in shifts by one."""
    epsilon = 1.0
    share = math.exp(-epsilon / COUNTS)
    worst = max(share ** abs(k) / share ** abs(k + 1) for k in range(-50, 50)) ** COUNTS
    assert worst == pytest.approx(math.exp(epsilon))


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
def test_noise_reaches_as_far_as_is_said_in_95_of_100(epsilon):
    below, far = chance(), reach(epsilon)
    sizes = [abs(drawn(Fraction(COUNTS) / Fraction(epsilon).limit_denominator(1000), below)) for _ in range(4000)]
    assert sum(size <= far for size in sizes) >= 0.94 * 4000
    assert far == 0 or sum(size <= far - 1 for size in sizes) < 0.96 * 4000


def test_no_count_gets_under_eleven_by_noise():
    lines = [Line(COLUMN, "all", 60, 12), Line(COLUMN, "sex-f", 30), Line(COLUMN, "sex-m", 30)]
    few = [Line(COLUMN, "all", 22, None, "wrong")]
    for seed in range(200):
        told = noised(lines, 0.2, chance(seed)) + noised(few, 0.2, chance(seed))
        assert faults(told[:3], noised=True) == []
        assert faults(told[3:], noised=True) == []
        assert min(min(line.n, line.wrong or LEAST, line.right or LEAST) for line in told) >= LEAST
