"""The whole loop, played small once, seen from three sides: it works, no patient crosses, nothing calls home."""

import base64
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import alone
import numpy as np
import psutil
import pytest
import wire
from needles import SIGNATURES, Needles
from pydicom import dcmread

from client.store.archive import Archive
from client.store.site import Site
from models import exchange, parcels
from models.stats.disclosure import LEAST
from scripts.demonstration.summary import Summary
from server.superlink import registered_sites

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
SUPPORT = ROOT / "tests" / "support"
SITES = ("guangzhou", "nih", "shenzhen")
LIMIT = 60
SEGMENT = 24  # pixels of a row: short enough to survive a crop, long enough to be nobody else's
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OMP_NUM_THREADS")


@dataclass(frozen=True)
class Played:
    """What one small demonstration left.

    Attributes:
        report: what tried to leave (tests/support/alone.py), or None where no such place could be made, and `why`.
    """

    out: Path
    status: int
    said: str
    report: dict | None
    why: str
    capture: Path
    left_running: list[str]

    @property
    def coordinator(self) -> Path:
        return self.out / "coordinator"

    def node(self, site: str) -> Path:
        return self.out / "hospitals" / site / "node"

    def query(self, site: str, sql: str) -> list[tuple]:
        connection = sqlite3.connect(f"file:{self.node(site) / 'site.db'}?mode=ro", uri=True)
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def journal(self, retraining: str) -> dict[str, dict]:
        text = (self.coordinator / "retrainings" / retraining / "journal.jsonl").read_text()
        return {line["step"]: line for line in map(json.loads, text.splitlines())}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("loop")
    out, capture, report = folder / "demo", folder / "exchanges", folder / "left.json"
    # nothing that keeps telemetry quiet by chance (CI, DO_NOT_TRACK, a proxy on loopback) may come with us
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(wire.CAPTURE), str(ROOT)]),
        "VIGIE_TEST_CAPTURE": str(capture),
    }
    place, why = _place(folder)
    command = [sys.executable, "-m", "scripts.vigie", "demo", "--phantoms", "--limit", str(LIMIT)]
    command = [*place, *([str(report)] if place else []), *command, "--rounds", "1", "--steps", "40", "--out", str(out)]
    with (folder / "said").open("wb") as said:
        running = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = running.wait(800)
        finally:
            left = _stop(running, out)
    return Played(
        out,
        status,
        (folder / "said").read_text(),
        json.loads(report.read_text()) if place and report.exists() else None,
        why,
        capture,
        left,
    )


@pytest.fixture(scope="module")
def summary(played: Played) -> Summary:
    assert played.status == 0, f"the demonstration ended with {played.status}:\n{played.said[-3000:]}"
    return Summary.model_validate_json((played.out / "summary.json").read_text())


@pytest.fixture(scope="module")
def exchanges(played: Played, summary: Summary) -> list[wire.Exchange]:
    return wire.read(played.capture)


@pytest.fixture(scope="module")
def crossed(played: Played, exchanges: list[wire.Exchange]) -> wire.Wire:
    names = {one.node_id: site.name for site in registered_sites(played.coordinator).values() for one in site.nodes}
    return wire.Wire(exchanges, names)


@pytest.fixture(scope="module")
def canaries(played: Played, summary: Summary) -> "Canaries":
    return Canaries(played)


# ── The loop ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_study_ends_in_one_state_and_its_results_in_the_pacs(played: Played, summary: Summary):
    assert tuple(summary.hospitals) == SITES
    for site, found in summary.hospitals.items():
        states = dict(found.studies)
        sent = states.pop("sent")
        # one image a patient, those of test patients a second time, and five that are no chest radiograph
        assert sum(found.patients.values()) == LIMIT
        assert sent == LIMIT + found.patients["test"] + 5
        assert states == {"scored": sent - 5, "refused": 5}
        assert dict(played.query(site, "select state, count(*) from study group by state")) == states
        outcomes = "select count(*), count(distinct study_uid) from outcome join study on study.uid = study_uid"
        assert played.query(site, f"{outcomes} and study.revision = outcome.revision") == [(sent, sent)]
        kinds = dict(played.query(site, "select kind, count(*) from delivery group by kind"))
        # a lateral chest and one of no stated view leave word that they were refused; CT, MR and hand are nobody's
        assert (kinds["sr"] - 2, kinds["sc"]) == (states["scored"],) * 2
        assert found.in_pacs >= found.delivered == sum(kinds.values())
        made = {uid for (uid,) in played.query(site, "select sop_uid from delivery")}
        assert made <= _in_pacs(played.out / "hospitals" / site / "pacs" / "storage")
        assert found.ledger_holds


