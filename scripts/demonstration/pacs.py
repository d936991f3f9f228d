"""A stand-in PACS per hospital: Orthanc where it is installed, else a pynetdicom Storage SCP that keeps files."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Protocol
from urllib.error import URLError
from urllib.request import urlopen

from pynetdicom import AE, AllStoragePresentationContexts, evt

from models.children import Child, follow_parent


class Pacs(Protocol):
    """What the demonstration asks of either."""

    name: str
    port: int
    child: Child

    def received(self) -> int:
        """How many objects it keeps."""
        ...


class OrthancPacs:
    """Orthanc with its index in SQLite; loopback only."""

    name = "Orthanc"

    def __init__(self, folder: Path, port: int, http_port: int) -> None:
        self.port, self.http_port = port, http_port
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            "Name": "PACS",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomAet": "PACS",
            "DicomPort": port,
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "DicomAlwaysAllowStore": True,
            "DicomCheckCalledAet": False,
            "ConcurrentJobs": 1,
            "SyncStorageArea": False,  # a stand-in: it need not survive a power cut
            "Plugins": [],
        }
        (folder / "orthanc.json").write_text(json.dumps(settings, indent=2))
        program = shutil.which("Orthanc") or "Orthanc"
        # its toolkit (dcmtk) leaves Nagle's algorithm on unless told: 40 ms for every object
        environment = {**os.environ, "TCP_NODELAY": "1"}
        self.child = Child("orthanc", [program, str(folder / "orthanc.json")], environment, folder / "orthanc.log")
        self.child.wait_ready(lambda: self._statistics() is not None)

    def received(self) -> int:
        found = self._statistics()
        return int(found["CountInstances"]) if found else 0

    def _statistics(self) -> dict[str, int] | None:
        try:
            with urlopen(f"http://127.0.0.1:{self.http_port}/statistics", timeout=5.0) as response:
                return json.load(response)
        except (URLError, TimeoutError, ConnectionError):
            return None


class StorageScp:
    """A Storage SCP that writes each object to a file named after its UID."""

    name = "pynetdicom Storage SCP"

    def __init__(self, folder: Path, port: int) -> None:
        self.port = port
        self.folder = folder / "storage"
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "scripts.demonstration.pacs", str(self.folder), str(port)]
        self.child = Child("pacs", command, os.environ, folder / "pacs.log")
        self.child.wait_ready((self.folder / "ready").exists)

    def received(self) -> int:
        return sum(1 for _ in self.folder.glob("*.dcm"))


def start(folder: Path, port: int, http_port: int) -> Pacs:
    """Start whichever there is."""
    installed = shutil.which("Orthanc", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
    if installed:
        os.environ["PATH"] += os.pathsep + str(Path(installed).parent)
        return OrthancPacs(folder, port, http_port)
    return StorageScp(folder, port)


def serve(folder: Path, port: int) -> None:
    """Receive until the parent is gone."""

    def store(event: evt.Event) -> int:
        path = folder / f"{event.file_meta.MediaStorageSOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        return 0x0000

    follow_parent()
    entity = AE("PACS")
    entity.supported_contexts = AllStoragePresentationContexts
    entity.add_supported_context("1.2.840.10008.1.1")
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    (folder / "ready").touch()
    if server is not None:
        server.serve_forever()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
