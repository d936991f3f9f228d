"""Images received a second: the node, which answers only when an image is durable, against other receivers.

Contenders take turns, all of them running all the time, in a fixed number of rounds; the median of the rounds counts.
One sender for all (`modality.py`), TCP_NODELAY on both ends, and the same longest PDU for all. The disk is synced
before each turn, so that nobody pays for what another one has left to be written.

- node: `python -m client.node`, which is what `vigie site run` starts, with its worker and its API; file, name and
  index are on the disk before the answer.
- orthanc: default settings with `SyncStorageArea`, the index in its own SQLite.
- storescp, storescp-fork: dcmtk's, single and forking; not durable.
- pynetdicom: a bare storage SCP that writes what it gets undecoded; not durable.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pynetdicom import AE, AllStoragePresentationContexts, evt
from rich.console import Console
from rich.table import Table

from client.dicom.requestor import no_delay
from client.store.site import create
from configs.schema import SiteConfig
from models.children import Child, follow_parent, free_port
from models.errors import ConfigurationError
from scripts.benchmarks.modality import IMAGE_BYTES, LARGEST_PDU
from scripts.benchmarks.options import positive
from scripts.benchmarks.report import Report, at_least

_AE = "PACS"
_PATH = f"{os.environ.get('PATH', '')}:/usr/bin:/usr/sbin"


@dataclass(frozen=True, slots=True)
class Contender:
    """A receiver that runs.

    Attributes:
        durable: what it acknowledges survives a power cut.
        clear: forget what came in the last turn, as far as it is only files.
    """

    name: str
    durable: bool
    port: int
    child: Child
    clear: Callable[[], None]


def run(arguments: Sequence[str]) -> Report:
    """Measure, print a table.

    Raises:
        ConfigurationError: Orthanc or dcmtk is not installed.
    """
    starts = {
        start.__name__.strip("_").replace("_", "-"): start
        for start in (_node, _orthanc, _storescp, _storescp_fork, _pynetdicom)
    }
    parser = argparse.ArgumentParser(prog="scripts/bench ingest", description=__doc__)
    parser.add_argument("--images", type=positive, default=300, help="a turn")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--pdu", type=positive, default=LARGEST_PDU, help="the longest PDU, bytes")
    parser.add_argument("--only", nargs="+", default=[], choices=list(starts), help="contenders, by name")
    parser.add_argument("--folder", type=Path, default=Path("runs/bench"), help="on the disk that is to be measured")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    sink = _sink(options.images)
    found: dict[str, list[dict[str, Any]]] = {"sender alone, to a sink": [sink]}
    with tempfile.TemporaryDirectory(prefix="ingest-", dir=options.folder) as folder:
        contenders: list[Contender] = []
        try:
            for contender_name, start in starts.items():
                if not options.only or contender_name in options.only:
                    contenders.append(start(Path(folder).resolve(), options.pdu))
            for turn in range(-1, options.rounds):
                for contender in contenders:
                    for associations in (1, 4):
                        os.sync()
                        images = options.images if turn >= 0 else 8  # the first round warms up
                        row = _send(contender.port, images, associations, options.pdu)
                        contender.clear()
                        if turn >= 0:
                            found.setdefault(contender.name, []).append(row)
        finally:
            for contender in contenders:
                contender.child.stop()
    _show(found, {contender.name: contender.durable for contender in contenders})
    if not {"node", "orthanc"} <= found.keys():
        return Report(found, [])
    return Report(
        found,
        [
            at_least(
                f"node / orthanc, {'one association' if associations == 1 else f'{associations} associations'}",
                _median(found["node"], associations) / _median(found["orthanc"], associations),
                2.0,
            )
            for associations in (1, 4)
        ],
    )


def _send(port: int, images: int, associations: int, pdu: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "scripts.benchmarks.modality", "--port", str(port), "--called", _AE]
    command += ["--images", str(images), "--associations", str(associations), "--pdu", str(pdu)]
    facts = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=300).stdout)
    rate = facts["images"] / facts["seconds"]
    return {
        "associations": associations,
        "images a second": rate,
        "MB a second": rate * IMAGE_BYTES / 1e6,
        "pdu": facts["pdu"],
    }


def _sink(images: int) -> dict[str, Any]:
    """What the sender can do where nobody does anything with it."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def swallow() -> None:
            peer, _ = server.accept()
            buffer = bytearray(1 << 20)
            with peer:
                while peer.recv_into(buffer):
                    pass

        thread = threading.Thread(target=swallow, daemon=True)
        thread.start()
        command = [sys.executable, "-m", "scripts.benchmarks.modality", "--sink", "--images", str(images)]
        command += ["--port", str(server.getsockname()[1])]
        facts = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=300).stdout)
        thread.join()
    rate = facts["images"] / facts["seconds"]
    return {"associations": 1, "images a second": rate, "MB a second": rate * IMAGE_BYTES / 1e6, "pdu": LARGEST_PDU}


