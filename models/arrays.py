"""Named arrays in one file: what `numpy.savez` writes, without its copy of each array."""

import zipfile
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike


def write(file: BinaryIO, arrays: Mapping[str, ArrayLike]) -> None:
    """Write arrays for `numpy.load`.

    Raises:
        ValueError: an array of objects, which could be read back only by trusting whoever wrote it.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, value in arrays.items():
            array: np.ndarray[Any, Any] = np.asarray(value, order="C")
            if array.dtype.hasobject:
                raise ValueError(f"{name} is an array of objects")
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(array))
                stream.write(array.reshape(-1).view(np.uint8).data)
