"""The ledger against the wire: does a network capture show what the ledger says left, and nothing more?

TLS hides what is in a connection, not how much, when, between whom, and who opened it. Compared are, for the time of
the capture: that the hospital opened every connection and speaks TLS in it; that it speaks to nobody outside but the
coordinator; that at least as many bytes went as the ledger says (nothing is in the ledger that did not go); and that
what went beyond them is no more than Flower and TLS need around the messages. What is larger than a question, an
uninterrupted run of more than `QUESTION` bytes, has to be in the ledger nearly to the byte; the questions that a
SuperNode asks between messages have to be as small and as rare as they are known to be.

A part of a message that the coordinator has already, by its digest, Flower sends no second time; then less goes than
the ledger says, and that is shown, too.

What this cannot show: what stands in those questions. That is held by the code that is installed, and by a test that
reads all of them in the clear (tests/integration/test_loop.py).
"""

import json
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from typing import Final

from client.store.ledger import Ledger
from models.errors import ConfigurationError, VigieError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

QUESTION: Final = 8 * 1024
"""Bytes. Flower's questions are under 6 KiB with their headers, and the first carries a TLS handshake."""
QUESTIONS_PER_SECOND: Final = 30
"""A hospital's two SuperNodes ask ten times a second each at most, soon after a message, and mostly far less often."""
QUESTIONS_PER_MESSAGE: Final = 40
AROUND_A_RUN: Final = 8 * 1024
"""Bytes around an object that is pushed: the request's headers and its envelope."""
SHARE: Final = 0.02
"""Of the bytes of a message: TLS adds 22 to each 16 KiB, Flower numbers its parts of some megabytes."""

SENT_AGAIN: Final = 8 * 1024
SHARE_AGAIN: Final = 0.02
"""Of the bytes that were sent: what a line loses is sent again, under the same numbers; so could be something else."""
_TCP: Final = "6"

_FIELDS: Final = (
    "frame.time_epoch",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "ip.proto",
    "ipv6.nxt",
    "tcp.stream",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.flags.syn",
    "tcp.flags.ack",
    "tcp.seq",
    "tcp.len",
    "tls.handshake.type",
)


class CaptureUnreadable(VigieError):
    """The capture cannot be read, or tshark cannot be run."""

    code = "capture-unreadable"


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet.

    Attributes:
        at: seconds since the epoch.
        stream: number of the TCP connection; None: no TCP, or something else around it.
        opens: it is the first of a connection.
        size: bytes of the connection's in it.
        ends_at: where in the sender's bytes its last one stands, as TCP counts them, modulo 2^32.
        greets: a TLS client's greeting is in it.
    """

    at: float
    source: Address
    target: Address
    stream: int | None = None
    source_port: int = 0
    target_port: int = 0
    opens: bool = False
    ends_at: int = 0
    greets: bool = False
    size: int = 0


@dataclass(frozen=True, slots=True)
class Crossed:
    """A message of the ledger."""

    at: float
    direction: str
    size: int


@dataclass(frozen=True, slots=True)
class Border:
    """Who is where.

    Attributes:
        coordinator: its addresses.
        port: on which it is called.
        hospital: the hospital's own addresses; empty: whoever calls the coordinator.
        inside: the hospital's networks: who is in them is not outside.
    """

    coordinator: frozenset[Address]
    port: int
    hospital: frozenset[Address] = frozenset()
    inside: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was compared."""

    name: str
    ok: bool
    found: str


