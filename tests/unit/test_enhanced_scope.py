"""An enhanced image is judged by what its functional groups say, of every frame; slice spacing by where planes lie."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from client.dicom import decode
from client.inference.pipeline import Pipeline, Refused
from client.inference.scope import Acquisition, Code, InScope, OutOfScope, check
from client.inference.spacing import by_positions
from client.inference.study import Image, Study
from models.intended_use import IntendedUse, Quantity

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
GROUPS: dict[Quantity, tuple[str, str, float]] = {
    "KVP": ("CTXRayDetailsSequence", "KVP", 120),
    "XRayTubeCurrent": ("CTExposureSequence", "XRayTubeCurrentInmA", 200),
    "ExposureTime": ("CTExposureSequence", "ExposureTimeInms", 500),
    "Exposure": ("CTExposureSequence", "ExposureInmAs", 100),
    "DistanceSourceToDetector": ("CTGeometrySequence", "DistanceSourceToDetector", 1000),
    "SliceThickness": ("PixelMeasuresSequence", "SliceThickness", 1.25),
    "SpacingBetweenSlices": ("PixelMeasuresSequence", "SpacingBetweenSlices", 1.25),
    "RepetitionTime": ("MRTimingAndRelatedParametersSequence", "RepetitionTime", 600),
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime", 30),
}


def of(**values: Any) -> Dataset:
    made = Dataset()
    for keyword, value in values.items():
        setattr(made, keyword, Items(value) if isinstance(value, list) and isinstance(value[0], Dataset) else value)
    return made


def use(**clauses: Any) -> IntendedUse:
    said = {"statement": "Any.", "modalities": ["CT"], "sop_classes": [CT, ENHANCED_CT]}
    return IntendedUse.model_validate(said | clauses)


def bounds(quantity: Quantity, **more: Any) -> IntendedUse:
    value = GROUPS[quantity][2]
    return use(ranges=[{"quantity": quantity, "low": 0.9 * value, "high": 1.1 * value, **more}])


def enhanced(shared: Dataset, *own: Dataset, **top: Any) -> Dataset:
    said: dict[str, Any] = {"SOPClassUID": ENHANCED_CT, "Modality": "CT", "Rows": 9, "Columns": 9}
    made = of(**said, NumberOfFrames=len(own), SharedFunctionalGroupsSequence=[shared], **top)
    made.PerFrameFunctionalGroupsSequence = Items(own)
    return made


def codes(intended: IntendedUse, header: Dataset) -> list[str]:
    found = check(intended, Acquisition.from_dataset(header))
    return [] if isinstance(found, InScope) else [reason.code for reason in found.reasons]


@pytest.mark.parametrize("quantity", GROUPS)
def test_a_number_is_found_where_enhanced_images_have_it_and_holds_for_every_frame(quantity: Quantity) -> None:
    group, keyword, right = GROUPS[quantity]
    said = of(**{group: [of(**{keyword: right})]})
    wrong = of(**{group: [of(**{keyword: 3 * right})]})
    clause, lax = bounds(quantity), bounds(quantity, if_stated=True)
    (missing,) = codes(clause, enhanced(Dataset(), Dataset()))
    (out,) = codes(clause, enhanced(wrong, Dataset(), Dataset()))
    assert missing == f"{out}-missing"

    assert codes(clause, enhanced(said, Dataset(), Dataset())) == []  # of all frames
    assert codes(clause, enhanced(Dataset(), said, said)) == []  # of each
    assert codes(clause, enhanced(wrong, said, said)) == []  # what is said of the frame itself stands before
    assert codes(clause, enhanced(said, Dataset(), wrong)) == [out]
    assert codes(clause, enhanced(Dataset(), said, Dataset())) == [missing]
    assert codes(lax, enhanced(Dataset(), said, Dataset())) == []
    assert codes(lax, enhanced(Dataset(), wrong, Dataset())) == [out]
    converted = of(UnassignedSharedConvertedAttributesSequence=[of(**{quantity: right})])
    assert codes(clause, enhanced(converted, Dataset())) == []  # of a classic series made one image
    undescribed = enhanced(Dataset(), said, said)
    undescribed.NumberOfFrames = 3
    assert codes(clause, undescribed) == [missing]


def anatomy(code: str, side: str) -> Dataset:
    return of(FrameAnatomySequence=[of(AnatomicRegionSequence=[of(CodeValue=code)], FrameLaterality=side)])


def used(word: str) -> Dataset:
    return of(ContrastBolusUsageSequence=[of(ContrastBolusAgentAdministered=word)])


def typed(*values: str) -> Dataset:
    return of(CTImageFrameTypeSequence=[of(FrameType=list(values))])


def kernel(*values: str) -> Dataset:
    return of(CTReconstructionSequence=[of(ConvolutionKernel=list(values))])


CHEST, HEAD = "51185008", "69536005"
AGENT = {"ContrastBolusAgentSequence": [of(CodeValue="7140000")]}
WORDS: list[tuple[dict[str, Any], Dataset, Dataset, str, dict[str, Any]]] = [
    ({"body_part": {"regions": ["chest"]}}, anatomy(CHEST, "U"), anatomy(HEAD, "U"), "body-part", {}),
    ({"laterality": {"values": ["R"]}}, anatomy(CHEST, "R"), anatomy(CHEST, "L"), "laterality", {}),
    ({"contrast": {"agent": "with"}}, used("YES"), used("NO"), "contrast", AGENT),
    ({"contrast": {"agent": "without"}}, used("NO"), used("YES"), "contrast", AGENT),
    ({"convolution_kernel": {"accepted": ["B3?f"]}}, kernel("B30f"), kernel("B70f"), "convolution-kernel", {}),
    (
        {"presentation": {"derived": False}},
        typed("ORIGINAL", "PRIMARY", "VOLUME", "NONE"),
        typed("DERIVED", "PRIMARY", "VOLUME", "NONE"),
        "derived",
        {"ImageType": ["MIXED", "PRIMARY", "VOLUME", "NONE"]},
    ),
]


@pytest.mark.parametrize(("clause", "right", "wrong", "code", "top"), WORDS)
def test_what_one_frame_says_otherwise_refuses_the_image(
    clause: dict[str, Any], right: Dataset, wrong: Dataset, code: str, top: dict[str, Any]
) -> None:
    assert codes(use(**clause), enhanced(right, Dataset(), Dataset(), **top)) == []
    assert codes(use(**clause), enhanced(Dataset(), right, right, **top)) == []
    assert codes(use(**clause), enhanced(right, Dataset(), wrong, wrong, **top)) == [code]
    # an image that mixes what is accepted and what is not, and does not say which frame is which
    assert code != "derived" or codes(use(**clause), enhanced(Dataset(), Dataset(), **top)) == [code]


def test_a_frame_that_does_not_say_its_kernel_is_not_guessed() -> None:
    clause, said = use(convolution_kernel={"accepted": ["B30f"]}), kernel("B30f")
    assert codes(clause, enhanced(Dataset(), said, Dataset())) == ["convolution-kernel-missing"]
    lax = use(convolution_kernel={"accepted": ["B30f"], "if_stated": True})
    assert codes(lax, enhanced(Dataset(), said, Dataset())) == []
    assert codes(clause, enhanced(Dataset(), Dataset(), ConvolutionKernel="B30f")) == []  # of the whole image
    two = enhanced(Dataset(), said, kernel("B30f", "LUNG"))
    assert codes(clause, two) == ["convolution-kernel"]


def test_many_frames_make_no_page_of_reasons() -> None:
    own = [of(CTExposureSequence=[of(XRayTubeCurrentInmA=float(1000 + n))]) for n in range(300)]
    found = check(bounds("XRayTubeCurrent"), Acquisition.from_dataset(enhanced(Dataset(), *own)))
    assert isinstance(found, OutOfScope)
    assert len(found.reasons) == 1
    assert len(found.reasons[0].text) < 120


NONSENSE = st.one_of(
    st.none(),
    st.binary(max_size=4),
    st.text("AN\\.-1", max_size=6),
    st.integers(-5, 5),
    st.lists(st.sampled_from([b"", "x", 3, None]), max_size=2),
)
NESTED = st.recursive(
    NONSENSE,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from([name for group, keyword, _ in GROUPS.values() for name in (group, keyword)]), inner
        ),
    ),
    max_leaves=8,
)


@given(shared=NESTED, own=NESTED, usage=NESTED)
def test_nested_nonsense_is_silence_and_no_crash(shared: Any, own: Any, usage: Any) -> None:
    """Whatever lies where a sequence should: nothing is thrown, and nothing is made up."""
    groups = [*own, {"ContrastBolusUsageSequence": usage}] if isinstance(own, list) else own
    header: dict[str, Any] = {
        "SharedFunctionalGroupsSequence": shared,
        "PerFrameFunctionalGroupsSequence": groups,
        "NumberOfFrames": own if isinstance(own, int) else 2,
    }
    acquisition = Acquisition.from_dataset(header)
    assert all(value > 0 for values in acquisition.quantities.values() for value in values)


@given(at=st.integers(0, 10_000), to=st.integers(0, 255))
def test_a_file_with_a_wrong_byte_in_its_groups_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, to: int
) -> None:
    header = enhanced(
        of(PixelMeasuresSequence=[of(SliceThickness=1.25)], **AGENT), anatomy(CHEST, "R"), used("YES"), PatientID="P"
    )
    header.SOPInstanceUID = "2.25.1"
    header.file_meta = pydicom.dataset.FileMetaDataset()
    header.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    header.file_meta.MediaStorageSOPInstanceUID = "2.25.1"
    header.file_meta.MediaStorageSOPClassUID = ENHANCED_CT
    buffer = io.BytesIO()
    header.save_as(buffer, enforce_file_format=True)
    content = bytearray(buffer.getvalue())
    begin = content.index(b"\x00\x52\x29\x92")  # of the shared groups
    content[begin + at % (len(content) - begin)] = to
    path = tmp_path_factory.getbasetemp() / "odd.dcm"
    path.write_bytes(content)
    try:
        read = decode.read_header(path)
    except decode.InvalidStudy:
        return
    check(bounds("SliceThickness"), Acquisition.from_dataset(read))
    by_positions([(read, Acquisition.from_dataset(read))])


# ── Slice spacing ────────────────────────────────────────────────────────────────────────────────────────────────────

THIN = use(ranges=[{"quantity": "SpacingBetweenSlices", "low": 1.0, "high": 1.5}])
Change = Callable[[list[Dataset]], Sequence[Dataset]]


def judged(images: Sequence[Dataset]) -> list[InScope | OutOfScope]:
    headers = [(image, Acquisition.from_dataset(image)) for image in images]
    return [check(THIN, one) for one in by_positions(headers)]


def each(**values: Any) -> Change:
    def change(images: list[Dataset]) -> list[Dataset]:
        for image in images:
            image.update(of(**values))
        return images

    return change


@pytest.mark.parametrize(
    ("step", "change", "said"),
    [
        (1.25, each(), ""),  # the header says nothing, as most CT
        (1.25, each(SpacingBetweenSlices=5), ""),  # or the thickness
        (5.0, each(SpacingBetweenSlices=1.25), "is 5 by the positions of 12 planes"),
        (1.25, lambda images: images[::2], "is 2.5 by the positions of 6 planes"),
        (1.25, lambda images: images[:5] + images[6:], "is 1.25, 2.5 by the positions of 11 planes"),
        (1.25, lambda images: images[:1], "is not given"),
        (1.25, lambda images: each(SpacingBetweenSlices=1.25)(images[:1]), ""),
        (1.25, lambda images: each(SpacingBetweenSlices=5)(images[:1]), "is 5 by the header"),
        (1.25, lambda images: [*images, *images], ""),  # two phases at each place
    ],
)
def test_the_distance_of_slices_is_measured_where_there_are_several(
    volumes: ModuleType, step: float, change: Change, said: str
) -> None:
    turned = ((0.8, 0.6, 0), (0, 0, -1))
    images = change(volumes.series(count=12, step=step, shape=(9, 9), directions=turned))
    for found in judged(images):
        text = "; ".join(reason.text for reason in found.reasons) if isinstance(found, OutOfScope) else ""
        assert (said in text) if said else not text
    if len(images) > 2:
        (whole,) = judged([volumes.enhanced(list(images))])
        assert isinstance(whole, OutOfScope) == bool(said)


@given(st.permutations(range(8)), st.floats(0.3, 9), st.floats(-40, 40), st.floats(-40, 40))
def test_neither_order_nor_place_nor_direction_matters(
    volumes: ModuleType, order: list[int], step: float, x: float, y: float
) -> None:
    turn = np.deg2rad([x, y])
    right = (np.cos(turn[0]), np.sin(turn[0]), 0.0)
    down = (-np.sin(turn[0]) * np.cos(turn[1]), np.cos(turn[0]) * np.cos(turn[1]), np.sin(turn[1]))
    images = volumes.series(count=8, step=step, shape=(4, 4), directions=(right, down))
    shuffled = [images[number] for number in order]
    found = by_positions([(image, Acquisition.from_dataset(image)) for image in shuffled])
    for one in found:
        assert one.placed == 8
        (value,) = one.quantities["SpacingBetweenSlices"]
        assert value == pytest.approx(step, abs=2e-3)


def test_the_pipeline_judges_a_study_by_its_positions(volumes: ModuleType, tmp_path: Path) -> None:
    images = each(SpacingBetweenSlices=1.25)(volumes.series(count=6, step=5.0, shape=(16, 16)))
    study: list[Image] = []
    for number, image in enumerate(images):
        (tmp_path / str(number)).write_bytes(volumes.content(image))
        study.append(Image(str(image.SOPInstanceUID), str(image.SOPClassUID), str(number)))
    bundle = SimpleNamespace(digest="0" * 64, facts=SimpleNamespace(intended_use=THIN))
    never: Any = None  # of a study that is out of scope nothing is computed
    serving: Any = SimpleNamespace(bundle=bundle, engine=never, preprocessing=never, novelty=never, threshold=0.5)
    files: Any = SimpleNamespace(path=lambda digest: tmp_path / digest)
    outcome = Pipeline(files, never, lambda: [serving], "Hospital").process(Study("1.2", 1, 1, 0.0, tuple(study)))
    assert isinstance(outcome, Refused)
    assert [reason.code for reason in outcome.reasons] == [Code.SLICE_SPACING]
    assert "by the positions of 6 planes" in outcome.reasons[0].text
