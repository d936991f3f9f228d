"""Images that are not read although they came, because the PACS has rejected them, or a person leaves them out.

One image must not keep its study from being read for ever, and what the quality control of a PACS takes away must not
stay in what the node says. So the study is read without it: one that waits as it is then, one that has a result as a
new revision, where its result rests on the image or might be another one without it. What earlier results are worth
then is settled when that revision is concluded (`client/review/footing.py`); what of them the PACS does not have is
kept back at once.

A word is heeded only from whom the site names (`SiteConfig.rejections_from`), and only where it names the patient of
the images. Every other one is kept and changes nothing until a person has accepted or dismissed it: an AE title is
written by whoever calls, and what takes a finding away is to be said by somebody who may.

Nothing is deleted, and a person can take back every such word, also the PACS'. Words are about a UID in a study, so
they may come before the image does, and each is in the ledger.

Images whose time is over (`rejection.EXPIRED`) are not left out: nothing was wrong with them or with what was read in
them, and what was sent to be read is.
"""

import getpass
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, and_, exists, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from client.arrival.again import Again, Identity, agreed, header_of, read_again
from client.arrival.index import pictured
from client.arrival.rejection import Cause, Rejection, rejection
from client.delivery.standing import drop
from client.dicom.person import Person, differ, person_of
from client.review.footing import unfounded
from client.review.regrown import hold_back
from client.store import ledger
from client.store.archive import Archive
from client.store.excluded import doubted, excluded
from client.store.site import Site
from client.store.tables import delivery, exclusion, instance, outcome, reader, study
from models.errors import NotFound

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One image, and one word about it.

    Attributes:
        here: it has come.
        cause: why it is left out.
        by: who says so: a person, or the AE title of who sent the PACS' word.
        document: UID of the key object selection; empty where a person said so.
        at: when, in seconds since the epoch.
        counts: it is left out; else a person has taken the word back, or it was not believed.
        lifted_by: that person, or who accepted a word that was not believed; empty where nobody did either.
        doubt: why it is not believed, while it waits for a person; else empty.
    """

    study_uid: str
    accession: str
    sop_uid: str
    here: bool
    cause: Cause
    by: str
    document: str
    at: float
    counts: bool
    lifted_by: str
    doubt: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What came of a person's word.

    Attributes:
        images: that it changes something for.
        before: images of which it was so before.
        studies: that are concerned, and what becomes of each.
        settled: words that had not been believed, and were accepted or dismissed now.
    """

    images: int
    before: int
    studies: tuple[Again, ...]
    settled: int = 0


def listed(site: Site, of: str = "", *, every: bool = False) -> list[LeftOut]:
    """The words that images are left out by, the newest first.

    Args:
        of: a study's or an image's UID, or an accession number; empty for all.
        every: those too that a person has taken back; words that wait for a person are listed in any case.
    """
    here = exists().where(instance.c.sop_uid == exclusion.c.sop_uid, instance.c.study_uid == exclusion.c.study_uid)
    query = select(exclusion, study.c.accession, here.label("here"), doubted().label("doubted")).outerjoin(
        study, study.c.uid == exclusion.c.study_uid
    )
    if of:
        query = query.where(or_(exclusion.c.sop_uid == of, exclusion.c.study_uid == of, study.c.accession == of))
    if not every:
        query = query.where(or_(exclusion.c.lifted_at.is_(None), doubted()))
    query = query.order_by(exclusion.c.told_at.desc(), exclusion.c.study_uid, exclusion.c.sop_uid)
    with site.database.read() as connection:
        rows = connection.execute(query).all()
    return [
        LeftOut(
            row.study_uid,
            row.accession or "",
            row.sop_uid,
            bool(row.here),
            Cause(row.cause),
            row.by,
            row.document,
            row.told_at,
            row.lifted_at is None,
            row.lifted_by,
            _doubt(site, row) if row.doubted else "",
        )
        for row in rows
    ]


def waiting(site: Site) -> tuple[int, int]:
    """How many images are rejected by words that wait for a person, and of how many studies."""
    with site.database.read() as connection:
        rows = connection.execute(select(exclusion.c.study_uid, exclusion.c.sop_uid).where(doubted()).distinct()).all()
    return len(rows), len({row.study_uid for row in rows})


def heeded(site: Site, by: str, *, account: bool) -> bool:
    """Whether the site lets somebody reject images.

    Args:
        by: an AE title, or the account of a reader.
        account: which of the two.
    """
    named = [one.strip() for one in site.config.rejections_from]
    return by in (named or ([] if account else [site.config.pacs.ae_title.strip()]))


