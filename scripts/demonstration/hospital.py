"""One hospital of the demonstration: its folder, its PACS, its node, its SuperNode, its modality and its reader."""

import hashlib
import json
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from pydicom.dataset import Dataset
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage, DigitalXRayImageStorageForPresentation, MRImageStorage  # type: ignore

from client.dicom.requestor import associate
from client.federation import supernode
from client.review.readers import add
from client.store.site import Site, create, write_secret
from configs.schema import ConsentConfig, PeerConfig, SiteConfig
from models.children import Child, free_port
from models.errors import VigieError
from models.manifest import Row, picture
from scripts.demonstration import pacs, studies

READER = "Dr Truth"
_AN_ASSOCIATION = 40


class DemonstrationFailed(VigieError):
    """Something that the demonstration shows did not hold."""

    code = "demonstration"


@dataclass
class Hospital:
    """A running hospital. Made by `start`; `stop` ends its processes."""

    name: str
    folder: Path
    site: Site
    pacs: pacs.Pacs
    children: list[Child]
    token: str
    rows: Sequence[Row]
    stopped: bool = False
    sent: Counter[str] = field(default_factory=lambda: Counter[str]())

    @property
    def api(self) -> str:
        return f"http://127.0.0.1:{self.site.config.api_port}"

    def fold(self, row: Row) -> str:
        """Where the patient of a row was drawn to."""
        return self.site.fold(row.patient, row.site.upper())

    def stop(self) -> None:
        """End its processes, in seconds."""
        self.stopped = True
        stopping = [threading.Thread(target=child.stop) for child in self.children]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()

    # What its modality does

    def send(self, rows: Sequence[Row], seed: int, sending: int, with_off_scope: bool = False) -> None:
        """Send radiographs by C-STORE, a few dozen studies an association.

        Every image has to be acknowledged. Off-scope studies are mixed in among the first ones.
        """
        others = [image for _, image in studies.off_scope(self.name, seed)] if with_off_scope else []
        chunks = [rows[start : start + _AN_ASSOCIATION] for start in range(0, len(rows), _AN_ASSOCIATION)]

        for number, chunk in enumerate(chunks):
            images = [self._image(row, seed, sending) for row in chunk]
            images += others[number :: len(chunks)]
            self._store(images)
            self.sent[f"sending {sending}"] += len(images)

    def _image(self, row: Row, seed: int, sending: int) -> Dataset:
        view = "AP" if row.site == "guangzhou" else "PA"
        return studies.radiograph(row, picture(row.path).astype(np.uint8), seed, sending, view)

    def _store(self, images: Sequence[Dataset], attempts: int = 3) -> None:
        """Store them all; what was not acknowledged is sent again, as a modality would."""
        left = list(images)
        for attempt in range(1, attempts + 1):
            try:
                self._associate(left)
                return
            except DemonstrationFailed:
                if attempt == attempts or self.stopped:
                    raise

    def _associate(self, left: list[Dataset]) -> None:
        """Send over one association; what was acknowledged is taken off the list."""
        entity = AE(f"{self.name[:10].upper()}_DR")
        for sop_class in (DigitalXRayImageStorageForPresentation, CTImageStorage, MRImageStorage):
            entity.add_requested_context(sop_class)
        association = associate(entity, "127.0.0.1", self.site.config.dicom_port, self.site.config.ae_title)
        if not association.is_established:
            raise DemonstrationFailed(f"{self.name}: the node accepts no association")
        try:
            while left:
                image = left[0]
                status = association.send_c_store(image)
                if "Status" not in status or status.Status != 0x0000:
                    told = status.get("Status", "nothing: the association was lost")
                    raise DemonstrationFailed(f"{self.name}: a C-STORE was answered with {told}")
                left.pop(0)
        finally:
            association.release()

    # What is looked at from outside

    def states(self) -> Counter[str]:
        """How many studies ended how; `scored` whether somebody has said something about the result or not."""
        return Counter("scored" if study["result"] else study["status"] for study in self.worklist())

    def worklist(self) -> list[dict[str, Any]]:
        """All studies, through the API, page by page."""
        found: list[dict[str, Any]] = []
        with self.client() as client:
            while page := _json(
                client.get("/api/studies", params={"limit": 500, "after": found[-1]["uid"] if found else ""})
            ):
                found += page
        return found

    def wait_for(self, count: int, timeout: float = 600.0) -> None:
        """Wait until so many studies have reached an outcome and its results the PACS."""
        deadline = time.monotonic() + timeout
        while (done := self.done()) < count or self.undelivered():
            if self.stopped or time.monotonic() > deadline:
                raise DemonstrationFailed(f"{self.name}: {done} of {count} studies after {timeout:.0f} s")
            time.sleep(0.5)

    def done(self) -> int:
        """Studies with an outcome; counted in the node's own database, which is cheap."""
        from sqlalchemy import func, select

        from client.store.tables import study

        with self.site.database.read() as connection:
            query = select(func.count()).where(study.c.state.in_(("scored", "refused", "failed")))
            return int(connection.execute(query).scalar_one())

    def undelivered(self) -> int:
        """Result objects that the PACS has not yet acknowledged."""
        from sqlalchemy import func, select

        from client.store.tables import delivery

        with self.site.database.read() as connection:
            query = select(func.count()).where(delivery.c.state != "sent")
            return int(connection.execute(query).scalar_one())

    def client(self) -> httpx.Client:
        """An API client that has signed in as the reader."""
        return httpx.Client(base_url=self.api, headers={"Authorization": f"Bearer {self.token}"}, timeout=60.0)

    def crossings(self) -> dict[str, dict[str, int]]:
        """Messages and bytes that crossed the border, by direction and kind, from the hospital's ledger."""
        sums: dict[str, dict[str, int]] = {}
        for entry in self.site.ledger.entries("border."):
            facts = json.loads(entry.facts)
            total = sums.setdefault(f"{facts['direction']} {facts['kind']}", {"messages": 0, "bytes": 0})
            total["messages"] += 1
            total["bytes"] += int(facts["bytes"])
        return dict(sorted(sums.items()))


