"""A folder of labelled images: `manifest.csv` with the columns file, site, label, patient (more are allowed)."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.errors import ConfigurationError, InvalidStudy

COLUMNS = ("file", "site", "label", "patient")
_LABELS = {"normal": False, "0": False, "negative": False, "abnormal": True, "1": True, "positive": True}


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled image; `file` as it stands in the manifest, `path` where that is."""

    line: int
    file: str
    path: Path
    site: str
    positive: bool
    patient: str


def read(manifest: Path) -> Iterator[Row]:
    """Read a manifest; files are relative to its folder.

    Raises:
        ConfigurationError: no such file, a column is missing, or a row has an empty field or an unknown label.
    """
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
            if missing:
                raise ConfigurationError(f"{manifest}: the column {missing[0]!r} is missing")
            for row in reader:
                yield _row(manifest, reader.line_num, row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{manifest} cannot be read: {error}") from error


def picture(path: Path) -> NDArray[np.float32]:
    """A grey picture file (PNG, JPEG, TIFF, 8 or 16 bit).

    Returns:
        (H, W) float32, larger is whiter.

    Raises:
        InvalidStudy: missing, damaged, or in a form that is not a radiograph.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("I;16", "I;16B", "I", "F"):
                image = image.convert("L")
            return np.asarray(image, dtype=np.float32)
    except FileNotFoundError:
        raise InvalidStudy("missing-file", str(path)) from None
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise InvalidStudy("undecodable", f"{path}: {error}") from error


def _row(manifest: Path, line: int, row: dict[str, str]) -> Row:
    for column in COLUMNS:
        if not row.get(column):
            raise ConfigurationError(f"{manifest}, line {line}: {column} is empty")
    label = row["label"].strip().lower()
    if label not in _LABELS:
        raise ConfigurationError(f"{manifest}, line {line}: label {row['label']!r} is neither normal nor abnormal")
    return Row(line, row["file"], manifest.parent / row["file"], row["site"], _LABELS[label], row["patient"])
