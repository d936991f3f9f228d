"""What the node would do with a folder of DICOM files: how IT tries a new scanner. Nothing is sent or stored.

The studies go the same way as those that arrive, through `Pipeline` to the result objects and the check before they
are sent; only the files stay where they are, and nothing is written into the site.
"""

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from pydicom.dataset import Dataset, FileDataset
from pynetdicom.dsutils import split_dataset

from client.arrival.completeness import Series, lacking
from client.arrival.rejection import SOP_CLASS as REJECTIONS
from client.arrival.rejection import Cause, rejection
from client.dicom import decode
from client.dicom.alike import alike
from client.dicom.person import differ, person_of
from client.inference.memory import Memory, budgets
from client.inference.objects import objects
from client.inference.outcomes import failure
from client.inference.panel import record
from client.inference.pipeline import Failed, Outcome, Pipeline, Refused, Scored, ScoredVolumes
from client.inference.refusals import Refusals
from client.inference.scope import Reason
from client.inference.serving import Serving
from client.inference.study import Image, Study
from client.results.confidence import Confidence
from client.results.conformity import examine
from client.store.site import Site
from client.vigilance.calibration import Calibrations
from configs.schema import ResultsConfig
from models.errors import BundleRefused, InvalidStudy, NotFound
from models.preprocessing import Preprocessing

_UIDS: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
_WHY_ASKED: Final = {
    True: "the version that this hospital adopted last",
    False: "the version that was to read it, and refused",
}


class Unread(BaseModel):
    """A file that belongs to no study: the gateway would have refused it, or kept it apart; or a folder or a link that
    cannot be looked into.
    """

    file: str
    reason: str
    text: str


class Why(BaseModel):
    """A coded reason, with a sentence for a person."""

    code: str
    text: str


class Structure(BaseModel):
    """What was outlined of one label in one series."""

    series: str
    label: str
    volume_ml: float
    long_mm: float | None
    short_mm: float | None


class Made(BaseModel):
    """A result object that the PACS would be sent.

    Attributes:
        kind: see `client.results.result.Kind`.
        problems: why it would be kept back instead; empty where nothing is wrong with it.
    """

    kind: str
    problems: list[str]


class TriedStudy(BaseModel):
    """What would become of one study.

    Attributes:
        files: of the study, relative to the folder, in their order; none where each of its images has the UID of
            another one that differs.
        outcome: `scored`, `refused`, or `failed` where something at the node is to be mended.
        reasons: of a refusal or failure; when scored, what of the study was not there, or could not be read.
        version: NAME@NUMBER that read it, or would have; None where none is adopted.
        version_why: why this version.
        score: 0..1, of the highest scoring file.
        threshold: that was applied, 0..1.
        confidence: what the score means here.
        scored_file: the file whose score it is; of a volume the plane to look at first.
        structures: what was outlined, where the version does that.
        objects: what would be made of it, in the order of sending.
    """

    study: str
    files: list[str]
    outcome: Literal["scored", "refused", "failed"]
    reasons: list[Why]
    version: str | None
    version_why: str
    score: float | None = None
    threshold: float | None = None
    positive: bool | None = None
    confidence: Confidence | None = None
    scored_file: str | None = None
    structures: list[Structure] = []
    objects: list[Made] = []
    engine: str | None = None
    prepared_by: str | None = None


class Trial(BaseModel):
    """All of a folder; every file is in one study or among the unread ones."""

    folder: str
    studies: list[TriedStudy]
    unread: list[Unread]


