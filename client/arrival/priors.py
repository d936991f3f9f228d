"""Earlier studies of the same patient: looked for at the PACS, fetched, and kept apart from what is to be read.

A study of today is compared with one of last year, so the node fetches the newest few of the same kind and body part. A
fetched study has the state `prior`: it is never scored, judged or trained on. It becomes a study like any other when
somebody sends it for its own sake, before, while or after it is fetched. Where it cannot be told whether the PACS sends
it because it was asked to (`moves.py`), it is read: once too often does no harm.

The patient has to be the same, identifier and issuer, in what the PACS answers and in every image that comes, and no
name or birth date may say that the identifier was given to two people; another patient's study is refused. A PACS that
is down costs nothing but time, and a study says on the worklist what it lacks.

Source: DICOM PS3.4 C.4.1 (C-FIND), C.4.2 (C-MOVE), C.4.3 (C-GET), C.6.2 (Study Root); PS3.7 D.3.3.4 (role selection).
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pydicom
from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError
from pynetdicom import build_role, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelFind as Find,  # type: ignore[attr-defined]  # made from a table at import
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelGet as Get,  # type: ignore[attr-defined]
)
from pynetdicom.sop_class import (
    StudyRootQueryRetrieveInformationModelMove as Move,  # type: ignore[attr-defined]
)
from sqlalchemy import Row, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from client.arrival.index import promote
from client.arrival.moves import Moves
from client.delivery.carrier import caller
from client.dicom.listener import client_tls
from client.dicom.person import Person, differ
from client.dicom.requestor import associate
from client.store.archive import Archive
from client.store.database import Watch
from client.store.excluded import excluded
from client.store.ledger import append
from client.store.persons import person_of
from client.store.site import Site
from client.store.tables import instance, patient, prior, prior_search, study
from models.errors import InvalidStudy, NotFound

if TYPE_CHECKING:
    from client.arrival.intake import Header, Offer

log = logging.getLogger(__name__)

MAX_ATTEMPTS: Final = 5
_MOST_CANDIDATES: Final = 30
_PENDING: Final = (0xFF00, 0xFF01)
_SECONDS_OF_INTEREST: Final = 24 * 3600.0
_ALIKE: Final = (frozenset({"CR", "DX"}),)
_RADIOGRAPHS: Final = (
    uids.ComputedRadiographyImageStorage,
    uids.DigitalXRayImageStorageForPresentation,
    uids.DigitalXRayImageStorageForProcessing,
)
_CLASSES: Final[dict[str, tuple[uids.UID, ...]]] = {
    "CR": _RADIOGRAPHS,
    "DX": _RADIOGRAPHS,
    "CT": (uids.CTImageStorage, uids.EnhancedCTImageStorage),
    "MR": (uids.MRImageStorage, uids.EnhancedMRImageStorage),
    "US": (uids.UltrasoundImageStorage, uids.UltrasoundMultiFrameImageStorage),
    "MG": (uids.DigitalMammographyXRayImageStorageForPresentation, uids.BreastTomosynthesisImageStorage),
}
# one context each: an archive sends what lies compressed in it as it is, where it may
_SYNTAXES: Final[tuple[list[uids.UID], ...]] = (
    [uids.ExplicitVRLittleEndian, uids.ImplicitVRLittleEndian],
    [uids.JPEGLosslessSV1],
    [uids.JPEGBaseline8Bit],
    [uids.JPEGExtended12Bit],
    [uids.JPEGLSLossless],
    [uids.JPEG2000Lossless],
    [uids.JPEG2000],
    [uids.RLELossless],
)


class Away(Exception):
    """The PACS cannot be reached, or ends the association."""


class Incomplete(Exception):
    """The PACS answers, and does not do what was asked; the text is a code."""


@dataclass(frozen=True, slots=True)
class Present:
    """The study that priors are sought for."""

    uid: str
    patient_key: str
    patient_id: str
    issuer: str
    person: Person
    modality: str
    body_part: str
    at: tuple[str, str]
    sop_classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """An earlier study at the PACS and its series that are of use."""

    uid: str
    at: tuple[str, str]
    series: tuple[str, ...]


class Fetcher(threading.Thread):
    """Looks for the priors of what comes in; one of it per hospital, in the process that has the gateway.

    Args:
        take: what an instance that comes over C-GET is given to, `Gateway.take`.
        moves: of the intake that what comes over C-MOVE is given to.
        poll: seconds between two looks into the database.
        away: seconds before the PACS is called again that could not be reached, doubled up to a few minutes.
    """

    def __init__(
        self,
        site: Site,
        take: Callable[[evt.Event], int],
        moves: Moves,
        *,
        poll: float = 0.5,
        away: float = 2.0,
        answer: float = 30.0,
    ) -> None:
        super().__init__(name="priors", daemon=True)
        self._site = site
        self._take = take
        self._moves = moves
        self._archive = Archive(site.archive)
        self._poll, self._away, self._answer = poll, away, answer
        self._stop_asked = threading.Event()
        self._absent = 0
        self._begun = False

    def run(self) -> None:
        with closing(Watch(self._site.database)) as watch:
            while not self._stop_asked.is_set():
                try:
                    worked = self._turn()
                except Exception:
                    log.exception("looking for priors failed; trying again")
                    worked, self._absent = False, self._absent + 1
                if self._absent:
                    self._stop_asked.wait(min(300.0, self._away * 2.0 ** min(self._absent - 1, 20)))
                elif not worked:
                    watch.wait(self._stop_asked, self._poll, 10 * self._poll)

    def stop(self, timeout: float = 5.0) -> None:
        """End after the study under way."""
        self._stop_asked.set()
        if self.is_alive():
            self.join(timeout)

    def _turn(self) -> bool:
        if not self._begun:
            _abandon(self._site)
            self._begun = True
        _enlist(self._site)
        due = _due(self._site)
        if due is None:
            return False
        key = self._site.study_key(due.study_uid)
        try:
            found = self._seek(due.study_uid)
        except Away:
            self._absent += 1
            self._note(due, "pacs-away", time.time())
            if self._absent == 1:
                log.warning("the PACS cannot be reached; priors wait for it")
            return False
        except Incomplete as why:
            self._absent = 0
            log.warning("study %s: priors not complete: %s", key, why)
            self._retry(due, str(why))
            return True
        self._absent = 0
        with self._site.database.write() as connection:
            _conclude(connection, due.study_uid, "done", "")
        log.info("study %s: %d priors", key, found)
        return True

    def _note(self, due: Row[Any], problem: str, not_before: float, **values: Any) -> None:
        with self._site.database.write() as connection:
            connection.execute(
                update(prior_search)
                .where(prior_search.c.study_uid == due.study_uid)
                .values(problem=problem, not_before=not_before, **values)
            )

    def _retry(self, due: Row[Any], problem: str) -> None:
        attempts = due.attempts + 1
        state = "failed" if attempts >= MAX_ATTEMPTS or problem == "not-asked" else "due"
        self._note(due, problem, time.time() + self._away * 2.0**attempts, attempts=attempts, state=state)

    def _seek(self, study_uid: str) -> int:
        """Find and fetch; how many priors are here now."""
        present = _present(self._site, self._archive, study_uid)
        association = self._associate(present)
        try:
            found = 0
            for candidate in candidates(self._site, association, present, self._site.config.pacs.priors):
                here = _linked(self._site, present, candidate)
                if not here:
                    self._fetch(association, candidate)
                if differ(present.person, person_of(self._site, candidate.uid)):
                    _disown(self._site, present, candidate)
                elif here or _settled(self._site, present, candidate):
                    found += 1
            return found
        except RuntimeError as error:
            raise Away from error
        finally:
            _unwant(self._site, study_uid)
            if association.is_established:
                with suppress(RuntimeError):
                    association.release()

    def _associate(self, present: Present) -> Association:
        entity = caller(self._site, self._answer)
        entity.add_requested_context(Find)
        roles: list[Any] = []
        if self._site.config.pacs.fetch == "move":
            entity.add_requested_context(Move)
        else:
            entity.add_requested_context(Get)
            for sop_class in dict.fromkeys((*present.sop_classes, *_CLASSES.get(present.modality, ()))):
                roles.append(build_role(sop_class, scp_role=True))
                for syntaxes in _SYNTAXES:
                    entity.add_requested_context(sop_class, syntaxes)
        peer = self._site.config.pacs
        association = associate(
            entity,
            peer.host,
            peer.port,
            peer.ae_title,
            client_tls(self._site),
            handlers=[(evt.EVT_C_STORE, self._take)],
            roles=roles,
        )
        if not association.is_established:
            raise Away
        return association

    def _fetch(self, association: Association, candidate: Candidate) -> None:
        if self._site.config.pacs.fetch != "move":
            self._ask(association, candidate)
            return
        sent: int | None = None
        self._moves.begin(candidate.uid)
        try:
            sent = self._ask(association, candidate)
        finally:
            if self._moves.end(candidate.uid, sent):
                with self._site.database.write() as connection:
                    read = promote(connection, [candidate.uid])
                if read:
                    log.info(
                        "study %s: came as a prior, and perhaps to be read: is read",
                        self._site.study_key(candidate.uid),
                    )

    def _ask(self, association: Association, candidate: Candidate) -> int | None:
        """Have the PACS send the series; how many images it says that it has sent, None where it does not say."""
        sent: int | None = 0
        for series in candidate.series:
            query = Dataset()
            query.QueryRetrieveLevel = "SERIES"
            query.StudyInstanceUID, query.SeriesInstanceUID = candidate.uid, series
            try:
                if self._site.config.pacs.fetch == "move":
                    answers = association.send_c_move(query, self._site.config.ae_title, Move)
                else:
                    answers = association.send_c_get(query, Get)
                last, counted = Dataset(), None
                for status, _ in answers:
                    last = status
                    counted = status.get("NumberOfCompletedSuboperations", counted)
            except ValueError as error:  # the context was not taken
                raise Incomplete("not-offered") from error
            code = last.get("Status")
            if code is None:
                raise Away
            if code != 0x0000:
                # A801: the PACS does not know the AE title that it is to send to (PS3.4 table C.4-2)
                raise Incomplete("move-destination-unknown" if code == 0xA801 else f"status-{code:04X}")
            sent = None if sent is None or counted is None else sent + int(counted)
        return sent


def candidates(site: Site, association: Association, present: Present, most: int) -> Iterator[Candidate]:
    """The newest earlier studies of the same patient, kind and body part."""
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.PatientID, query.IssuerOfPatientID = present.patient_id, present.issuer
    query.StudyDate, query.StudyTime = f"-{present.at[0]}", ""
    query.StudyInstanceUID = query.ModalitiesInStudy = ""
    query.PatientName = query.PatientBirthDate = query.PatientSex = ""
    earlier: dict[str, tuple[str, str]] = {}
    for answer in _found(association, query):
        problem = _stranger(answer, present)
        if problem:
            _refuse(site, present, problem)
            continue
        uid, at = _text(answer, "StudyInstanceUID"), (_text(answer, "StudyDate"), _text(answer, "StudyTime"))
        if uid and uid != present.uid and at[0] and at < present.at:
            earlier[uid] = at
    number = 0
    for uid, at in sorted(earlier.items(), key=lambda found: found[1], reverse=True)[:_MOST_CANDIDATES]:
        if series := tuple(_series(site, association, present, uid)):
            yield Candidate(uid, at, series)
            number += 1
        if number == most:
            return


def expected(site: Site, moves: Moves, offer: "Offer", header: "Header") -> bool:
    """Whether an instance that has come is of a prior that was asked for.

    Some PACS do not say that it is: then it is one only while we have asked for just this study (`moves.py`).

    Raises:
        InvalidStudy: `not-asked`, `patient-mismatch`: it came over our own C-GET, or as a prior, and may not.
    """
    named = offer.fetching
    if not offer.fetching:
        originator = offer.originator.strip()
        named = originator == site.config.ae_title.strip()
        unnamed = not originator and _from_a_pacs_that_moves(site, offer)
        if not named and not (unnamed and moves.takes(header.study_uid)):
            return False  # the usual way in: costs nothing
    query = (
        select(prior.c.study_uid, study.c.patient_key)
        .join(study, study.c.uid == prior.c.study_uid)
        .where(prior.c.prior_uid == header.study_uid)
    )
    with site.database.read() as connection:
        asked = connection.execute(query).all()
    if not asked:
        if offer.fetching:
            raise InvalidStudy("not-asked", "a study that was not asked for")
        return False  # somebody says that it is ours, and it is not: a study like any other
    key = site.patient_key(header.patient_id, header.issuer)
    if any(row.patient_key != key for row in asked):
        with site.database.write() as connection:
            connection.execute(update(prior).where(prior.c.prior_uid == header.study_uid).values(state="refused"))
            append(
                connection, "prior.refused", {"study": site.study_key(asked[0].study_uid), "code": "patient-mismatch"}
            )
        if not named:
            return False  # nobody says that it is for us: a study like any other, of whom it says
        raise InvalidStudy("patient-mismatch", "an image of another patient")
    if named and not offer.fetching:
        moves.named(header.study_uid)
    return True


def _from_a_pacs_that_moves(site: Site, offer: "Offer") -> bool:
    peer = site.config.pacs
    return peer.fetch == "move" and offer.calling.strip() == peer.ae_title.strip()


def ask(site: Site, study_uid: str) -> None:
    """Look for the priors of a study again, or for the first time; the node does it.

    Raises:
        NotFound: no such study.
    """
    values = {"state": "due", "attempts": 0, "not_before": 0.0, "problem": ""}
    with site.database.write() as connection:
        if connection.execute(select(study.c.uid).where(study.c.uid == study_uid)).first() is None:
            raise NotFound("no such study here")
        connection.execute(
            upsert(prior_search)
            .values(study_uid=study_uid, **values)
            .on_conflict_do_update(index_elements=[prior_search.c.study_uid], set_=values)
        )


def described(state: str | None, problem: str | None, here: int) -> str:
    """What a person is told of a study's priors."""
    if state is None or state == "not_asked":
        return "PACS not asked"
    if state == "due":
        return "PACS away, asked again" if problem == "pacs-away" else "asking the PACS"
    if here:
        return f"{here} prior{'s' if here > 1 else ''}" + (", not all" if state == "failed" else "")
    return f"could not be fetched ({problem})" if state == "failed" else "no prior found"


