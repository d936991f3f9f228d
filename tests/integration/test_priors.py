"""Earlier studies are found and fetched, of the right patient only, and never read as if they were new."""

import io
import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)
from sqlalchemy import select, update
from typer.testing import CliRunner

from client.arrival.completeness import Bounds
from client.arrival.gateway import Gateway
from client.arrival.moves import Moves
from client.arrival.priors import Fetcher
from client.arrival.receive import Receiving
from client.inference import outcomes
from client.review import worklist
from client.store.site import Site
from client.store.tables import instance, prior, prior_search, study
from configs.schema import PeerConfig
from models.children import free_port

pytestmark = pytest.mark.integration
DX = "1.2.840.10008.5.1.4.1.1.1.1"
Radiograph = Callable[..., Dataset]
TODAY = {"PatientID": "P1", "IssuerOfPatientID": "NORTH", "StudyDate": "20240601"}


@pytest.fixture
def node(site: Site) -> Iterator[Callable[..., Gateway]]:
    running: list[Callable[[], Any]] = []

    def start(config: PeerConfig) -> Gateway:
        site.config.pacs = config
        gateway = Gateway(site)
        fetcher = Fetcher(site, gateway.take, gateway.intake.moves, poll=0.05, away=0.1, answer=10.0)
        fetcher.start()
        running.extend((fetcher.stop, gateway.close))
        return gateway

    yield start
    for stop in running:
        stop()


def send(port: int, *images: Dataset, calling: str = "MODALITY", **facts: Any) -> None:
    entity = AE(calling)
    entity.add_requested_context(DX)
    association = entity.associate("127.0.0.1", port, ae_title="VIGIE")
    assert association.is_established
    assert [association.send_c_store(image, **facts).Status for image in images] == [0] * len(images)
    association.release()


def arrive(site: Site, gateway: Gateway, image: Dataset, eventually: Callable[..., Any]) -> None:
    """Send a study and let it be queued, as the node does; nothing scores it here."""
    send(gateway.port, image)
    eventually(lambda: not gateway.intake.sending())
    Receiving(site, Bounds(0.0, 0.0)).complete()
    assert state(site, image) == "queued"


def state(site: Site, image: Dataset) -> str | None:
    with site.database.read() as connection:
        return connection.execute(select(study.c.state).where(study.c.uid == image.StudyInstanceUID)).scalar()


def said(site: Site, image: Dataset) -> str:
    return worklist.one(site, str(image.StudyInstanceUID)).line.priors


