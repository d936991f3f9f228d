"""What many tests need: a signing key, a version, a hospital, DICOM images made here, and a node as a process."""

import contextlib
import importlib.util
import io
import json
import os
import queue
import shutil
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, settings
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from client.inference.compiled import PACKAGE
from client.inference.measured import packages
from client.store import versions
from client.store.database import Database
from client.store.site import Site, create
from configs.schema import PeerConfig, SiteConfig
from models.bundle import Bundle

ROOT = Path(__file__).parents[1]

# The suite answers the same question each time; `HYPOTHESIS_PROFILE=search` looks for new answers.
for _profile, _repeats in (("suite", True), ("search", False)):
    settings.register_profile(
        _profile,
        derandomize=_repeats,
        deadline=None,
        max_examples=60 if _repeats else 2000,
        suppress_health_check=[HealthCheck.too_slow],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

# A server of the standard library, and so every gateway and PACS stand-in, looks twice a second whether it is to stop:
# closing one in each test would be minutes of waiting.
socketserver.BaseServer.serve_forever.__defaults__ = (0.02,)


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tests_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _dali() -> bool:
    return bool(packages(PACKAGE)[PACKAGE])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes an hour runs where it is asked for by name."""
    if "exhaustive" not in config.option.markexpr:
        left = [item for item in items if item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def pytest_runtest_setup(item: pytest.Item) -> None:
    """`peers("dciodvfy", …)` names programs; a missing one skips the test, or with VIGIE_REQUIRE_PEERS=1 fails it."""
    # Debian keeps PostgreSQL's programs off the PATH, in a folder per release
    servers = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))
    path = ":".join([os.environ.get("PATH", ""), "/usr/bin", "/usr/sbin", *servers])
    needed = [name for marker in item.iter_markers("peers") for name in marker.args]
    missing = [name for name in needed if not (_dali() if name == "DALI" else shutil.which(name, path=path))]
    if missing:
        problem = f"{', '.join(missing)} is not installed: scripts/install --peers"
        if os.environ.get("VIGIE_REQUIRE_PEERS") == "1":
            pytest.fail(problem, pytrace=False)
        pytest.skip(problem)


@pytest.fixture(autouse=True)
def _unused_again() -> Iterator[None]:
    """A command run in this process keeps some packages out of it (`client/lean.py`); the next test may need them."""
    yield
    for name in ("matplotlib", "mlflow"):
        if name in sys.modules and sys.modules[name] is None:
            del sys.modules[name]


@pytest.fixture(scope="session")
def bundles() -> ModuleType:
    """tests/bundles.py: `build`, `facts`, `trust`, `CHEST`, …"""
    return _load(ROOT / "tests" / "bundles.py")


@pytest.fixture(scope="session")
def volumes() -> ModuleType:
    """tests/volumes.py: `series`, `enhanced`, `build`, `declared`, …"""
    return _load(ROOT / "tests" / "volumes.py")


@pytest.fixture(scope="session")
def vigie_data() -> Path:
    """The folder of real data (VIGIE_DATA, else ../shared/data); the test is skipped where it is not."""
    folder = Path(os.environ.get("VIGIE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "dicom").is_dir():
        pytest.skip(f"no real data at {folder}; set VIGIE_DATA to run this")
    return folder


@pytest.fixture(scope="session")
def vendor_key() -> Ed25519PrivateKey:
    """The key that signs the test version."""
    return Ed25519PrivateKey.generate()


@pytest.fixture(scope="session")
def _sealed(tmp_path_factory: pytest.TempPathFactory, bundles: ModuleType, vendor_key: Ed25519PrivateKey) -> Bundle:
    return bundles.build(tmp_path_factory.mktemp("bundle") / "brightness", vendor_key)


@pytest.fixture(scope="session")
def residual(tmp_path_factory: pytest.TempPathFactory, bundles: ModuleType, vendor_key: Ed25519PrivateKey) -> Bundle:
    """A signed version of a small residual network with random weights, as a vendor packs one; 64 pixels a side."""
    import torch

    from models.networks import build
    from models.packing import pack
    from models.preprocessing import Preprocessing

    network = {"channels": [8, 8, 16, 16], "groups": 4}
    torch.manual_seed(0)
    said = bundles.facts(
        name="residual", network="residual", network_facts=network, input_shape=(1, 64, 64), certified=True
    )
    steps = Preprocessing([{"_target_": "Resize", "spatial_size": [64, 64], "mode": "area"}])
    folder = tmp_path_factory.mktemp("residual") / "version"
    return pack(folder, said, build("residual", **network), steps, "# The card", vendor_key, bundles.SIGNER)


@pytest.fixture
def bundle_folder(_sealed: Bundle, tmp_path: Path) -> Path:
    """A copy of the signed test version, to be altered at will."""
    return Path(shutil.copytree(_sealed.folder, tmp_path / "version"))


@pytest.fixture(scope="session")
def _measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is measured on this machine, shared by all hospitals, and by the processes that share the tests: each would
    find the same, some seconds a time."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "measured"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def _migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty database of this release; each hospital begins with a copy, for the migrations take a tenth of a second
    and have tests of their own."""
    database = Database(tmp_path_factory.mktemp("migrated") / "site.db")
    database.migrate()
    database.close()
    return database.path


@pytest.fixture
def make_site(
    tmp_path: Path,
    bundles: ModuleType,
    vendor_key: Ed25519PrivateKey,
    _sealed: Bundle,
    _measured: Path,
    _migrated: Path,
) -> Callable[..., Site]:
    """Make a hospital: `make_site(adopted=True, **SiteConfig fields)`; it trusts the vendor and has free ports."""

    def make(name: str = "hospital", *, adopted: bool = True, **settings: Any) -> Site:
        values: dict[str, Any] = {"dicom_port": 0, "api_port": 0, "quiet_seconds": 0.3, "longest_quiet_seconds": 3.0}
        values |= settings
        if not (database := tmp_path / name / "site.db").exists():
            database.parent.mkdir(exist_ok=True)
            shutil.copy(_migrated, database)
        site = create(tmp_path / name, SiteConfig(name=name, **values))
        if not site.measured.exists():
            site.measured.symlink_to(_measured, target_is_directory=True)
        bundles.trust(site.trust, vendor_key)
        if adopted:
            shutil.copytree(_sealed.folder, site.versions / _sealed.digest)
            versions.receive(site, _sealed)
            versions.adopt(site, _sealed.digest)
        return site

    return make


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Iterator[Site]:
    """A hospital that has adopted the test version."""
    made = make_site()
    yield made
    made.database.close()


@pytest.fixture(scope="session")
def radiograph() -> Callable[..., Dataset]:
    """Make a chest DX: `radiograph(brightness=0.7, rows=64, columns=48, **DICOM keywords)`; None leaves one out."""

    def make(brightness: float = 0.7, rows: int = 64, columns: int = 48, **keywords: Any) -> Dataset:
        seed = int.from_bytes(os.urandom(4))
        noise = np.random.default_rng(seed).normal(0, 20, (rows, columns))
        pixels = np.clip(brightness * 4095 + noise, 0, 4095).astype(np.uint16)
        dataset = Dataset()
        values: dict[str, Any] = {
            "SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1",
            "SOPInstanceUID": generate_uid(prefix=None),
            "StudyInstanceUID": generate_uid(prefix=None),
            "SeriesInstanceUID": generate_uid(prefix=None),
            "Modality": "DX",
            "PatientID": f"P{seed}",
            "PatientName": "Test^Patient",
            "PatientBirthDate": "19600101",
            "PatientSex": "O",
            "StudyDate": "20240101",
            "StudyTime": "120000",
            "AccessionNumber": f"A{seed}"[:16],
            "StudyID": "1",
            "SeriesNumber": 1,
            "InstanceNumber": 1,
            "BodyPartExamined": "CHEST",
            "ViewPosition": "PA",
            "PatientAge": "064Y",
            "PhotometricInterpretation": "MONOCHROME2",
            "SamplesPerPixel": 1,
            "Rows": rows,
            "Columns": columns,
            "BitsAllocated": 16,
            "BitsStored": 12,
            "HighBit": 11,
            "PixelRepresentation": 0,
            "PixelData": pixels.tobytes(),
        }
        for keyword, value in (values | keywords).items():
            if value is not None:
                setattr(dataset, keyword, value)
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", "1.2.3")
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "1.2.3")
        return dataset

    return make


