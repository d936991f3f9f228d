"""The launcher hears at once that there is a message, whoever of the two was there first."""

import stat
import threading
import time

from client.federation.bell import Bell


def test_a_ring_is_heard_before_and_while_somebody_waits_and_once(tmp_path):
    rings, waits = Bell(tmp_path), Bell(tmp_path)
    rings.ring()
    rings.ring()
    waits.wait(600)  # rung before: it returns, or this test does not end
    began = time.monotonic()
    waits.wait(0.05)  # both rings were heard
    assert time.monotonic() - began >= 0.05

    listening = threading.Thread(target=waits.wait, args=(600,))
    listening.start()
    rings.ring()
    listening.join(60)

    assert not listening.is_alive()
    rings.close()
    waits.close()


def test_ringing_where_nobody_listens_neither_waits_nor_fails(tmp_path):
    bell = Bell(tmp_path)

    for _ in range(100_000):  # more than a pipe holds
        bell.ring()

    assert stat.S_IMODE((tmp_path / "bell").stat().st_mode) == 0o600
    bell.close()
