"""A header that an intended use admits, of nobody: for testing a node, a version, or the clauses themselves."""

from collections.abc import Mapping
from typing import Any, Final

from models.intended_use import Clauses, IntendedUse, Projection

_VIEWS: Final[Mapping[Projection, str]] = {"frontal": "PA", "lateral": "LATERAL", "oblique": "OBLIQUE"}


def headers(use: IntendedUse) -> list[dict[str, Any]]:
    """Attributes by keyword that meet every clause: an image of the version's own, and those of its required series.

    Identifiers, pixels and what describes them are left to the caller, except for Rows and Columns.
    """
    own = {"Modality": use.modalities[0], "SOPClassUID": use.sop_classes[0], **_attributes(use)}
    made = [own]
    for series in use.required_series:
        modality = series.modalities[0] if series.modalities else use.modalities[0]
        sop_class = series.sop_classes[0] if series.sop_classes else use.sop_classes[0]
        one = {"Modality": modality, "SOPClassUID": sop_class, **_attributes(series)}
        made += [dict(one) | {"SeriesNumber": len(made)} for _ in range(series.min_images)]
    return made


def _attributes(use: Clauses) -> dict[str, Any]:
    side = max(use.min_size_px, min(64, use.max_size_px))
    age = min(max(use.min_age_years or 0, 40), use.max_age_years if use.max_age_years is not None else 40)
    found: dict[str, Any] = {
        "PatientAge": f"{int(age):03d}Y" if age >= 2 else f"{round(age * 365.25):03d}D",
        "Rows": side,
        "Columns": side,
        "PresentationIntentType": "FOR PRESENTATION",
        "BurnedInAnnotation": "NO",
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "LossyImageCompression": "00",
    }
    if use.body_part:
        found["BodyPartExamined"] = use.body_part.regions[0].upper()
    elif use.body_parts:
        found["BodyPartExamined"] = use.body_parts[0]
    if use.view:
        found["ViewPosition"] = _VIEWS[use.view.projections[0]]
    elif use.views:
        found["ViewPosition"] = use.views[0]
    if use.laterality:
        found["ImageLaterality"] = use.laterality.values[0]
    if use.sexes:
        found["PatientSex"] = use.sexes.values[0]
    if use.equipment:
        maker = use.equipment.accepted[0]
        found["Manufacturer"] = maker.manufacturer
        found["ManufacturerModelName"] = maker.models[0] if maker.models else "EXAMPLE"
    for limit in use.ranges:
        value = limit.low if limit.low is not None else limit.high
        found[limit.quantity] = [value, value] if limit.quantity.endswith("PixelSpacing") else value
    if use.contrast and use.contrast.agent:
        found["ContrastBolusAgent"] = "IOHEXOL" if use.contrast.agent == "with" else "NONE"
    if use.contrast and use.contrast.phases:
        found["SeriesDescription"] = use.contrast.phases[0].upper()
    if use.convolution_kernel:
        parts = use.convolution_kernel.accepted[0].split("\\")
        found["ConvolutionKernel"] = [part.replace("*", "").replace("?", "1") or "1" for part in parts]
    return found
