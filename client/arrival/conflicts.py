"""Different images that came under one SOP Instance UID: what they are, and which of them a person wants to stand.

Of such copies the first that came stands, and nobody here can say whether that is right: it may be the one that was cut
on its way, or that named another patient. Whoever knows chooses. The others stay where they are, kept apart, so that
another choice can be made later. A study that has a result is read again with what was chosen, as it is when an image
comes late: as a new revision, whose report names the one before. Where the copies are of two studies, that of the one
that stood loses the image, and with it what was said on its strength (`client/review/footing.py`). Where what was
chosen names another person, what was said of the study until then was said of the wrong one: it is taken back in that
patient's name, and nothing later names it.

A choice is an entry in the ledger, and the chosen copy is entered anew in the index, after the others (`unsettled`).
"""

import getpass
import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Connection, Row, func, or_, select, update

from client.arrival.again import Again, Identity, agreed, header_of, read_again
from client.arrival.exclusions import replace_document
from client.arrival.index import pictured, unsettled
from client.arrival.rejection import SOP_CLASS as REJECTIONS
from client.dicom.copies import Looked, look
from client.dicom.person import Person, differ, person_of
from client.review.recall import disown
from client.store import ledger
from client.store.archive import Archive
from client.store.excluded import excluded
from client.store.site import Site
from client.store.tables import instance, patient, study
from models.errors import Conflict, NotFound

log = logging.getLogger(__name__)

FIRST: Final = "first"
LAST: Final = "last"
READABLE: Final = "readable"
_SHORTEST: Final = 4  # digits of a digest
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Copy:
    """One of the images that came under a UID.

    Attributes:
        digest: of its file.
        stands: it is the one that is read and shown.
        at: when it came, in seconds since the epoch.
        calling_ae: who sent it.
        size: bytes; None where its file is gone.
        image: it can be one, by its SOP class, and not a report or the like.
        sop_class: as it says.
        looked: whether it can be decoded, and in what it differs from the first; None where nobody looked.
    """

    digest: str
    study_uid: str
    transfer_syntax: str
    stands: bool
    at: float
    calling_ae: str
    size: int | None
    image: bool = True
    sop_class: str = ""
    looked: Looked | None = None


@dataclass(frozen=True, slots=True)
class Clash:
    """One SOP Instance UID with its copies, in the order in which they came.

    Attributes:
        studies: of the copies, by UID with the accession number; nearly always one.
        settled: a person has said which copy stands, and none came since.
    """

    sop_uid: str
    studies: dict[str, str]
    copies: tuple[Copy, ...]
    settled: bool

    @property
    def standing(self) -> Copy | None:
        """None where it was erased with its patient."""
        return next((copy for copy in self.copies if copy.stands), None)


@dataclass(frozen=True, slots=True)
class Kept:
    """What came of a choice.

    Attributes:
        chosen: images whose standing copy was chosen now.
        before: images of which that copy had been chosen already; nothing was done about these.
        studies: that are concerned.
    """

    chosen: int
    before: int
    studies: tuple[Again, ...]


def listed(site: Site, of: str = "", *, settled: bool = False) -> list[Clash]:
    """The images of which there are several copies, the newest first.

    Args:
        of: a study's or an image's UID, or an accession number; empty for all.
        settled: those too of which a person has said which copy stands.
    """
    with site.database.read() as connection:
        return _clashes(connection, Archive(site.archive), of, settled=settled)


def look_at(site: Site, clashes: Sequence[Clash]) -> list[Clash]:
    """Open every copy, to say which can be decoded and in what they differ."""
    archive = Archive(site.archive)
    said = look([[archive.path(copy.digest) for copy in clash.copies] for clash in clashes])
    return [
        replace(clash, copies=tuple(replace(copy, looked=one) for copy, one in zip(clash.copies, found, strict=True)))
        for clash, found in zip(clashes, said, strict=True)
    ]


