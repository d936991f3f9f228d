"""What modalities really write: odd windows, no slice thickness, directions that differ in the last digit.

None of it keeps a volume that was read from its objects, and each of them may be sent.
"""

import io
import subprocess
import tarfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pydicom
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from highdicom.seg import Segmentation
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import config
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from client.dicom import series
from client.inference.measure import measure
from client.inference.serving import Outlining
from client.inference.trial import try_folder
from client.inference.volume_engine import VolumeEngine
from client.results import conformity, outlines, radiograph
from client.results.finding import Finding
from client.results.outlined import Outlined, OutlinedStudy
from client.results.result import ResultObject
from client.store.site import Site
from models.bundle import Bundle
from models.intended_use import IntendedUse
from models.preprocessing import Preprocessing

ALL = ["seg", "gsps", "rtstruct", "pm", "sc", "sr"]
Outline = Callable[[Sequence[Dataset]], Outlined]
Change = Callable[[Dataset, int], None]


def put(image: Dataset, **values: Any) -> None:
    """Write attributes as they are, whatever the standard says; None: leave it out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for keyword, value in values.items():
            if value is None:
                image.pop(keyword, None)
            else:
                vr = dictionary_VR(keyword)
                image.add(DataElement(keyword, vr, value, validation_mode=config.IGNORE))


@pytest.fixture(scope="session")
def outline(volumes: ModuleType) -> Outline:
    """What a version for radiotherapy would outline of some images, each written and read again."""

    def make(images: Sequence[Dataset]) -> Outlined:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = [pydicom.dcmread(io.BytesIO(volumes.content(image))) for image in images]
        stack = series.stack([plane for n, image in enumerate(read) for plane in series.planes(f"{n:064}", image)])
        rows, columns = stack.shape[1:]
        where = np.stack(
            [
                plane.position
                + np.arange(columns)[None, :, None] * plane.along_row * plane.spacing[1]
                + np.arange(rows)[:, None, None] * plane.along_column * plane.spacing[0]
                for plane in stack.planes
            ]
        )
        labels = volumes.inside(where).astype(np.uint8)
        declared = volumes.declared(radiotherapy=True)
        bundle = Bundle(Path("nowhere"), "ab" * 32, "vendor", volumes.facts(declared))
        found = tuple(measure(labels, stack.spacing, declared))
        key = np.zeros((rows, columns), np.float32)
        chances = labels * np.uint8(255)
        return Outlined(stack, labels, key, found, {}, 1.0, 0.5, 1, bundle, "Hospital", 1.7e9, chances=chances)

    return make


def made_of(outlined: Outlined) -> list[ResultObject]:
    return outlines.make(OutlinedStudy((outlined,)), structure_sets=True)


def of_kind(made: Sequence[ResultObject], kind: str) -> Dataset:
    (found,) = (item.dataset for item in made if item.kind == kind)
    return found


def each(**values: Any) -> Change:
    return lambda image, _: put(image, **values)


def second(**values: Any) -> Change:
    return lambda image, number: put(image, **values) if number % 2 else None


ODD: dict[str, Change] = {
    "window of no width": each(WindowCenter="0", WindowWidth="0"),
    "negative width": each(WindowWidth="-100"),
    "centre without width": each(WindowWidth=None),
    "width without centre": each(WindowCenter=None),
    "empty window": each(WindowCenter="", WindowWidth=""),
    "two centres, one width": each(WindowCenter=["40", "600"], WindowWidth=["400"]),
    "half a width for a linear window": each(WindowWidth="0.5"),
    "a window in every other image": second(WindowCenter=None, WindowWidth=None),
    "an unknown function": each(VOILUTFunction="FOO"),
    "an empty function": each(VOILUTFunction=""),
    "no thickness": each(SliceThickness=None),
    "an empty thickness": each(SliceThickness=""),
    "a thickness of 0": each(SliceThickness="0"),
    "thickness differs": second(SliceThickness="3"),
    "directions differ by 1e-5": second(ImageOrientationPatient=["1", "0.00001", "0", "-0.00001", "1", "0"]),
    "directions are no unit vectors": each(ImageOrientationPatient=["0.9995", "0", "0", "0", "0.9995", "0"]),
    "directions are not square": each(ImageOrientationPatient=["1", "0.005", "0", "0", "1", "0"]),
    "pixel spacing differs by rounding": second(PixelSpacing=["1.0005", "1"]),
    "an empty rescale type": each(RescaleType=""),
    "a rescale type in every other image": second(RescaleType="HU"),
    "another rescale in every other image": second(RescaleSlope="2"),
    "no image type": each(ImageType=None),
}


@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_an_odd_header_keeps_no_volume_from_its_objects(
    outline: Outline, volumes: ModuleType, change: Change, tmp_path: Path
) -> None:
    images = volumes.series(count=10, step=3.0, shape=(48, 56))
    for number, image in enumerate(images):
        change(image, number)

    outlined = outline(images)
    made = made_of(outlined)

    assert [item.kind for item in made] == ALL
    assert {item.kind: conformity.examine(item.content).problems for item in made} == dict.fromkeys(ALL, ())
    measures = of_kind(made, "seg").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert measures.SliceThickness == pytest.approx(3)
    lies_where_it_was_read(made, outlined)


def lies_where_it_was_read(made: Sequence[ResultObject], outlined: Outlined) -> None:
    """Directions are those of the stack, and each frame holds the mask of the plane at its position."""
    segmentation = of_kind(made, "seg")
    shared = segmentation.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
    cosines = np.array(shared.ImageOrientationPatient, float).reshape(2, 3)
    assert np.allclose(cosines @ cosines.T, np.eye(2), atol=1e-9)
    first = outlined.stack.planes[0]
    assert np.allclose(cosines, [first.along_row, first.along_column], atol=1e-9)
    masks = Segmentation.from_dataset(segmentation).pixel_array
    placed = np.array([plane.position for plane in outlined.stack.planes])
    for frame, mask in zip(segmentation.PerFrameFunctionalGroupsSequence, masks, strict=True):
        away = np.linalg.norm(placed - np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float), axis=1)
        assert away.min() < 1e-6
        plane = outlined.stack.planes[away.argmin()]
        assert np.array_equal(mask == 1, outlined.labels[away.argmin()] == 1)
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == plane.header.SOPInstanceUID
        assert source.get("ReferencedFrameNumber", 1) == plane.frame + 1


numbers = st.sampled_from([None, "", "0", "-3", "0.2", "1", "40", "1e9", ["40", "600"], ["40", ""], ["0", "-1"]])


@given(
    centre=numbers,
    width=numbers,
    function=st.sampled_from([None, "", "LINEAR", "LINEAR_EXACT", "SIGMOID", "sigmoid"]),
    thick=st.sampled_from([None, "", "0", "-1", "2.5"]),
    kind=st.sampled_from([None, "", "HU", "A TYPE THAT IS VERY LONG"]),
    turn=st.floats(-4e-4, 4e-4),
    alternating=st.booleans(),
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_grey_values_and_thickness_leave_all_objects_to_be_sent(
    outline: Outline,
    volumes: ModuleType,
    centre: Any,
    width: Any,
    function: Any,
    thick: Any,
    kind: Any,
    turn: float,
    alternating: bool,
) -> None:
    images = volumes.series(count=6, step=5.0, shape=(24, 28), spacing=(2.0, 2.0))
    for number, image in enumerate(images):
        if number % 2 or not alternating:
            put(image, WindowCenter=centre, WindowWidth=width, VOILUTFunction=function, SliceThickness=thick)
            directions = ["1", f"{turn:.9f}", "0", f"{-turn:.9f}", "1", "0"]
            put(image, RescaleType=kind, ImageOrientationPatient=directions)

    outlined = outline(images)
    made = made_of(outlined)

    assert [item.kind for item in made] == ALL
    assert [conformity.examine(item.content).problems for item in made] == [()] * len(ALL)
    lies_where_it_was_read(made, outlined)


def test_a_window_that_can_be_shown_is_handed_on_for_the_images_that_have_it(
    outline: Outline, volumes: ModuleType
) -> None:
    images = volumes.series(count=10, step=3.0, shape=(48, 56), WindowCenter=["40", "600"], WindowWidth=["400", "1500"])

    state = of_kind(made_of(outline(images)), "gsps")

    assert (state.RescaleSlope, state.RescaleIntercept) == (1, -1024)
    (shown,) = state.SoftcopyVOILUTSequence
    assert (list(shown.WindowCenter), list(shown.WindowWidth)) == ([40, 600], [400, 1500])


def test_where_the_rescale_differs_windows_are_of_stored_values(outline: Outline, volumes: ModuleType) -> None:
    images = volumes.series(count=10, step=3.0, shape=(48, 56))
    slopes = {image.SOPInstanceUID: 1 + number / 4 for number, image in enumerate(images)}
    for image in images:
        put(image, RescaleSlope=str(slopes[image.SOPInstanceUID]), RescaleIntercept="-1024")
    outlined = outline(images)
    declared = volumes.declared(radiotherapy=True)
    both = [outlined.measured[0], *measure(outlined.labels, outlined.stack.spacing, declared)]
    object.__setattr__(both[1], "plane", both[0].plane + 1)  # a second plane is shown
    object.__setattr__(outlined, "measured", tuple(both))

    state = of_kind(made_of(outlined), "gsps")

    assert "RescaleSlope" not in state
    assert len(state.SoftcopyVOILUTSequence) == 2
    for shown in state.SoftcopyVOILUTSequence:
        slope = slopes[shown.ReferencedImageSequence[0].ReferencedSOPInstanceUID]
        assert slope * float(shown.WindowCenter) - 1024 == pytest.approx(40)
        assert slope * float(shown.WindowWidth) == pytest.approx(1500)


@pytest.mark.peers("dciodvfy")
def test_a_multi_frame_image_may_say_everything_frame_by_frame(
    outline: Outline, volumes: ModuleType, tmp_path: Path
) -> None:
    images = volumes.series(count=10, step=3.0, shape=(48, 56))
    image = volumes.enhanced(images)
    shared = image.SharedFunctionalGroupsSequence[0]
    for number, frame in enumerate(image.PerFrameFunctionalGroupsSequence):
        turn, scale, shown, measures = (Dataset() for _ in range(4))
        off = 1e-5 * (number % 2)
        put(turn, ImageOrientationPatient=["1", f"{off:.6f}", "0", f"{-off:.6f}", "1", "0"])
        put(scale, RescaleSlope=str(1 + number % 2), RescaleIntercept="-1024", RescaleType="HU")
        put(shown, WindowCenter="40", WindowWidth="0" if number % 2 else "400")
        put(measures, PixelSpacing=["1", "1"])
        frame.PlaneOrientationSequence, frame.PixelMeasuresSequence = Items([turn]), Items([measures])
        frame.PixelValueTransformationSequence, frame.FrameVOILUTSequence = Items([scale]), Items([shown])
    for keyword in ("PlaneOrientationSequence", "PixelMeasuresSequence", "PixelValueTransformationSequence"):
        delattr(shared, keyword)

    outlined = outline([image])
    made = made_of(outlined)

    assert [item.kind for item in made] == ALL
    lies_where_it_was_read(made, outlined)
    for item in made:
        assert conformity.examine(item.content).problems == ()
        path = tmp_path / "object.dcm"
        path.write_bytes(item.content)
        said = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False).stderr
        assert [line for line in said.splitlines() if line.startswith("Error")] == [], item.kind


@pytest.mark.parametrize("kind", ["presentation", "probability_map", "structure_set"])
def test_an_object_that_cannot_be_made_leaves_the_others_and_no_reference_to_it(
    outline: Outline, volumes: ModuleType, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outlined = outline(volumes.series(count=10, step=3.0, shape=(48, 56)))
    whole = made_of(outlined)

    def fail(_: Outlined) -> ResultObject:
        raise ValueError("a header held something")

    fail.__name__ = kind
    monkeypatch.setattr(outlines, kind, fail)
    made = made_of(outlined)

    missing = {item.sop_uid for item in whole} - {item.sop_uid for item in made}
    assert len(missing) == 1
    assert not any(uid.encode() in item.content for item in made for uid in missing)
    assert [conformity.examine(item.content).problems for item in made] == [()] * len(made)


@pytest.mark.parametrize(
    "odd", [{"SliceThickness": None}, {"FrameOfReferenceUID": "none"}, {"PixelSpacing": ["0", "0"]}]
)
def test_a_map_of_one_image_needs_a_place_that_can_be(
    bundles: ModuleType, volumes: ModuleType, odd: dict[str, Any]
) -> None:
    (image,) = volumes.series(count=1)
    put(image, **odd)
    bundle = Bundle(Path("nowhere"), "ab" * 32, "vendor", bundles.facts())
    pixels, cam = image.pixel_array.astype(np.float32), np.ones((3, 3), np.float32)

    made = radiograph.make(
        Finding(image, "c" * 64, 1, pixels, 0.8, 0.5, True, cam, bundle, "Hospital", 1.7e9), heat_map=True
    )

    assert [item.kind for item in made] == ["sc", "sr"]
    assert [conformity.examine(item.content).problems for item in made] == [(), ()]


def test_a_real_series_of_the_brain_without_windows_has_all_its_objects(
    site: Site, volumes: ModuleType, vigie_data: Path, tmp_path: Path
) -> None:
    packed = vigie_data / "series" / "mr_brain_ge_pd_20slices.tar.xz"
    if not packed.is_file():
        pytest.skip(f"no real series at {packed}; set VIGIE_DATA to run this")
    with tarfile.open(packed) as archive:
        archive.extractall(tmp_path / "scanner", filter="data")
    use = IntendedUse(statement="MR of the head.", modalities=("MR",), sop_classes=("1.2.840.10008.5.1.4.1.1.4",))
    declared = volumes.declared(radiotherapy=True, window=(8, 128, 128))
    built = volumes.build(
        tmp_path / "version", Ed25519PrivateKey.generate(), segmentation=declared, intended_use=use, name="head"
    )
    range_ = {"_target_": "ScaleIntensityRange", "a_min": 0.0, "a_max": 1000.0, "b_min": 0.0, "b_max": 1.0}
    version = Outlining(built, VolumeEngine(built, declared), Preprocessing([range_]), declared, 0.5)
    site.config.results.heat_maps = site.config.results.structure_sets = True

    (tried,) = try_folder(site, lambda: [version], tmp_path / "scanner").studies

    assert (tried.outcome, tried.positive, tried.reasons) == ("scored", True, [])
    assert [(made.kind, made.problems) for made in tried.objects] == [(kind, []) for kind in ALL]
