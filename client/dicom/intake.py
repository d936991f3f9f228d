"""What comes in, by whichever door: the header is checked, the file is made durable, its index entry committed.

C-STORE and STOW-RS differ in how the bytes arrive and in how an answer looks, and in nothing else: the same dataset in
the same transfer syntax is the same file, whoever brought it. Pixels are never decoded here, and of the header only
what the index needs is read.
"""

import errno
import logging
import re
import threading
import zlib
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from io import BytesIO
from struct import error as StructError
from typing import Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID
from sqlalchemy.exc import SQLAlchemyError

from client.dicom.archive import Archive
from client.dicom.identity import IMPLEMENTATION_CLASS_UID
from client.dicom.index import Arrival, Filed, Index
from client.store.site import Site
from models.errors import InvalidStudy

log = logging.getLogger(__name__)

# PS3.4 table B.2-1, which PS3.18 table I.2-2 takes over; the one table from what is wrong to what the peer is told.
STATUS: Final = {
    "disk-full": 0xA700,
    "out-of-resources": 0xA701,
    "uid-missing": 0xA900,
    "uid-mismatch": 0xA900,
    "not-dicom": 0xC000,
    "too-large": 0xC001,
    "storage-failure": 0xC002,
}

MAX_INFLATED: Final = 1 << 30
_COMMIT_SECONDS: Final = 60.0
_UID = re.compile(r"[0-9.]{1,64}")
_FIRST_GROUP = 0x0008
_LAST_TAG = 0x00280011  # Columns; the header after it is read when the study is
_TAGS = {
    name: Tag(tag)
    for name, tag in {
        "charset": 0x00080005,
        "sop_class": 0x00080016,
        "sop_uid": 0x00080018,
        "accession": 0x00080050,
        "patient_id": 0x00100020,
        "issuer": 0x00100021,
        "study_uid": 0x0020000D,
        "series_uid": 0x0020000E,
        "rows": 0x00280010,
        "columns": 0x00280011,
    }.items()
}
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    StructError,
    TypeError,
    ValueError,
    zlib.error,
)


class NotKept(Exception):
    """An instance was not kept; `reason` is a key of `STATUS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Header:
    """What the index needs to know of an instance."""

    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    issuer: str
    accession: str
    picture: bool


class Intake:
    """The way of an instance into the hospital; shared by all doors of a node."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._archive = Archive(site.archive)
        self._index = Index(site)
        self._open: dict[int, set[str]] = {}
        self._lock = threading.Lock()

    def receive(
        self, stream: BytesIO, syntax: UID, calling: str, sender: int, announced: tuple[str, str] | None = None
    ) -> Header:
        """File one instance; it is durable and committed once this returns.

        Args:
            stream: the encoded dataset, without file meta.
            calling: who sends it, at most 16 characters of it are kept.
            sender: of this association or request, until `ended` is called with it.
            announced: (SOP class, SOP instance) that the sender said it was.

        Raises:
            NotKept: it was not kept, and nothing of it was left behind.
        """
        try:
            return self._receive(stream, syntax, calling, sender, announced)
        except InvalidStudy as error:
            reason = error.reason
        except (OSError, SQLAlchemyError, FutureTimeout) as error:
            reason = _problem(error)
        log.warning("instance not stored: %s", reason)
        raise NotKept(reason)

    def sending(self) -> set[str]:
        """The studies that open associations and requests have sent images of: perhaps not complete yet."""
        with self._lock:
            return set().union(*self._open.values())

    def ended(self, sender: int) -> None:
        """An association or request is over."""
        with self._lock:
            self._open.pop(sender, None)

    def close(self) -> None:
        """Commit what has come in, and stop."""
        self._index.close()

    def _receive(
        self, stream: BytesIO, syntax: UID, calling: str, sender: int, announced: tuple[str, str] | None
    ) -> Header:
        header = read_header(stream, syntax)
        if announced is not None and (header.sop_class, header.sop_uid) != announced:
            raise InvalidStudy("uid-mismatch", "the dataset is not the one announced")
        meta = _file_meta(header, syntax)
        with stream.getbuffer() as content:
            digest = self._archive.store(meta, content)
        with self._lock:
            # before it is committed, so that the study cannot be called complete in between
            self._open.setdefault(sender, set()).add(header.study_uid)
        filed: Filed = self._index.file(
            Arrival(
                sop_uid=header.sop_uid,
                sha256=digest,
                study_uid=header.study_uid,
                series_uid=header.series_uid,
                sop_class=header.sop_class,
                transfer_syntax=str(syntax),
                patient_id=header.patient_id,
                issuer=header.issuer,
                accession=header.accession,
                calling_ae=calling.strip()[:16],
                picture=header.picture,
            )
        ).result(timeout=_COMMIT_SECONDS)
        log.debug("instance %s, study %s", filed.value, self._site.study_key(header.study_uid))
        return header


