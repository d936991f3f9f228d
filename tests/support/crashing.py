"""A federation as people run it, from the commands they type, whose processes a test kills at named points.

Nothing is restarted here: what comes back is what the product brings back.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
from pydicom.uid import generate_uid
from sqlalchemy import insert

from client.federation import supernode, trainer
from client.review import readers
from client.store import versions
from client.store.archive import Archive
from client.store.site import Site, create
from client.store.tables import outcome, patient, study, verdict
from configs.schema import ConsentConfig, CoordinatorConfig, SiteConfig
from models import pki
from models.children import free_port
from server import coordinator as coordinators
from server import journal
from server.aggregation import Aggregation
from server.plan import Plan
from server.superlink import SuperLink

ROOT = Path(__file__).parents[2]
POINTS = ROOT / "tests" / "support" / "crash"
SITES = ("alpha", "beta")
PATIENTS = 48


def copied(site: Site, folder: Path) -> Site:
    """A copy of a hospital that lives, without the pipes of its SuperNodes."""
    with site.database.read():  # or its write-ahead log could go while it is copied
        return Site(Path(shutil.copytree(site.folder, folder, ignore=shutil.ignore_patterns("flower*", "logs"))))


@dataclass
class Command:
    """A `vigie` command that runs."""

    process: subprocess.Popen
    said: Path

    def family(self):
        try:
            return [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def stop(self):
        family = self.family()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
        for one in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.process.wait()


@dataclass
class Crashing:
    """A coordinator and two hospitals, or more, that agree to everything and know each other, on free ports."""

    folder: Path
    base: object
    names: tuple = SITES
    sites: dict = field(default_factory=dict)
    commands: dict = field(default_factory=dict)

    @property
    def points(self):
        return self.folder / "points"

    def start(self, radiograph, vendor_key, bundles):
        self.points.mkdir(parents=True)
        self.coordinator = coordinators.create(
            self.folder / "coordinator", CoordinatorConfig(superlink_port=free_port(), mlflow_port=free_port())
        )
        pki.make_server(self.coordinator.folder / "pki", ["localhost"])
        bundles.trust(self.coordinator.folder / "trust", vendor_key)
        for number, name in enumerate(self.names):
            self.sites[name] = self._hospital(name, number, radiograph, vendor_key, bundles)
        for name, site in self.sites.items():
            for other in self.sites.keys() - {name}:
                key = pki.supernode_point(self.sites[other].secrets / "supernode.key.pub")
                pki.write_supernode_public(site.trust / "hospitals" / f"{other}.pub", key)
        self._run("coordinator", "coordinator", "run", "--folder", self.coordinator.folder)
        self._ready("coordinator", "ready", 180)
        link = SuperLink(self.coordinator.folder, self.coordinator.config.superlink_port)
        for name, site in self.sites.items():
            link.register(name, site.secrets / "supernode.key.pub")
            self._run(name, "site", "supernode", "--folder", site.folder)
        self.coordinator.registry.register(self.base, {})

    def stop(self):
        for command in self.commands.values():
            command.stop()

    # What people type

    def launch(self, name, rounds=2, **settings):
        usual = {"rounds": rounds, "norm": 5, "hyper.steps": 2, "hyper.batch_size": 8, "deadline_seconds": 240}
        words = [f"{key}={value}" for key, value in (usual | settings).items()]
        base = f"base={self.base.facts.label}"
        self._run(name, "retrain", "launch", "--folder", self.coordinator.folder, name, base, *words)
        return self.commands[name]

    def _run(self, key, *words):
        said = self.folder / f"{key}.said"
        with said.open("wb") as file:
            process = subprocess.Popen(
                self._command(*words), env=self._environment(), cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        self.commands[key] = Command(process, said)

    def _ready(self, key, word, timeout):
        deadline = time.monotonic() + timeout
        while word not in self.commands[key].said.read_text():
            assert self.commands[key].process.poll() is None, self.commands[key].said.read_text()[-3000:]
            assert time.monotonic() < deadline, f"{key} is not ready"
            time.sleep(0.05)

    def _command(self, *words):
        return [sys.executable, "-m", "scripts.vigie", *map(str, words)]

    def _environment(self):
        return os.environ | {"PYTHONPATH": os.pathsep.join([str(POINTS), str(ROOT)])}

    # Killing

    def arm(self, point):
        (self.points / f"{point}.armed").touch()

    def disarm(self):
        for path in self.points.iterdir():
            path.unlink()

    def wait_at(self, point, ending, timeout=120):
        """Whether somebody came to the point before the retraining ended."""
        deadline = time.monotonic() + timeout
        while not (self.points / f"{point}.reached").exists():
            if ending.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, f"nobody came to {point}: {ending.said.read_text()[-2000:]}"
            time.sleep(0.02)
        return True

    def release(self, point):
        (self.points / f"{point}.go").touch()

    def find(self, kind, site="alpha"):
        """The living processes of a kind."""
        words = {
            "superlink": ("coordinator", "server.superlink"),
            "serverapp": ("coordinator", "flwr-serverapp"),
            "mlflow": ("coordinator", "mlflow"),
            "supernode": (site, "client.federation.supernode"),
            "launcher": (site, "client.federation.launcher"),
            "clientapp": (site, "client.federation.launcher"),
            "trainer": (site, "client.federation.resident"),
        }
        owner, word = words[kind]
        family = self.commands[owner].family()[1:]
        found = [one for one in family if _has(one, word)]
        if kind in ("launcher", "clientapp"):
            numbers = {one.pid for one in found}
            found = [one for one in found if (one.ppid() in numbers) == (kind == "clientapp")]
        return found

    def kill(self, kind, site="alpha"):
        """`kill -9`; returns how many there were."""
        found = self.find(kind, site)
        for one in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(found, timeout=5)
        return len(found)

    # What came of it

    def journal(self, name):
        return list(journal.read(self.coordinator.folder / "retrainings" / name))

    def weights(self, name, number):
        return journal.Journal(self.coordinator.folder / "retrainings" / name).load_weights(number)

    def undisturbed(self, name):
        """The weights after each round of this plan as they are without a process or a message between."""
        plan = Plan.model_validate_json((self.coordinator.folder / "retrainings" / name / "plan.json").read_text())
        aggregation = Aggregation(plan, self.base.digest, self.base.facts, self.base.read_weights())
        copies = {}
        for site, live in self.sites.items():
            copies[site] = copied(live, self.folder / "copies" / name / site)
        found = []
        for number in range(1, plan.rounds + 1):
            aggregation.take(
                {site: trainer.train(copies[site], aggregation.order(number, site)) for site in plan.sites}
            )
            found.append(aggregation.weights)
        for copy in copies.values():
            copy.database.close()
        return found

    def _hospital(self, name, number, radiograph, vendor_key, bundles):
        policy = ConsentConfig(standing="retrainings", fewest_others=0, most_retrainings=1000)
        site = create(
            self.folder / name,
            SiteConfig(
                name=name, consent=policy, superlink=f"127.0.0.1:{self.coordinator.config.superlink_port}",
                inference_threads=1, training_priority="normal",
            ),
            fold_key=bytes([number + 1]) * 32,
        )  # fmt: skip
        shutil.copy(self.coordinator.folder / "pki" / "ca.crt", site.trust / "ca.crt")
        shutil.copy(self.coordinator.folder / "trust" / "coordinator.pub", site.trust / "coordinator.pub")
        bundles.trust(site.trust, vendor_key)
        supernode.make_keys(site.secrets)
        shutil.copytree(self.base.folder, site.versions / self.base.digest)
        versions.receive(site, self.base)
        versions.adopt(site, self.base.digest)
        readers.add(site, "Dr Truth", "clinician")
        archive, draw = Archive(site.archive), np.random.default_rng(number)
        with site.database.write() as connection:
            for case in range(PATIENTS):
                _add(connection, site, archive, radiograph, self.base.digest, f"P{case}", bool(case % 2), draw.random())
        site.database.close()
        return site


def _add(connection, site, archive, radiograph, digest, who, positive, score):
    image = radiograph(0.3 + 0.4 * positive, PatientID=who, StudyInstanceUID=generate_uid(prefix=None))
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    stored, key, now = archive.store(file.getvalue()), site.patient_key(who), time.time()
    connection.execute(insert(patient).values(key=key, patient_id=who, issuer="", fold=site.fold(who), first_seen=now))
    uid = str(image.StudyInstanceUID)
    connection.execute(
        insert(study).values(uid=uid, patient_key=key, accession="", state="scored", received_at=now, touched_at=now)
    )
    written = connection.execute(
        insert(outcome).values(
            study_uid=uid, revision=1, kind="scored", reasons=[], version_digest=digest,
            sop_uid=str(image.SOPInstanceUID), input_digest=stored, score=score, threshold=0.5, positive=score >= 0.5,
            created_at=now,
        )
    )  # fmt: skip
    right = (score >= 0.5) == positive
    connection.execute(
        insert(verdict).values(
            study_uid=uid, outcome_id=written.inserted_primary_key[0], reader="Dr Truth",
            decision="agree" if right else "correct", answer="positive" if positive else "negative",
            tier="single_reader", mode="doctor_first", reason="" if right else "subtle", created_at=now,
        )
    )  # fmt: skip


def _has(process, word):
    try:
        return any(word in one for one in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def report(crashing, name):
    """What a failing test shows."""
    lines = [json.dumps(line) for line in crashing.journal(name)]
    return "\n".join([crashing.commands[name].said.read_text()[-2000:], *lines[-8:]])
