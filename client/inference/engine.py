"""Runs a model version that scores images, on what `selection.py` found to be right and fastest here."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.inference.computing import LARGEST, Computation
from client.inference.selection import Chosen, Demand, Runtime, Selected
from models.bundle import Bundle
from models.errors import BundleRefused

# With fewer bits a last digit can tip a value to the next step, and processors differ in last digits.
PARITY: Final = {"float32": 1e-4, "float16": 2e-3, "int8": 1e-2}
_INDEPENDENT: Final = 1e-5  # of a score: by more than that no image may change because of its neighbours in a batch
_OUTPUTS: Final = ("logit", "cam")
_SIZES: Final = (1, 4, 8)  # of the batches that are measured


@dataclass(frozen=True, slots=True)
class Answer:
    """What a version says of one image.

    Attributes:
        score: 0..1.
        cam: (h, w) float32 class activation map over the whole image, not scaled.
    """

    score: float
    cam: NDArray[np.float32]


class Engine:
    """One version, ready to score; it has passed its own reference cases.

    Args:
        bundle: as `models.bundle.verify` returned it.
        threads: of one computation.
        folder: where this machine keeps what it makes and measures of this version; None: nothing is kept.
        runtime: ONNX Runtime; another one only in tests.

    Raises:
        BundleRefused: the network cannot be loaded, has other inputs or outputs than it says, or does not give the
            scores of its reference cases.
    """

    def __init__(
        self, bundle: Bundle, threads: int = 1, folder: Path | None = None, runtime: Runtime | None = None
    ) -> None:
        self.bundle = bundle
        images, expected = self._reference()

        def differs(computation: Computation) -> float:
            return self._differs(computation, images, expected)

        self._chosen = Chosen(Demand(bundle, _OUTPUTS, threads, differs, _SIZES), folder, runtime)
        self._together = LARGEST if self._independent(images) else 1

    @property
    def selected(self) -> Selected:
        """What computes, and why."""
        return self._chosen.selected

    @property
    def provider(self) -> str:
        """What computes, e.g. `CPUExecutionProvider` or `TorchScript`."""
        return self.selected.computation.name

    @property
    def batch(self) -> int:
        """How many images to score together when they wait: more than 1 only where that was measured to be faster."""
        return min(self.selected.batch, self._together)

    def run(self, image: NDArray[np.float32]) -> Answer:
        """Score one preprocessed image, (1, h, w) float32."""
        return self.run_many([image])[0]

    def run_many(self, images: Sequence[NDArray[np.float32]]) -> list[Answer]:
        """Score preprocessed images of (1, h, w) float32, in one batch where they fit into one.

        Raises:
            BundleRefused: the version gives no finite number for an image.
        """
        answers: list[Answer] = []
        for start in range(0, len(images), self._together):
            some = np.stack(images[start : start + self._together]).astype(np.float32, copy=False)
            logit, cam = self._chosen.run(_OUTPUTS, some)
            scores = self._scores(logit, len(some))
            if cam.ndim != 3 or len(cam) != len(some):
                raise BundleRefused(f"{self.bundle.facts.label}: gives a map of {cam.shape}")
            answers += [
                Answer(float(score), np.asarray(one, np.float32)) for score, one in zip(scores, cam, strict=True)
            ]
        return answers

    def scores(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,) scores of (N, 1, h, w) preprocessed images, as `run` gives them, in bounded memory.

        Raises:
            BundleRefused: as `run_many`.
        """
        starts = range(0, len(images), self._together)
        parts = [self._scored(self._chosen, images[start : start + self._together]) for start in starts]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _scored(self, computation: Computation | Chosen, images: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._scores(computation.run(_OUTPUTS[:1], images)[0], len(images))

    def _scores(self, logit: NDArray[np.float32], count: int) -> NDArray[np.float32]:
        if logit.shape != (count, 1) or not np.isfinite(logit).all():
            raise BundleRefused(f"{self.bundle.facts.label}: gives {logit.shape}, or no finite number")
        with np.errstate(over="ignore"):
            scores = 1.0 / (1.0 + np.exp(-logit[:, 0].astype(np.float64)))
        return scores.astype(np.float32)

    def _independent(self, images: NDArray[np.float32]) -> bool:
        """Whether images of a batch leave each other alone; quantized with scales that are found at each run, they do
        not.
        """
        alone = np.concatenate([self._scored(self._chosen, image[None]) for image in images])
        return bool(np.abs(self._scored(self._chosen, images) - alone).max() <= _INDEPENDENT)

    def _reference(self) -> tuple[NDArray[np.float32], list[float]]:
        label, folder = self.bundle.facts.label, self.bundle.folder / "reference"
        try:
            images = np.load(folder / "input.npy", allow_pickle=False)
            expected = [float(score) for score in json.loads((folder / "expected.json").read_text())["scores"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleRefused(f"{label}: no readable reference cases ({type(error).__name__})") from error
        if images.ndim != 4 or len(images) == 0 or len(images) != len(expected):
            raise BundleRefused(f"{label}: {len(images)} reference images, {len(expected)} expected scores")
        if images.shape[1:] != self.bundle.facts.input_shape:
            raise BundleRefused(f"{label}: reference images of {images.shape[1:]}, not {self.bundle.facts.input_shape}")
        return images.astype(np.float32, copy=False), expected

    def _differs(self, computation: Computation, images: NDArray[np.float32], expected: Sequence[float]) -> float:
        """One by one and together: both ways are used, and a computation may be right in one of them only."""
        together, maps = computation.run(_OUTPUTS, images)
        if maps.ndim != 3 or len(maps) != len(images):
            raise BundleRefused(f"{self.bundle.facts.label}: gives a map of {maps.shape}")
        alone = [float(self._scored(computation, image[None])[0]) for image in images]
        found = [*self._scores(together, len(images)), *alone]
        worst = max(abs(float(a) - b) for a, b in zip(found, [*expected, *expected], strict=True))
        facts = self.bundle.facts
        if not worst <= (allowed := PARITY[facts.precision]):
            raise BundleRefused(f"{facts.label}: a reference score differs by {worst:.2g}, allowed is {allowed:g}")
        return worst
