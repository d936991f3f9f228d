"""The way of a study with volumes: its series, their stacks, masks, measures; or the reasons why there are none.

Every series that fits is outlined. One that fits and makes no volume leaves the others standing, but the outcome then
says that it is incomplete and never "nothing found" of what nobody has looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from client.dicom import decode, series
from client.inference.measure import Growth, Measured, grown, measure
from client.inference.scope import Code, Reason, unfamiliar_volume
from client.inference.segment import Mask, growth, segment, upright
from client.inference.structure import Structure, structure
from client.inference.study import Image, Study, study_day
from client.results.outlined import Outlined
from models.bundle import Facts
from models.errors import InvalidStudy

if TYPE_CHECKING:
    from client.dicom.series import Files, Plane, Stack, Volume
    from client.inference.ahead import Reading
    from client.inference.serving import Outlining
    from models.segmentation import Segmentation


@dataclass(frozen=True, slots=True)
class Prior:
    """What the same model measured in an earlier study of the patient.

    Attributes:
        study_uid: its study.
        made: the day of that study.
        volumes_ml: by structure.
        unfit: why nothing is measured against it, for a person; empty: it is fit.
    """

    study_uid: str
    made: date
    volumes_ml: dict[Structure, float]
    unfit: str = ""


Priors = Callable[[str, str], Sequence[Prior]]
"""Gives what is known for a study and the name of a model; the order does not matter."""

Admit = Callable[[Facts, Sequence[Image], float], Reason | None]
"""Says why a version cannot read images for want of memory, see `memory.Memory.admit`."""


def outline(
    study: Study,
    fitting: Iterable[tuple[Image, FileDataset]],
    version: Outlining,
    files: Files,
    institution: str,
    priors: Priors,
    reading: Reading,
    heat_maps: bool = False,
    lacking: Sequence[Reason] = (),
    admit: Admit = lambda _facts, _images, _grown: None,
) -> tuple[tuple[Outlined, ...], tuple[Reason, ...]]:
    """Outline every series of the fitting images.

    Args:
        reading: opens and decodes images.
        heat_maps: keep the probabilities.
        lacking: what is not among the fitting images and should be.
        admit: asked once more when the headers have told how fine the network's grid is.

    Returns:
        What was outlined, at least one series, and what was not looked at: `lacking`, and why a series that fits could
        not be read.

    Raises:
        InvalidStudy: no series could be read. The reason is `novel-image` where that is one series' reason, for then
            another version may read it; else the first one's.
    """
    made: list[Outlined] = []
    problems: list[InvalidStudy] = []
    for members in _by_series(fitting).values():
        try:
            planes = [
                plane
                for image, header in members
                for plane in reading.located(files.path(image.sha256), image.sha256, header)
            ]
            if all(plane.localizer for plane in planes):
                continue
            stack = series.stack(planes)
            if too_large := admit(version.bundle.facts, [one for one, _ in members], growth(stack, version.declared)):
                raise InvalidStudy(too_large.code, too_large.text)
            volume = series.read(stack, files, reading.planes)
            _require_familiar(volume, version)
            mask = segment(
                volume, version.declared, version.preprocessing, version.threshold, version.engine.predict, heat_maps
            )
        except InvalidStudy as error:
            problems.append(error)
            continue
        found = measure(mask.labels, volume.stack.spacing, version.declared)
        plane = _key(found, volume.stack)
        pixels = _presented(volume.stack.planes[plane], volume.voxels[plane], files)
        known = priors(study.uid, version.bundle.facts.name)
        changes, uncompared = _growth(volume.stack, found, known, version.declared)
        one = _outlined(study, volume.stack, mask, pixels, found, changes, version, institution)
        made.append(replace(one, uncompared=uncompared))
    if not made:
        problems.sort(key=lambda problem: problem.reason != Code.NOVEL_IMAGE)
        raise problems[0] if problems else InvalidStudy("too-few-slices", "there are localizers only")
    reasons = dict.fromkeys((*lacking, *(Reason(error.reason, str(error)) for error in problems)))
    made.sort(key=lambda one: (-one.positive, -one.score))  # the first report is the one that a reader signs
    return tuple(replace(one, partial=bool(reasons)) for one in made), tuple(reasons)


def _require_familiar(volume: Volume, version: Outlining) -> None:
    """Before anything is computed of it.

    Raises:
        InvalidStudy: the volume is unlike those that the version was trained on.
    """
    if version.novelty is None:
        return  # straightening a tilted volume is not for nothing
    if reason := unfamiliar_volume(version.novelty, *upright(volume, version.declared)):
        raise InvalidStudy(reason.code, reason.text)


def _by_series(fitting: Iterable[tuple[Image, FileDataset]]) -> dict[str, list[tuple[Image, FileDataset]]]:
    found: dict[str, list[tuple[Image, FileDataset]]] = {}
    for image, header in fitting:
        found.setdefault(str(header.get("SeriesInstanceUID")), []).append((image, header))
    return found


def _outlined(
    study: Study,
    stack: Stack,
    mask: Mask,
    pixels: NDArray[np.float32],
    found: list[Measured],
    growth: dict[int, Growth],
    version: Outlining,
    institution: str,
) -> Outlined:
    return Outlined(
        stack=stack,
        labels=mask.labels,
        chances=mask.chances,
        key_pixels=pixels,
        measured=tuple(found),
        growth=growth,
        score=mask.score,
        threshold=version.threshold,
        revision=study.revision,
        bundle=version.bundle,
        institution=institution,
        created_at=time.time(),
    )


def _key(found: Sequence[Measured], stack: Stack) -> int:
    return max(found, key=lambda one: one.volume_ml).plane if found else len(stack.planes) // 2


def _presented(plane: Plane, values: NDArray[np.generic], files: Files) -> NDArray[np.float32]:
    """The plane as a reader sees it; where the header says nothing of that, its plain values."""
    try:
        return decode.read(files.path(plane.digest)).pixels
    except InvalidStudy:  # a frame of many
        low, high = np.percentile(values.astype(np.float32), (1, 99))
        return np.clip(values.astype(np.float32), low, high)


def _growth(
    stack: Stack, found: Sequence[Measured], known: Sequence[Prior], declared: Segmentation
) -> tuple[dict[int, Growth], str]:
    """Growth by value of the label, and why an earlier study is left out that came after those compared with."""
    made = study_day(stack.planes[0].header)
    if made is None or not found:
        return {}, ""
    before = sorted((prior for prior in known if prior.made < made), key=lambda prior: prior.made)
    growth: dict[int, Growth] = {}
    for one in found:
        same = structure(declared, one.value)
        earlier = [prior for prior in before if not prior.unfit and same in prior.volumes_ml]
        if not earlier or same is None:
            continue
        last = earlier[-1]
        change = grown(one.volume_ml, last.volumes_ml[same], float((made - last.made).days), last.study_uid)
        if change is not None:
            growth[one.value] = change
    if before and (last := before[-1]).unfit:
        return growth, f"not compared with the study of {last.made.isoformat()}: {last.unfit}"
    return growth, ""
