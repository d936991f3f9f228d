"""The header that every result of one input has, whatever object it is.

highdicom writes a header of its own into what it makes; `equipment` is what it asks for, `finish` puts ours over it.
"""

from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from client.dicom.identity import MANUFACTURER
from client.results.attributes import concept, dicom_time, put, to_part10
from client.results.result import Computed, Kind, ResultObject, uid_of
from client.results.source import copy_identity, offset_of

UNVERIFIED = "UNVERIFIED - not for diagnosis without a reader"
INCOMPLETE = "INCOMPLETE - not all of the study was read"


def shell(finding: Computed, sop_class: UID, kind: Kind, what: str) -> Dataset:
    """The header that every result of one input shares."""
    facts = finding.bundle.facts
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
    end = f" v{facts.number} UNVERIFIED"
    put(dataset, "SeriesDescription", f"AI {what}: {facts.title}"[: 64 - len(end)] + end)
    put(dataset, "InstanceNumber", "1")
    put(dataset, "InstitutionName", finding.institution[:64])
    put(dataset, "Manufacturer", MANUFACTURER)
    put(dataset, "ManufacturerModelName", f"{facts.title}"[:64])
    put(dataset, "SoftwareVersions", str(facts.number))
    put(dataset, "DeviceSerialNumber", finding.bundle.digest)
    put(dataset, "ContributingEquipmentSequence", Sequence([_contribution(finding, date + moment)]))
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
        "software_versions": str(facts.number),
        "device_serial_number": result.bundle.digest,
        "content_label": "AI_UNVERIFIED",
    }


def finish(result: Computed, made: Dataset, kind: Kind, what: str) -> ResultObject:
    """Give an object of highdicom's the header that all our results have."""
    for element in shell(result, made.SOPClassUID, kind, what):
        made[element.tag] = element
    return ResultObject(kind, str(made.SOPInstanceUID), to_part10(made, made.file_meta.TransferSyntaxUID))


def _contribution(finding: Computed, at: str) -> Dataset:
    facts = finding.bundle.facts
    item = Dataset()
    put(item, "PurposeOfReferenceCodeSequence", Sequence([concept("109102", "DCM", "Processing Equipment")]))
    put(item, "Manufacturer", facts.vendor[:64])
    put(item, "InstitutionName", finding.institution[:64])
    put(item, "ManufacturerModelName", facts.title[:64])
    put(item, "DeviceUID", finding.bundle.device_uid)
    put(item, "SoftwareVersions", str(facts.number))
    put(item, "ContributionDateTime", at)
    put(item, "ContributionDescription", "Computed the AI result")
    return item
