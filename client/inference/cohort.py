"""A training cohort's volumes, read the node's way: what an image check is fitted to is what it will see.

`volumes.csv` has the columns folder and patient: a row for each series, whose DICOM files lie in that folder.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from client.dicom import decode, series
from client.inference.segment import upright
from models.bundle import Facts
from models.errors import ConfigurationError, InvalidStudy
from models.segmentation import Segmentation
from models.volume_novelty import VolumeNovelty
from models.volume_novelty_training import FEWEST_PATIENTS, fit

COLUMNS: Final = ("folder", "patient")


@dataclass(frozen=True, slots=True)
class Row:
    """One series of the cohort; `folder` is where its files are."""

    line: int
    folder: Path
    patient: str


def read(listing: Path) -> list[Row]:
    """Read a listing; folders are relative to its own.

    Raises:
        ConfigurationError: no such file, a column is missing, or a row has an empty field.
    """
    try:
        with listing.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
            if missing:
                raise ConfigurationError(f"{listing}: the column {missing[0]!r} is missing")
            rows: list[Row] = []
            for row in reader:
                if empty := [column for column in COLUMNS if not row[column]]:
                    raise ConfigurationError(f"{listing}, line {reader.line_num}: {empty[0]} is empty")
                rows.append(Row(reader.line_num, listing.parent / row["folder"], row["patient"]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{listing} cannot be read: {error}") from error
    return rows


def fit_novelty(rows: Sequence[Row], facts: Facts) -> VolumeNovelty:
    """Fit the image check of a version that outlines to its training cohort; one volume at a time is held.

    Intensities are taken as Hounsfield units where the version reads CT alone.

    Raises:
        ConfigurationError: the version outlines nothing, there are too few patients, or a folder holds no volume that
            a node would read, which is named by its line.
    """
    if facts.segmentation is None:
        raise ConfigurationError(f"{facts.label} outlines nothing: its image check is fitted when it is trained")
    patients = len({row.patient for row in rows})
    if patients < FEWEST_PATIENTS:
        raise ConfigurationError(f"{patients} patients: {FEWEST_PATIENTS} at least are needed to set a limit with")
    for_voxels, for_spacings = tee(_volumes(rows, facts.segmentation))  # in step, so that neither runs ahead
    made = fit(
        (voxels for voxels, _ in for_voxels),
        (spacing for _, spacing in for_spacings),
        [row.patient for row in rows],
        hounsfield=set(facts.intended_use.modalities) == {"CT"},
    )
    assert made is not None  # there are patients enough
    return made


def _volumes(rows: Sequence[Row], declared: Segmentation) -> Iterator[tuple[NDArray[Any], Sequence[float]]]:
    for row in rows:
        found: list[series.Plane] = []
        try:
            for path in sorted(path for path in row.folder.rglob("*") if path.is_file()):
                found += series.planes(str(path), decode.read_header(path))
            if not found:
                raise ConfigurationError(f"line {row.line}: {row.folder} holds no image")
            yield upright(series.read(series.stack(found), _Paths()), declared)
        except InvalidStudy as error:
            raise ConfigurationError(f"line {row.line}: {row.folder} holds no volume to read: {error}") from error


class _Paths:
    """Files that are called by their paths, not by the digests of an archive."""

    def path(self, digest: str) -> Path:
        return Path(digest)
