"""The whole way of one study: its images, scope, pixels, tensor, score; or the reasons why there is none.

Nothing is guessed: an image that fits the intended use and cannot be read refuses the study, rather than letting the
rest of it answer for what nobody has looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from client.dicom import decode
from client.dicom.results import Finding
from client.inference.scope import Acquisition, InScope, OutOfScope, Reason, check, missing_series, unfamiliar
from models.errors import BundleRefused, InvalidStudy
from models.intended_use import IntendedUse
from models.preprocessing import Preprocessing

if TYPE_CHECKING:  # the web process retries studies through here, and has no use for an engine
    from client.inference.panel import Serving


@dataclass(frozen=True, slots=True)
class Image:
    """One stored instance of a study."""

    sop_uid: str
    sop_class: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Study:
    """A queued study and its instances, oldest first, without the conflicting ones."""

    uid: str
    revision: int
    attempts: int
    touched_at: float
    images: tuple[Image, ...]


@dataclass(frozen=True, slots=True)
class Scored:
    """The finding of the study's highest scoring image."""

    image: Image
    finding: Finding
    engine: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Not read, and why; `version` is the digest that would have read it, None where none serves."""

    reasons: tuple[Reason, ...]
    version: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """It should have been read and was not: for an operator to mend and retry."""

    reason: Reason


Outcome = Scored | Refused | Failed


class Files(Protocol):
    """Where the content with a digest lies."""

    def path(self, digest: str) -> Path: ...


class Keeper(Protocol):
    """Keeps what was preprocessed."""

    def keep(self, sha256: str, preprocessing: Preprocessing, tensor: NDArray[np.float32]) -> None: ...


class Pipeline:
    """Scores studies of one site.

    Args:
        files: the site's archive.
        tensors: keeps what was preprocessed, for local training.
        serving: gives the version to score with, or None.
        institution: as results name it.
    """

    def __init__(self, files: Files, tensors: Keeper, serving: Callable[[], Serving | None], institution: str) -> None:
        self._files = files
        self._tensors = tensors
        self._serving = serving
        self._institution = institution

    def process(self, study: Study) -> Outcome:
        """Read one study with the version in service."""
        try:
            version = self._serving()
            if version is None:
                return Refused((Reason("no-version", "no model version is adopted here"),), None)
            return self._read(study, version)
        except BundleRefused as error:
            return Failed(Reason(error.code, str(error)))

    def _read(self, study: Study, version: Serving) -> Scored | Refused:
        digest = version.bundle.digest
        try:
            fitting = self._fitting(study.images, version.bundle.facts.intended_use)
            if isinstance(fitting, OutOfScope):
                return Refused(fitting.reasons, digest)
            # one at a time: only the highest one's pixels stay in memory
            highest = self._score(study, *fitting[0], version)
            for image, header in fitting[1:]:
                highest = max(highest, self._score(study, image, header, version), key=lambda one: one.finding.score)
        except InvalidStudy as error:
            return Refused((Reason(error.reason, str(error)),), digest)
        return highest

    def _fitting(self, images: Sequence[Image], use: IntendedUse) -> list[tuple[Image, FileDataset]] | OutOfScope:
        """The images that the version may read, with their headers; where there is none, every reason of every image,
        once each.
        """
        if not images:
            return OutOfScope((Reason("conflicting", "every image has the UID of another one that differs"),))
        fitting: list[tuple[Image, FileDataset]] = []
        patients: set[tuple[str, str]] = set()
        acquisitions: list[Acquisition] = []
        reasons: dict[Reason, None] = {}
        for image in images:
            header = self._header(image, use)
            if header is None:
                reasons[Reason("not-dicom", "the header cannot be read")] = None
                continue
            patients.add((_text(header, "PatientID"), _text(header, "IssuerOfPatientID")))
            acquisitions.append(Acquisition.from_dataset(header))
            scope = check(use, acquisitions[-1])
            if isinstance(scope, InScope):
                fitting.append((image, header))
            else:
                reasons.update(dict.fromkeys(scope.reasons))
        if len({patient for patient in patients if patient[0]}) > 1:
            raise InvalidStudy("patient-mismatch", "the study's images name different patients")
        reasons.update(dict.fromkeys(absent := missing_series(use, acquisitions)))
        return OutOfScope(tuple(reasons)) if absent or not fitting else fitting

    def _header(self, image: Image, use: IntendedUse) -> FileDataset | None:
        """An image's header; None where it cannot be read and the version would not read that kind of object anyway."""
        try:
            return decode.read_header(self._files.path(image.sha256))
        except InvalidStudy:
            if image.sop_class in use.sop_classes:
                raise
            return None

    def _score(self, study: Study, image: Image, header: FileDataset, version: Serving) -> Scored:
        radiograph = decode.read(self._files.path(image.sha256), header)
        tensor = version.preprocessing(radiograph.pixels)
        if reason := unfamiliar(version.novelty, tensor):
            raise InvalidStudy(reason.code, reason.text)
        self._tensors.keep(image.sha256, version.preprocessing, tensor)
        answer = version.engine.run(tensor)
        finding = Finding(
            source=radiograph.header,
            input_digest=image.sha256,
            revision=study.revision,
            pixels=radiograph.pixels,
            score=answer.score,
            threshold=version.threshold,
            positive=answer.score >= version.threshold,
            cam=answer.cam,
            bundle=version.bundle,
            institution=self._institution,
            created_at=time.time(),
        )
        return Scored(image, finding, version.engine.provider)


def _text(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip()
