"""The validated cases that a model may learn from and be judged on here; patients who object are left out.

A hospital has several models. What a reader said of a nodule on a CT is no truth about pneumonia on a radiograph, so a
case counts for a model where one of its versions read it, or where another model's did that looks for the same finding
on an image which this one may read.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import select

from client.dicom import decode
from client.inference.scope import Acquisition, InScope, check
from client.inference.tensors import Tensors
from client.store.archive import Archive
from client.store.site import Fold, Site
from client.store.tables import patient
from client.vigilance.register import Case
from client.vigilance.register import cases as validated
from models.bundle import Bundle, Facts
from models.errors import InvalidStudy
from models.preprocessing import Preprocessing
from models.stats.intervals import Bools


@dataclass(frozen=True, slots=True)
class ReusableCases:
    """A model's validated, assessable cases of patients who do not object, in an order that does not change."""

    cases: tuple[Case, ...]

    @classmethod
    def of(cls, site: Site, facts: Facts) -> Self:
        """Those of the model that a version is of."""
        archive = Archive(site.archive)
        found = [case for case in validated(site) if not case.objects and _is_of(case, facts, archive)]
        return cls(tuple(sorted(found, key=lambda case: case.input_digest)))

    def fold(self, fold: Fold) -> list[Case]:
        return [case for case in self.cases if case.fold == fold]


def _is_of(case: Case, facts: Facts, archive: Archive) -> bool:
    if case.model == facts.name:
        return True
    if case.finding != (facts.finding.scheme, facts.finding.value):
        return False
    try:
        header = decode.read_header(archive.path(case.input_digest))
    except InvalidStudy:
        return False
    return isinstance(check(facts.intended_use, Acquisition.from_dataset(header)), InScope)


def objecting(site: Site) -> str:
    """A digest of the patients who object to reuse: another one, once somebody more does."""
    query = select(patient.c.key).where(patient.c.objects_to_reuse).order_by(patient.c.key)
    with site.database.read() as connection:
        return hashlib.sha256("\n".join(connection.execute(query).scalars()).encode()).hexdigest()


def labels(cases: Sequence[Case]) -> Bools:
    """(N,) the truth."""
    return np.array([case.positive for case in cases], dtype=bool)


def tensors(site: Site, bundle: Bundle, cases: Sequence[Case]) -> NDArray[np.float32]:
    """(N, 1, H, W) what the version's network takes of these cases; from the cache, else from the archive."""
    preprocessing = Preprocessing(bundle.preprocessing)
    cache = Tensors(site.tensors, Archive(site.archive))
    return np.stack([cache.get(case.input_digest, preprocessing) for case in cases])
