"""Sockets of associations are closed whatever became of the peer; importing this mends pynetdicom.

pynetdicom shuts a socket down and then closes it, and where the peer has gone the first fails and the second is not
done: the descriptor stays open until the garbage collector comes by. A modality that breaks off often, or a PACS that
is down, would use up a node's descriptors.

`tests/unit/test_closing.py` holds the names used here against the pinned version.
"""

import contextlib
import socket

from pynetdicom.transport import AssociationSocket


def _shut_down_and_close(self: AssociationSocket) -> None:
    transport = self.socket
    if transport is None:
        return
    with contextlib.suppress(OSError):  # the peer has gone already
        transport.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        transport.close()


AssociationSocket._shutdown_socket = _shut_down_and_close  # pyright: ignore[reportPrivateUsage]
