"""The private parts of pynetdicom that `client/arrival/reception.py` takes over from are as they were."""

import inspect

from pynetdicom import acse, association, dul, fsm


def test_the_reactor_ends_between_its_acceptance_and_the_next_read() -> None:
    """Else its thread would take the first bytes of the first image."""
    body = inspect.getsource(dul.DULServiceProvider.run_reactor)

    assert body.index("if self._kill_thread:") < body.index("self._is_transport_event()")
    assert fsm.TRANSITION_TABLE["Evt7", "Sta3"] == "AE-7"
    action = inspect.getsource(fsm.StateMachine.do_action)
    assert action.index("action[1](self.dul)") < action.index("evt.EVT_FSM_TRANSITION")
    assert all(f'"{name}"' in action for name in ("action", "current_state", "next_state"))
    assert fsm.TRANSITION_TABLE["Evt10", "Sta3"] == "AA-8"
    assert "receive_pdu(wait=True" in inspect.getsource(association.Association.run_reactor)


def test_established_is_told_before_the_association_reads_and_a_killed_one_reads_nothing() -> None:
    accepting = inspect.getsource(acse.ACSE._negotiate_as_acceptor)
    running = inspect.getsource(association.Association.run_reactor)

    assert accepting.index("self.send_accept()") < accepting.index("evt.EVT_ESTABLISHED")
    assert running.index("self.acse.negotiate_association()") < running.index("if self.is_established:")
    assert "self.is_established = False" in inspect.getsource(association.Association.kill)


def test_the_names_are_there() -> None:
    assert callable(association.Association._serve_request)
    assert callable(dul.DULServiceProvider._process_recv_primitive)
    assert "self._recv_pdu:" in inspect.getsource(dul.DULServiceProvider.__init__)
    assert "self._accepted_cx" in inspect.getsource(association.Association.__init__)
    for event, state in (
        ("Evt12", "Sta6"),
        ("Evt16", "Sta6"),
        ("Evt17", "Sta6"),
        ("Evt19", "Sta6"),
        ("Evt17", "Sta13"),
    ):
        assert (event, state) in fsm.TRANSITION_TABLE