def _enlist(site: Site) -> None:
    """Note studies whose priors nobody has looked for."""
    query = (
        select(study.c.uid, study.c.patient_key)
        .outerjoin(prior_search, prior_search.c.study_uid == study.c.uid)
        .where(
            study.c.state.in_(("queued", "scored")),
            study.c.received_at > time.time() - _SECONDS_OF_INTEREST,
            prior_search.c.study_uid.is_(None),
        )
        .limit(100)
    )
    with site.database.read() as connection:
        new = connection.execute(query).all()
    if not new:
        return
    with site.database.write() as connection:
        for row in new:
            state, problem = ("due", "") if row.patient_key else ("not_asked", "no-patient")
            connection.execute(
                upsert(prior_search)
                .values(study_uid=row.uid, state=state, attempts=0, not_before=0.0, problem=problem)
                .on_conflict_do_nothing()
            )


def _due(site: Site) -> Row[Any] | None:
    query = (
        select(prior_search)
        .where(prior_search.c.state == "due", prior_search.c.not_before <= time.time())
        .order_by(prior_search.c.not_before)
        .limit(1)
    )
    with site.database.read() as connection:
        return connection.execute(query).first()


def _unwant(site: Site, study_uid: str) -> None:
    """Nothing is wanted once nobody asks; what was not settled has not come as a whole."""
    with site.database.write() as connection:
        mine = prior.c.study_uid == study_uid, prior.c.state == "wanted"
        connection.execute(update(prior).where(*mine).values(state="failed"))