def leave_out(site: Site, of: str, cause: Cause, by: str = "") -> Said:
    """Leave images out of what is read, by a person's word; words that waited for it are accepted.

    Args:
        of: UID of an image, of a series, or of a study: all its images. Also of one that has not come, where somebody
            has rejected it.
        by: who says so; the account, when not given. The ledger has a keyed hash of it.

    Raises:
        NotFound: no such image is here.
    """
    images = _meant(site, of)
    by = by or getpass.getuser()
    identities = {uid: _identity(site, uid, without=images) for uid in sorted({uid for uid, _ in images})}
    with site.database.write() as connection:
        new = [one for one in images if not _is_out(connection, *one)]
        for study_uid, sop_uid in new:
            values = {"cause": str(cause), "by": by, "told_at": time.time(), "lifted_at": None, "lifted_by": ""}
            word = {"sop_uid": sop_uid, "study_uid": study_uid, "document": "", "patient": ""}
            connection.execute(upsert(exclusion).values(**word, **values).on_conflict_do_update(set_=values))
        # accepted by a person, whomever it names: an image that comes later is not to bring the doubt back
        settled = _settle(connection, images, {"lifted_at": None, "lifted_by": by, "patient": ""})
        again = _reconsider(connection, site, new, identities)
        for uid in identities:
            facts: dict[str, ledger.Fact] = {"study": site.study_key(uid), "by": site.account_key(by)}
            facts |= {"cause": str(cause), "images": sum(one == uid for one, _ in new)}
            if facts["images"]:
                ledger.append(connection, "images.left-out", facts)
    return Said(len(new), len(images) - len(new), again, settled)


def take_back(site: Site, of: str, by: str = "") -> Said:
    """Let images be read again that were left out, whoever said that they are, and dismiss words that waited for a
    person; see `leave_out`.
    """
    images = _meant(site, of)
    by = by or getpass.getuser()
    identities = {uid: _identity(site, uid, also=images) for uid in sorted({uid for uid, _ in images})}
    with site.database.write() as connection:
        new = [one for one in images if _is_out(connection, *one)]
        for study_uid, sop_uid in new:
            word = and_(exclusion.c.sop_uid == sop_uid, exclusion.c.study_uid == study_uid)
            connection.execute(
                update(exclusion)
                .where(word, exclusion.c.lifted_at.is_(None))
                .values(lifted_at=time.time(), lifted_by=by)
            )
        settled = _settle(connection, images, {"lifted_by": by})
        again = _reconsider(connection, site, new, identities, back=True)
        for uid in identities:
            facts: dict[str, ledger.Fact] = {"study": site.study_key(uid), "by": site.account_key(by)}
            facts |= {"images": sum(one == uid for one, _ in new)}
            if facts["images"]:
                ledger.append(connection, "images.taken-back", facts)
        if settled:
            ledger.append(connection, "images.rejection-dismissed", {"by": site.account_key(by), "words": settled})
    return Said(len(new), len(images) - len(new), again, settled)


def believe(
    site: Site, document: str, study_uid: str, told: Rejection, by: str, *, trusted: bool, new: bool = True
) -> tuple[Again, ...]:
    """Do what the PACS says of images of a study; twice is once, and what a person took back stays so.

    It is kept and not believed where its sender may not say so, or where it does not name the patient of the study's
    images: a person has to look. Said again by somebody who may, it is believed.

    Args:
        document: UID of the key object selection.
        by: AE title of who sent it.
        trusted: who sent it may say so (`heeded`).
        new: it came for the first time.

    Returns:
        What becomes of the study, where that changes.
    """
    key = site.study_key(study_uid)
    facts: dict[str, ledger.Fact] = {"study": key, "document": document, "by": by, "images": len(told.images)}
    facts |= {"cause": str(told.cause) if told.cause else "expired", "elsewhere": told.elsewhere}
    images = [(study_uid, sop_uid) for sop_uid in sorted(told.images - _made_here(site, study_uid))]
    if told.cause is None or not images:
        why = "nothing was wrong with the images" if told.cause is None else "it names no image of its study"
        if new:
            log.warning("study %s: a rejection changes nothing: %s", key, why)
            site.ledger.append("images.rejection-noted", facts)
        return ()
    doubt = not trusted or not _agrees(site, study_uid, told.person)
    identity = Identity() if doubt else _identity(site, study_uid, without=images)
    now = time.time()
    word: dict[str, Any] = {"document": document, "cause": str(told.cause), "by": by, "told_at": now}
    word["patient"] = site.patient_key(told.person.patient_id) if told.person.patient_id else ""
    word["lifted_at"] = now if doubt else None
    unbelieved = and_(exclusion.c.lifted_at.is_not(None), exclusion.c.lifted_by == "")
    again: tuple[Again, ...] = ()
    with site.database.write() as connection:
        before = {one for one in images if _is_out(connection, *one)}
        written = 0
        for _, sop_uid in images:
            one = upsert(exclusion).values(sop_uid=sop_uid, study_uid=study_uid, **word)
            one = one.on_conflict_do_nothing() if doubt else one.on_conflict_do_update(set_=word, where=unbelieved)
            written += connection.execute(one).rowcount
        if not written:
            return ()
        if not doubt:
            fresh = [one for one in images if one not in before and _is_out(connection, *one)]
            again = _reconsider(connection, site, fresh, {study_uid: identity})
        ledger.append(connection, "images.rejection-doubted" if doubt else "images.rejected", facts)
    if doubt:
        log.warning("study %s: a rejection of images is not believed, and waits for a person", key)
    else:
        log.info("study %s: the PACS has rejected %d of its images", key, len(images))
    return again


