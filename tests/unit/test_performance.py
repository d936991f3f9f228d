"""What figures a vendor is shown: each with the interval it deserves, and the right hospitals set apart."""

import math
import random

import numpy as np
import pytest

from models.stats.intervals import proportion
from models.stats.release import Column, Line, Patient, close, groups_of
from server.performance import WEIGHTED, Figure, added, figures

WITH = Column("random", "biopsy", 100, "with")
NOW = 2e9


def one(found: list[Figure], site: str = "", group: str = "all", stream: str = "random") -> Figure:
    (figure,) = [one for one in found if (one.site, one.group, one.stream) == (site, group, stream)]
    return figure


def test_counts_add_up_over_releases_and_hospitals():
    found = figures(
        {"a": [[Line(WITH, "all", 100, 20)], [Line(WITH, "all", 50, 12)]], "b": [[Line(WITH, "all", 80, 11)]]}
    )
    assert one(found).estimate == proportion(187, 230)
    assert one(found, "a").estimate == proportion(118, 150)
    assert (one(found, "a").n, one(found, "a").basis) == (150, "exact")


def test_tiers_and_streams_are_never_added_up():
    other = Column("routine", "ai_visible", 0, "with")
    found = figures({"a": [[Line(WITH, "all", 100, 20), Line(other, "all", 100, 50)]]})
    assert {(figure.stream, figure.tier, figure.n) for figure in found} == {
        ("random", "biopsy", 100),
        ("routine", "ai_visible", 100),
    }


def test_of_what_is_kept_back_the_interval_holds_the_worst_and_the_best():
    found = one(figures({"a": [[Line(WITH, "all", 200, None, "wrong")]]}))
    assert (found.basis, math.isnan(found.estimate.value)) == ("bounds", True)
    assert found.estimate.low == proportion(190, 200).low
    assert found.estimate.high == 1.0
    lines = [
        Line(WITH, "all", 100, 30),
        Line(WITH, "sex-f", 60, 18),
        Line(WITH, "sex-m", 28),
        Line(WITH, "sex-other", 12),
    ]
    men = one(figures({"a": [lines]}), group="sex-m").estimate  # 12 wrong answers among those 28 and 12
    assert (men.low, men.high) == (proportion(16, 28).low, 1.0)


@pytest.mark.parametrize("seed", range(20))
def test_what_is_said_of_a_group_is_never_wrong(seed):
    draw = random.Random(seed)
    strata = ("F|40-64|siemens", "M|65+|ge", "M|18-39|philips")
    everybody = [Patient(str(n), WITH, groups_of(draw.choice(strata)), draw.random() > 0.12, 0.0) for n in range(400)]
    block = close(everybody, NOW)
    told = [one for one in everybody if one.key in block.patients]
    for (_, group), count in added([block.lines]).items():
        right = sum(one.right for one in told if group == "all" or group in one.groups)
        assert count.least <= right <= count.most
    assert block.lines


def test_second_reads_stand_for_those_they_were_drawn_from():
    """The version finds 90 %; of what both called and of what neither did, few are read again."""

    def column(stream: str, inclusion: int) -> Column:
        return Column(stream, "single_reader", inclusion, "with")  # type: ignore[arg-type]

    hits, draw = 0, np.random.default_rng(1)
    for _ in range(300):
        found, missed = draw.binomial(4000, 0.9), 400
        missed = 4000 - found
        differ = draw.binomial(found, 0.05), draw.binomial(missed, 0.5)  # seen by one of the two
        both, neither = draw.binomial(found - differ[0], 0.5), draw.binomial(missed - differ[1], 0.15)
        lines = [
            Line(column("discordant", 100), "all", int(sum(differ)), int(differ[1])),
            Line(column("double-positive", 50), "all", int(both)),
            Line(column("double-negative", 15), "all", int(neither)),
        ]
        estimate = one(figures({"a": [lines]}), stream=WEIGHTED).estimate
        hits += estimate.low <= 0.9 <= estimate.high
    assert hits >= 0.93 * 300
    few = figures({"a": [lines[:2]]})
    assert one(few, stream=WEIGHTED).basis == "insufficient"


def test_a_hospital_that_differs_stands_outside_the_funnel_and_chance_does_not():
    draw = np.random.default_rng(2)
    sites = {f"s{n:02}": [[Line(WITH, "all", 200, int(draw.binomial(200, 0.2)))]] for n in range(40)}
    sites["bad"] = [[Line(WITH, "all", 200, 90)]]
    found = figures(sites)
    assert one(found, "bad").standing == "very low"
    outside = [site for site in sites if one(found, site).standing.startswith("very")]
    assert outside == ["bad"]
    assert one(figures({"bad": sites["bad"]}), "bad").standing == ""
