"""Volumes of known content, made here: an ellipsoid in a box of air, cut into a series in any direction.

The brightness of a voxel follows from its place in the patient alone, so whatever way the series is cut, a test knows
where the ellipsoid has to be found.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from onnx import TensorProto, helper
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from models.bundle import Bundle, Facts
from models.coding import Coding
from models.intended_use import IntendedUse
from models.packing import pack_segmentation
from models.preprocessing import Preprocessing
from models.segmentation import LESION, Label, Segmentation

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
INSIDE, OUTSIDE = 60, -900
RADII = (22.0, 15.0, 11.0)  # mm, along x (left), y (back), z (up)
CENTRE = (8.0, -5.0, 4.0)
VOLUME_ML = 4 / 3 * np.pi * float(np.prod(RADII)) / 1000

NODULE = Coding(value="27925004", scheme="SCT", meaning="Nodule")
PREPROCESSING = Preprocessing(
    [{"_target_": "ScaleIntensityRange", "a_min": -1000.0, "a_max": 1000.0, "b_min": 0.0, "b_max": 1.0, "clip": True}]
)
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def declared(**changes: Any) -> Segmentation:
    label = Label(value=1, name="Nodule", category=LESION, finding=NODULE, diameters=True)
    values: dict[str, Any] = {"labels": (label,), "axes": "SPL", "window": (16, 32, 32), "activation": "sigmoid"}
    return Segmentation(**(values | changes))


def facts(segmentation: Segmentation | None = None, **changes: Any) -> Facts:
    segmentation = segmentation or declared()
    values: dict[str, Any] = {
        "name": "nodule",
        "number": 1,
        "title": "Nodule",
        "vendor": "Test vendor",
        "intended_use": IntendedUse(
            statement="CT of the chest of adults.", modalities=("CT",), sop_classes=(CT, ENHANCED_CT), min_age_years=18
        ),
        "finding": NODULE,
        "threshold": 0.5,
        "threshold_rule": "balanced",
        "input_shape": (1, *segmentation.window),
        "segmentation": segmentation,
        "network": "threshold",
        "network_facts": {},
    }
    return Facts(**(values | changes))


def build(folder: Path, key: Ed25519PrivateKey, signer: str = "vendor", **changes: Any) -> Bundle:
    """A version that outlines whatever is above -420 HU, sealed in `folder`."""
    said = facts(**changes)
    return pack_segmentation(folder, said, network(), PREPROCESSING, "# Nodule\n\nA test version.\n", key, signer)


def network(gain: float = 40.0, centre: float = 0.29) -> bytes:
    shape = ["n", 1, "d", "h", "w"]
    nodes = [
        helper.make_node("Sub", ["image", "centre"], ["centred"]),
        helper.make_node("Mul", ["centred", "gain"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "threshold",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor("centre", TensorProto.FLOAT, [1], [centre]),
            helper.make_tensor("gain", TensorProto.FLOAT, [1], [gain]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def inside(points: NDArray[np.float64], size: float = 1.0) -> NDArray[np.bool_]:
    """Which points (..., 3), mm in the patient, lie in the ellipsoid, its radii times `size`."""
    return np.asarray((((points - CENTRE) / (np.array(RADII) * size)) ** 2).sum(axis=-1) <= 1)


def grid(image: Dataset) -> NDArray[np.float64]:
    """(rows, columns, 3) the patient coordinates of a classic image's pixel centres."""
    origin = np.array(image.ImagePositionPatient, float)
    turn = np.array(image.ImageOrientationPatient, float)
    rows, columns = np.mgrid[: image.Rows, : image.Columns]
    down, right = image.PixelSpacing
    return origin + columns[..., None] * turn[:3] * right + rows[..., None] * turn[3:] * down