def test_the_retrained_version_is_registered_with_lineage_figures_and_decisions(played: Played, summary: Summary):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SUPPORT / "registered.py"), str(played.coordinator), "chest-radiograph"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    known = json.loads(done.stdout.splitlines()[-1])
    assert set(known) == {"1", "2"}
    assert summary.version_2 == "chest-radiograph@2"
    first, second = known["1"], known["2"]
    assert first["tags"]["parent"] == "none"
    assert second["tags"]["parent"] == first["digest"] == first["tags"]["digest"]
    assert second["tags"]["retraining"] == "retraining-1"
    steps = played.journal("retraining-1")
    assert steps["candidate"]["digest"] == second["digest"]
    assert not steps["decisions"]["failures"]
    for site in SITES:
        test = summary.hospitals[site].after["test"]
        assert test.n > 0
        told = second["metrics"].get(f"{site}/test/candidate/auc")
        if min(test.n_positive, test.n - test.n_positive) < LEAST:  # too few patients to tell anybody outside of
            assert not [key for key in second["metrics"] if key.startswith(f"{site}/test/")]
        else:
            assert told == pytest.approx(test.auc.value, abs=1e-3)
            assert f"{site}/test/served/auc" in second["metrics"]
        decision = steps["decisions"]["decisions"][site]["outcome"]
        assert decision in ("adopted", "refused", "shadow")
        assert summary.hospitals[site].decision == decision
        states = dict(played.query(site, "select number, state from version"))
        assert states[2] == decision
    assert all(any(site in key for key in second["tags"] if key.startswith("decision")) for site in SITES)


def test_who_objects_is_left_out_of_training(played: Played, summary: Summary, crossed: wire.Wire):
    """Counted from the tables, without the code under test: every scored study of a training patient has a verdict."""
    told = {
        message.site: exchange.Update.from_record(message.record).n_cases
        for message in crossed.crossed
        if message.kind == "update"
    }
    for site in SITES:
        query = (
            "select objects_to_reuse, count(*) from study join patient on patient.key = patient_key "
            "where state = 'scored' and fold = 'train' group by objects_to_reuse"
        )
        counts = dict(played.query(site, query))
        assert counts[1] == summary.hospitals[site].left_out_objecting == 1
        assert played.journal("retraining-1")["round"]["sites"][site]["cases"] == counts[0]
        assert told[site] == counts[0]


def test_the_demonstration_leaves_nothing_running(played: Played, summary: Summary):
    assert played.left_running == []


def _in_pacs(storage: Path) -> set[str]:
    """SOP instance UIDs that a PACS keeps, read from its disk: Orthanc's index, else the files of a plain SCP."""
    if not (storage / "index").exists():
        return {path.stem for path in storage.glob("*.dcm")}
    connection = sqlite3.connect(f"file:{storage / 'index'}?mode=ro", uri=True)
    try:
        rows = connection.execute("select value from DicomIdentifiers where tagGroup = 8 and tagElement = 24")
        return {str(value).strip("\0 ") for (value,) in rows}
    finally:
        connection.close()


# ── Nothing of a patient crosses ─────────────────────────────────────────────────────────────────────────────────────


def test_what_crossed_is_what_the_ledgers_say(played: Played, summary: Summary, crossed: wire.Wire):
    """Message by message: site, direction, kind, digest and size; and between them no object that none declared."""
    told = Counter()
    for site in SITES:
        for event, facts in played.query(site, "select event, facts from ledger where event like 'border.%'"):
            entry = json.loads(facts)
            assert (event, entry["code"]) == ("border.crossed", None)
            told[site, entry["direction"], entry["kind"], entry["sha256"], entry["bytes"]] += 1
    seen = Counter((found.site, found.direction, found.kind, found.sha256, found.size) for found in crossed.crossed)
    assert seen == told
    kinds = Counter((found.direction, found.kind) for found in crossed.crossed)
    each = (
        {"proposal": 2, "offer": 2, "train": 1, "release": 2},
        {"consent": 2, "evidence": 2, "update": 1, "decision": 2},
    )
    assert kinds == {
        (direction, kind): count * len(SITES)
        for direction, per_site in zip(("in", "out"), each, strict=True)
        for kind, count in per_site.items()
    }
    for site, found in summary.hospitals.items():
        for direction, kind in kinds:
            sizes = [
                item.size
                for item in crossed.crossed
                if (item.site, item.direction, item.kind) == (site, direction, kind)
            ]
            assert found.crossed[f"{direction} {kind}"] == {"messages": len(sizes), "bytes": sum(sizes)}
    assert crossed.undeclared == set()