def _median(rows: Sequence[dict[str, Any]], associations: int) -> float:
    return statistics.median(row["images a second"] for row in rows if row["associations"] == associations)


def _show(found: dict[str, list[dict[str, Any]]], durable: dict[str, bool]) -> None:
    table = Table("receiver", "durable", "1 association", "4 associations", "of the node's, 1", "of the node's, 4")
    for name, rows in found.items():
        cells = [name, {True: "yes", False: "no"}.get(durable.get(name, False), "no") if name in durable else ""]
        figures = {number: _median(rows, number) for number in {row["associations"] for row in rows}}
        for number in (1, 4):
            cells.append(f"{figures[number]:.1f} images/s" if number in figures else "")
        for number in (1, 4):
            known = number in figures and "node" in found
            cells.append(f"{figures[number] / _median(found['node'], number):.2f}" if known else "")
        table.add_row(*cells)
    Console().print(table)


def _node(folder: Path, _pdu: int) -> Contender:
    port = free_port()
    site = create(folder / "node", SiteConfig(ae_title=_AE, dicom_port=port, api_port=free_port()))
    site.database.close()
    command = [sys.executable, "-m", "client.node", "--site", str(site.folder)]
    child = Child("node", command, os.environ, folder / "node.log")
    child.wait_ready((site.folder / "node.json").exists)
    return Contender("node", True, port, child, lambda: None)


def _orthanc(folder: Path, pdu: int) -> Contender:
    port, storage = free_port(), folder / "orthanc"
    storage.mkdir()
    settings = {
        "StorageDirectory": str(storage / "storage"),
        "IndexDirectory": str(storage / "storage"),
        "DicomAet": _AE,
        "DicomPort": port,
        "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True,
        "HttpServerEnabled": False,
        "MaximumPduLength": pdu,
        "SyncStorageArea": True,
        "Plugins": [],
    }
    (storage / "orthanc.json").write_text(json.dumps(settings))
    command = [_program("Orthanc"), str(storage / "orthanc.json")]
    return _listening("orthanc", True, port, command, folder, lambda: None)


def _storescp(folder: Path, pdu: int) -> Contender:
    return _dcmtk("storescp", folder, pdu, "--single-process")


def _storescp_fork(folder: Path, pdu: int) -> Contender:
    return _dcmtk("storescp-fork", folder, pdu, "--fork")


def _dcmtk(name: str, folder: Path, pdu: int, mode: str) -> Contender:
    port, storage = free_port(), folder / name
    storage.mkdir()
    # by its full path: a virtual environment's pynetdicom has one of the same name
    command = ["/usr/bin/storescp", mode, "--max-pdu", str(pdu), "--output-directory", str(storage), str(port)]
    return _listening(name, False, port, command, folder, lambda: _empty(storage))


def _pynetdicom(folder: Path, pdu: int) -> Contender:
    port, storage = free_port(), folder / "pynetdicom"
    storage.mkdir()
    command = [sys.executable, "-m", "scripts.benchmarks.ingest", str(storage), str(port), str(pdu)]
    return _listening("pynetdicom", False, port, command, folder, lambda: _empty(storage))


def _listening(
    name: str, durable: bool, port: int, command: list[str], folder: Path, clear: Callable[[], None]
) -> Contender:
    # dcmtk leaves Nagle's algorithm on unless told
    child = Child(name, command, {**os.environ, "TCP_NODELAY": "1"}, folder / f"{name}.log")

    def open_now() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    child.wait_ready(open_now)
    return Contender(name, durable, port, child, clear)


def _program(name: str) -> str:
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise ConfigurationError(f"{name} is not installed: scripts/install --peers")
    return found


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def serve(folder: Path, port: int, pdu: int) -> None:
    """The bare pynetdicom receiver, until its parent is gone."""

    def store(event: evt.Event) -> int:
        request: Any = event.request
        path = folder / f"{request.AffectedSOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        return 0x0000

    follow_parent()
    entity = AE(_AE)
    entity.maximum_pdu_size = pdu
    entity.supported_contexts = AllStoragePresentationContexts
    handlers: list[Any] = [(evt.EVT_CONN_OPEN, no_delay), (evt.EVT_C_STORE, store)]
    entity.start_server(("127.0.0.1", port), evt_handlers=handlers)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