@pytest.fixture
def scored(site: Site, _sealed: Bundle, radiograph: Callable[..., Dataset]) -> Callable[..., str]:
    """Put a scored study into the hospital without a worker and give its UID:
    `scored(uid=…, revision=1, score=0.9, patient_id=…, input_digest=…, confidence=None, objects=False)`; with
    `objects`, its image, report and picture lie in the archive and wait for the PACS; with `covers=False`, it takes no
    earlier result's place."""
    from sqlalchemy import insert, literal, select, update

    from client.results.finding import Finding
    from client.results.radiograph import make
    from client.store.archive import Archive
    from client.store.tables import delivery, outcome, patient, study, succession

    def put(
        uid: str = "",
        *,
        revision: int = 1,
        score: float = 0.9,
        patient_id: str = "",
        issuer: str = "",
        input_digest: str = "",
        objects: bool = False,
        received_at: float | None = None,
        accession: str = "",
        confidence: Any = None,
        missing: int = 0,
        covers: bool = True,
    ) -> str:
        uid = uid or str(generate_uid(prefix=None))
        patient_id = patient_id or f"P-{uid[-12:]}"
        image = radiograph(score, StudyInstanceUID=uid, PatientID=patient_id, AccessionNumber=accession)
        archive = Archive(site.archive)
        file = io.BytesIO()
        image.save_as(file, enforce_file_format=True)
        digest = input_digest or archive.store(file.getvalue())
        finding = Finding(
            image,
            digest,
            revision,
            image.pixel_array.astype(np.float32),
            score,
            0.5,
            score >= 0.5,
            np.array([[-2, 1], [0, 4]], np.float32),
            _sealed,
            site.config.institution,
            1_700_000_000.0,
            confidence=confidence,
        )
        made = [(item, archive.store(item.content)) for item in make(finding)] if objects else []
        now = time.time() if received_at is None else received_at
        with site.database.write() as connection:
            key = site.patient_key(patient_id, issuer)
            if connection.execute(select(patient.c.key).where(patient.c.key == key)).first() is None:
                fold = site.fold(patient_id, issuer)
                connection.execute(
                    insert(patient).values(key=key, patient_id=patient_id, issuer=issuer, fold=fold, first_seen=now)
                )
            if connection.execute(select(study.c.uid).where(study.c.uid == uid)).first() is None:
                connection.execute(
                    insert(study).values(
                        uid=uid, patient_key=key, accession=accession, state="scored", received_at=now, touched_at=now
                    )
                )
            connection.execute(update(study).where(study.c.uid == uid).values(revision=revision, missing=missing))
            written = connection.execute(
                insert(outcome).values(
                    study_uid=uid,
                    revision=revision,
                    kind="scored",
                    reasons=[],
                    version_digest=_sealed.digest,
                    sop_uid=str(image.SOPInstanceUID),
                    input_digest=digest,
                    score=score,
                    threshold=0.5,
                    positive=score >= 0.5,
                    confidence=confidence and confidence.model_dump(mode="json"),
                    created_at=now,
                )
            )
            assert written.inserted_primary_key is not None
            if covers:
                later = written.inserted_primary_key[0]
                before = select(outcome.c.id, literal(later))
                before = before.where(
                    outcome.c.study_uid == uid, outcome.c.revision < revision, outcome.c.score.is_not(None)
                )
                connection.execute(insert(succession).from_select(["earlier_id", "later_id"], before))
            for item, sha256 in made:
                connection.execute(
                    insert(delivery).values(
                        sop_uid=item.sop_uid,
                        outcome_id=written.inserted_primary_key[0],
                        kind=item.kind,
                        sha256=sha256,
                        state="pending",
                    )
                )
        return uid

    return put


