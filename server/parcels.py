"""The coordinator's parcels: what is large in messages, in files between the SuperLink and the retraining's process.

`Shelf` is their folder; both processes have it. `Counter` is where hospitals fetch and bring them, in the SuperLink and
behind its guard. A hospital proves each request with its key, fetches what somebody has told it the digest of, and
brings what nobody but the coordinator reads, to a place that is its own.

Nothing here outlasts the SuperLink's process: a parcel that is lost is put down again with the question that it belongs
to. So nothing is synchronised with the disk, either.
"""

import asyncio
import contextlib
import hashlib
import logging
import mmap
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final, cast

from models import parcels
from models.parcels import Buffer
from server.superlink import registered_sites

log = logging.getLogger(__name__)

PARCELS: Final = "VIGIE_PARCELS"
"""Environment variable with the shelf's folder, for what the SuperLink starts; without it messages go whole."""

_KEPT: Final = 2  # of what a hospital has brought: of an answer, and of one that was made while it was on its way
_SILENT: Final = 60.0  # seconds without a byte, after which a hospital that brings something is no longer waited for
_OUT: Final = "out"


class Shelf:
    """The folder: `out` for hospitals, and one for each node that has brought something.

    Args:
        folder: made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / _OUT).mkdir(parents=True, exist_ok=True)

    def put(self, digest: str, content: Buffer) -> None:
        """Lay something ready for hospitals."""
        path = self.folder / _OUT / digest
        if not path.exists():
            partial = path.with_suffix(f".{os.getpid()}")
            partial.write_bytes(content)
            partial.rename(path)

    def drop(self, digest: str) -> None:
        """Nobody is to fetch it any more."""
        (self.folder / _OUT / digest).unlink(missing_ok=True)

    def ready(self, digest: str) -> Path:
        """Where something lies for hospitals, if it does."""
        return self.folder / _OUT / digest

    def begin(self, node: int, digest: str) -> Path:
        """Where to write what a node brings."""
        folder = self.folder / str(node)
        folder.mkdir(exist_ok=True)
        return folder / f"{digest}.partial"

    def keep(self, partial: Path) -> None:
        """It is whole; older ones of the same node go."""
        os.utime(partial)
        partial.rename(partial.with_suffix(""))
        found = sorted((path for path in partial.parent.iterdir() if not path.suffix), key=os.path.getmtime)
        for path in found[:-_KEPT]:
            path.unlink(missing_ok=True)

    def take(self, node: int, digest: str, size: int) -> memoryview | None:
        """What a node has brought, off the shelf; None where there is nothing of this digest and size."""
        path = self.folder / str(node) / digest
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != size:
                    return None
                content = memoryview(mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ, flags=_POPULATED))
        except FileNotFoundError:
            return None
        path.unlink(missing_ok=True)
        return content

    def clear(self) -> None:
        """Throw everything away."""
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / _OUT).mkdir(parents=True, exist_ok=True)


_POPULATED: Final = mmap.MAP_SHARED | mmap.MAP_POPULATE


class Counter:
    """ASGI middleware, behind the guard: hospitals fetch and bring parcels here.

    Args:
        coordinator: its folder, with the list of hospitals.
    """

    def __init__(self, app: Any, shelf: Shelf, coordinator: Path) -> None:
        self._app, self._shelf, self._coordinator = app, shelf, coordinator
        self._bringing: dict[int, asyncio.Task[Any]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = str(scope.get("path", ""))
        if scope["type"] != "http" or not path.startswith(parcels.PATH):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        digest, method = path.removeprefix(parcels.PATH), scope["method"]
        node = await asyncio.to_thread(self._node, headers, method, path)
        if node is None:
            await _say(send, 401)
        elif not parcels.DIGEST.fullmatch(digest):
            await _say(send, 404)
        elif method == "GET":
            await self._give(digest, send)
        elif method == "PUT":
            await _say(send, await self._accept(node, digest, headers.get("content-length", ""), receive))
        else:
            await _say(send, 405)

    def _node(self, headers: Mapping[str, str], method: str, path: str) -> int | None:
        """The node of a hospital that is let in and has proved the request."""
        if (key := parcels.proven(headers, method, path)) is None:
            return None
        nodes = (node for site in registered_sites(self._coordinator).values() for node in site.nodes)
        return next((node.node_id for node in nodes if node.key_sha256 == key), None)

    async def _give(self, digest: str, send: Any) -> None:
        try:
            file = self._shelf.ready(digest).open("rb", buffering=0)
        except FileNotFoundError:
            await _say(send, 404)
            return
        with file:
            size = os.fstat(file.fileno()).st_size
            head = [(b"content-length", str(size).encode()), (b"content-type", b"application/octet-stream")]
            await send({"type": "http.response.start", "status": 200, "headers": head})
            while size:
                piece = await asyncio.to_thread(file.read, parcels.PIECE)
                if not piece:
                    raise OSError("a parcel became shorter")
                size -= len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": size > 0})

    async def _accept(self, node: int, digest: str, length: str, receive: Any) -> int:
        """Write what a node brings; returns what to answer."""
        size = int(length) if length.isascii() and length.isdecimal() and len(length) < 12 else 0
        if not 0 < size <= parcels.LARGEST:
            return 413
        # one at a time, or a hospital could fill the disk; where its line broke, the first one may not know yet
        if (older := self._bringing.get(node)) is not None:
            older.cancel()
            await asyncio.wait([older], timeout=_SILENT)
        if node in self._bringing:
            return 409
        self._bringing[node] = cast("asyncio.Task[Any]", asyncio.current_task())
        partial = self._shelf.begin(node, digest)
        try:
            with partial.open("wb", buffering=0) as file:
                whole = await _written(file, digest, size, receive)
            if whole:
                self._shelf.keep(partial)
            return 204 if whole else 400
        except asyncio.CancelledError:
            return 409  # it has come anew, or this process ends
        except TimeoutError:
            return 408
        except OSError as error:
            log.error("what a hospital brought could not be kept: %s", error.strerror)
            return 507
        finally:
            del self._bringing[node]
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)


async def _written(file: IO[bytes], digest: str, size: int, receive: Any) -> bool:
    """Write a request's body, piece by piece; whether it was what it was to be."""
    found, left, pieces, held = hashlib.sha256(), size, list[bytes](), 0

    def write(content: bytes) -> None:
        found.update(content)
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]

    more = True
    while more:
        message = await asyncio.wait_for(receive(), _SILENT)
        if message["type"] != "http.request":
            return False
        more, piece = message.get("more_body", False), message.get("body", b"")
        left -= len(piece)
        if left < 0:
            return False
        pieces.append(piece)
        held += len(piece)
        if held >= parcels.PIECE or not more:
            content, pieces, held = b"".join(pieces), [], 0
            await asyncio.to_thread(write, content)
    return not left and found.hexdigest() == digest


async def _say(send: Any, status: int) -> None:
    head = [(b"content-length", b"0")]
    if status >= 400:
        head.append((b"connection", b"close"))  # of a body that is refused, the rest is not waited for
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": b""})
