"""What a bench found at the PACS, held against what it claims: a refused study is no read one, an outline is a mask."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from sqlalchemy import select

from client.store.site import Site
from client.store.tables import outcome
from scripts.benchmarks.pacs import Stored

Place = tuple[float, ...]
RADIOGRAPH = frozenset({"SR", "OT"})
"""Modalities of what a scored radiograph leaves: its report and its capture."""


def complete(stored: Iterable[Stored], wanted: Iterable[str]) -> dict[str, Stored]:
    """The report of each wanted study that has all objects of a scored radiograph."""
    by_study: dict[str, dict[str, Stored]] = {uid: {} for uid in wanted}
    for one in stored:
        if one.study_uid in by_study:
            by_study[one.study_uid].setdefault(one.modality, one)
    return {uid: found["SR"] for uid, found in by_study.items() if found.keys() >= RADIOGRAPH}


def score(report: Dataset) -> float:
    """The AI score that a structured report says.

    Raises:
        RuntimeError: it says none, as that of a refused study.
    """
    for item in _content(report):
        names = item.get("ConceptNameCodeSequence") or ()
        if any(name.get("CodeValue") == "SCORE" for name in names) and item.get("MeasuredValueSequence"):
            return float(item.MeasuredValueSequence[0].NumericValue)
    raise RuntimeError("a report has no score: the study was not read")


def scores(folder: Path, reports: Iterable[Stored]) -> list[float]:
    """As `score`, of the files of a stand-in PACS."""
    return [score(pydicom.dcmread(folder / f"{one.sop_uid}.dcm")) for one in reports]


def demand_scored(site: Site, uids: Iterable[str]) -> None:
    """Look into a node's own books.

    Raises:
        RuntimeError: a study has no outcome, or another than that it was scored.
    """
    with site.database.read() as connection:
        rows = connection.execute(select(outcome.c.study_uid, outcome.c.kind)).all()
    kinds: dict[str, set[str]] = {}
    for uid, kind in rows:
        kinds.setdefault(uid, set()).add(kind)
    if wrong := sum(kinds.get(uid) != {"scored"} for uid in uids):
        raise RuntimeError(f"{wrong} studies were not scored; see {site.logs}")


def masks(segmentation: Dataset) -> dict[Place, NDArray[np.bool_]]:
    """What a SEG outlines, whichever label: rows and columns by where the plane lies, hundredths of mm."""
    pixels = np.atleast_3d(segmentation.pixel_array)
    if pixels.shape[-1] == 1:
        pixels = pixels[None, ..., 0]
    found: dict[Place, NDArray[np.bool_]] = {}
    for frame, groups in zip(pixels, segmentation.PerFrameFunctionalGroupsSequence, strict=True):
        place = tuple(round(float(one), 2) for one in groups.PlanePositionSequence[0].ImagePositionPatient)
        found[place] = found[place] | (frame > 0) if place in found else frame > 0
    return found


def dice(ours: Mapping[Place, NDArray[np.bool_]], theirs: Mapping[Place, NDArray[np.bool_]]) -> float:
    """Twice the voxels that both outline by what each outlines; 0 where neither outlines any, which proves nothing."""
    both = sum(int((ours[place] & theirs[place]).sum()) for place in ours.keys() & theirs.keys())
    each = sum(int(mask.sum()) for mask in (*ours.values(), *theirs.values()))
    return 2 * both / each if each else 0.0


def _content(item: Dataset) -> Iterable[Any]:
    for child in item.get("ContentSequence") or ():
        yield child
        yield from _content(child)
