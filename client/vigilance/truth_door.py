"""Later truths as they are sent: HL7 v2 over MLLP (Transport Specification: MLLP, release 1), for a laboratory's feed.

A message is acknowledged once what it says is on the disk: AA, all of it; AE, some of it was not taken in, and ERR says
what and why, so that it stands in the sender's queue before a person; AR, it is none that is taken here. What was taken
in of a message stays, for the same again changes nothing. A message that never ends, or ends early, is none.
"""

import contextlib
import logging
import socket
import ssl
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Final

from client.store.site import Site
from client.vigilance import later, later_hl7

log = logging.getLogger(__name__)

_START: Final = b"\x0b"
_END: Final = b"\x1c\r"
_MOST_BYTES: Final = 4 << 20
_MOST_SENDERS: Final = 16
_IDLE_SECONDS: Final = 300.0


class TruthDoor:
    """Listens until `close`.

    Args:
        listener: a bound socket that listens; it is closed with the door.
        tls: what a sender has to meet; None: nothing.
        allowed: where senders may be.
    """

    def __init__(
        self,
        site: Site,
        listener: socket.socket,
        tls: ssl.SSLContext | None,
        allowed: tuple[IPv4Network | IPv6Network, ...],
    ) -> None:
        self._site = site
        self._listener = listener
        self._tls = tls
        self._allowed = allowed
        self._closing = threading.Event()
        self._room = threading.BoundedSemaphore(_MOST_SENDERS)
        self._thread = threading.Thread(target=self._listen, name="truth door", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no further message; one that is being taken in is not acknowledged, and comes again."""
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(1.0)

    def _listen(self) -> None:
        while not self._closing.is_set():
            try:
                connection, address = self._listener.accept()
            except OSError:
                if not self._closing.wait(0.1):
                    continue
                return
            known = any(ip_address(address[0]) in network for network in self._allowed)
            if not known or not self._room.acquire(blocking=False):
                log.warning("a sender of truths was turned away: %s", "too many at once" if known else "not allowed")
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="truths", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(_IDLE_SECONDS)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            for message in _messages(connection):
                if self._closing.is_set():
                    return
                connection.sendall(_START + self._answer(message).encode() + _END)
        except OSError as error:  # ssl.SSLError is one
            log.info("a sender of truths went: %s", type(error).__name__)
        finally:
            connection.close()
            self._room.release()

    def _answer(self, message: bytes) -> str:
        try:
            text = message.decode("utf-8")
        except UnicodeDecodeError:
            return _acknowledgement(message.decode("latin-1"), "AR", ("it is not in UTF-8",))
        kind, processing = _field(text, 9), _field(text, 11)
        if not text.startswith("MSH") or kind.split(text[4:5] or "^")[:2] != ["ORU", "R01"] or processing != "P":
            return _acknowledgement(text, "AR", ("only ORU^R01 in production is taken here",))
        try:
            said = later_hl7.statements(text, self._site.config.truth)
            taken = later.take(self._site, said, "hl7", f"HL7 {_field(text, 3)} {_field(text, 4)}".strip())
        except Exception:
            log.exception("a message of truths was not taken in")
            return _acknowledgement(text, "AE", ("it could not be stored: send it again",))
        log.info("truths: %d new, %d changed, %d refused", taken.new, taken.changed, len(taken.refused))
        why = tuple(f"{one.place}: {one.why}" for one in taken.refused)
        return _acknowledgement(text, "AE" if why else "AA", why)


def _messages(connection: socket.socket) -> Iterator[bytes]:
    """What comes between start and end of block, until the sender goes or sends what is no block."""
    held = bytearray()
    while True:
        end = held.find(_END)
        if end >= 0:
            block, held = bytes(held[:end]), held[end + len(_END) :]
            yield block[len(_START) :]
            continue
        if len(held) > _MOST_BYTES:
            log.warning("a sender of truths sent a message without end")
            return
        came = connection.recv(65536)
        if not came:
            return
        held += came
        if not held.startswith(_START):
            log.warning("a sender of truths sent what is no MLLP block")
            return


def _field(message: str, number: int) -> str:
    """A field of MSH, whose first is the separator itself."""
    fields = message.split("\r", 1)[0].split(message[3:4] or "|")
    return fields[number - 1] if len(fields) >= number else ""


def _acknowledgement(message: str, code: str, why: tuple[str, ...]) -> str:
    """ACK (chapter 2.9): whose message, and what of it was not taken."""
    now = datetime.now(UTC).strftime("%Y%m%d%H%M%S+0000")
    names = [_plain(_field(message, number)) for number in (5, 6, 3, 4)]
    control, processing = _plain(_field(message, 10)), _plain(_field(message, 11)) or "P"
    segments = [
        rf"MSH|^~\&|{'|'.join(names)}|{now}||ACK^R01^ACK|{uuid.uuid4().hex[:20]}|{processing}|2.5.1",
        f"MSA|{code}|{control}",
        *(f"ERR|||207^Application internal error^HL70357|E||||{_plain(one)}" for one in why),
    ]
    return "".join(f"{one}\r" for one in segments)


def _plain(text: str) -> str:
    """Without what would end a field or a segment here."""
    return "".join(" " if one in "|^~\\&" or not one.isprintable() else one for one in text)
