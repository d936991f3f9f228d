"""Makes the objects that an outlined series leaves in the PACS: segmentation, presentation state, picture, report.

All are born UNVERIFIED and say so; UIDs follow from version, input and revision.
"""

import warnings

from client.results import heatmap
from client.results.capture import secondary_capture
from client.results.header import UNVERIFIED
from client.results.outlined import Outlined, described
from client.results.presentation import presentation
from client.results.result import ResultObject
from client.results.segmentation import segmentation
from client.results.volume_report import report


def make(outlined: Outlined) -> list[ResultObject]:
    """The objects in the order in which to send them: what the report refers to comes first.

    Where nothing was found there is no segmentation and no presentation state, and the report says that there is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a modality wrote into the tags that we copy is not ours to refuse
        drawn = [segmentation(outlined), presentation(outlined)] if outlined.positive else []
        return [*drawn, _capture(outlined), report(outlined)]


def _capture(outlined: Outlined) -> ResultObject:
    facts = outlined.bundle.facts
    said = "; ".join(described(label, one) for label, one in outlined.found) or "nothing outlined"
    text = f"AI · {facts.title} v{facts.number} · {said} · {UNVERIFIED}"
    colours = {label.value: label.colour for label, _ in outlined.found}
    image = heatmap.paint(outlined.key_pixels, outlined.labels[outlined.key_plane], colours, text)
    made = f"Outlines of {facts.title} v{facts.number} over one plane"
    return secondary_capture(outlined, image, "Outlines", made, text)
