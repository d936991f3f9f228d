"""OHIF, as it comes from npm, over the node's own DICOMweb, in a real browser."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import highdicom
import httpx
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, JPEGLSLossless, generate_uid

from client.arrival.intake import Intake, Offer
from client.dicom import series
from client.dicomweb import viewer
from client.inference.measure import measure
from client.results import outlines
from client.results.outlined import Outlined, OutlinedStudy
from client.review import readers
from client.store.site import Site
from models.bundle import Bundle

Scored = Callable[..., str]


@pytest.fixture
def page(page: Any, sign_in: Callable[..., None]) -> Any:
    """A reader's page that may open the viewer."""
    if not viewer.installed():
        problem = f"no OHIF at {viewer.folder()}: scripts/install --viewer, or VIGIE_OHIF"
        if os.environ.get("VIGIE_REQUIRE_PEERS") == "1":
            pytest.fail(problem, pytrace=False)
        pytest.skip(problem)
    page.set_viewport_size({"width": 1400, "height": 900})
    page.set_default_timeout(90_000)
    # a first visit's dialog and guided tour would cover the images
    page.add_init_script(
        "sessionStorage.setItem('investigationalUseDialog', 'hidden');"
        "localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']))"
    )
    sign_in()
    return page


def picture(page: Any, name: str) -> Any:
    """The screenshot as an array, kept where VIGIE_SCREENSHOTS says."""
    content = page.screenshot()
    if folder := os.environ.get("VIGIE_SCREENSHOTS"):
        (Path(folder) / f"{name}.png").write_bytes(content)
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def put(site: Site, *datasets: Dataset) -> None:
    """As if they had come by C-STORE, in the transfer syntax that their file meta names."""
    intake = Intake(site)
    for dataset in datasets:
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, dataset)
        syntax = str(dataset.file_meta.TransferSyntaxUID)
        offer = Offer(str(dataset.SOPClassUID), str(dataset.SOPInstanceUID), syntax, "CT-1", 1)
        intake.receive(buffer.getvalue(), offer)
    intake.close()


def ct_series(radiograph: Callable[..., Dataset]) -> list[Dataset]:
    """Six slices of 64 x 64, bright everywhere, so that where the image lies on the screen can be seen."""
    study, series, frame = (str(generate_uid(prefix=None)) for _ in range(3))
    return [
        radiograph(
            SOPClassUID=CTImageStorage,
            StudyInstanceUID=study,
            SeriesInstanceUID=series,
            FrameOfReferenceUID=frame,
            PatientID="CT-1",
            AccessionNumber="A-CT",
            Modality="CT",
            SeriesDescription="Axial",
            InstanceNumber=number + 1,
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0],
            ImagePositionPatient=[0, 0, 2.0 * number],
            ImageType=["ORIGINAL", "PRIMARY", "AXIAL"],
            PositionReferenceIndicator="",
            PixelSpacing=[1, 1],
            SliceThickness=2,
            RescaleIntercept=0,
            RescaleSlope=1,
            WindowCenter=1000,
            WindowWidth=2000,
            rows=64,
            columns=64,
            PixelData=np.full((64, 64), 1000, np.uint16).tobytes(),
        )
        for number in range(6)
    ]


def segment(slices: list[Dataset], mask: Any) -> Dataset:
    """A binary segmentation of a series, made as our own are."""
    description = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label="Nodule",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Nodule,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name="Threshold", version="1", family=codes.cid7162.ArtificialIntelligence
        ),
    )
    return highdicom.seg.Segmentation(
        source_images=slices,
        pixel_array=mask,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[description],
        series_instance_uid=generate_uid(prefix=None),
        series_number=9905,
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=1,
        manufacturer="Vigie",
        manufacturer_model_name="Threshold",
        software_versions="1",
        device_serial_number="1",
        series_description="AI Nodule UNVERIFIED",
    )


def shown_at(screen: Any, colour: Callable[[Any, Any, Any], Any]) -> tuple[int, int, int, int] | None:
    """(left, right, top, bottom) of what has a colour, in screen pixels; None where little has."""
    found = colour(screen[..., 0], screen[..., 1], screen[..., 2])
    columns, rows = (np.flatnonzero(found.sum(axis) > 40) for axis in (0, 1))
    if not len(columns) or not len(rows):
        return None
    return int(columns[0]), int(columns[-1]) + 1, int(rows[0]), int(rows[-1]) + 1


def red(r: Any, g: Any, b: Any) -> Any:
    return (r > g + 40) & (r > b + 40)


def grey(r: Any, g: Any, b: Any) -> Any:
    return (abs(r - 128) < 6) & (abs(g - 128) < 6) & (abs(b - 128) < 6)


def lies_at(page: Any, name: str, series: str, eventually: Callable[..., Any]) -> tuple[float, ...]:
    """Where what an opened study's series draws lies over its image: (left, right, top, bottom), in image pixels."""
    page.get_by_text(series).first.wait_for()
    eventually(lambda: shown_at(picture(page, f"viewer-{name}")[:, 300:], grey), 60)
    page.get_by_text(series).first.dblclick()
    eventually(lambda: shown_at(picture(page, f"viewer-{name}-overlaid")[:, 300:], red), 60)
    screen = picture(page, f"viewer-{name}-overlaid")[:, 300:]
    image, drawn = shown_at(screen, grey), shown_at(screen, red)
    assert image is not None
    assert drawn is not None
    pixel = (image[1] - image[0]) / 64
    left, top = image[0], image[3] - 64 * pixel  # a question of the viewer's covers the image's upper edge
    return (*((x - left) / pixel for x in drawn[:2]), *((y - top) / pixel for y in drawn[2:]))


