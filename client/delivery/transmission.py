"""An association over which objects go out, from one thread: files are cut into PDUs as they lie there.

pynetdicom negotiates. Once the peer has accepted, its two threads are ended and the connection is ours: there each 16
KiB of an object goes through a queue, a state machine and two threads that look for work every millisecond, which takes
several times what sending takes.

`tests/unit/test_transmission.py` holds the private names used here against the pinned version.

Source: PS3.7 9.1.1, 9.1.5 and 9.3 (C-STORE, C-ECHO), PS3.8 9.2 and 9.3 (release, abort, P-DATA-TF).
"""

import contextlib
import logging
import select
import socket
import ssl
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ABORT_RQ, A_RELEASE_RP, A_RELEASE_RQ
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made from a table at import

from client.dicom import messages
from client.dicom.messages import Malformed
from client.dicom.requestor import no_delay

log = logging.getLogger(__name__)

_LARGEST_PDU: Final = 1 << 20  # where the peer takes any
_LEAST_PDU: Final = 64  # a peer that takes no more takes nothing
_AT_ONCE: Final = 1 << 20  # bytes that are given to the socket in one call
_LONGEST_ANSWER: Final = 1 << 20
_LONGEST_ID: Final = 0xFFFF
_TRANSIENT: Final = 2
_JOIN_SECONDS: Final = 10.0
_FAREWELL_SECONDS: Final = 5.0


