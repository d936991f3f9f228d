"""The receiving side of an association, byte by byte, as peers may send it: raw sockets against a real gateway."""

import contextlib
import hashlib
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
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.dsutils import encode
from sqlalchemy import select

from client.arrival import gateway as module
from client.arrival import intake
from client.arrival.gateway import Gateway
from client.arrival.intake import STATUS
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import instance
from scripts.benchmarks.modality import RELEASE, request, value

pytestmark = pytest.mark.integration

DX = "1.2.840.10008.5.1.4.1.1.1.1"
ABORT, RELEASED, REJECTED = 7, 6, 3
ROOT = Path(__file__).parents[2]


def command_of(uid: str, message: int = 1, sop_class: str = DX) -> bytes:
    """An encoded C-STORE-RQ."""
    command = Dataset()
    command.AffectedSOPClassUID = sop_class
    command.CommandField, command.MessageID, command.Priority, command.CommandDataSetType = 1, message, 0, 1
    command.AffectedSOPInstanceUID = uid
    content = encode(command, True, True)
    assert content is not None
    return struct.pack("<HHLL", 0, 0, 4, len(content)) + content


def encoded(image: Dataset) -> bytes:
    content = encode(image, False, True)
    assert content is not None
    return content


class Peer:
    """One association over a raw socket."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.sendall(request("VIGIE"))
        assert self.pdu()[0] == 2

    def pdu(self) -> bytes:
        """The next PDU; empty where the node has hung up."""
        header = self._exactly(6)
        return header + self._exactly(int.from_bytes(header[2:])) if header else b""

    def status(self) -> tuple[int, int]:
        """Message ID and status of the next answer."""
        answer = self.pdu()
        assert answer[0] == 4
        found = [answer.index(struct.pack("<HHL", 0, element, 2)) + 8 for element in (0x0120, 0x0900)]
        message, status = (struct.unpack_from("<H", answer, at)[0] for at in found)
        return message, status

    def _exactly(self, size: int) -> bytes:
        found = b""
        while len(found) < size and (piece := self.socket.recv(size - len(found))):
            found += piece
        return found

    def close(self) -> None:
        self.socket.close()


@pytest.fixture
def gateway(site: Site) -> Iterator[Gateway]:
    made = Gateway(site)
    yield made
    made.close()


@pytest.fixture
def peer(gateway: Gateway) -> Iterator[Peer]:
    made = Peer(gateway.port)
    yield made
    made.close()


def kept(site: Site) -> dict[str, bytes]:
    """Each instance's file without preamble and file meta, its name checked."""
    with site.database.read() as connection:
        rows = connection.execute(select(instance)).all()
    found = {}
    for row in rows:
        content = Archive(site.archive).read(row.sha256)
        assert hashlib.sha256(content).hexdigest() == row.sha256
        (length,) = struct.unpack_from("<L", content, 140)
        found[row.sop_uid] = content[144 + length :]
    return found


@pytest.mark.parametrize("size", [2, 7, 1000, 1 << 20])
def test_however_a_message_is_cut_it_is_the_same_image(
    site: Site, peer: Peer, radiograph: Callable[..., Dataset], size: int
) -> None:
    image = radiograph(rows=20, columns=20) if size < 1000 else radiograph(rows=2000, columns=1200)
    content, uid = encoded(image), str(image.SOPInstanceUID)
    stream = b""
    for whole, control in ((command_of(uid), 1), (content, 0)):
        starts = range(0, len(whole), size)
        stream += b"".join(value(whole[at : at + size], control + 2 * (at + size >= len(whole))) for at in starts)
    peer.socket.sendall(stream + RELEASE)
    assert peer.status() == (1, 0)
    assert peer.pdu()[0] == RELEASED
    assert kept(site) == {uid: content}


def test_several_values_in_one_pdu_and_several_messages_before_an_answer(
    site: Site, peer: Peer, radiograph: Callable[..., Dataset]
) -> None:
    images = [radiograph() for _ in range(3)]
    stream = b""
    for number, image in enumerate(images):
        content = encoded(image)
        values = ((command_of(str(image.SOPInstanceUID), number), 3), (content[:99], 0), (content[99:], 2))
        body = b"".join(struct.pack(">LBB", len(data) + 2, 1, control) + data for data, control in values)
        stream += struct.pack(">BxL", 4, len(body)) + body
    peer.socket.sendall(stream)
    assert [peer.status() for _ in images] == [(0, 0), (1, 0), (2, 0)]
    assert kept(site) == {str(image.SOPInstanceUID): encoded(image) for image in images}


