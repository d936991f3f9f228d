"""Runs a version that outlines in volumes: ONNX Runtime over one window after the other."""

import logging
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from client.inference.engine import open_session
from models.bundle import Bundle
from models.errors import BundleRefused
from models.segmentation import Segmentation

log = logging.getLogger(__name__)

PARITY: Final = 1e-3  # of a probability


class VolumeEngine:
    """One version, ready to outline; it has passed its own reference case.

    Args:
        bundle: as `models.bundle.verify` returned it, with a segmentation block.
        threads: of one computation.

    Raises:
        BundleRefused: the network cannot be loaded, has other inputs or outputs than it says, or does not give the
            logits of its reference case.
    """

    def __init__(self, bundle: Bundle, declared: Segmentation, threads: int = 1) -> None:
        self.bundle = bundle
        self._declared = declared
        self._session = open_session(bundle, threads)
        inputs = [node.name for node in self._session.get_inputs()]
        if inputs != ["image"] or "logits" not in {node.name for node in self._session.get_outputs()}:
            raise BundleRefused(f"{bundle.facts.label}: inputs and outputs are not image and logits")
        self._self_test()

    @property
    def provider(self) -> str:
        """The execution provider that computes, e.g. `CPUExecutionProvider`."""
        return self._session.get_providers()[0]

    def predict(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (n, channels, *window) of preprocessed windows (n, 1, *window).

        Raises:
            BundleRefused: another shape, or no finite number.
        """
        logits = cast("NDArray[np.float32]", self._session.run(["logits"], {"image": windows})[0])
        expected = (len(windows), self._declared.channels, *windows.shape[2:])
        if logits.shape != expected or not np.isfinite(logits).all():
            raise BundleRefused(f"{self.bundle.facts.label}: gives {logits.shape}, not {expected}, or no finite number")
        return logits

    def _self_test(self) -> None:
        label, folder = self.bundle.facts.label, self.bundle.folder / "reference"
        try:
            image = np.load(folder / "input.npy", allow_pickle=False)
            expected = np.load(folder / "expected.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BundleRefused(f"{label}: no readable reference case ({type(error).__name__})") from error
        if image.shape != (1, *self.bundle.facts.input_shape):
            raise BundleRefused(f"{label}: a reference of {image.shape}, not (1, {self.bundle.facts.input_shape})")
        try:
            found = self.predict(image.astype(np.float32, copy=False))
        except BundleRefused:
            raise
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            raise BundleRefused(f"{label}: the network does not run ({type(error).__name__})") from error
        if found.shape != expected.shape:
            raise BundleRefused(f"{label}: reference logits of {expected.shape}, found {found.shape}")
        # compared as chances: far from the threshold a logit may differ without consequence
        worst = float(np.abs(np.tanh(found / 2) - np.tanh(expected / 2)).max()) / 2
        if not worst <= PARITY:
            raise BundleRefused(f"{label}: a reference voxel differs by {worst:.2g}, allowed is {PARITY:g}")
        log.info("version %s loaded on %s, reference differs by %.1e", label, self.provider, worst)
