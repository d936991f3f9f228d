"""Contours for radiotherapy are the mask again, wherever and however the planes lie, for whoever fills them."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from client.dicom import series
from client.inference.measure import measure
from client.results import conformity, outlines
from client.results.contours import outlines as lines_around
from client.results.outlined import Outlined, OutlinedStudy
from client.results.result import ResultObject
from client.results.structure_set import structure_set
from models.bundle import Bundle

COS, SIN = np.cos(np.deg2rad(25)), np.sin(np.deg2rad(25))
CUTS: dict[str, dict[str, Any]] = {
    "axial": {},
    "feet first": {"directions": ((-1, 0, 0), (0, 1, 0))},
    "sagittal": {"directions": ((0, 1, 0), (0, 0, -1))},
    "oblique, uneven pixels": {"directions": ((COS, SIN, 0), (-SIN * COS, COS * COS, SIN)), "spacing": (0.7, 1.3)},
    "tilted": {"tilt": 20.0, "shape": (96, 96)},
}
Outline = Callable[..., tuple[Outlined, list[Dataset]]]


@pytest.fixture
def outline(volumes: ModuleType) -> Outline:
    """An outlined series without a network: `outline(hollow=False, radiotherapy=True, **series)`."""

    def make(hollow: bool = False, radiotherapy: bool = True, **cut: Any) -> tuple[Outlined, list[Dataset]]:
        images = volumes.series(**cut)
        found = series.stack([plane for n, image in enumerate(images) for plane in series.planes(f"{n:064}", image)])
        by_uid = {str(image.SOPInstanceUID): volumes.grid(image) for image in images}
        points = np.stack([by_uid[str(plane.header.SOPInstanceUID)] for plane in found.planes])
        labels = volumes.inside(points).astype(np.uint8)
        if hollow:
            labels[volumes.inside(points, 0.6)] = 0
            labels[volumes.inside(points, 0.3)] = 1
        declared = volumes.declared(radiotherapy=radiotherapy)
        bundle = Bundle(Path("nowhere"), "ab" * 32, "vendor", volumes.facts(declared))
        measured = tuple(measure(labels, found.spacing, declared))
        key = np.zeros(found.shape[1:], np.float32)
        return Outlined(found, labels, key, measured, {}, 0.9, 0.5, 1, bundle, "Hospital", 1.7e9), images

    return make


def filled(polygon: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which pixel centres (whole numbers) lie inside a polygon (column, row), by counting crossings to the right."""
    inside = np.zeros(shape, bool)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (y1 > rows) != (y2 > rows)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (columns < (x2 - x1) * (rows - y1) / (y2 - y1) + x1)
    return inside


def read_back(made: Dataset, images: list[Dataset]) -> dict[str, NDArray[np.bool_]]:
    """By image, what a planning system makes of the contours: each filled, all added up; geometry from the images."""
    by_uid = {str(image.SOPInstanceUID): image for image in images}
    masks = {uid: np.zeros((image.Rows, image.Columns), bool) for uid, image in by_uid.items()}
    for contour in made.ROIContourSequence[0].ContourSequence:
        uid = str(contour.ContourImageSequence[0].ReferencedSOPInstanceUID)
        image = by_uid[uid]
        points = np.array([float(value) for value in contour.ContourData]).reshape(-1, 3)
        assert len(points) == contour.NumberOfContourPoints
        turn = np.array(image.ImageOrientationPatient, float)
        beside = points - np.array(image.ImagePositionPatient, float)
        assert np.abs(beside @ np.cross(turn[:3], turn[3:])).max() < 0.01  # on the plane that it names
        down, right = image.PixelSpacing
        masks[uid] |= filled(np.stack([beside @ turn[:3] / right, beside @ turn[3:] / down], axis=1), masks[uid].shape)
    return masks


def of_kind(made: list[ResultObject], kind: str) -> ResultObject:
    (found,) = (item for item in made if item.kind == kind)
    return found


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("hollow", [False, True], ids=["full", "hollow"])
def test_contours_filled_again_are_the_mask(
    outline: Outline, volumes: ModuleType, cut: dict[str, Any], hollow: bool
) -> None:
    outlined, images = outline(hollow, **cut)

    masks = read_back(structure_set(outlined).dataset, images)

    for plane, labels in zip(outlined.stack.planes, outlined.labels, strict=True):
        assert np.array_equal(masks[str(plane.header.SOPInstanceUID)], labels == 1)
    if not hollow:
        voxel = float(np.prod(outlined.stack.spacing)) / 1000
        assert sum(int(mask.sum()) for mask in masks.values()) * voxel == pytest.approx(volumes.VOLUME_ML, rel=0.02)


@given(st.integers(0, 2**32 - 1), st.floats(0.2, 0.8), st.integers(1, 14), st.integers(1, 14))
def test_any_mask_is_what_its_outlines_enclose(seed: int, share: float, rows: int, columns: int) -> None:
    mask = np.random.default_rng(seed).random((rows, columns)) < share
    filled_again = np.zeros_like(mask)

    for line in lines_around(mask):
        assert np.array_equal(line[0], line[-1])
        piece = filled(line[:-1] - 0.5, mask.shape)
        assert not (filled_again & piece).any()  # no part is filled twice: adding and exclusive-or are the same
        filled_again |= piece

    assert np.array_equal(filled_again, mask)


@pytest.mark.peers("dciodvfy")
@pytest.mark.parametrize("many", [False, True], ids=["classic", "enhanced"])
def test_the_object_is_what_the_standard_says(
    outline: Outline, volumes: ModuleType, many: bool, tmp_path: Path
) -> None:
    outlined, images = outline(hollow=True)
    if many:
        image = volumes.enhanced(images)
        found = series.stack(series.planes("a" * 64, image))
        outlined = Outlined(found, *(getattr(outlined, name) for name in list(Outlined.__dataclass_fields__)[1:11]))
    path = tmp_path / "structures.dcm"

    made = of_kind(outlines.make(OutlinedStudy((outlined,)), structure_sets=True), "rtstruct")

    path.write_bytes(made.content)
    said = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False).stderr
    assert [line for line in said.splitlines() if line.startswith("Error")] == []
    assert conformity.examine(made.content).problems == ()
    assert made.dataset.SeriesDescription.endswith("UNVERIFIED")
    assert made.dataset.ApprovalStatus == "UNAPPROVED"
    assert made.dataset.FrameOfReferenceUID == images[0].FrameOfReferenceUID


def test_contours_are_made_only_of_a_version_for_radiotherapy_at_a_site_that_asks(outline: Outline) -> None:
    meant, _ = outline()
    other, _ = outline(radiotherapy=False)

    assert "rtstruct" not in {item.kind for item in outlines.make(OutlinedStudy((meant,)))}
    assert "rtstruct" not in {item.kind for item in outlines.make(OutlinedStudy((other,)), structure_sets=True)}


def test_what_is_wrong_with_a_structure_set_is_found(outline: Outline) -> None:
    content = structure_set(outline()[0]).content
    points = b"CLOSED_PLANAR "
    assert (
        "a contour is not closed and planar" in conformity.examine(content.replace(points, b"OPEN_PLANAR   ")).problems
    )
    approved = content.replace(b"UNAPPROVED", b"APPROVED  ")
    assert "the structures are not UNAPPROVED" in conformity.examine(approved).problems
