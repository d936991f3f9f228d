"""Objects go out whole over an association, whatever the peer does with it."""

import inspect
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, SegmentationStorage
from pynetdicom import AE, evt, fsm
from pynetdicom import association as pynetdicom_association
from pynetdicom import dul as pynetdicom_dul
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made from a table at import

from client.arrival.reception import hand_over
from client.delivery.transmission import Transmission
from client.dicom import messages
from models.children import free_port

Script = Callable[[socket.socket], None]
_RELEASE_RQ = b"\x05\0\0\0\0\x04\0\0\0\0"
_RELEASE_RP = b"\x06\0\0\0\0\x04\0\0\0\0"
_ABORT = b"\x07\0\0\0\0\x04\0\0\0\0"


class Peer:
    """Accepts an association as pynetdicom does, and then does with the connection what a test says."""

    def __init__(self, script: Script, longest: int = 16384) -> None:
        entity = AE("PEER")
        entity.maximum_pdu_size = longest
        entity.add_supported_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)
        entity.add_supported_context(Verification)
        self._script = script
        self.failed: list[BaseException] = []
        self._done = threading.Event()
        handlers: list[Any] = [(evt.EVT_FSM_TRANSITION, hand_over), (evt.EVT_ESTABLISHED, self._serve)]
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        assert server is not None
        self._server = server
        self.port: int = server.server_address[1]

    def _serve(self, event: Any) -> None:
        event.assoc.dul.join(10)
        peer: socket.socket = event.assoc.dul.socket.socket
        peer.settimeout(10)
        try:
            self._script(peer)
        except BaseException as error:  # noqa: BLE001  # told to the test
            self.failed.append(error)
        finally:
            self._done.set()
            event.assoc.kill()

    def close(self) -> None:
        assert self._done.wait(10)
        self._server.shutdown()
        assert not self.failed, self.failed


@pytest.fixture
def meet() -> Iterator[Callable[..., Transmission]]:
    """An association with a peer that follows a script."""
    peers: list[Peer] = []
    transmissions: list[Transmission] = []

    def make(script: Script, patience: float = 5.0, longest: int = 16384) -> Transmission:
        peers.append(Peer(script, longest))
        entity = AE("NODE")
        entity.add_requested_context(SecondaryCaptureImageStorage, ExplicitVRLittleEndian)
        entity.add_requested_context(SegmentationStorage, ExplicitVRLittleEndian)
        entity.add_requested_context(Verification)
        transmission = Transmission(entity, "127.0.0.1", peers[-1].port, "PEER", None, patience)
        transmissions.append(transmission)
        return transmission

    yield make
    for transmission in transmissions:
        transmission.release()
    for peer in peers:
        peer.close()


