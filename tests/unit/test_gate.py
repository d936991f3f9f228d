"""The adoption gate on versions whose worth is known: the worse are kept out, however often it looks."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.cohort import Cohort, differences
from models.fairness import changes, worse
from models.gate import Case, GateReason, GateVerdict, Look, Margins, adoption
from models.stats.betting import bet
from models.stats.calibration import brier, brier_change
from models.stats.intervals import proportion
from models.stats.spending import limits, spent
from models.subgroups import FEWEST, Change, told
from scripts.benchmarks.gate import Planted, adopted

RUNS = 500
FIVE = (0.2, 0.4, 0.6, 0.8, 1.0)


@pytest.mark.parametrize(
    "planted",
    [
        Planted(200, 0.5, gained=0.05),
        # few changed answers, alike within a patient: what was measured of their likeness alone let 1 in 6 through
        Planted(80, 0.5, images=3.0, alike=1.0, gained=0.0),
        Planted(300, 0.5, gained=0.05, looks=FIVE, spending="obrien-fleming"),
        Planted(300, 0.5, gained=0.05, looks=FIVE, spending="pocock"),
    ],
)
def test_what_is_worse_by_the_margin_is_adopted_in_three_of_a_hundred_runs_at_most(planted: Planted) -> None:
    # not refuted by so few runs; `scripts/bench gate` has enough of them to say it outright
    assert proportion(adopted(planted, RUNS, seed=11), RUNS, 0.99).low <= 0.03


def test_what_is_much_worse_is_never_adopted_and_what_is_better_mostly() -> None:
    assert adopted(Planted(300, 0.5, worse=0.2, looks=FIVE, spending="pocock"), 200, seed=3) == 0
    assert adopted(Planted(300, 0.5, worse=-0.05, gained=0.07), 100, seed=3) >= 80


def test_limits_of_several_looks_are_those_of_the_literature() -> None:
    # Lan & DeMets, five equal looks, one-sided 0.025 (as computed by the ldbounds program)
    assert limits(FIVE, FIVE, 0.025, "obrien-fleming") == pytest.approx(
        (4.8769, 3.3569, 2.6803, 2.2898, 2.0310), abs=5e-3
    )
    assert limits(FIVE, FIVE, 0.025, "pocock") == pytest.approx((2.4380, 2.4268, 2.4101, 2.3966, 2.3859), abs=5e-3)
    with pytest.raises(ValueError, match="more information"):
        limits((0.5, 0.5), (0.5, 0.6), 0.025, "pocock")


@given(
    st.lists(st.floats(0.05, 1.0), min_size=1, max_size=4, unique=True).map(sorted),
    st.sampled_from(["obrien-fleming", "pocock"]),
)
def test_looks_never_spend_more_than_there_is(fractions: list[float], spending: str) -> None:
    whole = [*(share for share in fractions if share < 0.95), 1.0]
    spends = [spent(share, 0.025, spending) for share in whole]  # type: ignore[arg-type]
    assert spends == sorted(spends)
    assert spends[-1] == 0.025
    assert limits([1.0], [1.0], 0.025, spending) == pytest.approx((1.95996,), abs=1e-3)  # type: ignore[arg-type]


def _cases(n: int, old: float, new: float, positive: bool, first: float | None = None) -> list[Case]:
    """`n` patients of one class with the given shares right."""
    return [
        Case(
            f"{positive}{i}",
            positive,
            (i < n * old) == positive,
            (i < n * new) == positive,
            None if first is None else (i < n * first) == positive,
        )
        for i in range(n)
    ]


def test_several_looks_wait_for_new_patients_and_end_with_an_answer() -> None:
    margins = Margins(looks="pocock", planned_positives=100, planned_negatives=100)
    equal = _cases(40, 0.9, 0.9, True) + _cases(40, 0.9, 0.9, False)
    first = adoption(equal, margins)
    assert (first.verdict, first.look) == (GateVerdict.SHADOW, Look(40, 40))
    # nobody new: nothing is looked at, and nothing spent
    again = adoption(equal, margins, [Look(40, 40)])
    assert (again.verdict, again.look) == (GateVerdict.SHADOW, None)
    one_more = _cases(41, 0.9, 0.9, True) + _cases(41, 0.9, 0.9, False)
    assert adoption(one_more, margins, [Look(40, 40)]).look is None
    # a setting changed to one look does not give the first one back
    fixed = replace(margins, looks="fixed")
    just = _cases(75, 1.0, 1.0, True) + _cases(75, 1.0, 1.0, False)
    assert adoption(just, fixed).verdict is GateVerdict.ADOPT
    assert adoption(just, fixed, [Look(40, 40)]).verdict is GateVerdict.SHADOW
    last = _cases(100, 0.9, 0.85, True) + _cases(100, 0.9, 0.9, False)
    assert adoption(last, margins, [Look(40, 40)]).verdict is GateVerdict.REFUSE
    # one class is complete long before the other, and still has something left to say in the end
    lopsided = _cases(300, 0.7, 0.9, True) + _cases(100, 0.7, 0.9, False)
    assert adoption(lopsided, margins, [Look(150, 30), Look(220, 60)]).verdict is GateVerdict.ADOPT


def test_many_small_steps_down_end_at_the_first_certified_version() -> None:
    # no worse than the served one, which is itself a long way below the first certified one
    cases = _cases(120, 0.8, 0.8, True, first=0.95) + _cases(120, 0.9, 0.9, False, first=0.9)
    found = adoption(cases, Margins())
    assert (found.verdict, found.reasons) == (GateVerdict.REFUSE, (GateReason.CERTIFIED_INFERIOR,))
    assert adoption([replace(case, first_positive=None) for case in cases], Margins()).verdict is GateVerdict.ADOPT


def test_patients_count_and_not_their_images() -> None:
    cases = [replace(case, patient="one") for case in _cases(100, 0.6, 0.9, True)] + _cases(100, 0.6, 0.9, False)
    assert adoption(cases, Margins()).reasons == (GateReason.TOO_FEW_POSITIVES,)


def test_a_bet_refutes_what_is_false_and_seldom_what_is_true() -> None:
    random = np.random.default_rng(4)
    alarms = sum(bet(0.1, (random.random(400) < 0.1).astype(float).tolist()).refuted(0.05) for _ in range(300))
    assert proportion(alarms, 300, 0.99).low <= 0.05  # at whatever case one stops
    found = [bet(0.1, (random.random(150) < 0.35).astype(float).tolist()).refuted(0.05) for _ in range(50)]
    assert sum(found) >= 45
    with pytest.raises(ValueError, match="between"):
        bet(0.1, [2.0])


@given(st.dictionaries(st.sampled_from(["", "a", "b", "c", "d"]), st.integers(0, 40)))
def test_no_small_group_can_be_had_as_a_difference(sizes: dict[str, int]) -> None:
    shown = told(sizes)
    assert all(sizes[group] >= FEWEST for group in shown)
    hidden = sum(size for group, size in sizes.items() if group not in shown)
    assert not shown or hidden == 0 or hidden >= FEWEST


def test_a_group_for_which_it_got_worse_is_found_at_one_hospital_or_over_all() -> None:
    def hospital(new: float, n: int) -> list[Change]:
        women = [(case, "F|?|x") for case in _cases(n, 0.95, new, True)]
        men = [(replace(case, patient=f"m{case.patient}"), "M|?|x") for case in _cases(n, 0.95, 0.95, True)]
        return changes(women + men, 0.05)

    assert [found[:2] for found in worse([hospital(0.7, 150)], 0.025)] == [("sex-f", "sensitivity")]
    assert not worse([hospital(0.95, 150)], 0.025)
    several = [hospital(0.8, 40) for _ in range(6)]
    assert not worse(several[:1], 0.025)
    assert [found[:2] for found in worse(several, 0.025)] == [("sex-f", "sensitivity")]


def test_a_worse_brier_score_is_told_with_its_error() -> None:
    random = np.random.default_rng(1)
    positive = random.random(400) < 0.4
    good = np.where(positive, 0.8, 0.2)
    change, error = brier_change(good, np.full(400, 0.5), positive, np.arange(400).astype(str))
    assert change == pytest.approx(brier(np.full(400, 0.5), positive) - brier(good, positive))
    assert error < 0.01
    noisy = np.clip(good + random.normal(0, 0.2, 400), 0, 1)
    alone = brier_change(good, noisy, positive, np.arange(400).astype(str))[1]
    together = brier_change(good, noisy, positive, (np.arange(400) // 50).astype(str))[1]
    assert alone == pytest.approx(((noisy - positive) ** 2 - (good - positive) ** 2).std() / 20, rel=0.01)
    assert together != pytest.approx(alone, rel=1e-3)


def test_patients_unlike_the_cohort_are_noticed_and_chance_is_not() -> None:
    cohort = Cohort(
        patients=500, sexes={"F": 0.5, "M": 0.5}, ages={"18-39": 0.3, "40-64": 0.4, "65+": 0.3}, makers={"siemens": 1.0}
    )
    assert differences(cohort, {"F|40-64|siemens": 30, "M|65+|siemens": 25, "M|18-39|siemens": 20}) == ()
    assert differences(cohort, {"F|child|siemens": 60, "M|child|siemens": 60}) == ("age",)
    assert differences(cohort, {"F|40-64|ge": 40, "M|65+|siemens": 40, "F|18-39|ge": 19}) == ("maker",)
    assert differences(cohort, {"F|child|ge": 10}) == ()  # too few to say
    assert differences(Cohort(patients=5), {"F|child|ge": 100}) == ()
