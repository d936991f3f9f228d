"""Makes the presentation state of an outlined series: contours and measures for viewers that show no segmentation.

Source: DICOM PS3.3 A.33.1 (Grayscale Softcopy Presentation State).
"""

import numpy as np
from highdicom.pr import (
    AnnotationUnitsValues,
    GraphicAnnotation,
    GraphicLayer,
    GraphicObject,
    GraphicTypeValues,
    GrayscaleSoftcopyPresentationState,
    TextObject,
)
from pydicom.dataset import Dataset

from client.inference.measure import Measured
from client.results.attributes import dicom_time, put
from client.results.contours import contours
from client.results.greys import transformations
from client.results.header import UNVERIFIED, equipment, finish
from client.results.outlined import Outlined, described
from client.results.planes import frames_of, of_stack
from client.results.result import ResultObject
from client.results.source import offset_of, text_of
from models.segmentation import Label


def presentation(outlined: Outlined) -> ResultObject:
    """Contours and measures on the planes to look at, for viewers that show no segmentation."""
    facts = outlined.bundle.facts
    layer = GraphicLayer("AI", order=1, description=UNVERIFIED)
    shown = [outlined.stack.planes[index] for index in sorted({one.plane for _, one in outlined.found})]
    headers: dict[str, Dataset] = {}
    for plane in shown:
        if plane.digest not in headers:
            headers[plane.digest] = of_stack(outlined.stack, plane)
    annotations = [_annotation(outlined, label, one, layer, headers) for label, one in outlined.found]
    made = GrayscaleSoftcopyPresentationState(
        referenced_images=list(headers.values()),
        **equipment(outlined, "gsps", 9905),
        content_description=f"{facts.title} v{facts.edition}"[:64],
        graphic_annotations=annotations,
        graphic_layers=[layer],
        institution_name=outlined.institution[:64],
        **transformations(shown, headers),
    )
    # highdicom takes the clock's, and a repeat would be other bytes
    date, moment = dicom_time(outlined.created_at, offset_of(outlined.source))
    put(made, "PresentationCreationDate", date)
    put(made, "PresentationCreationTime", moment)
    put(made, "Laterality", text_of(outlined.source, "Laterality"))
    return finish(outlined, made, "gsps", "Contours")


def _annotation(
    outlined: Outlined, label: Label, one: Measured, layer: GraphicLayer, headers: dict[str, Dataset]
) -> GraphicAnnotation:
    plane = outlined.stack.planes[one.plane]
    lines = contours(outlined.labels[one.plane] == label.value)
    drawn = [GraphicObject(GraphicTypeValues.POLYLINE, line, AnnotationUnitsValues.PIXEL) for line in lines]
    if one.ends is not None:
        # half a pixel: pixel centres here, corners in the standard's coordinates
        ends = np.array([(column + 0.5, row + 0.5) for row, column in one.ends])
        drawn.append(GraphicObject(GraphicTypeValues.POLYLINE, ends, AnnotationUnitsValues.PIXEL))
    height, width = outlined.labels.shape[1:]
    corner = lines[0].max(axis=0)
    # the anchor stays inside the image, also for a structure at its edge
    anchor = (float(min(corner[0], width)), float(min(corner[1], height)))
    text = TextObject(f"AI: {described(label, one)} - UNVERIFIED", AnnotationUnitsValues.PIXEL, anchor_point=anchor)
    return GraphicAnnotation(
        referenced_images=[headers[plane.digest]],
        referenced_frame_number=plane.frame + 1 if frames_of(plane.header) > 1 else None,
        graphic_layer=layer,
        graphic_objects=drawn,
        text_objects=[text],
    )
