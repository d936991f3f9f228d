"""What is said of a workitem: how it is scheduled, claimed, reported on and ended. Pure.

Source: DICOM PS3.4 table CC.2.5-3 (attributes of a unified procedure step, by transaction), CC.2.1 (change of state);
PS3.16 CID 9302 (why a step was discontinued); IHE AIW-I (the node performs what is scheduled for its station).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from client.results.attributes import concept, dicom_moment, put, reference
from client.results.report import SCHEME
from client.results.source import text_of

State = Literal["SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED"]
UPS_PUSH: Final = "1.2.840.10008.5.1.4.34.6.1"

_READ: Final = ("READ", "AI reading")
_ENTRY: Final = ("110514", "Incorrect worklist entry selected")
_TYPES: Final = ("110522", "Object Types not supported")
_INCOMPLETE: Final = ("110523", "Object Set incomplete")
_FORMAT: Final = ("110521", "Objects incorrectly formatted")
_FAILURE: Final = ("110501", "Equipment failure")
_UNSPECIFIED: Final = ("110513", "Discontinued for unspecified reason")
_DISCONTINUED: Final = {
    "incomplete": _INCOMPLETE,
    "series-missing": _INCOMPLETE,
    "missing-slices": _INCOMPLETE,
    "too-few-slices": _INCOMPLETE,
    "not-dicom": _FORMAT,
    "no-geometry": _FORMAT,
    "no-frame-of-reference": _FORMAT,
    "missing-rescale": _FORMAT,
    "patient-mismatch": _ENTRY,
    "no-version": _UNSPECIFIED,
    "superseded": _UNSPECIFIED,
    "suspended": _UNSPECIFIED,
    "withdrawn": _UNSPECIFIED,
}


@dataclass(frozen=True, slots=True)
class Referenced:
    """An instance that goes into a step or comes out of it."""

    sop_class: str
    sop_uid: str
    series_uid: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where instances can be had: the AE title of the PACS, and its DICOMweb root where it has one."""

    ae_title: str
    web_root: str = ""


def scheduled(
    uid: str,
    header: Dataset,
    study_uid: str,
    images: Sequence[Referenced],
    station: str,
    label: str,
    at: float,
    where: Place,
) -> Dataset:
    """A new step: a study is to be read.

    Args:
        header: of one of its images; whose study it is.
        station: that is to read it, our own.
        label: of the worklist that it stands in.
    """
    item = Dataset()
    put(item, "SpecificCharacterSet", "ISO_IR 192")
    put(item, "SOPClassUID", UPS_PUSH)
    put(item, "SOPInstanceUID", uid)
    put(item, "TransactionUID", "")
    for keyword in ("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"):
        put(item, keyword, text_of(header, keyword))
    for keyword in ("AdmissionID", "AdmittingDiagnosesDescription"):
        put(item, keyword, "")
    for keyword in (
        "IssuerOfAdmissionIDSequence",
        "AdmittingDiagnosesCodeSequence",
        "ScheduledProcessingParametersSequence",
    ):
        put(item, keyword, Items([]))
    put(item, "ProcedureStepState", "SCHEDULED")
    put(item, "ScheduledProcedureStepPriority", "MEDIUM")
    put(item, "ProcedureStepLabel", _READ[1])
    put(item, "WorklistLabel", label)
    put(item, "ScheduledProcedureStepStartDateTime", dicom_moment(at))
    put(item, "ScheduledProcedureStepModificationDateTime", dicom_moment(at))
    put(item, "InputReadinessState", "READY")
    put(item, "ScheduledStationNameCodeSequence", Items([_station(station)]))
    for keyword in ("ScheduledStationClassCodeSequence", "ScheduledStationGeographicLocationCodeSequence"):
        put(item, keyword, Items([]))
    put(item, "ScheduledWorkitemCodeSequence", Items([concept(_READ[0], SCHEME, _READ[1])]))
    put(item, "InputInformationSequence", Items(list(_instances(study_uid, images, where))))
    request = Dataset()
    put(request, "StudyInstanceUID", study_uid)
    put(request, "AccessionNumber", text_of(header, "AccessionNumber"))
    for keyword in ("RequestedProcedureID", "RequestedProcedureDescription"):
        put(request, keyword, "")
    put(request, "RequestedProcedureCodeSequence", Items([]))
    put(item, "ReferencedRequestSequence", Items([request]))
    put(item, "ProcedureStepProgressInformationSequence", Items([]))
    put(item, "UnifiedProcedureStepPerformedProcedureSequence", Items([]))
    return item


