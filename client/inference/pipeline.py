"""The whole way of one study: its images, scope, pixels, tensor, score; or the reasons why there is none.

Nothing is guessed: an image that fits the intended use and cannot be read refuses the study, rather than letting the
rest of it answer for what nobody has looked at.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset

from client.dicom.decode import Radiograph
from client.dicom.person import TWO_PEOPLE, several
from client.inference.ahead import Opened, Reading
from client.inference.batch import Batcher
from client.inference.choice import Candidate, Choice, Record, choose, stratum_of
from client.inference.memory import TOO_LARGE
from client.inference.scope import Acquisition, Code, InScope, OutOfScope, Reason, check, missing_series, unfamiliar
from client.inference.serving import Outlining, Scoring, Serving
from client.inference.spacing import asked, by_positions
from client.inference.study import NOT_READ, Image, Study, left_out, taken_out
from client.inference.traits import Traits, traits_of
from client.inference.whole import Judged, torn
from client.results.confidence import Confidence
from client.results.finding import Finding
from models.bundle import Bundle
from models.coding import Coding
from models.errors import BundleRefused, InvalidStudy
from models.intended_use import IntendedUse
from models.preprocessing import Made, Preprocessing

if TYPE_CHECKING:  # the web process retries studies through here, and has no use for an engine
    from client.inference.outlining import Priors
    from client.results.outlined import Outlined
    from models.bundle import Facts


NOT_ONE_PATIENT: Final = Reason(TWO_PEOPLE, "the study's images name different patients")


@dataclass(frozen=True, slots=True)
class Fitting:
    """What of a study a version may read.

    Attributes:
        images: with their headers; at least one.
        left_out: why series are not among them of which some images fit.
    """

    images: Sequence[tuple[Image, FileDataset]]
    left_out: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Scored:
    """The finding of the study's highest scoring image, and why this version read it; `reasons` say what was not there
    to be read, `read` which images were, by UID.
    """

    image: Image
    finding: Finding
    engine: str
    choice: Choice | None = None
    stratum: str = ""
    prepared_by: str = ""
    reasons: tuple[Reason, ...] = ()
    read: frozenset[str] = frozenset()

    @property
    def best(self) -> Finding:
        return self.finding

    def sure(self, confidence: Confidence | None) -> Scored:
        """The same, saying how sure it is."""
        return replace(self, finding=replace(self.finding, confidence=confidence))


@dataclass(frozen=True, slots=True)
class ScoredVolumes:
    """What was outlined in the study's series; `reasons` say what of it was not there, or could not be read."""

    outlined: tuple[Outlined, ...]
    image: Image
    engine: str
    reasons: tuple[Reason, ...]
    choice: Choice | None = None
    stratum: str = ""
    prepared_by: str = ""

    @property
    def best(self) -> Outlined:
        """The series with the highest score."""
        return max(self.outlined, key=lambda one: (one.positive, one.score))

    @property
    def read(self) -> frozenset[str]:
        """UIDs of the series."""
        return frozenset(one.stack.series_uid for one in self.outlined)

    def sure(self, confidence: Confidence | None) -> ScoredVolumes:
        """The same, its best series saying how sure the study's result is."""
        best = self.best
        marked = tuple(replace(one, confidence=confidence) if one is best else one for one in self.outlined)
        return replace(self, outlined=marked)


@dataclass(frozen=True, slots=True)
class Refused:
    """Not read, and why.

    Attributes:
        version: digest of the one that would have read it; None where none serves.
        traits: what was seen of an image before it was refused as unlike the version's training.
    """

    reasons: tuple[Reason, ...]
    version: str | None
    traits: Traits | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """It should have been read and was not: for an operator to mend and retry.

    Attributes:
        reason: why it was not.
        also: what else is known to be wrong with it.
    """

    reason: Reason
    also: tuple[Reason, ...] = ()

    @property
    def reasons(self) -> tuple[Reason, ...]:
        return (self.reason, *self.also)


Outcome = Scored | ScoredVolumes | Refused | Failed


