"""The picture that is scored is the picture that a radiologist sees, or there is none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from client.dicom import rle
from client.dicom.decode import REASONS, present, read, read_header, read_planes
from models.errors import InvalidStudy

Make = Callable[..., Dataset]


def saved(dataset: Dataset, folder: Path) -> Path:
    path = folder / "image.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path


def with_pixels(make: Make, values: Any, **keywords: Any) -> Dataset:
    array = np.asarray(values)
    signed = array.dtype.kind == "i"
    bits = array.dtype.itemsize * 8
    settings = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(signed)}
    data = array.tobytes() + b"\0" * (array.nbytes % 2)
    rows, columns = array.shape
    return make(rows=rows, columns=columns, **(settings | {"PixelData": data} | keywords))


RAMP = np.arange(64, dtype=np.uint16).reshape(8, 8) * 64


@pytest.fixture
def refusal(tmp_path: Path) -> Callable[[Dataset], str]:
    def reason(dataset: Dataset) -> str:
        with pytest.raises(InvalidStudy) as caught:
            read(saved(dataset, tmp_path))
        assert caught.value.reason in REASONS
        return caught.value.reason

    return reason


def test_plain_pixels_are_as_stored(radiograph: Make, tmp_path: Path) -> None:
    made = read(saved(with_pixels(radiograph, RAMP), tmp_path))
    np.testing.assert_array_equal(made.pixels, RAMP)
    assert made.pixels.dtype == np.float32
    assert made.pixels.flags.c_contiguous
    assert made.header.BodyPartExamined == "CHEST"
    assert "PixelData" not in made.header


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEG2000Lossless])
def test_compression_changes_nothing(radiograph: Make, tmp_path: Path, syntax: str) -> None:
    dataset = radiograph()
    plain = read(saved(dataset, tmp_path)).pixels
    if syntax == JPEG2000Lossless:
        pytest.importorskip("openjpeg")
    dataset.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read(saved(dataset, tmp_path)).pixels, plain)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_encoding_changes_nothing(radiograph: Make, tmp_path: Path, syntax: str) -> None:
    dataset = with_pixels(radiograph, RAMP)
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = RAMP.astype(">u2").tobytes()
        dataset["PixelData"].VR = "OW"
    np.testing.assert_array_equal(read(saved(dataset, tmp_path)).pixels, RAMP)


def test_monochrome1_is_turned_so_that_larger_is_whiter(radiograph: Make, tmp_path: Path) -> None:
    made = read(saved(with_pixels(radiograph, RAMP, PhotometricInterpretation="MONOCHROME1"), tmp_path))
    np.testing.assert_array_equal(made.pixels, RAMP.max() - RAMP)


@pytest.mark.parametrize(("photometric", "shape"), [("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE")])
def test_a_picture_of_which_two_attributes_name_another_end_white_is_refused(
    radiograph: Make, tmp_path: Path, photometric: str, shape: str
) -> None:
    """One viewer shows the negative of what another one shows."""
    dataset = with_pixels(radiograph, RAMP, PhotometricInterpretation=photometric)
    dataset.add_new("PresentationLUTShape", "CS", shape)
    with pytest.raises(InvalidStudy, match="PresentationLUTShape"):
        read(saved(dataset, tmp_path))
    dataset.PhotometricInterpretation = "MONOCHROME2" if photometric == "MONOCHROME1" else "MONOCHROME1"
    read(saved(dataset, tmp_path))


@pytest.mark.parametrize(
    ("window", "turned"),
    [
        ({"WindowCenter": 2048, "WindowWidth": 4096}, {}),
        ({"WindowCenter": 1000, "WindowWidth": 700}, {"WindowCenter": 3096}),
        ({"WindowCenter": 1000, "WindowWidth": 700, "VOILUTFunction": "LINEAR_EXACT"}, {"WindowCenter": 3095}),
        ({"WindowCenter": 1000, "WindowWidth": 700, "VOILUTFunction": "SIGMOID"}, {"WindowCenter": 3095}),
        ({"VOILUTSequence": [0, 5, 900]}, {"VOILUTSequence": [3195, 4090, 4095]}),
    ],
)
@pytest.mark.parametrize("padded", [False, True])
def test_a_windowed_picture_is_the_same_whichever_end_of_it_is_stored_as_white(
    radiograph: Make, tmp_path: Path, window: dict[str, Any], turned: dict[str, Any], padded: bool
) -> None:
    """Inverted about what is seen of the window, a dark picture would become another, and get another score."""

    def presented(values: Any, photometric: str, **keywords: Any) -> Any:
        if table := keywords.get("VOILUTSequence"):
            keywords["VOILUTSequence"] = [lut(table, 1000 if photometric == "MONOCHROME2" else 3093, bits=12)]
        bits = {"BitsStored": 12, "HighBit": 11, "PhotometricInterpretation": photometric}
        dataset = with_pixels(radiograph, values, **(bits | keywords))
        if padded:
            dataset.add_new("PixelPaddingValue", "US", int(values[0, 0]))
        return read(saved(dataset, tmp_path)).pixels

    # 0 to 2016 of 4095: the upper half of the window is not seen
    expected = presented(RAMP // 2, "MONOCHROME2", **window)
    found = presented(4095 - RAMP // 2, "MONOCHROME1", **(window | turned))

    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2000, 1000), (1000, 3500), (100.5, 37)])
def test_a_window_is_pydicoms(radiograph: Make, tmp_path: Path, function: str, center: float, width: float) -> None:
    window = {"WindowCenter": center, "WindowWidth": width, "VOILUTFunction": function}
    rescale = {"RescaleSlope": 2, "RescaleIntercept": -1000}
    dataset = with_pixels(radiograph, RAMP, BitsStored=12, HighBit=11, **window, **rescale)
    expected = apply_voi_lut(apply_modality_lut(RAMP, dataset), dataset)
    made = read(saved(dataset, tmp_path)).pixels
    # pydicom's output range is the rescaled one, ours the stored one: the same picture
    low, high = -1000, 4095 * 2 - 1000
    np.testing.assert_allclose(made / 4095, (expected - low) / (high - low), atol=2e-4)


def test_the_first_of_several_windows_counts(radiograph: Make, tmp_path: Path) -> None:
    dataset = with_pixels(radiograph, RAMP, WindowCenter=[2000, 50], WindowWidth=[1000, 10])
    one = with_pixels(radiograph, RAMP, WindowCenter=2000, WindowWidth=1000)
    np.testing.assert_array_equal(read(saved(dataset, tmp_path)).pixels, read(saved(one, tmp_path)).pixels)


def test_a_negative_slope_inverts_once(radiograph: Make, tmp_path: Path) -> None:
    """pydicom's windowing inverts it back; the picture would be the negative of what is seen."""
    dataset = with_pixels(radiograph, RAMP, RescaleSlope=-1, RescaleIntercept=4032, WindowCenter=2016, WindowWidth=4032)
    made = read(saved(dataset, tmp_path)).pixels
    assert made[0, 0] > made[7, 7]


