"""The readers' pages: sign in, worklist, one study. Dark, made for the keyboard, nothing loaded from elsewhere.

A session is a signed cookie that scripts cannot read and other sites cannot send (HttpOnly, SameSite=Strict); every
form carries a token bound to it. The cookie names the hash of the reader's token: a renewed token ends the session.
"""

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

from client.arrival.room import refusing
from client.federation import withdrawal
from client.inference.outcomes import retry
from client.review import charts, dashboard, deadletters, missed, worklist
from client.review.deadletters import Override
from client.review.readers import Reader, Role, authenticate, by_hash
from client.review.verdict import Answer, Answerable, Decision, Reason, TruthTier, answerable, record
from client.store import suspensions, versions
from client.store.site import KEY_BYTES, Site, write_secret
from client.store.versions import Why
from client.vigilance import drift, drills, harm, incidents, second_reads
from client.vigilance.deadlines import MEANINGS
from client.vigilance.drawing import picture
from client.vigilance.notice import draft
from models.errors import Conflict, InvalidVerdict, NotAllowed, NotFound, NotSignedIn, VigieError

log = logging.getLogger(__name__)

COOKIE: Final = "vigie"
_HOURS: Final = 12
_MOST_DUE: Final = 100
_UNKEPT: Final = "Your session was over, and what you just entered was not kept. Sign in, and enter it again."
_TEMPLATES: Final = Path(__file__).parent / "templates"
_ASSETS: Final = {"style.css": "text/css", "keys.js": "text/javascript", "icon.svg": "image/svg+xml"}
# the page shows the AI's answer, so that what is read blind cannot be entered here
_TIERS: Final = (TruthTier.AI_VISIBLE, TruthTier.REPORT, TruthTier.FOLLOW_UP, TruthTier.BIOPSY)
_TABS: Final = ("to_read", "verified", "withdrawn", "recalled", "refused", "failed", "queued")

router = APIRouter(include_in_schema=False)


def _site(request: Request) -> Site:
    return request.app.state.site


ThisSite = Annotated[Site, Depends(_site)]


def signed_in(request: Request) -> Reader:
    """Whose session a request comes with.

    Raises:
        NotSignedIn: nobody's, or it is over.
        NotAllowed: it was opened with the token of a device.
    """
    site = _site(request)
    token_hash, _, rest = request.cookies.get(COOKIE, "").partition(".")
    expires, _, signature = rest.partition(".")
    if not hmac.compare_digest(signature.encode(), _sign(site, f"session.{token_hash}.{expires}").encode()):
        raise NotSignedIn("sign in first")
    if int(expires) < time.time():
        raise NotSignedIn("the session is over: sign in again")
    reader = by_hash(site, token_hash)
    reader.require(Role.CLINICIAN, Role.IT, Role.OPERATOR)
    return reader


ThisReader = Annotated[Reader, Depends(signed_in)]


@router.get("/")
def worklist_page(
    request: Request, site: ThisSite, reader: ThisReader, state: str = "to_read", q: str = "", after: str = ""
) -> Response:
    """The worklist, most urgent first; what is to be read unless another tab is asked for."""
    lines = worklist.page(site, status=state, q=q, limit=51, after=after)
    alarms, suspended = harm.alarms(site, unseen=True), suspensions.standing(site)
    alarming = {one.version.digest for one in alarms}
    return _page(
        request,
        "worklist.html",
        reader=reader,
        lines=lines[:50],
        more=lines[49].uid if len(lines) > 50 else "",
        counts=worklist.counts(site),
        tabs=_TABS,
        state=state,
        q=q,
        now=time.time(),
        withdrawals=[one for one in withdrawal.listed(site) if one.pressing],
        alarms=alarms,
        suspended=suspended,
        stopped=[one for one in versions.panel(site) if one.digest in suspended and one.digest not in alarming],
        may_act=reader.role in (Role.IT, Role.OPERATOR),
        csrf=_csrf(request),
    )


@router.post("/withdrawals/{digest}")
def act_on_withdrawal(
    request: Request,
    site: ThisSite,
    reader: ThisReader,
    digest: str,
    csrf: Annotated[str, Form()],
    act: Annotated[str, Form()],
) -> Response:
    """Take note of a version that the coordinator has withdrawn; or obey where it asks, or keep the version."""
    _require_form(request, csrf)
    reader.require(Role.IT, Role.OPERATOR)
    match act:
        case "seen":
            withdrawal.see(site, digest, reader.name)
        case "obey":
            withdrawal.decide(site, digest, "obeyed", reader.name)
        case "keep":
            withdrawal.decide(site, digest, "kept", reader.name)
        case _:
            raise Conflict("a withdrawal is noted, obeyed or not")
    return RedirectResponse("/", 303)


