"""The hospital's own HTTP interface: JSON for programs with a bearer token, and the readers' pages beside it.

A bearer token is never sent by a browser on its own, so nothing here can be forged from another site; the pages have
a session of their own (`pages.py`), which this interface does not take.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlalchemy.exc import DatabaseError
from starlette.exceptions import HTTPException

from client.arrival.intake import Intake
from client.arrival.room import refusing
from client.arrival.urgency import Urgency
from client.dicomweb import app as dicomweb
from client.dicomweb import viewer
from client.inference.outcomes import retry
from client.results.confidence import Confidence
from client.review import deadletters, missed, objections, pages, worklist
from client.review.deadletters import Override
from client.review.readers import Reader, Role, authenticate
from client.review.verdict import Answer, Decision, Mode, Reason, TruthTier, Verdict, record
from client.store import suspensions
from client.store.fullness import out_of_room
from client.store.site import Site
from client.store.tables import version
from client.vigilance import harm, register
from models.errors import NoRoom, NotSignedIn, VigieError

log = logging.getLogger(__name__)

STATUS: Final[dict[str, int]] = {
    "not-signed-in": 401,
    "not-allowed": 403,
    "not-found": 404,
    "conflict": 409,
    "no-room": 507,
    "invalid-verdict": 422,
    "invalid-study": 422,
}
"""From an error's code to its HTTP status; what is not here is 500: nobody outside can mend it."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VerdictIn(_Model):
    """A verdict, and the revision of the study whose result the reader has seen."""

    revision: int = Field(ge=1)
    decision: Decision
    answer: Answer
    tier: TruthTier
    reason: Reason | None = None
    mode: Mode | None = None


class VerdictOut(_Model):
    """A verdict as it is kept."""

    id: int
    revision: int
    reader: str
    decision: Decision
    answer: Answer
    tier: TruthTier
    mode: Mode
    reason: Reason | None
    at: float


class ResultOut(_Model):
    """What a version said of a revision; `positive` is score against threshold, `confidence` what the score means."""

    revision: int
    score: float
    threshold: float
    positive: bool
    version: str
    version_digest: str
    engine: str
    prepared_by: str
    chosen: str
    structures: tuple[str, ...]
    unread: tuple[str, ...]
    confidence: Confidence | None
    at: float


class ReasonOut(_Model):
    """Why a study was refused or failed."""

    code: str
    text: str


class StudyOut(_Model):
    """One study of the worklist; `before`: what its result was before images came that were not read, and stands."""

    uid: str
    patient_id: str
    issuer: str
    accession: str
    status: worklist.Status
    revision: int
    received_at: float
    urgency: Urgency
    reasons: list[ReasonOut]
    result: ResultOut | None
    verified_by: str
    priors: str
    recalled: str
    conflicting: str
    excluded: str
    doubted: str
    before: ResultOut | None
    earlier: str


class DeliveryState(_Model):
    """What became of one of the study's objects."""

    kind: str
    state: str
    problem: str


class StudyDetail(StudyOut):
    """One study with everything said about it."""

    verdicts: list[VerdictOut]
    deliveries: list[DeliveryState]


class ErrorOut(_Model):
    """One entry of the error register."""

    study_uid: str
    version_digest: str
    kind: register.ErrorKind
    tier: TruthTier
    reason: str
    fold: str
    patient_key: str
    objects: bool
    score: float
    threshold: float
    at: float


class TallyOut(_Model):
    """Counts of one version on one truth tier."""

    version_digest: str
    tier: TruthTier
    scored: int
    true_positive: int
    false_positive: int
    true_negative: int
    false_negative: int
    not_assessable: int


class ErrorsOut(_Model):
    """The error register: its entries, newest first, and what they are out of."""

    errors: list[ErrorOut]
    tallies: list[TallyOut]


class Objection(_Model):
    """Whose objection it is, as their images name them."""

    patient_id: str = Field(min_length=1, max_length=64)
    issuer: str = Field(default="", max_length=64)


class ObjectedOut(_Model):
    """Whom an objection concerns: patients with studies here, and their studies.

    Where there is none, identifier and issuer should be looked at again; the objection is kept for a patient whose
    first image is yet to come.
    """

    patients: int
    studies: int


class VersionOut(_Model):
    """A model version that is known here."""

    digest: str
    name: str
    number: int
    state: str
    threshold: float | None
    received_at: float
    adopted_at: float | None


class DeliveryOut(_Model):
    """An object on its way to the PACS."""

    sop_uid: str
    study_uid: str
    kind: str
    state: str
    attempts: int
    problem: str
    sent_at: float | None
    fallen: str


class MissedOut(_Model):
    """A study that a version could have read and did not; `again`: it can be retried."""

    uid: str
    accession: str
    patient_id: str
    why: missed.Why
    reasons: list[ReasonOut]
    since: float
    again: bool


class OverrideIn(_Model):
    """Why a quarantined object is sent as it is."""

    reason: Override


_bearer = HTTPBearer(auto_error=False)


