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
        suspended: it reads nothing until somebody lets it; what it would have read is refused, and that is why.
    """

    bundle: Bundle
    engine: Engine
    preprocessing: Preprocessing
    threshold: float
    novelty: Novelty | None = None
    suspended: bool = False


@dataclass(frozen=True, slots=True)
class Outlining:
    """A version that outlines structures in volumes.

    Attributes:
        declared: its grid, windows and labels.
        threshold: of a voxel's probability.
        novelty: refuses volumes unlike the version's training cohort; None where it ships no such check.
        suspended: as of `Scoring`.
    """

    bundle: Bundle
    engine: VolumeEngine
    preprocessing: Preprocessing
    declared: Segmentation
    threshold: float
    novelty: VolumeNovelty | None = None
    suspended: bool = False


Serving = Scoring | Outlining
