"""What comes in, by whichever door: the header is checked, the file is made durable, its index entry committed.

C-STORE and STOW-RS differ in how the bytes arrive and in how an answer looks, and in nothing else: the same dataset in
the same transfer syntax is the same file, whoever brought it. Pixels are never decoded here, and of the header only
what the index needs is read.
"""

import contextlib
import errno
import logging
import re
import struct
import threading
import zlib
from collections.abc import Generator
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID
from sqlalchemy.exc import SQLAlchemyError

from client.arrival import priority, priors
from client.arrival.comparison import Comparison
from client.arrival.header import LAST_TAG, NUMBERS, TAGS, scan
from client.arrival.index import Arrival, Filed, Index, promote
from client.arrival.moves import Moves
from client.arrival.orphans import Orphans
from client.arrival.refused import Refused
from client.arrival.rejection import SOP_CLASS as REJECTIONS
from client.arrival.rejection import rejection
from client.arrival.room import Backlog, Room
from client.arrival.storable import storable
from client.arrival.urgency import Urgency
from client.dicom.identity import IMPLEMENTATION_CLASS_UID
from client.dicom.malformed import MALFORMED
from client.dicom.syntaxes import ACCEPTED
from client.store.archive import Archive, Draft
from client.store.fullness import out_of_room
from client.store.site import Site
from models.errors import InvalidStudy

log = logging.getLogger(__name__)

SUCCESS: Final = 0x0000

# PS3.4 table B.2-1, which PS3.18 table I.2-2 takes over; the one table from what is wrong to what the peer is told.
STATUS: Final = {
    "sop-class": 0x0122,
    "disk-full": 0xA700,
    "queue-full": 0xA700,
    "out-of-resources": 0xA701,
    "uid-missing": 0xA900,
    "uid-mismatch": 0xA900,
    "not-dicom": 0xC000,
    "too-large": 0xC001,
    "storage-failure": 0xC002,
    "patient-mismatch": 0xC003,
    "not-asked": 0xC004,
}

_PASSING: Final = frozenset(
    {"disk-full", "queue-full", "out-of-resources", "storage-failure"}
)  # sent again, it may be kept

MAX_INFLATED: Final = 1 << 30
_COMMIT_SECONDS: Final = 60.0
_PIECE: Final = 1 << 20
_LOOK_FOR_ROOM: Final = 16 << 20  # bytes of one image between two looks at the disk
_UID = re.compile(r"[0-9.]{1,64}")
_INTEGER = re.compile(r"[+-]?[0-9]{1,12}", re.ASCII)  # PS3.5 table 6.2-1, IS
_SIDE: Final = re.compile(r"[0-9]{1,5}", re.ASCII)  # PS3.5 table 6.2-1, US
_FIRST_GROUP = 0x0008
_TAGS = {name: Tag(tag) for tag, name in TAGS.items()}
# what `scan` reads: little endian, and not deflated
_PLAIN: Final = frozenset(syntax for syntax in ACCEPTED if syntax.is_little_endian and not syntax.is_deflated)
_HEAD: Final = 64 << 10


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
    modality: str
    number: int | None
    acquisition: int | None
    stated: int | None
    frames: int | None
    rows: int | None
    columns: int | None


@dataclass(frozen=True, slots=True)
class Offer:
    """What somebody says of the instance that follows; nothing of it has been checked.

    Attributes:
        sop_class: of the instance.
        sop_uid: of the instance.
        transfer_syntax: that it is encoded in.
        calling: who sends it; at most 16 characters of it are kept.
        sender: of this association or request, until `Intake.ended` is called with it.
        fetching: it comes because we asked for it, over an association of ours.
        originator: whose C-MOVE makes the peer send it, empty where nobody's.
        account: `calling` is the account of a reader (STOW-RS), and no AE title.
    """

    sop_class: str
    sop_uid: str
    transfer_syntax: str
    calling: str
    sender: int
    fetching: bool = False
    originator: str = ""
    account: bool = False