def test_beside_messages_hospitals_say_next_to_nothing(exchanges: list[wire.Exchange]):
    """What a hospital asks beside pushing its messages is a few known questions with room for a key and some ids."""
    asked: dict[str, int] = {}
    for found in exchanges:
        assert found.head["type"] == "http"
        if found.path.startswith(parcels.PATH):
            assert found.head["method"] == "PUT" or not found.asked
            assert found.head["query"] == ""
            assert len(found.heading) < 4096
        elif found.path.startswith(wire.FLEET):
            asked[found.path] = max(asked.get(found.path, 0), len(found.asked))
            assert found.head["query"] == ""
            assert len(found.heading) < 4096
    asked.pop(f"{wire.FLEET}push-object")
    questions = {"activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages"}
    questions |= {"get-run", "get-fab", "pull-object", "confirm-message-received"}
    assert set(asked) <= {wire.FLEET + name for name in questions}
    assert max(asked.values()) < 2048, asked


def test_no_patient_and_no_image_is_on_the_wire(
    exchanges: list[wire.Exchange], crossed: wire.Wire, canaries: "Canaries"
):
    seen: set[bytes] = set()
    for found in exchanges:
        for what in (found.heading, found.asked, found.answered):
            if what not in seen:
                seen.add(what)
                assert canaries.in_(what) == set(), found.path
    # arrays travel in chunks: put together again, no row lies across two of them
    for message in crossed.crossed:
        for arrays in message.record.array_records.values():
            for array in arrays.values():
                assert canaries.in_(array.data) == set(), message.kind
    assert sum(map(len, seen)) > 1_000_000, "too little was captured to mean anything"


def test_no_patient_and_no_image_is_with_the_coordinator(played: Played, canaries: "Canaries"):
    """Whatever way it might have come: databases, artifacts, journals and logs, as they lie on its disk."""
    files = [path for path in played.coordinator.rglob("*") if path.is_file()]
    assert {"superlink.db", "mlflow.db", "journal.jsonl", "superlink.log"} <= {path.name for path in files}
    seen: set[bytes] = set()
    for path in files:
        # the same bundle lies in several places
        if (content := path.read_bytes()) not in seen:
            seen.add(content)
            assert canaries.in_(content) == set(), path.relative_to(played.coordinator)


def test_no_patient_is_in_a_hospitals_logs_or_ledger(played: Played, canaries: "Canaries"):
    """Erasing a patient must not have to touch them; a ledger's short keyed hashes are what stands for one."""
    for site in SITES:
        for path in (played.node(site) / "logs").iterdir():
            assert canaries.in_(path.read_bytes()) == set(), path.name
        rows = played.query(site, "select event, facts from ledger")
        text = "\n".join(f"{event} {facts}" for event, facts in rows).encode()
        assert canaries.identifiers.find_all(text) == set()


def test_a_canary_on_the_wire_would_have_been_found(
    played: Played, exchanges: list[wire.Exchange], canaries: "Canaries"
):
    """Positive control: into a copy of the largest body, in each form, loose and packed."""
    body = max((found.asked for found in exchanges if found.path.startswith(wire.FLEET)), key=len)
    assert canaries.in_(body) == set()
    plants = canaries.examples()
    assert {"patient id", "patient key", "study", "image digest", "pixels", "tensor"} <= set(plants)
    for name, content in plants.items():
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("a", b"..." + content + b"...")
        forms = (
            content,
            content.hex().encode(),
            base64.b64encode(b"x" + content + b"yz"),
            zlib.compress(b"head" + content),
            zlib.compress(zlib.compress(content * 2)),
            packed.getvalue(),
        )
        for number, form in enumerate(forms):
            middle = len(body) // 2 + number  # at any distance from a multiple of 8
            planted = body[:middle] + form + body[middle:]
            assert any(found.startswith(name) for found in canaries.in_(planted)), (name, number)
    # and one changed letter is somebody else
    assert canaries.in_(body + b"PH-nih-9999" + body[:99]) == set()


