"""The queue of a node: who comes first, what it refuses, and what it has done before a study is complete."""

import contextlib
import io
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import ModalityPerformedProcedureStep
from sqlalchemy import Connection, event, func, select, update

from client.arrival import priority, room
from client.arrival.completeness import Bounds
from client.arrival.gateway import Gateway
from client.arrival.priority import stated_in
from client.arrival.receive import Receiving
from client.arrival.required import Required
from client.arrival.urgency import Turns, Urgency
from client.dicom import decode
from client.inference import outcomes
from client.inference.ahead import Ahead
from client.inference.memory import TOO_LARGE, Memory
from client.inference.objects import objects
from client.inference.panel import Panel
from client.inference.pipeline import Outcome, Pipeline, Scored, ScoredVolumes
from client.inference.tensors import Tensors
from client.inference.triage import Triage
from client.inference.worker import Worker
from client.node import WorkerProcess
from client.review import readers, worklist
from client.store import versions
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, outcome, study
from client.store.tables import priority as priority_table
from configs.schema import ResultsConfig, SenderConfig, UrgencyConfig
from models.bundle import Bundle
from models.intended_use import Range, Series

pytestmark = pytest.mark.integration

DX = "1.2.840.10008.5.1.4.1.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
AT_ONCE = Bounds(0.0, 0.0, 0.0)
MIB = 1 << 20
Make = Callable[..., Dataset]


@pytest.fixture
def gateway(site: Site) -> Iterator[Gateway]:
    made = Gateway(site)
    yield made
    made.close()


@contextlib.contextmanager
def calling(gateway: Gateway, title: str = "MODALITY") -> Iterator[Association]:
    entity = AE(title)
    for sop_class in (DX, CT, ModalityPerformedProcedureStep):
        entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def store(gateway: Gateway, *images: Dataset, title: str = "MODALITY") -> list[int]:
    with calling(gateway, title) as association:
        return [association.send_c_store(image).Status for image in images]


def row_of(site: Site, image: Dataset) -> Any:
    with site.database.read() as connection:
        return connection.execute(select(study).where(study.c.uid == image.StudyInstanceUID)).one()


def taken(site: Site, turns: Turns | None = None) -> list[str]:
    """The studies in the order in which they are taken."""
    found: list[str] = []
    turns = turns or Turns()
    while isinstance(one := outcomes.take(site, found, turns), outcomes.Study):
        found.append(one.uid)
    return found


def take_in(site: Site, bundle: Bundle) -> None:
    shutil.copytree(bundle.folder, site.versions / bundle.digest)
    versions.receive(site, bundle)
    versions.adopt(site, bundle.digest)


def begun(image: Dataset, word: str) -> Dataset:
    scheduled, step = Dataset(), Dataset()
    scheduled.StudyInstanceUID = image.StudyInstanceUID
    scheduled.RequestedProcedurePriority = word
    step.ScheduledStepAttributesSequence = [scheduled]
    step.PerformedProcedureStepStatus = "IN PROGRESS"
    step.PerformedSeriesSequence = []
    return step


# ---------------------------------------------------------------- who comes first


