"""Heat maps and contours reach the PACS like everything else, in the encoding that it takes."""

import json
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import numpy as np
import pydicom
import pytest
from pydicom.uid import RLELossless
from sqlalchemy import insert, select

from client.delivery.sender import Pace, Sender
from client.dicom import series
from client.doctor import examine
from client.inference.measure import measure
from client.results import outlines
from client.results.outlined import Outlined, OutlinedStudy
from client.results.result import ResultObject
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, outcome, study
from configs.schema import PeerConfig, ResultsConfig
from models.bundle import Bundle
from models.children import free_port

pytestmark = pytest.mark.integration

PATIENT = Pace(first=0.05, longest=0.2, poll=0.01)


@pytest.fixture
def made(volumes: ModuleType) -> list[ResultObject]:
    """All kinds of an outlined series."""
    images = volumes.series(count=12, shape=(48, 64))
    found = series.stack([plane for n, image in enumerate(images) for plane in series.planes(f"{n:064}", image)])
    labels = np.stack([volumes.inside(volumes.grid(image)) for image in images]).astype(np.uint8)
    declared = volumes.declared(radiotherapy=True)
    bundle = Bundle(Path("nowhere"), "ab" * 32, "vendor", volumes.facts(declared))
    outlined = Outlined(
        found, labels, np.zeros(found.shape[1:], np.float32), tuple(measure(labels, found.spacing, declared)), {}, 0.9,
        0.5, 1, bundle, "Hospital", 1.7e9, chances=labels * np.uint8(200),
    )  # fmt: skip
    return outlines.make(OutlinedStudy((outlined,)), structure_sets=True)


def queue(site: Site, made: list[ResultObject]) -> None:
    archive = Archive(site.archive)
    with site.database.write() as connection:
        connection.execute(insert(study).values(uid="1.2.3", state="scored", received_at=1.0, touched_at=1.0))
        row = {"study_uid": "1.2.3", "revision": 1, "kind": "scored", "reasons": [], "created_at": 1.0}
        written = connection.execute(insert(outcome).values(**row)).inserted_primary_key
        assert written is not None
        for item in made:
            values = {"sop_uid": item.sop_uid, "kind": item.kind, "sha256": archive.store(item.content)}
            connection.execute(insert(delivery).values(outcome_id=written[0], state="pending", **values))


def states(site: Site) -> dict[str, str]:
    with site.database.read() as connection:
        return {row.kind: f"{row.state} {row.problem}".strip() for row in connection.execute(select(delivery))}


def send(site: Site, eventually: Callable[..., Any]) -> None:
    sender = Sender(site, PATIENT)
    sender.start()
    try:
        eventually(lambda: not any(state.startswith("pending") for state in states(site).values()))
    finally:
        sender.stop()


def test_a_pacs_that_takes_no_compressed_map_gets_it_plain(
    make_site: Callable[..., Site], pacs: Any, made: list[ResultObject], eventually: Callable[..., Any]
) -> None:
    site = make_site(pacs=pacs.config)
    queue(site, made)
    send(site, eventually)

    assert states(site) == dict.fromkeys(("seg", "gsps", "pm", "rtstruct", "sc", "sr"), "sent")
    (kept,) = (item.dataset for item in made if item.kind == "pm")
    (received,) = pacs.received[str(kept.SOPInstanceUID)]
    received.file_meta = pydicom.dataset.FileMetaDataset()
    received.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    assert np.array_equal(received.pixel_array, kept.pixel_array)
    site.database.close()


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """Orthanc with its DICOMweb plugin: (DICOM port, HTTP port)."""
    plugin = next(Path("/usr/share/orthanc/plugins").glob("libOrthancDicomWeb.so"), None)
    if plugin is None:
        pytest.skip("Orthanc's DICOMweb plugin is not installed: scripts/install --peers")
    dicom, http = free_port(), free_port()
    settings = {
        "StorageDirectory": str(tmp_path / "storage"), "IndexDirectory": str(tmp_path / "storage"),
        "DicomPort": dicom, "HttpPort": http, "DicomAet": "PACS", "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False, "Plugins": [str(plugin)], "DicomWeb": {"Enable": True},
        "DicomAlwaysAllowStore": True,
    }  # fmt: skip
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    process = subprocess.Popen(
        ["/usr/sbin/Orthanc", str(tmp_path / "orthanc.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{http}/system", timeout=2):
                break
        except OSError:
            assert time.monotonic() < deadline, "Orthanc does not start"
            time.sleep(0.05)
    yield dicom, http
    process.terminate()
    process.wait(20)


@pytest.mark.peers("Orthanc")
@pytest.mark.parametrize("by", ["C-STORE", "STOW-RS"])
def test_orthanc_keeps_all_kinds_and_finds_them(
    make_site: Callable[..., Site],
    orthanc: tuple[int, int],
    made: list[ResultObject],
    eventually: Callable[..., Any],
    by: str,
) -> None:
    dicom, http = orthanc
    web = f"http://127.0.0.1:{http}/dicom-web"
    peer = PeerConfig("127.0.0.1", dicom, "PACS", stow_url=web if by == "STOW-RS" else "")
    site = make_site(pacs=peer, results=ResultsConfig(heat_maps=True, structure_sets=True))
    queue(site, made)
    send(site, eventually)

    assert states(site) == dict.fromkeys(("seg", "gsps", "pm", "rtstruct", "sc", "sr"), "sent")
    by_kind = {item.kind: item.dataset for item in made}
    uid = by_kind["sr"].StudyInstanceUID
    series_found = httpx.get(f"{web}/studies/{uid}/series", headers={"Accept": "application/dicom+json"}).json()
    assert sorted(item["00080060"]["Value"][0] for item in series_found) == ["OT", "OT", "PR", "RTSTRUCT", "SEG", "SR"]
    found = httpx.post(f"http://127.0.0.1:{http}/tools/lookup", content=str(by_kind["pm"].SOPInstanceUID)).json()
    kept = httpx.get(f"http://127.0.0.1:{http}/instances/{found[0]['ID']}/metadata/TransferSyntax").text
    assert kept == RLELossless
    checks = {check.name: check for check in examine(site)}
    assert checks["PACS"].ok, checks["PACS"]
    assert checks["STOW-RS"].ok, checks["STOW-RS"]
    site.config.pacs.stow_url = f"http://127.0.0.1:{http}/dicomweb"
    (stow,) = (check for check in examine(site) if check.name == "STOW-RS")
    assert "404" in stow.found
    assert "stow_url" in stow.advice
    site.database.close()