class Canaries:
    """What must stay in the hospitals: who the patients are, and rows of their images.

    Attributes:
        identifiers: the words alone; `everything` has the pixels, tensors and image files too.
    """

    def __init__(self, played: Played) -> None:
        self.identifiers, self.everything = Needles(), Needles()
        self._examples: dict[str, bytes] = {}
        for name, signature in SIGNATURES.items():
            self.everything.add(name, signature)
        for site in SITES:
            self._of(Site(played.node(site)), played, site)
        assert self.everything.count > 20_000

    def in_(self, content: bytes) -> set[str]:
        return self.everything.find_all(content)

    def examples(self) -> dict[str, bytes]:
        """One of each kind."""
        return self._examples

    def _of(self, site: Site, played: Played, name: str) -> None:
        for patient_id, key in played.query(name, "select patient_id, key from patient"):
            self._word("patient id", patient_id)
            self._word("patient key", key)
        objecting = played.query(name, "select patient_id from patient where objects_to_reuse")
        assert len(objecting) == 1  # one of the words above
        archive = Archive(site.archive)
        instances = played.query(name, "select sha256 from instance order by sha256")
        assert len(instances) > LIMIT
        for number, (sha256,) in enumerate(instances):
            image = dcmread(archive.path(sha256))
            self._word("study", str(image.StudyInstanceUID))
            self._word("series", str(image.SeriesInstanceUID))
            self._word("image", str(image.SOPInstanceUID))
            for what, keyword in (("patient name", "PatientName"), ("accession", "AccessionNumber")):
                if len(str(image.get(keyword, ""))) >= 8:
                    self._word(what, str(image[keyword].value))
            self.everything.add_text("image digest", sha256)
            self.everything.add_bytes("image digest", bytes.fromhex(sha256))
            self._examples.setdefault("image digest", sha256.encode())
            if number % 4 == 0 and image.BitsAllocated == 8:
                self._pixels(np.frombuffer(image.PixelData, np.uint8)[: image.Rows * image.Columns], image.Columns)
        for (uid,) in played.query(name, "select sop_uid from delivery"):
            # made here of an image's digest and a version's: no patient's name in a ledger, but nobody else's business
            self.everything.add_text("result", uid)
        tensors = sorted(site.tensors.rglob("*.npy"))
        assert len(tensors) >= LIMIT
        for path in tensors[::4]:
            self._tensor(np.load(path))

    def _word(self, kind: str, text: str) -> None:
        self._examples.setdefault(kind, text.encode())
        for needles in (self.identifiers, self.everything):
            needles.add_text(f"{kind} {text}", text)

    def _pixels(self, content: np.ndarray, columns: int) -> None:
        for values in _telling(content.reshape(-1, columns)):
            self._examples.setdefault("pixels", values.tobytes())
            for how, form in (
                ("", values),
                (" inverted", 255 - values),
                (" as float32", values.astype("<f4")),
                (" as float32 up to 1", values.astype("<f4") / np.float32(255)),
                (" as text", ",".join(map(str, values)).encode()),
                (" as spaced text", ", ".join(map(str, values)).encode()),
            ):
                self.everything.add_bytes(f"pixels{how}", form if isinstance(form, bytes) else form.tobytes())

    def _tensor(self, tensor: np.ndarray) -> None:
        for values in _telling(tensor[0]):
            self._examples.setdefault("tensor", values.astype("<f4").tobytes())
            for dtype in ("<f4", "<f2", "<f8"):
                self.everything.add_bytes(f"tensor {dtype}", values.astype(dtype).tobytes())


def _telling(rows: np.ndarray, count: int = 4) -> list[np.ndarray]:
    """A piece out of the middle of some rows, where enough differs from pixel to pixel to be this image's alone."""
    start = (rows.shape[1] - SEGMENT) // 2
    pieces = rows[:: max(len(rows) // 16, 1), start : start + SEGMENT]
    pieces = sorted(pieces, key=lambda piece: -len(np.unique(piece)))[:count]
    return [piece for piece in pieces if len(np.unique(piece)) >= SEGMENT // 2]


# ── Nothing calls home ───────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_calls_home(played: Played, summary: Summary):
    """With one way out that leads nowhere, nobody tried it: no packet, no name looked up."""
    if played.report is None:
        if os.environ.get("VIGIE_REQUIRE_PEERS") == "1":
            pytest.fail(played.why, pytrace=False)
        pytest.skip(played.why)
    deliberate = {(found["what"], found["to"], found["port"]) for found in played.report["on_purpose"]}
    assert {
        ("IPv4 UDP", alone.NOWHERE, 9),
        ("IPv6 UDP", alone.NOWHERE6, 9),
        ("IPv4 UDP", alone.NAMES, 53),
    } <= deliberate, "the ear is deaf"
    assert played.report["during"] == []


def _place(folder: Path) -> tuple[list[str], str]:
    """The command in front that runs another where nothing can leave, or why there is none."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return [], "only root can make a place with no way out (network namespace)"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if missing := [name for name in ("unshare", "ip", "mount") if shutil.which(name, path=path) is None]:
        return [], f"{', '.join(missing)} is not installed (util-linux, iproute2)"
    command = ["unshare", "--net", "--mount", sys.executable, str(SUPPORT / "alone.py")]
    tried = subprocess.run([*command, str(folder / "tried.json"), "true"], capture_output=True, text=True, check=False)
    return (command, "") if tried.returncode == 0 else ([], f"no place with no way out here: {tried.stderr[-500:]}")


def _stop(running: subprocess.Popen, out: Path) -> list[str]:
    """Whoever of the demonstration is still there, each stopped."""
    if running.poll() is None:
        running.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 30
        while running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
    processes = [(process, " ".join(process.info["cmdline"] or [])) for process in psutil.process_iter(["cmdline"])]
    left = {process: words for process, words in processes if str(out) in words}
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    if running.poll() is None:
        running.kill()
    running.wait()
    return list(left.values())
