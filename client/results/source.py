"""What a result takes over from the image that it was made of: whose it is, and where it lies."""

import re
from typing import Final

from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from client.dicom.series import frame_of_reference
from client.results.attributes import put

PATIENT: Final = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY: Final = ("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID")
_OPTIONAL: Final = (
    "IssuerOfPatientID",
    "PatientAge",
    "StudyDescription",
    "TimezoneOffsetFromUTC",
)
_SHAPED: Final = {"DA": (8,), "TM": (2, 4, 6, 8, 9, 10, 11, 12, 13)}
_SEPARATED: Final = {
    "DA": re.compile(r"(\d{4})([-./])(\d{2})\2(\d{2})", re.ASCII),
    "TM": re.compile(r"(\d{2})(:)(\d{2})(?::(\d{2}(?:\.\d{1,6})?))?", re.ASCII),
}
_SEXES: Final = {"M": "M", "F": "F", "O": "O", "MALE": "M", "FEMALE": "F", "OTHER": "O"}
_EARLIEST, _LATEST = -12 * 60, 14 * 60  # minutes from UTC (PS3.3 C.12.1.1.8)
_OFFSET: Final = re.compile(r"([+-])([0-9]{2})([0-5][0-9])")


def copy_identity(source: Dataset, target: Dataset) -> None:
    """Copy whose image it is, so that the PACS files the result beside it.

    Type 2 attributes that are missing or cannot be read stand empty, text is brought into UTF-8; a date, time or sex is
    written as the standard has it, and left empty where it says something else. An offset from UTC holds for every date
    and time of the result, copied or ours: `dicom_time` takes it.
    """
    put(target, "SpecificCharacterSet", "ISO_IR 192")
    put(target, "StudyInstanceUID", text_of(source, "StudyInstanceUID"))
    for keyword in (*PATIENT, *STUDY):
        put(target, keyword, text_of(source, keyword))
    for keyword in _OPTIONAL:
        if value := text_of(source, keyword):
            put(target, keyword, value)
    if frame := frame_of_reference(source):
        put(target, "FrameOfReferenceUID", frame)
        put(target, "PositionReferenceIndicator", text_of(source, "PositionReferenceIndicator"))
    issuers = source.get("IssuerOfAccessionNumberSequence")
    if issuers:
        item = Dataset()
        for keyword in ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType"):
            if value := text_of(issuers[0], keyword):
                put(item, keyword, value)
        if len(item):
            put(target, "IssuerOfAccessionNumberSequence", Sequence([item]))


def text_of(source: Dataset, keyword: str) -> str:
    """An attribute's first value as it may be handed on; empty where it cannot."""
    try:
        value = source.get(keyword)
    except (BytesLengthException, ValueError, TypeError, LookupError, OverflowError, NotImplementedError):
        return ""  # an attribute that pydicom cannot decode; the rest of the header stands
    if value is None:
        return ""
    if isinstance(value, MultiValue):
        value = value[0] if len(value) else ""
    text = str(value).strip().strip("\0")
    if keyword == "PatientSex":
        return _SEXES.get(text.upper(), "")
    if keyword == "TimezoneOffsetFromUTC":
        return text if _is_offset(text) else ""
    vr = dictionary_VR(keyword)
    if vr in _SHAPED:
        if separated := _SEPARATED[vr].fullmatch(text):  # as devices wrote before 1993, and some still do
            first, _, *others = separated.groups(default="")
            text = first + "".join(others)
        fits = len(text) in _SHAPED[vr] and text.replace(".", "", 1).isdigit()
        return text if fits and (vr == "TM" or "." not in text) else ""
    return text


def offset_of(dataset: Dataset) -> str:
    """What a dataset says its dates and times are from UTC, e.g. "+0900"; empty where it says nothing that can be."""
    return text_of(dataset, "TimezoneOffsetFromUTC")


def _is_offset(text: str) -> bool:
    match = _OFFSET.fullmatch(text)
    if not match or text == "-0000":  # which says that the place is not known
        return False
    sign, hours, minutes = match.groups()
    return _EARLIEST <= int(f"{sign}1") * (60 * int(hours) + int(minutes)) <= _LATEST