def _abandon(site: Site) -> None:
    """What a node was asking for when it ended nobody waits for; and what came then over C-MOVE may have been sent to
    be read, which nobody knows any more.
    """
    with site.database.read() as connection:
        wanted = connection.execute(select(prior.c.prior_uid).where(prior.c.state == "wanted")).scalars().all()
    if not wanted:
        return
    with site.database.write() as connection:
        connection.execute(update(prior).where(prior.c.state == "wanted").values(state="failed"))
        if site.config.pacs.fetch == "move":
            promote(connection, wanted)


def _conclude(connection: Any, study_uid: str, state: str, problem: str) -> None:
    connection.execute(
        update(prior_search).where(prior_search.c.study_uid == study_uid).values(state=state, problem=problem)
    )


def _present(site: Site, archive: Archive, study_uid: str) -> Present:
    with site.database.read() as connection:
        whose = connection.execute(
            select(patient).join(study, study.c.patient_key == patient.c.key).where(study.c.uid == study_uid)
        ).first()
        images = connection.execute(
            select(instance.c.sha256, instance.c.sop_class)
            .where(instance.c.study_uid == study_uid, ~instance.c.conflicting, ~excluded())
            .order_by(instance.c.id)
        ).all()
    if whose is None or not images:
        raise Incomplete("not-asked")
    try:
        header = pydicom.dcmread(
            archive.path(images[0].sha256),
            stop_before_pixels=True,
            specific_tags=["Modality", "BodyPartExamined", "StudyDate", "StudyTime"],
        )
    except (BytesLengthException, InvalidDicomError, OSError, ValueError) as error:
        raise Incomplete("not-asked") from error
    at = (_text(header, "StudyDate"), _text(header, "StudyTime"))
    if not at[0]:
        raise Incomplete("not-asked")  # what is earlier than a study without a date, nobody can say
    return Present(
        study_uid,
        whose.key,
        whose.patient_id,
        whose.issuer,
        person_of(site, study_uid),
        _text(header, "Modality"),
        _text(header, "BodyPartExamined").upper(),
        at,
        tuple(dict.fromkeys(image.sop_class for image in images)),
    )


