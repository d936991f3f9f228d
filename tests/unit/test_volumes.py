"""A volume is outlined where it lies, whatever way it was cut, or refused with the reason why not."""

import contextlib
import hashlib
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from highdicom.seg import Segmentation as HighdicomSegmentation
from highdicom.sr import srread
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.config import IGNORE
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from client.dicom import decode, series
from client.inference.measure import grown, measure
from client.inference.objects import objects
from client.inference.outlining import Prior
from client.inference.pipeline import Outcome, Pipeline, Refused, ScoredVolumes
from client.inference.serving import Outlining
from client.inference.structure import structure
from client.inference.study import Image, Study
from client.inference.volume_engine import VolumeEngine
from client.results import conformity, outlines
from client.results.amend import Opinion, local, verify
from client.results.contours import contours
from client.results.outlined import Outlined, OutlinedStudy
from client.results.result import ResultObject
from configs.schema import ResultsConfig
from models.bundle import Bundle
from models.errors import BundleRefused, InvalidStudy
from models.preprocessing import Preprocessing
from models.segmentation import Segmentation

SAID = ((local("DECISION", "Reader's decision"), local("AGREE", "Agree")),)
COS, SIN = np.cos(np.deg2rad(25)), np.sin(np.deg2rad(25))
DIRECTIONS = {
    "axial": ((1, 0, 0), (0, 1, 0)),
    "axial, feet first": ((-1, 0, 0), (0, 1, 0)),
    "axial, upside down": ((-1, 0, 0), (0, -1, 0)),
    "coronal": ((1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, 1, 0), (0, 0, -1)),
    "oblique": ((COS, SIN, 0), (-SIN * COS, COS * COS, SIN)),
}


@dataclass
class Files:
    """A folder of files by digest, and the images of one study."""

    folder: Path
    images: list[Image] = field(default_factory=lambda: list[Image]())

    def path(self, digest: str) -> Path:
        return self.folder / digest

    def keep(self, sha256: str, preprocessing: Preprocessing, tensor: NDArray[np.float32]) -> None:
        raise AssertionError("a volume is no radiograph")

    def add(self, image: Dataset, volumes: ModuleType) -> None:
        content = volumes.content(image)
        digest = hashlib.sha256(content).hexdigest()
        self.path(digest).write_bytes(content)
        self.images.append(Image(str(image.SOPInstanceUID), str(image.SOPClassUID), digest))


Read = Callable[..., Outcome]


