"""A scored image, with all that its result objects say."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from client.results.confidence import Confidence
from client.results.result import Predecessor
from models.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Finding:
    """One scored image, with all that its result objects say.

    Attributes:
        source: the scored image's dataset; pixel data may be left out.
        input_digest: SHA-256 of the image's file, hex.
        revision: of the study.
        pixels: (H, W) float32 presentation values, larger is whiter.
        score: 0..1.
        threshold: that was applied, 0..1.
        positive: score reached the threshold.
        cam: (h, w) float32 class activation map over the whole image.
        bundle: the version that computed it.
        institution: the hospital, as the site's configuration names it.
        created_at: seconds since the epoch; the only clock that reaches the objects.
        predecessors: reports of earlier revisions of the study, which this one's takes the place of.
        standing: those whose place it does not take.
        confidence: what the score means; None where nobody asked.
        partial: images of the study did not come.
    """

    source: Dataset
    input_digest: str
    revision: int
    pixels: NDArray[np.float32]
    score: float
    threshold: float
    positive: bool
    cam: NDArray[np.float32]
    bundle: Bundle
    institution: str
    created_at: float
    predecessors: tuple[Predecessor, ...] = ()
    standing: tuple[Predecessor, ...] = ()
    confidence: Confidence | None = None
    partial: bool = False
