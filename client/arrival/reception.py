"""An established association, read by one thread: images go from the socket to the disk in a few large pieces.

pynetdicom negotiates. Once it has accepted, its own reactor is stopped and this takes the connection over: there an
image is copied five times, in pieces of 4 KiB, and handed between two threads that look for work every millisecond.
Here a dataset is gathered in one block that is used again and again, so that a dataset larger than the memory needs no
more than that, and each call that waits for the interpreter's lock moves as much as it can. Every other message
(C-ECHO, and what may come to be served) is assembled here and served by pynetdicom's own service classes; release and
abort go through its state machine.

`tests/unit/test_reception.py` holds the private names used here against the pinned version.

Source: PS3.7 9.1.1 and E.1 (C-STORE), PS3.8 9.3.5 and annex E (P-DATA-TF, message control header).
"""

import contextlib
import logging
import queue
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.dimse_primitives import C_CANCEL
from pynetdicom.fsm import InvalidEventError
from pynetdicom.pdu import A_ABORT_RQ, A_RELEASE_RQ
from pynetdicom.pdu_primitives import P_DATA

from client.dicom import messages
from client.dicom.messages import Malformed

log = logging.getLogger(__name__)

_AHEAD: Final = 64 << 10  # read at once where headers are expected
_BLOCK: Final = 4 << 20  # of a dataset, gathered before it is written; most images are one block
_LONGEST_COMMAND: Final = 16 << 10
_LONGEST_IDENTIFIER: Final = 4 << 20
_LINGER_SECONDS: Final = 2.0
_JOIN_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class Announcement:
    """What a C-STORE request says of the dataset that follows it; nothing of it has been checked."""

    association: Association
    sop_class: str
    sop_uid: str
    transfer_syntax: str
    originator: str


class Incoming(Protocol):
    """Where a dataset goes. None of it raises: what is wrong is told by the status."""

    def write(self, content: memoryview) -> None:
        """Take the next bytes; they change once this has returned."""
        ...

    def keep(self, content: memoryview) -> int:
        """The last bytes, the dataset is whole: the status to answer with, a success only when it is kept for good."""
        ...

    def discard(self) -> None:
        """It will never be whole."""
        ...


class _Gone(Exception):
    """The connection has ended, or this node is closing it."""


def hand_over(event: evt.Event) -> None:
    """For `EVT_FSM_TRANSITION`: end pynetdicom's reactor once it has sent its acceptance, before it reads on.

    A connection that ends before it has asked for an association is told to whoever waits for that: pynetdicom leaves
    it waiting for the whole timeout, and a few port scans would take every place there is. A peer that talks on before
    it has been accepted is aborted, and its reactor ended too: it would meet the acceptance in a state that has none.
    """
    dul: Any = event.assoc.dul
    if event.action == "AE-7" or (event.action == "AA-8" and event.current_state == "Sta3"):
        dul.kill_dul()
    elif event.next_state == "Sta1" and event.current_state in ("Sta2", "Sta13"):
        dul.to_user_queue.put(None)  # as if the time were over


