"""The loss of chance list: after every kind of fault, each study that could have been read and was not is on it."""

import io
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import psutil
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as StudyRootFind
from sqlalchemy import func, insert, select, update
from typer.testing import CliRunner

from client.arrival.completeness import Bounds
from client.arrival.gateway import Gateway
from client.arrival.receive import Receiving
from client.inference import outcomes
from client.inference.pipeline import Pipeline, Refused
from client.inference.serving import Scoring
from client.inference.study import Image, Study
from client.inference.tensors import Tensors
from client.review import missed, readers, verdict
from client.review.recall import take_back
from client.review.verdict import Answer, Decision, TruthTier
from client.store import versions
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import announcement, outcome, study
from configs.schema import PeerConfig
from models.bundle import Bundle
from models.errors import Conflict, NotFound
from models.intended_use import Series
from scripts.site_commands import app

pytestmark = pytest.mark.integration
Scored = Callable[..., str]


def send(port: int, image: Dataset) -> str:
    entity = AE("MODALITY")
    entity.add_requested_context(image.SOPClassUID, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port)
    assert association.is_established
    assert association.send_c_store(image).Status == 0
    association.release()
    return str(image.StudyInstanceUID)


def why(site: Site) -> dict[str, str]:
    return {one.uid: one.why for one in missed.listed(site)}


def test_after_faults_the_list_is_complete_and_what_was_mended_leaves_it(
    site: Site, run_node: Callable[..., Any], radiograph: Callable[..., Dataset], eventually: Callable[..., Any]
) -> None:
    node = run_node(site)

    def read(image: Dataset, kind: str) -> str:
        uid = send(node.dicom_port, image)
        query = select(outcome.c.kind).where(outcome.c.study_uid == uid)

        def concluded() -> Any:
            with site.database.read() as connection:
                return connection.execute(query).scalar()

        assert eventually(concluded) == kind
        return uid

    read(radiograph(), "scored")
    read(radiograph(BodyPartExamined="HAND", ViewPosition="LL"), "refused")  # out of use: no loss of chance
    half = radiograph()
    half.PixelData = half.PixelData[: len(half.PixelData) // 2]
    broken = read(half, "refused")
    held = versions.retire(site, "brightness")
    nobody = read(radiograph(), "refused")
    network = site.versions / held.digest / "models" / "model.onnx"
    whole = network.read_bytes()
    network.write_bytes(whole[:-1])
    versions.adopt(site, held.digest)
    for worker in psutil.Process(node.pid).children():
        worker.kill()  # it is replaced; what fails is the version
    altered = read(radiograph(), "failed")

    assert why(site) == {broken: "refused", nobody: "refused", altered: "failed"}
    token = readers.add(site, "IT", "it")
    with httpx.Client(
        base_url=f"http://127.0.0.1:{node.api_port}", headers={"Authorization": f"Bearer {token}"}
    ) as http:
        told = {one["uid"]: one for one in http.get("/api/missed").json()}
        assert told[nobody]["reasons"] == [{"code": "no-version", "text": "no model version is adopted here"}]
        assert told[broken]["reasons"][0]["code"] == "truncated"
        assert told[broken]["again"]
        network.write_bytes(whole)
        assert http.post(f"/api/studies/{nobody}/retry").status_code == 204
    eventually(lambda: nobody not in why(site))
    shown = CliRunner().invoke(app, ["missed", "--folder", str(site.folder), "--again", "all"])
    assert shown.exit_code == 0, shown.output
    assert "2 studies are read again" in shown.output
    eventually(lambda: set(why(site)) == {broken})  # nobody can mend that file: it comes back to the list
    node.stop()


def test_what_waits_for_nobody_is_listed(
    site: Site, radiograph: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(site)
    try:
        queued = send(gateway.port, radiograph())
        assert Receiving(site, Bounds(0.0, 0.0)).complete() == 1
        open_ = send(gateway.port, radiograph())
    finally:
        gateway.close()
    assert why(site) == {}
    monkeypatch.setattr(missed, "_WAITING_SECONDS", -1.0)
    assert why(site) == {queued: "waiting", open_: "waiting"}
    assert missed.read_again(site) == 0  # they are in the queue: it is the node that is to be started


def test_a_recalled_result_is_read_again_and_a_signed_one_is_its_signers(site: Site, scored: Scored) -> None:
    unsigned, signed = scored(objects=True), scored(objects=True)
    readers.add(site, "Ada", "clinician")
    verdict.record(
        site, signed, "Ada", revision=1, decision=Decision.AGREE, answer=Answer.POSITIVE, tier=TruthTier.AI_VISIBLE
    )
    with pytest.raises(Conflict):
        outcomes.retry(site, unsigned)
    take_back(site, "brightness@1", "IT")
    assert why(site) == {unsigned: "recalled"}
    assert missed.read_again(site) == 1
    assert why(site) == {}
    again = outcomes.take(site)
    assert isinstance(again, outcomes.Study)
    assert (again.uid, again.revision) == (unsigned, 2)
    with pytest.raises(Conflict):
        outcomes.retry(site, signed)


def test_what_was_announced_and_never_came_is_listed_until_it_comes(
    site: Site, radiograph: Callable[..., Dataset]
) -> None:
    image = radiograph()
    uid, now = str(image.StudyInstanceUID), time.time()
    with site.database.write() as connection:
        for step, at in (("1.1", now - 3600), ("1.2", now)):
            values = {"uid": step, "calling_ae": "MOD", "state": "completed", "created_at": at, "changed_at": at}
            named = uid if step == "1.1" else "1.2.3.4"  # the other one may still be on its way
            connection.execute(insert(announcement).values(study_uid=named, instances=["1.5", "1.6"], **values))
    [one] = missed.listed(site)
    assert (one.uid, one.why, one.again) == (uid, "never_came", False)
    assert one.reasons[0][1].startswith("2 images were announced")
    gateway = Gateway(site)
    try:
        send(gateway.port, image)
    finally:
        gateway.close()
    assert why(site) == {}


def test_the_page_lists_them_and_only_it_may_act(served: str, site: Site, scored: Scored) -> None:
    uid = scored(accession="A-RECALLED", objects=True)
    take_back(site, "brightness@1", "IT")
    for role in ("clinician", "it"):
        with httpx.Client(base_url=served, follow_redirects=True) as http:
            http.post("/login", data={"token": readers.add(site, role, role)})
            page = http.get("/missed").text
            assert "A-RECALLED" in page
            assert ("Read again" in page) == (role == "it")
            if role == "it":
                csrf = page.split('name="csrf" value="')[1].split('"')[0]
                assert http.post(f"/missed/{uid}", data={"csrf": "forged"}).status_code == 403
                assert "Nothing was missed" in http.post(f"/missed/{uid}", data={"csrf": csrf}).text
    with site.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(study).where(study.c.state == "queued")).scalar()


def test_after_an_outage_the_pacs_says_what_was_never_sent(
    make_site: Callable[..., Site], radiograph: Callable[..., Dataset]
) -> None:
    here, absent_, scan, silent = (str(generate_uid(prefix=None)) for _ in range(4))
    known = {here: ["DX"], absent_: ["DX", "SR"], scan: ["MR"], silent: None}
    asked: list[Dataset] = []

    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        asked.append(event.identifier)
        for uid, modalities in known.items():
            answer = Dataset()
            answer.QueryRetrieveLevel, answer.StudyInstanceUID, answer.StudyDate = "STUDY", uid, "20240102"
            answer.AccessionNumber = "A-LOST" if uid == absent_ else ""
            if modalities:
                answer.ModalitiesInStudy = modalities
            yield 0xFF00, answer
        yield (0xA700 if broken else 0x0000), None

    entity, broken = AE("PACS"), False
    entity.add_supported_context(StudyRootFind)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_FIND, find)])
    assert server is not None
    site = make_site(pacs=PeerConfig("127.0.0.1", server.server_address[1], "PACS", query=True))
    gateway = Gateway(site)
    try:
        send(gateway.port, radiograph(StudyInstanceUID=here))
    finally:
        gateway.close()
    with site.database.write() as connection:  # something for the other list, too
        connection.execute(update(study).values(state="failed"))
    try:
        command = ["missed", "--folder", str(site.folder), "--since", "2024-01-01"]
        shown = CliRunner().invoke(app, command)
        assert shown.exit_code == 0, shown.output
        lost = [line.split()[2] for line in shown.output.splitlines() if line.startswith("never sent")]
        assert lost == sorted([absent_, silent])  # the scan nobody here reads; the one without a word might be ours
        assert "A-LOST" in shown.output
        assert asked[0].StudyDate.startswith("20240101-")
        broken = True
        assert isinstance(CliRunner().invoke(app, command).exception, NotFound)  # half a list is no list
    finally:
        server.shutdown()
        site.database.close()