def lut(entries: list[int], first: int, bits: int = 16) -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = entries
    item["LUTDescriptor"].VR = "US"
    item["LUTData"].VR = "US"
    item.ModalityLUTType = "US"
    return item


def test_a_look_up_table_is_followed_and_its_ends_hold(radiograph: Make, tmp_path: Path) -> None:
    stored = np.array([[0, 10, 11], [12, 13, 60000]], dtype=np.uint16)
    item = lut([5, 50, 500, 5000], first=10)
    for keyword in ("ModalityLUTSequence", "VOILUTSequence"):
        made = read(saved(with_pixels(radiograph, stored, **{keyword: [item]}), tmp_path)).pixels
        np.testing.assert_array_equal(made, [[5, 5, 50], [500, 5000, 5000]])


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
@pytest.mark.parametrize("width", [1, 2])
def test_a_look_up_table_of_words_is_the_same_in_either_byte_order(
    radiograph: Make, tmp_path: Path, keyword: str, width: int
) -> None:
    """pydicom hands OW on as it lies in the file: its numbers would be read the wrong way round."""
    stored = np.arange(64, dtype=np.uint16).reshape(8, 8)
    entries = (np.arange(64) * 3 if width == 1 else np.arange(64) ** 2 + 5).astype(f"<u{width}")
    made = []
    for little in (True, False):
        item = lut([0] * 64, first=0, bits=8 * width)
        item["LUTData"].VR = "OW"  # 8 bit entries are packed in words
        item.LUTData = entries.tobytes() if little else entries.view("<u2").astype(">u2").tobytes()
        dataset = with_pixels(radiograph, stored, **{keyword: [item]})
        dataset["PixelData"].VR = "OW"
        if not little:
            dataset.PixelData = stored.astype(">u2").tobytes()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
            dataset.set_original_encoding(False, False)
        made.append(read(saved(dataset, tmp_path)).pixels)
    np.testing.assert_array_equal(made[0], entries.reshape(8, 8))
    np.testing.assert_array_equal(made[1], made[0])


