"""Whatever comes in at the DICOM door, a neighbour's images go on being stored, and nothing is left behind.

A whole node in its own processes; the inputs are drawn by Hypothesis. `VIGIE_FUZZ_INPUTS=10000` sends so many
(a minute or two on two cores); the suite sends fewer.
"""

import itertools
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pynetdicom.dsutils import encode
from sqlalchemy import func, select

from client.store.site import Site
from client.store.tables import instance
from scripts.benchmarks.modality import RELEASE, request, value

INPUTS = int(os.environ.get("VIGIE_FUZZ_INPUTS", "1500"))
BATCH = 25
ROOT = Path(__file__).parents[2]
SILENCE = 30.0  # seconds without an answer are a hang
DX = "1.2.840.10008.5.1.4.1.1.1.1"

LENGTHS = st.sampled_from([0, 1, 2, 5, 6, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF])
EDIT = st.tuples(
    st.sampled_from(["flip", "length", "cut", "insert", "delete", "repeat"]),
    st.floats(0, 1, exclude_max=True),
    LENGTHS | st.integers(0, 255),
)
EDITS = st.lists(EDIT, min_size=1, max_size=4)
MOVE = st.tuples(
    st.sampled_from(["header", "edit", "drop", "repeat", "swap"]), st.integers(0, 99), st.integers(0, 11), EDIT
)
INPUT = st.one_of(
    st.tuples(st.just("raw"), st.binary(max_size=300)),
    st.tuples(st.just("request"), EDITS),
    st.tuples(st.just("stream"), st.lists(MOVE, min_size=1, max_size=3)),
    st.tuples(st.just("command"), EDITS),
    *[st.tuples(st.just("dataset"), EDITS)] * 8,
)


def edited(content: bytes, edits: list[tuple[str, float, int]]) -> bytes:
    made = bytearray(content)
    for what, where, number in edits:
        at = int(where * len(made))
        if what == "flip" and made:
            made[at] ^= (number & 0xFF) or 1
        elif what == "length":
            made[at : at + 4] = struct.pack("<L" if number % 2 else ">L", number)
        elif what == "cut":
            del made[at:]
        elif what == "insert":
            made[at:at] = bytes([number & 0xFF]) * (number % 64 + 1)
        elif what == "delete":
            del made[at : at + number % 64 + 1]
        elif what == "repeat":
            made[at:at] = made[at : at + number % 64 + 1]
    return bytes(made)


def command_of(uid: str, field: int = 1) -> bytes:
    command = Dataset()
    command.AffectedSOPClassUID = DX
    command.CommandField, command.MessageID, command.Priority, command.CommandDataSetType = field, 1, 0, 1
    command.AffectedSOPInstanceUID = uid
    content = encode(command, True, True)
    assert content is not None
    return struct.pack("<HHLL", 0, 0, 4, len(content)) + content


def pieces(content: bytes, size: int = 700) -> list[bytes]:
    """As P-DATA-TF PDUs, several to a dataset."""
    starts = range(0, max(len(content), 1), size)
    return [value(content[at : at + size], 2 if at + size >= len(content) else 0) for at in starts]


class Peer:
    """A sender over a raw socket that associates again when it was cut off."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None

    def open(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=SILENCE)
            self._socket.sendall(request("VIGIE"))
            assert self._pdu()[0] == 2
        return self._socket

    def store(self, uid: str, dataset: bytes) -> int | None:
        """The status; None where the node has ended the association."""
        connection = self.open()
        connection.sendall(value(command_of(uid), 3) + b"".join(pieces(dataset)))
        try:
            answer = self._pdu()
        except ConnectionError:
            self.close()
            return None
        if answer[0] != 4:
            self.close()
            return None
        at = answer.index(struct.pack("<HHL", 0, 0x0900, 2))
        return struct.unpack_from("<H", answer, at + 8)[0]

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _pdu(self) -> bytes:
        header = self._exactly(6)
        return header + self._exactly(int.from_bytes(header[2:]))

    def _exactly(self, size: int) -> bytes:
        assert self._socket is not None
        found = b""
        while len(found) < size:
            piece = self._socket.recv(size - len(found))
            if not piece:
                raise ConnectionResetError
            found += piece
        return found


def whole(port: int, content: bytes) -> None:
    """Send it, say that this was all, and wait for the node to hang up.

    Raises:
        TimeoutError: it does not.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=SILENCE) as peer:
        try:
            peer.sendall(content)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(65536):
                pass
        except TimeoutError:
            raise
        except OSError:
            pass  # it has hung up already


