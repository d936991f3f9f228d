"""Hospitals fetch and bring parcels over TLS, each with its own key; what is half, forged or too much is not kept."""

import contextlib
import hashlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from relay import Relay

from client.federation.parcels import Carrier, ParcelLost
from models import parcels, pki
from models.children import free_port
from server.parcels import Counter, Shelf
from server.superlink import RegisteredSite, write_sites

NODE = 7
CONTENT = os.urandom(3 * parcels.PIECE + 12345)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Place:
    """A coordinator with a shelf, and a way to make carriers to it."""

    folder: Path
    shelf: Shelf
    port: int

    def carrier(self, key: str = "alpha", port: int = 0, pauses: tuple[float, ...] = ()) -> Carrier:
        private = pki.load_supernode(self.folder / key / "key")
        return Carrier(f"127.0.0.1:{port or self.port}", self.folder / "pki" / "ca.crt", private, pauses)

    def kept(self) -> list[str]:
        return sorted(path.name for path in (self.shelf.folder / str(NODE)).glob("*"))


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("coordinator")
    pki.make_server(folder / "pki", ["localhost"])
    for name in ("alpha", "stranger"):
        pki.make_supernode(folder / name / "key")
    pem = pki.supernode_public_pems(folder / "alpha" / "key.pub")["training"]
    write_sites(folder, {"alpha": RegisteredSite("alpha", NODE, hashlib.sha256(pem).hexdigest())})

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError(f"{scope['path']} is none of ours")

    shelf, port = Shelf(folder / "parcels"), free_port()
    config = uvicorn.Config(
        Counter(nothing, shelf, folder),
        host="127.0.0.1",
        port=port,
        ssl_keyfile=folder / "pki" / "server.key",
        ssl_certfile=folder / "pki" / "server.crt",
        lifespan="off",
        ws="none",
        log_level="error",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    yield Place(folder, shelf, port)
    server.should_exit = True
    thread.join(30)


@pytest.fixture
def place(coordinator: Place) -> Place:
    coordinator.shelf.clear()
    return coordinator


def test_what_is_laid_ready_is_fetched_until_it_is_dropped(place: Place):
    place.shelf.put(DIGEST, CONTENT)
    carrier = place.carrier()
    assert carrier.fetch(DIGEST, len(CONTENT)) == CONTENT
    assert carrier.fetch(DIGEST, len(CONTENT)) == CONTENT
    place.shelf.drop(DIGEST)
    with pytest.raises(ParcelLost):
        carrier.fetch(DIGEST, len(CONTENT))


def test_what_is_brought_is_taken_once_and_by_whom_it_was_brought(place: Place):
    carrier = place.carrier()
    carrier.bring(DIGEST, CONTENT)
    carrier.bring(DIGEST, CONTENT)  # the line broke before the answer came
    assert place.shelf.take(NODE + 1, DIGEST, len(CONTENT)) is None
    assert place.shelf.take(NODE, DIGEST, len(CONTENT) - 1) is None
    taken = place.shelf.take(NODE, DIGEST, len(CONTENT))
    assert taken == CONTENT
    assert place.shelf.take(NODE, DIGEST, len(CONTENT)) is None
    assert place.kept() == []
    assert taken == CONTENT, "what was taken goes with its file"


def test_a_stranger_neither_fetches_nor_brings(place: Place):
    place.shelf.put(DIGEST, CONTENT)
    stranger = place.carrier("stranger")
    with pytest.raises(ParcelLost, match="401"):
        stranger.fetch(DIGEST, len(CONTENT))
    with pytest.raises(ParcelLost):
        stranger.bring(DIGEST, CONTENT)
    assert place.kept() == []


def test_what_was_brought_is_given_to_no_hospital(place: Place):
    carrier = place.carrier()
    carrier.bring(DIGEST, CONTENT)
    with pytest.raises(ParcelLost, match="404"):
        carrier.fetch(DIGEST, len(CONTENT))


def test_what_is_not_what_was_said_is_not_kept_on_either_side(place: Place):
    place.shelf.put(DIGEST, CONTENT[::-1])
    carrier = place.carrier()
    for size in (len(CONTENT), len(CONTENT) - 1, len(CONTENT) + 1):
        with pytest.raises(ParcelLost):
            carrier.fetch(DIGEST, size)
    with pytest.raises(ParcelLost, match="400"):
        carrier.bring(DIGEST, CONTENT[::-1])
    assert place.kept() == []


def test_a_hospital_cannot_fill_the_disk(place: Place):
    carrier = place.carrier()
    for number in range(5):
        content = bytes([number]) * parcels.LARGE
        carrier.bring(hashlib.sha256(content).hexdigest(), content)
        last = hashlib.sha256(content).hexdigest()
    assert len(place.kept()) <= 2
    assert last in place.kept()


@pytest.mark.parametrize("length", ["0", "-1", str(parcels.LARGEST + 1), "9" * 30, "x"])
def test_a_body_of_no_fitting_length_is_refused(place: Place, length: str):
    assert b" 4" in _said(place, parcels.PATH + DIGEST, length)[:16]
    assert place.kept() == []


@pytest.mark.parametrize("name", ["", "..", "../out/x", "%2e%2e%2fsites.json", "A" * 64, "a" * 64 + ".partial"])
def test_a_path_is_a_digest(place: Place, name: str):
    assert b" 404" in _said(place, parcels.PATH + name, "5")[:16]


def _said(place: Place, path: str, length: str) -> bytes:
    """The answer to a request as somebody would write it who has a key and means harm."""
    from urllib.parse import unquote

    key = pki.load_supernode(place.folder / "alpha" / "key")
    headers = parcels.credential(key, "PUT", unquote(path)) | {"host": "x", "content-length": length}
    head = f"PUT {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    context = ssl.create_default_context(cafile=place.folder / "pki" / "ca.crt")
    with (
        socket.create_connection(("127.0.0.1", place.port), 30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as line,
    ):
        line.sendall(head.encode())
        return line.recv(1 << 12)


class Breaking(Relay):
    """A line that breaks after so many bytes, the first time."""

    def __init__(self, target: tuple[str, int], after: int) -> None:
        self.left, self.broke = after, threading.Event()
        super().__init__(target)

    def _hand_on(self, source: socket.socket, sink: socket.socket) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            while content := source.recv(1 << 16):
                self.left -= len(content)
                if self.left < 0 and not self.broke.is_set():
                    self.broke.set()
                    break
                sink.sendall(content)
        except OSError:
            pass
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("work", ["fetch", "bring"])
def test_a_line_that_breaks_is_tried_again_and_half_of_it_is_nothing(place: Place, work: str):
    place.shelf.put(DIGEST, CONTENT)
    relay = Breaking(("127.0.0.1", place.port), 2 * parcels.PIECE)
    try:
        carrier = place.carrier(port=relay.port, pauses=(0.0, 0.1, 0.5, 2.0))
        tasks: dict[str, Callable[[], object]] = {
            "fetch": lambda: carrier.fetch(DIGEST, len(CONTENT)),
            "bring": lambda: carrier.bring(DIGEST, CONTENT),
        }
        found = tasks[work]()
        assert relay.broke.is_set()
        if work == "fetch":
            assert found == CONTENT
        else:
            assert place.kept() == [DIGEST]
    finally:
        relay.close()


def test_a_line_that_stays_broken_is_said_so(place: Place):
    nobody = free_port()
    carrier = place.carrier(port=nobody, pauses=(0.0,))
    with pytest.raises(ParcelLost) as lost:
        carrier.fetch(DIGEST, len(CONTENT))
    assert lost.value.code == "interrupted"
