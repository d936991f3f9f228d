"""A hospital for benches: a node as `vigie site run` starts it, and a stand-in for its PACS, on free loopback ports."""

import os
import sys
from pathlib import Path
from typing import Any

import psutil
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.store.site import Site, create
from configs.schema import PeerConfig, SiteConfig
from models.bundle import Bundle
from models.children import Child, ChildFailed, free_port
from scripts.benchmarks.pacs import Pacs
from scripts.benchmarks.versions import adopt

THREADS = len(os.sched_getaffinity(0))
AE_TITLE = "VIGIE"
_READY_SECONDS = 180.0
_LINES = 15


class Hospital:
    """One hospital; nothing runs until it is started.

    Args:
        folder: made.
        bundles: the versions that read.
        settings: of `SiteConfig`; the rest is as `vigie site init` leaves it, but for free ports and
            `inference_threads`: as many as there are cores, as the contenders have. A hospital's own node keeps one
            core for what else it does.
    """

    def __init__(self, folder: Path, key: Ed25519PrivateKey, *bundles: Bundle, **settings: Any) -> None:
        self.pacs = Pacs(folder / "pacs", free_port())
        self.port = free_port()
        peer = PeerConfig(port=self.pacs.port)
        values: dict[str, Any] = {"dicom_port": self.port, "api_port": free_port(), "inference_threads": THREADS}
        self.site: Site = create(folder / "site", SiteConfig(ae_title=AE_TITLE, pacs=peer, **(values | settings)))
        self._log = folder / "node.log"
        self._child: Child | None = None
        adopt(self.site, key, *bundles)

    def start(self, *, wait: bool = True) -> None:
        """Start the node; with `wait`, until it takes images and its worker takes studies.

        Raises:
            ChildFailed: it ended, or is not ready in time; with what its logs say last, which lie in a folder that is
                deleted with the bench.
        """
        (self.site.folder / "node.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "client.node", "--site", str(self.site.folder)]
        self._child = Child("node", command, os.environ, self._log)
        if wait:
            try:
                self._child.wait_ready((self.site.folder / "node.json").exists, _READY_SECONDS)
            except ChildFailed as error:
                raise ChildFailed(f"{error}\n{self._last_lines()}") from error

    def kill(self) -> None:
        """End node and worker as a power cut would."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def close(self) -> None:
        """End everything."""
        if self._child is not None:
            self._child.stop()
        self._child = None
        self.pacs.kill()
        self.site.database.close()

    def _last_lines(self) -> str:
        found: list[str] = []
        for path in (self._log, self.site.logs / "node.log"):
            if path.exists():
                found += path.read_text(errors="replace").splitlines()[-_LINES:]
        return "\n".join(found)

    def processes(self) -> list[psutil.Process]:
        """The node and its worker, as far as they live."""
        if self._child is None or self._child.returncode is not None:
            return []
        return [psutil.Process(self._child.pid), *self._child.family()]