class _Unfamiliar(InvalidStudy):
    """An image that looks like nothing its version was trained on, and what was seen of it."""

    def __init__(self, reason: Reason, traits: Traits) -> None:
        super().__init__(reason.code, reason.text)
        self.traits = traits


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
        heat_maps: keep the probabilities of what is outlined, for a map of them.
        confidence: gives what a version's score means; None where nobody asks.
        reading: decodes and prepares images.
        admit: says why a version cannot read images for want of memory.
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
        heat_maps: bool = False,
        confidence: Callable[[Bundle, float], Confidence | None] = lambda _bundle, _score: None,
        reading: Reading | None = None,
        admit: Callable[[Facts, Sequence[Image], float], Reason | None] = lambda _facts, _images, _grown: None,
        batcher: Batcher | None = None,
    ) -> None:
        self._files = files
        self._tensors = tensors
        self._panel = panel
        self._institution = institution
        self._priors = priors
        self._record = record
        self._heat_maps = heat_maps
        self._confidence = confidence
        self._reading = reading or Reading()
        self._admit = admit
        self._batcher = batcher or Batcher()
        self._volume = threading.Lock()  # one at a time: two volumes would not fit where one just does

    def process(self, study: Study) -> Outcome:
        """Read one study with the version of the panel that is the best for it."""
        try:
            versions = self._panel()
        except BundleRefused as error:
            return self._of_two(study) or Failed(Reason(error.code, str(error)))
        if not versions:
            return self._of_two(study) or Refused((Reason("no-version", "no model version is adopted here"),), None)
        return self.read_by(study, versions)

    def _of_two(self, study: Study) -> Refused | None:
        """What is said of a study of two people, also where no version is there to read it: whether results of earlier
        revisions may still be believed, and sent, depends on it.
        """
        try:
            _require_one_patient([(image, self._opened(image)) for image in study.images])
        except InvalidStudy as error:
            return Refused((Reason(error.reason, str(error)),), None)
        return None

    def read_by(self, study: Study, versions: Sequence[Serving]) -> Outcome:
        """Read one study with the best of some versions, at least one."""
        if reason := _nothing(study):
            return Refused((reason,), versions[0].bundle.digest)
        try:
            headers = [(image, self._opened(image)) for image in study.images]
            gone = [(image, self._opened(image)) for image in study.gone]
            _require_one_patient(headers)
            if any(asked(version.bundle.facts.intended_use) for version in versions):
                headers = _placed(headers)
            fitting: dict[str, Fitting] = {}
            reasons: dict[Reason, None] = {}
            for version in versions:
                use, whole = version.bundle.facts.intended_use, isinstance(version, Outlining)
                found = _fitting(headers, use, gone if whole else None)
                if isinstance(found, OutOfScope):
                    reasons.update(dict.fromkeys(found.reasons))
                else:
                    fitting[version.bundle.digest] = found
            if not fitting:
                return Refused(tuple(reasons), versions[0].bundle.digest)
            by_digest = {version.bundle.digest: version for version in versions}
            stratum = _stratum(next(iter(fitting.values())).images[0][1])
            meant = {digest: frozenset(image.sop_uid for image, _ in one.images) for digest, one in fitting.items()}
            suspended = [digest for digest in fitting if by_digest[digest].suspended]
            fitting = {digest: one for digest, one in fitting.items() if digest not in suspended}
            if not fitting:
                label = by_digest[suspended[0]].bundle.facts.label
                return Refused((Reason("suspended", f"{label}, which would read this, is suspended"),), suspended[0])
            refused: Refused | None = None
            while True:
                alike = _alike([by_digest[digest] for digest in fitting], meant, study.standing)
                choice = choose([_candidate(version) for version in alike], self._record(), stratum)
                others = _unread(meant, choice.digest, by_digest)
                read = self._read(study, fitting.pop(choice.digest), by_digest[choice.digest], others)
                if not _unlike(read):
                    break
                refused = refused or read  # what the first said stands where no other one reads it either
                if not fitting:
                    return refused
        except InvalidStudy as error:
            return Refused((Reason(error.reason, str(error)),), versions[0].bundle.digest)
        except BundleRefused as error:
            return Failed(Reason(error.code, str(error)))
        if isinstance(read, Refused | Failed):
            return read
        sure = read.sure(self._confidence(read.best.bundle, read.best.score))
        return replace(sure, choice=choice, stratum=stratum)

    def _read(self, study: Study, fitting: Fitting, version: Serving, others: tuple[Reason, ...]) -> Outcome:
        if reason := self._admit(version.bundle.facts, [image for image, _ in fitting.images], 1.0):
            return Failed(reason)
        lacking = (*fitting.left_out, *others, *_missing(study))
        try:
            if isinstance(version, Outlining):
                return self._outline(study, fitting.images, version, lacking)
            # one at a time: only the highest one's pixels stay in memory
            highest = self._score(study, *fitting.images[0], version)
            for image, header in fitting.images[1:]:
                highest = max(highest, self._score(study, image, header, version), key=lambda one: one.finding.score)
            finding = replace(highest.finding, partial=bool(lacking))
            read = frozenset(image.sop_uid for image, _ in fitting.images)
            return replace(highest, finding=finding, reasons=lacking, read=read)
        except InvalidStudy as error:
            if error.reason == TOO_LARGE:  # more memory mends it
                return Failed(Reason(error.reason, str(error)))
            seen = error.traits if isinstance(error, _Unfamiliar) else None
            return Refused((Reason(error.reason, str(error)), *lacking), version.bundle.digest, seen)

    def _opened(self, image: Image) -> Opened | InvalidStudy:
        try:
            return self._reading.opened(self._files.path(image.sha256))
        except InvalidStudy as error:
            return error

    def _outline(
        self,
        study: Study,
        fitting: Sequence[tuple[Image, FileDataset]],
        version: Outlining,
        lacking: tuple[Reason, ...],
    ) -> ScoredVolumes:
        from client.inference.outlining import outline  # the web process has no use for it

        with self._volume:
            made, reasons = outline(
                study,
                fitting,
                version,
                self._files,
                self._institution,
                self._priors,
                self._reading,
                heat_maps=self._heat_maps,
                lacking=lacking,
                admit=self._admit,
            )
        by = version.preprocessing.by
        found = ScoredVolumes(made, fitting[0][0], version.engine.provider, reasons, prepared_by=by)
        key = found.best.stack.planes[found.best.key_plane].digest
        return replace(found, image=next(image for image, _ in fitting if image.sha256 == key))

    def _score(self, study: Study, image: Image, header: FileDataset, version: Scoring) -> Scored:
        with self._batcher.expecting(version.engine) as score:
            radiograph, prepared = self._prepare(image, header, version)
            answer = score(prepared.tensor)
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
        return Scored(image, finding, version.engine.provider, prepared_by=prepared.by)

    def _prepare(self, image: Image, header: FileDataset, version: Scoring) -> tuple[Radiograph, Made]:
        """The pixels of one image, and what the network takes of it."""
        path = self._files.path(image.sha256)
        radiograph = self._reading.radiograph(path, header)
        made = self._reading.made(path, version.preprocessing, radiograph.pixels)
        if reason := unfamiliar(version.novelty, made.tensor):
            raise _Unfamiliar(reason, traits_of(header, radiograph.pixels, None))
        self._tensors.keep(image.sha256, version.preprocessing, made.tensor)
        return radiograph, made


