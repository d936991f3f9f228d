"""Which version made a result object: what its header says, and nothing of whom it is about."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from models.bundle import device_uid
from models.errors import InvalidStudy

_PROCESSING: Final = "109102"  # CID 7005: processing equipment
_TAGS: Final[list[str]] = ["DeviceSerialNumber", "ContributingEquipmentSequence"]


@dataclass(frozen=True, slots=True)
class Origin:
    """What made an object.

    Attributes:
        digest: of the version, 64 hex digits; empty where a PACS has taken it away.
        device: UID of the version as a device.
    """

    digest: str
    device: str


def origin(path: Path) -> Origin:
    """Read who made a result object; no other attribute is read.

    Raises:
        InvalidStudy: it is no DICOM file, no version's result, or digest and device are not of the same version.

    Source: `results/header.py` writes both (DeviceSerialNumber; ContributingEquipmentSequence, PS3.3 C.12.1).
    """
    try:
        with warnings.catch_warnings():  # a broken file gets our one sentence, not pydicom's several
            warnings.simplefilter("ignore")
            header = dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
    except (InvalidDicomError, OSError, ValueError, EOFError) as error:
        raise InvalidStudy(f"{path.name} is no readable DICOM file ({type(error).__name__})") from error
    serial = str(header.get("DeviceSerialNumber", "")).strip()
    digest = serial if len(serial) == 64 and set(serial) <= set("0123456789abcdef") else ""
    devices = [
        str(item.get("DeviceUID", ""))
        for item in header.get("ContributingEquipmentSequence", [])
        for purpose in item.get("PurposeOfReferenceCodeSequence", [])
        if purpose.get("CodeValue") == _PROCESSING and item.get("DeviceUID")
    ]
    if digest and device_uid(digest) not in (devices or [device_uid(digest)]):
        raise InvalidStudy(f"{path.name} names a version and another version's device: it is not as we made it")
    device = device_uid(digest) if digest else next(iter(devices), "")
    if not device:
        raise InvalidStudy(
            f"{path.name} names no version: it is no result of this software's, or of none of its versions"
        )
    return Origin(digest, device)
