"""A dataset in the DICOM JSON model, as bytes; large values by their address, pixels always.

Source: PS3.18 F.2 (the model), 10.4.3.3.2 (bulk data in metadata).
"""

import base64
import json
from collections.abc import Callable
from typing import Any, Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from client.dicomweb.part10 import MALFORMED, Pixels

Address = Callable[[str], str]
"""From where a value lies in its dataset (`00540220/0/0040A30A`) to where it can be had."""

_BINARY: Final = ("OB", "OD", "OF", "OL", "OV", "OW", "UN")
_INLINE: Final = 256
_CHARSET: Final = Tag(0x00080005)


def encode(dataset: Dataset, address: Address, pixels: Pixels | None = None) -> bytes:
    """The JSON object of a dataset; an element that is malformed counts as missing. Call it within `part10.quiet`."""
    elements = _elements(dataset, address, "")
    if pixels is not None:
        key = f"{pixels.tag:08X}"
        elements[key] = {"vr": pixels.vr, "BulkDataURI": address(key)}
    return json.dumps(elements, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", "replace")


def find(dataset: Dataset, place: str) -> bytes | None:
    """The value that `encode` gave the place as an address; None where no such value lies there."""
    steps = place.split("/")
    try:
        for tag, number in zip(steps[:-1:2], steps[1::2], strict=True):
            dataset = dataset[Tag(int(tag, 16))].value[int(number)]
        element = dataset[Tag(int(steps[-1], 16))]
    except MALFORMED:
        return None
    return element.value if element.VR in _BINARY and isinstance(element.value, bytes) else None


def _elements(dataset: Dataset, address: Address, place: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for tag in sorted(dataset.keys()):
        if tag.element == 0:
            continue  # group lengths
        try:
            found[f"{tag:08X}"] = _element(dataset[tag], tag, address, place)
        except MALFORMED:
            continue
    return found


def _element(element: DataElement, tag: BaseTag, address: Address, place: str) -> dict[str, Any]:
    here = f"{place}{tag:08X}"
    if tag == _CHARSET:
        return {"vr": "CS", "Value": ["ISO_IR 192"]}  # as JSON is
    if element.VR == "SQ":
        items = [_elements(item, address, f"{here}/{number}/") for number, item in enumerate(element.value)]
        return {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
    if element.VR in _BINARY and isinstance(element.value, bytes):
        if len(element.value) > _INLINE:
            return {"vr": element.VR, "BulkDataURI": address(here)}
        if not element.value:
            return {"vr": element.VR}
        return {"vr": element.VR, "InlineBinary": base64.b64encode(element.value).decode()}
    made = element.to_json_dict(None, 0)
    json.dumps(made, allow_nan=False)
    return made
