"""How each frame of an image was made: an enhanced image says it in functional groups, a classic one at its top level.

The group of a frame stands before the group that all frames share, and either before the image's own level, which is
the order in which the pixels are read (`client.dicom.series.group`, `client.dicom.decode.transformation`). Images that
were converted from classic ones keep what has no group of its own as unassigned attributes.

Source: PS3.3 C.7.6.16 (functional groups), C.8.15.3 (CT), C.8.13.5 (MR), C.8.19.6 (X-ray), C.7.6.16.2.25 and .26
(unassigned).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

PER_FRAME: Final = "PerFrameFunctionalGroupsSequence"
SHARED: Final = "SharedFunctionalGroupsSequence"
_UNASSIGNED: Final = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")
_Places = tuple[tuple[str, str], ...]
_PLACES: Final[Mapping[str, _Places]] = {
    "KVP": (("CTXRayDetailsSequence", "KVP"), ("FrameAcquisitionSequence", "KVP")),
    "XRayTubeCurrent": (
        ("CTExposureSequence", "XRayTubeCurrentInmA"),
        ("FrameAcquisitionSequence", "XRayTubeCurrentInmA"),
    ),
    "ExposureTime": (("CTExposureSequence", "ExposureTimeInms"),),
    "Exposure": (("CTExposureSequence", "ExposureInmAs"),),
    "DistanceSourceToDetector": (("CTGeometrySequence", "DistanceSourceToDetector"),),
    "SliceThickness": (("PixelMeasuresSequence", "SliceThickness"),),
    "SpacingBetweenSlices": (("PixelMeasuresSequence", "SpacingBetweenSlices"),),
    "PixelSpacing": (("PixelMeasuresSequence", "PixelSpacing"),),
    "ImagerPixelSpacing": (("FramePixelDataPropertiesSequence", "ImagerPixelSpacing"),),
    "RepetitionTime": (("MRTimingAndRelatedParametersSequence", "RepetitionTime"),),
    "EchoTime": (("MREchoSequence", "EffectiveEchoTime"),),
    "FrameType": tuple(
        (f"{kind}FrameTypeSequence", "FrameType") for kind in ("CTImage", "MRImage", "PET", "XRay3D", "ParametricMap")
    ),
    "ConvolutionKernel": (("CTReconstructionSequence", "ConvolutionKernel"),),
    "FrameLaterality": (("FrameAnatomySequence", "FrameLaterality"),),
    "AnatomicRegionSequence": (("FrameAnatomySequence", "AnatomicRegionSequence"),),
    "PatientOrientation": (("PatientOrientationInFrameSequence", "PatientOrientation"),),
}
_WHOLE_IMAGE: Final[Mapping[str, tuple[str, ...]]] = {
    "XRayTubeCurrent": ("XRayTubeCurrentInmA",),
    "ExposureTime": ("ExposureTimeInms",),
    "Exposure": ("ExposureInmAs",),
    "EchoTime": ("EffectiveEchoTime",),
}
"""Names that an enhanced X-ray image has for them where they hold for all frames and stand in no group."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Where the attributes of one frame are looked for, in this order.

    Attributes:
        groups: the frame's own functional groups, then the shared ones.
        image: the image itself.
    """

    groups: tuple[Any, ...]
    image: Any

    def sources(self, keyword: str) -> Iterator[tuple[Any, str]]:
        """Datasets that may say the attribute, and under which keyword, the first that does being right."""
        for groups in self.groups:
            for name, word in _PLACES.get(keyword, ()):
                if (group := first(groups, name)) is not None:
                    yield group, word
            for name in _UNASSIGNED:
                if (group := first(groups, name)) is not None:
                    yield group, keyword
        yield self.image, keyword
        for word in _WHOLE_IMAGE.get(keyword, ()):
            yield self.image, word

    def contrast(self) -> list[Any]:
        """What may say whether an agent was being given: the usages of the first group that has any."""
        return next((found for groups in self.groups if (found := items(groups, "ContrastBolusUsageSequence"))), [])


def frames(image: Any) -> list[Frame]:
    """The frames of an image that has functional groups; those that none of its own describes as one. A classic image
    is one frame without groups, whatever their number.
    """
    shared = tuple(items(image, SHARED)[:1])
    own = items(image, PER_FRAME)
    described = [Frame((groups, *shared), image) for groups in own]
    count = image.get("NumberOfFrames")
    if not own or (isinstance(count, int) and count > len(own)):
        described.append(Frame(shared, image))
    return described


def first(source: Any, keyword: str) -> Any | None:
    """The first item of a sequence, None where there is none."""
    found = items(source, keyword)
    return found[0] if found else None


def items(source: Any, keyword: str) -> list[Any]:
    """The items of a sequence; none where a device wrote something else there."""
    value = source.get(keyword)
    if not isinstance(value, Iterable) or isinstance(value, str | bytes):
        return []
    return [item for item in value if hasattr(item, "get")]