@given(
    seed=st.integers(0, 1000),
    kind=st.sampled_from(["u1", "i1", "u2", "i2"]),
    slope=st.sampled_from([1, 2.5, -0.5]),
    intercept=st.sampled_from([0, -1024]),
    window=st.sampled_from([None, "LINEAR", "SIGMOID", "table", "signed table"]),
    photometric=st.sampled_from(["MONOCHROME1", "MONOCHROME2"]),
    padded=st.booleans(),
)
def test_a_large_picture_has_the_tones_of_the_same_one_small(
    seed: int, kind: str, slope: float, intercept: float, window: str | None, photometric: str, padded: bool
) -> None:
    """The tones of a large one come out of a table of the values that it may have."""
    limits = np.iinfo(kind)
    ends = np.sort(np.random.default_rng(seed).integers(limits.min, limits.max, 2, endpoint=True))
    small = np.random.default_rng(seed + 1).integers(*ends, (31, 50), kind, endpoint=True)
    header = Dataset()
    header.PhotometricInterpretation = photometric
    header.BitsAllocated = header.BitsStored = limits.bits
    header.PixelRepresentation = int(limits.min < 0)
    header.RescaleSlope, header.RescaleIntercept = slope, intercept
    if window == "table":
        header.VOILUTSequence = [lut([3, 700, 20, 65000], int(ends[0]) & 0xFFFF)]
    elif window == "signed table":
        header.VOILUTSequence = [lut(list(range(0, 600, 2)), 0xFFF0)]
    elif window is not None:
        header.WindowCenter, header.WindowWidth, header.VOILUTFunction = 40, 350, window
    if padded and small.min() != small.max():
        header.add_new("PixelPaddingValue", "SS" if limits.min < 0 else "US", int(small[0, 0]))
    np.testing.assert_array_equal(present(np.tile(small, (12, 10)), header), np.tile(present(small, header), (12, 10)))


def test_padding_is_dark_and_does_not_stretch_the_picture(radiograph: Make, tmp_path: Path) -> None:
    stored = RAMP.copy()
    stored[:, 0] = 65535
    for photometric in ("MONOCHROME1", "MONOCHROME2"):
        dataset = with_pixels(radiograph, stored, PixelPaddingValue=65535, PhotometricInterpretation=photometric)
        dataset["PixelPaddingValue"].VR = "US"
        made = read(saved(dataset, tmp_path)).pixels
        assert made.max() == stored[:, 1:].max()
        assert (made[:, 0] == made.min()).all()
        assert made.min() == stored[:, 1:].min()