class Transmission:
    """An association with a peer that takes objects; it may not have come about: ask `established`.

    Args:
        entity: ourselves, with the contexts that are asked for and its timeouts.
        tls: None: without.
        patience: seconds that the peer may take to answer.

    Attributes:
        accepted: the contexts that the peer takes.
        rejected: those that it does not.
        refusal: why it wants no association with us at all (PS3.8 9.3.4); empty where it does, or is not there.
    """

    def __init__(
        self, entity: AE, host: str, port: int, ae_title: str, tls: ssl.SSLContext | None, patience: float
    ) -> None:
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, no_delay),
            (evt.EVT_FSM_TRANSITION, _end_provider),
            (evt.EVT_ESTABLISHED, _end_reactor),
        ]
        association = entity.associate(
            host, port, ae_title=ae_title, evt_handlers=handlers, tls_args=(tls, host) if tls else None
        )
        self._patience = patience
        self._message = 0
        self._received = bytearray()
        self._socket: socket.socket | None = None
        self.accepted: Sequence[PresentationContext] = association.accepted_contexts
        self.rejected: Sequence[PresentationContext] = association.rejected_contexts
        self.refusal = refusal(association)
        longest = association.acceptor.maximum_length if association.is_established else 0
        self._longest = min(longest or _LARGEST_PDU, _LARGEST_PDU)
        self._take_over(association)

    def _take_over(self, association: Association) -> None:
        transport: Any = association.dul.socket
        if association.is_established and transport.socket is not None and self._longest >= _LEAST_PDU:
            association.dul.join(_JOIN_SECONDS)
            association.join(_JOIN_SECONDS)
            self._socket = transport.socket
        elif transport is not None and (self.accepted or self.rejected):
            transport.close()  # the peer has accepted, and takes nothing of ours

    @property
    def established(self) -> bool:
        """Whether it stands; a peer that has ended it meanwhile is answered."""
        if self._socket is not None and self._has_spoken(self._socket):
            try:
                self._hear(time.monotonic() + _FAREWELL_SECONDS)
                self._end(abort=True)  # an answer that nobody asked for
            except (OSError, Malformed):
                self._end(abort=True)
        return self._socket is not None

    def store(self, context: PresentationContext, sop_class: str, sop_uid: str, dataset: memoryview) -> int:
        """Send an object; the status that the peer gives (PS3.4 table B.2-1).

        Args:
            context: one of `accepted`.
            dataset: encoded in the context's transfer syntax.

        Raises:
            TimeoutError: the peer takes no more bytes, or gives no answer.
            OSError: the association has ended.
        """
        self._message = self._message % _LONGEST_ID + 1
        request = messages.command(
            {
                0x0002: messages.uid(sop_class),
                0x0100: messages.C_STORE_RQ,
                0x0110: self._message,
                0x0700: 0,  # medium
                0x0800: messages.HAS_DATASET,
                0x1000: messages.uid(sop_uid),
            }
        )
        return self._ask(context, request, messages.C_STORE_RSP, dataset)

    def echo(self) -> int | None:
        """Ask whether it is there; its answer's status, None where it has not accepted to be asked.

        Raises:
            OSError: as `store`.
        """
        context = next((one for one in self.accepted if one.abstract_syntax == Verification), None)
        if context is None:
            return None
        self._message = self._message % _LONGEST_ID + 1
        request = messages.command(
            {
                0x0002: messages.uid(Verification),
                0x0100: messages.C_ECHO_RQ,
                0x0110: self._message,
                0x0800: messages.NO_DATASET,
            }
        )
        return self._ask(context, request, messages.C_ECHO_RSP)

    def release(self) -> None:
        """End it in order, where it stands."""
        if self._socket is None:
            return
        with contextlib.suppress(OSError, Malformed):
            self._send([A_RELEASE_RQ().encode()], self._socket)
            deadline = time.monotonic() + min(self._patience, _FAREWELL_SECONDS)
            while self._pdu(deadline)[0] != messages.RELEASE_RP:
                pass
        self._end()

    def _ask(self, context: PresentationContext, request: bytes, answer: int, dataset: memoryview | None = None) -> int:
        number = context.context_id
        if self._socket is None or number is None:
            raise ConnectionError("the association has ended")
        try:
            self._send(messages.pdus(number, request, messages.COMMAND, self._longest), self._socket)
            if dataset is not None:
                self._send(messages.pdus(number, dataset, 0, self._longest), self._socket)
            command = self._hear(time.monotonic() + self._patience)
            if messages.number(command, 0x0100) != answer or messages.number(command, 0x0120) != self._message:
                raise Malformed("an answer to something else")
            return messages.number(command, 0x0900)
        except Malformed as error:
            log.warning("an association is aborted: %s", error)
            self._end(abort=True)
            raise ConnectionError("the answer is none") from error
        except OSError:
            self._end(abort=True)
            raise

    def _send(self, pieces: Iterable[bytes | memoryview], peer: socket.socket) -> None:
        gathered, size = list[bytes | memoryview](), 0
        peer.settimeout(self._patience)  # for each call: a slow line may take its time
        for piece in pieces:
            gathered.append(piece)
            size += len(piece)
            if size >= _AT_ONCE:
                peer.sendall(b"".join(gathered))
                gathered, size = [], 0
        peer.sendall(b"".join(gathered))

    def _hear(self, deadline: float) -> dict[int, bytes]:
        """The next command; a request to release is answered, and ends it like an abort.

        Raises:
            OSError: the association has ended, or nothing came in time.
            Malformed: it is no command.
        """
        command = bytearray()
        while True:
            kind, content = self._pdu(deadline)
            if kind == messages.RELEASE_RQ and self._socket is not None:
                self._send([A_RELEASE_RP().encode()], self._socket)
                self._end()
                raise ConnectionError("the peer has released the association")
            if kind == messages.ABORT:
                self._end()
                raise ConnectionError("the peer has aborted the association")
            if kind != messages.P_DATA:
                raise Malformed(f"PDU of type 0x{kind:02x}")
            while content:
                size = int.from_bytes(content[:4])
                if len(content) < messages.PDV_HEADER or not 2 <= size <= len(content) - 4:
                    raise Malformed("a presentation data value that is cut")
                control, value, content = content[5], content[6 : 4 + size], content[4 + size :]
                if not control & messages.COMMAND or len(command) + len(value) > _LONGEST_ANSWER:
                    raise Malformed("an answer with a dataset, or without end")
                command += value
                if control & messages.LAST:
                    return messages.elements(command)

    def _pdu(self, deadline: float) -> tuple[int, bytes]:
        header = self._exactly(6, deadline)
        length = int.from_bytes(header[2:6])
        if length > _LONGEST_ANSWER:
            raise Malformed("a PDU without end")
        return header[0], self._exactly(length, deadline)

    def _exactly(self, size: int, deadline: float) -> bytes:
        while len(self._received) < size:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer")
            if self._socket is None:
                raise ConnectionError("the association has ended")
            self._socket.settimeout(left)
            _acknowledge_at_once(self._socket)
            received = self._socket.recv(4096)
            if not received:
                self._end()
                raise ConnectionError("the peer has closed the connection")
            self._received += received
        content = bytes(self._received[:size])
        del self._received[:size]
        return content

    def _has_spoken(self, peer: socket.socket) -> bool:
        if self._received or (isinstance(peer, ssl.SSLSocket) and peer.pending()):
            return True
        waiting = select.poll()
        waiting.register(peer, select.POLLIN)
        return bool(waiting.poll(0))

    def _end(self, *, abort: bool = False) -> None:
        peer, self._socket = self._socket, None
        if peer is None:
            return
        with contextlib.suppress(OSError):
            if abort:
                said = A_ABORT_RQ()
                said.source, said.reason_diagnostic = 0x00, 0x00
                peer.settimeout(0.0)  # where it does not read, it is not told
                peer.sendall(said.encode())
        with contextlib.suppress(OSError):
            peer.shutdown(socket.SHUT_RDWR)
        peer.close()


def refusal(association: Association) -> str:
    """Why the peer wants no association with us (PS3.8 9.3.4); empty where it does, or is not there."""
    if not association.is_rejected:
        return ""
    said = association.acceptor.primitive
    reason = said.reason_str if said is not None else "(no value available)"
    lasting = "" if said is None or said.result != _TRANSIENT else ", for now"
    return f"{reason[0].lower()}{reason[1:]}{lasting}"


def _acknowledge_at_once(peer: socket.socket) -> None:
    """A peer that writes its answer in two pieces, and leaves Nagle's algorithm on, sends the second one only when the
    first is acknowledged, which a kernel puts off by 40 ms; many a PACS is built so. It is no lasting setting: tcp(7).
    """
    if hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _end_provider(event: evt.Event) -> None:
    """The peer has accepted: pynetdicom's provider reads no further."""
    if event.action == "AE-3":
        dul: Any = event.assoc.dul
        dul.kill_dul()


def _end_reactor(event: evt.Event) -> None:
    """Its reactor, which is started next, ends at once; the association still counts as established."""
    association: Any = event.assoc
    association._kill = True