@dataclass
class _Connection:
    """One TCP connection to the coordinator, while it is read."""

    opened: bool = False
    greeted: bool = False
    sent: int = 0
    received: int = 0
    run: int = 0
    again: int = 0
    questions: list[int] = field(default_factory=lambda: list[int]())
    pushed: list[int] = field(default_factory=lambda: list[int]())
    _seen: dict[bool, int] = field(default_factory=lambda: dict[bool, int]())

    def take(self, packet: Packet, outward: bool) -> None:
        self.opened = self.opened or (packet.opens and outward)
        self.greeted = self.greeted or packet.greets
        size = self._new(packet, outward)
        if outward:
            self.sent += size
            self.run += size
        elif size:
            self.received += size
            self.end_run()

    def end_run(self) -> None:
        if self.run:
            (self.pushed if self.run > QUESTION else self.questions).append(self.run)
        self.run = 0

    def _new(self, packet: Packet, outward: bool) -> int:
        """Bytes up to here that were not counted: what was sent twice counts once, what the capture missed counts."""
        first = outward not in self._seen
        before = self._seen.setdefault(outward, packet.ends_at)
        size = (packet.ends_at - before) % 2**32
        if size >= 2**31 or (size == 0 and not first):  # a part that the capture has shown before
            self.again += packet.size if outward else 0
            return 0
        self._seen[outward] = packet.ends_at
        return size


def reconcile(packets: Iterable[Packet], crossed: Sequence[Crossed], border: Border) -> list[Check]:
    """Hold a capture against the ledger; pure.

    Args:
        packets: in the order of time.
        crossed: the ledger's messages, of any time.
        border: who is where.
    """
    connections: dict[int, _Connection] = {}
    outside: dict[str, int] = {}
    inward: dict[str, int] = {}
    began, ended = float("inf"), 0.0
    own, others = set(border.hospital), Counter[tuple[Address, Address, bool]]()
    for packet in packets:
        began, ended = min(began, packet.at), max(ended, packet.at)
        to = packet.target in border.coordinator and packet.target_port == border.port
        from_ = packet.source in border.coordinator and packet.source_port == border.port
        if packet.stream is not None and (to or from_):
            connections.setdefault(packet.stream, _Connection()).take(packet, to)
            own.add(packet.source if to else packet.target)
        else:  # whatever it is, and whoever opened it: the start of a connection may not be in the capture
            others[packet.source, packet.target, packet.opens] += 1
    for (source, target, opens), count in others.items():
        if source in own and not _within(target, own, border.inside):
            outside[str(target)] = outside.get(str(target), 0) + count
        if opens and target in own and not _within(source, own, border.inside):
            inward[str(source)] = inward.get(str(source), 0) + count
    for connection in connections.values():
        connection.end_run()
    told = [one for one in crossed if began <= one.at <= ended]
    return [
        *_ends(connections.values(), outside, inward),
        *_bytes(list(connections.values()), told, max(ended - began, 0.0)),
    ]


def _ends(connections: Iterable[_Connection], outside: Mapping[str, int], inward: Mapping[str, int]) -> Iterator[Check]:
    found = list(connections)
    yield Check("connections", bool(found), f"{len(found)} to the coordinator")
    late = sum(not one.opened for one in found)
    yield Check(
        "opened from here",
        not late and not inward,
        f"{late} of which the capture does not show that the hospital opened them; "
        f"from outside: {_named(inward, 'connections')}",
    )
    plain = sum(not one.greeted and bool(one.sent or one.received) for one in found)
    yield Check("TLS", not plain, f"{plain} connections without a TLS greeting")
    yield Check("nobody else", not outside, f"to other addresses outside: {_named(outside, 'packets')}")


def _bytes(connections: Sequence[_Connection], told: Sequence[Crossed], seconds: float) -> Iterator[Check]:
    sent, received = sum(one.sent for one in connections), sum(one.received for one in connections)
    out = [one.size for one in told if one.direction == "out"]
    came = [one.size for one in told if one.direction == "in"]
    yield Check(
        "all that is in the ledger went",
        sent >= sum(out),
        f"{sent:,} bytes out, the ledger has {sum(out):,} in {len(out)} messages",
    )
    yield Check(
        "all that is in the ledger came",
        received >= sum(came),
        f"{received:,} bytes in, the ledger has {sum(came):,} in {len(came)} messages",
    )
    runs = [size for one in connections for size in one.pushed]
    most = sum(out) * (1 + SHARE) + AROUND_A_RUN * len(runs)
    yield Check(
        "nothing large beside it",
        sum(runs) <= most,
        f"{sum(runs):,} bytes in {len(runs)} runs larger than a question, {most:,.0f} are explained",
    )
    again, most_again = sum(one.again for one in connections), SENT_AGAIN + SHARE_AGAIN * sent
    yield Check(
        "little is sent again",
        again <= most_again,
        f"{again:,} bytes under numbers that had been sent, {most_again:,.0f} are explained by a bad line",
    )
    questions = [size for one in connections for size in one.questions]
    limit = QUESTIONS_PER_SECOND * seconds + QUESTIONS_PER_MESSAGE * len(told) + 2 * len(connections)
    yield Check(
        "questions are rare",
        len(questions) <= limit,
        f"{len(questions)} questions of {sum(questions):,} bytes in {seconds:.0f} s, {limit:.0f} are explained",
    )