@pytest.mark.parametrize(
    ("header", "listed"),
    [({}, True), ({"ViewPosition": "LL"}, False), ({"BodyPartExamined": "HAND"}, False)],
)
def test_a_study_that_only_lacks_a_series_might_have_been_read(
    site: Site, radiograph: Callable[..., Dataset], bundles: ModuleType, header: dict[str, str], listed: bool
) -> None:
    """One version wants two series, the other is for another body part: what each has against it is in the outcome."""
    two = (Series(name="frontal", min_images=1), Series(name="second", min_images=1))
    uses = (
        bundles.CHEST.model_copy(update={"body_parts": ("FOOT",)}),
        bundles.CHEST.model_copy(update={"required_series": two}),
    )
    serving = [
        Scoring(Bundle(Path(), str(number) * 64, "vendor", bundles.facts(intended_use=use)), *(None,) * 2, 0.5)  # type: ignore[arg-type]
        for number, use in enumerate(uses)
    ]
    image = radiograph(**header)
    archive, file = Archive(site.archive), io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    digest = archive.store(file.getvalue())
    one = Image(str(image.SOPInstanceUID), str(image.SOPClassUID), digest, str(image.SeriesInstanceUID))
    taken = Study(str(image.StudyInstanceUID), 1, 1, 1.0, (one,))
    result = Pipeline(archive, Tensors(site.tensors, archive), lambda: serving, "").process(taken)
    assert isinstance(result, Refused)
    assert "body-part" in {reason.code for reason in result.reasons}
    with site.database.write() as connection:
        connection.execute(insert(study).values(uid=taken.uid, state="queued", received_at=1.0, touched_at=1.0))
    known = versions.listed(site)[0].digest
    assert outcomes.conclude(site, archive, taken, replace(result, version=known), lambda _: [])
    assert why(site) == ({taken.uid: "refused"} if listed else {})
