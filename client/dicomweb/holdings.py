"""What the node holds and may show: what was received, and the node's own results beside it.

Of a study only its series are kept in mind, with a count each and one instance that stands for the others; their
headers are read from the archive when they are first asked for and kept, up to a bound, under the digest of their
file, so that nothing kept can become wrong. What came in since the last question is read from the index alone, which
does not know the series of the node's own results: their files are opened when their study is looked at.

A conflicting instance (same UID, other content) is in none of this: it is never served in place of the real one. Nor is
an image that the PACS has rejected or a person leaves out, nor what the node made and has withdrawn, does not send any
more, or has put aside for being wrong: whoever looks here sees what the PACS is meant to show.
"""

import json
import logging
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydicom.errors import InvalidDicomError
from sqlalchemy import ColumnElement, Connection, func, literal_column, or_, select

from client.delivery.standing import named
from client.dicomweb import json_model, part10
from client.dicomweb.matching import Element
from client.dicomweb.outlines import NAME, Outlines
from client.results.result import COMPUTED
from client.store.archive import Archive
from client.store.excluded import excluded
from client.store.site import Site
from client.store.tables import delivery, exclusion, instance, outcome, recall
from models.errors import InvalidStudy, NotFound

log = logging.getLogger(__name__)

# What a search matches and returns; the rest of a header is in the metadata.
TAGS: Final = (
    0x00080005,
    0x00080016,
    0x00080018,
    0x00080020,
    0x00080021,
    0x00080030,
    0x00080031,
    0x00080050,
    0x00080060,
    0x00080070,
    0x00080080,
    0x00080090,
    0x00080201,
    0x00081030,
    0x0008103E,
    0x00081090,
    0x00100010,
    0x00100020,
    0x00100021,
    0x00100030,
    0x00100040,
    0x00101010,
    0x00180015,
    0x0020000D,
    0x0020000E,
    0x00200010,
    0x00200011,
    0x00200013,
    0x00200052,
    0x00200060,
    0x00280008,
    0x00280010,
    0x00280011,
    0x00280100,
    0x00400244,
    0x00400245,
    0x00400275,
)
_UNTIL: Final = 0x00400276
OUTLINE: Final = ("00080020", "00080050", "00080060", "00081030", "00100010", "00100020", "00100030")
"""What studies are looked for by; kept for many more of them than whole headers are, and over a restart."""
_OUTLINE_TAGS: Final = (0x00080005, *(int(tag, 16) for tag in OUTLINE))
_OUTLINE_UNTIL: Final = 0x00100031
_SOP_CLASS: Final = 0x00080016
_SERIES: Final = 0x0020000E
_MOST_HEADERS: Final = 16_384  # of some 8 kB
_ROWID: Final = literal_column("delivery.rowid")
_PUT_ASIDE: Final = (
    select(delivery.c.sop_uid, outcome.c.study_uid)
    .join(outcome, outcome.c.id == delivery.c.outcome_id)
    .outerjoin(recall, recall.c.outcome_id == outcome.c.id)
    .where(
        or_(
            delivery.c.state.in_(("dropped", "quarantined")),
            # also where there is no withdrawal that names it, since its file is lost
            (recall.c.action != "to_signer") & delivery.c.kind.in_(COMPUTED),
        )
    )
)
_LEFT_OUT: Final = select(exclusion.c.sop_uid, exclusion.c.study_uid).where(exclusion.c.lifted_at.is_(None))
_WITHDRAWALS: Final = (
    select(_ROWID.label("id"), delivery.c.sha256, outcome.c.study_uid)
    .join(outcome, outcome.c.id == delivery.c.outcome_id)
    .where(delivery.c.kind == "kos")
)


@dataclass(frozen=True, slots=True)
class Held:
    """One instance that can be had."""

    study: str
    series: str
    sop_uid: str
    sop_class: str
    sha256: str
    syntax: str


@dataclass(slots=True)
class Series:
    """One series: how many instances it has, and the digest of the one that stands for it."""

    uid: str
    digest: str
    instances: int = 0


@dataclass(slots=True)
class Study:
    """One study; its series in the order in which they came.

    Attributes:
        made: UID and digest of the node's own results whose series nobody has looked up yet.
    """

    uid: str
    made: list[tuple[str, str]] = field(default_factory=lambda: list[tuple[str, str]]())
    series: dict[str, Series] = field(default_factory=lambda: dict[str, Series]())

    @property
    def instances(self) -> int:
        return sum(series.instances for series in self.series.values())


