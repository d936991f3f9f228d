"""A CT sent to the node comes back as a segmentation, a presentation state, a picture and a report."""

import io
import shutil
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from PIL import Image
from pydicom.dataset import Dataset
from pynetdicom import AE
from sqlalchemy import select

from client.review import readers
from client.store import versions
from client.store.site import Site
from client.store.tables import outcome

pytestmark = pytest.mark.integration

CT = "1.2.840.10008.5.1.4.1.1.2"


def send(port: int, images: Sequence[Dataset]) -> None:
    entity = AE("MODALITY")
    entity.add_requested_context(CT)
    association = entity.associate("127.0.0.1", port, ae_title="VIGIE")
    assert association.is_established
    assert {association.send_c_store(image).get("Status") for image in images} == {0}
    association.release()


def last(site: Site, uid: str) -> Any:
    query = select(outcome).where(outcome.c.study_uid == uid).order_by(outcome.c.revision.desc())
    with site.database.read() as connection:
        return connection.execute(query).first()


@pytest.fixture
def hospital(
    make_site: Callable[..., Site], volumes: ModuleType, vendor_key: Ed25519PrivateKey, pacs: Any, tmp_path: Any
) -> Site:
    site = make_site(adopted=False, pacs=pacs.config)
    bundle = volumes.build(tmp_path / "volume", vendor_key)
    shutil.copytree(bundle.folder, site.versions / bundle.digest)
    versions.receive(site, bundle)
    versions.adopt(site, bundle.digest)
    return site


def test_a_ct_is_outlined_amended_when_a_slice_comes_late_and_compared_with_its_prior(
    hospital: Site, volumes: ModuleType, run_node: Callable[[Site], Any], pacs: Any, eventually: Callable[..., Any]
) -> None:
    before = volumes.series(size=0.8, StudyDate="20230101")
    after = volumes.series(StudyDate="20230411")
    node = run_node(hospital)

    send(node.dicom_port, before)
    eventually(lambda: last(hospital, before[0].StudyInstanceUID), 60)
    send(node.dicom_port, [*after[:20], *after[21:]])
    first = eventually(lambda: last(hospital, after[0].StudyInstanceUID), 60)
    send(node.dicom_port, after[20:21])
    second = eventually(lambda: (row := last(hospital, after[0].StudyInstanceUID)) and row.kind == "scored" and row, 60)

    assert (first.kind, first.revision, [reason["code"] for reason in first.reasons]) == (
        "refused",
        1,
        ["missing-slices"],
    )
    assert second.revision == 2
    label = second.measurements["series"][0]["labels"][0]
    assert label["volume_ml"] == pytest.approx(volumes.VOLUME_ML, rel=0.02)
    assert label["growth"]["percent"] == pytest.approx(100 * (1 / 0.8**3 - 1), rel=0.05)
    assert label["growth"]["days"] == 100
    eventually(lambda: len(pacs.received) == 8, 30)
    kinds = [
        sent[0].Modality for sent in pacs.received.values() if sent[0].StudyInstanceUID == after[0].StudyInstanceUID
    ]
    assert sorted(kinds) == ["OT", "PR", "SEG", "SR"]

    token = readers.add(hospital, "Dr Volume", "clinician")
    with httpx.Client(base_url=f"http://127.0.0.1:{node.api_port}", timeout=60) as client:
        client.post("/login", data={"token": token})
        page = client.get(f"/studies/{after[0].StudyInstanceUID}")
        assert page.status_code == 200
        assert "% in 100 days" in page.text
        widths = {
            Image.open(io.BytesIO(client.get(f"/studies/{after[0].StudyInstanceUID}/{name}").content)).width
            for name in ("image.png", "heatmap.png")
        }
        assert len(widths) == 1  # one lies over the other; the captions below may have other lines
