"""What is filed of a dataset does not depend on which of two readers has read it."""

import struct
from io import BytesIO
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom.dsutils import encode

from client.arrival import intake
from client.arrival.header import scan
from client.dicom.identity import IMPLEMENTATION_CLASS_UID
from models.errors import InvalidStudy

TEXT = st.text(st.characters(codec="ascii", min_codepoint=32), max_size=12) | st.sampled_from(
    ["ÄÖ", " padded ", "a\\b"]
)


@st.composite
def datasets(draw: Any) -> Dataset:
    dataset = Dataset()
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    dataset.SOPInstanceUID = generate_uid(prefix=None)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", draw(st.sampled_from(["1.2.3.4", "", "x"]))
    if draw(st.booleans()):
        dataset.SpecificCharacterSet = draw(st.sampled_from(["ISO_IR 100", "ISO_IR 192", ""]))
    for keyword in ("PatientID", "IssuerOfPatientID", "AccessionNumber"):
        if draw(st.booleans()):
            setattr(dataset, keyword, draw(TEXT))
    if draw(st.booleans()):
        dataset.ReferencedStudySequence = [Dataset()]
    if draw(st.booleans()):
        dataset.Rows, dataset.Columns = draw(st.integers(0, 65535)), draw(st.integers(0, 65535))
    dataset.BitsAllocated, dataset.PixelRepresentation, dataset.PixelData = 8, 0, b"\0" * 20
    return dataset


@pytest.mark.filterwarnings("ignore")  # pydicom's, of values that the standard does not allow
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(dataset=datasets(), implicit=st.booleans(), change=st.tuples(st.floats(0, 1), st.integers(0, 255)) | st.none())
def test_both_readers_agree(dataset: Dataset, implicit: bool, change: tuple[float, int] | None) -> None:
    content = encode(dataset, implicit, True)
    assert content is not None
    if change is not None:
        at = int(change[0] * (len(content) - 1))
        content = content[:at] + bytes([change[1]]) + content[at + 1 :]
    found = scan(content, implicit=implicit)
    if found is None:
        return
    syntax = UID(ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian)
    # which fault of several is named may differ, whether there is one may not
    try:
        expected: Any = intake.read_header(BytesIO(content), syntax)
    except InvalidStudy:
        expected = "refused"
    try:
        filed: Any = intake._header(found)
    except InvalidStudy:
        filed = "refused"
    assert filed == expected


def test_a_plain_header_is_scanned_and_one_beyond_the_first_bytes_is_not() -> None:
    dataset = Dataset()
    dataset.PatientID, dataset.Rows, dataset.Columns, dataset.BitsAllocated = "P1", 4, 5, 8
    content = encode(dataset, False, True)
    assert content is not None
    found = scan(content, implicit=False)
    assert found is not None
    assert (found["patient_id"], found["rows"], found["columns"]) == ("P1", "4", "5")
    assert scan(content[:30], implicit=False) is None


def test_the_file_meta_is_what_pydicom_writes() -> None:
    """Without the writer's version: the bytes decide the file's name, and an upgrade must not make it another file."""
    for uid in ("1.2.3", "1.2.34"):
        meta = FileMetaDataset()
        meta.FileMetaInformationGroupLength = 0
        meta.FileMetaInformationVersion = b"\0\1"
        meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.1.1")
        meta.MediaStorageSOPInstanceUID = UID(uid)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
        buffer = DicomBytesIO()
        buffer.write(b"\0" * 128 + b"DICM")
        write_file_meta_info(buffer, meta, enforce_standard=False)
        assert intake._file_meta("1.2.840.10008.5.1.4.1.1.1.1", uid, ExplicitVRLittleEndian) == buffer.getvalue()


def test_a_value_of_an_impossible_length_is_refused_and_not_thrown() -> None:
    def element(group: int, number: int, vr: bytes, value: bytes) -> bytes:
        return struct.pack("<HH2sH", group, number, vr, len(value)) + value

    content = b"".join(
        (
            element(0x0008, 0x0016, b"UI", b"1.2.840.10008.5.1.4.1.1.1\0"),
            element(0x0008, 0x0018, b"UI", b"2.25.1"),
            element(0x0020, 0x000D, b"UI", b"2.25.2"),
            element(0x0020, 0x000E, b"UI", b"2.25.3"),
            element(0x0028, 0x0010, b"US", b"abc"),
            element(0x0028, 0x0011, b"US", b"\1\0"),
        )
    )

    with pytest.raises(InvalidStudy, match="not-dicom"):
        intake.read_header(BytesIO(content), ExplicitVRLittleEndian)
