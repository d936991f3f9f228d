"""The whole way of one study: its images, scope, pixels, tensor, score; or the reasons why there is none.

Nothing is guessed: an image that fits the intended use and cannot be read refuses the study, rather than letting the
rest of it answer for what nobody has looked at.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from client.dicom import decode
from client.inference.batch import Batcher, Tensor
from client.inference.choice import Candidate, Choice, Record, choose, stratum_of
from client.inference.scope import Acquisition, InScope, OutOfScope, Reason, check, missing_series, unfamiliar
from client.inference.serving import Outlining, Scoring, Serving
from client.inference.study import Image, Study
from client.results.results import Finding
from models.errors import BundleRefused, InvalidStudy
from models.intended_use import IntendedUse
from models.preprocessing import Preprocessing

if TYPE_CHECKING:  # the web process retries studies through here, and has no use for an engine
    from client.inference.outlining import Priors
    from client.results.outlines import Outlined


Fitting = Sequence[tuple[Image, FileDataset]]
"""The images that a version may read, with their headers; at least one."""


@dataclass(frozen=True, slots=True)
class Scored:
    """The finding of the study's highest scoring image, and why this version read it."""

    image: Image
    finding: Finding
    engine: str
    choice: Choice | None = None
    stratum: str = ""

    @property
    def best(self) -> Finding:
        return self.finding


@dataclass(frozen=True, slots=True)
class ScoredVolumes:
    """What was outlined in the study's series; `reasons` say which of them could not be read."""

    outlined: tuple[Outlined, ...]
    image: Image
    engine: str
    reasons: tuple[Reason, ...]
    choice: Choice | None = None
    stratum: str = ""

    @property
    def best(self) -> Outlined:
        """The series with the highest score."""
        return max(self.outlined, key=lambda one: (one.positive, one.score))


@dataclass(frozen=True, slots=True)
class Refused:
    """Not read, and why; `version` is the digest that would have read it, None where none serves."""

    reasons: tuple[Reason, ...]
    version: str | None


@dataclass(frozen=True, slots=True)
class Failed:
    """It should have been read and was not: for an operator to mend and retry."""

    reason: Reason


