"""Two files hold the same image however they are encoded, and only then."""

import shutil
import subprocess
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import compress
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from client.arrival.comparison import Comparison
from client.dicom.alike import alike
from client.dicom.syntaxes import JPEG_XL

Make = Callable[..., Dataset]
DCMTK = {
    "dcmcrle": [],
    "dcmcjpls": [],
    "dcmconv, explicit": ["+te", "-g"],
    "dcmconv, big endian": ["+tb"],
    "dcmconv, with lengths and padding": ["+ti", "+g", "-e", "+p", "512", "64"],
}


def written(image: Dataset, path: Path) -> Path:
    image.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def image(radiograph: Make) -> Dataset:
    """With what is encoded in several ways: nested items, private elements, numbers."""
    made = radiograph()
    step = Dataset()
    step.RequestedProcedureID, step.ScheduledProcedureStepID = "R1", "S12"
    made.RequestAttributesSequence = [step]
    made.SmallestImagePixelValue, made.WindowCenter, made.PixelSpacing = 3, [1000.5, 20], [0.2, 0.2]
    block = made.private_block(0x0011, "MAKER 1.0", create=True)
    block.add_new(1, "LO", "odd")
    block.add_new(2, "US", 300)
    block.add_new(3, "FD", 1.5)
    for number, vr in enumerate(("OB", "OW", "OF", "OD", "OL", "UN"), 4):  # of words, and of nobody knows what
        block.add_new(number, vr, bytes(range(16)))
    table = Dataset()
    table.LUTDescriptor, table.LUTExplanation = [4, 0, 16], "steps"
    table.add_new("LUTData", "OW", bytes(range(8)))
    made.VOILUTSequence = [table]
    return made


