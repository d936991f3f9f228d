"""How weights look and travel: one vector of bytes with its layout beside it.

Flower moves every array in requests of its own, and a network has hundreds.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
from numpy.typing import NDArray

from models import compression
from models.compression import Encoding
from models.errors import BorderRefused
from models.exchange.words import MAX_TENSORS, MAX_WEIGHTS

if TYPE_CHECKING:
    from flwr.app import Array, RecordDict

_HEADER = 8192  # bytes of an array in which its header ends
_DTYPES = ("float32", "float16", "int64", "uint8")
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
_TENSOR = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,127}", re.ASCII)
_SHAPE = re.compile(r"(?:[0-9]{1,7}(?:x[0-9]{1,7}){0,5})?", re.ASCII)

Weights = Mapping[str, NDArray[Any]]
"""Tensors by name, as in a version's weights.npz."""

Layout = Mapping[str, tuple[tuple[int, ...], str]]
"""(shape, number type) by name: what the weights of a version look like."""

Pack = Callable[[Weights, Encoding], "Array"]
"""Makes of weights what travels: `packed`, or a `Packer`."""


def is_in(name: str, layer: str) -> bool:
    """Whether a tensor belongs to a layer: it is it, or stands below it (`layer4` has `layer4.0.conv1.weight`)."""
    return name == layer or name.startswith(f"{layer}.")


def layout_of(weights: Weights) -> dict[str, tuple[tuple[int, ...], str]]:
    """The layout of these weights, to hold others against."""
    return {name: (tuple(array.shape), array.dtype.name) for name, array in weights.items()}


def check_weights(weights: Weights, layout: Layout) -> None:
    """Refuse weights whose names, shapes or number types are not exactly those of the base.

    Raises:
        BorderRefused: a tensor too many, too few, or of another form.
    """
    if layout_of(weights) != {name: (tuple(shape), dtype) for name, (shape, dtype) in layout.items()}:
        raise BorderRefused("weights are not laid out as the base's")


def _order(weights: Weights) -> list[str]:
    """Wider number types come first, so that every tensor is aligned where it lies."""
    return sorted(weights, key=lambda name: (-weights[name].dtype.itemsize, name))


def lines(weights: Weights) -> list[str]:
    """The layout on the wire: `name dtype shape`, in order."""
    return [f"{name} {weights[name].dtype.name} {'x'.join(map(str, weights[name].shape))}" for name in _order(weights)]


class Packer:
    """Packs the same tensors once: the orders of a round have the same weights for every hospital."""

    def __init__(self) -> None:
        # the tensors are kept with what was made of them, so that no other ones can have their place in memory
        self._made: dict[tuple[object, ...], tuple[Weights, Array]] = {}

    def __call__(self, weights: Weights, encoding: Encoding) -> "Array":
        """See `packed`; the same object for the same tensors."""
        key = (encoding, *((name, id(weights[name])) for name in sorted(weights)))
        if key not in self._made:
            self._made[key] = weights, packed(weights, encoding)
        return self._made[key][1]


def packed(weights: Weights, encoding: Encoding) -> "Array":
    """All tensors' bytes end to end (little-endian), in the order of the layout; or the encoding's.

    The bytes are those of Flower's `Array(ndarray)`, which would copy them three times.
    """
    from flwr.app import Array

    if encoding != "plain":
        return Array(compression.pack(weights, encoding))
    parts = [np.ascontiguousarray(weights[name]).reshape(-1).view(np.uint8).data for name in _order(weights)]
    shape = (sum(map(len, parts)),)
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return Array("uint8", shape, "numpy.ndarray", b"".join([head.getvalue(), *parts]))


def digest(weights: Weights) -> str:
    """Of names, forms and numbers: equal for whoever has the same weights."""
    found = hashlib.sha256(json.dumps(lines(weights)).encode())
    for name in _order(weights):
        found.update(np.ascontiguousarray(weights[name]).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def forms(lines: object) -> dict[str, tuple[tuple[int, ...], str]]:
    if not isinstance(lines, list) or not 0 < len(lines) <= MAX_TENSORS:
        raise BorderRefused("no layout")
    forms: dict[str, tuple[tuple[int, ...], str]] = {}
    for line in cast(list[object], lines):
        name, dtype, shape = _tensor(line)
        if name in forms:
            raise BorderRefused("layout does not fit the weights")
        forms[name] = (shape, dtype)
    return forms


def unpacked(record: "RecordDict", key: str, forms: Layout, encoding: Encoding) -> dict[str, NDArray[Any]]:
    if key not in record.array_records or set(record.array_records[key]) != {"packed"}:
        raise BorderRefused("no weights")
    packed = vector(record.array_records[key]["packed"], "uint8", MAX_WEIGHTS).copy()
    if encoding != "plain":
        return compression.unpack(packed, forms, encoding)
    weights: dict[str, NDArray[Any]] = {}
    start = 0
    for name, (shape, dtype) in forms.items():
        end = start + int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        if end > packed.size:
            raise BorderRefused("layout does not fit the weights")
        weights[name] = packed[start:end].view(dtype).reshape(shape)
        if weights[name].dtype.kind == "f" and not bool(np.isfinite(weights[name]).all()):
            raise BorderRefused("weights are not finite")
        start = end
    if start != packed.size:
        raise BorderRefused("layout does not fit the weights")
    return weights


def _tensor(line: object) -> tuple[str, str, tuple[int, ...]]:
    parts = line.split(" ") if isinstance(line, str) else []
    if len(parts) != 3 or not _TENSOR.fullmatch(parts[0]) or parts[1] not in _DTYPES or not _SHAPE.fullmatch(parts[2]):
        raise BorderRefused("layout is not well formed")
    return parts[0], parts[1], tuple(int(size) for size in parts[2].split("x")) if parts[2] else ()


def vector(array: "Array", dtype: str, limit: int) -> NDArray[Any]:
    """The numbers of a one-dimensional Flower array, without unpickling and without copying (read-only).

    Source: numpy.lib.format, version 1.0 header; `Array.numpy()` would allocate whatever shape the header claims.
    """
    if array.stype != "numpy.ndarray" or array.dtype != dtype or len(array.data) > limit + 4096:
        raise BorderRefused("an array of another form")
    stream = io.BytesIO(bytes(memoryview(array.data)[:_HEADER]))
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise BorderRefused("an array of another form")
        shape, _, found = np.lib.format.read_array_header_1_0(stream, max_header_size=4096)
    except ValueError:
        raise BorderRefused("an array of another form") from None
    if found != np.dtype(dtype) or len(shape) != 1 or tuple(array.shape) != shape:
        raise BorderRefused("an array of another form")
    if len(array.data) - stream.tell() != shape[0] * found.itemsize:
        raise BorderRefused("an array of another form")
    return np.frombuffer(array.data, found, offset=stream.tell())
