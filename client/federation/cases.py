"""The validated cases that may be reused here: read once, patients who object left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from client.store.site import Fold, Site
from client.vigilance.register import Case
from client.vigilance.register import cases as validated
from models.bundle import Bundle
from models.stats.intervals import Bools, Floats


@dataclass(frozen=True, slots=True)
class ReusableCases:
    """Validated, assessable cases of patients who do not object, in an order that does not change."""

    cases: tuple[Case, ...]

    @classmethod
    def of(cls, site: Site) -> Self:
        found = [case for case in validated(site) if not case.objects]
        return cls(tuple(sorted(found, key=lambda case: case.input_digest)))

    def fold(self, fold: Fold) -> list[Case]:
        return [case for case in self.cases if case.fold == fold]


def labels(cases: Sequence[Case]) -> Bools:
    """(N,) the truth."""
    return np.array([case.positive for case in cases], dtype=bool)


def scores_of(values: NDArray[np.float32]) -> Floats:
    """(N,) scores in double precision, as the statistics want them."""
    return values.astype(np.float64)


def tensors(site: Site, bundle: Bundle, cases: Sequence[Case]) -> NDArray[np.float32]:
    """(N, 1, H, W) what the version's network takes of these cases; from the cache, else from the archive."""
    from client.inference.tensors import TensorCache

    cache = TensorCache(site, bundle)
    return np.stack([cache.get(case.input_digest) for case in cases])