def replace_document(site: Site, document: str, study_uid: str, path: Path, by: str) -> tuple[Again, ...]:
    """Let what a key object selection says take the place of what another one of its UID said, by a person's choice.

    Args:
        path: of the document that a person chose.
        by: that person.
    """
    told = rejection(path, study_uid)
    named = told.images if told is not None and told.cause is not None else frozenset[str]()
    of_document = and_(exclusion.c.document == document, exclusion.c.study_uid == study_uid)
    with site.database.read() as connection:
        rows = connection.execute(select(exclusion).where(of_document)).all()
    gone = [(study_uid, row.sop_uid) for row in rows if row.sop_uid not in named]
    identity = _identity(site, study_uid, also=gone) if gone else Identity()
    with site.database.write() as connection:
        before = [one for one in gone if _is_out(connection, *one)]
        for _, sop_uid in gone:
            connection.execute(
                update(exclusion)
                .where(of_document, exclusion.c.sop_uid == sop_uid)
                .where(or_(exclusion.c.lifted_at.is_(None), exclusion.c.lifted_by == ""))
                .values(lifted_at=time.time(), lifted_by=by)
            )
        back = [one for one in before if not _is_out(connection, *one)]
        again = _reconsider(connection, site, back, {study_uid: identity}, back=True)
        if back:
            facts: dict[str, ledger.Fact] = {"study": site.study_key(study_uid), "by": site.account_key(by)}
            ledger.append(connection, "images.taken-back", facts | {"images": len(back)})
    if told is None:
        return again
    return believe(site, document, study_uid, told, by, trusted=True, new=False) or again


def _meant(site: Site, of: str) -> list[tuple[str, str]]:
    """(study, image) of what is here, and of what somebody has said a word about."""
    words = select(exclusion.c.study_uid, exclusion.c.sop_uid).where(
        or_(exclusion.c.sop_uid == of, exclusion.c.study_uid == of)
    )
    query = (
        select(instance.c.study_uid, instance.c.sop_uid)
        .where(or_(instance.c.sop_uid == of, instance.c.series_uid == of, instance.c.study_uid == of))
        .where(~instance.c.conflicting, pictured())
        .order_by(instance.c.id)
    )
    with site.database.read() as connection:
        found = {(row.study_uid, row.sop_uid): None for row in connection.execute(query)}
        found |= {(row.study_uid, row.sop_uid): None for row in connection.execute(words)}
    if not found:
        raise NotFound("there is no image, series or study of that UID here")
    return list(found)


def _settle(connection: Connection, images: Collection[tuple[str, str]], values: dict[str, Any]) -> int:
    """Note what a person makes of the words on images that were not believed; how many those were."""
    settled = 0
    for study_uid, sop_uid in images:
        waits = and_(
            exclusion.c.sop_uid == sop_uid,
            exclusion.c.study_uid == study_uid,
            exclusion.c.lifted_at.is_not(None),
            exclusion.c.lifted_by == "",
        )
        settled += connection.execute(update(exclusion).where(waits).values(**values)).rowcount
    return settled


def _doubt(site: Site, row: Any) -> str:
    if not row.patient:
        return "it names no patient"
    with site.database.read() as connection:
        account = connection.execute(select(reader.c.name).where(reader.c.name == row.by)).first() is not None
    if not heeded(site, row.by, account=account):
        return f"{row.by} is not among rejections_from in site.yaml"
    return "it names another patient, or is one of two documents of one UID"