@router.get("/studies/{uid}")
def study_page(request: Request, site: ThisSite, reader: ThisReader, uid: str) -> Response:
    """One study: image, map, score against threshold, version, verdicts and the form for one more."""
    detail = worklist.one(site, uid)
    result = detail.line.shown
    facts = worklist.facts_of(site, result.version_digest) if result else None
    asked = _asked(site, reader, uid)
    # who takes back what they said of a result that is not shown any more looks at it, too
    looked = result.revision if result else next((one.revision for one in asked), 0)
    return _page(
        request,
        "study.html",
        reader=reader,
        detail=detail,
        line=detail.line,
        result=result,
        facts=facts,
        card=worklist.card_of(site, result.version_digest) if result else "",
        patient=worklist.patient_name(site, uid, looked or None),
        asked=sorted(asked, key=lambda one: one.revision != looked),  # the keys are those of the first form
        looked=looked,
        tiers=_TIERS,
        reasons=tuple(Reason),
        csrf=_csrf(request),
    )


@router.post("/studies/{uid}/verdict")
def give_verdict(
    request: Request,
    site: ThisSite,
    reader: ThisReader,
    uid: str,
    csrf: Annotated[str, Form()],
    revision: Annotated[int, Form()],
    decision: Annotated[Decision, Form()],
    tier: Annotated[TruthTier, Form()],
    answer: Annotated[str, Form()] = "",
    reason: Annotated[str, Form()] = "",
) -> Response:
    """Keep the verdict of the form and go on to the next unread study."""
    _require_form(request, csrf)
    reader.require(Role.CLINICIAN)
    positive = any(one.positive for one in _asked(site, reader, uid) if one.revision == revision)
    record(
        site,
        uid,
        reader.name,
        revision=revision,
        decision=decision,
        answer=_answer(decision, positive, answer),
        tier=tier,
        reason=_reason(decision, reason),
    )
    following = worklist.next_uid(site)
    return RedirectResponse(f"/studies/{following}" if following else "/", 303)


@router.get("/deliveries")
def deliveries_page(request: Request, site: ThisSite, reader: ThisReader) -> Response:
    """Results that did not get to the PACS, with what can be done about each."""
    return _page(
        request,
        "deliveries.html",
        reader=reader,
        letters=deadletters.listed(site),
        counts=deadletters.counts(site),
        may_act=reader.role in (Role.IT, Role.OPERATOR),
        reasons=tuple(Override),
        csrf=_csrf(request),
    )


@router.post("/deliveries/{uid}")
def act_on_delivery(
    request: Request,
    site: ThisSite,
    reader: ThisReader,
    uid: str,
    csrf: Annotated[str, Form()],
    act: Annotated[str, Form()],
    reason: Annotated[str, Form()] = "",
    anyway: Annotated[bool, Form()] = False,
) -> Response:
    """Send again, make anew, or send as it is; `anyway`, also what another object has taken the place of."""
    _require_form(request, csrf)
    reader.require(Role.IT, Role.OPERATOR)
    if act == "override":
        if reason not in list(Override):
            raise Conflict("to send it as it is needs a reason")
        deadletters.override(site, uid, Override(reason), reader.name, anyway=anyway)
    elif act == "remake":
        deadletters.remake(site, uid)
    elif act == "resend" and uid == "all":
        deadletters.resend_all(site)
    else:
        deadletters.resend(site, uid, anyway=anyway)
    return RedirectResponse("/deliveries", 303)


@router.get("/missed")
def missed_page(request: Request, site: ThisSite, reader: ThisReader) -> Response:
    """Studies that a version could have read and did not."""
    found = missed.listed(site)
    return _page(
        request,
        "missed.html",
        reader=reader,
        missed=found,
        counts=missed.counts(found),
        again=sum(one.again for one in found),
        may_act=reader.role in (Role.IT, Role.OPERATOR),
        csrf=_csrf(request),
    )


@router.post("/missed/{uid}")
def read_missed(
    request: Request, site: ThisSite, reader: ThisReader, uid: str, csrf: Annotated[str, Form()]
) -> Response:
    """Put one of them, or all, into the queue again."""
    _require_form(request, csrf)
    reader.require(Role.IT, Role.OPERATOR)
    if uid == "all":
        missed.read_again(site)
    else:
        retry(site, uid)
    return RedirectResponse("/missed", 303)


