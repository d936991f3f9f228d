"""What an image says of its grey values, as far as it can be handed on: what they measure, and how they are shown.

Modalities write windows of no width, windows without a centre, names of functions that there are not. A reader's
viewer makes do with that, so a presentation state over such an image says nothing of it, rather than not being made.

Source: DICOM PS3.3 C.11.1 (modality LUT), C.11.2.1.2 (window), C.11.8 (softcopy VOI LUT), C.7.6.16.2.9, C.7.6.16.2.10.
"""

import math
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from typing import Any, Final

from highdicom import ModalityLUTTransformation, ReferencedImageSequence
from highdicom.pr import SoftcopyVOILUTTransformation
from pydicom.dataset import Dataset

from client.dicom.malformed import MALFORMED
from client.dicom.series import Plane, group
from client.results.planes import frames_of
from client.results.source import text_of

_UNSPECIFIED: Final = "US"
_LEAST_WIDTH: Final = {"LINEAR": 1.0, "LINEAR_EXACT": 0.0, "SIGMOID": 0.0}


@dataclass(frozen=True, slots=True)
class Greys:
    """How a plane's stored values are to be understood.

    Attributes:
        rescale: slope, intercept and type that make them the modality's; None where it gives none that can be.
        windows: (centre, width) of each, of rescaled values; empty where it gives none that can be.
        function: of the windows, empty where the standard's own is meant.
    """

    rescale: tuple[float, float, str] | None
    windows: tuple[tuple[float, float], ...]
    function: str

    @property
    def of_stored(self) -> "Greys":
        """The same picture without a rescale: the windows are of stored values."""
        if self.rescale is None:
            return self
        slope, intercept, _ = self.rescale
        windows = tuple(((centre - intercept) / slope, width / slope) for centre, width in self.windows)
        least = _LEAST_WIDTH[self.function or "LINEAR"]
        kept = windows if all(width > 0 and width >= least for _, width in windows) else ()
        return replace(self, rescale=None, windows=kept)


def greys(plane: Plane) -> Greys:
    """What a plane's image, or its frame of it, says."""
    scaled, shown = group(plane, "PixelValueTransformationSequence"), group(plane, "FrameVOILUTSequence")
    slopes, intercepts = _numbers(scaled, "RescaleSlope"), _numbers(scaled, "RescaleIntercept")
    rescale = None
    if len(slopes) == len(intercepts) == 1 and slopes[0] != 0:
        rescale = slopes[0], intercepts[0], text_of(scaled, "RescaleType")[:64] or _UNSPECIFIED
    function = text_of(shown, "VOILUTFunction")
    function = function if function in _LEAST_WIDTH else ""
    centres, widths = _numbers(shown, "WindowCenter"), _numbers(shown, "WindowWidth")
    least = _LEAST_WIDTH[function or "LINEAR"]
    usable = len(centres) == len(widths) and all(width > 0 and width >= least for width in widths)
    return Greys(rescale, tuple(zip(centres, widths, strict=True)) if usable else (), function)


def transformations(planes: Many[Plane], headers: dict[str, Dataset]) -> dict[str, Any]:
    """What a presentation state of these planes says of their grey values, as highdicom's constructor takes it.

    A presentation state has one modality transformation for all of its images. Where theirs differ, as from slice to
    slice of a PET, it has none, and the windows are of stored values.

    Args:
        planes: each once.
        headers: of their files, by digest, as the presentation state refers to them.
    """
    found = [greys(plane) for plane in planes]
    if len({one.rescale for one in found}) > 1:
        found = [one.of_stored for one in found]
    said: dict[str, Any] = {}
    if rescale := found[0].rescale:
        slope, intercept, kind = rescale
        said["modality_lut_transformation"] = ModalityLUTTransformation(
            rescale_slope=slope, rescale_intercept=intercept, rescale_type=kind
        )
    alike: dict[tuple[Greys, str], list[Plane]] = {}
    for plane, one in zip(planes, found, strict=True):
        if one.windows:
            # a reference names frames of one image, or several whole images
            alike.setdefault((one, plane.digest if frames_of(plane.header) > 1 else ""), []).append(plane)
    if alike:
        said["voi_lut_transformations"] = [
            _softcopy(one, shown, headers, many=bool(digest)) for (one, digest), shown in alike.items()
        ]
    return said


def _softcopy(
    one: Greys, shown: Many[Plane], headers: dict[str, Dataset], *, many: bool
) -> SoftcopyVOILUTTransformation:
    images = [headers[digest] for digest in dict.fromkeys(plane.digest for plane in shown)]
    frames = [plane.frame + 1 for plane in shown] if many else None
    centres, widths = [centre for centre, _ in one.windows], [width for _, width in one.windows]
    return SoftcopyVOILUTTransformation(
        window_center=centres if len(centres) > 1 else centres[0],
        window_width=widths if len(widths) > 1 else widths[0],
        voi_lut_function=one.function or None,
        referenced_images=ReferencedImageSequence(images, referenced_frame_number=frames),
    )


def _numbers(source: Dataset, keyword: str) -> tuple[float, ...]:
    """An attribute's values; none of them where one is no number."""
    try:
        value = source.get(keyword)
        values = [] if value is None or value == "" else [value] if isinstance(value, str | float | int) else value
        numbers = tuple(float(one) for one in values)
    except MALFORMED:
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()
