"""A version in service, with what it needs to read a study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.bundle import Bundle
from models.novelty import Novelty
from models.preprocessing import Preprocessing
from models.segmentation import Segmentation
from models.volume_novelty import VolumeNovelty

if TYPE_CHECKING:  # whoever only asks what serves has no use for an engine
    from client.inference.engine import Engine
    from client.inference.volume_engine import VolumeEngine


@dataclass(frozen=True, slots=True)
class Scoring:
    """A version that scores single images.

    Attributes:
        threshold: this hospital's operating threshold, the vendor's where it has set none.
        novelty: refuses images unlike the version's training cohort; None where it ships no such check.
    """

    bundle: Bundle
    engine: Engine
    preprocessing: Preprocessing
    threshold: float
    novelty: Novelty | None = None


@dataclass(frozen=True, slots=True)
class Outlining:
    """A version that outlines structures in volumes.

    Attributes:
        declared: its grid, windows and labels.
        threshold: of a voxel's probability.
        novelty: refuses volumes unlike the version's training cohort; None where it ships no such check.
    """

    bundle: Bundle
    engine: VolumeEngine
    preprocessing: Preprocessing
    declared: Segmentation
    threshold: float
    novelty: VolumeNovelty | None = None


Serving = Scoring | Outlining