def exactly(peer: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        received = peer.recv(size - len(found))
        assert received, "closed"
        found += received
    return found


def message(peer: socket.socket, longest: int = 16384) -> tuple[dict[int, bytes], bytes]:
    """A command and its dataset, each PDU looked at."""
    command = dataset = b""
    while True:
        header = exactly(peer, 6)
        length = int.from_bytes(header[2:6])
        assert header[0] == messages.P_DATA
        assert length <= longest
        value = exactly(peer, length)
        assert int.from_bytes(value[:4]) == length - 4
        assert len(value) % 2 == 0
        if value[5] & messages.COMMAND:
            command += value[6:]
            if value[5] & messages.LAST and messages.elements(command)[0x0800] == b"\x01\x01":
                return messages.elements(command), b""
        else:
            dataset += value[6:]
            if value[5] & messages.LAST:
                return messages.elements(command), dataset


def answer(request: dict[int, bytes], status: int = 0, **changed: Any) -> bytes:
    command = messages.command(
        {
            0x0002: request[0x0002],
            0x0100: changed.get("kind", messages.C_STORE_RSP),
            0x0120: changed.get("to", request[0x0110]),
            0x0800: messages.NO_DATASET,
            0x0900: status,
        }
    )
    return b"".join(messages.pdus(1, command, messages.COMMAND, 16384))


def farewell(peer: socket.socket) -> None:
    assert exactly(peer, 10) == _RELEASE_RQ
    peer.sendall(_RELEASE_RP)


def send(transmission: Transmission, dataset: bytes = b"\x08\0\x18\0UI\x04\x001.2\0") -> int:
    context = transmission.accepted[0]
    return transmission.store(context, SecondaryCaptureImageStorage, "1.2", memoryview(dataset))


@given(st.binary(min_size=1, max_size=500), st.integers(8, 200), st.sampled_from([0, messages.COMMAND]))
def test_pieces_make_up_the_whole_and_none_is_longer_than_the_peer_takes(content: bytes, longest: int, kind: int):
    sent = b"".join(messages.pdus(7, content, kind, longest))
    found, marks = b"", list[int]()
    while sent:
        pdu, length, value, context, control = struct.unpack_from(">BxLLBB", sent)
        assert (pdu, context, control & messages.COMMAND) == (messages.P_DATA, 7, kind)
        assert length == value + 4 <= longest
        found += sent[12 : 6 + length]
        marks.append(control & messages.LAST)
        sent = sent[6 + length :]
    assert found == content
    assert marks == [0] * (len(marks) - 1) + [messages.LAST]


@pytest.mark.parametrize("longest", [0, 128, 4096, 131072])
def test_objects_arrive_whole_in_pieces_that_the_peer_takes(meet: Callable[..., Transmission], longest: int):
    objects = [bytes(range(256)) * 4 * size for size in (1, 700, 9)]
    arrived: list[bytes] = []
    requests: list[dict[int, bytes]] = []

    def script(peer: socket.socket) -> None:
        for _ in objects:
            request, dataset = message(peer, longest or 1 << 20)
            requests.append(request)
            arrived.append(dataset)
            peer.sendall(answer(request, 0xB000))
        farewell(peer)

    transmission = meet(script, longest=longest)
    assert [send(transmission, one) for one in objects] == [0xB000] * 3
    transmission.release()
    assert not transmission.established
    assert arrived == objects
    assert {messages.text(one, 0x1000) for one in requests} == {"1.2"}
    assert len({one[0x0110] for one in requests}) == 3  # each message has an ID of its own


def test_an_answer_may_come_byte_by_byte(meet: Callable[..., Transmission]):
    def script(peer: socket.socket) -> None:
        request, _ = message(peer)
        for byte in answer(request, 0xA700):
            peer.sendall(bytes([byte]))
        farewell(peer)

    assert send(meet(script)) == 0xA700


def test_a_peer_can_be_asked_whether_it_is_there(meet: Callable[..., Transmission]):
    def script(peer: socket.socket) -> None:
        request, _ = message(peer)
        assert messages.number(request, 0x0100) == messages.C_ECHO_RQ
        peer.sendall(answer(request, kind=messages.C_ECHO_RSP))
        farewell(peer)

    assert meet(script).echo() == 0


def test_a_peer_that_says_nothing_is_waited_for_as_long_as_was_said(meet: Callable[..., Transmission]):
    def script(peer: socket.socket) -> None:
        message(peer)
        assert peer.recv(10)[:1] == b"\x07"  # and it is told that we gave up

    transmission = meet(script, patience=0.3)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        send(transmission)
    assert time.monotonic() - began >= 0.29
    assert not transmission.established


_WRONG: dict[str, Callable[[dict[int, bytes]], bytes]] = {
    "to another message": lambda request: answer(request, to=99),
    "of another kind": lambda request: answer(request, kind=messages.C_ECHO_RSP),
    "a dataset": lambda request: answer(request).replace(b"\x01\x03", b"\x01\x02", 1),
    "longer than its PDU": lambda request: b"\x04\0\0\0\0\x04\0\0\0\x09",
    "without end": lambda request: b"\x04\0\xff\xff\xff\xff",
    "no DICOM": lambda request: b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


@pytest.mark.parametrize("wrong", _WRONG)
def test_an_answer_that_is_none_is_no_success(meet: Callable[..., Transmission], wrong: str):
    def script(peer: socket.socket) -> None:
        request, _ = message(peer)
        peer.sendall(_WRONG[wrong](request))
        while peer.recv(1024):
            pass

    transmission = meet(script)
    with pytest.raises(ConnectionError):
        send(transmission)
    assert not transmission.established


@pytest.mark.parametrize("last", [_ABORT, _RELEASE_RQ, answer({0x0002: b"1.2\0", 0x0110: b"\1\0"})[:20], b""])
def test_a_peer_that_ends_it_instead_of_answering_has_not_answered(meet: Callable[..., Transmission], last: bytes):
    def script(peer: socket.socket) -> None:
        message(peer)
        peer.sendall(last)
        peer.shutdown(socket.SHUT_WR)
        while peer.recv(1024):
            pass

    transmission = meet(script)
    with pytest.raises(ConnectionError):
        send(transmission)
    assert not transmission.established


def test_a_peer_that_ends_it_between_two_objects_is_answered(
    meet: Callable[..., Transmission], eventually: Callable[..., Any]
):
    answered: list[bytes] = []

    def script(peer: socket.socket) -> None:
        request, _ = message(peer)
        peer.sendall(answer(request))
        peer.sendall(_RELEASE_RQ)
        answered.append(exactly(peer, 10))

    transmission = meet(script)
    assert send(transmission) == 0
    eventually(lambda: not transmission.established)
    eventually(lambda: answered == [_RELEASE_RP])
    with pytest.raises(ConnectionError):
        send(transmission)


def test_a_peer_that_takes_nothing_of_ours_is_there_and_takes_nothing():
    entity = AE("PEER")
    entity.add_supported_context("1.2.840.10008.5.1.4.1.1.2")
    server = entity.start_server(("127.0.0.1", 0), block=False)
    assert server is not None
    try:
        ours = AE("NODE")
        ours.add_requested_context(SecondaryCaptureImageStorage)
        transmission = Transmission(ours, "127.0.0.1", server.server_address[1], "PEER", None, 5.0)
        assert not transmission.established
        assert transmission.rejected
    finally:
        server.shutdown()


def test_nobody_listens():
    ours = AE("NODE")
    ours.add_requested_context(SecondaryCaptureImageStorage)
    transmission = Transmission(ours, "127.0.0.1", free_port(), "PEER", None, 5.0)
    assert not transmission.established
    assert not transmission.rejected


def test_pynetdicom_still_ends_its_threads_by_these_names():
    assert "while not self._kill" in inspect.getsource(pynetdicom_association.Association._run_reactor)  # pyright: ignore[reportPrivateUsage]
    assert "if self._kill_thread" in inspect.getsource(pynetdicom_dul.DULServiceProvider.run_reactor)
    assert "self._kill_thread = True" in inspect.getsource(pynetdicom_dul.DULServiceProvider.kill_dul)
    assert fsm.TRANSITION_TABLE[("Evt3", "Sta5")] == "AE-3"
