"""Strings of words: pydicom turns round the numbers of a big endian file, and hands these on as they lie in it.

Source: DICOM PS3.5 6.2 (which value representations are strings of words), 7.3 (byte order).
"""

from typing import Final

import numpy as np
from pydicom.dataset import Dataset

WORDS: Final = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}
"""Bytes of a word, by value representation."""

_PIXELS: Final = 0x7FE0  # the group of whatever is decoded with the transfer syntax


def turned(value: bytes, size: int) -> bytes:
    """Every word of so many bytes in the other byte order; as it is where it is not made of such words."""
    return np.frombuffer(value, f"V{size}").view(f"u{size}").byteswap().tobytes() if len(value) % size == 0 else value


def turn_words(dataset: Dataset) -> None:
    """Bring the strings of words of a dataset that was read from big endian into little endian, those of items too.

    Pixels stay as they are: how wide theirs are, the image says.
    """
    for tag in list(dataset.keys()):
        vr = dataset.get_item(tag).VR  # without parsing what is no string of words
        if vr == "SQ":
            for item in dataset[tag].value:
                turn_words(item)
        elif vr in WORDS and tag.group != _PIXELS and isinstance(dataset[tag].value, bytes):
            dataset[tag].value = turned(dataset[tag].value, WORDS[vr])
