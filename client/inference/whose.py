"""Whether the images of a study are of one person, where it was not read and the reading has not told."""

import contextlib
from collections.abc import Iterator, Sequence

from pydicom.dataset import Dataset

from client.dicom import decode
from client.dicom.person import several
from client.inference.pipeline import Files
from client.inference.study import Image
from models.errors import InvalidStudy


def of_two(files: Files, images: Sequence[Image]) -> bool:
    """Whether there are certainly two persons among those that images are of."""
    return several(header for _, header in pictures(files, images))


def pictures(files: Files, images: Sequence[Image]) -> Iterator[tuple[Image, Dataset]]:
    """A study's images with their headers, where these can be read; reports beside them say of the patient what they
    like.
    """
    for image in images:
        with contextlib.suppress(InvalidStudy):
            header = decode.read_header(files.path(image.sha256))
            if header.get("Rows") and header.get("Columns"):
                yield image, header