@pytest.fixture(scope="module")
def version(volumes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return volumes.build(tmp_path_factory.mktemp("version") / "v1", Ed25519PrivateKey.generate())


@pytest.fixture(scope="module")
def engine(version: Bundle) -> VolumeEngine:
    assert version.facts.segmentation is not None
    return VolumeEngine(version, version.facts.segmentation)


@pytest.fixture
def read(version: Bundle, engine: VolumeEngine, volumes: ModuleType, tmp_path: Path) -> Read:
    """Read the images of one study: `read(images, declared=None, priors=(), missing=0)`."""

    def run(
        images: Sequence[Dataset],
        declared: Segmentation | None = None,
        priors: Sequence[Prior] = (),
        threshold: float = 0.5,
        missing: int = 0,
    ) -> Outcome:
        files = Files(tmp_path)
        for image in images:
            files.add(image, volumes)
        serving = Outlining(version, engine, volumes.PREPROCESSING, declared or volumes.declared(), threshold)
        pipeline = Pipeline(files, files, lambda: [serving], "Hospital", lambda _study, _name: priors)
        return pipeline.process(Study("1.2", 1, 1, 0.0, tuple(files.images), missing))

    return run


def one(outcome: Outcome) -> Outlined:
    assert isinstance(outcome, ScoredVolumes), outcome
    assert len(outcome.outlined) == 1
    return outcome.outlined[0]


def expected(images: Sequence[Dataset], volumes: ModuleType) -> dict[str, NDArray[np.bool_]]:
    """By SOP instance: which pixels lie in the ellipsoid."""
    return {str(image.SOPInstanceUID): volumes.inside(volumes.grid(image)) for image in images}


def found(outlined: Outlined) -> dict[str, NDArray[np.bool_]]:
    return {
        str(plane.header.SOPInstanceUID): mask == 1
        for plane, mask in zip(outlined.stack.planes, outlined.labels, strict=True)
    }


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("axes", ["SPL", "RAS"])
def test_the_mask_lies_on_its_images_whatever_way_they_were_cut(
    read: Read, volumes: ModuleType, directions: Any, axes: str
) -> None:
    images = volumes.series(directions=directions)
    shuffled = [images[index] for index in np.random.default_rng(1).permutation(len(images))]

    outlined = one(read(shuffled, volumes.declared(axes=axes)))

    masks = found(outlined)
    for uid, mask in expected(images, volumes).items():
        assert np.array_equal(masks[uid], mask)
    assert outlined.measured[0].volume_ml == pytest.approx(volumes.VOLUME_ML, rel=0.02)


def test_a_tilted_gantry_is_straightened_for_the_network_and_bent_back_for_the_mask(
    read: Read, volumes: ModuleType
) -> None:
    images = volumes.series(tilt=20.0, shape=(96, 96))

    outlined = one(read(images))

    assert outlined.stack.tilted
    masks = found(outlined)
    assert all(np.array_equal(masks[uid], mask) for uid, mask in expected(images, volumes).items())
    assert outlined.measured[0].volume_ml == pytest.approx(volumes.VOLUME_ML, rel=0.02)


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (0.8, 1.0, 1.2)])
def test_the_networks_grid_may_be_another(read: Read, volumes: ModuleType, spacing: tuple[float, ...]) -> None:
    images = volumes.series(directions=DIRECTIONS["oblique"], spacing=(0.9, 1.1))

    outlined = one(read(images, volumes.declared(axes="RAS", spacing_mm=spacing)))

    truth, masks = expected(images, volumes), found(outlined)
    both = sum(int((truth[uid] & masks[uid]).sum()) for uid in truth)
    size = sum(int(truth[uid].sum()) + int(masks[uid].sum()) for uid in truth)
    assert 2 * both / size > 0.96
    assert outlined.measured[0].volume_ml == pytest.approx(volumes.VOLUME_ML, rel=0.06)


def test_an_enhanced_multi_frame_image_is_read_as_its_planes_lie(read: Read, volumes: ModuleType) -> None:
    images = volumes.series()
    order = np.random.default_rng(2).permutation(len(images))

    outlined = one(read([volumes.enhanced([images[index] for index in order])]))

    assert [plane.frame for plane in outlined.stack.planes] == np.argsort(order).tolist()
    truth = np.stack([volumes.inside(volumes.grid(image)) for image in images])
    assert np.array_equal(outlined.labels == 1, truth)
    segmentation = _segmentation(outlines.make(OutlinedStudy((outlined,))))
    assert {item.ReferencedSOPInstanceUID for item in _referenced(segmentation)} == {
        outlined.stack.planes[0].header.SOPInstanceUID
    }


