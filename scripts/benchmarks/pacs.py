"""A stand-in for the PACS that notes when each object was stored: `python -m scripts.benchmarks.pacs FOLDER PORT`.

Each object becomes a Part 10 file before it is answered, and a line of `stored.jsonl` then. It can be killed and
started again on the same folder. Also what receives for the contender that has no gateway of its own.
"""

import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.filebase import DicomBytesIO
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made from a table at import

from client.dicom.requestor import no_delay
from models.children import Child, follow_parent

_READ = ["StudyInstanceUID", "Modality"]


@dataclass(frozen=True, slots=True)
class Stored:
    """One object, each time it was stored; `at` is `time.time()` at the end of writing."""

    at: float
    sop_uid: str
    study_uid: str
    modality: str
    sha256: str


class Pacs:
    """The stand-in as a child process; `start` and `kill` as often as is wanted."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self._child: Child | None = None
        self._read = 0
        self._stored: list[Stored] = []
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "stored.jsonl").touch()

    def start(self) -> None:
        """Take objects."""
        (self.folder / "ready").unlink(missing_ok=True)
        command = [sys.executable, "-m", "scripts.benchmarks.pacs", str(self.folder), str(self.port)]
        self._child = Child("pacs", command, os.environ, self.folder / "pacs.log")
        self._child.wait_ready((self.folder / "ready").exists)

    def kill(self) -> None:
        """Be gone."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def stored(self) -> list[Stored]:
        """What it has stored, in order."""
        with (self.folder / "stored.jsonl").open("rb") as lines:
            lines.seek(self._read)
            for line in lines:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                self._stored.append(Stored(**json.loads(line)))
        return self._stored

    def wait(self, enough: Callable[[list[Stored]], bool], timeout: float) -> bool:
        """Wait until what is stored is enough; False where it was not in time."""
        deadline = time.monotonic() + timeout
        while not enough(self.stored()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


def serve(folder: Path, port: int) -> None:
    """Store until the parent is gone."""
    lock = threading.Lock()
    lines = (folder / "stored.jsonl").open("a")

    def store(event: evt.Event) -> int:
        content = event.encoded_dataset()
        request: Any = event.request
        uid = str(request.AffectedSOPInstanceUID)
        temporary = folder / f".{uid}.part"
        temporary.write_bytes(content)
        temporary.replace(folder / f"{uid}.dcm")
        now = time.time()
        header = dcmread(DicomBytesIO(content), specific_tags=_READ, stop_before_pixels=True)
        digest = hashlib.sha256(content).hexdigest()
        line = json.dumps(
            {
                "at": now,
                "sop_uid": uid,
                "study_uid": str(header.StudyInstanceUID),
                "modality": str(header.Modality),
                "sha256": digest,
            }
        )
        with lock:
            lines.write(line + "\n")
            lines.flush()
        return 0x0000

    follow_parent()
    entity = AE("PACS")
    entity.maximum_pdu_size = 0
    entity.supported_contexts = AllStoragePresentationContexts
    entity.add_supported_context(Verification)
    handlers: list[Any] = [(evt.EVT_CONN_OPEN, no_delay), (evt.EVT_C_STORE, store)]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    (folder / "ready").touch()
    assert server is not None
    threading.Event().wait()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