class Orthanc:
    def __init__(self, folder: Path, vigie: int) -> None:
        self.port, self.http = free_port(), free_port()
        settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomPort": self.port,
            "HttpPort": self.http,
            "DicomAet": "PACS",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {"vigie": ["VIGIE", "127.0.0.1", vigie]},
            "Plugins": [],
        }
        self._settings = folder / "orthanc.json"
        self._settings.write_text(json.dumps(settings))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["/usr/sbin/Orthanc", str(self._settings)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(20)

    def up(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/system", timeout=5):
                return True
        except OSError:
            return False

    def put(self, *images: Dataset) -> None:
        for image in images:
            buffer = io.BytesIO()
            image.save_as(buffer, enforce_file_format=True)
            request = urllib.request.Request(f"http://127.0.0.1:{self.http}/instances", buffer.getvalue())
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.status == 200


@pytest.mark.peers("Orthanc")
@pytest.mark.parametrize("fetch", ["get", "move"])
def test_the_newest_earlier_studies_of_the_patient_are_fetched_from_orthanc_and_not_read(
    site: Site,
    node: Callable[..., Gateway],
    radiograph: Radiograph,
    tmp_path: Path,
    eventually: Callable[..., Any],
    fetch: str,
) -> None:
    site.config.dicom_port = free_port()
    orthanc = Orthanc(tmp_path, site.config.dicom_port)
    try:
        gateway = node(PeerConfig("127.0.0.1", orthanc.port, "PACS", fetch=fetch, priors=2))
        today = radiograph(**TODAY)
        alone = radiograph(PatientID="P2", StudyDate="20240601")
        older = [radiograph(**(TODAY | {"StudyDate": date})) for date in ("20210101", "20220101", "20230101")]
        others = [
            radiograph(**(TODAY | {"StudyDate": "20230201", "IssuerOfPatientID": "SOUTH"})),  # another P1
            radiograph(**(TODAY | {"StudyDate": "20230201", "BodyPartExamined": "KNEE"})),
            radiograph(**(TODAY | {"StudyDate": "20250101"})),  # later
        ]
        # filled while nobody asks: else what is found depends on how far the filling was
        orthanc.start()
        eventually(orthanc.up)
        orthanc.put(*older, *others)
        orthanc.stop()
        arrive(site, gateway, today, eventually)
        eventually(lambda: "away" in said(site, today))  # it is not up, which costs nothing
        orthanc.start()
        eventually(lambda: said(site, today) == "2 priors")
        assert [state(site, image) for image in older] == [None, "prior", "prior"]
        assert [state(site, image) for image in others] == [None, None, None]
        arrive(site, gateway, alone, eventually)
        eventually(lambda: said(site, alone) == "no prior found")
        # nobody takes a prior for a new study: not the worker, not the clock
        Receiving(site, Bounds(0.0, 0.0)).complete()
        taken = [outcomes.take(site), outcomes.take(site, skip=[str(today.StudyInstanceUID)])]
        assert {item.uid for item in taken if isinstance(item, outcomes.Study)} == {
            today.StudyInstanceUID,
            alone.StudyInstanceUID,
        }
        # the same study sent for its own sake is read, though its images are here
        send(gateway.port, older[2])
        assert state(site, older[2]) == "receiving"
        told = CliRunner().invoke(_app(), ["priors", "--folder", str(site.folder), today.StudyInstanceUID])
        assert "pacs.fetch is none" in str(told.exception or told.output)  # as site.yaml has it
    finally:
        orthanc.stop()


@pytest.mark.peers("Orthanc")
@pytest.mark.parametrize("fetch", ["get", "move"])
def test_a_prior_of_many_images_comes_whole_while_a_modality_sends(
    site: Site,
    node: Callable[..., Gateway],
    radiograph: Radiograph,
    tmp_path: Path,
    eventually: Callable[..., Any],
    fetch: str,
) -> None:
    site.config.dicom_port = free_port()
    orthanc = Orthanc(tmp_path, site.config.dicom_port)
    orthanc.start()
    try:
        one = radiograph(**(TODAY | {"StudyDate": "20230101"}))
        same = {"StudyInstanceUID": one.StudyInstanceUID, "SeriesInstanceUID": one.SeriesInstanceUID}
        older = [one, *(radiograph(**(TODAY | {"StudyDate": "20230101"} | same)) for _ in range(19))]
        eventually(orthanc.up)
        orthanc.put(*older)
        gateway = node(PeerConfig("127.0.0.1", orthanc.port, "PACS", fetch=fetch, priors=2))
        today = radiograph(**TODAY)
        arrive(site, gateway, today, eventually)
        with ThreadPoolExecutor(3) as modalities:
            beside = [radiograph() for _ in range(15)]
            for sent in [modalities.submit(send, gateway.port, *beside[number::3]) for number in range(3)]:
                sent.result()
        eventually(lambda: said(site, today) == "1 prior")
        held = [row.study_uid for row in rows(site, instance)]
        assert held.count(one.StudyInstanceUID) == len(older)
        assert state(site, one) == "prior"
        assert {state(site, image) for image in beside} == {"receiving"}
        assert [
            (row.state, row.attempts) for row in rows(site, prior_search) if row.study_uid == today.StudyInstanceUID
        ] == [("done", 0)]
    finally:
        orthanc.stop()


def _app() -> Any:
    from scripts.site_commands import app

    return app


class Liar:
    """A PACS that answers C-FIND and C-GET as told."""

    def __init__(self, listed: list[Dataset], sent: list[Dataset], *, says: tuple[str, ...] = ()) -> None:
        self.listed, self.sent, self.says = listed, sent, says
        entity = AE("PACS")
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelGet)
        entity.add_supported_context(DX, scu_role=True, scp_role=True)
        handlers = [(evt.EVT_C_FIND, self._find), (evt.EVT_C_GET, self._get)]
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)  # type: ignore[arg-type]
        assert server is not None
        self.server = server
        self.config = PeerConfig("127.0.0.1", server.server_address[1], "PACS", fetch="get")

    def _find(self, event: Any) -> Iterator[Any]:
        for image in self.listed:
            answer = Dataset()
            answer.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
            known = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "StudyTime", "Modality")
            for keyword in (*known, *self.says):
                setattr(answer, keyword, image[keyword].value)
            yield 0xFF00, answer

    def _get(self, event: Any) -> Iterator[Any]:
        yield len(self.sent)
        for image in self.sent:
            yield 0xFF00, image


