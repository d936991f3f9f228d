"""When a study is complete: what is waited for, how long at most, and what is learned of its sender."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.arrival.completeness import (
    LONGEST_HOLD_SECONDS,
    Announced,
    Basis,
    Bounds,
    Complete,
    Facts,
    Habit,
    Patience,
    Sender,
    Series,
    Wait,
    judge,
    lacking,
    missing,
)
from scripts.benchmarks.completeness import MODES, replay, summary, timed
from scripts.benchmarks.senders import FIRST, SECOND, studies

BOUNDS = Bounds(quiet=2.0)
XRAY = Sender("XRAY", "DX")
SCANNER = Sender("CT1", "CT")
RADIOGRAPH = Series("DX", 1, 1, 1, 1)
STACK = Series("CT", 100, 100, 1, 100)
STEPS = "ours, PACS counts and MPPS"


def facts(sender: Sender = SCANNER, series: Series = STACK, at: float = 1000.0, **more: Any) -> Facts:
    return Facts(sender=sender, touched_at=at, series=[series], **more)


def wait(patience: Patience, known: Facts) -> float:
    """How long this study has to be quiet, in seconds."""
    decision = patience.look("study", known, known.touched_at, lambda at: at)
    return 0.0 if isinstance(decision, Complete) else decision.until - known.touched_at


def pass_by(patience: Patience, known: Facts, count: int) -> None:
    """So many studies that ended with their first pause."""
    for number in range(count):
        patience.look(f"passed-{number}", known, known.touched_at, lambda at: at)
        patience.close(f"passed-{number}")


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, (Basis.CONTIGUOUS,)),
        ({"series": RADIOGRAPH}, (Basis.SINGLE,)),
        ({"series": Series("CT", 1, 1, 1, 1, frames=300)}, (Basis.SINGLE,)),
        ({"series": Series("CT", 99, 99, 1, 100)}, (Basis.HOLES,)),
        ({"series": Series("CT", 50, 50, 1, 50, stated=100)}, (Basis.HOLES,)),
        ({"series": Series("CT", 60, 60, 101, 160)}, (Basis.QUIET,)),
        ({"series": Series("MR", 60, 30, 1, 30)}, (Basis.QUIET,)),
        ({"series": Series("CT", 60)}, (Basis.QUIET,)),
        ({"sending": True}, (Basis.ASSOCIATION_OPEN,)),
        ({"sending": True, "series": Series("CT", 99, 99, 1, 100)}, (Basis.ASSOCIATION_OPEN, Basis.HOLES)),
        ({"counted": 3}, (Basis.EXPECTED_MISSING, Basis.CONTIGUOUS)),
        ({"counted": 0}, (Basis.CONTIGUOUS,)),
        ({"counted": 0, "from_pacs": True, "sending": True}, (Basis.COUNTED,)),
        ({"required": False}, (Basis.EXPECTED_MISSING, Basis.CONTIGUOUS)),
        ({"announced": Announced(100)}, (Basis.ANNOUNCED,)),
        ({"announced": Announced(100), "counted": 5}, (Basis.EXPECTED_MISSING, Basis.CONTIGUOUS)),
        ({"announced": Announced(101, missing=1)}, (Basis.EXPECTED_MISSING, Basis.CONTIGUOUS)),
        ({"announced": Announced(60, unlisted=40)}, (Basis.CONTIGUOUS,)),
        (
            {"announced": Announced(in_progress=True), "sending": True},
            (Basis.STEP_OPEN, Basis.ASSOCIATION_OPEN),
        ),
    ],
)
def test_what_is_known_of_a_study(known: dict[str, Any], expected: tuple[Basis, ...]) -> None:
    assert judge(facts(**known)) == expected


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ({}, 0),
        ({"announced": Announced(20, missing=14)}, 14),
        ({"counted": 14}, 14),
        ({"announced": Announced(20, missing=14), "counted": 13}, 14),  # two witnesses of the same images
        ({"series": Series("CT", 6, 6, 1, 6, stated=20)}, 14),
        ({"series": Series("CT", 40, 40, 1, 40, stated=20)}, 0),
        ({"series": Series("CT", 6, 6, 1, 6, stated=20), "sending": True}, 14),
        ({"series": Series("DX", 1, 1, 1, 1, stated=2)}, 0),  # a view of several: each stands for itself
        ({"series": Series("CT", 1, 1, 1, 1, stated=300, frames=300)}, 0),
        # whoever lists or counts what there is knows better than what an image states of its acquisition
        ({"series": Series("CT", 6, 6, 1, 6, stated=20), "announced": Announced(6)}, 0),
        ({"series": Series("CT", 6, 6, 1, 6, stated=20), "counted": 0, "from_pacs": True}, 0),
    ],
)
def test_how_many_images_are_known_to_be_missing(known: dict[str, Any], expected: int) -> None:
    assert missing(facts(**known)) == expected


def reconstructed(*instances: int, stated: int, acquisition: int | None = 1) -> list[Series]:
    return [Series("CT", some, some, 1, some, stated=stated, acquisition=acquisition) for some in instances]


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        # the acquisition's images, in several series
        (reconstructed(100, 49, stated=150), 1),
        (reconstructed(100, stated=150), 50),
        (reconstructed(60, 60, stated=100), 40),  # the second may be made of the first; the first is cut by any meaning
        (reconstructed(60, 30, 20, stated=100), 10),  # no more than 90 of these can be the acquisition
        # each series its own
        (reconstructed(100, 100, stated=100), 0),
        # what is of another acquisition, or states another number, makes up for nothing
        (reconstructed(60, stated=100) + reconstructed(40, stated=100, acquisition=2), 100),
        (reconstructed(60, stated=100) + reconstructed(40, stated=40), 40),
        ([*reconstructed(60, stated=100), Series("CT", 40, 40, 1, 40, acquisition=1)], 40),
        # of an unknown acquisition: it may be of either, and not of both
        (reconstructed(60, 70, stated=100, acquisition=None), 30),
        (reconstructed(60, stated=100) + reconstructed(30, stated=100, acquisition=None), 10),
        # no number of images
        (reconstructed(60, stated=0) + reconstructed(60, stated=-5), 0),
        ([], 0),
    ],
)
def test_what_images_state_of_their_acquisition_is_held_against_all_its_series(
    series: list[Series], expected: int
) -> None:
    assert lacking(series) == expected
    (basis,) = judge(Facts(SCANNER, 100.0, series))
    assert basis is (Basis.HOLES if expected else Basis.CONTIGUOUS if series else Basis.SINGLE)


@pytest.mark.parametrize(
    "series",
    [
        reconstructed(100, 50, stated=100),  # thin slices, and thick ones made of them that carry on their number
        reconstructed(100, 50, stated=150),  # all of an acquisition, or two series that are cut
        reconstructed(60, 40, stated=100),
        reconstructed(60, 40, stated=100, acquisition=None),
        reconstructed(100, 50, 30, stated=150),  # and one that was made of these
        reconstructed(60, 40, 100, stated=100),
        reconstructed(40, 15, stated=20),  # it counts something that nobody knows
    ],
)
def test_what_one_meaning_of_a_number_calls_whole_and_another_cut_is_called_neither(series: list[Series]) -> None:
    assert lacking(series) == 0
    assert missing(Facts(SCANNER, 100.0, series)) == 0
    assert judge(Facts(SCANNER, 100.0, series)) == (Basis.UNSURE,)
    patience = Patience(BOUNDS)
    decision = patience.look("study", Facts(SCANNER, 1000.0, series), 1000.0, lambda at: at)
    assert decision == Wait(Basis.UNSURE, 1060.0)  # as long as one that has holes
    # whoever lists or counts what there is knows
    assert judge(Facts(SCANNER, 100.0, series, announced=Announced(150))) == (Basis.ANNOUNCED,)


@given(data=st.data())
def test_no_meaning_of_a_stated_number_makes_a_whole_study_lack_images_nor_a_cut_one_seem_whole(
    data: st.DataObject,
) -> None:
    """A scanner that means the number in one of three ways makes a study, and some images of it do not come."""
    primary = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=3))
    meaning = data.draw(st.sampled_from(["all together", "each for itself", "the thin ones"]))
    if meaning == "each for itself":
        sizes, stated = primary, primary
    else:
        sources = primary if meaning == "all together" else primary[:1]
        made = data.draw(st.lists(st.integers(1, sum(sources)), max_size=3))
        sizes, stated = [*sources, *made], [sum(sources)] * (len(sources) + len(made))
    came = [data.draw(st.integers(1, size)) for size in sizes]
    acquisition = data.draw(st.sampled_from([1, None]))
    whole, cut = (
        [Series("CT", n, n, 1, n, stated=of, acquisition=acquisition) for n, of in zip(some, stated, strict=True)]
        for some in (sizes, came)
    )
    assert lacking(whole) == 0
    assert judge(Facts(SCANNER, 100.0, whole))[0] in (Basis.CONTIGUOUS, Basis.UNSURE)
    assert lacking(cut) <= sum(sizes) - sum(came)
    if came != sizes:
        assert judge(Facts(SCANNER, 100.0, cut))[0] in (Basis.HOLES, Basis.UNSURE)


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    lost=st.lists(st.integers(0, 60), min_size=5, max_size=5),
    whole=st.booleans(),
)
def test_a_whole_study_lacks_nothing_and_one_that_lost_images_says_so_unless_the_rest_adds_up(
    sizes: list[int], lost: list[int], *, whole: bool
) -> None:
    """By whichever reading its scanner wrote the number."""
    left = [size if whole else max(0, size - gone) for size, gone in zip(sizes, lost, strict=False)]
    of_all = [Series("CT", some, stated=sum(sizes), acquisition=1) for some in left if some]
    of_each = [Series("CT", some, stated=max(sizes), acquisition=1) for some in left if some]
    if left == sizes:
        assert lacking(of_all) == 0
        assert lacking([Series("CT", size, stated=size, acquisition=1) for size in sizes]) == 0
    elif of_all:
        assert lacking(of_all) > 0
        if sum(left) < max(sizes):
            assert lacking(of_each) > 0


def test_all_that_was_announced_is_read_at_once_even_while_the_association_is_open() -> None:
    assert wait(Patience(BOUNDS), facts(announced=Announced(100), sending=True)) == 0


def test_a_radiograph_of_an_unknown_sender_waits_as_long_as_the_configuration_says_and_a_stack_longer() -> None:
    assert wait(Patience(BOUNDS), facts(XRAY, RADIOGRAPH)) == pytest.approx(2.0)
    assert wait(Patience(BOUNDS), facts()) == pytest.approx(40.0)
    assert wait(Patience(Bounds(2.0, longest=2.0)), facts()) == pytest.approx(2.0)


def test_a_modality_that_keeps_its_association_open_is_learned() -> None:
    patience = Patience(BOUNDS)
    kept = facts(XRAY, RADIOGRAPH, sending=True)
    waits = []
    for _ in range(25):
        waits.append(wait(patience, kept))
        patience.close("study")
    assert waits[0] == pytest.approx(LONGEST_HOLD_SECONDS + 2)
    assert waits == sorted(waits, reverse=True)
    assert waits[-1] <= 2.0


def test_a_sender_that_was_wrong_is_given_longer_than_its_pause_and_a_prompt_one_less() -> None:
    patience = Patience(BOUNDS)
    pass_by(patience, facts(XRAY, RADIOGRAPH), 20)
    assert wait(patience, facts(XRAY, RADIOGRAPH)) == pytest.approx(0.5)
    patience.refute(XRAY, Basis.SINGLE, 12.0)
    assert 12.0 < wait(patience, facts(XRAY, RADIOGRAPH)) <= 60.0
    assert wait(patience, facts(Sender("OTHER", "DX"), RADIOGRAPH)) == pytest.approx(2.0)


def test_what_comes_later_than_anybody_waits_for_makes_nobody_wait() -> None:
    patience = Patience(BOUNDS)
    pass_by(patience, facts(XRAY, RADIOGRAPH), 20)
    patience.refute(XRAY, Basis.SINGLE, 3600.0)
    assert wait(patience, facts(XRAY, RADIOGRAPH)) == pytest.approx(0.5)


def test_pauses_within_studies_are_learned_without_being_wrong_first() -> None:
    patience = Patience(BOUNDS)
    for number in range(20):
        patience.look(str(number), facts(at=1000.0), 1000.1, lambda at: at)
        patience.look(str(number), facts(at=1025.0), 1025.1, lambda _: 1015.0)
        patience.close(str(number))
    assert 15.0 < wait(patience, facts()) < 40.0


@given(
    habit=st.lists(st.tuples(st.floats(0, 5000), st.booleans()), max_size=600),
    quiet=st.floats(0, 30),
    longest=st.floats(30, 120),
    announced=st.builds(Announced, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.booleans()),
    counted=st.none() | st.integers(0, 9),
    sending=st.booleans(),
    series=st.sampled_from([RADIOGRAPH, STACK, Series("MR", 9, 9, 1, 30)]),
)
def test_no_study_waits_for_ever(
    habit: list[tuple[float, bool]],
    quiet: float,
    longest: float,
    announced: Announced,
    counted: int | None,
    sending: bool,
    series: Series,
) -> None:
    bounds = Bounds(quiet, longest, 600.0)
    learned = Habit()
    for gap, late in habit:
        (learned.refute if late else learned.add)(gap)
    assert len(learned.gaps) == len(Habit().gaps)
    assert learned.seen <= 257
    sender = Sender("ANY", series.modality)
    patience = Patience(bounds, {(sender, basis): learned for basis in Basis})
    known = facts(sender, series, announced=announced, counted=counted, sending=sending)
    held = max(longest, LONGEST_HOLD_SECONDS + quiet if sending else 0, 600.0 if announced.in_progress else 0)
    assert wait(patience, known) <= held + 1e-6
    assert isinstance(patience.look("study", known, 1000.0 + held + 1e-6, lambda at: at), Complete)
    # a clock that was set back
    assert isinstance(patience.look("study", known, 900.0, lambda at: at), Complete)


def test_images_that_were_told_of_and_never_came_stay_visible() -> None:
    patience = Patience(BOUNDS)
    known = facts(announced=Announced(101, missing=1))
    assert wait(patience, known) == pytest.approx(60.0)
    assert patience.look("study", known, 1060.0, lambda at: at) == Complete(Basis.EXPECTED_MISSING)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_200_replayed_studies_are_closed_right_and_soon_where_the_modality_tells(seed: int) -> None:
    """Shuffled, late, duplicated, split over associations; from a start without any habit, as `scripts/bench` does."""
    first = summary(replay(studies(FIRST, 200, seed), MODES[STEPS], BOUNDS))
    assert first["wrong %"] <= 1.0
    assert first["median s"] <= 5.0
    assert summary(timed(studies(FIRST, 200, seed)))["wrong %"] > 2.0
    second = summary(replay(studies(SECOND, 200, seed), MODES[STEPS], BOUNDS))
    assert second["wrong %"] <= 1.0


def test_without_any_message_only_pauses_longer_than_the_limit_are_closed_wrong() -> None:
    found = [
        one for seed in (1, 2, 3) for one in replay(studies(FIRST, 200, seed), MODES["ours, images alone"], BOUNDS)
    ]
    others = summary([one for one in found if one.kind != "MR, series by series"])
    assert others["wrong %"] <= 1.0
    assert others["median s"] <= 5.0
