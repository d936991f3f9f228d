"""The hospital's DICOM door: C-STORE and C-ECHO.

An instance is answered with success when its file and its index entry are on disk, not before; what cannot be kept
whole is answered with a failure and leaves nothing behind. Pixels are never decoded here, and of the header only what
the index needs is read. A second instance with the same UID and other content is answered with success too: it is
kept, apart and flagged, and a failure would only make the PACS send it for ever.
"""

import contextlib
import copy
import errno
import logging
import re
import struct
import threading
import zlib
from collections.abc import Callable, Generator
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, UID_dictionary
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom import _config as pynetdicom_config
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made from a table at import
from sqlalchemy.exc import SQLAlchemyError

from client.dicom.archive import Archive, Draft
from client.dicom.header import LAST_TAG, TAGS, scan
from client.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from client.dicom.index import Arrival, Index
from client.dicom.listener import Listener, networks, server_tls
from client.dicom.reception import Announcement, Reception, hand_over
from client.dicom.requestor import no_delay
from client.dicom.room import Room
from client.store.site import Site
from models.errors import InvalidStudy

log = logging.getLogger(__name__)

SUCCESS: Final = 0x0000

# PS3.4 table B.2-1; the one table from what is wrong to what the peer is told.
STATUS: Final = {
    "sop-class": 0x0122,
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
_STOP_SECONDS: Final = 5.0
_PIECE: Final = 1 << 20
_LOOK_FOR_ROOM: Final = 16 << 20  # bytes of one image between two looks at the disk
_MAX_ASSOCIATIONS: Final = 64
_UID = re.compile(r"[0-9.]{1,64}")
_FIRST_GROUP = 0x0008
_TAGS = {name: Tag(tag) for tag, name in TAGS.items()}
# what `scan` reads: little endian, and not deflated
_PLAIN: Final = frozenset(
    UID(syntax) for syntax in uids.AllTransferSyntaxes if UID(syntax).is_little_endian and not UID(syntax).is_deflated
)
_HEAD: Final = 64 << 10
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RecursionError,
    struct.error,
    TypeError,
    ValueError,
    zlib.error,
)


@dataclass(frozen=True, slots=True)
class _Header:
    sop_class: str
    sop_uid: str
    study_uid: str
    series_uid: str
    patient_id: str
    issuer: str
    accession: str
    picture: bool