def test_what_is_no_regular_stack_is_refused_with_the_reason(read: Read, volumes: ModuleType) -> None:
    def reasons(images: Sequence[Dataset]) -> list[str]:
        outcome = read(images)
        assert isinstance(outcome, Refused), outcome
        return [reason.code for reason in outcome.reasons]

    images = volumes.series(count=12)
    assert reasons(images[:5] + images[6:]) == ["missing-slices"]
    assert reasons(images[:2]) == ["too-few-slices"]
    moved = volumes.series(count=12)
    moved[7].ImagePositionPatient[2] = float(moved[7].ImagePositionPatient[2]) + 0.6
    assert reasons(moved) == ["uneven-slices"]
    turned = volumes.series(count=12)
    turned[3].ImageOrientationPatient = [COS, SIN, 0, -SIN, COS, 0]
    assert reasons(turned) == ["mixed-orientation"]
    twice = volumes.series(count=6) + volumes.series(count=6)
    for image in twice:
        image.SeriesInstanceUID, image.FrameOfReferenceUID = twice[0].SeriesInstanceUID, "1.2.3"
    assert reasons(twice) == ["several-volumes"]
    assert reasons(volumes.series(count=12, RescaleIntercept=None)) == ["missing-rescale"]
    assert reasons(volumes.series(count=12, ImagePositionPatient=None)) == ["no-geometry"]
    assert reasons(volumes.series(count=12, FrameOfReferenceUID=None)) == ["no-frame-of-reference"]
    larger = volumes.series(count=12)
    larger[4].PixelSpacing = [1.3, 1.3]
    assert reasons(larger) == ["mixed-size"]
    strange = volumes.series(count=12)
    strange[4].FrameOfReferenceUID = "1.2.3.4"
    assert reasons(strange) == ["mixed-frame-of-reference"]
    other = volumes.series(count=12)
    other[4].PatientID = "somebody else"
    assert reasons(other) == ["patient-mismatch"]


def _without_rescale(image: Dataset) -> None:
    del image.RescaleSlope, image.RescaleIntercept


def _empty_rescale(image: Dataset) -> None:
    image.RescaleSlope = image.RescaleIntercept = None


def _lower_case(image: Dataset) -> None:
    image[0x00080060] = DataElement("Modality", "CS", "ct", validation_mode=IGNORE)
    _without_rescale(image)


def _atomic_numbers(image: Dataset) -> None:
    image.RescaleType = "Z_EFF"


def _unspecified_table(image: Dataset) -> None:
    _without_rescale(image)
    table = Dataset()
    table.LUTDescriptor, table.LUTData, table.ModalityLUTType = [2, 0, 16], [0, 1], "US"
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    image.ModalityLUTSequence = [table]


@pytest.mark.parametrize("where", [slice(None), slice(8, 11), slice(1, None), slice(11, 12)], ids=repr)
@pytest.mark.parametrize("change", [_without_rescale, _empty_rescale, _lower_case, _atomic_numbers, _unspecified_table])
def test_a_ct_is_refused_whose_numbers_are_not_hounsfields_in_every_slice(
    read: Read,
    volumes: ModuleType,
    change: Callable[[Dataset], None],
    where: slice,
) -> None:
    """Scored as stored, the lesion would have a multiple of its volume, or none."""
    images = volumes.series(count=12, step=5.0)
    for image in images[where]:
        change(image)

    outcome = read(images)

    assert isinstance(outcome, Refused), outcome
    assert [reason.code for reason in outcome.reasons] == ["missing-rescale"]


@pytest.mark.parametrize("said", ["HU", "hu ", None])
def test_hounsfield_units_are_read_whether_they_are_named_or_not(read: Read, volumes: ModuleType, said: Any) -> None:
    outlined = one(read(volumes.series(count=12, step=5.0, RescaleType=said or "")))

    assert outlined.measured[0].volume_ml == pytest.approx(volumes.VOLUME_ML, rel=0.05)


def test_every_frame_of_an_enhanced_ct_says_how_it_is_rescaled(read: Read, volumes: ModuleType) -> None:
    image = volumes.enhanced(volumes.series(count=12, step=5.0))
    shared = image.SharedFunctionalGroupsSequence[0]
    rescale = shared.PixelValueTransformationSequence
    del shared.PixelValueTransformationSequence
    for frame in image.PerFrameFunctionalGroupsSequence:
        frame.PixelValueTransformationSequence = rescale
    assert one(read([image])).measured[0].volume_ml == pytest.approx(volumes.VOLUME_ML, rel=0.05)

    del image.PerFrameFunctionalGroupsSequence[7].PixelValueTransformationSequence
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{image.SOPInstanceUID[:60]}.1"
    outcome = read([image])

    assert isinstance(outcome, Refused), outcome
    assert [reason.code for reason in outcome.reasons] == ["missing-rescale"]