def start(
    name: str,
    folder: Path,
    rows: Sequence[Row],
    superlink: str,
    ca: Path,
    keys: Sequence[Path],
    seed: int,
) -> Hospital:
    """Make a hospital's folder, keys and certificates, and start its PACS and its node.

    Args:
        keys: public keys of whom it trusts to sign versions.
        seed: fixes who is drawn into which fold, so that a demonstration can be repeated.
    """
    peer_port, http_port = free_port(), free_port()
    equipment = studies.EQUIPMENT.get(name)
    config = SiteConfig(
        name=name,
        institution=equipment.institution if equipment else name,
        ae_title="VIGIE",
        dicom_port=free_port(),
        api_port=free_port(),
        pacs=PeerConfig("127.0.0.1", peer_port, "PACS"),
        superlink=superlink,
        quiet_seconds=0.5,
        consent=ConsentConfig(standing="retrainings", most_rounds=100),
    )
    site = create(folder / "node", config, fold_key=hashlib.sha256(f"{name}:{seed}".encode()).digest())
    for key in keys:
        (site.trust / key.name).write_bytes(key.read_bytes())
    (site.trust / "ca.crt").write_bytes(ca.read_bytes())
    supernode.make_keys(site.secrets)
    token = add(site, READER, "clinician")
    write_secret(folder / "reader.token", token.encode())
    archive = pacs.start(folder / "pacs", peer_port, http_port)
    command = [sys.executable, "-m", "scripts.vigie", "site", "run", "--folder", str(site.folder)]
    node = Child(f"{name} node", command, os.environ, site.logs / "node-process.log")
    hospital = Hospital(name, folder, site, archive, [archive.child, node], token, rows)
    node.wait_ready(lambda: _answers(hospital.api), timeout=120.0)
    return hospital


def connect(hospital: Hospital) -> None:
    """Start its SuperNodes: the only outward connections."""
    hospital.children += supernode.SuperNodes(hospital.site.folder, hospital.site.config.superlink).children


def _answers(api: str) -> bool:
    try:
        return httpx.get(f"{api}/api/health", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False


def _json(response: httpx.Response) -> Any:
    if response.status_code >= 400:
        raise DemonstrationFailed(f"{response.request.method} {response.request.url.path}: {response.text[:300]}")
    return response.json()
