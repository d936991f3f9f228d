"""Makes the segmentation of an outlined series.

Its frames lie on the planes that were read, with their own positions: a viewer lays each over its image and computes
nothing.

Source: DICOM PS3.3 A.51 (Segmentation), PS3.16 CID 7150.
"""

from typing import Final

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.color import CIELabColor
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.sr.codedict import codes

from client.results.header import UNVERIFIED, equipment, finish
from client.results.outlined import Outlined
from client.results.planes import positions, sources
from client.results.report import coded
from client.results.result import ResultObject, uid_of

_FAMILY: Final = codes.DCM.ArtificialIntelligence


def segmentation(outlined: Outlined) -> ResultObject:
    """The masks of the labels that were found, one segment each, in the order of `Outlined.found`."""
    facts = outlined.bundle.facts
    who = AlgorithmIdentificationSequence(
        name=facts.title, family=_FAMILY, version=str(facts.number), source=facts.vendor[:64]
    )
    described = [
        SegmentDescription(
            segment_number=number,
            segment_label=label.name,
            segmented_property_category=coded(label.category),
            segmented_property_type=coded(label.finding),
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=who,
            tracking_uid=uid_of(outlined, f"tracking-{label.value}"),
            tracking_id=f"AI: {label.name}",
            display_color=CIELabColor.from_rgb(*label.colour),
        )
        for number, (label, _) in enumerate(outlined.found, start=1)
    ]
    # only planes with something on them: the others would be made, to be left out again
    values = [label.value for label, _ in outlined.found]
    planes = np.flatnonzero([any((plane == value).any() for value in values) for plane in outlined.labels])
    masks = np.stack([outlined.labels[planes] == value for value in values], axis=-1)
    made = Segmentation(
        source_images=sources(outlined.stack, planes),
        pixel_array=masks,
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        plane_positions=positions(outlined.stack, planes),
        **equipment(outlined, "seg", 9904),
        content_description=f"{facts.title} v{facts.number}, {UNVERIFIED}"[:64],
    )
    return finish(outlined, made, "seg", "Outlines")