@pytest.mark.parametrize(("said", "described"), [(12, 6), (12, 24), (6, 12), (None, 12)])
@pytest.mark.parametrize("compressed", [False, True])
def test_frames_that_are_not_those_described_are_refused(
    read: Read, volumes: ModuleType, said: int | None, described: int, compressed: bool
) -> None:
    """Half a volume without the lesion would be reported as negative."""
    image = volumes.enhanced(volumes.series(count=12, step=5.0))
    if compressed:
        image.compress(RLELossless, generate_instance_uid=False)
    image.NumberOfFrames = said
    image.PerFrameFunctionalGroupsSequence = (list(image.PerFrameFunctionalGroupsSequence) * 2)[:described]

    outcome = read([image])

    assert isinstance(outcome, Refused), outcome
    assert [reason.code for reason in outcome.reasons] == ["inconsistent"]


def test_compressed_frames_beyond_those_described_are_not_passed_over(read: Read, volumes: ModuleType) -> None:
    image = volumes.enhanced(volumes.series(count=12, step=5.0))
    image.compress(RLELossless, generate_instance_uid=False)
    assert one(read([image])).measured[0].volume_ml == pytest.approx(volumes.VOLUME_ML, rel=0.05)
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{image.SOPInstanceUID[:60]}.1"
    image.NumberOfFrames = 6
    del image.PerFrameFunctionalGroupsSequence[6:]

    outcome = read([image])

    assert isinstance(outcome, Refused), outcome
    assert [reason.code for reason in outcome.reasons] == ["inconsistent"]


def _spoiled(image: Dataset, volumes: ModuleType, old: bytes, new: bytes) -> bytes:
    content = volumes.content(image)
    assert content.count(old) >= 1
    assert len(old) == len(new)
    return content.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"\x28\x00\x08\x00IS\x02\x0012", b"\x28\x00\x08\x00IS\x02\x001A", "inconsistent"),
        (b"\x28\x00\x08\x00IS\x02\x0012", b"\x28\x00\x08\x00IS\x02\x001\\", "inconsistent"),
        (b"\x20\x00\x32\x00DS", b"\x20\x00\x32\x00ZZ", "no-geometry"),
        (b"\x28\x00\x53\x10DS", b"\x28\x00\x53\x10ZZ", "inconsistent"),
    ],
)
def test_a_malformed_header_is_refused_with_a_word(
    volumes: ModuleType, tmp_path: Path, old: bytes, new: bytes, reason: str
) -> None:
    path = tmp_path / "image.dcm"
    path.write_bytes(_spoiled(volumes.enhanced(volumes.series(count=12)), volumes, old, new))

    with pytest.raises(InvalidStudy) as caught:
        list(series.planes("0" * 64, decode.read_header(path)))

    assert caught.value.reason == reason


