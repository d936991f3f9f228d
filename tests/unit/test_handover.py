"""What the ClientApp hands the trainer arrives as it was, and is changed by nobody."""

import socket
import threading
from multiprocessing.connection import Connection

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.federation import handover


def pair() -> tuple[Connection, Connection]:
    ours, theirs = socket.socketpair()
    return Connection(ours.detach()), Connection(theirs.detach())


@given(st.lists(st.integers(0, 5000), max_size=5))
def test_it_arrives_as_it_was(sizes):
    ours, theirs = pair()
    sent = ("train", {str(size): np.arange(size, dtype=np.float32) for size in sizes}, None)
    with ours, theirs:
        handover.send(ours, sent)
        work, came, nothing = handover.receive(theirs)
    assert (work, nothing) == ("train", None)
    assert came.keys() == sent[1].keys()
    for name, array in came.items():
        assert np.array_equal(array, sent[1][name])
        assert not array.flags.writeable


def test_several_arrive_in_order_and_one_that_is_large_too():
    ours, theirs = pair()
    large = np.arange(5_000_000)
    with ours, theirs:
        thread = threading.Thread(target=lambda: [handover.send(ours, what) for what in (1, large, 2)])
        thread.start()
        assert handover.receive(theirs) == 1
        assert np.array_equal(handover.receive(theirs), large)
        assert handover.receive(theirs) == 2
        thread.join()


def test_where_the_other_end_is_gone_it_is_said_so():
    ours, theirs = pair()
    theirs.close()
    with ours:
        with pytest.raises(BrokenPipeError):
            handover.send(ours, 1)
        with pytest.raises((EOFError, OSError)):
            handover.receive(ours)