class NotKept(Exception):
    """An instance was not kept; `reason` is a key of `STATUS`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Intake:
    """The way of an instance into the hospital; shared by all doors of a node.

    Attributes:
        over: set whenever an association or request ends.
        moves: our C-MOVEs that are open.
        refused: images that were not taken although nothing is wrong with them.
    """

    def __init__(self, site: Site) -> None:
        self.over = threading.Event()
        self.moves = Moves()
        self.refused = Refused()
        self._site = site
        self._archive = Archive(site.archive)
        self._archive.sweep()
        self._orphans = Orphans(site, self._archive)
        self._index = Index(site)
        self._comparison = Comparison()
        self._room = Room(site.archive, site.config.reserve_mib << 20)
        self._backlog = Backlog(site, site.config.most_waiting, site.config.most_emergencies)
        self._open: dict[int, str] = {}
        self._lock = threading.Lock()

    def begin(self, offer: Offer) -> "Instance":
        """Make ready for an instance that is about to come, piece by piece."""
        return Instance(offer, self, self._archive, self._room)

    def receive(self, dataset: bytes | memoryview, offer: Offer) -> Header:
        """File one instance that is here as a whole; it is durable and committed once this returns.

        Args:
            dataset: encoded, without file meta.

        Raises:
            NotKept: it was not kept, and nothing of it was left behind.
        """
        instance = self.begin(offer)
        if instance.keep(memoryview(dataset)) != SUCCESS or instance.header is None:
            raise NotKept(instance.problem)
        return instance.header

    def sending(self) -> set[str]:
        """The studies that open associations and requests have sent an image of last: perhaps not complete yet."""
        with self._lock:
            return set(self._open.values())

    def ended(self, sender: int) -> None:
        """An association or request is over."""
        with self._lock:
            self._open.pop(sender, None)
        self.over.set()

    def close(self) -> None:
        """Commit what has come in, and stop."""
        self._orphans.close()
        self._index.close()
        self._comparison.close()

    def keeps(self, sop_class: str) -> bool:
        """Whether objects of this class are kept."""
        return storable(sop_class, unknown=self._site.config.unknown_classes)

    def file(self, offer: Offer, header: Header, draft: Draft) -> None:
        """Name and index an instance; returns once both are durable."""
        fetched = priors.expected(self._site, self.moves, offer, header)
        if not fetched and not self._backlog.admits(header.study_uid, lambda: self._emergency(offer, header, draft)):
            raise InvalidStudy("queue-full", "too many studies wait")
        told = rejection(draft.path, header.study_uid) if header.sop_class == REJECTIONS else None
        digest = draft.name()
        draft.sync()
        if not fetched:
            with self._lock:
                # before it is committed, so that the study cannot be called complete in between
                self._open[offer.sender] = header.study_uid
        filed = self._index_of(
            Arrival(
                sop_uid=header.sop_uid,
                sha256=digest,
                study_uid=header.study_uid,
                series_uid=header.series_uid,
                sop_class=header.sop_class,
                transfer_syntax=offer.transfer_syntax,
                patient_id=header.patient_id,
                issuer=header.issuer,
                accession=header.accession,
                calling_ae=offer.calling.strip()[:16],
                picture=header.picture,
                modality=header.modality,
                number=header.number,
                acquisition=header.acquisition,
                stated=header.stated,
                frames=header.frames,
                rows=header.rows,
                columns=header.columns,
                fetched=fetched,
            )
        )
        if fetched and self.moves.doubted(header.study_uid):
            with self._site.database.write() as connection:
                promote(connection, [header.study_uid])
        if filed is Filed.RECODED:
            draft.forget()  # the image is stored, and no entry names these bytes
        if told is not None and filed is not Filed.OURS:  # our own withdrawals come back
            from client.arrival.exclusions import believe, heeded  # read studies again: no business of most doors

            believe(
                self._site,
                header.sop_uid,
                header.study_uid,
                told,
                offer.calling.strip()[:16],
                new=filed is Filed.NEW,
                # of two documents of one UID nobody knows which is right
                trusted=filed is not Filed.CONFLICTING
                and heeded(self._site, offer.calling.strip(), account=offer.account),
            )
        if log.isEnabledFor(logging.DEBUG):
            log.debug("instance %s, study %s", filed.value, self._site.study_key(header.study_uid))

    def _index_of(self, arrival: Arrival) -> Filed:
        """Enter an arrival; only one whose UID others have, in other bytes, is compared with them."""
        while True:
            filed = self._index.file(arrival).result(timeout=_COMMIT_SECONDS)
            if filed is not Filed.CLASHING:
                return filed
            compared = dict(arrival.compared)
            mine = self._archive.path(arrival.sha256)
            for digest in self._index.stored(arrival.sop_uid):
                if digest not in compared:
                    compared[digest] = self._comparison.alike(self._archive.path(digest), mine)
            arrival = replace(arrival, compared=compared)

    def _emergency(self, offer: Offer, header: Header, draft: Draft) -> bool:
        """Whether somebody says so of an image's study: the site of its sender, a procedure step, an order, itself."""
        said = priority.stated_in(draft.path)
        with self._site.database.read() as connection:
            known = priority.told(connection, self._site, header.study_uid, offer.calling.strip()[:16])
        return Urgency.EMERGENCY in (said, known)