@router.get("/watch")
def watch_page(request: Request, site: ThisSite, reader: ThisReader) -> Response:
    """What is watched of the versions that read here, how near an alarm is, and the alarms that were."""
    watched = harm.look(site)
    return _page(
        request,
        "watch.html",
        reader=reader,
        watched=watched,
        pictures={one.version.digest: picture(one) for one in watched},
        suspended=suspensions.standing(site),
        alarms=harm.alarms(site),
        warnings=drift.warnings(site),
        compared=drift.look(site),
        drills=drills.listed(site),
        rates=[(one.version, second_reads.rates(site, one.version.digest)) for one in watched],
        due=second_reads.due(site)[:_MOST_DUE],
        false_alarms=site.config.watch.false_alarms,
        false_warnings=site.config.watch.false_warnings,
        whys=tuple(Why),
        may_act=reader.role in (Role.IT, Role.OPERATOR),
        csrf=_csrf(request),
    )


@router.get("/dashboard")
def dashboard_page(request: Request, site: ThisSite, reader: ThisReader) -> Response:
    """How the AI does here, month by month."""
    found = dashboard.board(site)
    return _page(request, "dashboard.html", reader=reader, board=found, plots=charts.plots(found))


@router.get("/incidents")
def incidents_page(request: Request, site: ThisSite, reader: ThisReader) -> Response:
    """Incidents, their deadlines, notices and histories."""
    reader.require(Role.IT, Role.OPERATOR)
    found = incidents.listed(site)
    return _page(
        request,
        "incidents.html",
        reader=reader,
        incidents=found,
        drafts={one.id: draft(site, one) for one in found},
        kinds=incidents.KINDS,
        meanings=MEANINGS,
        now=time.time(),
        may_act=True,
        csrf=_csrf(request),
    )


@router.post("/incidents/{number}")
def act_on_incident(
    request: Request,
    site: ThisSite,
    reader: ThisReader,
    number: int,
    csrf: Annotated[str, Form()],
    act: Annotated[Literal["authority", "manufacturer", "closed", "withdrawn"], Form()],
    text: Annotated[str, Form(max_length=500)] = "",
) -> Response:
    """Write down that somebody was told, or what an incident came to."""
    _require_form(request, csrf)
    reader.require(Role.IT, Role.OPERATOR)
    if act in ("closed", "withdrawn"):
        incidents.end(site, number, act, text, reader.name)
    else:
        incidents.tell(site, number, act, text, reader.name)
    return RedirectResponse("/incidents", 303)


@router.post("/watch/alarms/{number}")
def note_alarm(
    request: Request, site: ThisSite, reader: ThisReader, number: int, csrf: Annotated[str, Form()]
) -> Response:
    """Take note of an alarm."""
    _require_form(request, csrf)
    reader.require(Role.IT, Role.OPERATOR)
    harm.see(site, number, reader.name)
    return RedirectResponse("/watch", 303)


@router.post("/watch/warnings/{number}")
def note_warning(
    request: Request,
    site: ThisSite,
    reader: ThisReader,
    number: int,
    csrf: Annotated[str, Form()],
    act: Annotated[str, Form()] = "note",
) -> Response:
    """Take note of a warning that studies have changed; `usual`: it is how things are now."""
    _require_form(request, csrf)
    reader.require(Role.IT, Role.OPERATOR)
    drift.see(site, number, reader.name, usual=act == "usual")
    return RedirectResponse("/watch", 303)


@router.post("/watch/{digest}")
def act_on_version(
    request: Request,
    site: ThisSite,
    reader: ThisReader,
    digest: str,
    csrf: Annotated[str, Form()],
    act: Annotated[str, Form()],
    reason: Annotated[Why, Form()],
) -> Response:
    """Suspend a version, or let it read again."""
    _require_form(request, csrf)
    reader.require(Role.IT, Role.OPERATOR)
    held = versions.find(site, digest)
    if held is None:
        raise NotFound("this hospital holds no such version")
    if act == "suspend":
        suspensions.suspend(site, held, reason, reader.name)
    elif act == "resume":
        suspensions.lift(site, held, reason, reader.name)
    else:
        raise Conflict("a version is suspended, or let read again")
    return RedirectResponse("/watch", 303)


@router.get("/studies/{uid}/heatmap.png")
def heatmap_png(site: ThisSite, reader: ThisReader, uid: str, revision: int | None = None) -> Response:
    """The picture of the map."""
    return Response(worklist.map_png(site, uid, revision), media_type="image/png")


@router.get("/studies/{uid}/image.png")
def image_png(site: ThisSite, reader: ThisReader, uid: str, revision: int | None = None) -> Response:
    """The radiograph in the same frame."""
    return Response(worklist.image_png(site, uid, revision), media_type="image/png")


@router.get("/login")
def login_page(request: Request, unkept: bool = False) -> Response:
    """Where a token is pasted; `unkept`, after a form that came without a session."""
    return _page(request, "login.html", problem=_UNKEPT if unkept else "")


