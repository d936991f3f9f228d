"""A later result takes an earlier one's place only where it has read all that the earlier one was made from."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from client.dicom.person import Person
from client.inference.succession import Reach, covers

UIDS = st.none() | st.frozensets(st.sampled_from(["2.25.1", "2.25.2", "2.25.3"]), min_size=1)
REACHES = st.builds(
    Reach,
    name=st.sampled_from(["chest", "hand"]),
    finding=st.sampled_from([None, ("SCT", "1"), ("SCT", "2")]),
    person=st.sampled_from([Person(), Person("ONE"), Person("TWO")]),
    read=UIDS,
    partial=st.booleans(),
)


@given(later=REACHES, earlier=REACHES)
def test_nothing_that_was_read_before_is_lost(later: Reach, earlier: Reach) -> None:
    taken = covers(later, earlier)
    assert not (taken and {later.person.patient_id, earlier.person.patient_id} == {"ONE", "TWO"})
    assert not (taken and later.name != earlier.name and later.finding != earlier.finding)
    if later.read is not None and earlier.read is not None:
        assert not (taken and earlier.read - later.read)
    elif later.partial:
        assert not taken  # nobody knows what it has left out


@given(one=REACHES, read=UIDS)
def test_the_same_model_takes_its_own_place_once_it_has_read_as_much(one: Reach, read: frozenset[str] | None) -> None:
    more = replace(one, read=one.read | (read or frozenset()) if one.read else None)
    assert covers(more, one) == (one.read is not None or not one.partial)
