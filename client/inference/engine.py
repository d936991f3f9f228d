"""Runs a model version: ONNX Runtime over a verified bundle."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from models.bundle import Bundle
from models.errors import BundleRefused

log = logging.getLogger(__name__)

PARITY: Final = 1e-4
_BATCH: Final = 32
_PREFERRED: Final = ("CUDAExecutionProvider", "CPUExecutionProvider")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a version says of one image.

    Attributes:
        score: 0..1.
        cam: (h, w) float32 class activation map over the whole image, not scaled.
    """

    score: float
    cam: NDArray[np.float32]


def open_session(bundle: Bundle, threads: int) -> onnxruntime.InferenceSession:
    """The version's network on the best execution provider that is here.

    Raises:
        BundleRefused: the network cannot be loaded.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    available = onnxruntime.get_available_providers()
    providers = [name for name in _PREFERRED if name in available]
    try:
        return onnxruntime.InferenceSession(str(bundle.onnx), options, providers=providers)
    except Exception as error:  # onnxruntime raises a dozen unrelated types, all meaning this
        label, problem = bundle.facts.label, type(error).__name__
        raise BundleRefused(f"{label}: the network cannot be loaded ({problem})") from error


class Engine:
    """One version, ready to score; it has passed its own reference cases.

    Args:
        bundle: as `models.bundle.verify` returned it.
        threads: of one computation.

    Raises:
        BundleRefused: the network cannot be loaded, has other inputs or outputs than it says, or does not give the
            scores of its reference cases.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        self.bundle = bundle
        self._session = open_session(bundle, threads)
        inputs = [node.name for node in self._session.get_inputs()]
        outputs = {node.name for node in self._session.get_outputs()}
        if inputs != ["image"] or not {"logit", "cam"} <= outputs:
            raise BundleRefused(f"{bundle.facts.label}: inputs and outputs are not image, logit and cam")
        self._self_test()

    @property
    def provider(self) -> str:
        """The execution provider that computes, e.g. `CPUExecutionProvider`."""
        return self._session.get_providers()[0]

    def run(self, image: NDArray[np.float32]) -> Answer:
        """Score one preprocessed image, (1, h, w) float32."""
        return self.run_many([image])[0]

    def run_many(self, images: Sequence[NDArray[np.float32]]) -> list[Answer]:
        """Score preprocessed images of (1, h, w) float32 in one batch.

        Raises:
            BundleRefused: the version gives no finite number for an image.
        """
        if not images:
            return []
        scores, cams = self._compute(np.stack(images).astype(np.float32, copy=False))
        return [Answer(float(score), np.asarray(cam, np.float32)) for score, cam in zip(scores, cams, strict=True)]

    def scores(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N,) scores of (N, 1, h, w) preprocessed images, as `run` gives them, in bounded memory.

        Raises:
            BundleRefused: as `run_many`.
        """
        parts = [self._compute(images[start : start + _BATCH])[0] for start in range(0, len(images), _BATCH)]
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def _compute(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        outputs = self._session.run(["logit", "cam"], {"image": images})
        logit, cam = (cast("NDArray[np.float32]", output) for output in outputs)
        if logit.shape != (len(images), 1) or cam.ndim != 3 or not np.isfinite(logit).all():
            raise BundleRefused(f"{self.bundle.facts.label}: gives {logit.shape} and {cam.shape}, or no finite number")
        with np.errstate(over="ignore"):
            scores = 1.0 / (1.0 + np.exp(-logit[:, 0].astype(np.float64)))
        return scores.astype(np.float32), cam

    def _self_test(self) -> None:
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
        try:
            found = [answer.score for answer in self.run_many(list(images))]
        except BundleRefused:
            raise
        except Exception as error:  # as above
            raise BundleRefused(f"{label}: the network does not run ({type(error).__name__})") from error
        worst = max(abs(a - b) for a, b in zip(found, expected, strict=True))
        if worst > PARITY:
            raise BundleRefused(f"{label}: a reference score differs by {worst:.2g}, allowed is {PARITY:g}")
        log.info("version %s loaded on %s, reference differs by %.1e", label, self.provider, worst)
