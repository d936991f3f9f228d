"""Counts that leave for good: what can be worked out from all of them together, and what they still tell."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from models.stats import release
from models.stats.disclosure import LEAST
from models.stats.release import TABLES, Block, Column, Line, Patient, close, faults

NOW = 1_800_000_000.0
LONG_AGO = NOW - release.LONGEST - 1
COLUMN = Column("random", "biopsy", 100, "with")
STRATA = ("F|40-64|siemens", "F|65+|siemens", "M|40-64|ge", "M|65+|philips", "M|18-39|ge", "O|?|acme")


def patients(draw: random.Random, count: int, wrong: float, column: Column = COLUMN, begin: int = 0) -> list[Patient]:
    shares = [draw.random() ** 2 for _ in STRATA]
    return [
        Patient(
            str(begin + n), column, release.groups_of(draw.choices(STRATA, shares)[0]), draw.random() > wrong, LONG_AGO
        )
        for n in range(count)
    ]


def ranges(lines: Sequence[Line]) -> dict[tuple[str, bool], tuple[float, float]]:
    """What all tables of one column together say of each kept-back count: by linear programming over every way in which
    the patients could be spread over sex x age x scanner x right."""
    told = {line.group: line for line in lines}
    groups = [[g for g in names if g in told] or [None] for names in TABLES.values()]
    cells = [(*place, right) for place in product(*groups) for right in (True, False)]
    rows, values = [], []

    def say(group: str, right: bool | None, value: int) -> None:
        inside = [(group == "all" or group in cell[:3]) and right in (None, cell[3]) for cell in cells]
        rows.append(inside)
        values.append(value)

    for line in lines:
        say(line.group, None, line.n)
        if line.wrong is not None:
            say(line.group, False, line.wrong)
    found = {}
    for line in lines:
        if line.wrong is None:
            for right in (True, False):
                goal = np.array(
                    [(line.group == "all" or line.group in cell[:3]) and cell[3] is right for cell in cells]
                )
                low, high = (
                    linprog(sign * goal, A_eq=np.array(rows, float), b_eq=values, method="highs").fun * sign
                    for sign in (1, -1)
                )
                found[line.group, right] = (low, high)
    return found


@given(st.integers(0, 2**32), st.integers(0, 900), st.floats(0, 1))
def test_nothing_that_is_kept_back_can_be_worked_out_from_all_tables_together(seed, count, wrong):
    block = close(patients(random.Random(seed), count, wrong), NOW)
    assert faults(block.lines) == []
    for (group, right), (low, high) in ranges(block.lines).items():
        assert high - low >= LEAST - 1e-6, (group, right, low, high)


def test_some_groups_keep_their_answers_back_so_that_this_is_worth_asking():
    blocks = [close(patients(random.Random(seed), 300, 0.2), NOW) for seed in range(40)]
    halves = Counter(line.wrong is None for block in blocks for line in block.lines if line.group != "all")
    assert min(halves.values()) > 20


def too_narrow(orders: Callable[[dict[str, int]], Iterable[Sequence[str]]]) -> list[tuple]:
    """What was told of three groups of sixty where a count that is kept back can have been only a few numbers, for
    somebody who runs this very code on each way in which wrong answers could be spread."""
    groups, possible = ("a", "b", "c"), dict[tuple, dict[str, set[int]]]()
    for spread in product(range(46), repeat=3):
        if not LEAST <= sum(spread) <= 45:
            continue
        wrong = dict(zip(groups, spread, strict=True))
        for order in orders(wrong):
            shown = release.shown_of(dict.fromkeys(groups, 60), wrong, order)
            told = (sum(spread), *(wrong[group] if group in shown else None for group in groups))
            seen = possible.setdefault(told, {group: set() for group in groups if group not in shown})
            for group in seen:
                seen[group].add(wrong[group])
    return [told for told, seen in possible.items() if any(len(values) < LEAST for values in seen.values())]


def test_whoever_knows_the_rules_learns_no_more():
    assert too_narrow(permutations) == []


def test_the_smallest_kept_back_first_would_say_how_small_it_is():
    assert too_narrow(lambda wrong: [sorted(wrong, key=wrong.__getitem__)])


def test_the_attack_finds_what_is_kept_back_carelessly():
    whole = Line(COLUMN, "all", 100, 30)
    lines = [whole, Line(COLUMN, "sex-f", 60, 25), Line(COLUMN, "sex-m", 40)]  # 5 wrong among the men
    assert ranges(lines)["sex-m", False] == pytest.approx((5, 5))
    assert "what is kept back can be worked out" in faults(lines)


@given(st.integers(0, 2**32), st.integers(0, 600), st.floats(0, 0.5))
def test_what_is_told_is_true_and_of_those_who_are_said_to_be_counted(seed, count, wrong):
    everybody = patients(random.Random(seed), count, wrong)
    block = close(everybody, NOW)
    counted = [one for one in everybody if one.key in block.patients]
    for line in block.lines:
        own = [one for one in counted if line.group == "all" or line.group in one.groups]
        assert line.n == len(own)
        assert line.wrong in (None, sum(not one.right for one in own))


@given(st.integers(0, 2**32), st.lists(st.integers(0, 300), min_size=2, max_size=6))
def test_releases_one_after_another_have_no_patient_in_common(seed, arrivals):
    draw, waiting, told = random.Random(seed), [], Counter()
    for count in arrivals:
        waiting += patients(draw, count, 0.3, begin=sum(told.values()) + len(waiting))
        block = close(waiting, NOW)
        told.update(block.patients)
        waiting = [one for one in waiting if one.key not in block.patients]
    assert set(told.values()) <= {1}


def test_who_waits_for_a_later_block_does_not_depend_on_what_the_ai_answered():
    draw = random.Random(1)
    everybody = patients(draw, 500, 0.3)
    block = close(everybody, NOW)
    turned = [Patient(one.key, one.column, one.groups, not one.right, one.since) for one in everybody]
    assert 0 < len(block.patients) < 500
    assert close(turned, NOW).patients == block.patients


def test_a_block_waits_until_it_can_be_told_by_group_and_then_for_half_a_year():
    def some(wrong: int, since: float) -> Block:
        groups = release.groups_of(STRATA[0])
        return close([Patient(str(n), COLUMN, groups, n >= wrong, since) for n in range(300)], NOW)

    assert some(43, NOW - 1).lines == ()
    assert some(44, NOW - 1).lines
    assert some(12, NOW - release.PATIENCE).lines[0] == Line(COLUMN, "all", 300, 12)
    assert some(10, NOW - release.PATIENCE).lines == ()
    assert some(10, LONG_AGO).lines[0] == Line(COLUMN, "all", 300, None, "wrong")


@pytest.mark.parametrize(
    "lines",
    [
        [Line(COLUMN, "all", 10)],
        [Line(COLUMN, "all", 49, 20)],
        [Line(COLUMN, "all", 60, 10)],
        [Line(COLUMN, "all", 60, 50)],
        [Line(COLUMN, "all", 60, 0)],
        [Line(COLUMN, "sex-f", 60, 20)],
        [Line(COLUMN, "all", 15, None, "wrong")],
        [Line(COLUMN, "all", 60, 20), Line(COLUMN, "sex-f", 50, 20)],
        [Line(COLUMN, "all", 60, 20), Line(COLUMN, "sex-f", 49), Line(COLUMN, "sex-m", 11, 11)],
        [Line(COLUMN, "all", 60), Line(COLUMN, "sex-f", 40, 20), Line(COLUMN, "sex-m", 20)],
        [Line(COLUMN, "all", 60, 20), Line(COLUMN, "all", 60, 20)],
        [Line(Column("double-negative", "biopsy", 15, "with"), "all", 60, 20)],
    ],
)
def test_what_could_show_a_patient_is_seen_from_what_is_told_alone(lines):
    assert faults(lines)


def test_a_maker_is_one_of_a_closed_list():
    assert release.groups_of("F|65+|siemens") == ("sex-f", "age-65+", "scanner-siemens")
    assert release.groups_of("?|?|drduponts") == ("sex-other", "age-unknown", "scanner-other")
