"""Later truth by MLLP: acknowledged once it is kept, refused aloud, and nothing half or from elsewhere is taken."""

import contextlib
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_network

import pytest

from client.store.site import Site
from client.vigilance import later, truth_door
from client.vigilance.truth_door import TruthDoor
from configs.schema import AuthorityConfig, TruthCodeConfig, TruthConfig
from models.errors import ConfigurationError

Scored = Callable[..., str]
ORU = (
    "MSH|^~\\&|LAB|PATH|VIGIE|HOSP|20260102||{kind}|{control}|{processing}|2.5.1\rPID|1||{patient}^^^HOSP\r"
    "OBR|1||F1|22637-3^^LN|||20260102|||||||||||A1\rOBX|1|CWE|22637-3^^LN|1|{value}^^SCT||||||{status}\r"
)


def _oru(value: str = "10828004", **other: str) -> bytes:
    said = {"kind": "ORU^R01", "control": "C1", "processing": "P", "patient": "17", "status": "F", "value": value}
    return ORU.format(**said | other).encode()


@pytest.fixture
def door(site: Site) -> Iterator[Callable[..., socket.socket]]:
    """Call a door of the site: `door()`, or `door("10.0.0.0/8")` where only those may call."""
    site.config.truth = TruthConfig(
        codes=[
            TruthCodeConfig(code="LN:22637-3", value="SCT:10828004", answer="positive", tier="biopsy"),
            TruthCodeConfig(code="LN:22637-3", value="SCT:260385009", answer="negative", tier="biopsy"),
        ],
        authorities=[AuthorityConfig(name="HOSP")],
    )
    doors: list[TruthDoor] = []
    calls: list[socket.socket] = []

    def call(allowed: str = "127.0.0.1") -> socket.socket:
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        doors.append(TruthDoor(site, listener, None, (ip_network(allowed),)))
        calls.append(socket.create_connection(address, timeout=60))
        return calls[-1]

    yield call
    for one in calls:
        one.close()
    for one in doors:
        one.close()


def _asked(call: socket.socket, message: bytes) -> list[list[str]]:
    """The segments of what a message is answered with, by fields."""
    call.sendall(b"\x0b" + message + b"\x1c\r")
    return _answer(call)


def _answer(call: socket.socket) -> list[list[str]]:
    came = b""
    while not came.endswith(b"\x1c\r"):
        part = call.recv(4096)
        assert part, "the door closed"
        came += part
    return [line.split("|") for line in came[1:-2].decode().split("\r") if line]


def test_it_is_acknowledged_once_kept_and_twice_is_once(
    site: Site, scored: Scored, door: Callable[..., socket.socket]
) -> None:
    uid = scored(score=0.9, patient_id="17", accession="A1")
    call = door()
    head, told = _asked(call, _oru())
    assert told == ["MSA", "AA", "C1"]
    assert head[2:6] == ["VIGIE", "HOSP", "LAB", "PATH"]
    assert [(row.answer, row.source, row.by) for row in later.history(site, uid)] == [
        ("positive", "hl7", "HL7 LAB PATH")
    ]
    assert _asked(call, _oru(control="C2"))[1] == ["MSA", "AA", "C2"]
    assert _asked(call, _oru("260385009", status="C"))[1][1] == "AA"
    assert [row.answer for row in later.history(site, uid)] == ["positive", "negative"]


def test_what_is_not_taken_in_is_said_and_the_next_is_heard(
    site: Site, scored: Scored, door: Callable[..., socket.socket]
) -> None:
    uid = scored(patient_id="17", accession="A1")
    call = door()
    for message, code, why in (
        (_oru(patient="18"), "AE", "another patient"),
        (_oru("1"), "AE", "truth.codes"),
        (_oru()[:-1], "AE", "ends within"),
        (_oru(kind="ADT^A08"), "AR", "ORU"),
        (_oru(processing="T"), "AR", "production"),
        (_oru(patient="\xe9").decode().encode("latin-1"), "AR", "UTF-8"),
        (b"", "AR", "ORU"),
        (b"MSH", "AR", "ORU"),
    ):
        _, told, error = _asked(call, message)[:3]
        assert told[1] == code, message
        assert why in error[8]
    assert later.history(site, uid) == []
    call.sendall(b"\x0b" + _oru() + b"\x1c\r" + b"\x0b" + _oru()[:40])  # the second is never ended
    assert _answer(call)[1][1] == "AA"


def test_what_could_not_be_stored_is_not_acknowledged(
    site: Site, scored: Scored, door: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(patient_id="17", accession="A1")

    def full(*_: object) -> None:
        raise OSError("no space left on device")

    call = door()
    with monkeypatch.context() as patched:
        patched.setattr(later.ledger, "append", full)
        _, told, error = _asked(call, _oru())
    assert (told[1], "send it again" in error[8]) == ("AE", True)
    assert _asked(call, _oru())[1][1] == "AA"


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", b"\x0b" + b"x" * 5000])
def test_noise_and_a_message_without_end_are_cut_off(
    door: Callable[..., socket.socket], monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(truth_door, "_MOST_BYTES", 1000)
    call = door()
    call.sendall(sent)
    _ends(call)


def test_whoever_may_not_send_is_turned_away_and_a_port_needs_senders(door: Callable[..., socket.socket]) -> None:
    _ends(door("10.0.0.0/8"))
    with pytest.raises(ConfigurationError, match=r"truth\.addresses"):
        TruthConfig(port=2575)
    with pytest.raises(ConfigurationError, match="lab"):
        TruthConfig(port=2575, addresses=["lab"])


def _ends(call: socket.socket) -> None:
    """The door has closed, and said nothing."""
    with contextlib.suppress(ConnectionResetError):
        assert call.recv(1) == b""