def _series(site: Site, association: Association, present: Present, study_uid: str) -> Iterator[str]:
    query = Dataset()
    query.QueryRetrieveLevel = "SERIES"
    query.StudyInstanceUID = study_uid
    query.SeriesInstanceUID = query.Modality = query.BodyPartExamined = ""
    alike = next((group for group in _ALIKE if present.modality in group), frozenset({present.modality}))
    for answer in _found(association, query):
        if _text(answer, "StudyInstanceUID") not in ("", study_uid):
            _refuse(site, present, "study-mismatch")
            continue
        part = _text(answer, "BodyPartExamined").upper()
        same_part = not part or not present.body_part or part == present.body_part
        if _text(answer, "Modality") in alike and same_part and (uid := _text(answer, "SeriesInstanceUID")):
            yield uid


def _found(association: Association, query: Dataset) -> list[Dataset]:
    answers: list[Dataset] = []
    try:
        responses = list(association.send_c_find(query, Find))
    except ValueError as error:  # the context was not taken
        raise Incomplete("not-offered") from error
    for status, identifier in responses:
        code = status.get("Status")
        if code is None:
            raise Away
        if code in _PENDING and identifier is not None:
            answers.append(identifier)
        elif code not in (*_PENDING, 0x0000):
            raise Incomplete(f"find-status-{code:04X}")
    return answers


