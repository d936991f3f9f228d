"""Makes the objects that an outlined study leaves in the PACS.

Of each series a segmentation, a presentation state and a picture; a heat map and contours for radiotherapy where they
are asked for; and one report of them all.

An object that adds to the answer and cannot be made leaves the others standing; the report does not refer to it.

All are born UNVERIFIED and say so; UIDs follow from version, input and revision.
"""

import logging
import warnings
from collections.abc import Callable, Iterator

from client.dicom.malformed import MALFORMED
from client.results import heatmap
from client.results.capture import secondary_capture
from client.results.header import INCOMPLETE, UNVERIFIED
from client.results.outlined import Outlined, OutlinedStudy, described
from client.results.parametric_map import mapped_planes, probability_map
from client.results.presentation import presentation
from client.results.result import ResultObject
from client.results.segmentation import segmentation
from client.results.structure_set import structure_set
from client.results.volume_report import report

log = logging.getLogger(__name__)


def make(study: OutlinedStudy, *, structure_sets: bool = False) -> list[ResultObject]:
    """The objects in the order in which to send them: what the report refers to comes first, the report last.

    Where nothing was found there is no segmentation and no presentation state, and the report says that there is none.

    Args:
        structure_sets: contours for radiotherapy are wanted, of a version that declares that use.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a modality wrote into the tags that we copy is not ours to refuse
        made = [item for outlined in study.series for item in _of_series(outlined, structure_sets)]
        return [*made, report(study, {item.sop_uid for item in made})]


def _of_series(outlined: Outlined, structure_sets: bool) -> Iterator[ResultObject]:
    if outlined.positive:
        yield segmentation(outlined)
        yield from _if_possible(presentation, outlined)
        declared = outlined.bundle.facts.segmentation
        if structure_sets and declared and declared.radiotherapy:
            yield from _if_possible(structure_set, outlined)
    if len(mapped_planes(outlined)):
        yield from _if_possible(probability_map, outlined)
    yield _capture(outlined)


def _if_possible(make: Callable[[Outlined], ResultObject], outlined: Outlined) -> Iterator[ResultObject]:
    """An object that the answer stands without."""
    try:
        yield make(outlined)
    except MALFORMED as error:
        log.error("input %s: no %s: %s", outlined.input_digest[:12], make.__name__, type(error).__name__)


def _capture(outlined: Outlined) -> ResultObject:
    facts = outlined.bundle.facts
    said = "; ".join(described(label, one) for label, one in outlined.found) or "nothing outlined"
    text = f"AI · {facts.title} v{facts.number} · {said} · {UNVERIFIED}"
    text += f" · {INCOMPLETE}" if outlined.partial else ""
    colours = {label.value: label.colour for label, _ in outlined.found}
    image = heatmap.paint(outlined.key_pixels, outlined.labels[outlined.key_plane], colours, text)
    made = f"Outlines of {facts.title} v{facts.number} over one plane"
    return secondary_capture(outlined, image, "Outlines", made, text)