def test_another_patients_study_is_refused_whatever_the_pacs_says(
    site: Site, node: Callable[..., Gateway], radiograph: Radiograph, eventually: Callable[..., Any]
) -> None:
    today = radiograph(**TODAY)
    listed = radiograph(**(TODAY | {"StudyDate": "20200101"}))
    # the answer is of the patient, the image of somebody who has the same number elsewhere
    wrong = radiograph(
        **(TODAY | {"StudyDate": "20200101", "IssuerOfPatientID": "SOUTH"}),
        StudyInstanceUID=listed.StudyInstanceUID,
        SeriesInstanceUID=listed.SeriesInstanceUID,
    )
    stranger = radiograph(PatientID="P9", StudyDate="20200101")
    pacs = Liar([listed, stranger], [wrong, stranger])
    try:
        gateway = node(pacs.config)
        arrive(site, gateway, today, eventually)
        eventually(lambda: any(row.state != "due" or row.attempts for row in rows(site, prior_search)))
        assert state(site, listed) is None
        assert state(site, stranger) is None
        assert {row.study_uid for row in rows(site, instance)} == {today.StudyInstanceUID}
        assert [row.state for row in rows(site, prior)] == ["refused"]
        codes = [json.loads(entry.facts)["code"] for entry in site.ledger.entries("prior.refused")]
        assert "patient-mismatch" in codes
        assert not any("P9" in entry.facts or "P1" in entry.facts for entry in site.ledger.entries())
    finally:
        pacs.server.shutdown()


@pytest.mark.parametrize("says", [("PatientName", "PatientBirthDate"), ()])
def test_somebody_else_with_the_same_number_is_no_earlier_self(
    site: Site,
    node: Callable[..., Gateway],
    radiograph: Radiograph,
    eventually: Callable[..., Any],
    says: tuple[str, ...],
) -> None:
    today = radiograph(**TODAY)
    before = TODAY | {"StudyDate": "20200101"}
    other = radiograph(**before, PatientName="Other^Person", PatientBirthDate="19990101")
    pacs = Liar([other], [other], says=says)
    try:
        gateway = node(pacs.config)
        arrive(site, gateway, today, eventually)
        eventually(lambda: said(site, today) == "no prior found")
        # what the PACS says of them is enough not to fetch it; where it says nothing, the image does
        assert state(site, other) == (None if says else "prior")
        assert [row.state for row in rows(site, prior)] == ([] if says else ["refused"])
        codes = [json.loads(entry.facts)["code"] for entry in site.ledger.entries("prior.refused")]
        assert codes == ["person-mismatch"]
    finally:
        pacs.server.shutdown()


def rows(site: Site, table: Any) -> list[Any]:
    with site.database.read() as connection:
        return list(connection.execute(select(table)))


def test_an_image_that_only_says_that_we_asked_for_it_is_read_like_any_other(
    site: Site, radiograph: Radiograph
) -> None:
    gateway = Gateway(site)
    try:
        forged = radiograph(**TODAY)
        send(gateway.port, forged, originator_aet="VIGIE", originator_id=1)
        assert state(site, forged) == "receiving"
    finally:
        gateway.close()


class Router:
    """A PACS with one earlier study of today's patient, whose C-MOVE fails, whatever it sends meanwhile."""

    def __init__(self, early: Dataset, move: Callable[[], None]) -> None:
        self._early, self._move = early, move
        entity = AE("PACS")
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        entity.add_supported_context(StudyRootQueryRetrieveInformationModelMove)
        handlers = [(evt.EVT_C_FIND, self._find), (evt.EVT_C_MOVE, self._moved)]
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)  # type: ignore[arg-type]
        assert server is not None
        self.server = server
        self.config = PeerConfig("127.0.0.1", server.server_address[1], "PACS", fetch="move")

    def _find(self, event: Any) -> Iterator[Any]:
        answer = Dataset()
        answer.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
        for keyword in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "StudyDate", "StudyTime", "Modality"):
            setattr(answer, keyword, self._early[keyword].value)
        yield 0xFF00, answer

    def _moved(self, event: Any) -> Iterator[Any]:
        self._move()
        yield None, None  # no such destination


MORNING = TODAY | {"StudyTime": "080000"}
LATER = TODAY | {"StudyTime": "100000"}
US = {"originator_aet": "VIGIE", "originator_id": 1}


@pytest.mark.parametrize("own", ["before", "after"])
def test_a_study_that_the_pacs_sends_to_be_read_while_it_is_fetched_is_read(
    site: Site, node: Callable[..., Gateway], radiograph: Radiograph, eventually: Callable[..., Any], own: str
) -> None:
    early, today = radiograph(**MORNING), radiograph(**LATER)
    facts: list[dict[str, Any]] = [{}, US] if own == "before" else [US, {}]

    def move() -> None:
        for one in facts:
            send(gateway.port, early, calling="PACS", **one)

    pacs = Router(early, move)
    try:
        gateway = node(pacs.config)
        arrive(site, gateway, today, eventually)
        eventually(lambda: [row.state for row in rows(site, prior)] == ["failed"])
        assert state(site, early) == "receiving"
    finally:
        pacs.server.shutdown()


