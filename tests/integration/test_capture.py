"""A network capture of a real retraining agrees with the hospital's ledger, and one that shows more does not."""

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from federation_peers import ROOT, Federation
from relay import Relay

from client.federation.capture import Border, Crossed, Packet, addresses, crossings, read, reconcile
from client.store.database import Database
from client.store.ledger import Ledger
from configs.schema import PeerConfig, SiteConfig, save

pytestmark = [pytest.mark.integration, pytest.mark.peers("tshark", "dumpcap"), pytest.mark.timeout(240)]


class Recorder:
    """dumpcap on loopback, of what goes over one port."""

    def __init__(self, path: Path, port: int) -> None:
        self.path = path
        self._process = subprocess.Popen(
            ["dumpcap", "-q", "-i", "lo", "-B", "64", "-f", f"tcp port {port}", "-w", str(path)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stderr is not None
        said = ""
        while "File:" not in said:
            line = self._process.stderr.readline()
            if not line:
                self._end()
                pytest.skip(f"nothing can be captured here: {said[-300:]}")
            said += line

    def stop(self) -> None:
        self._process.terminate()
        self._end()

    def _end(self) -> None:
        self._process.wait(30)
        assert self._process.stderr is not None
        self._process.stderr.close()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """The folder of a hospital that took part in one retraining, and its capture from before the first byte."""
    folder = tmp_path_factory.mktemp("capture")
    live = Federation(folder, ())
    relay = Relay(("127.0.0.1", live.superlink.port))
    recorder = Recorder(folder / "honest.pcapng", relay.port)
    try:
        hospital = live.add(folder / "alpha", "alpha", address=f"127.0.0.1:{relay.port}")
        settings = SiteConfig(name="alpha", superlink=f"127.0.0.1:{relay.port}", pacs=PeerConfig())
        save(settings, hospital.folder / "site.yaml")
        hospital.behave("big")
        deadline = time.monotonic() + 120
        while "alpha" not in live.superlink.online() and time.monotonic() < deadline:
            time.sleep(0.2)
        state, report = live.run("large-captured")
        assert state.progress == "completed", state.details
        assert [result["kind"] for each in report["exchanges"] for result in each["results"].values()] == [
            "update", "evidence", "decision",
        ]  # fmt: skip
    finally:
        live.stop()
        relay.close()
        recorder.stop()
    return hospital.folder, recorder.path


def verify(folder: Path, capture: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scripts.vigie", "site", "border", "verify", "--folder", str(folder)]
    return subprocess.run(
        [*command, "--capture", str(capture)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=120,
    )  # fmt: skip


def test_the_capture_of_a_retraining_agrees_with_the_ledger(recorded):
    done = verify(*recorded)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the capture and the ledger agree" in done.stdout


def test_what_the_ledger_does_not_have_is_found(recorded, tmp_path):
    """The same capture, and a ledger that forgot its largest message; or a packet to somebody else, or from one."""
    folder, capture = recorded
    port = int((folder / "site.yaml").read_text().split("superlink: 127.0.0.1:")[1].split()[0])
    packets, told = list(read(capture, port)), crossings(Ledger(Database(folder / "site.db")))
    border = Border(addresses("127.0.0.1"), port)
    here, other = ip_address("127.0.0.1"), ip_address("127.9.9.9")

    def wrong(packets: list[Packet], told: list[Crossed]) -> list[str]:
        return [check.name for check in reconcile(packets, told, border) if not check.ok]

    assert wrong(packets, told) == []
    largest = max((one for one in told if one.direction == "out"), key=lambda one: one.size)
    assert wrong(packets, [one for one in told if one is not largest]) == ["nothing large beside it"]
    assert wrong(packets, [*told, replace(largest, size=10**9)]) == ["all that is in the ledger went"]
    at = packets[-1].at
    assert wrong([*packets, Packet(at, here, other)], told) == ["nobody else"]
    assert wrong([*packets, Packet(at, other, here, 10**6, 9, 80, opens=True)], told) == ["opened from here"]
    plain = Packet(at, here, here, 10**6, 50_000, port, opens=True, ends_at=1)
    assert wrong([*packets, plain, replace(plain, opens=False, ends_at=99)], told) == ["TLS"]
    late = [packet for packet in packets if not packet.opens]
    assert "opened from here" in wrong(late, told)

    forgetful = tmp_path / "node"
    shutil.copytree(folder, forgetful, ignore=shutil.ignore_patterns("flower", "logs"))
    with closing(sqlite3.connect(forgetful / "site.db")) as connection:
        connection.execute('delete from ledger where facts like \'%"direction":"out"%"kind":"update"%\'')
        connection.commit()
    done = verify(forgetful, capture)
    assert done.returncode == 1
    assert "MEND  nothing large beside it" in done.stdout
    assert "MEND  the ledger holds" in done.stdout
    assert "DO NOT AGREE" in done.stderr


def test_what_is_no_capture_is_said(recorded, tmp_path):
    (tmp_path / "no.pcap").write_bytes(b"this is no capture")
    done = verify(recorded[0], tmp_path / "no.pcap")
    assert done.returncode == 1
    assert "capture-unreadable" in done.stderr
    assert verify(recorded[0], tmp_path / "missing.pcap").returncode == 2