def _require_one_patient(headers: Sequence[tuple[Image, Opened | InvalidStudy]]) -> None:
    """Reports and presentation states are not asked: nobody scores them, and workstations write what they like there.

    Raises:
        InvalidStudy: the images are of two people.
    """
    opened = [one for _, one in headers if isinstance(one, Opened)]
    if several(one.header for one in opened if _has_pixels(one)):
        raise InvalidStudy(NOT_ONE_PATIENT.code, NOT_ONE_PATIENT.text)


def _has_pixels(one: Opened) -> bool:
    return bool(one.acquisition.rows and one.acquisition.columns)


def _placed(
    headers: Sequence[tuple[Image, Opened | InvalidStudy]],
) -> list[tuple[Image, Opened | InvalidStudy]]:
    """The headers with the slice spacing of their series' positions."""
    opened = [one for _, one in headers if isinstance(one, Opened)]
    found = iter(by_positions([(one.header, one.acquisition) for one in opened]))
    return [
        (image, replace(one, acquisition=next(found)) if isinstance(one, Opened) else one) for image, one in headers
    ]


def _fitting(
    headers: Sequence[tuple[Image, Opened | InvalidStudy]],
    use: IntendedUse,
    gone: Sequence[tuple[Image, Opened | InvalidStudy]] | None,
) -> Fitting | OutOfScope:
    """The images that the version may read; where there is none, every reason of every image, once each.

    A series that the version requires is missing only where something of the study fits: another examination lacks
    nothing.

    Args:
        gone: images that were taken out since they are bad; the version reads series, so that one fits as a whole or
            not at all. None: it reads images.

    Raises:
        InvalidStudy: a header that cannot be read of an object that the version would read.
    """
    fitting: list[tuple[Image, Opened]] = []
    judged: list[Judged] = []
    acquisitions: list[Acquisition] = []
    reasons: dict[Reason, None] = {}
    # what has no pixels is not why images are not read
    shows = any(isinstance(one, Opened) and _has_pixels(one) for _, one in headers)
    for image, opened in headers:
        if isinstance(opened, InvalidStudy):
            if image.sop_class in use.sop_classes:
                raise opened
            reasons[Reason("not-dicom", "the header cannot be read")] = None
            continue
        acquisitions.append(opened.acquisition)
        scope = check(use, opened.acquisition)
        judged.append((opened.header, opened.acquisition, scope))
        if isinstance(scope, InScope):
            fitting.append((image, opened))
        elif _has_pixels(opened) or not shows:
            reasons.update(dict.fromkeys(scope.reasons))
    left_out = {} if gone is None else torn(judged, gone)
    images = [(image, opened.header) for image, opened in fitting if opened.acquisition.series not in left_out]
    if not images:
        torn_by = (reason for found in left_out.values() for reason in found)
        return OutOfScope(tuple(dict.fromkeys((*reasons, *torn_by))))
    if absent := missing_series(use, acquisitions):
        return OutOfScope(absent)  # what is wrong with other images is not why
    return Fitting(images, tuple(dict.fromkeys(reason for found in left_out.values() for reason in found)))