def test_what_the_picture_does_not_depend_on_may_be_malformed(volumes: ModuleType, tmp_path: Path) -> None:
    image = volumes.enhanced(volumes.series(count=12))
    code, icon = Dataset(), Dataset()
    code.CodeValue, icon.RescaleSlope = "39607008", 1
    image.AnatomicRegionSequence, image.IconImageSequence = [code], [icon]
    path = tmp_path / "image.dcm"
    content = _spoiled(image, volumes, b"\x08\x00\x00\x01SH", b"\x08\x00\x00\x01ZZ")
    path.write_bytes(content.replace(b"\x28\x00\x53\x10DS", b"\x28\x00\x53\x10ZZ", 1))

    header = decode.read_header(path)

    assert "CodeValue" not in header.AnatomicRegionSequence[0]
    assert "RescaleSlope" not in header.IconImageSequence[0]
    assert len(series.planes("0" * 64, header)) == 12


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(132, 3000), st.integers(0, 255)), min_size=1, max_size=4))
def test_whatever_a_header_holds_ends_in_planes_or_a_refusal(
    volumes: ModuleType, tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(volumes.content(volumes.enhanced(volumes.series(count=4, shape=(4, 4)))))
    for place, value in changes:
        content[place % len(content)] = value
    path = tmp_path / "image.dcm"
    path.write_bytes(content)
    with contextlib.suppress(InvalidStudy):
        header = decode.read_header(path)
        found = series.planes("0" * 64, header)
        list(decode.read_planes(path, header, [plane.frame for plane in found]))


def test_a_grid_much_finer_than_the_volume_is_refused(read: Read, volumes: ModuleType) -> None:
    outcome = read(volumes.series(count=12, step=6.0), volumes.declared(spacing_mm=(1.0, 1.0, 1.0)))

    assert isinstance(outcome, Refused)
    assert [reason.code for reason in outcome.reasons] == ["too-coarse"]


def test_a_localizer_in_the_series_is_left_out(read: Read, volumes: ModuleType) -> None:
    images = volumes.series()
    scout = volumes.series(count=1, directions=DIRECTIONS["coronal"], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])[0]
    scout.SeriesInstanceUID, scout.FrameOfReferenceUID = images[0].SeriesInstanceUID, images[0].FrameOfReferenceUID

    outlined = one(read([*images, scout]))

    assert outlined.stack.notes == ("localizer",)
    assert len(outlined.stack.planes) == len(images)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"PatientAge": "004Y"}, "age"),
        ({"Modality": "OT"}, "modality"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "sop-class"),
    ],
)
def test_a_series_of_which_some_slices_do_not_fit_is_refused_with_their_reasons(
    read: Read, volumes: ModuleType, change: dict[str, str], code: str
) -> None:
    def cut() -> list[Dataset]:
        images = volumes.series(count=20, step=3.0)
        for image in images[5:]:  # what is left shows nothing, and would have been called negative
            for keyword, value in change.items():
                setattr(image, keyword, value)
            image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
        return images

    torn, whole = cut(), volumes.series(count=20, step=3.0)
    for image in whole:
        image.StudyInstanceUID = torn[0].StudyInstanceUID

    alone, beside = read(torn), read([*cut(), *whole])

    assert isinstance(alone, Refused), alone
    assert code in [reason.code for reason in alone.reasons]
    assert one(beside).partial
    assert one(beside).stack.series_uid == whole[0].SeriesInstanceUID
    assert isinstance(beside, ScoredVolumes)
    assert code in [reason.code for reason in beside.reasons]


def test_what_may_lie_in_a_series_without_being_a_slice_of_it_does_not_refuse_it(
    read: Read, volumes: ModuleType
) -> None:
    images = volumes.series()
    scout, report, echo = volumes.series(count=3, SeriesInstanceUID=images[0].SeriesInstanceUID)
    scout.ImageType, scout.Modality = ["ORIGINAL", "PRIMARY", "LOCALIZER"], "OT"
    report.Modality = "SR"
    for keyword in ("Rows", "Columns", "PixelData", "ImagePositionPatient"):
        delattr(report, keyword)
    echo.ImagePositionPatient, echo.Modality = images[7].ImagePositionPatient, "OT"  # another picture of that place

    outlined = one(read([*images, scout, report, echo]))

    assert len(outlined.stack.planes) == len(images)
    assert not outlined.partial