def series(
    count: int = 40,
    step: float = 1.5,
    spacing: tuple[float, float] = (1.0, 1.0),
    shape: tuple[int, int] = (80, 96),
    directions: tuple[tuple[float, ...], tuple[float, ...]] = AXIAL,
    tilt: float = 0.0,
    size: float = 1.0,
    **keywords: Any,
) -> list[Dataset]:
    """A CT series around the ellipsoid, in the order of its planes.

    Args:
        directions: unit vectors along which column and row numbers grow.
        tilt: degrees of the gantry; planes stay parallel and drift along the rows' way.
        size: of the ellipsoid, times its radii.
    """
    right, down = (np.array(direction) / np.linalg.norm(direction) for direction in directions)
    normal = np.cross(right, down)
    drift = down * np.tan(np.deg2rad(tilt)) * step
    study, uid, frame = (str(generate_uid(prefix=None)) for _ in range(3))
    middle = np.array(CENTRE) - right * spacing[1] * (shape[1] - 1) / 2 - down * spacing[0] * (shape[0] - 1) / 2
    images: list[Dataset] = []
    for number in range(count):
        position = middle + (normal * step + drift) * (number - (count - 1) / 2)
        image = _image(shape, study, uid, number)
        image.FrameOfReferenceUID = frame
        image.ImagePositionPatient = [f"{value:.6f}" for value in position]
        image.ImageOrientationPatient = [f"{value:.8f}" for value in (*right, *down)]
        image.PixelSpacing = list(spacing)
        image.SliceThickness = step
        values = np.where(inside(grid(image), size), INSIDE, OUTSIDE) + 1024
        image.PixelData = values.astype(np.uint16).tobytes()
        for keyword, value in keywords.items():
            if value is None:
                delattr(image, keyword)
            else:
                setattr(image, keyword, value)
        images.append(image)
    return images


def _image(shape: tuple[int, int], study: str, series_uid: str, number: int) -> Dataset:
    image = Dataset()
    values: dict[str, Any] = {
        "SOPClassUID": CT,
        "SOPInstanceUID": generate_uid(prefix=None),
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series_uid,
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientID": "V1",
        "PatientName": "Volume^Test",
        "PatientBirthDate": "19600101",
        "PatientSex": "O",
        "PatientAge": "064Y",
        "StudyDate": "20240101",
        "StudyTime": "120000",
        "AccessionNumber": "A1",
        "StudyID": "1",
        "SeriesNumber": 1,
        "InstanceNumber": number + 1,
        "Rows": shape[0],
        "Columns": shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "RescaleIntercept": -1024,
        "RescaleSlope": 1,
        "WindowCenter": 40,
        "WindowWidth": 1500,
    }
    for keyword, value in values.items():
        setattr(image, keyword, value)
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = CT
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    return image


def enhanced(images: list[Dataset]) -> Dataset:
    """The same planes as one multi-frame image, in the order given."""
    first = images[0]
    made = Dataset()
    for element in first:
        if element.keyword not in ("PixelData", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
            made[element.tag] = element
    for keyword in ("RescaleIntercept", "RescaleSlope", "SliceThickness", "WindowCenter", "WindowWidth"):
        delattr(made, keyword)
    made.SOPClassUID = ENHANCED_CT
    made.SOPInstanceUID = generate_uid(prefix=None)
    made.NumberOfFrames = len(images)
    made.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    shared = made.SharedFunctionalGroupsSequence[0]
    shared.PlaneOrientationSequence = Sequence([_with(ImageOrientationPatient=first.ImageOrientationPatient)])
    size = _with(PixelSpacing=first.PixelSpacing, SliceThickness=first.SliceThickness)
    shared.PixelMeasuresSequence = Sequence([size])
    rescale = _with(RescaleIntercept=-1024, RescaleSlope=1, RescaleType="HU")
    shared.PixelValueTransformationSequence = Sequence([rescale])
    frames: list[Dataset] = []
    for image in images:
        frame = Dataset()
        frame.PlanePositionSequence = Sequence([_with(ImagePositionPatient=image.ImagePositionPatient)])
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = Sequence(frames)
    made.PixelData = b"".join(image.PixelData for image in images)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = ENHANCED_CT
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def _with(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def content(image: Dataset) -> bytes:
    """A Part 10 file."""
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
