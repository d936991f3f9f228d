"""A declared preprocessing as a DALI pipeline, for the steps that DALI has: on the GPU where there is one.

DALI has no area resize and no percentiles; a declaration with either has no equal here. It never decodes: of the
transfer syntaxes at hand none came out as pydicom decodes it for every file (grey lossless JPEG 2000: two frames of
eight alike, four refused, two silently other pictures), and grey JPEGs could end the process.

Source: NVIDIA DALI 2.4, `nvidia.dali.fn`; the arithmetic is that of MONAI 1.6, see `plain`.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from client.inference.measured import gpus
from client.inference.plain import NoEqual, described, faint, number, two_sides
from models.preprocessing import Declaration

PACKAGE: Final = "nvidia-dali-cuda130"

_Node = Any  # DALI's own, untyped
_Step = Callable[["_Graph", _Node], _Node]


class Compiled:
    """The steps of a declaration, done by DALI, one picture at a time whichever thread asks; as `compiled` gives it."""

    def __init__(self, steps: list[_Step], threads: int) -> None:
        self._lock = threading.Lock()
        self._graph = _Graph(steps, threads)

    def __call__(self, pixels: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Bring one (H, W) float32 plane into the network's form; None where only the reference can say."""
        with self._lock:
            return self._graph.run(pixels)


def installed() -> bool:
    """Whether there is a DALI to import, of whichever package; it is not imported."""
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:
        return False


def compiled(declaration: Declaration, threads: int) -> Compiled | NoEqual:
    """The declared steps as a pipeline.

    Raises:
        ImportError: DALI is not installed, or not for this machine.
    """
    steps: list[_Step] = []
    for declared in declaration:
        arguments = {key: value for key, value in declared.items() if key != "_target_"}
        make = _STEPS.get(str(declared["_target_"]))
        step = make(arguments) if make else None
        if step is None:
            return NoEqual(described(declared))
        steps.append(step)
    return Compiled(steps, threads)


class _Graph:
    """One DALI pipeline: the made picture, and for each division by a spread how large that spread is."""

    def __init__(self, steps: list[_Step], threads: int) -> None:
        dali = importlib.import_module("nvidia.dali")
        self.fn: Any = importlib.import_module("nvidia.dali.fn")
        self.math: Any = importlib.import_module("nvidia.dali.math")
        self.types: Any = importlib.import_module("nvidia.dali.types")
        self.spreads: list[_Node] = []
        gpu = bool(gpus())
        self._pipeline: Any = dali.Pipeline(
            batch_size=1,
            num_threads=threads,
            device_id=0 if gpu else None,
            exec_async=False,
            exec_pipelined=False,
            exec_dynamic=False,
        )
        with self._pipeline:
            picture = self.fn.external_source(
                name="pixels", no_copy=True, device="cpu", dtype=self.types.FLOAT, ndim=3, layout="HWC"
            )
            made = picture.gpu() if gpu else picture
            for step in steps:
                made = step(self, made)
            self._pipeline.set_outputs(made, *self.spreads)
        self._pipeline.build()

    def run(self, pixels: NDArray[np.float32]) -> NDArray[np.float32] | None:
        self._pipeline.feed_input("pixels", [np.ascontiguousarray(pixels, dtype=np.float32)[..., None]])
        made, *spreads = (np.array(output.as_cpu().at(0)) for output in self._pipeline.run())
        if any(faint(*(float(value) for value in spread.ravel())) for spread in spreads):
            return None
        return made[..., 0]

    def note(self, *values: _Node) -> None:
        """Give out a spread and the magnitudes that it is a spread of."""
        self.spreads.append(self.fn.stack(*values))


def _resize(arguments: Mapping[str, Any]) -> _Step | None:
    size = two_sides(arguments.get("spatial_size"))
    if size is None or arguments.get("mode") != "bilinear" or arguments.get("align_corners"):
        return None
    if arguments.get("anti_aliasing") or arguments.get("size_mode", "all") != "all":
        return None
    return lambda graph, made: graph.fn.resize(
        made, size=list(size), interp_type=graph.types.INTERP_LINEAR, antialias=False
    )