def keep(site: Site, of: str, which: str, by: str = "") -> Kept:
    """Let one copy stand, of an image or of each image of a study that has several; the others are kept apart.

    Args:
        of: UID of an image, or of a study.
        which: `first` or `last` that came, `readable` for the only one that can be decoded, or the beginning of the
            digest of its file.
        by: who says so; the account, when not given. The ledger has a keyed hash of it, the withdrawal of what was said
            of another patient the name.

    Raises:
        NotFound: no such image or study has several copies, or none of them is meant by `which`.
        Conflict: the file of the chosen copy is gone or was altered, several copies are meant, or somebody chose, or
            another copy came, meanwhile. Nothing is changed then.
    """
    archive = Archive(site.archive)
    with site.database.read() as connection:
        found = _clashes(connection, archive, of, settled=True)
    clashes = [clash for clash in found if of == clash.sop_uid or of in clash.studies]
    if not clashes:
        raise NotFound("there is no image or study of that UID of which several copies are here")
    if which == READABLE:
        clashes = look_at(site, clashes)
    chosen = {clash.sop_uid: _meant(clash, which) for clash in clashes}
    new = [clash for clash in clashes if not (clash.settled and chosen[clash.sop_uid].stands)]
    for clash in new:
        _require_whole(archive, clash, chosen[clash.sop_uid])
    concerned = (copy for clash in new for copy in (clash.standing, chosen[clash.sop_uid]) if copy is not None)
    images = {copy.study_uid for clash in new for copy in clash.copies if copy.image}
    studies = sorted({copy.study_uid for copy in concerned})
    identities = {uid: _identity(site, archive, uid, new, chosen) for uid in studies}
    others = {uid: _other_people(archive, uid, new, chosen) for uid in studies}
    by = by or getpass.getuser()
    who = site.account_key(by)
    with site.database.write() as connection:
        for clash in new:
            _require_unchanged(connection, clash)
            _stand(connection, site, clash, chosen[clash.sop_uid], who)
        again = tuple(
            replace(
                read_again(connection, site, uid, identities[uid], images=uid in images),
                disowned=sum(disown(connection, site, uid, was, now, by) for was, now in others[uid]),
            )
            for uid in studies
        )
    for clash in new:
        again = tuple(_heed(site, archive, clash, chosen[clash.sop_uid], one, by) for one in again)
    for one in again:
        log.info("study %s: a person chose among copies of its images: %s", site.study_key(one.study_uid), one.done)
    return Kept(len(new), len(clashes) - len(new), again)


def _clashes(connection: Connection, archive: Archive, of: str, *, settled: bool) -> list[Clash]:
    wanted = select(instance.c.sop_uid).where(instance.c.conflicting if settled else unsettled()).correlate(None)
    if of:
        other = instance.alias("other")  # the copy that stands may be the one of this study
        named = or_(other.c.sop_uid == of, other.c.study_uid == of, study.c.accession == of)
        meant = select(other.c.sop_uid).join(study, study.c.uid == other.c.study_uid).where(named).correlate(None)
        wanted = wanted.where(instance.c.sop_uid.in_(meant))
    query = (
        select(instance, study.c.accession, unsettled().label("unsettled"), pictured().label("image"))
        .join(study, study.c.uid == instance.c.study_uid)
        .where(instance.c.sop_uid.in_(wanted))
        .order_by(instance.c.received_at, instance.c.sha256)
    )
    by_uid: dict[str, list[Row[Any]]] = defaultdict(list)
    for row in connection.execute(query):
        by_uid[row.sop_uid].append(row)
    found = [
        Clash(
            uid,
            {row.study_uid: row.accession for row in rows},
            tuple(_copy(archive, row) for row in rows),
            settled=not any(row.unsettled for row in rows),
        )
        for uid, rows in by_uid.items()
    ]
    return sorted(found, key=lambda one: (-one.copies[-1].at, one.sop_uid))


def _copy(archive: Archive, row: Row[Any]) -> Copy:
    try:
        size = archive.path(row.sha256).stat().st_size
    except OSError:
        size = None
    stands = not row.conflicting
    return Copy(
        row.sha256,
        row.study_uid,
        row.transfer_syntax,
        stands,
        row.received_at,
        row.calling_ae,
        size,
        bool(row.image),
        row.sop_class,
    )


def _meant(clash: Clash, which: str) -> Copy:
    if which in (FIRST, LAST):
        return clash.copies[0 if which == FIRST else -1]
    if which == READABLE:
        found = [copy for copy in clash.copies if copy.looked is not None and not copy.looked.problem]
    else:
        found = [copy for copy in clash.copies if len(which) >= _SHORTEST and copy.digest.startswith(which.lower())]
    if not found:
        raise NotFound(f"image {clash.sop_uid}: no copy is {which!r}: `vigie site conflicts` lists them")
    if len(found) > 1:
        raise Conflict(f"image {clash.sop_uid}: {len(found)} copies are {which!r}: name one by its digest")
    return found[0]


def _heed(site: Site, archive: Archive, clash: Clash, copy: Copy, again: Again, by: str) -> Again:
    """What becomes of a study by what the chosen document says of its images, where it is a rejection of such."""
    if all(one.sop_class != REJECTIONS for one in clash.copies) or copy.study_uid != again.study_uid:
        return again
    done = replace_document(site, clash.sop_uid, copy.study_uid, archive.path(copy.digest), by)
    return replace(done[-1], disowned=again.disowned) if done else again