def _site(request: Request) -> Site:
    return request.app.state.site


def _reader(request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> Reader:
    if credentials is None:
        raise NotSignedIn("send a bearer token")
    reader = authenticate(_site(request), credentials.credentials)
    reader.require(Role.CLINICIAN, Role.IT, Role.OPERATOR)
    return reader


ThisSite = Annotated[Site, Depends(_site)]
ThisReader = Annotated[Reader, Depends(_reader)]

open_routes = APIRouter(prefix="/api")
routes = APIRouter(prefix="/api", dependencies=[Depends(_reader)])


@open_routes.get("/health")
def health(site: ThisSite) -> dict[str, str]:
    """That the process answers, and for whoever watches it whether it takes images and reads them; says nothing of
    anybody.

    `status` is `ok`, `disk-full`, `queue-full`, `alarm` (nobody has taken note of one) or `suspended` (a version reads
    nothing), always with 200: to start the node again would mend none of them.
    """
    if found := refusing(site):
        return {"status": found.reason}
    if harm.alarms(site, unseen=True):
        return {"status": "alarm"}
    return {"status": "suspended" if suspensions.standing(site) else "ok"}


@routes.get("/studies")
def studies(site: ThisSite, state: str = "", q: str = "", limit: int = 100, after: str = "") -> list[StudyOut]:
    """A page of the worklist, most urgent first; `state=to_read` gives what a reader has to answer."""
    return [StudyOut(**_line(line)) for line in worklist.page(site, status=state, q=q, limit=limit, after=after)]


@routes.get("/studies/{uid}")
def study_detail(site: ThisSite, uid: str) -> StudyDetail:
    """All about one study."""
    detail = worklist.one(site, uid)
    return StudyDetail(
        **_line(detail.line),
        verdicts=[_verdict(given) for given in detail.verdicts],
        deliveries=[DeliveryState(kind=kind, state=state, problem=why) for kind, state, why in detail.deliveries],
    )


@routes.get("/studies/{uid}/heatmap.png", response_class=Response)
def heatmap_png(site: ThisSite, uid: str) -> Response:
    """The picture of the activation map over the radiograph."""
    return Response(worklist.map_png(site, uid), media_type="image/png")


@routes.post("/studies/{uid}/verdicts")
def give_verdict(site: ThisSite, reader: ThisReader, uid: str, body: VerdictIn) -> VerdictOut:
    """Keep a clinician's verdict."""
    reader.require(Role.CLINICIAN)
    given = record(
        site,
        uid,
        reader.name,
        revision=body.revision,
        decision=body.decision,
        answer=body.answer,
        tier=body.tier,
        reason=body.reason,
        mode=body.mode,
    )
    return _verdict(given)


@routes.post("/studies/{uid}/retry", status_code=204)
def retry_study(site: ThisSite, reader: ThisReader, uid: str) -> None:
    """Read a study again that failed, was refused, or whose result was recalled."""
    reader.require(Role.IT, Role.OPERATOR)
    retry(site, uid)


@routes.get("/missed")
def missed_studies(site: ThisSite) -> list[MissedOut]:
    """Studies that a version could have read and did not, the newest first; nothing outside every intended use."""
    return [
        MissedOut(
            uid=one.uid,
            accession=one.accession,
            patient_id=one.patient_id,
            why=one.why,
            reasons=[ReasonOut(code=code, text=text) for code, text in one.reasons],
            since=one.since,
            again=one.again,
        )
        for one in missed.listed(site)
    ]


@routes.get("/errors")
def error_register(site: ThisSite, reader: ThisReader) -> ErrorsOut:
    """Where the AI was wrong."""
    reader.require(Role.CLINICIAN, Role.OPERATOR)
    return ErrorsOut(
        errors=[ErrorOut(**asdict(error)) for error in register.errors(site)],
        tallies=[TallyOut(**asdict(tally)) for tally in register.tallies(site)],
    )


@routes.post("/objections")
def object_to_reuse(site: ThisSite, reader: ThisReader, body: Objection) -> ObjectedOut:
    """Note a patient's objection to reuse; the answer says whom it concerns here."""
    reader.require(Role.CLINICIAN, Role.OPERATOR)
    concerned = objections.object_to_reuse(site, body.patient_id, body.issuer)
    studies = sum(one.studies for one in concerned)
    return ObjectedOut(patients=sum(one.studies > 0 for one in concerned), studies=studies)


@routes.delete("/objections", status_code=204)
def withdraw_objection(site: ThisSite, reader: ThisReader, body: Objection) -> None:
    """Take a patient's objection back."""
    reader.require(Role.CLINICIAN, Role.OPERATOR)
    objections.withdraw_objection(site, body.patient_id, body.issuer)


@routes.get("/versions")
def versions(site: ThisSite) -> list[VersionOut]:
    """The model versions that are known here, newest first."""
    columns = [version.c[name] for name in VersionOut.model_fields]
    with site.database.read() as connection:
        rows = connection.execute(select(*columns).order_by(version.c.received_at.desc())).mappings().all()
    return [VersionOut(**row) for row in rows]


@routes.get("/deliveries")
def deliveries(site: ThisSite, state: str = "dead", limit: int = 500) -> list[DeliveryOut]:
    """Objects that are to be sent or were sent; `dead`: failed or quarantined, for somebody to look at."""
    states = deadletters.DEAD if state == "dead" else (state,)
    return [
        DeliveryOut(**{name: getattr(letter, name) for name in DeliveryOut.model_fields})
        for letter in deadletters.listed(site, states, max(1, min(limit, 5000)))
    ]


@routes.post("/deliveries/{uid}/resend", status_code=204)
def resend_delivery(site: ThisSite, reader: ThisReader, uid: str, anyway: bool = False) -> None:
    """Send a failed object again; `anyway`: also one that another has taken the place of."""
    reader.require(Role.IT, Role.OPERATOR)
    deadletters.resend(site, uid, anyway=anyway)


@routes.post("/deliveries/{uid}/remake", status_code=204)
def remake_delivery(site: ThisSite, reader: ThisReader, uid: str) -> None:
    """Make an object that was put aside anew, after the node was mended."""
    reader.require(Role.IT, Role.OPERATOR)
    deadletters.remake(site, uid)


@routes.post("/deliveries/{uid}/override", status_code=204)
def override_delivery(site: ThisSite, reader: ThisReader, uid: str, body: OverrideIn, anyway: bool = False) -> None:
    """Send a quarantined object as it is; `anyway`: also one that another has taken the place of."""
    reader.require(Role.IT, Role.OPERATOR)
    deadletters.override(site, uid, body.reason, reader.name, anyway=anyway)


def create_app(site: Site, intake: Intake | None = None) -> FastAPI:
    """The interface, DICOMweb, the viewer and the pages of one hospital.

    Args:
        intake: where images that come by STOW-RS go; without it they are refused.
    """
    # the interactive documentation would load its scripts from elsewhere
    app = FastAPI(title="Vigie", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.site = site
    app.include_router(open_routes)
    app.include_router(routes)
    app.include_router(pages.router)
    dicomweb.mount(app, site, intake)
    app.include_router(viewer.router)
    app.include_router(viewer.fallback)  # the last: it answers whatever is not ours
    app.add_exception_handler(VigieError, _on_error)
    app.add_exception_handler(OSError, _on_disk)
    app.add_exception_handler(DatabaseError, _on_disk)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)

    @app.middleware("http")
    async def _careful(request: Request, call_next: Any) -> Response:  # pyright: ignore[reportUnusedFunction]
        response: Response = await call_next(request)
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers.setdefault(
            "Content-Security-Policy",
            "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; form-action 'self'; "
            "frame-ancestors 'none'; base-uri 'none'",
        )
        return response

    return app


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, VigieError)
    status = STATUS.get(error.code, 500)
    if status == 500:
        log.error("%s: %s", error.code, error)
    if not request.url.path.startswith(("/api/", f"{dicomweb.PREFIX}/")):
        return pages.show_error(request, error, status)
    return _problem(status, error.code, str(error))