class Gateway:
    """The storage SCP of a site; started on construction, stopped by `close`.

    Raises:
        ConfigurationError: certificates or addresses that cannot work.
        OSError: the port is taken.
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        config = site.config
        tls, allowed = server_tls(site), networks(config.calling_addresses)
        self._archive = Archive(site.archive)
        self._archive.sweep()
        self._index = Index(site)
        self._room = Room(site.archive, config.reserve_mib << 20)
        self._open: dict[int, set[str]] = {}
        self._receptions: set[Reception] = set()
        self._lock = threading.Lock()
        pynetdicom_config.LOG_HANDLER_LEVEL = "none"
        pynetdicom_config.LOG_REQUEST_IDENTIFIERS = False
        pynetdicom_config.LOG_RESPONSE_IDENTIFIERS = False
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, no_delay),
            (evt.EVT_FSM_TRANSITION, hand_over),
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_CONN_CLOSE, self._on_close),
        ]
        entity = _entity(config.ae_title, config.calling_ae_titles)
        server = cast(
            Listener,
            entity.make_server(
                (config.host, config.dicom_port),
                contexts=_contexts(),
                ssl_context=tls,
                evt_handlers=handlers,
                server_class=Listener,
            ),
        )
        server.networks = allowed
        threading.Thread(target=server.serve_forever, name="listener", daemon=True).start()
        self._server = server

    @property
    def port(self) -> int:
        """The TCP port that it listens on."""
        return int(self._server.server_address[1])

    def sending(self) -> set[str]:
        """The studies that open associations have sent images of: perhaps not complete yet."""
        with self._lock:
            return set().union(*self._open.values())

    def close(self) -> None:
        """Abort what is being received (it was not acknowledged), commit what was, and stop."""
        self._server.shutdown()
        with self._lock:
            receptions = list(self._receptions)
        for reception in receptions:
            reception.stop()
        for reception in receptions:
            reception.wait(_STOP_SECONDS)
        for association in self._server.active_associations:
            association.abort()
        self._index.close()

    def _on_established(self, event: evt.Event) -> None:
        reception = Reception(event.assoc, self._begin)
        with self._lock:
            self._receptions.add(reception)
        try:
            reception.run()
        finally:
            with self._lock:
                self._receptions.discard(reception)

    def _begin(self, announcement: Announcement) -> "_Instance":
        return _Instance(announcement, self._archive, self._room, self._file)

    def _file(self, announcement: Announcement, header: _Header, draft: Draft) -> None:
        """Name and index an instance; returns once both are durable."""
        digest = draft.name()
        draft.sync()
        with self._lock:
            # before it is committed, so that the study cannot be called complete in between
            self._open.setdefault(id(announcement.association), set()).add(header.study_uid)
        filed = self._index.file(
            Arrival(
                sop_uid=header.sop_uid,
                sha256=digest,
                study_uid=header.study_uid,
                series_uid=header.series_uid,
                sop_class=header.sop_class,
                transfer_syntax=announcement.transfer_syntax,
                patient_id=header.patient_id,
                issuer=header.issuer,
                accession=header.accession,
                calling_ae=str(announcement.association.requestor.ae_title).strip()[:16],
                picture=header.picture,
            )
        ).result(timeout=_COMMIT_SECONDS)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("instance %s, study %s", filed.value, self._site.study_key(header.study_uid))

    def _on_close(self, event: evt.Event) -> None:
        with self._lock:
            self._open.pop(id(event.assoc), None)


class _Instance:
    """One C-STORE on its way to the disk; the first thing that goes wrong decides the status."""

    def __init__(
        self,
        announcement: Announcement,
        archive: Archive,
        room: Room,
        file: Callable[[Announcement, _Header, Draft], None],
    ) -> None:
        self._announcement = announcement
        self._syntax = UID(announcement.transfer_syntax)
        self._room = room
        self._file = file
        self._draft: Draft | None = None
        self._begins_at = 0
        self._look_at = 0
        self._header: _Header | None = None
        self._problem = ""
        with self._noting():
            if announcement.sop_class not in _STORAGE_CLASSES:
                raise InvalidStudy("sop-class", "not a storage SOP class")
            if not _UID.fullmatch(announcement.sop_uid):
                raise InvalidStudy("uid-missing", "no SOP instance UID was announced")
            self._draft = archive.begin()
            self._draft.write(_file_meta(announcement.sop_class, announcement.sop_uid, self._syntax))
            self._begins_at = self._draft.size

    def write(self, content: memoryview) -> None:
        if self._draft is None or self._problem:
            return
        with self._noting():
            self._require_room()
            self._look(content)
            self._draft.write(content)

    def keep(self, content: memoryview) -> int:
        with self._noting():
            if self._draft is not None and not self._problem:
                self._require_room()
                self._look(content)
                self._draft.write(content)
                self._file(self._announcement, self._header or self._read(self._draft.path), self._draft)
        self.discard()
        if not self._problem:
            return SUCCESS
        log.warning("instance not stored: %s", self._problem)
        return STATUS[self._problem]

    def discard(self) -> None:
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.close()

    def _look(self, content: memoryview) -> None:
        """Read the header in the dataset's first bytes, where it is a plain one."""
        assert self._draft is not None
        if self._draft.size == self._begins_at and self._syntax in _PLAIN:
            text = scan(bytes(content[:_HEAD]), implicit=self._syntax.is_implicit_VR)
            if text is not None:
                self._header = self._announced(_header(text))

    def _read(self, path: Path) -> _Header:
        """Read the header of any dataset, from the file."""
        with path.open("rb") as stream:
            stream.seek(self._begins_at)
            return self._announced(_read_header(stream, self._syntax))

    def _announced(self, header: _Header) -> _Header:
        if (header.sop_class, header.sop_uid) != (self._announcement.sop_class, self._announcement.sop_uid):
            raise InvalidStudy("uid-mismatch", "the dataset is not the one announced")
        return header

    def _require_room(self) -> None:
        assert self._draft is not None
        if self._draft.size >= self._look_at:
            self._look_at = self._draft.size + _LOOK_FOR_ROOM
            if not self._room.left():
                raise OSError(errno.ENOSPC, "the reserve is reached")

    @contextlib.contextmanager
    def _noting(self) -> Generator[None]:
        try:
            yield
        except InvalidStudy as error:
            self._problem = error.reason
        except (OSError, SQLAlchemyError, FutureTimeout) as error:
            self._problem = _problem(error)


def _entity(ae_title: str, calling_ae_titles: list[str]) -> AE:
    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.maximum_associations = _MAX_ASSOCIATIONS
    entity.maximum_pdu_size = 0  # the sender's choice
    entity.network_timeout = 120
    entity.acse_timeout = 10  # whoever connects and asks for nothing takes a place from others
    entity.require_calling_aet = list(calling_ae_titles)
    return entity


