"""The hospital's DICOM door: C-STORE and C-ECHO.

An instance is answered with success when its file and its index entry are on disk, not before; what cannot be kept
whole is answered with a failure and leaves nothing behind. Pixels are never decoded here, and of the header only what
the index needs is read. A second instance with the same UID and other content is answered with success too: it is
kept, apart and flagged, and a failure would only make the PACS send it for ever.
"""

import copy
import errno
import logging
import re
import threading
import zlib
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from io import BytesIO
from struct import error as StructError
from typing import Any, Final, cast

from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, UID_dictionary
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom import _config as pynetdicom_config
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,  # type: ignore[attr-defined]  # made from a table at import
    Verification,  # type: ignore[attr-defined]
)
from sqlalchemy.exc import SQLAlchemyError

from client.dicom import commitment, priors
from client.dicom.archive import Archive
from client.dicom.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from client.dicom.index import Arrival, Index
from client.dicom.listener import Listener, networks, server_tls
from client.dicom.requestor import no_delay
from client.store.site import Site
from models.errors import InvalidStudy

log = logging.getLogger(__name__)

SUCCESS: Final = 0x0000

# PS3.4 table B.2-1; the one table from what is wrong to what the peer is told.
STATUS: Final = {
    "disk-full": 0xA700,
    "out-of-resources": 0xA701,
    "uid-missing": 0xA900,
    "uid-mismatch": 0xA900,
    "not-dicom": 0xC000,
    "too-large": 0xC001,
    "storage-failure": 0xC002,
    "patient-mismatch": 0xC003,
    "not-asked": 0xC004,
}

MAX_INFLATED: Final = 1 << 30
_COMMIT_SECONDS: Final = 60.0
_MAX_ASSOCIATIONS: Final = 64
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
        self._index = Index(site)
        self._open: dict[int, set[str]] = {}
        self._lock = threading.Lock()
        pynetdicom_config.LOG_HANDLER_LEVEL = "none"
        pynetdicom_config.LOG_REQUEST_IDENTIFIERS = False
        pynetdicom_config.LOG_RESPONSE_IDENTIFIERS = False
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, no_delay),
            (evt.EVT_C_STORE, self.take),
            (evt.EVT_CONN_CLOSE, self._on_close),
            *commitment.handlers(site),
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
        for association in self._server.active_associations:
            association.abort()
        self._index.close()

    def take(self, event: evt.Event) -> int:
        """Keep an instance that came, over an association of the peer's or of ours; the status to answer with."""
        try:
            return self._store(event)
        except InvalidStudy as error:
            problem = error.reason
        except (OSError, SQLAlchemyError, FutureTimeout) as error:
            problem = _problem(error)
        log.warning("instance not stored: %s", problem)
        return STATUS[problem]

    def _store(self, event: evt.Event) -> int:
        request: Any = event.request
        stream: BytesIO | None = request.DataSet
        if stream is None:
            raise InvalidStudy("not-dicom", "no dataset")
        syntax = UID(event.context.transfer_syntax)
        header = _read_header(stream, syntax)
        announced = (str(request.AffectedSOPClassUID), str(request.AffectedSOPInstanceUID))
        if (header.sop_class, header.sop_uid) != announced:
            raise InvalidStudy("uid-mismatch", "the dataset is not the one announced")
        fetched = priors.expected(self._site, event, header.study_uid, header.patient_id, header.issuer)
        meta = _file_meta(header, syntax)
        with stream.getbuffer() as content:
            digest = self._archive.store(meta, content)
        with self._lock:
            # before it is committed, so that the study cannot be called complete in between
            if not fetched:
                self._open.setdefault(id(event.assoc), set()).add(header.study_uid)
        sender = event.assoc.acceptor if event.assoc.is_requestor else event.assoc.requestor
        calling_ae = str(sender.ae_title).strip()[:16]
        filed = self._index.file(
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
                calling_ae=calling_ae,
                picture=header.picture,
                fetched=fetched,
            )
        ).result(timeout=_COMMIT_SECONDS)
        log.debug("instance %s, study %s", filed.value, self._site.study_key(header.study_uid))
        return SUCCESS

    def _on_close(self, event: evt.Event) -> None:
        with self._lock:
            self._open.pop(id(event.assoc), None)


def _entity(ae_title: str, calling_ae_titles: list[str]) -> AE:
    entity = AE(ae_title=ae_title)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.maximum_associations = _MAX_ASSOCIATIONS
    entity.maximum_pdu_size = 0  # the sender's choice
    entity.network_timeout = 120
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
    for abstract_syntax in (*sorted(_storage_classes()), Verification, StorageCommitmentPushModel):
        context = _Context()
        context.abstract_syntax = UID(abstract_syntax)
        if abstract_syntax == StorageCommitmentPushModel:
            context.scu_role, context.scp_role = False, True  # the peer provides it, we only hear its reports
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


def _read_header(stream: BytesIO, syntax: UID) -> _Header:
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


def _file_meta(header: _Header, syntax: UID) -> bytes:
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
