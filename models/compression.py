"""Differences of weights in fewer bits: what an update, or the coordinator's broadcast, may look like on the wire.

What is declared is one word of a closed list. How many bytes belong to it follows from the layout alone, and every
set of values has exactly one form, so that nothing can be carried beside them: a vector of another length, or one that
our own encoder would not have written, is refused.

`eight-bit` spends less than eight bits on a weight with all that belongs to it: a word of seven bits each, and one
byte for every 32 of a tensor that gives their common power of two. Powers of two make it exact: what has been rounded
once is carried unchanged, and no byte from outside can stand for a number that is not finite.

What rounding leaves behind is kept where it was rounded and added to what is sent next (error feedback), so that over
the rounds the sum of what was sent is the sum of what was meant.

Source: Seide et al., 1-Bit Stochastic Gradient Descent, Interspeech 2014 (error feedback); Karimireddy et al., Error
Feedback Fixes SignSGD, ICML 2019; Alistarh et al., QSGD, NeurIPS 2017 (stochastic rounding).
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.errors import BorderRefused

Encoding = Literal["plain", "float16", "eight-bit"]
"""`plain`: the weights themselves. The others: their differences from weights that both sides have."""

Tensors = Mapping[str, NDArray[Any]]
Forms = Mapping[str, tuple[tuple[int, ...], str]]

BLOCK = 32  # weights that share a power of two
_MOST = 63  # the largest word: seven bits with a sign
_LOWEST, _HIGHEST = -149, 106  # exponents of one byte; 2**-149 is the smallest float32, 63 * 2**106 is finite
_FLOAT16 = float(np.finfo(np.float16).max)


def difference(new: Tensors, old: Tensors) -> dict[str, NDArray[Any]]:
    """`new - old`, tensor by tensor, in their own number types."""
    return {name: np.asarray(new[name] - old[name], new[name].dtype) for name in new}


def applied(differences: Tensors, to: Tensors) -> dict[str, NDArray[Any]]:
    """`to + differences`, tensor by tensor.

    Raises:
        BorderRefused: a sum is not finite.
    """
    with np.errstate(over="ignore"):
        sums = {name: np.asarray(to[name] + change, to[name].dtype) for name, change in differences.items()}
    if not all(bool(np.isfinite(value).all()) for value in sums.values()):
        raise BorderRefused("weights are not finite")
    return sums


def rounded(values: Tensors, encoding: Encoding, draw: np.random.Generator | None = None) -> dict[str, NDArray[Any]]:
    """The values that the encoding carries in place of these; only float32 is changed.

    Args:
        draw: round up or down by chance, right on average, instead of to the nearest (`eight-bit` alone).
    """
    chosen = _narrow(values, encoding)
    if not chosen:
        return dict(values)
    flat, starts, lengths = _blocks(values, chosen)
    if encoding == "float16":
        carried = np.clip(flat, -_FLOAT16, _FLOAT16).astype(np.float16).astype(np.float32)
    else:
        exponents = np.repeat(_exponents(flat, starts), lengths)
        carried = _values(_words(flat, exponents, draw), exponents)
    return {**values, **_split(carried, {name: (values[name].shape, "float32") for name in chosen})}


def added(values: Tensors, left: Tensors) -> dict[str, NDArray[Any]]:
    """The values and what was left behind of the same tensors; of others, and of other shapes, it is forgotten."""
    known = {name: left[name] for name in values if name in left and left[name].shape == values[name].shape}
    return {name: value + known[name] if name in known else value for name, value in values.items()}


def with_feedback(
    values: Tensors, left: Tensors, encoding: Encoding, draw: np.random.Generator | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """What to send of these values and of what was left behind before, and what is left behind now.

    Args:
        left: of the last time; empty where there was none. Tensors that are not among the values, or have another
            shape, are forgotten.
    """
    meant = added(values, left)
    sent = rounded(meant, encoding, draw)
    narrow = _narrow(values, encoding)
    return sent, {name: np.asarray(meant[name] - sent[name], np.float32) for name in narrow}


def size(forms: Forms, encoding: Encoding) -> int:
    """Bytes of tensors of these forms."""
    total = 0
    weights, blocks = 0, 0
    for shape, dtype in forms.values():
        count = int(np.prod(shape, dtype=object))
        if encoding == "plain" or dtype != "float32":
            total += count * np.dtype(dtype).itemsize
        else:
            weights, blocks = weights + count, blocks + -(-count // BLOCK)
    return total + (2 * weights if encoding == "float16" else 7 * -(-weights // 8) + blocks)


def pack(values: Tensors, encoding: Encoding) -> NDArray[np.uint8]:
    """The bytes of differences, in the order of their names; values that it cannot carry are rounded to the nearest."""
    chosen = _narrow(values, encoding)
    raw = [np.ascontiguousarray(values[name]).reshape(-1).view(np.uint8) for name in sorted(set(values) - set(chosen))]
    flat, starts, lengths = _blocks(values, chosen)
    if encoding == "float16":
        narrow = [np.clip(flat, -_FLOAT16, _FLOAT16).astype("<f2").view(np.uint8)]
    elif encoding == "eight-bit":
        exponents = _exponents(flat, starts)
        words = _words(flat, np.repeat(exponents, lengths), None)
        narrow = [(exponents - _LOWEST).astype(np.uint8), _seven(words)]
    else:
        narrow = []
    return np.concatenate([np.empty(0, np.uint8), *narrow, *raw])


def unpack(packed: NDArray[np.uint8], forms: Forms, encoding: Encoding) -> dict[str, NDArray[Any]]:
    """The differences that these bytes stand for.

    Raises:
        BorderRefused: too many or too few bytes, a number that is not finite, or bytes that `pack` does not write.
    """
    if packed.size != size(forms, encoding):
        raise BorderRefused("layout does not fit the weights")
    chosen = [name for name in sorted(forms) if encoding != "plain" and forms[name][1] == "float32"]
    counts = {name: int(np.prod(forms[name][0], dtype=object)) for name in forms}
    weights = sum(counts[name] for name in chosen)
    if encoding == "float16":
        start = 2 * weights
        flat = packed[:start].view("<f2").astype(np.float32)
    else:
        lengths = _lengths(counts[name] for name in chosen)
        start = len(lengths) + (7 * -(-weights // 8) if chosen else 0)
        exponents = np.repeat(packed[: len(lengths)].astype(np.int64) + _LOWEST, lengths)
        flat = _values(_unseven(packed[len(lengths) : start], weights), exponents)
    values = _split(flat, {name: forms[name] for name in chosen})
    for name in sorted(set(forms) - set(chosen)):
        shape, dtype = forms[name]
        end = start + counts[name] * np.dtype(dtype).itemsize
        values[name] = packed[start:end].copy().view(dtype).reshape(shape)
        start = end
    if not all(bool(np.isfinite(value).all()) for value in values.values()):
        raise BorderRefused("weights are not finite")
    if not np.array_equal(pack(values, encoding), packed):
        raise BorderRefused("weights are not encoded as declared")
    return {name: values[name] for name in forms}


def _narrow(values: Tensors, encoding: Encoding) -> list[str]:
    return [] if encoding == "plain" else sorted(name for name in values if values[name].dtype == np.float32)


def _blocks(values: Tensors, names: list[str]) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """All these tensors end to end, where each block of them starts and how long it is; none reaches over two."""
    flat = np.concatenate([np.empty(0, np.float32), *(values[name].reshape(-1) for name in names)])
    lengths = _lengths(values[name].size for name in names)
    return flat, np.cumsum(lengths) - lengths, lengths


def _lengths(counts: Any) -> NDArray[np.int64]:
    found: list[int] = []
    for count in counts:
        whole, rest = divmod(count, BLOCK)
        found += [BLOCK] * whole + ([rest] if rest else [])
    return np.array(found, np.int64)


def _exponents(flat: NDArray[np.float32], starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each block the smallest exponent with which its largest value fits into a word."""
    if not len(starts):
        return np.empty(0, np.int64)
    largest = np.maximum.reduceat(np.abs(flat), starts).astype(np.float64)
    mantissas, exponents = np.frexp(largest / _MOST)
    needed = np.where(mantissas == 0.5, exponents - 1, exponents)
    return np.clip(np.where(largest == 0, _LOWEST, needed), _LOWEST, _HIGHEST).astype(np.int64)


