"""What a version outlined in a series and in a study, with all that the result objects say."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from client.dicom.series import Stack
from client.inference.measure import Growth, Measured
from client.results.confidence import Confidence
from client.results.result import Predecessor
from models.bundle import Bundle
from models.segmentation import Label


@dataclass(frozen=True)
class Outlined:
    """One series that a version outlined, with all that its result objects say.

    Attributes:
        stack: the planes that were read.
        labels: (n, rows, columns) uint8 on them: 0, or the value of a label.
        key_pixels: (rows, columns) float32 of the plane that is drawn, larger is whiter.
        measured: the labels that count as found.
        growth: by value of the label, where a prior was measured.
        score: 0..1, highest probability of any label.
        threshold: of a voxel's probability.
        revision: of the study.
        bundle: the version that computed it.
        institution: the hospital, as the site's configuration names it.
        created_at: seconds since the epoch; the only clock that reaches the objects.
        chances: (n, rows, columns) uint8, 255 times the highest probability of any label; None where nobody asked for
            them.
        partial: images of the study did not come, or another of its series fits and could not be read.
        predecessors: reports of earlier revisions of the study, which this one's takes the place of.
        standing: those whose place it does not take.
        confidence: what the study's score means; on its best series alone.
        uncompared: why there is no growth since the last earlier study, for a person; empty where there is no reason.
    """

    stack: Stack
    labels: NDArray[np.uint8]
    key_pixels: NDArray[np.float32]
    measured: tuple[Measured, ...]
    growth: dict[int, Growth]
    score: float
    threshold: float
    revision: int
    bundle: Bundle
    institution: str
    created_at: float
    chances: NDArray[np.uint8] | None = None
    partial: bool = False
    predecessors: tuple[Predecessor, ...] = ()
    standing: tuple[Predecessor, ...] = ()
    confidence: Confidence | None = None
    uncompared: str = ""

    @property
    def positive(self) -> bool:
        return bool(self.measured)

    @property
    def source(self) -> Dataset:
        return self.stack.planes[self.key_plane].header

    @property
    def input_digest(self) -> str:
        return self.stack.digest

    @property
    def key_plane(self) -> int:
        """The plane to look at first: of the largest found label, else the middle one."""
        if not self.measured:
            return len(self.stack.planes) // 2
        return max(self.measured, key=lambda one: one.volume_ml).plane

    @cached_property
    def found(self) -> tuple[tuple[Label, Measured], ...]:
        """The labels that count as found, as declared and as measured, in the order of the segments."""
        declared = self.bundle.facts.segmentation
        assert declared is not None  # no other version outlines
        by_value = {label.value: label for label in declared.labels}
        return tuple((by_value[one.value], one) for one in self.measured)


@dataclass(frozen=True)
class OutlinedStudy:
    """Everything that was outlined in one study: what its one report speaks of.

    Attributes:
        series: at least one; the first is the one to look at first, and its answer is the study's.
    """

    series: tuple[Outlined, ...]

    @property
    def first(self) -> Outlined:
        return self.series[0]

    @property
    def source(self) -> Dataset:
        return self.first.source

    @property
    def input_digest(self) -> str:
        """Of the one series, or SHA-256 over those of all of them, in whatever order they were read."""
        if len(self.series) == 1:
            return self.first.input_digest
        return hashlib.sha256("\n".join(sorted(one.input_digest for one in self.series)).encode()).hexdigest()

    @property
    def revision(self) -> int:
        return self.first.revision

    @property
    def bundle(self) -> Bundle:
        return self.first.bundle

    @property
    def institution(self) -> str:
        return self.first.institution

    @property
    def created_at(self) -> float:
        return self.first.created_at

    @property
    def predecessors(self) -> tuple[Predecessor, ...]:
        return self.first.predecessors

    @property
    def standing(self) -> tuple[Predecessor, ...]:
        return self.first.standing


def described(label: Label, one: Measured) -> str:
    """A found label in a line: name, volume, diameters."""
    sizes = f", {one.long_mm:.1f} x {one.short_mm:.1f} mm" if one.long_mm is not None else ""
    return f"{label.name} {one.volume_ml:.2f} mL{sizes}"
