"""A descriptor is given back also where the peer has gone first."""

import socket

import pytest
from pynetdicom import AE
from pynetdicom.transport import AssociationSocket

from client.dicom import closing


def test_a_refused_connection_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch):
    made: list[socket.socket | None] = []
    create = AssociationSocket._create_socket  # pyright: ignore[reportPrivateUsage]

    def remembered(self: AssociationSocket, address: object) -> socket.socket:
        made.append(create(self, address))  # type: ignore[arg-type]
        return made[-1]  # type: ignore[return-value]

    monkeypatch.setattr(AssociationSocket, "_create_socket", remembered)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    entity = AE("NODE")
    entity.add_requested_context("1.2.840.10008.1.1")

    association = entity.associate("127.0.0.1", port)

    assert not association.is_established
    assert [one.fileno() for one in made if one] == [-1]


def test_pynetdicom_still_closes_by_this_name():
    assert AssociationSocket._shutdown_socket is closing._shut_down_and_close  # pyright: ignore[reportPrivateUsage]
    assert "_shutdown_socket" in AssociationSocket.close.__code__.co_names
    assert "_shutdown_socket" in AssociationSocket.connect.__code__.co_names