def _words(
    flat: NDArray[np.float32], exponents: NDArray[np.int64], draw: np.random.Generator | None
) -> NDArray[np.int64]:
    scaled = np.ldexp(flat.astype(np.float64), -exponents)
    whole = np.rint(scaled) if draw is None else np.floor(scaled + draw.random(len(scaled)))
    return np.clip(whole, -_MOST, _MOST).astype(np.int64)


def _values(words: NDArray[np.int64], exponents: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.ldexp(words.astype(np.float64), exponents).astype(np.float32)


def _seven(words: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Eight words of seven bits in seven bytes, the first in the lowest bits; the last bytes are filled with zeros."""
    padded = np.zeros(-(-len(words) // 8) * 8, np.uint64)
    padded[: len(words)] = (words + _MOST + 1).astype(np.uint64)
    eights = padded.reshape(-1, 8)
    packed = np.zeros(len(eights), "<u8")
    for place in range(8):
        packed |= eights[:, place] << np.uint64(7 * place)
    return packed.view(np.uint8).reshape(-1, 8)[:, :7].reshape(-1).copy()


def _unseven(packed: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    sevens = np.zeros((len(packed) // 7, 8), np.uint8)
    sevens[:, :7] = packed.reshape(-1, 7)
    eights = sevens.reshape(-1).view("<u8")
    words = np.stack([(eights >> np.uint64(7 * place)) & np.uint64(127) for place in range(8)], axis=1)
    return words.reshape(-1)[:count].astype(np.int64) - _MOST - 1


def _split(flat: NDArray[np.float32], forms: Forms) -> dict[str, NDArray[Any]]:
    parts: dict[str, NDArray[Any]] = {}
    start = 0
    for name, (shape, _) in forms.items():
        end = start + int(np.prod(shape, dtype=object))
        parts[name] = flat[start:end].reshape(shape).astype(np.float32)
        start = end
    return parts
