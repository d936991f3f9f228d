"""Who is told to stop stops, whatever it is looking at."""

import signal
import threading

import pytest

from scripts.signals import wait_for_signal


@pytest.fixture(autouse=True)
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_look_that_takes_long_is_broken_off():
    never = threading.Event()

    def ended():
        signal.raise_signal(signal.SIGTERM)
        return not never.wait(60)  # as where a process is started again

    assert wait_for_signal(ended)


def test_who_is_told_between_two_looks_stops_and_what_ended_is_said():
    timer = threading.Timer(0.01, signal.raise_signal, [signal.SIGINT])
    timer.start()
    assert wait_for_signal(poll=0.05)
    timer.join()
    assert not wait_for_signal(lambda: True)