def _made_here(site: Site, study_uid: str) -> set[str]:
    """The node's own objects of a study, which are no images of it."""
    query = select(delivery.c.sop_uid).join(outcome, outcome.c.id == delivery.c.outcome_id)
    with site.database.read() as connection:
        return set(connection.execute(query.where(outcome.c.study_uid == study_uid)).scalars())


def _is_out(connection: Connection, study_uid: str, sop_uid: str) -> bool:
    query = select(exclusion.c.sop_uid).where(
        exclusion.c.sop_uid == sop_uid, exclusion.c.study_uid == study_uid, exclusion.c.lifted_at.is_(None)
    )
    return connection.execute(query.limit(1)).first() is not None


def _identity(
    site: Site,
    study_uid: str,
    *,
    without: Collection[tuple[str, str]] = (),
    also: Collection[tuple[str, str]] = (),
) -> Identity:
    """Whom and what a study is of by the images that are left in it."""
    archive = Archive(site.archive)
    gone, back = {sop_uid for _, sop_uid in without}, {sop_uid for _, sop_uid in also}
    query = select(instance.c.sop_uid, instance.c.sha256, excluded().label("excluded")).where(
        instance.c.study_uid == study_uid, ~instance.c.conflicting, pictured()
    )
    with site.database.read() as connection:
        rows = connection.execute(query.order_by(instance.c.id)).all()
    left = [row.sha256 for row in rows if row.sop_uid not in gone and (not row.excluded or row.sop_uid in back)]
    return agreed(header for digest in left if (header := header_of(archive.path(digest))))


def _agrees(site: Site, study_uid: str, person: Person) -> bool:
    """Whether a document names the patient of an image of its study; where none has come that is looked at then
    (`index.py`).
    """
    if not person.patient_id:
        return False
    archive = Archive(site.archive)
    query = select(instance.c.sha256).where(instance.c.study_uid == study_uid, ~instance.c.conflicting, pictured())
    with site.database.read() as connection:
        digests = connection.execute(query.order_by(instance.c.id)).scalars().all()
    people = {person_of(archive.path(digest)) for digest in digests}
    return not people or any(one.patient_id == person.patient_id and not differ(one, person) for one in people)


def _reconsider(
    connection: Connection,
    site: Site,
    images: Sequence[tuple[str, str]],
    identities: dict[str, Identity],
    *,
    back: bool = False,
) -> tuple[Again, ...]:
    """Let the studies of images be read again that the change may make another result of."""
    found: list[Again] = []
    for uid in sorted({uid for uid, _ in images}):
        row = connection.execute(select(study).where(study.c.uid == uid)).first()
        if row is None:
            continue  # not a thing of it has come
        changed = [sop_uid for one, sop_uid in images if one == uid]
        here = _here(connection, uid, changed)
        doubtful = unfounded(connection, uid)
        if here and row.state == "scored" and not back and not doubtful and not _partial(connection, row):
            found.append(Again(uid, int(row.revision), "not-a-part"))
            continue
        for one in doubtful if here and not back else ():
            _keep_back(connection, one.id)
        if doubtful and here and not back:
            hold_back(connection, [uid])  # until it is read without them (`footing.settle`)
        found.append(read_again(connection, site, uid, identities[uid], images=here))
    return tuple(found)


def _here(connection: Connection, study_uid: str, sop_uids: Sequence[str]) -> bool:
    """Whether there are images among these that came."""
    query = select(instance.c.sop_uid).where(instance.c.study_uid == study_uid, ~instance.c.conflicting, pictured())
    return not set(sop_uids).isdisjoint(connection.execute(query).scalars())


def _partial(connection: Connection, row: Any) -> bool:
    """Whether the present result says that it is one of a part: without the image it may be one of the whole."""
    query = select(outcome.c.reasons).where(outcome.c.study_uid == row.uid, outcome.c.revision == row.revision)
    return bool(connection.execute(query).scalar())


def _keep_back(connection: Connection, outcome_id: int) -> None:
    """What the PACS does not have of a result is not sent: what takes its place is, or its withdrawal."""
    query = select(delivery.c.sop_uid).where(delivery.c.outcome_id == outcome_id, delivery.c.kind != "kos")
    uids = connection.execute(query).scalars().all()
    drop(connection, uids, "images that it rests on were taken out of the study")
