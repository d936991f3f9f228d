"""The header that every result of one input has, whatever object it is.

highdicom writes a header of its own into what it makes; `equipment` is what it asks for, `finish` puts ours over it.
"""

from dataclasses import dataclass
from typing import Any, Final

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from client.dicom.identity import IMPLEMENTATION_VERSION_NAME, MANUFACTURER
from client.results.attributes import concept, dicom_moment, dicom_time, put, to_part10
from client.results.result import Computed, Kind, ResultObject, Stated, derive_uid, uid_of
from client.results.source import copy_identity, offset_of

UNVERIFIED = "UNVERIFIED - not for diagnosis without a reader"
INCOMPLETE = "INCOMPLETE - not all of the study was read"
_RELEASE: Final = IMPLEMENTATION_VERSION_NAME.partition("_")[2].replace("_", ".")


@dataclass(frozen=True, slots=True)
class Author:
    """The device that an object comes from.

    Attributes:
        serial: what tells it from every other one.
    """

    title: str
    number: str
    vendor: str
    serial: str
    device_uid: str


def author(result: Stated) -> Author:
    """The version that computed it, or would have; this node where none is known."""
    if bundle := result.bundle:
        facts = bundle.facts
        return Author(facts.title, facts.edition, facts.vendor, bundle.digest, bundle.device_uid)
    node = derive_uid("node", result.institution)
    return Author(MANUFACTURER, _RELEASE, MANUFACTURER, node, node)


def shell(finding: Stated, sop_class: UID, kind: Kind, what: str) -> Dataset:
    """The header that every result of one input shares."""
    by = author(finding)
    dataset = Dataset()
    copy_identity(finding.source, dataset)
    date, moment = dicom_time(finding.created_at, offset_of(finding.source))
    put(dataset, "SOPClassUID", sop_class)
    put(dataset, "SOPInstanceUID", uid_of(finding, kind))
    put(dataset, "SeriesInstanceUID", uid_of(finding, f"{kind}-series"))
    for keyword in ("InstanceCreationDate", "ContentDate", "SeriesDate"):
        put(dataset, keyword, date)
    for keyword in ("InstanceCreationTime", "ContentTime", "SeriesTime"):
        put(dataset, keyword, moment)
    end = f" v{by.number} UNVERIFIED"
    put(dataset, "SeriesDescription", f"AI {what}: {by.title}"[: 64 - len(end)] + end)
    put(dataset, "InstanceNumber", "1")
    put(dataset, "InstitutionName", finding.institution[:64])
    put(dataset, "Manufacturer", MANUFACTURER)
    put(dataset, "ManufacturerModelName", by.title[:64])
    put(dataset, "SoftwareVersions", by.number)
    put(dataset, "DeviceSerialNumber", by.serial)
    put(dataset, "ContributingEquipmentSequence", Sequence([_contribution(finding)]))
    return dataset


def equipment(result: Computed, kind: Kind, series_number: int) -> dict[str, Any]:
    """What every constructor of highdicom's asks for: which object it is, and whose."""
    facts = result.bundle.facts
    return {
        "series_instance_uid": uid_of(result, f"{kind}-series"),
        "series_number": series_number,
        "sop_instance_uid": uid_of(result, kind),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": facts.title[:64],
        "software_versions": facts.edition,
        "device_serial_number": result.bundle.digest,
        "content_label": "AI_UNVERIFIED",
    }


def finish(result: Computed, made: Dataset, kind: Kind, what: str) -> ResultObject:
    """Give an object of highdicom's the header that all our results have."""
    for element in shell(result, made.SOPClassUID, kind, what):
        made[element.tag] = element
    return ResultObject(kind, str(made.SOPInstanceUID), to_part10(made, made.file_meta.TransferSyntaxUID))


def _contribution(finding: Stated) -> Dataset:
    by = author(finding)
    item = Dataset()
    put(item, "PurposeOfReferenceCodeSequence", Sequence([concept("109102", "DCM", "Processing Equipment")]))
    put(item, "Manufacturer", by.vendor[:64])
    put(item, "InstitutionName", finding.institution[:64])
    put(item, "ManufacturerModelName", by.title[:64])
    put(item, "DeviceUID", by.device_uid)
    put(item, "SoftwareVersions", by.number)
    put(item, "ContributionDateTime", dicom_moment(finding.created_at, offset_of(finding.source)))
    put(item, "ContributionDescription", "Computed the AI result")
    return item