def _require_whole(archive: Archive, clash: Clash, copy: Copy) -> None:
    """What is not what came is not chosen."""
    hasher = hashlib.sha256()
    try:
        with archive.path(copy.digest).open("rb") as file:
            while piece := file.read(_PIECE):
                hasher.update(piece)
    except OSError as error:
        raise Conflict(
            f"image {clash.sop_uid}: the file of copy {copy.digest[:12]} cannot be read ({error.strerror}): restore it"
            " from the backup, or send it again"
        ) from None
    if hasher.hexdigest() != copy.digest:
        raise Conflict(f"image {clash.sop_uid}: the file of copy {copy.digest[:12]} was altered: restore it")


def _require_unchanged(connection: Connection, clash: Clash) -> None:
    query = select(instance.c.sha256, instance.c.conflicting, unsettled().label("unsettled"))
    rows = connection.execute(query.where(instance.c.sop_uid == clash.sop_uid)).all()
    known = {copy.digest: copy.stands for copy in clash.copies}
    settled = not any(row.unsettled for row in rows)
    if {row.sha256: not row.conflicting for row in rows} != known or settled != clash.settled:
        raise Conflict(f"image {clash.sop_uid}: another copy came, or somebody chose, meanwhile: look again")


def _stand(connection: Connection, site: Site, clash: Clash, copy: Copy, who: str) -> None:
    of_image = instance.c.sop_uid == clash.sop_uid
    last = select(func.max(instance.c.id)).scalar_subquery()
    connection.execute(update(instance).where(of_image).values(conflicting=True))
    connection.execute(
        update(instance).where(of_image, instance.c.sha256 == copy.digest).values(conflicting=False, id=last + 1)
    )
    facts: dict[str, ledger.Fact] = {
        "study": site.study_key(copy.study_uid),
        "input": copy.digest,
        "instead": clash.standing.digest if clash.standing else None,
        "by": who,
    }
    ledger.append(connection, "instance.chosen", facts)


def _identity(site: Site, archive: Archive, uid: str, new: Iterable[Clash], chosen: dict[str, Copy]) -> Identity:
    """Whom a study is of with what was chosen."""
    mine = [chosen[clash.sop_uid].digest for clash in new if chosen[clash.sop_uid].study_uid == uid]
    gone = {clash.sop_uid for clash in new}
    query = select(instance.c.sha256, instance.c.sop_uid).where(
        instance.c.study_uid == uid, ~instance.c.conflicting, ~excluded()
    )
    of_patient = select(study.c.accession, patient.c.patient_id, patient.c.issuer).outerjoin(
        patient, patient.c.key == study.c.patient_key
    )
    with site.database.read() as connection:
        others = [row.sha256 for row in connection.execute(query) if row.sop_uid not in gone]
        row = connection.execute(of_patient.where(study.c.uid == uid)).one()
    said = [header for digest in mine if (header := header_of(archive.path(digest)))]
    known = (row.patient_id or "", row.issuer or "", row.accession)
    moved = any(
        clash.standing is not None and clash.standing.study_uid == uid != chosen[clash.sop_uid].study_uid
        for clash in new
    )
    if not moved and all((one.patient_id, one.issuer, one.accession) == known for one in said):
        return Identity()  # nothing changes, and a thousand headers need not be read to know it
    said += [header for digest in others if (header := header_of(archive.path(digest)))]
    return agreed(said)


def _other_people(
    archive: Archive, uid: str, new: Iterable[Clash], chosen: dict[str, Copy]
) -> list[tuple[Person, list[Person]]]:
    """Of a study, whom copies named that stood until now, each with those whom what stands instead names, where they
    are certainly not the same; a copy that cannot be read, or that names nobody, is of nobody else.
    """
    found: dict[Person, list[Person]] = {}
    for clash in new:
        copy = chosen[clash.sop_uid]
        if copy.study_uid != uid or not copy.image:
            continue
        if clash.standing is not None and clash.standing.study_uid != uid:
            continue  # what was said of the study was not said of that copy
        was = person_of(archive.path(clash.standing.digest)) if clash.standing else Person()
        now = person_of(archive.path(copy.digest))
        if (clash.standing is None and now != Person()) or differ(was, now):
            found.setdefault(was, []).append(now)
    return [(was, list(dict.fromkeys(now))) for was, now in found.items()]