class Reception:
    """The receiving side of one association.

    Args:
        association: just established as acceptor, with `hand_over` bound to its transitions.
        begin: asked for every C-STORE request where its dataset is to go.
    """

    def __init__(self, association: Association, begin: Callable[[Announcement], Incoming]) -> None:
        self._association = association
        self._dul = association.dul
        self._begin = begin
        self._ahead = memoryview(bytearray(_AHEAD))
        self._start = self._end = 0
        self._block = memoryview(bytearray(_BLOCK))  # no memory before it is touched
        self._gathered = 0
        self._flags = 0
        self._context = 0
        self._command = bytearray()
        self._dataset: bytearray | None = None  # of a message that pynetdicom serves
        self._incoming: Incoming | None = None
        self._request: dict[int, bytes] = {}
        self._stopping = False
        self._ended = threading.Event()
        self._socket: socket.socket | None = None

    def run(self) -> None:
        """Serve the association until it ends; called in its own thread."""
        association, dul = self._association, self._dul
        try:
            dul.join(_JOIN_SECONDS)
            self._pump()
            wrapped: Any = dul.socket
            if dul.state_machine.current_state == "Sta6" and wrapped.socket is not None:
                connection: socket.socket = wrapped.socket
                self._prepare(connection, association.network_timeout)
                self._socket = connection
                self._serve()
        finally:
            if self._incoming is not None:
                self._incoming.discard()
                self._incoming = None
            self._close()
            association.kill()
            self._ended.set()

    def _prepare(self, connection: socket.socket, timeout: float | None) -> None:
        """Nothing waits for the peer without end, neither reading nor writing."""
        if isinstance(connection, ssl.SSLSocket) or timeout is None:
            connection.settimeout(timeout)
            return
        # a timeout of Python's polls before every call; the kernel's lets one call wait for a whole fragment
        connection.settimeout(None)
        limit = struct.pack("ll", int(timeout), int(timeout % 1 * 1e6))
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        self._flags = socket.MSG_WAITALL

    def stop(self) -> None:
        """From another thread: an image whose last byte has come is still answered, then the association is aborted."""
        self._stopping = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # of the socket below TLS, whose own shutdown would also end our writing
                socket.socket.shutdown(self._socket, socket.SHUT_RD)

    def wait(self, timeout: float) -> bool:
        """Whether it has ended within so many seconds."""
        return self._ended.wait(timeout)

    def _serve(self) -> None:
        association = self._association
        try:
            while self._dul.state_machine.current_state == "Sta6":
                self._read_pdu()
        except _Gone:
            if self._stopping:
                self._abort()
            else:
                self._act("Evt17")
        except (TimeoutError, BlockingIOError):
            log.warning("an association was silent for %.0f s and is aborted", association.network_timeout or 0.0)
            self._abort()
        except OSError:
            self._act("Evt17")
        except Malformed as error:
            log.warning("an association is aborted: %s", error)
            self._act("Evt19")
        if not association.is_released:
            association.is_aborted = True
            evt.trigger(association, evt.EVT_ABORTED, {})

    def _read_pdu(self) -> None:
        header = self._exactly(6)
        kind, length = header[0], int.from_bytes(header[2:6])
        if kind == messages.P_DATA:
            self._read_values(length)
        elif kind == messages.RELEASE_RQ and length == 4:
            self._exactly(4)
            self._release()
        elif kind == messages.ABORT and length == 4:
            pdu = A_ABORT_RQ()
            pdu.decode(b"\x07\0\0\0\0\x04" + bytes(self._exactly(4)))
            self._act("Evt16", pdu)
        else:
            raise Malformed(f"PDU of type 0x{kind:02x} and length {length}")

    def _read_values(self, remaining: int) -> None:
        """The presentation data values of one P-DATA-TF PDU."""
        if not remaining:
            raise Malformed("a P-DATA-TF without values")
        while remaining:
            if remaining < 6:
                raise Malformed("a presentation data value that is cut")
            header = self._exactly(6)
            size, context, control = int.from_bytes(header[:4]), header[4], header[5]
            remaining -= 4 + size
            if size < 2 or remaining < 0:
                raise Malformed("a presentation data value longer than its PDU")
            if control & messages.COMMAND:
                self._read_command(context, size - 2, last=bool(control & messages.LAST))
            else:
                self._read_dataset(context, size - 2, last=bool(control & messages.LAST))

    def _read_command(self, context: int, size: int, *, last: bool) -> None:
        if self._incoming is not None or self._dataset is not None:
            raise Malformed("a command inside a dataset")
        if self._command and context != self._context:
            raise Malformed("a message in two presentation contexts")
        if len(self._command) + size > _LONGEST_COMMAND:
            raise Malformed("a command without end")
        self._context = context
        self._command += self._read(size)
        if last:
            self._understand()

    def _understand(self) -> None:
        """A command is whole: say where its dataset goes, or serve it where it has none."""
        association = self._association
        request = self._request = messages.elements(self._command)
        if self._context not in association._accepted_cx:  # pyright: ignore[reportPrivateUsage]
            raise Malformed("a message in a presentation context that was not accepted")
        has_dataset = messages.number(request, 0x0800) != messages.NO_DATASET
        if messages.number(request, 0x0100) == messages.C_STORE_RQ and has_dataset:
            messages.number(request, 0x0110)  # without a message ID there is nothing to answer to
            self._command.clear()
            accepted = association._accepted_cx[self._context]  # pyright: ignore[reportPrivateUsage]
            self._incoming = self._begin(
                Announcement(
                    association,
                    messages.text(request, 0x0002),
                    messages.text(request, 0x1000),
                    str(accepted.transfer_syntax[0]),
                    messages.text(request, 0x1030),  # MoveOriginatorApplicationEntityTitle
                )
            )
        elif has_dataset:
            self._dataset = bytearray()
        else:
            self._serve_message()

    def _read_dataset(self, context: int, size: int, *, last: bool) -> None:
        if context != self._context:
            raise Malformed("a message in two presentation contexts")
        if self._incoming is not None:
            self._gather(self._incoming, size)
            if last:
                content, self._gathered = self._block[: self._gathered], 0
                status = self._incoming.keep(content)
                self._incoming = None
                self._answer(status)
        elif self._dataset is not None:
            if len(self._dataset) + size > _LONGEST_IDENTIFIER:
                raise Malformed("an identifier without end")
            self._dataset += self._read(size)
            if last:
                self._serve_message()
        else:
            raise Malformed("a dataset without a command")

    def _serve_message(self) -> None:
        """Let pynetdicom answer a message that has come whole."""
        values = [(self._context, b"\x03" + self._command)]
        if self._dataset is not None:
            values.append((self._context, b"\x02" + self._dataset))
        self._command, self._dataset = bytearray(), None
        primitive, message = P_DATA(), DIMSEMessage()
        try:
            found: Any = [[context, bytes(value)] for context, value in values]
            primitive.presentation_data_value_list = found
            message.decode_msg(primitive, self._association)
            request = message.message_to_primitive()
        except Exception as error:  # pydicom and pynetdicom raise nearly anything at a command that is none
            raise Malformed(f"a command that cannot be read ({type(error).__name__})") from error
        if not isinstance(request, C_CANCEL):  # of what is served here, nothing can be cancelled
            self._association._serve_request(cast(Any, request), self._context)  # pyright: ignore[reportPrivateUsage]
        self._pump()

    def _answer(self, status: int) -> None:
        command = _store_response(self._request, status)
        longest: Any = self._association.requestor.maximum_length or len(command) + messages.PDV_HEADER
        message = b"".join(messages.pdus(self._context, command, messages.COMMAND, longest))
        assert self._socket is not None
        self._socket.sendall(message)

    def _release(self) -> None:
        association = self._association
        self._act("Evt12", A_RELEASE_RQ())
        association.dul.receive_pdu()
        association.acse.send_release(is_response=True)
        self._pump()
        association.is_released = True
        association.is_established = False
        evt.trigger(association, evt.EVT_RELEASED, {})

    def _abort(self) -> None:
        self._association.acse.send_abort(0x00)
        self._pump()

    def _close(self) -> None:
        """End the connection: ours is the last word, and the peer gets a moment to read it."""
        dul = self._dul
        wrapped: Any = dul.socket
        if dul.state_machine.current_state == "Sta13" and self._socket is not None and wrapped.socket is not None:
            deadline = time.monotonic() + _LINGER_SECONDS
            with contextlib.suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_WR)
                # what is closed with unread bytes is reset, and our last word would be lost with it
                while not self._stopping and (left := deadline - time.monotonic()) > 0:
                    self._socket.settimeout(left)
                    if not self._socket.recv_into(self._ahead):
                        break
        if wrapped.socket is not None:
            wrapped.close()
            self._pump()

    def _act(self, event: str, pdu: A_ABORT_RQ | A_RELEASE_RQ | None = None) -> None:
        if pdu is not None:
            self._dul._recv_pdu.put(pdu)  # pyright: ignore[reportPrivateUsage]
        self._dul.state_machine.do_action(event)

    def _pump(self) -> None:
        """Do what pynetdicom's reactor would do now: send what its services have put down, take what has happened."""
        dul = self._dul
        while dul.state_machine.current_state != "Sta1":
            if dul.event_queue.empty() and not dul._process_recv_primitive():  # pyright: ignore[reportPrivateUsage]
                return
            try:
                dul.state_machine.do_action(dul.event_queue.get(block=False))
            except InvalidEventError:  # the connection went on, or ended, before this was to be sent
                with contextlib.suppress(queue.Empty):
                    dul.to_provider_queue.get(block=False)

    def _exactly(self, size: int) -> memoryview:
        """The next few bytes, in one piece."""
        if self._start + size > _AHEAD:
            rest = self._end - self._start
            self._ahead[:rest] = bytes(self._ahead[self._start : self._end])
            self._start, self._end = 0, rest
        while self._end - self._start < size:
            self._end += self._receive(self._ahead[self._end :])
        self._start += size
        return self._ahead[self._start - size : self._start]

    def _read(self, size: int) -> bytearray:
        """The next bytes; not more of them than somebody has checked."""
        content = bytearray(size)
        view = memoryview(content)
        while view:
            view = view[self._read_into(view) :]
        return content

    def _gather(self, incoming: Incoming, size: int) -> None:
        """The next bytes of a dataset, into the block; a full one is written."""
        while size:
            if self._gathered == _BLOCK:
                incoming.write(self._block)
                self._gathered = 0
            count = self._read_into(self._block[self._gathered : self._gathered + size])
            self._gathered += count
            size -= count

    def _read_into(self, view: memoryview) -> int:
        """Some of the next bytes: what has been read ahead, else what comes, straight to where it belongs."""
        if self._start == self._end:
            self._start = self._end = 0
            if len(view) >= _AHEAD:
                return self._receive(view, self._flags)
            self._end = self._receive(self._ahead)
        count = min(len(view), self._end - self._start)
        view[:count] = self._ahead[self._start : self._start + count]
        self._start += count
        return count

    def _receive(self, view: memoryview, flags: int = 0) -> int:
        assert self._socket is not None
        count = self._socket.recv_into(view, 0, flags)
        if not count:
            raise _Gone
        return count


def _store_response(request: dict[int, bytes], status: int) -> bytes:
    """PS3.7 table 9.3-2; the UIDs are given back as they came."""
    return messages.command(
        {
            0x0002: request.get(0x0002, b""),
            0x0100: messages.C_STORE_RSP,
            0x0120: request[0x0110],
            0x0800: messages.NO_DATASET,
            0x0900: status,
            0x1000: request.get(0x1000, b""),
        }
    )