@pytest.mark.peers("dciodvfy")
@pytest.mark.parametrize("lesion", [True, False])
def test_a_study_of_which_images_are_missing_is_never_reported_as_complete_or_negative(
    read: Read, volumes: ModuleType, tmp_path: Path, lesion: bool
) -> None:
    images = volumes.series(count=20, step=3.0)
    came = images if lesion else images[:5]

    outcome = read(came, missing=14)

    assert isinstance(outcome, ScoredVolumes)
    assert [(reason.code, reason.text) for reason in outcome.reasons] == [
        ("incomplete", f"{len(came) + 14} images were expected, {len(came)} came")
    ]
    (first,) = [made for made in objects(outcome, ResultsConfig()) if made.kind == "sr"]
    signed = verify(first.content, Opinion("Ada Lovelace", "Hospital", 1.7e9, lesion, SAID, 1))
    present = "52101004"
    for made, answer, completion in (
        (first, present if lesion else "ABSENT_IN_PART", "PARTIAL"),
        (signed, present if lesion else "2667000", "COMPLETE"),  # a reader has seen it
    ):
        report = made.dataset
        said = evaluations(report)
        assert said["111017"] == ("111244" if lesion else "111243")
        assert said[outcome.best.bundle.facts.finding.value] == answer
        assert report.CompletionFlag == completion
        assert "Not all images" in report.CompletionFlagDescription
        assert conformity.examine(made.content).problems == ()
        path = tmp_path / "sr.dcm"
        path.write_bytes(made.content)
        told = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False).stderr
        assert "Error" not in told, told


def evaluations(report: Dataset) -> dict[str, str]:
    """Every coded answer of a report, by concept."""
    found: dict[str, str] = {}
    items = list(report.ContentSequence)
    while items:
        item = items.pop()
        items += item.get("ContentSequence", [])
        if item.ValueType == "CODE":
            found[item.ConceptNameCodeSequence[0].CodeValue] = item.ConceptCodeSequence[0].CodeValue
    return found


def test_a_localizer_that_does_not_say_where_it_lies_costs_nothing(read: Read, volumes: ModuleType) -> None:
    images = volumes.series(count=12, step=5.0)
    scout = volumes.series(
        count=1,
        ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"],
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        RescaleSlope=None,
        SeriesInstanceUID=images[0].SeriesInstanceUID,
        StudyInstanceUID=images[0].StudyInstanceUID,
    )

    outlined = one(read([*scout, *images]))

    assert outlined.stack.notes == ("localizer",)
    assert len(outlined.stack.planes) == len(images)


@pytest.mark.parametrize("spacing", [0.0001, 1000.0])
def test_distances_that_no_scanner_has_are_refused(read: Read, volumes: ModuleType, spacing: float) -> None:
    outcome = read(volumes.series(count=12, PixelSpacing=[spacing, spacing]))

    assert isinstance(outcome, Refused), outcome
    assert [reason.code for reason in outcome.reasons] == ["no-geometry"]


def test_slices_that_lie_to_and_fro_are_no_tilted_gantry(read: Read, volumes: ModuleType) -> None:
    images = volumes.series(count=12)
    for image in images[1::2]:
        image.ImagePositionPatient[0] = float(image.ImagePositionPatient[0]) + 20

    outcome = read(images)

    assert isinstance(outcome, Refused), outcome
    assert [reason.code for reason in outcome.reasons] == ["uneven-slices"]


def test_every_series_that_fits_is_read_and_one_that_cannot_be_is_named(read: Read, volumes: ModuleType) -> None:
    first, second, broken = volumes.series(), volumes.series(step=2.0), volumes.series(count=9)
    for image in (*second, *broken):
        image.StudyInstanceUID = first[0].StudyInstanceUID

    outcome = read([*first, *second, *broken[:4], *broken[5:]])

    assert isinstance(outcome, ScoredVolumes)
    assert len(outcome.outlined) == 2
    assert [reason.code for reason in outcome.reasons] == ["missing-slices"]
    codes = {
        item.ConceptCodeSequence[0].CodeValue
        for made in objects(outcome, ResultsConfig())
        if made.kind == "sr"
        for group in _groups(made)
        for item in group.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "111017"
    }
    assert codes == {"111244"}  # not all algorithms succeeded, with findings


def test_rescaling_that_changes_from_slice_to_slice_is_followed(read: Read, volumes: ModuleType) -> None:
    images = volumes.series()
    for number, image in enumerate(images):
        values = np.frombuffer(image.PixelData, np.uint16).astype(float) - 1024
        slope = 0.5 + number / 50
        image.RescaleSlope, image.RescaleIntercept = f"{slope:.4f}", -1024
        image.PixelData = np.rint((values + 1024) / round(slope, 4)).astype(np.uint16).tobytes()

    assert one(read(images)).measured[0].volume_ml == pytest.approx(volumes.VOLUME_ML, rel=0.02)