@pytest.mark.parametrize(
    "stream",
    [
        value(b"\x08\0\x18\0", 2),
        value(command_of("1.2.3"), 3) + value(command_of("1.2.3"), 3),
        value(command_of("1.2.3")[:-3], 3),
        value(b"", 3),
        value(b"\0" * 20_000, 1),
        b"\x04\0\0\0\0\0",
        b"\x04\0\0\0\0\x06\0\0\0\xff\x01\x03",
        b"\x04\0\0\0\0\x07\0\0\0\x02\x63\x03x",
        b"\x01\0\0\0\0\x04abcd",
        b"\x09\0\0\0\0\x04abcd",
        b"\x05\0\xff\xff\xff\xff",
    ],
    ids=[
        "dataset-first",
        "command-twice",
        "command-cut",
        "no-command",
        "command-without-end",
        "no-values",
        "value-beyond-pdu",
        "value-cut",
        "associate-again",
        "unknown-pdu",
        "long-release",
    ],
)
def test_what_is_out_of_order_is_aborted_and_leaves_nothing(site: Site, peer: Peer, stream: bytes) -> None:
    peer.socket.sendall(stream)
    assert peer.pdu()[0] == ABORT
    peer.socket.shutdown(socket.SHUT_WR)
    assert peer.pdu() == b""
    assert [path for path in site.archive.rglob("*") if path.is_file()] == []


def being_written(site: Site) -> list[str]:
    """Files of the archive that are open here: without a name until they are whole, with another where that must be."""
    found: list[str] = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            target = str(descriptor.readlink())
            if target.startswith(f"{site.archive}/"):
                found.append(target)
    return found


@pytest.mark.parametrize("how", ["abort", "release", "gone"])
def test_an_image_that_breaks_off_leaves_nothing(
    site: Site,
    gateway: Gateway,
    peer: Peer,
    radiograph: Callable[..., Dataset],
    eventually: Callable[..., Any],
    how: str,
) -> None:
    image = radiograph(rows=2000, columns=1500)  # more than one block, so that some of it has been written
    peer.socket.sendall(value(command_of(str(image.SOPInstanceUID)), 3) + value(encoded(image)[: 5 << 20], 0))
    eventually(lambda: being_written(site))
    if how == "gone":
        peer.close()
    else:
        peer.socket.sendall(RELEASE if how == "release" else b"\x07\0\0\0\0\x04\0\0\0\0")
    eventually(lambda: not being_written(site))
    assert [path for path in site.archive.rglob("*") if path.is_file()] == []
    eventually(lambda: gateway._server.active_associations == [])
    assert gateway.intake.sending() == set()


@pytest.mark.parametrize(
    "said",
    [b"", b"\x01\0\0\0", request("VIGIE")[:100], request("VIGIE") + b"\x04\0\0\x01\0\0"],
    ids=["nothing", "half-a-header", "half-a-request", "half-a-message"],
)
def test_a_peer_that_falls_silent_loses_its_place(
    site: Site, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any], said: bytes
) -> None:
    entity = module._entity

    def hasty(*arguments: Any) -> AE:
        made = entity(*arguments)
        made.network_timeout = made.acse_timeout = 0.5
        return made

    monkeypatch.setattr(module, "_entity", hasty)
    gateway = Gateway(site)
    try:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as peer:
            peer.sendall(said)
            while peer.recv(4096):  # hung up on, or the socket's own timeout
                pass
        eventually(lambda: gateway._server.active_associations == [])
    finally:
        gateway.close()


def test_connections_that_ask_for_nothing_take_no_places(
    gateway: Gateway, radiograph: Callable[..., Dataset], eventually: Callable[..., Any]
) -> None:
    for _ in range(module._MAX_ASSOCIATIONS + 6):
        with socket.create_connection(("127.0.0.1", gateway.port)):
            pass
    eventually(lambda: gateway._server.active_associations == [], timeout=5)  # they would have ten seconds each