class Instance:
    """One instance on its way to the disk; the first thing that goes wrong decides the status.

    Attributes:
        header: once it is known.
        problem: a key of `STATUS`, empty while all is well.
    """

    def __init__(self, offer: Offer, intake: Intake, archive: Archive, room: Room) -> None:
        self._offer = offer
        self._intake = intake
        self._syntax = UID(offer.transfer_syntax)
        self._room = room
        self._draft: Draft | None = None
        self._begins_at = 0
        self._look_at = 0
        self._first = True
        self.header: Header | None = None
        self.problem = ""
        with self._noting():
            if not intake.keeps(offer.sop_class):
                raise InvalidStudy("sop-class", "not a storage SOP class")
            if not _UID.fullmatch(offer.sop_uid):
                raise InvalidStudy("uid-missing", "no SOP instance UID was announced")
            self._draft = archive.begin()
            self._draft.write(_file_meta(offer.sop_class, offer.sop_uid, self._syntax))
            self._begins_at = self._draft.size

    def write(self, content: memoryview) -> None:
        self._add(content)

    def keep(self, content: memoryview) -> int:
        self._add(content)
        with self._noting():
            if self._draft is not None and not self.problem:
                self.header = self.header or self._read(self._draft.path)
                self._intake.file(self._offer, self.header, self._draft)
        self.discard()
        self._remember()
        if not self.problem:
            return SUCCESS
        log.warning("instance not stored: %s", self.problem)
        return STATUS[self.problem]

    def discard(self) -> None:
        draft, self._draft = self._draft, None
        if draft is not None:
            draft.close()

    def _add(self, content: memoryview) -> None:
        first, self._first = self._first, False
        if self._draft is not None and not self.problem:
            with self._noting():
                self._require_room()
                if first:
                    self._look(content)
                self._draft.write(content)
        if self.problem and first:
            self._glance(content)

    def _remember(self) -> None:
        """Of which study it is, where it was refused for a reason that is none of its own; or that it came at last."""
        header = self.header
        if header is None or self._offer.fetching:
            return
        if not self.problem:
            self._intake.refused.came(header.study_uid, header.sop_uid)
        elif self.problem in _PASSING and header.picture:
            self._intake.refused.note(header.study_uid, header.sop_uid)

    def _glance(self, content: memoryview) -> None:
        """Read of what is refused already which study it is of, if the dataset's first bytes say so."""
        if self.header is None and self.problem in _PASSING:
            with contextlib.suppress(InvalidStudy, *MALFORMED):
                self.header = self._announced(read_header(BytesIO(content[:_HEAD]), self._syntax))

    def _look(self, content: memoryview) -> None:
        """Read the header in the dataset's first bytes, where it is a plain one."""
        if self._syntax in _PLAIN:
            text = scan(bytes(content[:_HEAD]), implicit=self._syntax.is_implicit_VR)
            if text is not None:
                self.header = self._announced(_header(text))

    def _read(self, path: Path) -> Header:
        """Read the header of any dataset, from the file."""
        with path.open("rb") as stream:
            stream.seek(self._begins_at)
            return self._announced(read_header(stream, self._syntax))

    def _announced(self, header: Header) -> Header:
        if (header.sop_class, header.sop_uid) != (self._offer.sop_class, self._offer.sop_uid):
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
            self.problem = error.reason
        except (OSError, SQLAlchemyError, FutureTimeout) as error:
            self.problem = _problem(error)
        except MALFORMED as error:  # what nobody foresaw in one image must not end the association of the next
            log.error("an instance could not be looked at: %s", type(error).__name__)
            self.problem = "not-dicom"


def read_header(stream: BinaryIO, syntax: UID) -> Header:
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
        numbers = {name: _raw(dataset, _TAGS[name]) for name in NUMBERS}
        text = {name: _value(dataset, tag) for name, tag in _TAGS.items() if name not in numbers} | numbers
    except MALFORMED as error:
        raise InvalidStudy("not-dicom", type(error).__name__) from error
    return _header(text)


def _header(text: dict[str, str]) -> Header:
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
        modality=text["modality"][:16],
        rows=int(text["rows"]) if _SIDE.fullmatch(text["rows"]) else None,
        columns=int(text["columns"]) if _SIDE.fullmatch(text["columns"]) else None,
        **{name: int(text[name]) if _INTEGER.fullmatch(text[name]) else None for name in NUMBERS},
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


def _raw(dataset: Dataset, tag: BaseTag) -> str:
    """A value as it stands there, before anything is made of it."""
    raw = dataset.get_item(tag)
    value = raw.value if isinstance(raw, RawDataElement) else None
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else ""


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
    if out_of_room(error):
        return "disk-full"
    if isinstance(error, FutureTimeout) or "locked" in str(getattr(error, "orig", "")):
        return "out-of-resources"
    return "storage-failure"