def _crop(arguments: Mapping[str, Any], key: str = "roi_size") -> _Step | None:
    size = two_sides(arguments.get(key))
    return None if size is None else partial(_windowed, size=size, grow=False)


def _pad(arguments: Mapping[str, Any]) -> _Step | None:
    size = two_sides(arguments.get("spatial_size"))
    if size is None or arguments.get("mode", "constant") != "constant":
        return None
    return partial(_windowed, size=size, grow=True) if arguments.get("method", "symmetric") == "symmetric" else None


def _pad_or_crop(arguments: Mapping[str, Any]) -> _Step | None:
    crop, pad = _crop(arguments, "spatial_size"), _pad(arguments)
    if crop is None or pad is None:
        return None
    return lambda graph, made: pad(graph, crop(graph, made))


def _windowed(graph: _Graph, made: _Node, *, size: tuple[int, int], grow: bool) -> _Node:
    """The middle of a picture, at most or at least of this size; what lies outside is 0."""
    sides = graph.fn.slice(graph.fn.cast(made.shape(), dtype=graph.types.INT32), start=0, shape=2, axes=[0])
    wanted = graph.types.Constant(np.array(size, np.int32), device="cpu")
    if grow:
        wanted = graph.math.max(wanted, sides)
        begin = 0 - (wanted - sides) // 2
    else:
        wanted = graph.math.min(wanted, sides)
        begin = sides // 2 - wanted // 2
    return graph.fn.slice(made, start=begin, shape=wanted, axes=[0, 1], out_of_bounds_policy="pad", fill_values=0)


def _range(arguments: Mapping[str, Any]) -> _Step | None:
    low, high = number(arguments.get("a_min")), number(arguments.get("a_max"))
    to_low, to_high = number(arguments.get("b_min")), number(arguments.get("b_max"))
    if low is None or high is None or low == high or to_low is None or to_high is None:
        return None
    clip = bool(arguments.get("clip", False))

    def scale(graph: _Graph, made: _Node) -> _Node:
        made = (made - low) / (high - low) * (to_high - to_low) + to_low
        return graph.math.clamp(made, to_low, to_high) if clip else made

    return scale


def _unit(arguments: Mapping[str, Any]) -> _Step | None:
    to_low, to_high = number(arguments.get("minv", 0.0)), number(arguments.get("maxv", 1.0))
    if to_low is None or to_high is None:
        return None

    def scale(graph: _Graph, made: _Node) -> _Node:
        least, most = graph.fn.reductions.min(made), graph.fn.reductions.max(made)
        graph.note(most - least, least, most)
        return (made - least) / (most - least) * (to_high - to_low) + to_low

    return scale


def _normalize(arguments: Mapping[str, Any]) -> _Step | None:
    if arguments.get("nonzero") or any(
        arguments.get(key) is not None and number(arguments[key]) is None for key in ("subtrahend", "divisor")
    ):
        return None
    middle, divisor = number(arguments.get("subtrahend")), number(arguments.get("divisor"))

    def normalize(graph: _Graph, made: _Node) -> _Node:
        mean = graph.fn.reductions.mean(made)
        centred = made - (mean if middle is None else middle)
        if divisor is not None:
            return centred / (divisor or 1.0)
        spread = graph.fn.reductions.std_dev(made, mean)
        graph.note(spread, mean)
        return centred / spread

    return normalize


_STEPS: Final[Mapping[str, Callable[[Mapping[str, Any]], _Step | None]]] = {
    "CenterSpatialCrop": _crop,
    "NormalizeIntensity": _normalize,
    "Resize": _resize,
    "ResizeWithPadOrCrop": _pad_or_crop,
    "ScaleIntensity": _unit,
    "ScaleIntensityRange": _range,
    "SpatialPad": _pad,
}
