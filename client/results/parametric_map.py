"""Makes the heat map of a cross-sectional result: a value for each pixel of the planes that were read.

What an outlining version gives is the probability that it computed for a voxel, so it is called that (110854,
"Fractional Probabilistic Segmentation"), and not an explanation of a score. What a scoring version gives is the class
activation map (130402). Values are kept in whole numbers with their scale, lossless and run-length encoded; planes
with nothing above `FLOOR` are left out. A plain radiograph has no place in the patient, so there is none of it: its
map is in the secondary capture.

Source: DICOM PS3.3 A.75 (Parametric Map), C.7.6.16.2.11 (Real World Value Mapping); PS3.16 CID 7180, CID 217.
"""

from collections.abc import Sequence as Many
from typing import Any, Final

import numpy as np
from highdicom import ContentQualificationValues, PlanePositionSequence, VOILUTTransformation
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.sr import CodedConcept
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from client.dicom import series
from client.dicom.series import Plane, frame_of_reference
from client.results.attributes import put
from client.results.finding import Finding
from client.results.header import UNVERIFIED, equipment, finish
from client.results.outlined import Outlined
from client.results.planes import cleaned, frames_of, positions, sources, thickness
from client.results.result import Computed, ResultObject
from client.results.source import text_of
from models.errors import InvalidStudy

FLOOR: Final = 13  # of 255: below one chance in twenty nothing is shown
_FULL: Final = 255
_FINEST: Final = 65535
_PROBABILITY: Final = CodedConcept("110854", "DCM", "Fractional Probabilistic Segmentation")
_ACTIVATION: Final = CodedConcept("130402", "DCM", "Class activation")
_RATIO: Final = CodedConcept("{0:1}", "UCUM", "0 to 1")
_NO_UNITS: Final = CodedConcept("1", "UCUM", "no units")


def mapped_planes(outlined: Outlined) -> NDArray[np.int64]:
    """The planes with something to show; none where the probabilities were not kept."""
    if outlined.chances is None:
        return np.zeros(0, np.int64)
    return np.flatnonzero(outlined.chances.max(axis=(1, 2)) >= FLOOR)


def probability_map(outlined: Outlined) -> ResultObject:
    """The highest probability of any label at each voxel; there are `mapped_planes`."""
    assert outlined.chances is not None  # there are mapped planes
    planes = mapped_planes(outlined)
    scale = RealWorldValueMapping(
        "probability",
        "Highest probability of any label"[:64],
        unit=_RATIO,
        value_range=(0, _FULL),
        slope=1 / _FULL,
        intercept=0,
        quantity_definition=_PROBABILITY,
    )
    window = VOILUTTransformation(window_center=_FULL / 2, window_width=_FULL)
    images = sources(outlined.stack, planes)
    return _map(outlined, images, outlined.chances[planes], scale, window, positions(outlined.stack, planes), "Chances")


def lies(header: Dataset) -> bool:
    """Whether an image says where in the patient it lies, so that a map can lie over it."""
    return _place(header) is not None


def activation_map(finding: Finding) -> ResultObject:
    """The class activation map of a scored image that `lies` somewhere, on the image's own pixels."""
    rows, columns = finding.pixels.shape
    coarse = np.nan_to_num(np.ascontiguousarray(finding.cam, np.float32), posinf=0.0, neginf=0.0)
    fine = np.asarray(Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BILINEAR), np.float64)
    low = float(fine.min())
    step = max(float(fine.max()) - low, 1e-6) / _FINEST
    values = np.rint((fine - low) / step).astype(np.uint16)
    scale = RealWorldValueMapping(
        "activation",
        "Class activation; its mean is the log-odds"[:64],
        unit=_NO_UNITS,
        value_range=(0, _FINEST),
        slope=step,
        intercept=low,
        quantity_definition=_ACTIVATION,
    )
    window = VOILUTTransformation(window_center=_FINEST / 2, window_width=_FINEST)
    plane = _place(finding.source)
    assert plane is not None  # it lies somewhere
    image = cleaned(plane, plane, thickness(plane))
    return _map(finding, [image], values[None], scale, window, None, "Map")


def _place(header: Dataset) -> Plane | None:
    if frames_of(header) > 1 or not frame_of_reference(header):
        return None
    try:
        (plane,) = series.planes("", header)
    except InvalidStudy:
        return None
    return plane if thickness(plane) else None  # how far it reaches, one image alone cannot tell


def _map(
    result: Computed,
    images: Many[Dataset],
    values: NDArray[Any],
    scale: RealWorldValueMapping,
    window: VOILUTTransformation,
    places: Many[PlanePositionSequence] | None,
    what: str,
) -> ResultObject:
    facts = result.bundle.facts
    qualified = ContentQualificationValues.PRODUCT if facts.certified else ContentQualificationValues.RESEARCH
    made = ParametricMap(
        source_images=images,
        pixel_array=values.astype(np.uint16),  # the module has no other whole numbers (C.8.32.2)
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[scale],
        voi_lut_transformations=[window],
        plane_positions=places,
        transfer_syntax_uid=RLELossless,
        content_description=f"{facts.title} v{facts.edition}, {UNVERIFIED}"[:64],
        content_qualification=qualified,
        **equipment(result, "pm", 9907),
    )
    put(made, "Laterality", text_of(result.source, "Laterality"))
    return finish(result, made, "pm", what)
