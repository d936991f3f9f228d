"""An answer to our own request is taken by nobody else."""

import inspect
import threading
import time

import pytest
from pynetdicom import association

from client.dicom.requestor import Checkpoint


def test_once_cleared_the_thread_is_held_and_not_merely_about_to_go_on():
    """The thread takes whatever it finds once it is past the checkpoint; what is put down after `clear` stays."""
    checkpoint = Checkpoint()
    checkpoint.set()
    answers: list[int] = []
    stolen: list[int] = []
    stop = threading.Event()

    def reactor() -> None:
        while not stop.is_set():
            checkpoint.wait()
            time.sleep(0.0005)  # here pynetdicom's thread may be preempted
            if answers:
                stolen.append(answers.pop())

    thread = threading.Thread(target=reactor, daemon=True)
    thread.start()
    try:
        for number in range(300):
            checkpoint.clear()
            answers.append(number)
            time.sleep(0.0007)
            assert answers == [number]
            answers.clear()
            checkpoint.set()
        assert stolen == []
    finally:
        stop.set()
        checkpoint.set()
        thread.join()


def test_an_association_that_has_ended_is_not_waited_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("client.dicom.requestor._LONGEST_SECONDS", 0.05)

    with pytest.raises(RuntimeError, match="ended"):
        Checkpoint().clear()


def test_pynetdicom_still_holds_its_thread_back_by_this_name():
    source = inspect.getsource(association.Association)

    assert "self._reactor_checkpoint.wait()" in inspect.getsource(association.Association._run_reactor)  # pyright: ignore[reportPrivateUsage]
    assert source.count("self._reactor_checkpoint.clear()") >= 5