class _Context(PresentationContext):
    """pynetdicom copies every context for every association, 60 ms for ours, most of it UIDs that never change."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Context":
        made = copy.copy(self)
        made._transfer_syntax = [*self._transfer_syntax]
        return made


def _contexts() -> list[PresentationContext]:
    """What is accepted: every storage class in every transfer syntax, and verification."""
    found: list[PresentationContext] = []
    for abstract_syntax in (*sorted(_STORAGE_CLASSES), Verification):
        context = _Context()
        context.abstract_syntax = UID(abstract_syntax)
        context.transfer_syntax = [UID(syntax) for syntax in uids.AllTransferSyntaxes]
        found.append(context)
    return found


def _storage_classes() -> set[str]:
    """Every storage SOP class, with the retired ones that old devices still send."""
    current = {str(context.abstract_syntax) for context in AllStoragePresentationContexts}
    retired = {
        value
        for value, (name, kind, *_) in UID_dictionary.items()
        if kind == "SOP Class" and value.startswith("1.2.840.10008.5.1.4.1.1.") and "Storage" in name
    }
    return current | retired


_STORAGE_CLASSES: Final = frozenset(_storage_classes())


def _read_header(stream: BinaryIO, syntax: UID) -> _Header:
    """What the index needs, from an encoded dataset; values are checked, never logged.

    Args:
        stream: stands at the beginning of the dataset.

    Raises:
        InvalidStudy: `not-dicom`, `uid-missing`, `too-large`.
    """
    source = _inflated(stream) if syntax.is_deflated else stream
    begins_at = source.tell()
    first_group = int.from_bytes(source.read(2), "little" if syntax.is_little_endian else "big")
    source.seek(begins_at)
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
    return _header(text)


def _header(text: dict[str, str]) -> _Header:
    if not all(_UID.fullmatch(text[name]) for name in ("sop_class", "sop_uid", "study_uid", "series_uid")):
        raise InvalidStudy("uid-missing", "a class, SOP instance, series or study UID is missing or is none")
    return _Header(
        sop_class=text["sop_class"],
        sop_uid=text["sop_uid"],
        study_uid=text["study_uid"],
        series_uid=text["series_uid"],
        patient_id=text["patient_id"][:64],
        issuer=text["issuer"][:64],
        accession=text["accession"][:16],
        picture=bool(text["rows"] and text["columns"]),
    )


def _inflated(stream: BinaryIO) -> BytesIO:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    content = BytesIO()
    try:
        while piece := inflater.unconsumed_tail or stream.read(_PIECE):
            # one byte more than may be, so that what is too much shows
            content.write(inflater.decompress(piece, MAX_INFLATED + 1 - content.tell()))
            if content.tell() > MAX_INFLATED:
                raise InvalidStudy("too-large", "inflates to too much")
    except zlib.error as error:
        raise InvalidStudy("not-dicom", "cannot be inflated") from error
    content.seek(0)
    return content


def _after_header(tag: BaseTag, _vr: str | None, _length: int) -> bool:
    return tag > LAST_TAG


def _value(dataset: Dataset, tag: BaseTag) -> str:
    if tag not in dataset or dataset[tag].value is None:
        return ""
    return str(dataset[tag].value).strip(" \0")


def _file_meta(sop_class: str, sop_uid: str, syntax: UID) -> bytes:
    """Preamble and file meta of a Part 10 file: the same for the same instance, so that the same bytes are one file.

    The bytes that pydicom's writer makes (`tests/unit/test_header.py`), a hundred times faster.

    Source: PS3.10 7.1: group 0002 in explicit little endian.
    """
    elements = (
        b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01",  # version
        _meta_uid(0x0002, sop_class),
        _meta_uid(0x0003, sop_uid),
        _meta_uid(0x0010, syntax),
        _meta_uid(0x0012, IMPLEMENTATION_CLASS_UID),
    )
    body = b"".join(elements)
    return b"\0" * 128 + b"DICM" + struct.pack("<HH2sHL", 2, 0, b"UL", 4, len(body)) + body


def _meta_uid(element: int, uid: str) -> bytes:
    value = uid.encode("ascii")
    value += b"\0" * (len(value) % 2)
    return struct.pack("<HH2sH", 2, element, b"UI", len(value)) + value


def _problem(error: OSError | SQLAlchemyError | FutureTimeout) -> str:
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if full or "disk is full" in str(getattr(error, "orig", "")):
        return "disk-full"
    if isinstance(error, FutureTimeout) or "locked" in str(getattr(error, "orig", "")):
        return "out-of-resources"
    return "storage-failure"
