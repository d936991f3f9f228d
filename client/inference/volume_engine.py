"""Runs a version that outlines in volumes, one window after the other, on what `selection.py` found here."""

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from client.inference.computing import Computation
from client.inference.selection import Chosen, Demand, Runtime, Selected
from models.bundle import Bundle
from models.errors import BundleRefused
from models.segmentation import Segmentation

PARITY: Final = {"float32": 1e-3, "float16": 1e-2, "int8": 5e-2}  # of a probability; as in `engine.py`


class VolumeEngine:
    """One version, ready to outline; it has passed its own reference case.

    Args:
        bundle: as `models.bundle.verify` returned it, with a segmentation block.
        threads: of one computation.
        folder: where this machine keeps what it makes and measures of this version; None: nothing is kept.
        runtime: ONNX Runtime; another one only in tests.

    Raises:
        BundleRefused: the network cannot be loaded, has other inputs or outputs than it says, or does not give the
            logits of its reference case.
    """

    def __init__(
        self,
        bundle: Bundle,
        declared: Segmentation,
        threads: int = 1,
        folder: Path | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.bundle = bundle
        self._declared = declared
        image, expected = self._reference()

        def differs(computation: Computation) -> float:
            return self._differs(computation, image, expected)

        self._chosen = Chosen(Demand(bundle, ("logits",), threads, differs), folder, runtime)

    @property
    def selected(self) -> Selected:
        """What computes, and why."""
        return self._chosen.selected

    @property
    def provider(self) -> str:
        """What computes, e.g. `CPUExecutionProvider` or `TorchScript`."""
        return self.selected.computation.name

    def predict(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (n, channels, *window) of preprocessed windows (n, 1, *window).

        Raises:
            BundleRefused: another shape, or no finite number.
        """
        return self._predicted(self._chosen, windows)

    def _predicted(self, computation: Computation | Chosen, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        logits = computation.run(("logits",), windows)[0]
        expected = (len(windows), self._declared.channels, *windows.shape[2:])
        if logits.shape != expected or not np.isfinite(logits).all():
            raise BundleRefused(f"{self.bundle.facts.label}: gives {logits.shape}, not {expected}, or no finite number")
        return logits

    def _reference(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        label, folder = self.bundle.facts.label, self.bundle.folder / "reference"
        try:
            image = np.load(folder / "input.npy", allow_pickle=False)
            expected = np.load(folder / "expected.npy", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise BundleRefused(f"{label}: no readable reference case ({type(error).__name__})") from error
        if image.shape != (1, *self.bundle.facts.input_shape):
            raise BundleRefused(f"{label}: a reference of {image.shape}, not (1, {self.bundle.facts.input_shape})")
        return image.astype(np.float32, copy=False), expected

    def _differs(self, computation: Computation, image: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
        label = self.bundle.facts.label
        found = self._predicted(computation, image)
        if found.shape != expected.shape:
            raise BundleRefused(f"{label}: reference logits of {expected.shape}, found {found.shape}")
        # compared as chances: far from the threshold a logit may differ without consequence
        worst = float(np.abs(np.tanh(found / 2) - np.tanh(expected / 2)).max()) / 2
        if not worst <= (allowed := PARITY[self.bundle.facts.precision]):
            raise BundleRefused(f"{label}: a reference voxel differs by {worst:.2g}, allowed is {allowed:g}")
        return worst
