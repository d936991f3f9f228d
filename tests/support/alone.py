"""Runs a command where only loopback and one way out exist, and writes down every frame that tried to leave.

    unshare --net --mount python alone.py REPORT.json COMMAND…

Needs root. The way out is an interface that leads nowhere and carries the default routes; names are asked of an
address behind it. Afterwards three things are sent on purpose, so that an empty report cannot come from a deaf ear.
Ends with the command's status; 125 where the place cannot be made.
"""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

WAY_OUT = "wayout"
NAMES = "192.0.2.53"  # addresses of RFC 5737 and RFC 3849: nobody's
NOWHERE = "192.0.2.1"
NOWHERE6 = "2001:db8::1"
IMPOSSIBLE = 125
_ALL = 0x0003  # ETH_P_ALL


def make_place(scratch):
    """The interfaces and routes of this network namespace, and name resolution of this mount namespace."""
    for knob, value in (("accept_ra", 0), ("router_solicitations", 0), ("dad_transmits", 0), ("addr_gen_mode", 1)):
        # else the interface itself would say something when it comes up
        Path(f"/proc/sys/net/ipv6/conf/default/{knob}").write_text(str(value))
    _ip("link", "set", "lo", "up")
    try:
        _ip("link", "add", WAY_OUT, "type", "dummy")
    except subprocess.CalledProcessError:  # a kernel without it
        _ip("link", "add", WAY_OUT, "type", "veth", "peer", "name", "nobody")
        _ip("link", "set", "nobody", "up")
    _ip("link", "set", WAY_OUT, "arp", "off")
    _ip("addr", "add", "198.51.100.2/24", "dev", WAY_OUT)
    _ip("-6", "addr", "add", "2001:db8:1::2/64", "dev", WAY_OUT, "nodad")
    _ip("link", "set", WAY_OUT, "up")
    _ip("route", "add", "default", "dev", WAY_OUT)
    _ip("-6", "route", "add", "default", "dev", WAY_OUT)
    for path, content in (
        # no search domain, one quick try: a name that is asked for is seen, and does not hold the demonstration up
        ("/etc/resolv.conf", f"nameserver {NAMES}\noptions timeout:1 attempts:1\n"),
        # nor may a resolver on a socket of this machine be asked instead
        ("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"),
    ):
        if Path(path).exists():
            file = scratch / Path(path).name
            file.write_text(content)
            subprocess.run(["mount", "--bind", file, path], check=True)


class Ear:
    """Hears every frame on the way out until it is closed."""

    def __init__(self):
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind((WAY_OUT, 0))
        self._socket.settimeout(0.2)
        self.heard = []
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self):
        while not self._closed.is_set():
            try:
                frame = self._socket.recv(2048)
            except TimeoutError:
                continue
            if (what := describe(frame)) and len(self.heard) < 1000:
                self.heard.append(what)

    def close(self):
        self._closed.set()
        self._thread.join()
        self._socket.close()


def describe(frame):
    """What a frame is, in words; None for the one thing that an interface says of itself (MLD, RFC 3810)."""
    kind = struct.unpack("!H", frame[12:14])[0]
    packet = frame[14:]
    if kind == 0x0800:
        head = (packet[0] & 15) * 4
        target = socket.inet_ntop(socket.AF_INET, packet[16:20])
        return _transport("IPv4", packet[9], target, packet[head:])
    if kind == 0x86DD:
        target = socket.inet_ntop(socket.AF_INET6, packet[24:40])
        if packet[6] == 0 and packet[40] == 58 and packet[48] == 143:
            return None
        return _transport("IPv6", packet[6], target, packet[40:])
    return {"what": f"ethertype {kind:04x}", "to": frame[:6].hex(":"), "port": 0, "start": packet[:64].hex()}


def _transport(family, protocol, target, payload):
    port = struct.unpack("!H", payload[2:4])[0] if protocol in (6, 17) else 0
    name = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6"}.get(protocol, str(protocol))
    return {"what": f"{family} {name}", "to": target, "port": port, "start": payload[:64].decode("latin-1")}


def call_home_on_purpose():
    """A datagram, one over IPv6, and a name."""
    for family, address in ((socket.AF_INET, NOWHERE), (socket.AF_INET6, NOWHERE6)):
        with socket.socket(family, socket.SOCK_DGRAM) as out:
            out.sendto(b"on purpose", (address, 9))
    try:
        socket.getaddrinfo("on-purpose.example", 443)
    except socket.gaierror:
        return


def main(report, command):
    report = Path(report)
    try:
        make_place(report.parent)
        ear = Ear()
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"cannot make a place with no way out: {error} {getattr(error, 'stderr', '')}", file=sys.stderr)
        return IMPOSSIBLE
    running = subprocess.Popen(command)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: running.send_signal(number))
    status = running.wait()
    # what was sent at the very end is still on its way to the ear
    time.sleep(0.5)
    during = list(ear.heard)
    call_home_on_purpose()
    deadline = time.monotonic() + 5
    while len(ear.heard) < len(during) + 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    ear.close()
    report.write_text(
        json.dumps({"status": status, "during": during, "on_purpose": ear.heard[len(during) :]}, indent=2)
    )
    return status if status >= 0 else 128 - status


def _ip(*words):
    environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True, env=environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