def _stranger(answer: Dataset, present: Present) -> str:
    """A code where an answer is not of the patient; an issuer that the PACS leaves out is looked at in the images."""
    if _text(answer, "PatientID") != present.patient_id:
        return "patient-mismatch"
    issuer = _text(answer, "IssuerOfPatientID")
    if issuer and issuer != present.issuer:
        return "issuer-mismatch"
    return "person-mismatch" if differ(present.person, Person.from_dataset(answer)) else ""


def _refuse(site: Site, present: Present, code: str) -> None:
    log.warning("study %s: an answer of the PACS was refused: %s", site.study_key(present.uid), code)
    with site.database.write() as connection:
        append(connection, "prior.refused", {"study": site.study_key(present.uid), "code": code})


def _disown(site: Site, present: Present, candidate: Candidate) -> None:
    """It has the patient's number, and is of somebody else."""
    mine = (prior.c.study_uid == present.uid, prior.c.prior_uid == candidate.uid)
    with site.database.write() as connection:
        connection.execute(update(prior).where(*mine).values(state="refused"))
    _refuse(site, present, "person-mismatch")


def _linked(site: Site, present: Present, candidate: Candidate) -> bool:
    """Note a prior; whether it is here already and need not be fetched.

    One that is to be read and of which a fetch has failed may be here in part, and be read so: it is fetched again.
    """
    mine = (prior.c.study_uid == present.uid, prior.c.prior_uid == candidate.uid)
    with site.database.write() as connection:
        held = connection.execute(select(study).where(study.c.uid == candidate.uid)).first()
        if held is not None and held.patient_key not in (None, present.patient_key):
            raise Incomplete("patient-mismatch")
        complete = connection.execute(
            select(prior.c.state).where(prior.c.prior_uid == candidate.uid, prior.c.state == "here")
        ).first()
        failed = connection.execute(select(prior.c.state).where(*mine)).scalar() == "failed"
        here = held is not None and ((held.state != "prior" and not failed) or complete is not None)
        values = {"state": "here" if here else "wanted"}
        connection.execute(
            upsert(prior)
            .values(study_uid=present.uid, prior_uid=candidate.uid, **values)
            .on_conflict_do_update(index_elements=[prior.c.study_uid, prior.c.prior_uid], set_=values)
        )
    return here


def _settled(site: Site, present: Present, candidate: Candidate) -> bool:
    """Whether what was fetched is here, and of the patient."""
    mine = (prior.c.study_uid == present.uid, prior.c.prior_uid == candidate.uid)
    with site.database.write() as connection:
        if connection.execute(select(prior.c.state).where(*mine)).scalar() == "refused":
            return False
        images = connection.execute(select(instance.c.id).where(instance.c.study_uid == candidate.uid).limit(1)).first()
        connection.execute(update(prior).where(*mine).values(state="here" if images else "failed"))
        if images:
            facts = {"study": site.study_key(present.uid), "prior": site.study_key(candidate.uid)}
            append(connection, "prior.fetched", facts)
    return images is not None


def _text(dataset: Dataset, keyword: str) -> str:
    try:
        value = dataset.get(keyword)
    except (BytesLengthException, ValueError, TypeError, LookupError, NotImplementedError):
        return ""
    return "" if value is None else str(value).strip(" \0")