def test_a_study_whose_fetch_failed_for_good_is_read_when_the_pacs_sends_it(
    site: Site, node: Callable[..., Gateway], radiograph: Radiograph, eventually: Callable[..., Any]
) -> None:
    early, today = radiograph(**MORNING), radiograph(**LATER)
    pacs = Router(early, lambda: None)
    try:
        gateway = node(pacs.config)
        arrive(site, gateway, today, eventually)
        eventually(lambda: [row.state for row in rows(site, prior_search)] == ["failed"])
        assert [row.state for row in rows(site, prior)] == ["failed"]
        send(gateway.port, early, calling="PACS")
        assert state(site, early) == "receiving"
    finally:
        pacs.server.shutdown()


def test_a_pacs_that_does_not_say_for_whom_it_moves_is_understood_where_all_that_came_is_accounted_for(
    site: Site, radiograph: Radiograph
) -> None:
    site.config.pacs = PeerConfig(ae_title="PACS", fetch="move")
    gateway = Gateway(site)
    moves = gateway.intake.moves
    try:
        today, older, other = radiograph(**TODAY), radiograph(**TODAY), radiograph(**TODAY)
        send(gateway.port, today)
        with site.database.write() as connection:
            wanted = {"study_uid": today.StudyInstanceUID, "prior_uid": older.StudyInstanceUID, "state": "wanted"}
            connection.execute(prior.insert().values(wanted))
        moves.begin(older.StudyInstanceUID)
        send(gateway.port, older, other, calling="PACS")
        assert (state(site, older), state(site, other)) == ("prior", "receiving")
        assert not moves.end(older.StudyInstanceUID, 1)
        # afterwards it is sent for its own sake, whatever the table says
        send(gateway.port, older, calling="PACS")
        assert state(site, older) == "receiving"
    finally:
        gateway.close()


@pytest.mark.parametrize(
    ("unnamed", "named", "sent", "doubted"),
    [(2, 0, 2, False), (3, 0, 2, True), (2, 0, None, True), (1, 1, 2, True), (0, 2, None, False)],
)
def test_what_names_nobody_is_a_prior_only_where_the_pacs_has_counted_it(
    unnamed: int, named: int, sent: int | None, doubted: bool
) -> None:
    moves = Moves()
    moves.begin("1.2")
    assert [moves.takes("1.2") for _ in range(unnamed)] == [True] * unnamed
    for _ in range(named):
        moves.named("1.2")
    assert moves.takes("1.3") is False
    assert moves.end("1.2", sent) is doubted
    assert moves.doubted("1.2") is doubted
    assert moves.takes("1.2") is False


def test_what_came_while_the_node_ended_is_read(
    site: Site, radiograph: Radiograph, node: Callable[..., Gateway], eventually: Callable[..., Any]
) -> None:
    early, today = radiograph(**MORNING), radiograph(**LATER)
    site.config.pacs = PeerConfig(ae_title="PACS", fetch="move")
    before = Gateway(site)
    send(before.port, today)
    with site.database.write() as connection:
        wanted = {"study_uid": today.StudyInstanceUID, "prior_uid": early.StudyInstanceUID, "state": "wanted"}
        connection.execute(prior.insert().values(wanted))
    before.intake.moves.begin(str(early.StudyInstanceUID))
    send(before.port, early, calling="PACS")
    before.close()
    assert state(site, early) == "prior"
    node(PeerConfig("127.0.0.1", free_port(), "PACS", fetch="move"))
    eventually(lambda: state(site, early) == "receiving")
    assert [row.state for row in rows(site, prior)] == ["failed"]


def test_the_command_has_the_node_ask_and_says_what_it_found(
    site: Site, scored: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = scored()
    assert worklist.one(site, uid).line.priors == "PACS not asked"
    site.config.pacs = PeerConfig(fetch="get")
    from scripts import site_commands

    monkeypatch.setattr(site_commands, "_opened", lambda folder: site)
    answer = CliRunner().invoke(_app(), ["priors", "--folder", str(site.folder), uid, "--wait", "0"])
    assert answer.output.strip() == "asking the PACS"
    with site.database.write() as connection:
        connection.execute(update(prior_search).values(state="failed", problem="move-destination-unknown"))
    assert worklist.one(site, uid).line.priors == "could not be fetched (move-destination-unknown)"