@dataclass
class _Found:
    """The files of a folder, by study, and where the content with a digest lies."""

    paths: dict[str, Path] = field(default_factory=lambda: dict[str, Path]())
    studies: dict[str, list[Image]] = field(default_factory=lambda: dict[str, list[Image]]())
    files: dict[str, list[str]] = field(default_factory=lambda: dict[str, list[str]]())
    series: dict[str, dict[str, Series]] = field(default_factory=lambda: dict[str, dict[str, Series]]())
    conflicting: dict[str, int] = field(default_factory=lambda: dict[str, int]())
    rejected: dict[str, dict[Image, Cause]] = field(default_factory=lambda: dict[str, dict[Image, Cause]]())
    unread: list[Unread] = field(default_factory=lambda: list[Unread]())

    def path(self, digest: str) -> Path:
        return self.paths[digest]


class _Nowhere:
    """Keeps no tensor."""

    def keep(self, sha256: str, preprocessing: Preprocessing, tensor: NDArray[np.float32]) -> None:
        return


def try_folder(
    site: Site,
    panel: Callable[[], Sequence[Serving]],
    folder: Path,
    on_study: Callable[[TriedStudy], None] | None = None,
) -> Trial:
    """Read every file under a folder as if it had arrived.

    Args:
        panel: gives the versions that may read.
        on_study: told each study as it is done.

    Raises:
        NotFound: there is no such folder.
    """
    if not folder.is_dir():
        raise NotFound(f"{_name(folder)} is not a folder")
    found = _scan(folder)
    for_reading, _ = budgets(site.config.memory_mib)
    pipeline = Pipeline(
        found,
        _Nowhere(),
        panel,
        site.config.institution,
        record=partial(record, site),
        heat_maps=site.config.results.heat_maps,
        confidence=Calibrations(site).confidence,
        admit=Memory(for_reading).admit,
    )
    refusals = Refusals(site, found, panel)
    studies: list[TriedStudy] = []
    for uid, images in found.studies.items():
        missing = lacking([*found.series[uid].values()])
        study = Study(
            uid=uid,
            revision=1,
            attempts=1,
            touched_at=0.0,
            images=tuple(images),
            missing=missing,
            conflicting=found.conflicting.get(uid, 0),
            excluded=len(rejected := found.rejected.get(uid, {})),
            gone=tuple(image for image, cause in rejected.items() if cause in (Cause.QUALITY, Cause.SAFETY)),
        )
        result, made = _safely(pipeline, study, site.config.results, refusals)
        studies.append(_tried(study, result, panel, found, folder).model_copy(update={"objects": made}))
        if on_study is not None:
            on_study(studies[-1])
    return Trial(folder=_name(folder), studies=studies, unread=found.unread)


def _safely(pipeline: Pipeline, study: Study, wanted: ResultsConfig, refusals: Refusals) -> tuple[Outcome, list[Made]]:
    try:
        result = pipeline.process(study)
        scored = isinstance(result, Scored | ScoredVolumes)
        made = objects(result, wanted) if scored else refusals.mark(study, result, ())
        return result, [Made(kind=one.kind, problems=list(examine(one.content).problems)) for one in made]
    except Exception as error:  # noqa: BLE001  # the worker, too, would go on with the next study
        return failure(error), []


def _scan(folder: Path) -> _Found:
    found = _Found()
    contents: dict[str, dict[str, Path]] = {}  # of each UID by digest, the one that stands first
    for path in sorted(_files(folder, found.unread)):
        name = _name(path.relative_to(folder))
        try:
            header = decode.read_header(path)
            sop_class, sop_uid, study_uid, series_uid = (_uid(header, keyword) for keyword in _UIDS)
            digest = _digest(path, header)
        except InvalidStudy as error:
            found.unread.append(Unread(file=name, reason=error.reason, text=str(error)))
            continue
        except OSError as error:
            found.unread.append(Unread(file=name, reason="unreadable", text=error.strerror or type(error).__name__))
            continue
        known = contents.setdefault(sop_uid, {})
        if digest in known:
            found.unread.append(Unread(file=name, reason="duplicate", text="the same image is there already"))
        elif any(alike(other, path) for other in known.values()):
            text = "the same image is there already, encoded in another way"
            found.unread.append(Unread(file=name, reason="duplicate", text=text))
        elif known:
            known[digest] = path
            text = "another image has the same UID; nobody can say which of the two is right"
            found.unread.append(Unread(file=name, reason="conflicting", text=text))
            found.conflicting[study_uid] = found.conflicting.get(study_uid, 0) + 1
            found.studies.setdefault(study_uid, [])  # perhaps all that there is of it
            found.files.setdefault(study_uid, [])
            found.series.setdefault(study_uid, {})
        else:
            known[digest] = found.paths[digest] = path
            found.studies.setdefault(study_uid, []).append(
                Image(sop_uid, sop_class, digest, series_uid, _pixels(header))
            )
            found.files.setdefault(study_uid, []).append(name)
            of_study = found.series.setdefault(study_uid, {})
            of_study[series_uid] = _with(of_study.get(series_uid), header)
    for uid in found.studies:
        _take_out(found, uid)
    return found