def test_emergencies_are_read_first_whoever_says_that_they_are_some(
    make_site: Callable[..., Site], radiograph: Make
) -> None:
    site = make_site(urgency=UrgencyConfig(senders=[SenderConfig("ER", "emergency", 5.0)]))
    gateway = Gateway(site)
    first, low = radiograph(), radiograph(RequestedProcedurePriority="LOW")
    high, stat = radiograph(StudyPriorityID="HIGH"), radiograph(RequestedProcedurePriority="STAT")
    announced, from_er, unknown = radiograph(), radiograph(), radiograph(RequestedProcedurePriority="Doe^John")
    receiving = Receiving(site, AT_ONCE)
    try:
        with calling(gateway) as association:
            step = begun(announced, "STAT")
            status, _ = association.send_n_create(step, ModalityPerformedProcedureStep, generate_uid(prefix=None))
            assert status.Status == 0
        assert store(gateway, first, low, high, unknown, stat, announced) == [0] * 6
        assert receiving.complete() == 6
        assert store(gateway, from_er, title="ER") == [0]
        assert receiving.complete() == 1
    finally:
        gateway.close()

    known = {name: row_of(site, image) for name, image in {"stat": stat, "er": from_er, "unknown": unknown}.items()}
    assert {name: row.urgency for name, row in known.items()} == {
        "stat": "emergency",
        "er": "emergency",
        "unknown": "routine",
    }
    assert known["stat"].due_at - known["stat"].completed_at == pytest.approx(60)
    assert known["er"].due_at - known["er"].completed_at == pytest.approx(5)
    order = taken(site)
    assert order[0] == from_er.StudyInstanceUID
    assert set(order[1:3]) == {stat.StudyInstanceUID, announced.StudyInstanceUID}
    assert order[3] == high.StudyInstanceUID
    assert len(order) == 7
    assert worklist.one(site, stat.StudyInstanceUID).line.urgency == "emergency"
    site.database.close()


