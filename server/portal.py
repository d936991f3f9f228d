"""Vendors' pages, and the same for programs: how their own versions do at hospitals, and nobody else's.

Nothing is changed here but a session: who asks shows a key, as a bearer token or on the page to sign in, and sees the
versions of the models that are theirs. A version of somebody else is as unknown as one that there is not. A session is
a signed cookie that names the hash of the key, so that another key ends it.
"""

import hashlib
import hmac
import secrets
import time
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import Depends, FastAPI, Form, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.exceptions import HTTPException

from models import durable
from models.errors import NotAllowed, NotFound, NotSignedIn, VigieError
from server import export, statistics, vendors
from server.export import Exhibit
from server.performance import Figure
from server.plots import forest, funnel
from server.report import pdf
from server.statistics import Version
from server.vendors import Vendor

COOKIE: Final = "vigie-vendor"
_HOURS: Final = 12
_TEMPLATES: Final = Path(__file__).parent / "templates"
_STATUS: Final = {NotSignedIn.code: 401, NotAllowed.code: 403, NotFound.code: 404}
_SAFE: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def make(folder: Path) -> FastAPI:
    """The portal of a coordinator.

    Args:
        folder: the coordinator's.
    """
    app = FastAPI(title="Vigie for vendors", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    app.state.folder = folder.resolve()
    app.middleware("http")(_guarded)
    app.add_exception_handler(VigieError, _refused)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, _unknown)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, _malformed)  # type: ignore[arg-type]
    app.get("/", response_class=HTMLResponse, include_in_schema=False)(versions_page)
    app.get("/versions/{name}/{number}", response_class=HTMLResponse, include_in_schema=False)(version_page)
    app.get("/login", response_class=HTMLResponse, include_in_schema=False)(login_page)
    app.post("/login", include_in_schema=False)(sign_in)
    app.post("/logout", include_in_schema=False)(sign_out)
    app.get("/style.css", include_in_schema=False)(style)
    app.get("/api/versions")(versions_json)
    app.get("/api/versions/{name}/{number}")(version_json)
    app.get("/api/versions/{name}/{number}/figures.csv", response_class=Response)(version_csv)
    app.get("/api/versions/{name}/{number}/report.pdf", response_class=Response)(version_pdf)
    return app


def signed_in(request: Request) -> Vendor:
    """Whose key or session a request comes with.

    Raises:
        NotSignedIn: nobody's, or it is over.
    """
    folder, (kind, _, key) = _folder(request), request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return vendors.by_key(folder, key.strip())
    key_hash, _, rest = request.cookies.get(COOKIE, "").partition(".")
    expires, _, signature = rest.partition(".")
    if not hmac.compare_digest(signature.encode(), _sign(folder, f"{key_hash}.{expires}").encode()):
        raise NotSignedIn("sign in first")
    if int(expires) < time.time():
        raise NotSignedIn("the session is over: sign in again")
    return vendors.by_hash(folder, key_hash)


ThisVendor = Annotated[Vendor, Depends(signed_in)]


def the_exhibit(request: Request, vendor: ThisVendor, name: str, number: str) -> Exhibit:
    """The version that is asked for, where it is this vendor's.

    Raises:
        NotFound: it is not, or there is none.
    """
    own = statistics.versions(_folder(request), vendor.models)
    found = next((one for one in own if (one.name, str(one.number)) == (name, number)), None)
    if found is None:
        raise NotFound("no such version of yours")
    return export.exhibit(_folder(request), vendor, found)


ThisExhibit = Annotated[Exhibit, Depends(the_exhibit)]


def versions_page(request: Request, vendor: ThisVendor) -> HTMLResponse:
    """A vendor's versions, each with how many hospitals told of it."""
    folder = _folder(request)
    found = [export.exhibit(folder, vendor, one) for one in statistics.versions(folder, vendor.models)]
    return _page("versions.html", vendor=vendor, exhibits=found)


def version_page(vendor: ThisVendor, found: ThisExhibit) -> HTMLResponse:
    """One version: every figure, and how hospitals compare."""
    sheets = [(sheet, forest(sheet.whole, sheet.sites), funnel(sheet.sites)) for sheet in found.sheets()]
    return _page("version.html", vendor=vendor, found=found, sheets=sheets)


