"""How the ClientApp and the trainer hand each other orders and answers: in memory that both have, which nobody copies.

Both are processes of this hospital, started by the same launcher; what lies in that memory is a pickle of theirs, with
the weights beside it.
"""

import mmap
import os
import pickle
import struct
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, Final

_HEAD: Final = struct.Struct("<QQ")  # bytes of the pickle, how many buffers follow it
_SIZE: Final = struct.Struct("<Q")
_ALIGNED: Final = 64


def send(connection: Connection, what: object) -> None:
    """Hand something over.

    Raises:
        OSError: nobody is at the other end.
    """
    buffers = list[pickle.PickleBuffer]()
    content = pickle.dumps(what, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    sizes = b"".join(_SIZE.pack(len(view)) for view in views)
    memory = os.memfd_create("handover")
    try:
        at = 0
        for part in (_HEAD.pack(len(content), len(views)) + sizes + content, *views):
            rest = memoryview(part)
            start = at
            while rest:
                written = os.pwrite(memory, rest, at)
                rest, at = rest[written:], at + written
            at = start + _room(len(part))
        os.ftruncate(memory, max(at, 1))
        send_handle(connection, memory, 0)
    finally:
        os.close(memory)


def receive(connection: Connection) -> Any:
    """Take what is handed over, arrays read-only; waits for it.

    Raises:
        EOFError, OSError: nobody is at the other end any more.
    """
    memory = recv_handle(connection)
    try:
        view = memoryview(mmap.mmap(memory, 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ))
    finally:
        os.close(memory)
    length, count = _HEAD.unpack_from(view)
    at = _HEAD.size
    sizes = [_SIZE.unpack_from(view, at + number * _SIZE.size)[0] for number in range(count)]
    at += count * _SIZE.size
    content, at = view[at : at + length], _room(at + length)
    buffers = list[memoryview]()
    for size in sizes:
        buffers.append(view[at : at + size])
        at += _room(size)
    return pickle.loads(content, buffers=buffers)


def _room(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED
