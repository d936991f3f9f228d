"""A heat map lies over its images, means what its codes say, and comes back in its own numbers."""

import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from client.dicom import series
from client.dicom.series import Volume
from client.inference.measure import measure
from client.inference.segment import segment
from client.results import conformity, outlines, radiograph
from client.results.finding import Finding
from client.results.outlined import Outlined, OutlinedStudy
from client.results.result import ResultObject
from models.bundle import Bundle
from models.segmentation import Segmentation

COS, SIN = np.cos(np.deg2rad(25)), np.sin(np.deg2rad(25))
OBLIQUE = ((COS, SIN, 0), (-SIN * COS, COS * COS, SIN))
GAIN, CENTRE = 8.0, 0.5


def soft(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """A network whose probability rises softly with brightness."""
    return GAIN * (window - CENTRE)


@pytest.fixture
def outlined(volumes: ModuleType) -> Callable[..., Outlined]:
    """`outlined(declared=None, keep=True, certified=False, **series)`: a series read by `soft`."""

    def make(declared: Segmentation | None = None, keep: bool = True, certified: bool = False, **cut: Any) -> Outlined:
        images = volumes.series(**({"directions": OBLIQUE, "count": 24} | cut))
        found = series.stack([plane for n, image in enumerate(images) for plane in series.planes(f"{n:064}", image)])
        by_uid = {image.SOPInstanceUID: image for image in images}
        voxels = np.stack([by_uid[plane.header.SOPInstanceUID].pixel_array for plane in found.planes]).astype(np.int16)
        declared = declared or volumes.declared()
        mask = segment(Volume(found, voxels - 1024), declared, volumes.PREPROCESSING, 0.5, soft, keep)
        facts = volumes.facts(declared, certified=certified)
        key = np.zeros(found.shape[1:], np.float32)
        bundle = Bundle(Path("nowhere"), "ab" * 32, "vendor", facts)
        measured = tuple(measure(mask.labels, found.spacing, declared))
        return Outlined(
            found, mask.labels, key, measured, {}, mask.score, 0.5, 1, bundle, "Hospital", 1.7e9, chances=mask.chances
        )

    return make


def of_kind(made: list[ResultObject], kind: str) -> ResultObject:
    (found,) = (item for item in made if item.kind == kind)
    return found


def explanations(report: Dataset) -> list[str]:
    library = next(item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010")
    return [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for group in library.ContentSequence
        for item in group.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "130401"
    ]


@pytest.mark.parametrize("spacing", [None, (2.0, 2.0, 2.0)], ids=["grid of the image", "grid of the network"])
def test_the_probabilities_kept_are_those_that_decided(
    outlined: Callable[..., Outlined], volumes: ModuleType, spacing: tuple[float, ...] | None
) -> None:
    made = outlined(volumes.declared(spacing_mm=spacing))

    assert made.chances is not None
    assert made.chances.shape == made.labels.shape
    assert np.array_equal(made.chances >= 127.5, made.labels == 1)
    assert made.chances.max() / 255 == pytest.approx(made.score, abs=1 / 255)


def test_the_map_of_an_outlining_version_gives_its_probabilities_back_where_they_lie(
    outlined: Callable[..., Outlined],
) -> None:
    read = outlined(tilt=15.0)
    content = of_kind(outlines.make(OutlinedStudy((read,))), "pm").content
    image = hd.imread(io.BytesIO(content))

    assert read.chances is not None
    planes = [n for n, plane in enumerate(read.chances) if plane.max() >= 13]
    assert image.NumberOfFrames == len(planes)
    values = image.get_frames(apply_real_world_transform=True)
    placed = np.array([plane.position for plane in read.stack.planes])
    for frame, shown in zip(image.PerFrameFunctionalGroupsSequence, values, strict=True):
        away = np.linalg.norm(placed - np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float), axis=1)
        assert away.min() < 1e-4
        assert np.allclose(shown, read.chances[away.argmin()] / 255, atol=1e-6)
    mapping = image.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    # a probability is no class activation, and does not call itself one
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "110854"
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "{0:1}"


def test_the_report_names_map_and_picture_as_what_explains_it(outlined: Callable[..., Outlined]) -> None:
    made = outlines.make(OutlinedStudy((outlined(),)))
    named = explanations(of_kind(made, "sr").dataset)

    assert named == [of_kind(made, "sc").sop_uid, of_kind(made, "pm").sop_uid]
    assert [item.kind for item in made].index("pm") < [item.kind for item in made].index("sr")


def test_no_map_is_made_where_nobody_asks_or_nothing_is_above_the_floor(
    outlined: Callable[..., Outlined],
) -> None:
    quiet = outlined(keep=False)
    empty = outlined(size=1e-6)
    assert empty.chances is not None
    empty.chances[:] = 12

    for one in (quiet, empty):
        made = outlines.make(OutlinedStudy((one,)))
        assert "pm" not in {item.kind for item in made}
        assert len(explanations(of_kind(made, "sr").dataset)) == 1


def test_a_large_map_of_a_small_structure_stays_small(outlined: Callable[..., Outlined]) -> None:
    content = of_kind(outlines.make(OutlinedStudy((outlined(shape=(256, 256)),))), "pm").content

    assert pydicom.dcmread(io.BytesIO(content)).file_meta.TransferSyntaxUID == RLELossless
    assert len(content) < 24 * 256 * 256 / 10


@pytest.fixture
def finding(bundles: ModuleType, volumes: ModuleType) -> Callable[..., Finding]:
    def make(**keywords: Any) -> Finding:
        (image,) = volumes.series(count=1, directions=OBLIQUE, **keywords)
        cam = np.array([[-4, 1, 0], [2, 6, 0], [0, -1, 1]], dtype=np.float32)
        bundle = Bundle(Path("nowhere"), "ab" * 32, "vendor", bundles.facts(title="Score", number=3))
        pixels = image.pixel_array.astype(np.float32)
        return Finding(image, "c" * 64, 1, pixels, 0.83, 0.5, True, cam, bundle, "Hospital", 1.7e9)

    return make


def test_the_map_of_a_scoring_version_is_its_class_activation_on_the_image_s_pixels(
    finding: Callable[..., Finding],
) -> None:
    scored = finding()
    made = radiograph.make(scored, heat_map=True)
    image = hd.imread(io.BytesIO(of_kind(made, "pm").content))

    values = image.get_frames(apply_real_world_transform=True)[0]
    assert values.shape == scored.pixels.shape
    assert 5.5 < values.max() <= 6  # interpolated between the cells of the map
    assert -4 <= values.min() < -3.5
    assert np.unravel_index(values.argmax(), values.shape)[0] == pytest.approx(values.shape[0] / 2, abs=2)
    mapping = image.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence[0]
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "130402"
    assert explanations(of_kind(made, "sr").dataset) == [of_kind(made, "sc").sop_uid, of_kind(made, "pm").sop_uid]
    assert conformity.examine(of_kind(made, "sr").content).problems == ()


def test_a_plain_radiograph_has_its_map_in_the_picture_alone(
    finding: Callable[..., Finding],
) -> None:
    assert [item.kind for item in radiograph.make(finding(ImagePositionPatient=None), heat_map=True)] == ["sc", "sr"]


@pytest.mark.peers("dciodvfy")
@pytest.mark.parametrize("certified", [False, True])
def test_the_maps_are_what_the_standard_says(
    outlined: Callable[..., Outlined], finding: Callable[..., Finding], certified: bool, tmp_path: Path
) -> None:
    read = outlined(certified=certified)
    for made in (outlines.make(OutlinedStudy((read,))), radiograph.make(finding(), heat_map=True)):
        for item in made:
            path = tmp_path / "object.dcm"
            path.write_bytes(item.content)
            said = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False).stderr
            assert [line for line in said.splitlines() if line.startswith("Error")] == [], item.kind
            assert conformity.examine(item.content).problems == ()
    image = of_kind(outlines.make(OutlinedStudy((read,))), "pm").dataset
    assert image.ContentQualification == ("PRODUCT" if certified else "RESEARCH")
    assert image.SeriesDescription.endswith("UNVERIFIED")
    assert image.FrameOfReferenceUID == read.source.FrameOfReferenceUID
    assert image.ContributingEquipmentSequence[0].DeviceUID == read.bundle.device_uid
