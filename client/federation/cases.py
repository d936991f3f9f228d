"""The validated cases that may be reused here: read once, patients who object left out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from client.inference.tensors import Tensors
from client.store.archive import Archive
from client.store.site import Fold, Site
from client.vigilance.register import Case
from client.vigilance.register import cases as validated
from models.bundle import Bundle
from models.preprocessing import Preprocessing
from models.stats.intervals import Bools


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


def tensors(site: Site, bundle: Bundle, cases: Sequence[Case]) -> NDArray[np.float32]:
    """(N, 1, H, W) what the version's network takes of these cases; from the cache, else from the archive."""
    preprocessing = Preprocessing(bundle.preprocessing)
    cache = Tensors(site.tensors, Archive(site.archive))
    return np.stack([cache.get(case.input_digest, preprocessing) for case in cases])