class Holdings:
    """What one hospital holds; safe to share between threads."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.archive = Archive(site.archive)
        self._lock = threading.Lock()
        self._forget()
        self._headers: OrderedDict[str, Mapping[str, str]] = OrderedDict()
        self._outlines: Outlines | None = None
        self._places: dict[str, tuple[str, str, str]] = {}
        self._headers_lock = threading.Lock()

    def studies(self) -> list[Study]:
        """Every study, the newest first."""
        with self._lock:
            with self._site.database.read() as connection:
                self._catch_up(connection)
            return list(reversed(self._studies.values()))

    def _shown(self, connection: Connection, condition: ColumnElement[bool]) -> list[tuple[str, str, str]]:
        """The node's own results that are not withdrawn: study UID, UID and digest of each."""
        with self._lock:
            self._catch_up(connection)
            return [made for made in _made(connection, condition) if made[1] not in self._hidden]

    def study(self, uid: str) -> Study:
        """One study.

        Raises:
            NotFound: nothing of it is here.
        """
        self.studies()
        try:
            return self.whole(self._studies[uid])
        except KeyError:
            raise NotFound("no such study") from None

    def whole(self, study: Study) -> Study:
        """The same with the node's own results among its series."""
        if study.made:
            with self._lock:
                for sop_uid, digest in study.made:
                    held = self._own(study.uid, sop_uid, digest)
                    if held is not None:
                        _enter(study, held.series, held.sha256)
                study.made = []
        return study

    def instances(self, study: str, series: str | None = None) -> list[Held]:
        """The instances of a study or series, in the order in which they came, the node's own last.

        Raises:
            NotFound: there are none.
        """
        condition = instance.c.study_uid == study
        if series is not None:
            condition &= instance.c.series_uid == series
        with self._site.database.read() as connection:
            found = [*_received(connection, condition)]
            for made in self._shown(connection, outcome.c.study_uid == study):
                held = self._own(*made)
                if held is not None and (series is None or held.series == series):
                    found.append(held)
        if not found:
            raise NotFound("no such series" if series else "no such study")
        return found

    def instance(self, study: str, series: str, sop_uid: str) -> Held:
        """One instance.

        Raises:
            NotFound: it is not here, or not in this study and series.
        """
        with self._site.database.read() as connection:
            found = [*_received(connection, instance.c.sop_uid == sop_uid)]
            found += [
                held for made in self._shown(connection, delivery.c.sop_uid == sop_uid) if (held := self._own(*made))
            ]
        for held in found:
            if (held.study, held.series) == (study, series):
                return held
        raise NotFound("no such instance")

    def header(self, digest: str) -> Mapping[str, str]:
        """The searchable attributes of a stored file, each as its JSON; what cannot be read is left out."""
        with self._headers_lock:
            known = self._headers.get(digest)
            if known is not None:
                self._headers.move_to_end(digest)
                return known
        made = self._read(digest)
        with self._headers_lock:
            self._headers[digest] = made
            while len(self._headers) > _MOST_HEADERS:
                self._headers.popitem(last=False)
        return made

    def outline(self, digest: str) -> dict[str, Element]:
        """Of a header, what `OUTLINE` names: a search of every study reads each file once, and not once a search."""
        kept = self._kept()
        known = kept.get(digest)
        if known is None:
            header = self._headers.get(digest) or self._read(digest, _OUTLINE_TAGS, _OUTLINE_UNTIL)
            known = json_model.join({tag: header[tag] for tag in OUTLINE if tag in header})
            kept.put(digest, known)
        return json.loads(known)

    def remember(self) -> None:
        """Keep over a restart what was read."""
        if self._outlines is not None:
            self._outlines.flush()

    def _kept(self) -> Outlines:
        if self._outlines is None:
            studies = self.studies()
            with self._lock:
                if self._outlines is None:
                    present = {series.digest for study in studies for series in study.series.values()}
                    present |= {digest for study in studies for _, digest in study.made}
                    self._outlines = Outlines(self.archive.folder / NAME, present)
        return self._outlines

    def _read(self, digest: str, tags: Sequence[int] = TAGS, until: int = _UNTIL) -> Mapping[str, str]:
        try:
            with part10.quiet(), part10.opened(self.archive.path(digest)) as file:
                return json_model.parts(part10.read_header(file, tags, until), lambda place: place)
        except (InvalidStudy, FileNotFoundError):
            return {}

    def _forget(self) -> None:
        self._studies: dict[str, Study] = {}
        self._last_received = self._last_made = self._last_withdrawal = self._count = 0
        self._withdrawn: dict[str, str] = {}
        self._hidden: dict[str, str] = {}

    def _catch_up(self, connection: Connection) -> None:
        """Take in what was indexed since the last time; where something was taken away, or was entered anew because a
        person chose it, all of it again.
        """
        count = connection.execute(select(func.count()).select_from(instance)).scalar_one()
        later = select(func.count()).where(instance.c.id > self._last_received)
        if count - connection.execute(later).scalar_one() != self._count:
            self._forget()
        self._count = count
        self._hide(connection)
        received = select(
            instance.c.id,
            instance.c.study_uid,
            instance.c.series_uid,
            instance.c.sha256,
            or_(instance.c.conflicting, excluded()).label("apart"),
        ).where(instance.c.id > self._last_received)
        for row in connection.execute(received.order_by(instance.c.id)):
            self._last_received = row.id
            if not row.apart:
                _enter(self._entry(row.study_uid), row.series_uid, row.sha256)
        made = select(_ROWID.label("id"), outcome.c.study_uid, delivery.c.sop_uid, delivery.c.sha256)
        made = made.join(outcome, outcome.c.id == delivery.c.outcome_id).where(self._last_made < _ROWID)
        for row in connection.execute(made.order_by(_ROWID)):
            self._last_made = row.id
            if row.sop_uid not in self._hidden:
                self._entry(row.study_uid).made.append((row.sop_uid, row.sha256))

    def _hide(self, connection: Connection) -> None:
        """Find what is not shown any more, or is again, and put its studies together anew."""
        for row in connection.execute(_WITHDRAWALS.where(self._last_withdrawal < _ROWID).order_by(_ROWID)):
            self._last_withdrawal = row.id
            try:
                self._withdrawn |= dict.fromkeys(named(self.archive.read(row.sha256)), str(row.study_uid))
            except (AttributeError, InvalidDicomError, NotFound, OSError) as error:
                log.error("a withdrawal cannot be read: %s", type(error).__name__)
        hidden = self._withdrawn | {
            str(row.sop_uid): str(row.study_uid)
            for query in (_PUT_ASIDE, _LEFT_OUT)
            for row in connection.execute(query)
        }
        changed = {(hidden.get(uid) or self._hidden[uid]) for uid in hidden.keys() ^ self._hidden.keys()}
        self._hidden = hidden
        for uid in changed if self._last_received else ():  # also one of which nothing was left to show
            anew = Study(uid)
            received = (instance.c.study_uid == uid) & (instance.c.id <= self._last_received)
            for held in _received(connection, received):
                _enter(anew, held.series, held.sha256)
            made = _made(connection, (outcome.c.study_uid == uid) & (self._last_made >= _ROWID))
            anew.made = [(sop_uid, digest) for _, sop_uid, digest in made if sop_uid not in hidden]
            if anew.series or anew.made:
                self._studies[uid] = anew
            else:
                self._studies.pop(uid, None)

    def _entry(self, uid: str) -> Study:
        return self._studies.setdefault(uid, Study(uid))

    def _own(self, study: str, sop_uid: str, sha256: str) -> Held | None:
        """A result object of the node; the index has no series of it, its header does."""
        place = self._places.get(sha256)
        if place is None:
            place = self._places[sha256] = self._place(sha256)
        series, sop_class, syntax = place
        return Held(study, series, sop_uid, sop_class, sha256, syntax) if series else None

    def _place(self, digest: str) -> tuple[str, str, str]:
        """(series, SOP class, transfer syntax) of a file, of which no more is read; empty where it cannot be."""
        try:
            with part10.quiet(), part10.opened(self.archive.path(digest)) as file:
                header = part10.read_header(file, (_SOP_CLASS, _SERIES), _SERIES + 1)
                series, sop_class = (str(header[tag].value) for tag in (_SERIES, _SOP_CLASS))
                return series, sys.intern(sop_class), sys.intern(str(file.syntax))
        except (InvalidStudy, FileNotFoundError, KeyError):
            return "", "", ""


def _enter(study: Study, series: str, digest: str) -> None:
    study.series.setdefault(series, Series(series, digest)).instances += 1


def _received(connection: Connection, condition: ColumnElement[bool]) -> Iterator[Held]:
    query = select(
        instance.c.study_uid,
        instance.c.series_uid,
        instance.c.sop_uid,
        instance.c.sop_class,
        instance.c.sha256,
        instance.c.transfer_syntax,
    )
    counted = query.where(condition, ~instance.c.conflicting, ~excluded())
    for row in connection.execute(counted.order_by(instance.c.id)):
        yield Held(*row)


def _made(connection: Connection, condition: ColumnElement[bool]) -> list[tuple[str, str, str]]:
    query = select(outcome.c.study_uid, delivery.c.sop_uid, delivery.c.sha256)
    query = query.join(outcome, outcome.c.id == delivery.c.outcome_id).where(condition).order_by(_ROWID)
    return [(row.study_uid, row.sop_uid, row.sha256) for row in connection.execute(query)]
