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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from pydicom import dcmread
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dsutils import create_file_meta
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made from a table at import

from client.arrival.reception import Announcement, Reception, hand_over
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


class _Kept:
    """One object on its way to its file, as `Incoming`; its digest is the dataset's."""

    def __init__(self, folder: Path, announced: Announcement, note: Callable[[Stored], None]) -> None:
        self._uid = announced.sop_uid
        self._temporary = folder / f".{self._uid}.part"
        self._path = folder / f"{self._uid}.dcm"
        self._file = self._temporary.open("wb")
        self._file.write(b"\0" * 128 + b"DICM")
        meta = create_file_meta(
            sop_class_uid=UID(announced.sop_class),
            sop_instance_uid=UID(announced.sop_uid),
            transfer_syntax=UID(announced.transfer_syntax),
        )
        write_file_meta_info(cast("Any", self._file), meta)
        self._digest = hashlib.sha256()
        self._note = note

    def write(self, content: memoryview) -> None:
        self._digest.update(content)
        self._file.write(content)

    def keep(self, content: memoryview) -> int:
        self.write(content)
        self._file.close()
        self._temporary.replace(self._path)
        now = time.time()
        with self._path.open("rb") as stored:
            header = dcmread(stored, specific_tags=_READ, stop_before_pixels=True)
        study, modality = str(header.StudyInstanceUID), str(header.Modality)
        self._note(Stored(now, self._uid, study, modality, self._digest.hexdigest()))
        return 0x0000

    def discard(self) -> None:
        self._file.close()
        self._temporary.unlink()


def serve(folder: Path, port: int) -> None:
    """Store until the parent is gone.

    With the node's own reception, which leaves the processors to what is measured: a PACS is another machine.
    """
    lock = threading.Lock()
    lines = (folder / "stored.jsonl").open("a")

    def note(stored: Stored) -> None:
        with lock:
            lines.write(json.dumps(asdict(stored)) + "\n")
            lines.flush()

    def receive(event: evt.Event) -> None:
        Reception(event.assoc, lambda announced: _Kept(folder, announced, note)).run()

    follow_parent()
    entity = AE("PACS")
    entity.maximum_pdu_size = 0
    entity.supported_contexts = AllStoragePresentationContexts
    entity.add_supported_context(Verification)
    handlers: list[Any] = [
        (evt.EVT_CONN_OPEN, no_delay),
        (evt.EVT_FSM_TRANSITION, hand_over),
        (evt.EVT_ESTABLISHED, receive),
    ]
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    (folder / "ready").touch()
    assert server is not None
    threading.Event().wait()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
