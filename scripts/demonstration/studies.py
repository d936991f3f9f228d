"""The studies that the demonstration's modalities send: labelled pictures wrapped as DICOM, and studies off scope.

Each hospital has its own equipment, so that its images look to a receiver as they would there: other makers, other
photometric interpretations, other ways to write a view. Patients, dates and accession numbers are made up.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from models.manifest import Row


@dataclass(frozen=True, slots=True)
class Equipment:
    """What a hospital's modality writes into its headers."""

    institution: str
    manufacturer: str
    model: str
    station: str
    age: str
    monochrome1: bool = False


EQUIPMENT = {
    "guangzhou": Equipment("Guangzhou (demonstration)", "Example Imaging", "Paediatric DR 1", "GZDR1", "006Y"),
    "nih": Equipment("Bethesda (demonstration)", "Sample Systems", "Portable DR 7", "NIHDR7", "052Y"),
    "shenzhen": Equipment("Shenzhen (demonstration)", "Model Medical", "Wall Stand DR 3", "SZDR3", "034Y", True),
}


def uid(*parts: object) -> UID:
    """The same parts always give the same UID (PS3.5 B.2: 2.25 and a 128-bit number)."""
    return UID(f"2.25.{int(hashlib.sha256('|'.join(map(str, parts)).encode()).hexdigest()[:32], 16)}")


def study_uid(seed: int, row: Row, sending: int) -> str:
    """The study that a picture becomes in this sending of the demonstration."""
    return uid("study", seed, row.site, row.file, sending)


def radiograph(row: Row, pixels: NDArray[np.uint8], seed: int, sending: int, view: str = "AP") -> Dataset:
    """Wrap one grey picture as a DX image for presentation.

    Args:
        pixels: (H, W) uint8, larger is whiter.
        sending: 1 for the first time; sent again later, the same picture is a new study of the same patient.
    """
    equipment = EQUIPMENT.get(row.site, Equipment(row.site, "Example Imaging", "DR", "DR", "045Y"))
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = DigitalXRayImageStorageForPresentation
    image.SOPInstanceUID = uid("image", seed, row.site, row.file, sending)
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    image.StudyInstanceUID = study_uid(seed, row, sending)
    image.SeriesInstanceUID = uid("series", seed, row.site, row.file, sending)
    image.PatientID = row.patient
    image.IssuerOfPatientID = row.site.upper()
    image.PatientName = f"Demonstration^{row.patient}"
    image.PatientBirthDate = ""
    image.PatientSex = "O"
    image.PatientAge = equipment.age
    image.StudyDate = image.ContentDate = image.SeriesDate = f"2026{1 + sending:02d}01"
    image.StudyTime = image.ContentTime = image.SeriesTime = "080000"
    image.AccessionNumber = uid("accession", seed, row.file, sending)[-12:]
    image.StudyID = "1"
    image.ReferringPhysicianName = ""
    image.InstitutionName = equipment.institution
    image.Manufacturer = equipment.manufacturer
    image.ManufacturerModelName = equipment.model
    image.StationName = equipment.station
    image.DeviceSerialNumber = "1"
    image.SoftwareVersions = "1"
    image.Modality = "DX"
    image.SeriesNumber = image.InstanceNumber = 1
    image.StudyDescription = image.SeriesDescription = "Chest"
    image.BodyPartExamined = "CHEST"
    image.ViewPosition = view
    image.ImageLaterality = "U"
    image.PatientOrientation = ["L", "F"]
    image.PresentationIntentType = "FOR PRESENTATION"
    image.ImageType = ["DERIVED", "PRIMARY"]
    image.PixelSpacing = image.ImagerPixelSpacing = [1.0, 1.0]
    image.BurnedInAnnotation = "NO"
    image.LossyImageCompression = "01"
    image.SamplesPerPixel = 1
    image.PhotometricInterpretation = "MONOCHROME1" if equipment.monochrome1 else "MONOCHROME2"
    image.Rows, image.Columns = pixels.shape
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit = 7
    image.PixelRepresentation = 0
    image.PresentationLUTShape = "INVERSE" if equipment.monochrome1 else "IDENTITY"
    content = (255 - pixels if equipment.monochrome1 else pixels).tobytes()
    image.PixelData = content + b"\0" * (len(content) % 2)
    return image


def off_scope(site: str, seed: int) -> Iterator[tuple[str, Dataset]]:
    """Studies that a chest radiograph model must refuse, each with what is wrong with it."""
    for name, what in (("CT_small.dcm", "a CT"), ("MR_small.dcm", "an MR")):
        image = dcmread(str(get_testdata_file(name)))
        image.StudyInstanceUID = uid("off", seed, site, what, "study")
        image.SeriesInstanceUID = uid("off", seed, site, what, "series")
        image.SOPInstanceUID = uid("off", seed, site, what, "image")
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.PatientID = f"OFF-{site}-{what.split()[-1]}"
        yield what, image
    grey = np.linspace(0, 255, 128 * 128).reshape(128, 128).astype(np.uint8)
    for what, changes in (
        ("a lateral view", {"ViewPosition": "LL"}),
        ("a hand", {"BodyPartExamined": "HAND"}),
        ("no view at all", {"ViewPosition": ""}),
    ):
        row = Row(0, f"off-{what}", Path(), site, False, f"OFF-{site}-{what}")
        image = radiograph(row, grey, seed, 1)
        for keyword, value in changes.items():
            setattr(image, keyword, value)
        yield what, image
