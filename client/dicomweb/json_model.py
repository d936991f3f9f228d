"""A dataset in the DICOM JSON model, as bytes; large values by their address, pixels always.

Source: PS3.18 F.2 (the model), 10.4.3.3.2 (bulk data in metadata).
"""

import base64
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

from client.dicom.malformed import MALFORMED
from client.dicomweb.matching import Element
from client.dicomweb.part10 import Pixels

Address = Callable[[str], str]
"""From where a value lies in its dataset (`00540220/0/0040A30A`) to where it can be had."""

_BINARY: Final = ("OB", "OD", "OF", "OL", "OV", "OW", "UN")
_INLINE: Final = 256
_CHARSET: Final = Tag(0x00080005)


def encode(dataset: Dataset, address: Address, pixels: Pixels | None = None) -> bytes:
    """The JSON object of a dataset; an element that is malformed counts as missing. Call it within `part10.quiet`."""
    elements = parts(dataset, address)
    if pixels is not None:
        key = f"{pixels.tag:08X}"
        elements[key] = write({"vr": pixels.vr, "BulkDataURI": address(key)})
    return join(elements).encode("utf-8", "replace")


def parts(dataset: Dataset, address: Address) -> dict[str, str]:
    """As `encode`, from each element's tag to its JSON: to be picked from without being read again."""
    found = _elements(dataset, address, "")
    # the few names there are stand for every file's
    return {sys.intern(tag): write(element) for tag, element in found.items()}


def join(elements: Mapping[str, str]) -> str:
    """The JSON object of a dataset, from its elements' JSON."""
    return "{" + ",".join([f'"{tag}":{text}' for tag, text in elements.items()]) + "}"


def write(element: Element) -> str:
    """The JSON of an element."""
    return json.dumps(element, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


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
