"""Images that are not read although they came, because the PACS has rejected them, or a person leaves them out.

One image must not keep its study from being read for ever, and what the quality control of a PACS takes away must not
stay in what the node says. So the study is read without it: one that waits as it is then, one that has a result as a
new revision, where its result rests on the image or might be another one without it. What earlier results are worth
then is settled when that revision is concluded (`client/review/footing.py`); what of them the PACS does not have is
kept back at once.

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
from typing import Any

from sqlalchemy import Connection, and_, exists, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from client.arrival.again import Again, Identity, agreed, header_of, read_again
from client.arrival.index import pictured
from client.arrival.rejection import Cause, Rejection
from client.delivery.standing import drop
from client.dicom.person import Person, differ, person_of
from client.review.footing import unfounded
from client.review.regrown import hold_back
from client.store import ledger
from client.store.archive import Archive
from client.store.excluded import excluded
from client.store.site import Site
from client.store.tables import delivery, exclusion, instance, outcome, study
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
        lifted_by: that person; empty where it was not believed, for it names another patient.
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


@dataclass(frozen=True, slots=True)
class Said:
    """What came of a person's word.

    Attributes:
        images: that it changes something for.
        before: images of which it was so before.
        studies: that are concerned, and what becomes of each.
    """

    images: int
    before: int
    studies: tuple[Again, ...]


def listed(site: Site, of: str = "", *, every: bool = False) -> list[LeftOut]:
    """The words that images are left out by, the newest first.

    Args:
        of: a study's or an image's UID, or an accession number; empty for all.
        every: those too that do not count.
    """
    here = exists().where(instance.c.sop_uid == exclusion.c.sop_uid, instance.c.study_uid == exclusion.c.study_uid)
    query = select(exclusion, study.c.accession, here.label("here")).outerjoin(
        study, study.c.uid == exclusion.c.study_uid
    )
    if of:
        query = query.where(or_(exclusion.c.sop_uid == of, exclusion.c.study_uid == of, study.c.accession == of))
    if not every:
        query = query.where(exclusion.c.lifted_at.is_(None))
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
        )
        for row in rows
    ]


def leave_out(site: Site, of: str, cause: Cause, by: str = "") -> Said:
    """Leave images out of what is read, by a person's word.

    Args:
        of: UID of an image, of a series, or of a study: all its images.
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
        again = _reconsider(connection, site, new, identities)
        for uid in identities:
            facts: dict[str, ledger.Fact] = {"study": site.study_key(uid), "by": site.account_key(by)}
            facts |= {"cause": str(cause), "images": sum(one == uid for one, _ in new)}
            if facts["images"]:
                ledger.append(connection, "images.left-out", facts)
    return Said(len(new), len(images) - len(new), again)


def take_back(site: Site, of: str, by: str = "") -> Said:
    """Let images be read again that were left out, whoever said that they are; see `leave_out`."""
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
        again = _reconsider(connection, site, new, identities, back=True)
        for uid in identities:
            facts: dict[str, ledger.Fact] = {"study": site.study_key(uid), "by": site.account_key(by)}
            facts |= {"images": sum(one == uid for one, _ in new)}
            if facts["images"]:
                ledger.append(connection, "images.taken-back", facts)
    return Said(len(new), len(images) - len(new), again)


def believe(site: Site, document: str, study_uid: str, told: Rejection, by: str, *, new: bool = True) -> None:
    """Do what the PACS says of images of a study; twice is once, and what a person took back stays so.

    It is not believed where it names another patient than all of the study's images do: one of the two is wrong, and a
    person has to look.

    Args:
        document: UID of the key object selection.
        by: AE title of who sent it.
        new: it came for the first time.
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
        return
    stranger = _of_nobody_here(site, study_uid, told.person)
    identity = Identity() if stranger else _identity(site, study_uid, without=images)
    now = time.time()
    word: dict[str, Any] = {"document": document, "cause": str(told.cause), "by": by, "told_at": now}
    word["patient"] = site.patient_key(told.person.patient_id) if told.person.patient_id else ""
    word["lifted_at"] = now if stranger else None
    with site.database.write() as connection:
        before = {one for one in images if _is_out(connection, *one)}
        written = 0
        for _, sop_uid in images:
            one = upsert(exclusion).values(sop_uid=sop_uid, study_uid=study_uid, **word)
            written += connection.execute(one.on_conflict_do_nothing()).rowcount
        if not written:
            return
        if not stranger:
            fresh = [one for one in images if one not in before and _is_out(connection, *one)]
            _reconsider(connection, site, fresh, {study_uid: identity})
        ledger.append(connection, "images.rejection-doubted" if stranger else "images.rejected", facts)
    if stranger:
        log.warning("study %s: a rejection names another patient than the images, and is not believed", key)
    else:
        log.info("study %s: the PACS has rejected %d of its images", key, len(images))


def _meant(site: Site, of: str) -> list[tuple[str, str]]:
    """(study, image) of what is here."""
    query = (
        select(instance.c.study_uid, instance.c.sop_uid)
        .where(or_(instance.c.sop_uid == of, instance.c.series_uid == of, instance.c.study_uid == of))
        .where(~instance.c.conflicting, pictured())
        .order_by(instance.c.id)
    )
    with site.database.read() as connection:
        found = [(row.study_uid, row.sop_uid) for row in connection.execute(query)]
    if not found:
        raise NotFound("there is no image, series or study of that UID here")
    return found


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


def _of_nobody_here(site: Site, study_uid: str, person: Person) -> bool:
    """Whether every image of a study is certainly of somebody else; of none that is here nobody can say that."""
    archive = Archive(site.archive)
    query = select(instance.c.sha256).where(instance.c.study_uid == study_uid, ~instance.c.conflicting, pictured())
    with site.database.read() as connection:
        digests = connection.execute(query.order_by(instance.c.id)).scalars().all()
    return bool(digests) and all(differ(person, person_of(archive.path(digest))) for digest in digests)


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
