"""What is still known of a result's report whose file is lost: enough to withdraw it in the PACS.

Whose it is stands in what else was made of the result, and in the images that it was made from. What its objects are
called follows from input, version and revision (`client/results/result.py`), and the index knows their UIDs, so that
what was worked out shows whether it is right. What cannot be worked out is said, never guessed: a withdrawal in another
name than the report has would be filed beside another patient's images.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    ParametricMapStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)
from sqlalchemy import Connection, Row, select

from client.dicom import decode, series
from client.dicom.malformed import MALFORMED
from client.dicom.person import several
from client.results.amend import stand_in
from client.results.result import derive_uid
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import instance, ledger
from models.errors import InvalidStudy

NOBODY: Final = "its report is lost, and no file says any more in whose name the PACS has it"
NO_SERIES: Final = "a report or picture is lost, and its series is not known any more: {} of {} objects are withdrawn"
_CLASSES: Final[dict[str, UID]] = {
    "sr": Comprehensive3DSRStorage,
    "sc": SecondaryCaptureImageStorage,
    "seg": SegmentationStorage,
    "gsps": GrayscaleSoftcopyPresentationStateStorage,
    "pm": ParametricMapStorage,
    "rtstruct": RTStructureSetStorage,
}


def report(
    site: Site,
    connection: Connection,
    archive: Archive,
    row: Row[Any],
    made: Sequence[tuple[str, str, str]],
    *,
    others: bool,
) -> bytes | None:
    """A document that says of a lost report what a withdrawal needs; None where nothing says whose it is.

    Args:
        row: of the outcome.
        made: (kind, UID, digest of the file) of its objects, a report among them.
        others: any image of the study tells whose the result is, where they are all of one person; else only the one
            that it was made from.
    """
    source = _source(connection, archive, row, made, others=others)
    if source is None:
        return None
    inputs = list(_inputs(site, connection, archive, row))
    named: dict[str, tuple[str, str, str]] = {}
    for kind, uid, _ in made:
        places = (
            derive_uid(f"{kind}-series", by, of, row.revision)
            for of in inputs
            for by in {row.version_digest or "", ""}
            if derive_uid(kind, by, of, row.revision) == uid
        )
        if kind in _CLASSES and (place := next(places, None)):
            named[uid] = str(_CLASSES[kind]), uid, place
    uid = next(uid for kind, uid, _ in made if kind == "sr")
    return stand_in(source, str(Comprehensive3DSRStorage), uid, list(named.values()), site.config.institution)


def _source(
    connection: Connection, archive: Archive, row: Row[Any], made: Sequence[tuple[str, str, str]], *, others: bool
) -> Dataset | None:
    """A header that says whose a result is: of another object of it, of what it was made from, of the study."""
    for digest in [*(digest for _, _, digest in made), row.input_digest]:
        if digest and (header := _header(archive, digest)) is not None:
            return header
    if not others:
        return None
    found = [header for one in _images(connection, row) if (header := _header(archive, one.sha256)) is not None]
    pictures = [header for header in found if header.get("Rows") and header.get("Columns")]
    return pictures[0] if pictures and not several(pictures) else None


def _header(archive: Archive, digest: str) -> Dataset | None:
    try:
        return pydicom.dcmread(archive.path(digest), stop_before_pixels=True)
    except (OSError, InvalidDicomError, *MALFORMED):
        return None


def _images(connection: Connection, row: Row[Any]) -> Sequence[Any]:
    """The images that a study had when an outcome was written, as far as the index still says so."""
    query = select(instance.c.sha256, instance.c.series_uid).where(
        instance.c.study_uid == row.study_uid, ~instance.c.conflicting, instance.c.revision <= row.revision
    )
    return connection.execute(query.order_by(instance.c.id)).all()


def _inputs(site: Site, connection: Connection, archive: Archive, row: Row[Any]) -> Iterator[str]:
    """What the input of a result's objects may be called, see `Stated.input_digest`."""
    if row.input_digest:
        yield row.input_digest
    images = _images(connection, row)
    yield _together([one.sha256 for one in images])  # of the word that nothing was read
    stacks: list[str] = []
    for uid in row.read or ():
        try:
            planes = [
                plane
                for one in images
                if one.series_uid == uid
                for plane in series.planes(one.sha256, decode.read_header(archive.path(one.sha256)))
            ]
            stacks.append(series.stack(planes).digest)
        except (InvalidStudy, OSError):
            continue
    yield from stacks
    yield _together(stacks)
    key = json.dumps(site.study_key(row.study_uid))
    told = select(ledger.c.facts).where(ledger.c.event == "outcome.scored", ledger.c.facts.contains(key))
    for text in connection.execute(told).scalars():
        facts = json.loads(text)
        if facts.get("revision") == row.revision and facts.get("input"):
            yield str(facts["input"])


def _together(digests: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest()