def change(state: State, transaction_uid: str) -> Dataset:
    """A change of state, under the lock that was taken with the first one (table CC.2.1-1)."""
    item = Dataset()
    put(item, "TransactionUID", transaction_uid)
    put(item, "ProcedureStepState", state)
    return item


def progress(transaction_uid: str, percent: int, said: str) -> Dataset:
    """How far it is."""
    told = Dataset()
    put(told, "ProcedureStepProgress", str(percent))
    put(told, "ProcedureStepProgressDescription", said)
    item = Dataset()
    put(item, "TransactionUID", transaction_uid)
    put(item, "ProcedureStepProgressInformationSequence", Items([told]))
    return item


def performed(
    transaction_uid: str,
    study_uid: str,
    made: Sequence[Referenced],
    station: str,
    began: float,
    ended: float,
    where: Place,
) -> Dataset:
    """What a completed step leaves: who did it, when, and the objects that came out."""
    done = Dataset()
    put(done, "PerformedStationNameCodeSequence", Items([_station(station)]))
    put(done, "PerformedProcedureStepStartDateTime", dicom_moment(began))
    put(done, "PerformedProcedureStepEndDateTime", dicom_moment(ended))
    put(done, "PerformedWorkitemCodeSequence", Items([concept(_READ[0], SCHEME, _READ[1])]))
    put(done, "OutputInformationSequence", Items(list(_instances(study_uid, made, where))))
    item = progress(transaction_uid, 100, "Read; results are at the PACS")
    put(item, "UnifiedProcedureStepPerformedProcedureSequence", Items([done]))
    return item


def discontinued(
    transaction_uid: str, codes: Sequence[str], failed: bool, station: str, began: float, at: float
) -> Dataset:
    """Why a step is canceled.

    Args:
        codes: of the refusal or failure, as the node has them.
        failed: it should have been read, and was not.
    """
    kinds = dict.fromkeys(_FAILURE if failed else _DISCONTINUED.get(code, _TYPES) for code in codes)
    told = Dataset()
    put(told, "ProcedureStepCancellationDateTime", dicom_moment(at))
    put(told, "ReasonForCancellation", ", ".join(codes)[:10240])
    reasons = [concept(value, "DCM", meaning) for value, meaning in kinds or {_UNSPECIFIED: None}]
    put(told, "ProcedureStepDiscontinuationReasonCodeSequence", Items(reasons))
    done = Dataset()
    put(done, "PerformedStationNameCodeSequence", Items([_station(station)]))
    put(done, "PerformedProcedureStepStartDateTime", dicom_moment(began))
    put(done, "PerformedProcedureStepEndDateTime", dicom_moment(at))
    put(done, "OutputInformationSequence", Items([]))
    item = Dataset()
    put(item, "TransactionUID", transaction_uid)
    put(item, "ProcedureStepProgressInformationSequence", Items([told]))
    put(item, "UnifiedProcedureStepPerformedProcedureSequence", Items([done]))
    return item


def is_for(item: Dataset, study_uid: str, station: str) -> bool:
    """Whether a step stands open for this station and this study: another performer's is never ours to claim."""
    stations = {text_of(code, "CodeValue") for code in item.get("ScheduledStationNameCodeSequence") or []}
    studies = {
        text_of(named, "StudyInstanceUID")
        for keyword in ("InputInformationSequence", "ReferencedRequestSequence")
        for named in item.get(keyword) or []
    }
    return station in stations and study_uid in studies and item.get("ProcedureStepState", "SCHEDULED") == "SCHEDULED"


def _instances(study_uid: str, instances: Iterable[Referenced], where: Place) -> Iterable[Dataset]:
    by_series: dict[str, list[Dataset]] = {}
    for one in instances:
        by_series.setdefault(one.series_uid, []).append(reference(one.sop_class, one.sop_uid))
    for series_uid, named in by_series.items():
        item = Dataset()
        put(item, "TypeOfInstances", "DICOM")
        put(item, "StudyInstanceUID", study_uid)
        put(item, "SeriesInstanceUID", series_uid)
        put(item, "ReferencedSOPSequence", Items(named))
        retrieval = Dataset()
        put(retrieval, "RetrieveAETitle", where.ae_title)
        put(item, "DICOMRetrievalSequence", Items([retrieval]))
        if where.web_root:
            web = Dataset()
            put(web, "RetrieveURL", f"{where.web_root.rstrip('/')}/studies/{study_uid}/series/{series_uid}")
            put(item, "WADORSRetrievalSequence", Items([web]))
        yield item


def _station(name: str) -> Dataset:
    return concept(name, SCHEME, name)