def test_one_association_too_many_is_told_so_and_the_others_go_on(
    site: Site, radiograph: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_ASSOCIATIONS", 2)
    gateway = Gateway(site)
    peers = [Peer(gateway.port) for _ in range(2)]
    try:
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as late:
            late.sendall(request("VIGIE"))
            # PS3.8 9.3.4: transient, by the presentation service, local limit exceeded
            assert late.recv(100) == bytes([REJECTED, 0, 0, 0, 0, 4, 0, 2, 3, 2])
        for peer in peers:
            image = radiograph()
            peer.socket.sendall(value(command_of(str(image.SOPInstanceUID)), 3) + value(encoded(image), 2))
            assert peer.status() == (1, 0)
    finally:
        for peer in peers:
            peer.close()
        gateway.close()


def test_images_are_refused_before_the_disk_is_full_and_accepted_again(
    site: Site, radiograph: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = psutil.disk_usage(str(site.folder)).free >> 20
    site.config.reserve_mib = free + 10_000
    gateway = Gateway(site)
    peer = Peer(gateway.port)
    try:
        image = radiograph()
        stream = value(command_of(str(image.SOPInstanceUID)), 3) + value(encoded(image), 2)
        peer.socket.sendall(stream * 2)
        assert [peer.status()[1] for _ in range(2)] == [STATUS["disk-full"]] * 2 == [0xA700] * 2
        assert kept(site) == {}
        assert [path for path in site.archive.rglob("*") if path.is_file()] == []
        assert [record.levelname for record in caplog.records if "images are refused" in record.message] == ["ERROR"]
        monkeypatch.setattr(gateway.intake._room, "_reserve", 0)
        peer.socket.sendall(stream)
        assert peer.status() == (1, 0)
        assert "images are accepted again" in caplog.text
    finally:
        peer.close()
        gateway.close()


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_what_is_no_storage_class_or_names_no_instance_is_refused(peer: Peer, radiograph: Any) -> None:
    content = encoded(radiograph())
    peer.socket.sendall(value(command_of("1.2.3", sop_class="1.2.840.10008.1.1"), 3) + value(content, 2))
    assert peer.status() == (1, STATUS["sop-class"])
    peer.socket.sendall(value(command_of("../../etc/passwd"), 3) + value(content, 2))
    assert peer.status() == (1, STATUS["uid-missing"])


def test_closing_answers_nothing_that_is_not_kept(
    site: Site, radiograph: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.arrival.gateway._STOP_SECONDS", 60.0)
    gateway = Gateway(site)
    peer = Peer(gateway.port)
    image = radiograph()
    peer.socket.sendall(value(command_of(str(image.SOPInstanceUID)), 3) + value(encoded(image)[:200], 0))
    began = time.monotonic()
    gateway.close()
    assert time.monotonic() - began < 30  # it did not wait for what will never come
    assert peer.pdu()[0] == ABORT
    peer.close()
    assert [path for path in site.archive.rglob("*") if path.is_file()] == []


def test_a_dataset_takes_no_more_memory_than_a_block(site: Site, radiograph: Callable[..., Dataset]) -> None:
    """The gateway in a process of its own takes a dataset of 128 MiB."""
    program = (
        "import sys; from pathlib import Path; from client.store.site import Site; "
        "from client.arrival.gateway import Gateway; gateway = Gateway(Site(Path(sys.argv[1]))); "
        "print(gateway.port, flush=True); sys.stdin.read(); gateway.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(site.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        peer = Peer(int(process.stdout.readline()))
        before = psutil.Process(process.pid).memory_info().rss
        image = radiograph(PixelData=None)
        peer.socket.sendall(value(command_of(str(image.SOPInstanceUID)), 3) + value(encoded(image), 0))
        part = b"\0" * (1 << 20)
        peer.socket.sendall(value(b"\xe0\x7f\x10\0OW\0\0" + struct.pack("<L", 128 << 20), 0))
        for number in range(128):
            peer.socket.sendall(value(part, 2 if number == 127 else 0))
        assert peer.status() == (1, 0)
        assert psutil.Process(process.pid).memory_info().rss - before < 32 << 20
        peer.close()


def test_two_senders_of_the_same_image_both_get_a_true_answer(site: Site, gateway: Gateway, radiograph: Any) -> None:
    image = radiograph(rows=500, columns=500)
    stream = value(command_of(str(image.SOPInstanceUID)), 3) + value(encoded(image), 2)
    statuses: list[tuple[int, int]] = []

    def store() -> None:
        peer = Peer(gateway.port)
        for _ in range(10):
            peer.socket.sendall(stream)
            statuses.append(peer.status())
        peer.close()

    threads = [threading.Thread(target=store) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [(1, 0)] * 40
    assert kept(site) == {str(image.SOPInstanceUID): encoded(image)}
    assert len([path for path in site.archive.rglob("*") if path.is_file()]) == 1


def test_a_file_that_is_there_already_is_replaced_by_a_whole_one(site: Site, peer: Peer, radiograph: Any) -> None:
    """Half of it may be there after a power cut; nobody was told of it then."""
    image = radiograph()
    uid = str(image.SOPInstanceUID)
    content = intake._file_meta(DX, uid, ExplicitVRLittleEndian) + encoded(image)
    path = Archive(site.archive).path(hashlib.sha256(content).hexdigest())
    path.write_bytes(content[:100])
    peer.socket.sendall(value(command_of(uid), 3) + value(encoded(image), 2))
    assert peer.status() == (1, 0)
    assert path.read_bytes() == content


def test_a_gateway_closes_on_connections_that_have_asked_for_nothing_yet(
    site: Site, eventually: Callable[..., Any]
) -> None:
    gateway = Gateway(site)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as silent:
        eventually(lambda: gateway._server.active_associations)
        gateway.close()  # to abort it would end its thread with an error, and leave the socket open
        assert silent.recv(10) == b""