def test_an_order_moves_a_study_that_waits_and_takes_its_word_back(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    before, waiting, stat = radiograph(), radiograph(), radiograph(RequestedProcedurePriority="STAT")
    assert store(gateway, before, waiting, stat) == [0, 0, 0]
    assert Receiving(site, AT_ONCE).complete() == 3

    def tell(image: Dataset, urgency: Urgency) -> None:
        with site.database.write() as connection:
            priority.tell(connection, site, image.StudyInstanceUID, priority.ORDER, urgency)

    tell(waiting, Urgency.EMERGENCY)
    row = row_of(site, waiting)
    assert (row.urgency, row.due_at - row.completed_at) == ("emergency", pytest.approx(60))
    tell(waiting, Urgency.EMERGENCY)  # twice is once
    assert len(list(site.ledger.entries("study.urgency"))) == 1
    tell(waiting, Urgency.ROUTINE)
    row = row_of(site, waiting)
    assert (row.urgency, row.due_at - row.completed_at) == ("routine", pytest.approx(3600))
    tell(stat, Urgency.ROUTINE)  # what the images say is not the order's to take back
    assert row_of(site, stat).urgency == "emergency"
    # of a study that has not come yet
    late = radiograph()
    tell(late, Urgency.URGENT)
    assert store(gateway, late) == [0]
    assert Receiving(site, AT_ONCE).complete() == 1
    assert row_of(site, late).urgency == "urgent"


def test_a_study_that_ends_the_process_each_time_lets_the_others_pass_and_an_overdue_one_gets_its_turn(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    killer, other = (radiograph(RequestedProcedurePriority="STAT") for _ in range(2))
    routine = radiograph()
    assert store(gateway, killer, other, routine) == [0, 0, 0]
    assert Receiving(site, AT_ONCE).complete() == 3
    with site.database.write() as connection:
        connection.execute(update(study).values(due_at=1.0))
        connection.execute(update(study).where(study.c.uid == killer.StudyInstanceUID).values(due_at=0.5))

    first, second, third = (outcomes.take(site) for _ in range(3))  # each time as if the worker were a new one
    assert [one.uid for one in (first, second, third) if isinstance(one, outcomes.Study)] == [
        killer.StudyInstanceUID,
        other.StudyInstanceUID,
        routine.StudyInstanceUID,
    ]
    # and then it is its turn again, until it has been tried often enough
    rest = [str(image.StudyInstanceUID) for image in (other, routine)]
    tries = [outcomes.take(site, rest) for _ in range(site.config.max_attempts)]
    assert [type(one) for one in tries] == [outcomes.Study, outcomes.Study, outcomes.Exhausted]


def test_the_queue_is_asked_by_its_index_and_not_by_reading_every_study(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    image = radiograph()
    assert store(gateway, image) == [0]
    assert Receiving(site, AT_ONCE).complete() == 1
    asked: list[tuple[str, Any]] = []
    with site.database.read() as connection:
        event.listen(connection.engine, "before_cursor_execute", lambda *a: asked.append((a[2], a[3])))
    assert isinstance(outcomes.take(site, ["1.2.3"]), outcomes.Study)
    queries = [(query, values) for query, values in asked if "FROM study" in query]
    assert len(queries) == 1
    with site.database.read() as connection:
        query, values = queries[0]
        plan = [row[-1] for row in connection.exec_driver_sql(f"explain query plan {query}", values).all()]
    searches = [step for step in plan if " study" in step]
    assert len(searches) == 4
    assert all("SEARCH study USING INDEX ix_study_waiting" in step for step in searches), plan


def test_what_a_triage_version_calls_positive_is_read_first_and_nothing_of_it_is_shown(
    make_site: Callable[..., Site], radiograph: Make
) -> None:
    site = make_site(urgency=UrgencyConfig(triage="brightness"))
    gateway = Gateway(site)
    dark, bright, broken = radiograph(0.2), radiograph(0.9), radiograph(PixelData=b"\0" * 100)
    try:
        assert store(gateway, dark, broken, bright) == [0, 0, 0]
    finally:
        gateway.close()
    assert Receiving(site, AT_ONCE).complete() == 3
    triage = Reader(site).triage()
    assert triage is not None
    looked, order = 0, list[str]()
    while True:  # as a worker does: look as long as there is something to look at, then read one
        while triage.step(order):
            looked += 1
        found = outcomes.take(site, order)
        if not isinstance(found, outcomes.Study):
            break
        order.append(found.uid)
    assert order[0] == bright.StudyInstanceUID
    assert len(order) == 3
    with site.database.read() as connection:
        told = connection.execute(select(priority_table.c.study_uid).where(priority_table.c.source == "triage")).all()
    assert len(told) == looked >= 1  # each of them once at most
    assert count(site, outcome) == count(site, delivery) == 0
    assert [row_of(site, image).urgency for image in (dark, broken, bright)] == ["routine", "routine", "emergency"]
    (moved,) = site.ledger.entries("study.urgency")
    assert versions.panel(site)[0].digest in moved.facts
    site.database.close()


# ---------------------------------------------------------------- what it refuses


def test_a_full_queue_refuses_new_studies_politely_and_takes_the_rest_of_those_it_has(
    make_site: Callable[..., Site],
    radiograph: Make,
    monkeypatch: pytest.MonkeyPatch,
    served_by: Callable[[Site], contextlib.AbstractContextManager[str]],
) -> None:
    monkeypatch.setattr(room, "_COUNTED_SECONDS", 0.0)
    site = make_site(most_waiting=2)
    gateway = Gateway(site)
    try:
        here, another, refused = radiograph(), radiograph(), radiograph()
        more = radiograph(StudyInstanceUID=here.StudyInstanceUID, PatientID=here.PatientID)
        assert store(gateway, here, another, refused, more) == [0, 0, 0xA700, 0]
        with served_by(site) as address:
            token = readers.add(site, "CT-1", "device")
            answer = httpx.post(
                f"{address}/dicomweb/studies",
                headers={
                    "Authorization": f"Bearer {token}",
                    "Content-Type": 'multipart/related; type="application/dicom"; boundary=b',
                },
                content=b"--b\r\nContent-Type: application/dicom\r\n\r\n" + part10(refused) + b"\r\n--b--\r\n",
            )
            assert (answer.status_code, answer.headers.get("retry-after")) == (503, "60")
        assert sum(1 for _ in site.archive.glob("*/*.dcm")) == 3  # nothing is left behind of what was refused
        assert Receiving(site, AT_ONCE).complete() == 2
        with site.database.write() as connection:
            connection.execute(update(study).values(state="refused"))
        assert store(gateway, refused) == [0]
    finally:
        gateway.close()
        site.database.close()


def part10(image: Dataset) -> bytes:
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def served_by() -> Callable[[Site], contextlib.AbstractContextManager[str]]:
    """The hospital's interface on a free port."""
    import uvicorn

    from client.arrival.intake import Intake
    from client.review.api import create_app

    @contextlib.contextmanager
    def serve(site: Site) -> Iterator[str]:
        intake = Intake(site)
        app = create_app(site, intake)
        server = uvicorn.Server(uvicorn.Config(app, port=0, ws="none", log_config=None, access_log=False))
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
        intake.close()

    return serve


class Reader:
    """A worker in this process, as the node's child is one."""

    def __init__(self, site: Site, *, budget: int = 512 * MIB, cache: int = 128 * MIB) -> None:
        self.site = site
        self.archive, self.panel = Archive(site.archive), Panel(site)
        self.ahead = Ahead(site, self.archive, self.panel.members, cache)
        self.memory = Memory(budget)

    def pipeline(self, ahead: Ahead | None) -> Pipeline:
        tensors = Tensors(self.site.tensors, self.archive)
        return Pipeline(self.archive, tensors, self.panel.members, "Hospital", reading=ahead, admit=self.memory.admit)

    def triage(self) -> Triage | None:
        known = self.site.config.urgency.triage
        return Triage(self.site, self.pipeline(None), self.panel.members, self.memory) if known else None

    @contextlib.contextmanager
    def working(self) -> Iterator[threading.Event]:
        """What is given tells it of studies."""
        stop, queued = threading.Event(), threading.Event()
        worker = Worker(
            self.site,
            self.pipeline(self.ahead),
            self.archive,
            self.panel,
            self.ahead,
            self.memory,
            self.triage(),
            lambda: None,
            stop,
            queued,
        )
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        yield queued
        stop.set()
        queued.set()
        thread.join(20)


def test_a_study_larger_than_the_memory_fails_with_the_figures_and_the_next_one_is_read(
    site: Site, gateway: Gateway, radiograph: Make, eventually: Callable[..., Any]
) -> None:
    large, small = radiograph(rows=512, columns=512), radiograph()
    with Reader(site, budget=2 * MIB).working():
        assert store(gateway, large, small) == [0, 0]
        assert Receiving(site, AT_ONCE).complete() == 2
        eventually(lambda: count(site, outcome) == 2)
    failed, scored = row_of(site, large), row_of(site, small)
    assert (failed.state, scored.state) == ("failed", "scored")
    ((code, said),) = worklist.one(site, large.StudyInstanceUID).line.reasons
    assert code == TOO_LARGE
    assert "there are 2" in said


def test_a_worker_that_is_told_of_a_study_begins_it_without_waiting_for_its_next_look(
    site: Site,
    gateway: Gateway,
    radiograph: Make,
    eventually: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("client.inference.worker._IDLE_SECONDS", 3600.0)
    with Reader(site).working() as queued:
        assert store(gateway, radiograph()) == [0]
        assert Receiving(site, AT_ONCE).complete() == 1
        queued.set()
        eventually(lambda: count(site, outcome) == 1)


def test_the_node_wakes_its_worker_and_does_not_mind_when_it_is_gone(
    tmp_path: Path, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []
    tells = "import os; os.read(0, 1); print('ready', flush=True); os.read(0, 1)"

    def instead(_command: list[str], **how: Any) -> subprocess.Popen[str]:
        started.append(popen([sys.executable, "-c", tells], **how))
        return started[-1]

    popen = subprocess.Popen
    monkeypatch.setattr("client.node.subprocess.Popen", instead)
    worker = WorkerProcess(tmp_path)
    worker.wake()  # there is none yet
    worker.tend()
    worker.wake()
    assert worker.ready.wait(30)
    started[0].kill()
    started[0].wait()
    worker.wake()
    for _ in range(100_000):  # more than a pipe holds
        worker.wake()
    worker.stop()
    worker.wake()


def count(site: Site, table: Any) -> int:
    with site.database.read() as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


# ---------------------------------------------------------------- before a study is complete


def made_of(result: Outcome) -> list[Any]:
    """What a study led to, but for what a SEG and a GSPS draw anew each time: a UID, and the time of day."""
    assert isinstance(result, Scored | ScoredVolumes)
    labels = [one.labels.tobytes() for one in result.outlined] if isinstance(result, ScoredVolumes) else []
    return [
        result.best.score,
        labels,
        [item.content for item in objects(result, ResultsConfig()) if item.kind in ("sr", "sc")],
    ]


def test_what_was_read_ahead_is_bit_for_bit_what_is_read_afterwards(
    site: Site,
    gateway: Gateway,
    radiograph: Make,
    volumes: ModuleType,
    vendor_key: Ed25519PrivateKey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_in(site, volumes.build(tmp_path / "volume", vendor_key))
    reader = Reader(site)
    film, slices = radiograph(rows=200, columns=160), volumes.series(count=12)
    assert store(gateway, film, *slices) == [0] * 13
    while reader.ahead.step():
        pass
    assert reader.ahead.size > 12 * 80 * 96 * 2 + 200 * 160 * 4
    # nothing is said, and nothing leaves, before it is complete
    assert count(site, outcome) == count(site, delivery) == 0
    assert not [path for path in site.tensors.rglob("*") if path.is_file()]
    assert not [row for row in (row_of(site, film), row_of(site, slices[0])) if row.state != "receiving"]

    assert Receiving(site, AT_ONCE).complete() == 2
    decoded: list[Path] = []
    for name in ("read_header", "read", "read_planes"):
        whole = getattr(decode, name)
        monkeypatch.setattr(
            decode, name, lambda path, *more, whole=whole: (decoded.append(path), whole(path, *more))[1]
        )
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0)  # objects say when they were made
    for _ in range(2):
        found = outcomes.take(site)
        assert isinstance(found, outcomes.Study)
        before = made_of(reader.pipeline(reader.ahead).process(found))
        assert len(set(decoded)) <= 1  # the picture of the volume's key plane
        reader.ahead.drop(found.uid)
        assert made_of(reader.pipeline(None).process(found)) == before
        with site.database.write() as connection:
            connection.execute(update(study).where(study.c.uid == found.uid).values(state="scored"))
        decoded.clear()
    assert reader.ahead.size == 0


def test_what_is_read_ahead_is_bounded_and_ends_with_its_study(
    site: Site, gateway: Gateway, radiograph: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = radiograph()
    assert store(gateway, old) == [0]
    reader = Reader(site, cache=600_000)  # what was there before it began is left alone: it may be what ended the last
    films = [radiograph(rows=200, columns=200) for _ in range(4)]
    assert store(gateway, *films, radiograph(rows=1000, columns=1000)) == [0] * 5
    while reader.ahead.step():
        pass
    assert 0 < reader.ahead.size <= 600_000
    with site.database.write() as connection:
        connection.execute(update(study).values(state="refused"))
    monkeypatch.setattr("client.inference.ahead._SWEEP_SECONDS", 0.0)  # a minute later
    while reader.ahead.step():
        pass
    assert reader.ahead.size == 0


def test_an_image_that_cannot_be_read_is_refused_as_if_nobody_had_tried_before(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    reader = Reader(site)
    broken = radiograph(PixelData=b"\0" * 100)
    assert store(gateway, broken) == [0]
    while reader.ahead.step():
        pass
    assert Receiving(site, AT_ONCE).complete() == 1
    found = outcomes.take(site)
    assert isinstance(found, outcomes.Study)
    assert reader.pipeline(reader.ahead).process(found) == reader.pipeline(None).process(found)


def test_a_worker_reads_ahead_while_nothing_else_waits(
    site: Site, gateway: Gateway, radiograph: Make, eventually: Callable[..., Any]
) -> None:
    reader = Reader(site)
    with reader.working():
        film = radiograph()
        assert store(gateway, film) == [0]
        eventually(lambda: reader.ahead.size > 0)
        assert count(site, outcome) == 0
        assert Receiving(site, AT_ONCE).complete() == 1
        eventually(lambda: count(site, outcome) == 1)
    assert reader.ahead.size == 0


def test_a_study_that_cannot_be_looked_at_holds_up_no_other_and_is_read(
    site: Site, gateway: Gateway, radiograph: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, good = radiograph(), radiograph()
    assert store(gateway, odd, good) == [0, 0]
    here = Required.here

    def fall(self: Required, connection: Connection, study_uid: str) -> bool | None:
        if study_uid == odd.StudyInstanceUID:
            raise AttributeError("what nobody foresaw")
        return here(self, connection, study_uid)

    monkeypatch.setattr(Required, "here", fall)
    assert Receiving(site, Bounds(0.0, longest=0.0)).complete() == 2
    assert (row_of(site, odd).state, row_of(site, good).state) == ("queued", "queued")


@pytest.mark.parametrize("vr", ["LO", "OB", "US"])
def test_something_else_where_the_request_belongs_says_nothing_of_urgency(
    site: Site, gateway: Gateway, radiograph: Make, tmp_path: Path, vr: str
) -> None:
    odd, good = radiograph(), radiograph()
    odd.add_new(0x00400275, vr, {"LO": "nonsense", "OB": b"nonsense", "US": 7}[vr])
    odd.save_as(tmp_path / "odd.dcm", enforce_file_format=True)
    assert stated_in(tmp_path / "odd.dcm") is None
    assert store(gateway, odd, good) == [0, 0]
    assert Receiving(site, AT_ONCE).complete() == 2


# ---------------------------------------------------------------- required series


def test_a_study_waits_for_the_series_that_the_version_requires_but_not_for_ever(
    site: Site,
    gateway: Gateway,
    volumes: ModuleType,
    radiograph: Make,
    vendor_key: Ed25519PrivateKey,
    tmp_path: Path,
    eventually: Callable[..., Any],
) -> None:
    use = volumes.facts().intended_use
    two = tuple(Series(name=name, modalities=("CT",), min_images=3) for name in ("before", "after"))
    # which one plane cannot answer, and the headers do not state
    apart = (*use.ranges, Range(quantity="SpacingBetweenSlices", high=5.0))
    needs = use.model_copy(update={"required_series": two, "ranges": apart})
    take_in(site, volumes.build(tmp_path / "two", vendor_key, intended_use=needs))
    first = volumes.series(count=4)
    second = volumes.series(count=4, StudyInstanceUID=first[0].StudyInstanceUID)
    alone, film = volumes.series(count=4), radiograph()
    required = Required(site, Archive(site.archive))

    def here(image: Dataset) -> bool | None:
        with site.database.read() as connection:
            return required.here(connection, str(image.StudyInstanceUID))

    assert store(gateway, film, *alone, *first, *second[:2]) == [0] * 11
    receiving = Receiving(site, Bounds(0.0, longest=0.5))
    assert (here(film), here(first[0])) == (None, False)  # a film is not for this version
    eventually(lambda: (receiving.complete(), row_of(site, film).state == "queued")[1])
    assert row_of(site, first[0]).state == "receiving"
    assert store(gateway, *second[2:]) == [0, 0]
    assert here(first[0]) is True
    eventually(lambda: (receiving.complete(), row_of(site, first[0]).state == "queued")[1])
    eventually(lambda: (receiving.complete(), row_of(site, alone[0]).state == "queued")[1])
    states = {name: row_of(site, image[0]).completed_by for name, image in {"first": first, "alone": alone}.items()}
    assert states["first"] != "expected-missing"
    assert states["alone"] == "expected-missing"