def read_header(stream: BytesIO, syntax: UID) -> Header:
    """What the index needs, from an encoded dataset; values are checked, never logged.

    Raises:
        InvalidStudy: `not-dicom`, `uid-missing`, `too-large`.
    """
    stream.seek(0)
    source = _inflated(stream) if syntax.is_deflated else stream
    first_group = int.from_bytes(source.read(2), "little" if syntax.is_little_endian else "big")
    source.seek(0)
    if first_group < _FIRST_GROUP:
        # file meta elements inside a dataset would be read back as the file's own, with another transfer syntax
        raise InvalidStudy("not-dicom", "command or file meta elements in a dataset")
    try:
        dataset = read_dataset(
            source,
            syntax.is_implicit_VR,
            syntax.is_little_endian,
            stop_when=_after_header,
            specific_tags=list(_TAGS.values()),
        )
        text = {name: _value(dataset, tag) for name, tag in _TAGS.items()}
    except _MALFORMED as error:
        raise InvalidStudy("not-dicom", type(error).__name__) from error
    finally:
        stream.seek(0)
    if not all(_UID.fullmatch(text[name]) for name in ("sop_class", "sop_uid", "study_uid", "series_uid")):
        raise InvalidStudy("uid-missing", "a class, SOP instance, series or study UID is missing or is none")
    return Header(
        sop_class=text["sop_class"],
        sop_uid=text["sop_uid"],
        study_uid=text["study_uid"],
        series_uid=text["series_uid"],
        patient_id=text["patient_id"][:64],
        issuer=text["issuer"][:64],
        accession=text["accession"][:16],
        picture=bool(text["rows"] and text["columns"]),
    )


def _inflated(stream: BytesIO) -> BytesIO:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        content = inflater.decompress(stream.getvalue(), MAX_INFLATED)
    except zlib.error as error:
        raise InvalidStudy("not-dicom", "cannot be inflated") from error
    if inflater.unconsumed_tail:
        raise InvalidStudy("too-large", "inflates to too much")
    return BytesIO(content)


def _after_header(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag > _LAST_TAG


def _value(dataset: Dataset, tag: BaseTag) -> str:
    if tag not in dataset or dataset[tag].value is None:
        return ""
    return str(dataset[tag].value).strip(" \0")


def _file_meta(header: Header, syntax: UID) -> bytes:
    """Preamble and file meta of a Part 10 file: the same for the same instance, so that the same bytes are one file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(header.sop_class)
    meta.MediaStorageSOPInstanceUID = UID(header.sop_uid)
    meta.TransferSyntaxUID = syntax
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    buffer = DicomBytesIO()
    buffer.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(buffer, meta, enforce_standard=True)
    return buffer.getvalue()


def _problem(error: OSError | SQLAlchemyError | FutureTimeout) -> str:
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if full or "disk is full" in str(getattr(error, "orig", "")):
        return "disk-full"
    if isinstance(error, FutureTimeout) or "locked" in str(getattr(error, "orig", "")):
        return "out-of-resources"
    return "storage-failure"
