"""A coordinator and four hospitals for benches, run by the commands that people type, on free loopback ports.

Each hospital has validated cases of its own, written straight into its index; its SuperNode, launcher and trainer are
the installed ones, and it agrees to retrainings by a standing policy. Nothing of it is changed for a bench.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from client.federation.supernode import make_keys
from client.review import readers
from client.store import versions
from client.store.archive import Archive
from client.store.site import Site, create
from configs.schema import ConsentConfig, CoordinatorConfig, SiteConfig
from models import pki
from models.bundle import Bundle
from models.children import Child, ChildFailed, free_port
from scripts.answered import enter
from scripts.benchmarks import pictures
from server import coordinator as coordinators
from server import journal
from server.superlink import SuperLink

SIGNER: Final = "bench"
_READER: Final = "Dr Bench"
_READY: Final = 180.0  # seconds
_LINES: Final = 20


class Deployment:
    """One coordinator, and hospitals that agree to everything; nothing runs until it is started.

    Args:
        folder: made.
        key: whose versions are trusted.
        bases: versions that every hospital reads with and the coordinator may retrain.
        names: of the hospitals.
        patients: of each, half of them positive, one radiograph each.
        side: of a radiograph, pixels.
    """

    def __init__(
        self,
        folder: Path,
        key: Ed25519PrivateKey,
        bases: Sequence[Bundle],
        names: Sequence[str],
        patients: int,
        side: int,
    ) -> None:
        self._folder, self._bases, self._registered = folder, bases, False
        self._children: list[Child] = []
        config = CoordinatorConfig(superlink_port=free_port(), mlflow_port=free_port())
        self.coordinator = coordinators.create(folder / "coordinator", config)
        pki.make_server(self.coordinator.folder / "pki", ["localhost"])
        _trust(self.coordinator.folder / "trust", key)
        self.sites = {name: self._hospital(name, key, patients, side) for name in names}

    def start(self) -> None:
        """Start everything, until all hospitals are connected.

        Raises:
            ChildFailed: something ended, or is not there in time.
        """
        coordinator = self.coordinator.folder
        running = self._run("coordinator", "coordinator", "run", "--folder", coordinator)
        running.wait_ready(lambda: "ready" in running.log_file.read_text(), _READY)
        link = SuperLink(coordinator, self.coordinator.config.superlink_port)
        last = running
        for name, site in self.sites.items():
            link.register(name, site.secrets / "supernode.key.pub")
            last = self._run(name, "site", "supernode", "--folder", site.folder)
        last.wait_ready(lambda: len(link.online()) == len(self.sites), _READY)
        if not self._registered:
            for base in self._bases:
                self.coordinator.registry.register(base, {})
            self._registered = True

    def rounds(self, name: str, base: Bundle, rounds: int, **settings: Any) -> list[float]:
        """Retrain until a round is journalled; what would follow the rounds is not waited for.

        Args:
            settings: of `configs/retraining.yaml`.

        Returns:
            Seconds of each round but the first, from one round's durable line in the journal to the next one's; before
            them those of the first, from the hospitals' consents.

        Raises:
            ChildFailed: it ended, or no round came for minutes.
        """
        words = [f"{key}={value}" for key, value in {"rounds": rounds, **settings}.items()]
        folder = self.coordinator.folder
        launched = self._run(name, "retrain", "launch", "--folder", folder, name, f"base={base.facts.label}", *words)
        steps = list[dict[str, Any]]()

        def done() -> bool:
            steps[:] = journal.read(folder / "retrainings" / name)
            return sum(line["step"] == "round" for line in steps) == rounds

        try:
            self._wait(launched, done)
        finally:
            launched.stop()
            self._children.remove(launched)
        if failed := [line for line in steps if line["step"] == "round" and line["failures"]]:
            raise ChildFailed(f"a hospital did not answer: {failed[0]['failures']}")
        began = next(line["at"] for line in steps if line["step"] == "consents")
        ends = [line["at"] for line in steps if line["step"] == "round"]
        return [after - before for before, after in pairwise([began, *ends])]

    def stop(self) -> None:
        """Stop everything; it can be started again."""
        while self._children:
            self._children.pop().stop()

    def close(self) -> None:
        """Stop everything for good."""
        self.stop()
        for site in self.sites.values():
            site.database.close()

    def _run(self, name: str, *words: Any) -> Child:
        log = self._folder / f"{name}.log"
        log.unlink(missing_ok=True)
        child = Child(name, [sys.executable, "-m", "scripts.vigie", *map(str, words)], os.environ, log)
        self._children.append(child)
        return child

    def _wait(self, launched: Child, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY
        while not done():
            if launched.returncode is not None or time.monotonic() > deadline:
                raise ChildFailed(f"{launched.name} did not get there:\n{_last_lines(launched.log_file)}")
            time.sleep(0.2)

    def _hospital(self, name: str, key: Ed25519PrivateKey, patients: int, side: int) -> Site:
        policy = ConsentConfig(standing="retrainings", most_retrainings=1_000_000)
        address = f"127.0.0.1:{self.coordinator.config.superlink_port}"
        site = create(self._folder / name, SiteConfig(name=name, superlink=address, consent=policy))
        shutil.copy(self.coordinator.folder / "pki" / "ca.crt", site.trust / "ca.crt")
        shutil.copy(self.coordinator.folder / "trust" / "coordinator.pub", site.trust / "coordinator.pub")
        _trust(site.trust, key)
        make_keys(site.secrets)
        readers.add(site, _READER, "clinician")
        for base in self._bases:
            shutil.copytree(base.folder, site.versions / base.digest)
            versions.receive(site, base)
            versions.adopt(site, base.digest)
            _fill(site, base, patients, side)
        return site


def _trust(folder: Path, key: Ed25519PrivateKey) -> None:
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{SIGNER}.pub").write_bytes(public)


def _fill(site: Site, base: Bundle, patients: int, side: int) -> None:
    """Cases that this version has read and a clinician has answered; every fourth one is an error."""
    kind, archive = pictures.Kind("DX", pictures.DX, 1, side), Archive(site.archive)
    with site.database.write() as connection:
        for number in range(patients):
            image = next(pictures.study(kind, number))
            image.PatientID = f"{base.facts.name}-{number}"
            digest = archive.store(pictures.content(image))
            positive, right = bool(number % 2), bool(number // 2 % 4)
            told: Any = {"score": 0.9 if positive == right else 0.1, "threshold": 0.5, "positive": positive}
            enter(connection, site, image, digest, base.digest, _READER, **told)


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LINES:])