def versions_json(request: Request, vendor: ThisVendor) -> list[dict[str, Any]]:
    """A vendor's versions."""
    own = statistics.versions(_folder(request), vendor.models)
    return [{"name": one.name, "number": one.number, "digest": one.digest} for one in own]


def version_json(found: ThisExhibit) -> dict[str, Any]:
    """Every figure of a version."""
    return export.as_json(found)


def version_csv(found: ThisExhibit) -> Response:
    """Every figure of a version as a table."""
    return _file(export.as_csv(found), "text/csv; charset=utf-8", found.version, "csv")


def version_pdf(vendor: ThisVendor, found: ThisExhibit) -> Response:
    """The report of a version."""
    return _file(pdf(found, vendor.name), "application/pdf", found.version, "pdf")


def login_page() -> HTMLResponse:
    """Where a key is pasted."""
    return _page("login.html", problem="")


def sign_in(request: Request, key: Annotated[str, Form()]) -> Response:
    """Open a session with a key."""
    _same_origin(request)
    folder = _folder(request)
    try:
        vendor = vendors.by_key(folder, key.strip())
    except NotSignedIn:
        return _page("login.html", 401, problem="This key is not known here.")
    expires = int(time.time()) + _HOURS * 3600
    told = f"{vendor.key_sha256}.{expires}"
    response = RedirectResponse("/", 303)
    response.set_cookie(
        COOKIE,
        f"{told}.{_sign(folder, told)}",
        max_age=_HOURS * 3600,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


def sign_out(request: Request) -> Response:
    """Forget the session in this browser."""
    _same_origin(request)
    response = RedirectResponse("/login", 303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def style() -> FileResponse:
    """The style sheet."""
    return FileResponse(_TEMPLATES / "style.css", media_type="text/css")


# ── Inside ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _guarded(request: Request, answer: Any) -> Response:
    response: Response = await answer(request)
    response.headers.update(_SAFE)
    return response


def _refused(request: Request, error: VigieError) -> Response:
    status = _STATUS.get(error.code, 500)
    if request.url.path.startswith("/api/"):
        return JSONResponse({"code": error.code, "message": str(error)}, status)
    if status == 401:
        return RedirectResponse("/login", 303)
    return _page("error.html", status, message=str(error))


def _unknown(request: Request, error: HTTPException) -> Response:
    if error.status_code == 404:
        return _refused(request, NotFound("there is nothing here"))
    return JSONResponse({"code": "not-allowed", "message": str(error.detail)}, error.status_code)


def _malformed(request: Request, error: RequestValidationError) -> Response:
    return _refused(request, NotFound("there is nothing here"))


def _file(content: str | bytes, media_type: str, version: Version, ending: str) -> Response:
    name = f'attachment; filename="{version.name}-{version.number}.{ending}"'
    return Response(content, media_type=media_type, headers={"Content-Disposition": name})


def _same_origin(request: Request) -> None:
    # sent by every browser of the last years and not forgeable by a page; its absence is a program's, not a browser's
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise NotAllowed("this form can only be sent from the portal's own page")


def _folder(request: Request) -> Path:
    return request.app.state.folder


def _sign(folder: Path, text: str) -> str:
    path = folder / "secrets" / "portal.key"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    durable.make(path, secrets.token_bytes(32))
    return hmac.new(path.read_bytes(), f"vendor session {text}".encode(), hashlib.sha256).hexdigest()


def _page(name: str, status: int = 200, **values: Any) -> HTMLResponse:
    return HTMLResponse(_environment().get_template(name).render({"vendor": None, **values}), status)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = export.percent
    environment.filters["between"] = export.between
    environment.filters["basis"] = _basis
    environment.filters["month"] = _month
    environment.filters["day"] = _day
    environment.filters["group"] = _group
    return environment


def _basis(one: Figure) -> str:
    return export.BASES[one.basis]


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))


def _month(period: int) -> str:
    return f"{period // 100}-{period % 100:02}"


def _group(group: str) -> str:
    return group.replace("-", ": ", 1)
