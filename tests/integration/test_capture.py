"""A network capture of a real retraining agrees with the hospital's ledger, and one that shows more does not."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from federation_peers import ROOT, Federation
from relay import Relay

from configs.schema import PeerConfig, SiteConfig, save

pytestmark = [pytest.mark.integration, pytest.mark.peers("tshark", "dumpcap"), pytest.mark.timeout(240)]
ELSEWHERE = "127.9.9.9"


class Recorder:
    """dumpcap on loopback, of what goes over one port and to one address."""

    def __init__(self, path: Path, port: int) -> None:
        what = f"tcp port {port} or host {ELSEWHERE}"
        self.path = path
        self._process = subprocess.Popen(
            ["dumpcap", "-q", "-i", "lo", "-B", "64", "-f", what, "-w", str(path)],
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


def test_bytes_that_no_ledger_has_and_another_destination_are_found(recorded, tmp_path):
    """The same capture against a ledger without its largest message; and one with a packet to somebody else."""
    from client.federation.capture import Border, addresses, crossings, read, reconcile
    from client.store.database import Database
    from client.store.ledger import Ledger

    folder, capture = recorded
    port = int((folder / "site.yaml").read_text().split("superlink: 127.0.0.1:")[1].split()[0])
    packets = list(read(capture, port))
    told = crossings(Ledger(Database(folder / "site.db")))
    border = Border(addresses("127.0.0.1"), port)
    assert [check for check in reconcile(packets, told, border) if not check.ok] == []
    largest = max((one for one in told if one.direction == "out"), key=lambda one: one.size)
    kept = [one for one in told if one is not largest]
    assert [check.name for check in reconcile(packets, kept, border) if not check.ok] == ["nothing large beside it"]

    recorder = Recorder(tmp_path / "other.pcapng", 9)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
        caller.sendto(b"hello", (ELSEWHERE, 9))
        caller.sendto(b"hello", (ELSEWHERE, 9))
    recorder.stop()
    both = tmp_path / "both.pcapng"
    subprocess.run(["mergecap", "-w", both, capture, recorder.path], check=True, capture_output=True)
    done = verify(folder, both)
    assert done.returncode == 1
    assert ELSEWHERE in done.stdout
    assert "DO NOT AGREE" in done.stderr


def test_what_is_no_capture_is_said(recorded, tmp_path):
    (tmp_path / "no.pcap").write_bytes(b"this is no capture")
    done = verify(recorded[0], tmp_path / "no.pcap")
    assert done.returncode == 1
    assert "capture-unreadable" in done.stderr
    assert verify(recorded[0], tmp_path / "missing.pcap").returncode == 2