def recoded(path: Path, syntax: UID, to: Path) -> Path:
    dataset = dcmread(path)
    if syntax.is_compressed and not syntax.is_deflated:
        compress(dataset, syntax, generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(
        to, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, enforce_file_format=True
    )
    return to


@pytest.mark.parametrize(
    "syntax",
    [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless],
    ids=lambda syntax: syntax.name,
)
def test_an_image_in_another_transfer_syntax_is_the_same(image: Dataset, tmp_path: Path, syntax: UID) -> None:
    first = written(image, tmp_path / "first.dcm")
    assert alike(first, recoded(first, syntax, tmp_path / "second.dcm"))


@pytest.mark.parametrize("program", DCMTK)
def test_what_dcmtk_makes_of_an_image_is_the_same(image: Dataset, tmp_path: Path, program: str) -> None:
    """Group lengths, sequences of undefined length, and padding among it."""
    found = shutil.which(program.split(",")[0], path="/usr/bin")
    if found is None:
        pytest.skip("dcmtk is not installed")
    first, second = written(image, tmp_path / "first.dcm"), tmp_path / "second.dcm"
    subprocess.run([found, *DCMTK[program], str(first), str(second)], check=True, capture_output=True)
    assert alike(first, second)


def private(image: Dataset, vr: str, value: bytes, path: Path, *, little: bool) -> Path:
    """An image in one byte order or the other with a private element, its value as it lies in the file."""
    made = deepcopy(image)
    made.private_block(0x0011, "MAKER 1.0", create=True).add_new(1, vr, value)
    if not little:
        made.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        made.PixelData = np.frombuffer(made.PixelData, "<u2").byteswap().tobytes()
    made.save_as(path, implicit_vr=False, little_endian=little, enforce_file_format=True)
    return path


@pytest.mark.parametrize(
    ("vr", "big", "same"),
    [
        ("OW", "0100030205040706", True),
        ("OW", "0001020304050607", False),  # other words
        ("OF", "0302010007060504", True),
        ("OF", "0100030205040706", False),
        ("OB", "0001020304050607", True),
        ("OB", "0100030205040706", False),
        ("UN", "0001020304050607", True),  # handed on as it was
        ("UN", "0100030205040706", True),  # turned round by who knows that it is words
        ("UN", "0302010007060504", True),
        ("UN", "0706050403020100", True),
        ("UN", "0100030205040707", False),
        ("UN", "0103020005040706", False),
    ],
)
def test_private_data_is_the_same_in_the_other_byte_order(
    radiograph: Make, tmp_path: Path, vr: str, big: str, same: bool
) -> None:
    image, turned = radiograph(), bytes.fromhex("0100030205040706")
    first = private(image, vr, bytes(range(8)), tmp_path / "little.dcm", little=True)
    second = private(image, vr, bytes.fromhex(big), tmp_path / "big.dcm", little=False)
    assert (alike(first, second), alike(second, first)) == (same, same)
    assert not alike(first, private(image, vr, turned, tmp_path / "x.dcm", little=True))


def test_a_colour_image_with_its_planes_apart_is_the_same(tmp_path: Path) -> None:
    first = Path(str(get_testdata_file("SC_rgb_small_odd.dcm")))
    dataset = dcmread(first)
    dataset.PixelData = np.ascontiguousarray(dataset.pixel_array.transpose(2, 0, 1)).tobytes() + b"\0"
    dataset.PlanarConfiguration = 1
    assert alike(first, written(dataset, tmp_path / "second.dcm"))


def test_another_image_is_another(image: Dataset, tmp_path: Path) -> None:
    first, second = written(image, tmp_path / "first.dcm"), tmp_path / "second.dcm"
    touched = dcmread(first)
    pixels = bytearray(touched.PixelData)
    pixels[100] ^= 1
    touched.PixelData = bytes(pixels)
    assert not alike(first, written(touched, second))
    assert not alike(first, recoded(second, RLELossless, tmp_path / "third.dcm"))
    for keyword, value in {"PatientID": "OTHER", "ViewPosition": "AP", "RequestAttributesSequence": []}.items():
        changed = dcmread(first)
        setattr(changed, keyword, value)
        assert not alike(first, written(changed, second)), keyword
    more = dcmread(first)
    more.ImageComments = "more"
    assert not alike(first, written(more, second))
    inverted = dcmread(first)
    inverted.PhotometricInterpretation = "MONOCHROME1"
    assert not alike(first, written(inverted, second))


def test_what_lost_something_or_cannot_be_read_is_another(image: Dataset, tmp_path: Path) -> None:
    first, second = written(image, tmp_path / "first.dcm"), tmp_path / "second.dcm"
    lossy = dcmread(first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compress(lossy, JPEG2000, j2k_cr=[20], generate_instance_uid=False)
    assert not alike(first, written(lossy, second))
    recoded(first, JPEG2000Lossless, second)
    whole = second.read_bytes()
    for end in (0, 3, 140, 400, len(whole) // 2, len(whole) - 40):
        second.write_bytes(whole[:end])
        assert not alike(first, second)
    second.write_bytes(whole[:-200] + bytes(120) + whole[-80:])
    assert not alike(first, second)
    assert not alike(first, tmp_path / "absent.dcm")


@pytest.mark.parametrize(
    ("keyword", "one", "other"),
    [
        ("PatientName", "鈴木^太郎", "山田^花子"),
        ("PatientID", "患者一", "患者二"),
        ("PixelPaddingValue", 0, 32),
        ("SmallestImagePixelValue", 0, 8192),
    ],
)
def test_other_letters_and_numbers_are_another_image(
    image: Dataset, tmp_path: Path, keyword: str, one: object, other: object
) -> None:
    image.SpecificCharacterSet = "ISO_IR 192"
    setattr(image, keyword, one)
    first = written(image, tmp_path / "first.dcm")
    setattr(image, keyword, other)
    assert not alike(first, written(image, tmp_path / "second.dcm"))


def test_an_image_that_is_cut_in_its_black_border_is_not_the_whole_one(image: Dataset, tmp_path: Path) -> None:
    pixels = image.pixel_array.copy()
    pixels[-8:] = 0
    image.PixelData = pixels.tobytes()
    whole = written(image, tmp_path / "whole.dcm")
    image.PixelData = pixels[:-4].tobytes()
    cut = written(image, tmp_path / "cut.dcm")
    assert not alike(cut, whole)
    assert not alike(whole, cut)
    assert alike(whole, whole)


def test_a_decoder_that_falls_over_answers_nothing_and_the_next_question_is_answered(
    image: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = written(image, tmp_path / "first.dcm")
    second = recoded(first, RLELossless, tmp_path / "second.dcm")
    comparison = Comparison()
    try:
        assert comparison.alike(first, second)
        child = comparison._child
        assert child is not None
        child.kill()
        child.wait()
        assert comparison.alike(first, second)  # by another one
        assert comparison._child is not child
        comparison._answer_seconds = 0.0
        assert not comparison.alike(first, second)
        assert "could not be compared" in caplog.text
    finally:
        comparison.close()
    assert comparison._child is None


def test_what_nobody_can_decode_is_the_same_where_every_byte_of_its_pixels_is(image: Dataset, tmp_path: Path) -> None:
    """A cut image that is sent again, perhaps with its header in another encoding, is no third one."""
    image.PixelData = image.PixelData[:1000]
    first = written(image, tmp_path / "first.dcm")
    assert alike(first, recoded(first, ImplicitVRLittleEndian, tmp_path / "second.dcm"))
    assert alike(first, recoded(first, DeflatedExplicitVRLittleEndian, tmp_path / "third.dcm"))
    image.PixelData = image.PixelData[:998] + b"\1\1"
    assert not alike(first, written(image, tmp_path / "other.dcm"))
    image.file_meta.TransferSyntaxUID = next(iter(JPEG_XL))
    image.PixelData = encapsulate([b"\xff\x0a" + bytes(30)])
    jpeg_xl = written(image, tmp_path / "jxl.dcm")
    del image.RequestAttributesSequence[0].ScheduledProcedureStepID
    again = written(image, tmp_path / "again.dcm")
    assert not alike(jpeg_xl, again)
    image.RequestAttributesSequence[0].ScheduledProcedureStepID = "S12"
    image.add_new(0x00080000, "UL", 100)  # a group length
    assert alike(jpeg_xl, written(image, again))
    # the same bytes, encoded as something else
    image.file_meta.TransferSyntaxUID = JPEG2000Lossless
    assert not alike(jpeg_xl, written(image, again))


def test_two_images_that_are_cut_in_different_places_are_two(image: Dataset, tmp_path: Path) -> None:
    """Of the one that is kept apart nothing else is left."""
    whole = written(image, tmp_path / "whole.dcm").read_bytes()
    first, second = tmp_path / "first.dcm", tmp_path / "second.dcm"
    first.write_bytes(whole[:-3000])
    second.write_bytes(whole[:-1000])
    assert not alike(first, second)
