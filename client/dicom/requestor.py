"""Associations that we ask for, mended where pynetdicom loses answers.

pynetdicom runs a thread of its own for each association, which looks for requests of the peer, and holds it back while
an answer is awaited. It asks that thread's flag whether it is held back, and the flag also stands while the thread is
merely about to go on: then the thread takes the answer, drops it, and the request waits for its whole timeout. Under
load a result is half a minute late in that way, now and then.

`tests/unit/test_requestor.py` holds the names used here against the pinned version.
"""

import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation

import client.dicom.closing  # noqa: F401  # pyright: ignore[reportUnusedImport]

_LONGEST_SECONDS: Final = 5.0


class Checkpoint(threading.Event):
    """Where an association's thread waits while it is held back; `clear` returns once it does."""

    def __init__(self) -> None:
        super().__init__()
        self._door = threading.Condition()
        self._held = False

    def wait(self, timeout: float | None = None) -> bool:
        """The association's thread: go through, or be held back until `set`."""
        with self._door:
            self._held = True
            self._door.notify_all()
            passed = self._door.wait_for(self.is_set, timeout)
            self._held = False
            return passed

    def set(self) -> None:
        with self._door:
            super().set()
            self._door.notify_all()

    def clear(self) -> None:
        """Hold the thread back, and wait until it is: nothing that arrives from now on is taken by it.

        Raises:
            RuntimeError: it does not come: the association has ended. pynetdicom would look for it for ever.
        """
        with self._door:
            super().clear()
            if not self._door.wait_for(lambda: self._held, _LONGEST_SECONDS):
                raise RuntimeError("the association has ended")


def associate(
    entity: AE,
    host: str,
    port: int,
    ae_title: str,
    tls: ssl.SSLContext | None = None,
    *,
    handlers: Sequence[tuple[Any, Callable[..., Any]]] = (),
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
) -> Association:
    """Ask a peer for an association; it may not have come about, as with `AE.associate`.

    Args:
        handlers: for what the peer asks of us over it.
        roles: that we propose to take, where they are not the usual ones.
    """
    association = entity.associate(
        host,
        port,
        ae_title=ae_title,
        ext_neg=list(roles),
        evt_handlers=[(evt.EVT_CONN_OPEN, no_delay), *handlers],  # type: ignore[arg-type]
        tls_args=(tls, host) if tls else None,
    )
    checkpoint = Checkpoint()
    checkpoint.set()
    association._reactor_checkpoint = checkpoint  # pyright: ignore[reportPrivateUsage]
    return association


def no_delay(event: evt.Event) -> None:
    """Let small writes of the protocol not wait for the acknowledgement of the one before (Nagle): 40 ms an image."""
    transport: Any = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
