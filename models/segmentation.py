"""What a version that outlines structures in volumes says of its network: labels, grid, windows."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.coding import Coding

ANATOMY = Coding(value="123037004", scheme="SCT", meaning="Anatomical Structure")
LESION = Coding(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")
_LINE = {letter: line for line, pair in enumerate(("LR", "PA", "SI")) for letter in pair}


class Label(BaseModel):
    """One structure that is outlined.

    Attributes:
        value: 1 and up; with softmax the channel, with sigmoid the channel counted from 1.
        name: what a person reads.
        category: e.g. `ANATOMY`, `LESION` (PS3.16 CID 7150).
        finding: the structure (segmented property type).
        smallest_ml: a smaller volume counts as not found.
        diameters: the longest diameter and the short axis are measured, as for a lesion.
        colour: (red, green, blue), 0..255.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: int = Field(ge=1, le=255)
    name: str = Field(min_length=1, max_length=64)
    category: Coding
    finding: Coding
    smallest_ml: float = Field(default=0.0, ge=0)
    diameters: bool = False
    colour: tuple[int, int, int] = (214, 77, 62)


class Segmentation(BaseModel):
    """How a volume is brought to the network, and what its output means.

    The network takes `image` (n, 1, *window) float32 and gives `logits` (n, channels, *window).

    Attributes:
        axes: the way each array axis grows, three of L/R, P/A, S/I: "RAS" as MONAI has it, "SPL" for head-first axial
            slices as they come.
        spacing_mm: of the grid that the network was trained on, in the order of `axes`; None: as it was acquired.
        window: voxels that the network sees at once, in the order of `axes`.
        overlap: share of a window that the next one sees again.
        radiotherapy: planning radiotherapy is among the uses that the vendor names: contours may be made for it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    labels: tuple[Label, ...] = Field(min_length=1)
    axes: str = "RAS"
    spacing_mm: tuple[float, float, float] | None = None
    window: tuple[int, int, int]
    overlap: float = Field(default=0.25, ge=0, lt=1)
    activation: Literal["sigmoid", "softmax"]
    radiotherapy: bool = False

    @model_validator(mode="after")
    def _sound(self) -> "Segmentation":
        if sorted(_LINE.get(letter, -1) for letter in self.axes) != [0, 1, 2]:
            raise ValueError(f"axes {self.axes!r}: one of L and R, one of P and A, one of S and I")
        if self.spacing_mm is not None and not all(0.05 <= side <= 50 for side in self.spacing_mm):
            raise ValueError("spacing_mm: 0.05 to 50 mm")
        if not all(1 <= side <= 1024 for side in self.window):
            raise ValueError("window: 1 to 1024 voxels a side")
        if len({label.value for label in self.labels}) < len(self.labels):
            raise ValueError("two labels have one value")
        return self

    @property
    def channels(self) -> int:
        """Of the network's output; softmax has one more, for everything else."""
        highest = max(label.value for label in self.labels)
        return highest + 1 if self.activation == "softmax" else highest


def activate(logits: NDArray[np.float32], declared: Segmentation) -> NDArray[np.float32]:
    """(channels, ...) logits to probabilities."""
    if declared.activation == "sigmoid":
        return (1 / (1 + np.exp(-np.clip(logits, -80, 80)))).astype(np.float32)
    raised = np.exp(logits - logits.max(axis=0))
    return (raised / raised.sum(axis=0)).astype(np.float32)


def decide(chances: NDArray[np.float32], declared: Segmentation, threshold: float) -> NDArray[np.uint8]:
    """(channels, ...) probabilities to the value of a label, or 0.

    With softmax the most probable channel counts, with sigmoid the most probable one that reaches the threshold.
    """
    labels = np.zeros(chances.shape[1:], np.uint8)
    if declared.activation == "softmax":
        best = chances.argmax(axis=0)
        for label in declared.labels:
            labels[best == label.value] = label.value
        return labels
    highest = np.full(labels.shape, np.float32(threshold), np.float32)
    for label in declared.labels:
        chance = chances[label.value - 1]
        higher = chance >= highest
        labels[higher] = label.value
        highest[higher] = chance[higher]
    return labels