def _take_out(found: _Found, study_uid: str) -> None:
    """Put aside what a key object selection beside it rejects, as the node does when the PACS has sent that."""
    images = found.studies[study_uid]
    documents = [rejection(found.path(one.sha256), study_uid) for one in images if one.sop_class == REJECTIONS]
    out: dict[Image, Cause] = {}
    for told in documents:
        if told is None or told.cause is None or not told.person.patient_id:
            continue
        for image in images:
            whose = person_of(found.path(image.sha256)) if image.sop_uid in told.images else None
            if whose and whose.patient_id == told.person.patient_id and not differ(whose, told.person):
                out[image] = told.cause
    if not out:
        return
    text = "a document beside it rejects it: the node leaves it out where the site heeds the sender (rejections_from)"
    names = dict(zip(images, found.files[study_uid], strict=True))
    found.unread += [Unread(file=names[image], reason="rejected", text=text) for image in out]
    found.studies[study_uid] = [image for image in images if image not in out]
    found.files[study_uid] = [names[image] for image in found.studies[study_uid]]
    found.rejected[study_uid] = out


def _files(folder: Path, unread: list[Unread]) -> Iterator[Path]:
    """Every file under a folder once, by its own place before one that a link gives it, and links to folders followed.

    Args:
        unread: told of what cannot be looked into.
    """
    seen: set[tuple[int, int]] = set()
    folders, linked = deque([folder]), deque[Path]()
    while folders or linked:
        at = (folders or linked).popleft()
        try:
            found = at.stat()
            known = (found.st_dev, found.st_ino) in seen
            seen.add((found.st_dev, found.st_ino))
            if known:
                text = "a link to a folder that is looked through already"
                unread.append(Unread(file=_name(at.relative_to(folder)), reason="duplicate", text=text))
                continue
            for path in sorted(at.iterdir()):
                if path.is_dir():
                    (linked if path.is_symlink() else folders).append(path)
                elif path.is_file():
                    yield path
                elif path.is_symlink():
                    text = "a link that leads nowhere"
                    unread.append(Unread(file=_name(path.relative_to(folder)), reason="unreadable", text=text))
        except OSError as error:
            text = error.strerror or type(error).__name__
            unread.append(Unread(file=_name(at.relative_to(folder)), reason="unreadable", text=text))


def _with(before: Series | None, header: Dataset) -> Series:
    """A series and one image more of it; what it states counts while all its images are of one acquisition and state
    the same.
    """
    frames, stated = _number(header, "NumberOfFrames") or 1, _number(header, "ImagesInAcquisition")
    acquisition = _number(header, "AcquisitionNumber")
    if before is None:
        modality = str(header.get("Modality") or "").strip()
        return Series(modality, 1, stated=stated, frames=frames, acquisition=acquisition)
    agreed = stated if (stated, acquisition) == (before.stated, before.acquisition) else None
    return replace(before, instances=before.instances + 1, stated=agreed, frames=max(before.frames, frames))


