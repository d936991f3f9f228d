"""From the pixels of a radiograph to what a network takes, as a version declares it.

A declaration is data: a list of {"_target_": NAME, **arguments}, MONAI transforms from a short allow-list, so that
a signed version can never name code. The default resizes first (percentiles of 100² pixels cost nothing, of 3000² a
quarter of a second), then takes away what a hospital's machine adds: brightness and contrast. The whole image is kept,
so that an activation map lies over it without further geometry.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.errors import InvalidPreprocessing, InvalidStudy

Declaration = Sequence[Mapping[str, Any]]

SIZE: Final = 128

DEFAULT: Final[Declaration] = (
    {"_target_": "Resize", "spatial_size": [SIZE, SIZE], "mode": "area"},
    {
        "_target_": "ScaleIntensityRangePercentiles",
        "lower": 1.0,
        "upper": 99.0,
        "b_min": 0.0,
        "b_max": 1.0,
        "clip": True,
    },
    {"_target_": "NormalizeIntensity"},
)

_ALLOWED: Final[Mapping[str, frozenset[str]]] = {
    "CenterSpatialCrop": frozenset({"roi_size"}),
    "ClipIntensityPercentiles": frozenset({"lower", "upper", "sharpness_factor"}),
    "GaussianSmooth": frozenset({"sigma"}),
    "HistogramNormalize": frozenset({"num_bins", "min", "max"}),
    "MedianSmooth": frozenset({"radius"}),
    "NormalizeIntensity": frozenset({"subtrahend", "divisor", "nonzero"}),
    "Resize": frozenset({"spatial_size", "mode", "align_corners", "anti_aliasing", "size_mode"}),
    "ResizeWithPadOrCrop": frozenset({"spatial_size", "mode", "method"}),
    "ScaleIntensity": frozenset({"minv", "maxv"}),
    "ScaleIntensityRange": frozenset({"a_min", "a_max", "b_min", "b_max", "clip"}),
    "ScaleIntensityRangePercentiles": frozenset({"lower", "upper", "b_min", "b_max", "clip", "relative"}),
    "SpatialPad": frozenset({"spatial_size", "method", "mode"}),
}
_POINTWISE: Final = frozenset({"ScaleIntensityRange"})
_LARGEST: Final = 4096
_PICTURE: Final = (640, 512)
_VOLUMES: Final = ((12, 33, 41), (17, 40, 28))  # two, so that a step to one fixed size is seen


@dataclass(frozen=True, slots=True)
class Made:
    """What a network takes, and what made it.

    Attributes:
        tensor: (1, h, w) float32, contiguous and finite.
        by: name and release of the program, e.g. `monai 1.6.1`.
    """

    tensor: NDArray[np.float32]
    by: str


class Preprocessing:
    """The steps that a version declares, done by MONAI; the same steps for training and for reading.

    What does them faster is a subclass that gives the same, see `client.inference.preparation`.
    """

    def __init__(self, declaration: Declaration = DEFAULT) -> None:
        """Read a declaration; MONAI is loaded at the first image.

        Raises:
            InvalidPreprocessing: empty, not JSON, a name or argument outside the allow-list, a number out of range.
        """
        self.declaration: tuple[dict[str, Any], ...] = tuple(_checked(step) for step in declaration)
        if not self.declaration:
            raise InvalidPreprocessing("no step is declared")
        canonical = json.dumps(self.declaration, sort_keys=True, separators=(",", ":"), allow_nan=False)
        self.digest: str = hashlib.sha256(canonical.encode()).hexdigest()
        self._steps: list[Callable[[Any], Any]] | None = None

    @property
    def pointwise(self) -> bool:
        """Each voxel is changed by itself: a part of a volume comes out as it would in the whole."""
        return all(step["_target_"] in _POINTWISE for step in self.declaration)

    @property
    def by(self) -> str:
        """Name and release of the program that does the steps."""
        return _monai()

    def intensities(self, voxels: NDArray[np.generic]) -> NDArray[np.float32]:
        """Bring the values of a volume, or where `pointwise` holds of a part of one, into the network's range.

        Args:
            voxels: (d, h, w) in the modality's unit.

        Returns:
            The same shape, float32.

        Raises:
            InvalidPreprocessing: a step fails, or changes the shape: the grid of a volume is declared with its
                segmentation.
        """
        made = np.ascontiguousarray(self._run(np.array(voxels, dtype=np.float32)[None]), dtype=np.float32)
        if made.shape != (1, *voxels.shape):
            raise InvalidPreprocessing(f"the steps make {made.shape} of a volume of {voxels.shape}")
        return made[0]

    def _built(self) -> list[Callable[[Any], Any]]:
        if self._steps is None:
            self._steps = [_step(step) for step in self.declaration]
        return self._steps

    def __call__(self, pixels: NDArray[np.generic]) -> NDArray[np.float32]:
        """Bring one radiograph into the network's form.

        Args:
            pixels: (H, W), larger is whiter, any scale and number type.

        Returns:
            (1, h, w) float32, contiguous.

        Raises:
            InvalidStudy: not a plane of finite numbers.
            InvalidPreprocessing: the declared steps cannot be built, or do not make one plane.
        """
        return self.made(pixels).tensor

    def made(self, pixels: NDArray[np.generic]) -> Made:
        """As a call does, with what did it.

        Raises:
            InvalidStudy, InvalidPreprocessing: as a call.
        """
        if pixels.ndim != 2 or pixels.size == 0:
            raise InvalidStudy("not-one-plane", f"shape {pixels.shape}")
        image, by = self._done(np.ascontiguousarray(pixels, dtype=np.float32))
        tensor = np.ascontiguousarray(image, dtype=np.float32)
        if tensor.ndim != 3 or tensor.shape[0] != 1:
            raise InvalidPreprocessing(f"the steps make {tensor.shape}, not one plane")
        if not np.isfinite(tensor).all():
            raise InvalidStudy("not-finite", "pixels hold values that are not numbers")
        return Made(tensor, by)

    def _done(self, plane: NDArray[np.float32]) -> tuple[Any, str]:
        """The steps on one (H, W) plane, and what did them."""
        with warnings.catch_warnings():
            # A constant image has no percentile range; MONAI then only shifts it, and that is what we want.
            warnings.filterwarnings("ignore", message="Divide by zero")
            return self._run(plane[None]), _monai()

    def _run(self, image: Any) -> Any:
        """The steps on (1, …) values; whatever one of them raises, it is the declaration's fault or the image's."""
        given = image.shape
        for declared, step in zip(self.declaration, self._built(), strict=True):
            try:
                image = step(image)
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                raise InvalidPreprocessing(f"{declared['_target_']} fails on {given[1:]}: {error}") from error
        return image

    def prove(self, shape: Sequence[int] | None, *, volumes: bool) -> None:
        """Run the steps on made-up pictures, before a patient's study shows that they cannot be run.

        A picture of a detector's shape is tried, and one that has the network's own already: a version that declares no
        new size reads only such.

        Args:
            shape: that the network takes, (1, h, w) or (1, d, h, w); None: not known, and any will do.
            volumes: the version reads volumes (`intensities`), else single images.

        Raises:
            InvalidPreprocessing: a step cannot be built or fails, or what they make is not what the network takes.
        """
        if volumes:
            for sides in _VOLUMES:
                if not np.isfinite(self.intensities(_picture(sides))).all():
                    raise InvalidPreprocessing(f"the steps make values that are not numbers of a volume of {sides}")
            return
        try:
            self._prove(_PICTURE, shape)
        except InvalidPreprocessing:
            if shape is None:
                raise
            try:
                self._prove((shape[-2], shape[-1]), shape)
                return
            except InvalidPreprocessing:
                pass  # the first one is the picture that comes
            raise

    def _prove(self, sides: tuple[int, int], shape: Sequence[int] | None) -> None:
        try:
            made = self(_picture(sides)).shape
        except InvalidStudy as error:
            raise InvalidPreprocessing(f"of a picture of {sides}: {error}") from error
        if shape is not None and made != tuple(shape):
            raise InvalidPreprocessing(
                f"the steps make {made} of a picture of {sides}, the network takes {tuple(shape)}"
            )


@cache
def _monai() -> str:
    return f"monai {version('monai')}"


def declared(written: Any) -> Declaration:
    """The steps of a parsed JSON file: a list, or MONAI's {"_target_": "Compose", "transforms": [...]}.

    Raises:
        InvalidPreprocessing: neither.
    """
    if isinstance(written, dict) and written.keys() == {"_target_", "transforms"} and written["_target_"] == "Compose":
        written = written["transforms"]
    if not isinstance(written, list):
        raise InvalidPreprocessing('steps are a list, or {"_target_": "Compose", "transforms": [...]}')
    return written


def _picture(sides: tuple[int, ...]) -> NDArray[np.float32]:
    """Waves and grain in the range of a CT, the same each time."""
    axes = np.meshgrid(*(np.linspace(0, 6, side, dtype=np.float32) for side in sides), indexing="ij", sparse=True)
    grain = np.random.default_rng(0).random(sides, dtype=np.float32)
    return np.rint(1000 * np.sin(sum(axes)) + 500 * grain).astype(np.float32)


def _checked(step: Any) -> dict[str, Any]:
    """Copy one step of a declaration, or say what is wrong with it."""
    if not isinstance(step, Mapping):
        raise InvalidPreprocessing(f'{str(step)[:80]!r} is no step: a step is an object with a "_target_"')
    name = step.get("_target_")
    arguments = {key: value for key, value in step.items() if key != "_target_"}
    if not isinstance(name, str) or name not in _ALLOWED:
        raise InvalidPreprocessing(f"{name!r} is not an allowed step; allowed: {', '.join(_ALLOWED)}")
    if unknown := set(arguments) - _ALLOWED[name]:
        raise InvalidPreprocessing(f"{name} takes no {', '.join(sorted(map(str, unknown)))}")
    for key, value in arguments.items():
        numbers: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
        for number in numbers:
            if isinstance(number, float | int):
                sane = math.isfinite(number) and (key not in {"spatial_size", "roi_size"} or number <= _LARGEST)
            else:
                sane = number is None or isinstance(number, str)
            if not sane:
                raise InvalidPreprocessing(f"{name}: {key} is out of range or not plain data")
    # Through JSON once, so that tuples and lists, and the digest of what was read back, are the same.
    copy: dict[str, Any] = json.loads(json.dumps({"_target_": name, **arguments}))
    return copy


def _step(step: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Build one allowed transform."""
    from monai import transforms  # slow to import and brings torch: only where images are read
    from monai.data import set_track_meta

    set_track_meta(False)  # a plane of pixels has no affine to carry along, which costs as much as the steps

    arguments = {key: value for key, value in step.items() if key != "_target_"}
    try:
        made: Callable[[Any], Any] = getattr(transforms, step["_target_"])(**arguments)
    except (TypeError, ValueError) as error:
        raise InvalidPreprocessing(f"{step['_target_']} cannot be built: {error}") from error
    return made