@pytest.mark.peers("chromium")
def test_a_reader_sees_images_results_and_segmentations(
    page: Any,
    site: Site,
    scored: Scored,
    radiograph: Callable[..., Dataset],
    eventually: Callable[..., Any],
) -> None:
    scan = ct_series(radiograph)
    mask = np.zeros((6, 64, 64), np.uint8)
    mask[:, 16:32, 8:24] = 1
    put(site, *scan, segment(scan, mask))
    ramp = np.tile(np.repeat(np.array([0, 4095], np.uint16), 32), (64, 1))  # black on the left, white on the right
    uid = scored(objects=True, accession="A-DX", patient_id="DX-1")
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    film = radiograph(StudyInstanceUID=uid, PatientID="DX-1", AccessionNumber="A-DX", rows=64, columns=64, **window)
    film.PixelData = ramp.tobytes()
    film.compress(JPEGLSLossless, generate_instance_uid=False)  # the browser decompresses it
    put(site, film)

    page.goto("/viewer/")
    page.get_by_text("A-CT").wait_for()
    listed = page.inner_text("body")
    assert "A-DX" in listed
    assert "CT\\SEG" in listed
    assert "DX\\OT\\SR" in listed
    picture(page, "viewer-list")

    page.goto(f"/viewer/viewer?StudyInstanceUIDs={uid}")
    page.get_by_text("AI Report: Brightness v1 UNVERIFIED").first.wait_for()
    page.get_by_text("AI Map: Brightness v1 UNVERIFIED").first.wait_for()

    def film_is_shown() -> bool:
        screen = picture(page, "viewer-film")
        # the viewport is right of the list of series; the film is white right of its middle, and black left of it
        white = shown_at(screen[100:800, 300:], lambda r, g, b: (r > 250) & (g > 250) & (b > 250))
        return white is not None and white[1] - white[0] > 300 and white[3] - white[2] > 600

    eventually(film_is_shown, 60)

    page.goto(f"/viewer/viewer?StudyInstanceUIDs={scan[0].StudyInstanceUID}")
    assert np.allclose(lies_at(page, "scan", "AI Nodule UNVERIFIED", eventually), (8, 24, 16, 32), atol=0.6)

    assert page.complaints == []
    assert page.strangers == []  # nothing is loaded from elsewhere, and nobody is told


@pytest.fixture
def outlined_series(volumes: ModuleType) -> tuple[list[Dataset], list[Dataset]]:
    """A CT series and all that a version for radiotherapy makes of it: SEG, SR, heat map, contours, pictures."""
    images = volumes.series(count=8, step=3.0, shape=(64, 64))
    for image in images:
        image.PixelData = np.full((64, 64), 2024, np.uint16).tobytes()  # 1000 HU everywhere
        image.WindowCenter, image.WindowWidth, image.PositionReferenceIndicator = 1000, 2000, ""
        image.PatientID, image.AccessionNumber = "RT-1", "A-RT"
    stack = series.stack([plane for n, image in enumerate(images) for plane in series.planes(f"{n:064}", image)])
    labels = np.zeros(stack.shape, np.uint8)
    labels[1:-1, 16:32, 8:24] = 1
    declared = volumes.declared(radiotherapy=True)
    bundle = Bundle(Path("nowhere"), "ab" * 32, "vendor", volumes.facts(declared))
    found = tuple(measure(labels, stack.spacing, declared))
    key, chances = np.zeros(stack.shape[1:], np.float32), labels * np.uint8(200)
    outlined = Outlined(stack, labels, key, found, {}, 1.0, 0.5, 1, bundle, "Hospital", 1.7e9, chances=chances)
    return images, [item.dataset for item in outlines.make(OutlinedStudy((outlined,)), structure_sets=True)]


@pytest.mark.peers("chromium")
def test_contours_lie_over_the_image_and_no_object_of_ours_keeps_a_study_from_opening(
    page: Any, site: Site, outlined_series: tuple[list[Dataset], list[Dataset]], eventually: Callable[..., Any]
) -> None:
    """OHIF 3.13 lists a heat map and cannot show it; that must not keep the others from being seen."""
    scan, made = outlined_series
    assert {str(one.Modality) for one in made} >= {"SEG", "SR", "RTSTRUCT", "OT"}
    put(site, *scan, *made)

    page.goto(f"/viewer/viewer?StudyInstanceUIDs={scan[0].StudyInstanceUID}")
    for one in made:
        page.get_by_text(str(one.SeriesDescription)).first.wait_for()
    places = lies_at(page, "planning", "AI Structures: Nodule v1 UNVERIFIED", eventually)
    assert np.allclose(places, (8, 24, 16, 32), atol=0.6)
    assert page.complaints == []
    assert page.strangers == []


def test_without_a_viewer_the_page_says_how_to_get_one(
    site: Site, served: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VIGIE_OHIF", str(tmp_path))
    with httpx.Client(base_url=served) as browser:
        assert browser.get("/viewer/").headers["location"] == "/login"
        browser.post("/login", data={"token": readers.add(site, "Ada Lovelace", "clinician")})
        answer = browser.get("/viewer/viewer")
        assert answer.status_code == 404
        assert "scripts/install --viewer" in answer.text
        assert browser.get("/app.bundle.js").status_code == 404
        assert browser.get("/../../etc/passwd").status_code == 404
