"""Whose turn it is: emergencies are not held up, and nobody waits for ever."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from client.arrival.priority import rules, stated
from client.arrival.urgency import PASSED, Turns, Urgency, Waiting, most_urgent, understood
from configs.schema import SenderConfig, SiteConfig, UrgencyConfig
from models.errors import ConfigurationError

ALLOWED = {Urgency.EMERGENCY: 6.0, Urgency.URGENT: 20.0, Urgency.ROUTINE: 60.0}
# what comes before each turn; a turn takes a second, so that more than one study a turn is more than the node can do
ARRIVALS = st.lists(st.lists(st.sampled_from(Urgency), max_size=3), min_size=1, max_size=60)


def replay(arrivals: list[list[Urgency]], after: int = 0) -> list[tuple[Waiting | None, list[Waiting]]]:
    """Who was read at each turn, and who else waited then; `after` arrivals emergencies go on for so many turns."""
    turns, waiting, history = Turns(), list[Waiting](), list[tuple[Waiting | None, list[Waiting]]]()
    for now, coming in enumerate(arrivals + [[Urgency.EMERGENCY] * 2] * after):
        for number, urgency in enumerate(coming):
            waiting.append(Waiting(f"{now}-{number}", now + ALLOWED[urgency], urgency is Urgency.EMERGENCY))
        read = turns.next(waiting, now)
        waiting = [one for one in waiting if one is not read]
        history.append((read, [*waiting]))
    return history


@given(ARRIVALS)
def test_an_emergency_is_held_up_by_one_other_study_for_every_so_many_emergencies(
    arrivals: list[list[Urgency]],
) -> None:
    history = replay(arrivals)
    for at, (read, waited) in enumerate(history):
        if read is not None and not read.first and any(one.first for one in waited):
            following = history[at + 1 : at + 1 + PASSED]
            assert all(one is not None and (one.first or not any(it.first for it in left)) for one, left in following)


@given(ARRIVALS)
def test_whoever_is_overdue_is_read_after_a_number_of_turns_that_is_known_then_though_emergencies_never_end(
    arrivals: list[list[Urgency]],
) -> None:
    history = replay(arrivals, after=600)
    read_at = {one.uid: at for at, (one, _) in enumerate(history) if one is not None}
    for at, (read, waited) in enumerate(history[: len(arrivals)]):
        everybody = [*waited, *([read] if read else [])]
        for one in everybody:
            if one.first:
                continue
            overdue_at = max(at, math.ceil(one.due_at))
            there = [other for other in history[overdue_at][1] if not other.first and other.due_at <= one.due_at]
            latest = overdue_at + (len(there) + 1) * (PASSED + 1)
            if latest < len(history):
                assert read_at[one.uid] <= latest


@given(ARRIVALS)
def test_within_a_class_and_across_the_others_the_earliest_deadline_is_first(arrivals: list[list[Urgency]]) -> None:
    for read, waited in replay(arrivals):
        if read is not None:
            assert all(read.due_at <= other.due_at for other in waited if other.first == read.first)


@given(st.integers(0, 500))
def test_after_an_outage_a_fresh_emergency_is_read_at_once_or_next(backlog: int) -> None:
    turns = Turns()
    overdue = [Waiting(f"r{number}", -float(number), first=False) for number in range(backlog)]
    for now in range(10):
        turns.next(overdue, now)
    assert turns.next([*overdue, Waiting("e", 70.0, first=True)], 10.0) == Waiting("e", 70.0, first=True)


def test_an_emergency_that_was_tried_before_holds_up_no_other() -> None:
    tried, fresh = Waiting("tried", 1.0, first=False), Waiting("fresh", 60.0, first=True)
    assert Turns().next([tried, fresh], 2.0) == fresh


def test_nothing_waits() -> None:
    assert Turns().next([], 0.0) is None


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("STAT", Urgency.EMERGENCY),
        (" stat ", Urgency.EMERGENCY),
        ("HIGH", Urgency.URGENT),
        ("MED", Urgency.ROUTINE),
        ("ROUTINE", Urgency.ROUTINE),
        ("LOW", Urgency.ROUTINE),
        ("", None),
        ("Dr Smith said at once", None),
        ("STAT" * 1000, None),
    ],
)
def test_words_of_a_priority(word: str, expected: Urgency | None) -> None:
    assert understood(word) is expected


def image(**keywords: str) -> Dataset:
    made = Dataset()
    for keyword, value in keywords.items():
        setattr(made, keyword, value)
    return made


def test_an_image_says_how_urgent_its_study_is_in_several_places_and_a_lie_counts_as_routine(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = Dataset()
    asked.RequestAttributesSequence = Sequence([image(RequestedProcedurePriority="STAT")])
    assert stated(asked) is Urgency.EMERGENCY
    assert stated(image(StudyPriorityID="LOW", RequestedProcedurePriority="HIGH")) is Urgency.URGENT
    assert stated(image(PatientID="P1")) is None
    assert stated(image(RequestedProcedurePriority="Doe^John")) is Urgency.ROUTINE
    assert "Doe" not in caplog.text
    assert "not understood" in caplog.text


def test_a_sender_can_be_more_urgent_than_its_images_say_and_have_a_time_of_its_own() -> None:
    senders = [SenderConfig("ER", "emergency", 20), SenderConfig("RESEARCH", "routine", 7200)]
    known = rules(SiteConfig(urgency=UrgencyConfig(senders=senders)))
    assert known.of_sender("ER") is Urgency.EMERGENCY
    assert known.of_sender("SOMEBODY") is Urgency.ROUTINE
    assert known.allowed(Urgency.EMERGENCY, "ER") == 20
    assert known.allowed(Urgency.ROUTINE, "RESEARCH") == 7200
    assert known.allowed(Urgency.EMERGENCY, "RESEARCH") == known.allowed(Urgency.EMERGENCY, "SOMEBODY") == 60
    assert most_urgent([]) is Urgency.ROUTINE


def test_settings_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="less"):
        UrgencyConfig(emergency_seconds=700)
    with pytest.raises(ConfigurationError, match="twice"):
        UrgencyConfig(senders=[SenderConfig("ER"), SenderConfig("ER ")])
    with pytest.raises(ConfigurationError, match="emergency, urgent, routine"):
        SenderConfig("ER", "stat")