def _segmentation(made: Sequence[ResultObject]) -> Dataset:
    return next(item.dataset for item in made if item.kind == "seg")


def _referenced(segmentation: Dataset) -> list[Dataset]:
    return [
        source
        for frame in segmentation.PerFrameFunctionalGroupsSequence
        for derivation in frame.DerivationImageSequence
        for source in derivation.SourceImageSequence
    ]


def _groups(report: ResultObject) -> list[Dataset]:
    root = report.dataset
    measurements = next(item for item in root.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010")
    return list(measurements.ContentSequence)


@pytest.mark.peers("dciodvfy")
@pytest.mark.parametrize("many", [False, True], ids=["classic", "enhanced"])
def test_the_objects_are_what_the_standard_says(read: Read, volumes: ModuleType, many: bool, tmp_path: Path) -> None:
    images = volumes.series(directions=DIRECTIONS["oblique"])
    made = outlines.make(OutlinedStudy((one(read([volumes.enhanced(images)] if many else images)),)))

    assert [item.kind for item in made] == ["seg", "gsps", "sc", "sr"]
    for item in made:
        path = tmp_path / f"{item.kind}.dcm"
        path.write_bytes(item.content)
        said = subprocess.run(
            ["/usr/bin/dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False
        ).stderr
        assert [line for line in said.splitlines() if line.startswith("Error")] == [], item.kind
        assert conformity.examine(item.content).problems == ()
        assert "UNVERIFIED" in item.dataset.SeriesDescription
        assert item.dataset.PatientID == "V1"


def test_the_segmentation_read_back_is_the_mask(read: Read, volumes: ModuleType) -> None:
    images = volumes.series(directions=DIRECTIONS["sagittal"])
    segmentation = HighdicomSegmentation.from_dataset(_segmentation(outlines.make(OutlinedStudy((one(read(images)),)))))
    truth = expected(images, volumes)
    uids = [uid for uid, mask in truth.items() if mask.any()]

    masks = segmentation.get_pixels_by_source_instance(uids, segment_numbers=[1])[..., 0]

    assert np.array_equal(masks, np.stack([truth[uid] for uid in uids]))
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        image = next(image for image in images if image.SOPInstanceUID == source)
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(np.array(position, float), np.array(image.ImagePositionPatient, float))


def test_the_report_measures_what_the_segmentation_holds(read: Read, volumes: ModuleType, tmp_path: Path) -> None:
    nodule = structure(volumes.declared(), 1)
    assert nodule is not None
    prior = Prior("1.2.9", date(2023, 7, 5), {nodule: volumes.VOLUME_ML / 2})
    made = outlines.make(OutlinedStudy((one(read(volumes.series(), priors=(prior,))),)))
    path = tmp_path / "sr.dcm"
    path.write_bytes(made[-1].content)

    report = srread(path)
    groups = report.content.get_volumetric_roi_measurement_groups()

    assert len(groups) == 1
    values = {item.name.value: (item.value, item.unit.value) for item in groups[0].get_measurements()}
    assert values["118565006"][0] == pytest.approx(volumes.VOLUME_ML, rel=0.02)
    assert values["118565006"][1] == "mL"
    # pixel edge to pixel edge: up to a pixel more than the ellipsoid in each direction
    assert 2 * volumes.RADII[0] - 1 <= values["103339001"][0] <= 2 * volumes.RADII[0] + 1.6
    assert 2 * volumes.RADII[1] - 1 <= values["103340004"][0] <= 2 * volumes.RADII[1] + 1.6
    assert values["VOLUME_CHANGE"][0] == pytest.approx(100, abs=4)
    assert values["INTERVAL"] == (180.0, "d")
    reference = groups[0].referenced_segment
    segment = reference[0].ReferencedSOPSequence[0]
    assert segment.ReferencedSOPInstanceUID == _segmentation(made).SOPInstanceUID
    assert segment.ReferencedSegmentNumber == 1


def test_growth_is_told_of_the_same_structure_and_against_what_was_read_whole(read: Read, volumes: ModuleType) -> None:
    nodule = structure(volumes.declared(), 1)
    assert nodule is not None
    spleen = replace(nodule, finding=("SCT", "78961009"))
    half = volumes.VOLUME_ML / 2
    whole, torn = Prior("1.2.8", date(2023, 1, 1), {nodule: half}), Prior("1.2.9", date(2023, 7, 5), {}, "torn")

    other = one(read(volumes.series(), priors=(Prior("1.2.9", date(2023, 7, 5), {spleen: half}),)))
    older = one(read(volumes.series(), priors=(torn, whole)))

    assert (other.growth, other.uncompared) == ({}, "")
    assert older.growth[1].prior_uid == "1.2.8"
    assert older.uncompared == "not compared with the study of 2023-07-05: torn"


def test_nothing_found_says_so_and_draws_nothing(read: Read, volumes: ModuleType) -> None:
    images = volumes.series(count=6)
    for image in images:
        image.PixelData = np.full((image.Rows, image.Columns), 1024 + volumes.OUTSIDE, np.uint16).tobytes()

    outlined = one(read(images))
    made = outlines.make(OutlinedStudy((outlined,)))

    assert not outlined.positive
    assert outlined.score < 0.5
    assert [item.kind for item in made] == ["sc", "sr"]


def test_a_label_smaller_than_declared_is_not_found(read: Read, volumes: ModuleType) -> None:
    declared = volumes.declared()
    label = declared.labels[0].model_copy(update={"smallest_ml": volumes.VOLUME_ML * 1.5})

    assert not one(read(volumes.series(), declared.model_copy(update={"labels": (label,)}))).positive


def test_a_network_that_is_not_what_it_says_does_not_serve(
    version: Bundle, volumes: ModuleType, tmp_path: Path
) -> None:
    made = volumes.build(tmp_path / "v", Ed25519PrivateKey.generate())
    np.save(made.folder / "reference" / "expected.npy", np.zeros((1, 1, 16, 32, 32), np.float32))

    with pytest.raises(BundleRefused, match="reference voxel differs"):
        VolumeEngine(made, volumes.declared())


def test_growth_has_a_doubling_time_only_where_it_grows() -> None:
    doubled, shrunk = grown(2.0, 1.0, 90, "1.2"), grown(1.0, 2.0, 90, "1.2")

    assert doubled is not None
    assert doubled.percent == 100
    assert doubled.doubling_days == pytest.approx(90)
    assert shrunk is not None
    assert shrunk.percent == -50
    assert shrunk.doubling_days is None
    assert grown(1.0, 0.0, 90, "1.2") is None


def test_diameters_are_those_of_the_largest_piece(volumes: ModuleType) -> None:
    labels = np.zeros((3, 60, 60), np.uint8)
    labels[1, 10:20, 5:45] = 1  # 10 x 40 pixels
    labels[0, 50:58, 50:58] = 1

    measured = measure(labels, (5.0, 0.5, 0.5), volumes.declared())[0]

    assert measured.parts == 2
    assert measured.plane == 1
    assert measured.long_mm == pytest.approx(np.hypot(20, 5))
    assert measured.volume_ml == pytest.approx((400 + 64) * 1.25 / 1000)


@pytest.mark.parametrize("seed", range(5))
def test_contours_enclose_the_mask(seed: int) -> None:
    mask = np.random.default_rng(seed).random((12, 15)) > 0.5

    lines = contours(mask)

    # signed areas: outer lines one way, holes the other
    area = sum(float((line[:-1, 0] * line[1:, 1] - line[1:, 0] * line[:-1, 1]).sum()) / 2 for line in lines)
    assert area == mask.sum()
    assert all(np.array_equal(line[0], line[-1]) for line in lines)