def test_signed_padding(radiograph: Make, tmp_path: Path) -> None:
    stored = (RAMP.astype(np.int32) - 1000).astype(np.int16)
    stored[0] = -2000
    dataset = with_pixels(radiograph, stored, PixelPaddingValue=63536)  # -2000 written as US
    dataset["PixelPaddingValue"].VR = "US"
    assert read(saved(dataset, tmp_path)).pixels.min() == stored[1:].min()


def test_overlays_in_unused_bits_are_not_seen(radiograph: Make, tmp_path: Path) -> None:
    stored = RAMP | 0x8000
    made = read(saved(with_pixels(radiograph, stored, BitsStored=12, HighBit=11), tmp_path)).pixels
    np.testing.assert_array_equal(made, RAMP)


def test_signed_pixels_of_fewer_bits_keep_their_sign(radiograph: Make, tmp_path: Path) -> None:
    stored = np.array([[-5, 5], [-2048, 2047]], dtype=np.int16)
    masked = with_pixels(radiograph, stored & 0x0FFF, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(read(saved(masked, tmp_path)).pixels, stored)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"PixelData": None}, "no-pixels"),
        ({"Rows": None}, "no-pixels"),
        ({"Rows": 0}, "no-pixels"),
        ({"Rows": 65535, "Columns": 65535}, "too-large"),
        ({"NumberOfFrames": 3}, "multi-frame"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
        ({"PhotometricInterpretation": None}, "colour"),
        ({"BitsAllocated": 64}, "unsupported-pixels"),
        ({"BitsStored": 17}, "inconsistent"),
        ({"HighBit": 15}, "inconsistent"),
        ({"Rows": 65}, "truncated"),
        ({"Rows": 63}, "inconsistent"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "inconsistent"),
        ({"WindowCenter": 100, "WindowWidth": 0}, "inconsistent"),
        ({"WindowCenter": 100, "WindowWidth": 10, "VOILUTFunction": "MAGIC"}, "inconsistent"),
        ({"ModalityLUTSequence": [Dataset()]}, "inconsistent"),
    ],
)
def test_what_makes_no_radiograph_is_refused(
    radiograph: Make, refusal: Callable[[Dataset], str], changes: dict[str, Any], reason: str
) -> None:
    assert refusal(radiograph(**changes)) == reason


def test_a_codestream_of_another_size_is_another_picture(radiograph: Make, refusal: Callable[[Dataset], str]) -> None:
    dataset = radiograph(rows=64, columns=48)
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    dataset.Rows, dataset.Columns = 48, 64
    assert refusal(dataset) == "inconsistent"


@pytest.mark.parametrize(("rows", "reason"), [(32, "inconsistent"), (63, "inconsistent"), (65, "truncated")])
@pytest.mark.parametrize("bits", [8, 16])
def test_run_lengths_of_another_size_are_another_picture(
    radiograph: Make, refusal: Callable[[Dataset], str], bits: int, rows: int, reason: str
) -> None:
    pixels = np.random.default_rng(3).integers(0, 200, (64, 48)).astype(f"u{bits // 8}")
    dataset = with_pixels(radiograph, pixels)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.Rows = rows
    assert refusal(dataset) == reason