def _alike(versions: Sequence[Serving], meant: Mapping[str, frozenset[str]], names: Collection[str]) -> list[Serving]:
    """Of versions that fit a study, those to choose among: they look for the same finding on the same images, for only
    then do their records say which of them is the better.

    Those go first that may read again what is known to have a finding, then those that read the most of the study.

    Args:
        meant: by digest, the UIDs of the images that fit.
        names: of the models of which positive results of the study stand.
    """
    first = min(
        versions,
        key=lambda version: (
            version.bundle.facts.name not in names,
            -len(meant[version.bundle.digest]),
            version.bundle.facts.rank,
            version.bundle.facts.label,
        ),
    )
    images, finding = meant[first.bundle.digest], first.bundle.facts.finding
    return [one for one in versions if meant[one.bundle.digest] == images and _same(one.bundle.facts.finding, finding)]


def _same(one: Coding, other: Coding) -> bool:
    return (one.scheme, one.value) == (other.scheme, other.value)


def _unread(meant: Mapping[str, frozenset[str]], by: str, versions: Mapping[str, Serving]) -> tuple[Reason, ...]:
    """What another version is meant for, and the one that reads is not: no finding is no all-clear of it."""
    found: list[Reason] = []
    for digest, images in meant.items():
        facts = versions[digest].bundle.facts
        if not _same(facts.finding, versions[by].bundle.facts.finding):
            found.append(Reason(NOT_READ, f"{facts.label} was not asked, which looks for {facts.finding.meaning}"))
        elif more := len(images - meant[by]):
            found.append(Reason(NOT_READ, f"{facts.label} was not asked, which fits {more} more of the images"))
    return tuple(found)


def _missing(study: Study) -> tuple[Reason, ...]:
    found: list[Reason] = []
    came = len(study.images)
    if study.missing:
        found.append(Reason("incomplete", f"{came + study.missing} images were expected, {came} came"))
    if study.conflicting:
        found.append(Reason("conflicting", left_out(study.conflicting)))
    return tuple(found)


def _nothing(study: Study) -> Reason | None:
    """Why there is no image to read; None where there is one, or something else that says why itself."""
    if study.excluded and not any(image.pixels for image in study.images):
        return Reason("left-out", taken_out(study.excluded))  # what is left is the word that rejects them
    if study.images:
        return None
    if study.conflicting:
        return Reason("conflicting", "every image has the UID of another one that differs")
    return Reason("moved", "the copies that stand of its images are of another study")


def _unlike(read: Outcome) -> TypeGuard[Refused]:
    """Whether an image is unlike those of the version's training, which another version's may well be like."""
    return isinstance(read, Refused) and any(reason.code == Code.NOVEL_IMAGE for reason in read.reasons)


def _stratum(header: Dataset) -> str:
    acquisition = Acquisition.from_dataset(header)
    return stratum_of(_text(header, "PatientSex"), acquisition.age_years, header.get("Manufacturer"))


def _candidate(version: Serving) -> Candidate:
    facts = version.bundle.facts
    return Candidate(version.bundle.digest, facts.label, facts.rank)


def _text(header: Dataset, keyword: str) -> str:
    return str(header.get(keyword) or "").strip()
