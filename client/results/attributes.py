"""Writes DICOM attributes and what is made of them: codes, references, evidence, Part 10 files.

What was copied from a modality is put down as it is, and never judged again here.
"""

import io
import time
from typing import Any

import pydicom
from pydicom import config as pydicom_config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from client.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME


def put(dataset: Dataset, keyword: str, value: Any) -> None:
    """Set an attribute as it is: what was copied from a modality is not checked again."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise KeyError(keyword)
    vr = dictionary_VR(tag)
    dataset[tag] = DataElement(tag, vr, value, validation_mode=pydicom_config.IGNORE)


def dicom_time(at: float, offset: str = "") -> tuple[str, str]:
    """DA and TM of a moment.

    Args:
        at: seconds since the epoch.
        offset: from UTC, as the dataset states it for all of its dates and times (PS3.3 C.12.1.1.8), e.g. "+0900";
            empty for the hospital's local time, as its other objects have it.
    """
    minutes = int(offset[:1] + "1") * (60 * int(offset[1:3]) + int(offset[3:])) if offset else 0
    moment = time.gmtime(at + 60 * minutes) if offset else time.localtime(at)
    return time.strftime("%Y%m%d", moment), f"{time.strftime('%H%M%S', moment)}.{int(at % 1 * 1e6):06d}"


def dicom_moment(at: float, offset: str = "") -> str:
    """DT of a moment, with its offset from UTC: whoever reads it may be in another zone (PS3.5 6.2).

    A dataset's own offset says it for its dates and times, and for a DT that says none. Where the modality stated none
    we add none to the dataset, since its times are copied and of what zone they are is not known; ours say theirs.

    Args:
        offset: see `dicom_time`.
    """
    return "".join(dicom_time(at, offset)) + (offset or time.strftime("%z", time.localtime(at)))


def concept(value: str, scheme: str, meaning: str) -> Dataset:
    """An item of a code sequence (PS3.3 table 8.8-1)."""
    item = Dataset()
    put(item, "CodeValue", value)
    put(item, "CodingSchemeDesignator", scheme)
    put(item, "CodeMeaning", meaning[:64])
    return item


def reference(sop_class: str, sop_uid: str) -> Dataset:
    """An item that names one instance (PS3.3 table 10-11)."""
    item = Dataset()
    put(item, "ReferencedSOPClassUID", sop_class)
    put(item, "ReferencedSOPInstanceUID", sop_uid)
    return item


def evidence(study_uid: str, series: dict[str, list[tuple[str, str]]]) -> Sequence:
    """What a document rests on, hierarchically: series UID → (SOP class, SOP instance) (PS3.3 C.17.2.1)."""
    listed: list[Dataset] = []
    for uid, instances in series.items():
        item = Dataset()
        put(item, "SeriesInstanceUID", uid)
        put(item, "ReferencedSOPSequence", Sequence([reference(*instance) for instance in instances]))
        listed.append(item)
    study = Dataset()
    put(study, "StudyInstanceUID", study_uid)
    put(study, "ReferencedSeriesSequence", Sequence(listed))
    return Sequence([study])


def to_part10(dataset: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """A Part 10 file, written under our own implementation's name."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    dataset.file_meta = meta
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def encode(dataset: Dataset) -> bytes:
    """A part of a content tree in Explicit VR Little Endian, UTF-8, all sequences of undefined length: parts can be
    exchanged and added without touching the lengths around them.
    """
    _unbound(dataset)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset, parent_encoding="utf-8")
    return buffer.getvalue()


def _unbound(dataset: Dataset) -> None:
    for element in dataset:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                _unbound(item)
