"""How far apart the slices of a series lie, by their positions: what a header says of it, a device may have made up.

SpacingBetweenSlices is optional in a CT, is often the thickness, and still says 1 mm where every other slice was sent.
Where a series has several planes, a clause is held against the distances between them; a plane alone has no distance
to another, and its header is believed.

Pure. Source: PS3.3 C.7.6.2.1.1 (positions), C.7.6.16.2.1 (of a frame).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from client.dicom import series
from client.inference.acquisition import Acquisition
from models.errors import InvalidStudy
from models.intended_use import IntendedUse, Range

_QUANTITY: Final = "SpacingBetweenSlices"
_SAME: Final = 1e-3  # mm: planes that lie closer show one place, as phases and echoes do
_TURNED: Final = 1e-2  # of a direction cosine, beyond which planes do not lie over each other
_EVEN: Final = 0.05  # of a distance, that slices may be off their places and count as evenly spaced
_DIGITS: Final = 3  # of a millimetre; what is beyond them is rounding of the positions


def asked(use: IntendedUse) -> bool:
    """Whether an intended use has a clause for it."""
    return any(limit.quantity == _QUANTITY for part in (use, *use.required_series) for limit in part.ranges)


def unasked(use: IntendedUse) -> IntendedUse:
    """The same intended use without a clause for it: for whoever has one plane of a series and has to wait for more."""

    def kept(limits: Sequence[Range]) -> tuple[Range, ...]:
        return tuple(limit for limit in limits if limit.quantity != _QUANTITY)

    required = tuple(one.model_copy(update={"ranges": kept(one.ranges)}) for one in use.required_series)
    return use.model_copy(update={"ranges": kept(use.ranges), "required_series": required})


def by_positions(images: Sequence[tuple[Dataset, Acquisition]]) -> list[Acquisition]:
    """What the headers of a study say, with the slice spacing that the positions of each series give.

    Args:
        images: of one study, in any order.

    Returns:
        For each image, in the same order; as it was where the image is no plane, or alone in its series and direction.
    """
    groups: dict[tuple[str, str], list[_Group]] = {}
    member: list[list[_Group]] = []
    for header, acquisition in images:
        of_series = groups.setdefault((acquisition.series, series.frame_of_reference(header)), [])
        of_image: list[_Group] = []
        for plane in _planes(header):
            group = _joined(plane, of_series)
            if group not in of_image:
                of_image.append(group)
        member.append(of_image)
    distances = {id(group): _distances(group.depths) for each in groups.values() for group in each}
    found: list[Acquisition] = []
    for (_, acquisition), of_image in zip(images, member, strict=True):
        values = tuple(sorted({value for group in of_image for value in distances[id(group)]}))
        if not values:
            found.append(acquisition)
            continue
        placed = sum(len(group.depths) for group in of_image if distances[id(group)])
        quantities = {**acquisition.quantities, _QUANTITY: values}
        others = tuple(replace(one, quantities=quantities, placed=placed) for one in acquisition.others)
        found.append(
            replace(
                acquisition,
                quantities=quantities,
                partly=acquisition.partly - {_QUANTITY},
                placed=placed,
                others=others,
            )
        )
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Planes of a series that lie over each other.

    Attributes:
        normal: (3,) of the first, which all are measured along.
        depths: mm.
    """

    normal: NDArray[np.float64]
    depths: list[float]


def _joined(plane: series.Plane, groups: list[_Group]) -> _Group:
    normal = np.cross(plane.along_row, plane.along_column)
    for group in groups:
        if np.abs(group.normal - normal).max() <= _TURNED:
            break
    else:
        group = _Group(normal, [])
        groups.append(group)
    group.depths.append(float(plane.position @ group.normal))
    return group


def _planes(header: Dataset) -> list[series.Plane]:
    try:
        return [plane for plane in series.planes("", header) if not plane.localizer]
    except InvalidStudy:  # not where it lies, or no image at all
        return []


def _distances(depths: Sequence[float]) -> tuple[float, ...]:
    """The distance between neighbours, mm; where they differ, the shortest and the longest; none of a plane alone."""
    ordered = np.sort(np.array(depths, dtype=np.float64))
    places = ordered[np.concatenate([[True], np.diff(ordered) > _SAME])]
    if len(places) < 2:
        return ()
    gaps = np.diff(places)
    step = float(places[-1] - places[0]) / len(gaps)
    even = places[0] + np.arange(len(places)) * step
    # each against its place, as a stack is judged: a rounding of positions is no difference
    if np.abs(places - even).max() <= _EVEN * step:
        return (round(step, _DIGITS),)
    return (round(float(gaps.min()), _DIGITS), round(float(gaps.max()), _DIGITS))
