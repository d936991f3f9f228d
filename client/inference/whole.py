"""Whether a series fits an intended use as a whole.

A version that outlines looks at a series. One of which some slices are left out is another series: what lies in those
slices would be measured too small, or not be found, and nobody would be told.
"""

from collections.abc import Iterable

from pydicom.dataset import Dataset

from client.dicom.decode import frame_count
from client.dicom.malformed import MALFORMED
from client.inference.acquisition import Acquisition
from client.inference.ahead import Opened
from client.inference.scope import InScope, OutOfScope, Reason
from client.inference.study import Image
from models.errors import InvalidStudy

Judged = tuple[Dataset, Acquisition, InScope | OutOfScope]
"""An object's header, what an intended use asks of it, and what it answers."""


def torn(
    judged: Iterable[Judged], gone: Iterable[tuple[Image, Opened | InvalidStudy]] = ()
) -> dict[str, tuple[Reason, ...]]:
    """The series of which some images fit and others do not, by UID, and why these do not.

    What may be left out of a series: a localizer, an object that is no image, and an image of a place that a fitting
    image of the same series shows (another echo or reconstruction, or one taken again), since that place is looked at.

    Args:
        judged: what there is.
        gone: what was taken out of it since it is bad, whether it would fit or not. One that lies nowhere is no slice.
    """
    by_series: dict[str, list[Judged]] = {}
    for one in judged:
        by_series.setdefault(one[1].series, []).append(one)
    found: dict[str, tuple[Reason, ...]] = {}
    for image, opened in gone:
        reason = Reason("left-out", "images of the series were rejected by the PACS, or left out by a person")
        if isinstance(opened, InvalidStudy):
            found[image.series_uid] = (reason,)
        elif _place(opened.header) is not None or frame_count(opened.header) > 1:
            one = (opened.header, opened.acquisition, OutOfScope((reason,)))
            by_series.setdefault(opened.acquisition.series, []).append(one)
    for uid, members in by_series.items():
        unfit = [one for one in members if isinstance(one[2], OutOfScope)]
        if not unfit or len(unfit) == len(members):
            continue
        seen = {_place(header) for header, _, scope in members if isinstance(scope, InScope)}
        reasons: dict[Reason, None] = {}
        for header, acquisition, scope in unfit:
            place = _place(header)
            if isinstance(scope, OutOfScope) and _lost(acquisition) and (place is None or place not in seen):
                reasons.update(dict.fromkeys(scope.reasons))
        if reasons:
            found[uid] = tuple(reasons)
    return found


def _lost(acquisition: Acquisition) -> bool:
    """It is an image, and not one to plan others by."""
    image = bool(acquisition.rows and acquisition.columns)
    kinds = (one.frame_type or one.image_type for one in (acquisition, *acquisition.others))
    return image and not all("LOCALIZER" in kind for kind in kinds)


def _place(header: Dataset) -> tuple[float, ...] | None:
    """Where the image lies, in hundredths of a millimetre; None where it does not say."""
    try:
        return tuple(round(float(value), 2) for value in header.ImagePositionPatient)
    except MALFORMED:
        return None