Outcome = Scored | ScoredVolumes | Refused | Failed


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
        panel: gives the versions that may read, none where none is adopted.
        institution: as results name it.
        priors: gives what was measured in earlier studies of a patient.
        record: gives what is known of the versions here.
        batcher: scores radiographs of several studies together; studies may be processed in several threads at once.
    """

    def __init__(
        self,
        files: Files,
        tensors: Keeper,
        panel: Callable[[], Sequence[Serving]],
        institution: str,
        priors: Priors = lambda _study, _name: (),
        record: Callable[[], Record] = dict,
        batcher: Batcher | None = None,
    ) -> None:
        self._files = files
        self._tensors = tensors
        self._panel = panel
        self._institution = institution
        self._priors = priors
        self._record = record
        self._batcher = batcher or Batcher()
        self._volume = threading.Lock()  # one at a time: two volumes would not fit where one just does

    def process(self, study: Study) -> Outcome:
        """Read one study with the version of the panel that is the best for it."""
        try:
            versions = self._panel()
        except BundleRefused as error:
            return Failed(Reason(error.code, str(error)))
        if not versions:
            return Refused((Reason("no-version", "no model version is adopted here"),), None)
        return self.read_by(study, versions)

    def read_by(self, study: Study, versions: Sequence[Serving]) -> Outcome:
        """Read one study with the best of some versions, at least one."""
        try:
            headers = [(image, self._header(image)) for image in study.images]
            fitting: dict[str, Fitting] = {}
            reasons: dict[Reason, None] = {}
            for version in versions:
                found = _fitting(headers, version.bundle.facts.intended_use)
                if isinstance(found, OutOfScope):
                    reasons.update(dict.fromkeys(found.reasons))
                else:
                    fitting[version.bundle.digest] = found
            if not fitting:
                return Refused(tuple(reasons), versions[0].bundle.digest)
            by_digest = {version.bundle.digest: version for version in versions}
            stratum = _stratum(next(iter(fitting.values()))[0][1])
            choice = choose([_candidate(by_digest[digest]) for digest in fitting], self._record(), stratum)
            read = self._read(study, fitting[choice.digest], by_digest[choice.digest])
        except InvalidStudy as error:
            return Refused((Reason(error.reason, str(error)),), versions[0].bundle.digest)
        except BundleRefused as error:
            return Failed(Reason(error.code, str(error)))
        return read if isinstance(read, Refused) else replace(read, choice=choice, stratum=stratum)

    def _read(self, study: Study, fitting: Fitting, version: Serving) -> Scored | ScoredVolumes | Refused:
        try:
            if isinstance(version, Outlining):
                return self._outline(study, fitting, version)
            # one at a time: only the highest one's pixels stay in memory
            highest = self._score(study, *fitting[0], version)
            for image, header in fitting[1:]:
                highest = max(highest, self._score(study, image, header, version), key=lambda one: one.finding.score)
            return highest
        except InvalidStudy as error:
            return Refused((Reason(error.reason, str(error)),), version.bundle.digest)

    def _header(self, image: Image) -> FileDataset | InvalidStudy:
        try:
            return decode.read_header(self._files.path(image.sha256))
        except InvalidStudy as error:
            return error

    def _outline(self, study: Study, fitting: Fitting, version: Outlining) -> ScoredVolumes:
        from client.inference.outlining import outline  # the web process has no use for it

        with self._volume:
            made, reasons = outline(study, fitting, version, self._files, self._institution, self._priors)
        found = ScoredVolumes(made, fitting[0][0], version.engine.provider, reasons)
        key = found.best.stack.planes[found.best.key_plane].digest
        return replace(found, image=next(image for image, _ in fitting if image.sha256 == key))

    def _score(self, study: Study, image: Image, header: FileDataset, version: Scoring) -> Scored:
        with self._batcher.expecting(version.engine) as score:
            radiograph, tensor = self._prepare(image, header, version)
            answer = score(tensor)
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

    def _prepare(self, image: Image, header: FileDataset, version: Scoring) -> tuple[decode.Radiograph, Tensor]:
        """The pixels of one image, and what the network takes of it."""
        radiograph = decode.read(self._files.path(image.sha256), header)
        tensor = version.preprocessing(radiograph.pixels)
        if reason := unfamiliar(version.novelty, tensor):
            raise InvalidStudy(reason.code, reason.text)
        self._tensors.keep(image.sha256, version.preprocessing, tensor)
        return radiograph, tensor


def _fitting(headers: Sequence[tuple[Image, FileDataset | InvalidStudy]], use: IntendedUse) -> Fitting | OutOfScope:
    """The images that the version may read, with their headers; where there is none, every reason of every image, once
    each.

    Raises:
        InvalidStudy: two patients, or a header that cannot be read of an object that the version would read.
    """
    if not headers:
        return OutOfScope((Reason("conflicting", "every image has the UID of another one that differs"),))
    fitting: list[tuple[Image, FileDataset]] = []
    patients: set[tuple[str, str]] = set()
    acquisitions: list[Acquisition] = []
    reasons: dict[Reason, None] = {}
    for image, header in headers:
        if isinstance(header, InvalidStudy):
            if image.sop_class in use.sop_classes:
                raise header
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


def _stratum(header: Dataset) -> str:
    acquisition = Acquisition.from_dataset(header)
    return stratum_of(_text(header, "PatientSex"), acquisition.age_years, header.get("Manufacturer"))


def _candidate(version: Serving) -> Candidate:
    facts = version.bundle.facts
    return Candidate(version.bundle.digest, facts.label, facts.rank)


def _text(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip()