def _number(header: Dataset, keyword: str) -> int | None:
    """As a whole number; None where there is none, or it is malformed."""
    try:
        return int(str(header.get(keyword)).strip())
    except ValueError:
        return None


def _name(path: Path) -> str:
    """As it can be told and written: a name may hold any bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _pixels(header: Dataset) -> int:
    """Of all frames, as the index has them; 0 where the header has none."""
    sides = (_number(header, "Rows") or 0, _number(header, "Columns") or 0, _number(header, "NumberOfFrames") or 1)
    return max(0, math.prod(sides))


def _digest(path: Path, header: FileDataset) -> str:
    """Of the dataset and its transfer syntax: preamble and file meta are written anew where the node receives."""
    _, offset = split_dataset(path)
    return hashlib.sha256(header.file_meta.TransferSyntaxUID.encode() + path.read_bytes()[offset:]).hexdigest()


def _uid(header: Dataset, keyword: str) -> str:
    value = str(header.get(keyword) or "").strip(" \0")
    if not value or len(value) > 64 or not set(value) <= set("0123456789."):
        raise InvalidStudy("uid-missing", f"{keyword} is missing or is none")
    return value


def _asked(panel: Callable[[], Sequence[Serving]], result: Outcome) -> tuple[Serving | None, bool]:
    """The version that refused, where one is named, else the one that was adopted last; and whether it is that."""
    try:
        versions = panel()
    except BundleRefused:
        return None, False  # the outcome says so
    last = next(iter(versions), None)
    refused = result.version if isinstance(result, Refused) else None
    asked = next((one for one in versions if one.bundle.digest == refused), last)
    return asked, asked is last


def _tried(
    study: Study, result: Outcome, panel: Callable[[], Sequence[Serving]], found: _Found, folder: Path
) -> TriedStudy:
    version, last = _asked(panel, result)
    tried = TriedStudy(
        study=study.uid,
        files=found.files[study.uid],
        outcome="scored",
        reasons=[],
        version=version.bundle.facts.label if version else None,
        version_why=_WHY_ASKED[last] if version else "no version is adopted here",
    )
    if isinstance(result, Scored | ScoredVolumes) and result.choice is not None:
        chosen = {"version": result.best.bundle.facts.label, "version_why": result.choice.text}
        tried = tried.model_copy(update=chosen)
    match result:
        case Scored():
            finding = result.finding
            scored = _name(found.paths[result.image.sha256].relative_to(folder))
            return tried.model_copy(
                update={
                    "score": finding.score,
                    "threshold": finding.threshold,
                    "positive": finding.positive,
                    "confidence": finding.confidence,
                    "scored_file": scored,
                    "engine": result.engine,
                    "prepared_by": result.prepared_by,
                    "reasons": _whys(result.reasons),
                }
            )
        case ScoredVolumes():
            highest = result.best
            return tried.model_copy(
                update={
                    "score": highest.score,
                    "threshold": highest.threshold,
                    "positive": highest.positive,
                    "confidence": highest.confidence,
                    "scored_file": _name(found.paths[result.image.sha256].relative_to(folder)),
                    "engine": result.engine,
                    "prepared_by": result.prepared_by,
                    "reasons": _whys(result.reasons),
                    "structures": [
                        Structure(
                            series=one.stack.series_uid,
                            label=measured.name,
                            volume_ml=round(measured.volume_ml, 4),
                            long_mm=measured.long_mm,
                            short_mm=measured.short_mm,
                        )
                        for one in result.outlined
                        for measured in one.measured
                    ],
                }
            )
        case Refused():
            return tried.model_copy(update={"outcome": "refused", "reasons": _whys(result.reasons)})
        case Failed():
            return tried.model_copy(update={"outcome": "failed", "reasons": _whys(result.reasons)})


def _whys(reasons: Sequence[Reason]) -> list[Why]:
    return [Why(code=str(reason.code), text=reason.text) for reason in reasons]
