"""The PACS' word that images are not to be used: a key object selection with the title of a rejection (IHE IOCM).

Only what such a document says of the study in which it lies is taken from it: one that names images of several studies
lies in each of them (PS3.3 C.17.6.2.1), and what it says of them is taken from there.

Source: IHE RAD TF-2 4.66 (imaging object change management); PS3.16 CID 7011 (rejected for quality reasons, for patient
safety reasons, incorrect modality worklist entry, data retention policy expired) and TID 2010.
"""

import warnings
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.tag import Tag
from pydicom.uid import KeyObjectSelectionDocumentStorage

from client.dicom.malformed import MALFORMED
from client.dicom.person import TAGS, Person

SOP_CLASS: Final = str(KeyObjectSelectionDocumentStorage)
_LARGEST: Final = 32 << 20  # names more images than any study has
_READ: Final = [Tag("ConceptNameCodeSequence"), Tag("CurrentRequestedProcedureEvidenceSequence"), *TAGS]


class Cause(StrEnum):
    """Why an image is not to be read.

    A person may say any of them; what the PACS says of images whose time is over is none of them (`EXPIRED`).
    """

    QUALITY = "quality"
    SAFETY = "safety"
    WORKLIST = "worklist"
    OTHER_PATIENT = "other-patient"


EXPIRED: Final = "113039"
_CAUSES: Final = {"113001": Cause.QUALITY, "113037": Cause.SAFETY, "113038": Cause.WORKLIST, EXPIRED: None}


@dataclass(frozen=True, slots=True)
class Rejection:
    """What a rejection says of its study.

    Attributes:
        cause: None: the images are gone because their time was over, and nothing was wrong with them.
        images: SOP Instance UIDs that it names in its study; empty where it names none, or cannot be read.
        elsewhere: how many it names in other studies.
        person: whom it is of.
    """

    cause: Cause | None
    images: frozenset[str]
    elsewhere: int
    person: Person


def rejection(path: Path, study_uid: str) -> Rejection | None:
    """Read a key object selection; None where it is no rejection, or nobody can say that it is one.

    Args:
        path: of a Part 10 file.
        study_uid: in which it lies.
    """
    try:
        if path.stat().st_size > _LARGEST:
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they quote values
            document = dcmread(path, specific_tags=list(_READ))
            title = document.ConceptNameCodeSequence[0]
            code = str(title.CodeValue).strip()
            if title.CodingSchemeDesignator != "DCM" or code not in _CAUSES:
                return None
            person = Person.from_dataset(document)
            named = _named(document)
    except (*MALFORMED, InvalidDicomError):
        return None
    own = frozenset(sop_uid for study, sop_uid in named if study == study_uid)
    return Rejection(_CAUSES[code], own, len({sop_uid for study, sop_uid in named if study != study_uid}), person)


def _named(document: Dataset) -> set[tuple[str, str]]:
    """(study, image) of what it is about; none where that cannot be read: half a list is no list."""
    try:
        return {
            (str(study.StudyInstanceUID), str(one.ReferencedSOPInstanceUID))
            for study in document.CurrentRequestedProcedureEvidenceSequence
            for series in study.ReferencedSeriesSequence
            for one in series.ReferencedSOPSequence
        }
    except MALFORMED:
        return set()
