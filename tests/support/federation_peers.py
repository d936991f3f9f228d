"""A live federation on free loopback ports: one SuperLink, and hospitals that answer as told."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from client.federation import supernode
from client.federation.launcher import approve
from client.federation.supernode import SuperNodeSettings
from client.store.database import Database
from client.store.ledger import Ledger
from models import flower_app, pki
from models.children import Child, free_port
from server.superlink import RunState, SuperLink, registered_sites

SUPPORT = Path(__file__).parent
ROOT = SUPPORT.parents[1]
FAKE_HOSPITAL = (sys.executable, str(SUPPORT / "fake_hospital.py"))


@dataclass
class Hospital:
    name: str
    folder: Path
    child: Child

    def behave(self, how: str) -> None:
        (self.folder / "behaviour").write_text(how)

    def crossings(self, retraining: str | None = None) -> list[dict]:
        entries = Ledger(Database(self.folder / "site.db")).entries("border.")
        rows = [{"event": entry.event, **json.loads(entry.facts)} for entry in entries]
        return [row for row in rows if retraining is None or row["retraining"] == retraining]

    def holds(self) -> bool:
        return Ledger(Database(self.folder / "site.db")).first_break() is None


class Federation:
    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self._path = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(SUPPORT / "coordinator")])
        self.folder = folder / "coordinator"
        pki.make_server(self.folder / "pki")
        self.superlink = SuperLink(self.folder, free_port())
        self.hospitals: dict[str, Hospital] = {}
        try:
            self.superlink.start()
            for name in names:
                self.add(folder / name, name)
        except BaseException:
            self.stop()
            raise

    def add(
        self,
        folder: Path,
        name: str,
        register: bool = True,
        address: str = "",
        program: tuple[str, ...] = FAKE_HOSPITAL,
    ) -> Hospital:
        """A hospital that calls the SuperLink, or another address from which one gets there."""
        self.furnish(folder)
        keys = pki.make_supernode(folder / "secrets" / "supernode.key")
        if register:
            self.superlink.register(name, keys.public)
        child = supernode.start(SuperNodeSettings(folder, address or self.superlink.address, free_port()), program)
        self.hospitals[name] = Hospital(name, folder, child)
        return self.hospitals[name]

    def furnish(self, folder: Path) -> None:
        """A hospital's folder without keys."""
        folder.mkdir(exist_ok=True)
        Database(folder / "site.db").migrate()
        (folder / "behaviour").write_text("honest")
        (folder / "trust").mkdir(exist_ok=True)
        (folder / "trust" / "ca.crt").write_bytes((self.folder / "pki" / "ca.crt").read_bytes())
        approve(folder, flower_app.digest())

    def run(self, name: str, timeout: float = 120.0, app: bytes | None = None) -> tuple[RunState, dict | None]:
        for site in registered_sites(self.superlink.folder).values():
            hospital = self.hospitals[site.name]
            ended = hospital.child.returncode  # nobody starts it again here, as `vigie site supernode` does
            assert ended is None, f"{hospital.name} ended with {ended}: {hospital.child.log_file.read_text()[-3000:]}"
        state = self.superlink.wait(self.superlink.run(name, app), timeout)
        path = self.folder / "retrainings" / name / "report.json"
        return state, json.loads(path.read_text()) if path.exists() else None

    def stop(self) -> None:
        with ThreadPoolExecutor() as together:  # each takes its seconds
            list(together.map(lambda hospital: hospital.child.stop(), self.hospitals.values()))
        self.superlink.stop()
        # or what later tests of this process start would find our coordinator too
        os.environ.pop("PYTHONPATH")
        if self._path is not None:
            os.environ["PYTHONPATH"] = self._path