@router.post("/login")
def sign_in(request: Request, site: ThisSite, token: Annotated[str, Form()]) -> Response:
    """Open a session with a token."""
    _same_origin(request)
    try:
        role = authenticate(site, token.strip()).role
    except NotSignedIn:
        return _page(request, "login.html", 401, problem="This token is not known here.")
    if role is Role.DEVICE:
        return _page(
            request, "login.html", 403, problem="This token is a device's: it stores images, and opens no page."
        )
    token_hash = hashlib.sha256(token.strip().encode()).hexdigest()
    expires = int(time.time()) + _HOURS * 3600
    signature = _sign(site, f"session.{token_hash}.{expires}")
    response = RedirectResponse("/", 303)
    response.set_cookie(
        COOKIE,
        f"{token_hash}.{expires}.{signature}",
        max_age=_HOURS * 3600,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/logout")
def sign_out(request: Request) -> Response:
    """Forget the session in this browser."""
    _same_origin(request)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


@router.get("/assets/style.css")
@router.get("/assets/keys.js")
@router.get("/assets/icon.svg")
def asset(request: Request) -> Response:
    """The style sheet and the keys."""
    name = request.url.path.rpartition("/")[2]
    return FileResponse(_TEMPLATES / name, media_type=_ASSETS[name])


def show_error(request: Request, error: VigieError, status: int) -> Response:
    """What a person sees of an error: the way to the login page, or what was wrong."""
    if status == 401:
        return RedirectResponse("/login?unkept=1" if request.method == "POST" else "/login", 303)
    return _page(request, "error.html", status, message=str(error), code=error.code)


def _asked(site: Site, reader: Reader, uid: str) -> list[Answerable]:
    """What a reader may say something of, of a study."""
    if reader.role is not Role.CLINICIAN:
        return []
    with site.database.read() as connection:
        return answerable(connection, uid, reader.name)


def _answer(decision: Decision, positive: bool, given: str) -> Answer:
    if decision is Decision.REJECT:
        if given not in list(Answer):
            raise InvalidVerdict("a rejection says the right answer, or that it cannot be told")
        return Answer(given)
    return Answer.POSITIVE if positive == (decision is Decision.AGREE) else Answer.NEGATIVE


def _reason(decision: Decision, given: str) -> Reason | None:
    if decision is Decision.AGREE or not given:
        return None
    if given not in list(Reason):
        raise InvalidVerdict("no such reason")
    return Reason(given)


def _require_form(request: Request, csrf: str) -> None:
    """Refuse a form that is not from a page of this session.

    Raises:
        NotAllowed: it is from elsewhere.
    """
    _same_origin(request)
    if not hmac.compare_digest(csrf.encode(), _csrf(request).encode()):
        raise NotAllowed("the form is not from this session: open the page again")


def _same_origin(request: Request) -> None:
    # sent by every browser of the last years and not forgeable by a page; its absence is a program's, not a browser's
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise NotAllowed("this form can only be sent from the hospital's own page")


def _csrf(request: Request) -> str:
    return _sign(_site(request), f"form.{request.cookies.get(COOKIE, '')}")


def _sign(site: Site, text: str) -> str:
    return hmac.new(_session_key(site.secrets), text.encode(), hashlib.sha256).hexdigest()


@lru_cache(maxsize=8)
def _session_key(folder: Path) -> bytes:
    path = folder / "session.key"
    try:
        write_secret(path, secrets.token_bytes(KEY_BYTES), keep=True)
        if len(path.read_bytes()) < KEY_BYTES:  # of a release that wrote it in place, on a disk that was full
            write_secret(path, secrets.token_bytes(KEY_BYTES))
        return path.read_bytes()
    except OSError as error:  # a full disk is no reason to show nobody the results: sessions end with this process
        log.error("%s is not written: %s", path, type(error).__name__)
        return secrets.token_bytes(KEY_BYTES)


def _page(request: Request, name: str, status: int = 200, **values: Any) -> HTMLResponse:
    site = _site(request)
    context: Mapping[str, Any] = {
        "reader": None,
        "institution": site.config.institution,
        "refusing": refusing(site) if values.get("reader") else None,  # no business of strangers
        **values,
    }
    return HTMLResponse(_environment().get_template(name).render(context), status)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["ago"] = _ago
    environment.filters["words"] = lambda text: str(text).replace("_", " ").replace("-", " ").capitalize()
    environment.filters["moment"] = _moment
    return environment


def _moment(at: float) -> str:
    return time.strftime("%d %b %Y, %H:%M", time.localtime(at))


def _ago(at: float) -> str:
    seconds = max(0, int(time.time() - at))
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