@pytest.fixture
def served(site: Site) -> Iterator[str]:
    """The hospital's interface and pages on a free port, without the rest of the node: the base URL."""
    import uvicorn

    from client.arrival.intake import Intake
    from client.review.api import create_app

    intake = Intake(site)
    app = create_app(site, intake)
    server = uvicorn.Server(uvicorn.Config(app, port=0, ws="none", log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 20
    while not server.started:
        assert thread.is_alive(), "the interface did not start"
        assert time.monotonic() < deadline, "the interface did not start in time"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)
    intake.close()


class Node:
    """A hospital's node, run as the processes that a hospital runs, in a process group of its own."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.dicom_port = 0
        self.api_port = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self, timeout: float = 120.0) -> None:
        """Start it and wait until it says that it is ready."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "client.node", "--site", str(self.site.folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        assert self._process.stdout is not None
        output = self._process.stdout
        threading.Thread(target=lambda: [lines.put(line) for line in output] and None, daemon=True).start()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                line = lines.get(timeout=0.2)
            except queue.Empty:
                if self._process.poll() is not None:
                    assert self._process.stderr is not None
                    said = self._process.stderr.read()
                    self._close()
                    raise AssertionError(f"the node ended: {said}") from None
                continue
            if line.startswith("ready "):
                facts = json.loads(line.removeprefix("ready "))
                self.dicom_port, self.api_port = facts["dicom_port"], facts["api_port"]
                return
        raise AssertionError("the node is not ready in time")

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """`kill -9` of all its processes at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._close()

    def stop(self, timeout: float = 10.0) -> int:
        """SIGTERM, as systemd would; returns the exit status."""
        assert self._process is not None
        self._process.terminate()
        status = self._process.wait(timeout)
        self._close()
        return status

    def _close(self) -> None:
        assert self._process is not None
        self._process.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._process = None

    @property
    def running(self) -> bool:
        return self._process is not None


@pytest.fixture
def run_node() -> Iterator[Callable[[Site], Node]]:
    """Start a node for a site; killed at the end of the test if it still runs."""
    nodes: list[Node] = []

    def start(site: Site) -> Node:
        node = Node(site)
        nodes.append(node)
        node.start()
        return node

    yield start
    for node in nodes:
        if node.running:
            node.kill()
        node.site.database.close()


class Pacs:
    """A PACS stand-in: a C-STORE SCP that keeps what it gets by SOP instance UID, and counts."""

    def __init__(self) -> None:
        from pynetdicom import AE, AllStoragePresentationContexts, evt

        self.received: dict[str, list[Dataset]] = {}
        entity = AE("PACS")
        entity.supported_contexts = AllStoragePresentationContexts
        entity.maximum_associations = 16

        def on_store(event: Any) -> int:
            dataset = event.dataset  # decoded first: who waits for an entry finds it filled
            self.received.setdefault(str(event.request.AffectedSOPInstanceUID), []).append(dataset)
            return 0x0000

        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, on_store)])
        assert server is not None
        self._server = server
        self.config = PeerConfig("127.0.0.1", server.server_address[1], "PACS")

    def close(self) -> None:
        self._server.shutdown()


@pytest.fixture
def pacs() -> Iterator[Pacs]:
    """A PACS stand-in on a free port; `pacs.config` goes into a SiteConfig."""
    made = Pacs()
    yield made
    made.close()


@pytest.fixture(scope="session")
def eventually() -> Callable[..., Any]:
    """Wait until a condition gives something true, and return that."""

    def wait(condition: Callable[[], Any], timeout: float = 30.0) -> Any:
        deadline, pause = time.monotonic() + timeout, 0.002
        while not (value := condition()):
            assert time.monotonic() < deadline, "it did not become true in time"
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        return value

    return wait