@given(
    kind=st.sampled_from(["u1", "i1", "u2", "i2"]),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 300)),
    levels=st.integers(1, 70000),
    seed=st.integers(0, 1000),
)
def test_run_lengths_are_decoded_as_they_were_encoded(
    kind: str, shape: tuple[int, int], levels: int, seed: int
) -> None:
    limits = np.iinfo(kind)
    top = min(limits.max, limits.min + levels)
    pixels = np.random.default_rng(seed).integers(limits.min, top, shape, kind, endpoint=True)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.set_pixel_data(pixels, "MONOCHROME2", limits.bits, generate_instance_uid=False)
    dataset.compress(RLELossless, generate_instance_uid=False)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)

    np.testing.assert_array_equal(rle.decoded(frame, shape, limits.bits // 8).view(kind), pixels)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "MONOCHROME2"])
@pytest.mark.parametrize("off", [0, -2, 2])
def test_a_viewer_is_shown_the_run_lengths_that_a_model_sees_or_none(
    radiograph: Make, tmp_path: Path, photometric: str, off: int
) -> None:
    """A frame with more rows than the header says would be half a picture in the browser."""
    from pydicom.pixels import pixel_array

    from client.dicomweb.frames import Image, Undecodable
    from client.dicomweb.part10 import opened

    grey = photometric == "MONOCHROME2"
    shape = (12, 10) if grey else (12, 10, 3)
    dataset = radiograph()
    dataset.set_pixel_data(
        np.random.default_rng(5).integers(0, 256, shape).astype(np.uint8), photometric, 8, generate_instance_uid=False
    )
    dataset.compress(RLELossless, generate_instance_uid=False)
    expected = pixel_array(dataset)
    dataset.Rows = 12 + off
    with opened(saved(dataset, tmp_path)) as part10:
        if off:
            with pytest.raises(Undecodable):
                Image(part10).array(1)
        else:
            np.testing.assert_array_equal(Image(part10).array(1), expected)


def test_overlays_above_compressed_run_lengths_are_not_seen(radiograph: Make, tmp_path: Path) -> None:
    dataset = with_pixels(radiograph, RAMP | 0x8000, BitsStored=12, HighBit=11)
    dataset.compress(RLELossless, generate_instance_uid=False)
    np.testing.assert_array_equal(read(saved(dataset, tmp_path)).pixels, RAMP)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
@pytest.mark.parametrize(
    ("held", "said", "reason"), [(2, 1, "inconsistent"), (6, 4, "inconsistent"), (4, 6, "truncated")]
)
def test_more_or_fewer_compressed_frames_than_the_header_says_are_refused(
    radiograph: Make, tmp_path: Path, syntax: str, held: int, said: int, reason: str
) -> None:
    dataset = radiograph()
    dataset.NumberOfFrames, dataset.PixelData = held, dataset.PixelData * held
    dataset.compress(syntax, generate_instance_uid=False)
    dataset.NumberOfFrames = said
    path = saved(dataset, tmp_path)
    with pytest.raises(InvalidStudy) as caught:
        list(read_planes(path, read_header(path), [0]))
    assert caught.value.reason == reason
    if said == 1:
        with pytest.raises(InvalidStudy, match=reason):
            read(path)


def test_a_codestream_that_is_cut_is_not_filled_up(radiograph: Make, refusal: Callable[[Dataset], str]) -> None:
    dataset = radiograph()
    dataset.compress(JPEGLSLossless, generate_instance_uid=False)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: len(frame) // 4 * 2]])
    dataset["PixelData"].VR = "OB"
    assert refusal(dataset) == "truncated"


def test_rows_in_a_malformed_element_refuse_rather_than_guess(radiograph: Make, tmp_path: Path) -> None:
    path = saved(radiograph(RescaleSlope="1", RescaleIntercept="0"), tmp_path)
    content = path.read_bytes()
    at = content.index(b"\x28\x00\x53\x10DS")
    path.write_bytes(content[: at + 8] + b"x " + content[at + 10 :])
    with pytest.raises(InvalidStudy) as caught:
        read(path)
    assert caught.value.reason == "inconsistent"


def test_every_reference_file_decodes_or_is_refused_with_a_word(vigie_data: Path) -> None:
    decoded, words = 0, set[str]()
    for path in sorted((vigie_data / "dicom").glob("*.dcm")):
        try:
            made = read(path)
        except InvalidStudy as error:
            words.add(error.reason)
        else:
            decoded += 1
            assert np.isfinite(made.pixels).all(), path.name
            assert made.pixels.shape == (made.header.Rows, made.header.Columns), path.name
    assert decoded >= 50
    assert words <= set(REASONS)