def _within(address: Address, own: set[Address], inside: Sequence[Network]) -> bool:
    """Whether an address is the hospital's, or never leaves its own cable."""
    if address in own or address.is_multicast or address.is_link_local or str(address) == "255.255.255.255":
        return True
    return any(address.version == network.version and address in network for network in inside)


def _named(found: Mapping[str, int], what: str) -> str:
    return ", ".join(f"{count} {what} {name}" for name, count in sorted(found.items())) or "none"


# ── From the ledger, the settings and tshark ─────────────────────────────────────────────────────────────────────────


def crossings(ledger: Ledger) -> list[Crossed]:
    """What crossed, of all times."""
    found: list[Crossed] = []
    for entry in ledger.entries("border.crossed"):
        facts = json.loads(entry.facts)
        found.append(Crossed(entry.at, facts["direction"], int(facts["bytes"])))
    return found


def addresses(host: str) -> frozenset[Address]:
    """All addresses of a host.

    Raises:
        ConfigurationError: it has none that this machine knows.
    """
    try:
        return frozenset(ip_address(str(found[4][0]).partition("%")[0]) for found in socket.getaddrinfo(host, None))
    except OSError as error:
        raise ConfigurationError(f"{host!r} has no address here: {error}") from error


def read(capture: Path, port: int) -> Iterator[Packet]:
    """The IP packets of a capture, in order, as tshark reads them.

    Args:
        port: TLS is spoken there.

    Raises:
        CaptureUnreadable: tshark is not installed, or cannot read the file.
    """
    command = ["tshark", "-n", "-r", str(capture), "-d", f"tcp.port=={port},tls", "-Y", "ip or ipv6"]
    command += ["-T", "fields", "-E", "separator=/t", "-E", "occurrence=f"]
    for name in _FIELDS:
        command += ["-e", name]
    with tempfile.TemporaryFile("w+") as complaints:  # a pipe would fill up while the packets are read
        try:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints, text=True)
        except FileNotFoundError:
            raise CaptureUnreadable("tshark is not installed: it comes with Wireshark") from None
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                yield _packet(line.rstrip("\n").split("\t"))
        complaints.seek(0)
        said = complaints.read()
    if process.returncode:
        lines = [line for line in said.splitlines() if line and not line.startswith("Running as user")]
        raise CaptureUnreadable(f"{capture}: {lines[-1] if lines else f'tshark ended with {process.returncode}'}")


def _packet(values: Sequence[str]) -> Packet:
    at, v4_source, v4_target, v6_source, v6_target, v4_next, v6_next, *rest = values
    stream, source, target, syn, ack, seq, size, greeting = rest
    if (v4_next if v4_source else v6_next) != _TCP:  # a tunnel, or what quotes a packet, may have TCP within
        return Packet(float(at), ip_address(v4_source or v6_source), ip_address(v4_target or v6_target))
    return Packet(
        at=float(at),
        source=ip_address(v4_source or v6_source),
        target=ip_address(v4_target or v6_target),
        stream=int(stream) if stream else None,
        source_port=int(source or 0),
        target_port=int(target or 0),
        opens=_set(syn) and not _set(ack),
        ends_at=(int(seq or 0) + int(size or 0) + _set(syn)) % 2**32,  # a greeting of TCP counts as one
        greets=greeting == "1",
        size=int(size or 0),
    )


def _set(flag: str) -> bool:
    return flag in ("1", "True")  # which of the two depends on tshark's release