class Neighbour(threading.Thread):
    """Stores images over one association, all the time."""

    def __init__(self, port: int, image: Callable[[], tuple[str, bytes]]) -> None:
        super().__init__(daemon=True)
        self._peer, self._image, self._enough = Peer(port), image, threading.Event()
        self.statuses: list[int | None] = []
        self._peer.open()

    def run(self) -> None:
        while not self._enough.wait(0.02):
            self.statuses.append(self._peer.store(*self._image()))
        self._peer.close()

    def finish(self) -> None:
        self._enough.set()
        self.join(SILENCE)
        assert not self.is_alive(), "the neighbour waits for an answer"


def descriptors_and_threads(pid: int) -> tuple[int, int]:
    process = psutil.Process(pid)
    return process.num_fds(), process.num_threads()


@pytest.fixture
def node(site: Site) -> Iterator[psutil.Popen]:
    """As `vigie site run` starts it, with what it says on stderr in a file."""
    said = site.logs / "stderr"
    with said.open("wb") as stderr:
        process = psutil.Popen(
            [sys.executable, "-m", "client.node", "--site", str(site.folder)],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    deadline = time.monotonic() + 60
    while not (site.folder / "node.json").exists():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, "the node is not ready in time"
        time.sleep(0.05)
    yield process
    process.terminate()
    assert process.wait(20) == 0


def test_no_input_takes_the_door_from_a_neighbour(
    site: Site, node: psutil.Popen, radiograph: Callable[..., Dataset], eventually: Callable[..., Any]
) -> None:
    import json

    port = json.loads((site.folder / "node.json").read_text())["dicom_port"]
    template = encode(radiograph(rows=16, columns=16, SOPInstanceUID="2.25." + "1" * 39), False, True)
    assert template is not None
    counter = itertools.count(int("1" * 39))

    def image() -> tuple[str, bytes]:
        uid = f"2.25.{next(counter)}"
        return uid, template.replace(b"2.25." + b"1" * 39, uid.encode())

    before = descriptors_and_threads(node.pid)
    neighbour = Neighbour(port, image)
    neighbour.start()
    peer = Peer(port)
    accepted = 0

    @settings(
        max_examples=max(INPUTS // BATCH, 1),
        deadline=None,
        database=None,
        # the suite repeats itself; at length it is other inputs each time
        derandomize="VIGIE_FUZZ_INPUTS" not in os.environ,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(INPUT, min_size=BATCH, max_size=BATCH))
    def attack(inputs: list[tuple[str, Any]]) -> None:
        nonlocal accepted
        stored = len(neighbour.statuses)
        for kind, how in inputs:
            uid, dataset = image()
            if kind == "raw":
                whole(port, how)
            elif kind == "request":
                whole(port, edited(request("VIGIE"), how))
            elif kind == "command":
                command = value(edited(command_of(uid), how), 3)
                whole(port, request("VIGIE") + command + b"".join(pieces(dataset)))
            elif kind == "stream":
                whole(port, request("VIGIE") + moved([value(command_of(uid), 3), *pieces(dataset), RELEASE], how))
            else:
                status = peer.store(uid, edited(dataset, how))
                assert status is not None, "a dataset, whatever is in it, has to be answered"
                accepted += status == 0
        assert node.poll() is None
        assert set(neighbour.statuses) <= {0}
        eventually(lambda: len(neighbour.statuses) > stored)

    try:
        attack()
    finally:
        peer.close()
        neighbour.finish()
    assert set(neighbour.statuses) == {0}
    assert peer.store(*image()) == 0
    peer.close()

    # what was acknowledged is there, and nothing else is left: no half a file, no thread, no descriptor, no memory
    with site.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(instance)).scalar_one() >= len(neighbour.statuses)
        assert connection.execute(select(func.count()).select_from(instance)).scalar_one() >= accepted
    assert list(site.archive.glob(".*")) == []
    eventually(lambda: all(now <= was + 12 for now, was in zip(descriptors_and_threads(node.pid), before, strict=True)))
    assert psutil.Process(node.pid).memory_info().rss < 600 << 20
    assert (site.logs / "stderr").read_text() == ""


def moved(pdus: list[bytes], moves: list[tuple[str, int, int, Any]]) -> bytes:
    """PDUs with their headers changed, dropped, repeated, or in another order."""
    for what, which, at, edit in moves:
        if not pdus:
            break
        number = which % len(pdus)
        pdu = bytearray(pdus[number])
        if what == "header" and at < len(pdu):
            pdu[at] = edit[2] & 0xFF
            pdus[number] = bytes(pdu)
        elif what == "edit":
            pdus[number] = edited(pdus[number], [edit])
        elif what == "drop":
            del pdus[number]
        elif what == "repeat":
            pdus.insert(number, pdus[number])
        elif what == "swap":
            other = at % len(pdus)
            pdus[number], pdus[other] = pdus[other], pdus[number]
    return b"".join(pdus)