async def _on_disk(request: Request, error: Exception) -> Response:
    if not out_of_room(error):
        raise error
    log.error("%s is not kept: there is no room on the disk", request.method)
    message = "there is no room on the disk, and nothing was kept: tell hospital IT, and do it again when there is"
    return await _on_error(request, NoRoom(message))


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # where and what, but never the value that was sent
    found = [f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()]
    return _problem(422, "invalid-request", "; ".join(found))


async def _on_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = {404: "not-found", 405: "not-allowed-method"}.get(error.status_code, "invalid-request")
    return _problem(error.status_code, code, str(error.detail), error.headers)


def _problem(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"}
    return JSONResponse({"code": code, "message": message}, status, headers)


def _line(line: worklist.Line) -> dict[str, Any]:
    return {
        "uid": line.uid,
        "patient_id": line.patient_id,
        "issuer": line.issuer,
        "accession": line.accession,
        "status": line.status,
        "revision": line.revision,
        "received_at": line.received_at,
        "urgency": Urgency(line.urgency),
        "reasons": [ReasonOut(code=code, text=text) for code, text in line.reasons],
        "result": line.result and _result(line.result),
        "verified_by": line.verified_by,
        "priors": line.priors,
        "recalled": line.recalled,
        "conflicting": line.conflicting,
        "excluded": line.excluded,
        "doubted": line.doubted,
        "before": line.before and _result(line.before),
        "earlier": line.earlier,
    }


def _result(result: worklist.Result) -> ResultOut:
    return ResultOut(**{name: getattr(result, name) for name in ResultOut.model_fields})


def _verdict(given: Verdict) -> VerdictOut:
    return VerdictOut(
        id=given.id,
        revision=given.revision,
        reader=given.reader,
        decision=given.decision,
        answer=given.answer,
        tier=given.tier,
        mode=given.mode,
        reason=given.reason,
        at=given.at,
    )
