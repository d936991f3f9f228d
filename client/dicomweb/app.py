"""DICOMweb's routes: who may ask, what is asked, and the one table from what is wrong to an HTTP status.

A reader reads with a bearer token, or from the node's own pages with their session, which no other site can send. Only
a token of the role `device` may store: it lies in the settings of a machine, where it must not open a worklist, and
whoever can read a machine's settings must not read images with what is found there.
"""

import json
import re
import threading
from collections.abc import Callable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.responses import FileResponse, StreamingResponse
from starlette.requests import ClientDisconnect

from client.arrival.intake import Intake
from client.dicomweb import accept, frames, qido, rendered, stow, wado
from client.dicomweb.holdings import Held, Holdings
from client.dicomweb.matching import BadQuery, Query, parse
from client.dicomweb.part10 import opened
from client.review import pages
from client.review.readers import Reader, Role, authenticate
from client.store.site import Site
from models.errors import InvalidStudy, NotFound, NotSignedIn

PREFIX: Final = "/dicomweb"
_STORING: Final = 8  # requests at a time, each with one instance in memory
_SOON: Final = "5"  # seconds until a place is free
_LATER: Final = "60"  # until there is room again
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_STATUS: Final[dict[type[Exception], int]] = {
    BadQuery: 400,
    rendered.BadRendering: 400,
    wado.NotAcceptable: 406,
    frames.Undecodable: 406,
    InvalidStudy: 406,
    FileNotFoundError: 404,
    IndexError: 416,
}


class Service:
    """What the routes work on.

    Args:
        intake: where images go; None in a process that takes none.
    """

    def __init__(self, site: Site, intake: Intake | None) -> None:
        self.site = site
        self.intake = intake
        self.holdings = Holdings(site)
        self.storing = threading.BoundedSemaphore(_STORING)


def _service(request: Request) -> Service:
    return request.app.state.dicomweb


def _bearer(request: Request) -> Reader | None:
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return None
    return authenticate(_service(request).site, token.strip())


def _viewer(request: Request) -> Reader:
    reader = _bearer(request)
    if reader is None:
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise NotSignedIn("send a bearer token")
        reader = pages.signed_in(request)
    reader.require(Role.CLINICIAN, Role.IT)
    return reader


def _device(request: Request) -> Reader:
    reader = _bearer(request)
    if reader is None:
        raise NotSignedIn("send a bearer token")
    reader.require(Role.DEVICE)
    return reader


ThisService = Annotated[Service, Depends(_service)]
ThisDevice = Annotated[Reader, Depends(_device)]

reading = APIRouter(prefix=PREFIX, dependencies=[Depends(_viewer)])
storing = APIRouter(prefix=PREFIX)


def mount(app: Any, site: Site, intake: Intake | None) -> None:
    """Put the routes into an application."""
    app.state.dicomweb = Service(site, intake)
    app.include_router(reading)
    app.include_router(storing)


# ---------------------------------------------------------------- QIDO-RS


@reading.get("/studies")
def search_studies(request: Request, service: ThisService) -> Response:
    """Search for studies."""
    return _searched(request, lambda query, root: qido.studies(service.holdings, query, root))


@reading.get("/series")
def search_all_series(request: Request, service: ThisService) -> Response:
    """Search for series of all studies."""
    return _searched(request, lambda query, root: qido.series(service.holdings, query, root))


@reading.get("/instances")
def search_all_instances(request: Request, service: ThisService) -> Response:
    """Search for instances of all studies."""
    return _searched(request, lambda query, root: qido.instances(service.holdings, query, root))


@reading.get("/studies/{study}/series")
def search_series(request: Request, service: ThisService, study: str) -> Response:
    """Search for series of a study."""
    return _searched(request, lambda query, root: qido.series(service.holdings, query, root, study))


@reading.get("/studies/{study}/instances")
def search_instances(request: Request, service: ThisService, study: str) -> Response:
    """Search for instances of a study."""
    return _searched(request, lambda query, root: qido.instances(service.holdings, query, root, study))


@reading.get("/studies/{study}/series/{series}/instances")
def search_instances_of_series(request: Request, service: ThisService, study: str, series: str) -> Response:
    """Search for instances of a series."""
    return _searched(request, lambda query, root: qido.instances(service.holdings, query, root, study, series))


# ---------------------------------------------------------------- WADO-RS


@reading.get("/studies/{study}/metadata")
def study_metadata(request: Request, service: ThisService, study: str) -> Response:
    """All headers of a study."""
    return _metadata(request, service, lambda: service.holdings.instances(study))


@reading.get("/studies/{study}/series/{series}/metadata")
def series_metadata(request: Request, service: ThisService, study: str, series: str) -> Response:
    """All headers of a series."""
    return _metadata(request, service, lambda: service.holdings.instances(study, series))


@reading.get("/studies/{study}/series/{series}/instances/{instance}/metadata")
def instance_metadata(request: Request, service: ThisService, study: str, series: str, instance: str) -> Response:
    """The header of an instance."""
    return _metadata(request, service, lambda: [service.holdings.instance(study, series, instance)])


@reading.get("/studies/{study}/thumbnail")
def study_thumbnail(request: Request, service: ThisService, study: str) -> Response:
    """A small picture that stands for a study."""
    return _rendered(request, service, lambda: _standing(service, study, None), 0, rendered.THUMBNAIL)


@reading.get("/studies/{study}/series/{series}/thumbnail")
def series_thumbnail(request: Request, service: ThisService, study: str, series: str) -> Response:
    """A small picture that stands for a series."""
    return _rendered(request, service, lambda: _standing(service, study, series), 0, rendered.THUMBNAIL)


@reading.get("/studies/{study}/series/{series}/instances/{instance}/thumbnail")
def instance_thumbnail(request: Request, service: ThisService, study: str, series: str, instance: str) -> Response:
    """A small picture of an instance."""
    held = service.holdings.instance(study, series, instance)
    return _rendered(request, service, lambda: held, 0, rendered.THUMBNAIL)


@reading.get("/studies/{study}/series/{series}/instances/{instance}/rendered")
def instance_rendered(request: Request, service: ThisService, study: str, series: str, instance: str) -> Response:
    """A picture of an instance: of its first frame, where it has several."""
    held = service.holdings.instance(study, series, instance)
    return _rendered(request, service, lambda: held, 1, rendered.Rendering())


@reading.get("/studies/{study}/series/{series}/instances/{instance}/frames/{numbers}/rendered")
def frame_rendered(
    request: Request, service: ThisService, study: str, series: str, instance: str, numbers: str
) -> Response:
    """A picture of one frame."""
    asked = _numbers(numbers)
    if len(asked) != 1:
        raise HTTPException(400, "one frame at a time is rendered")
    held = service.holdings.instance(study, series, instance)
    return _rendered(request, service, lambda: held, asked[0], rendered.Rendering())


@reading.get("/studies/{study}/series/{series}/instances/{instance}/frames/{numbers}/thumbnail")
def frame_thumbnail(
    request: Request, service: ThisService, study: str, series: str, instance: str, numbers: str
) -> Response:
    """A small picture of one frame."""
    asked = _numbers(numbers)
    held = service.holdings.instance(study, series, instance)
    return _rendered(request, service, lambda: held, asked[0], rendered.THUMBNAIL)


@reading.get("/studies/{study}/series/{series}/instances/{instance}/frames/{numbers}")
def instance_frames(
    request: Request, service: ThisService, study: str, series: str, instance: str, numbers: str
) -> Response:
    """Frames of an instance."""
    asked, held = _numbers(numbers), service.holdings.instance(study, series, instance)
    return _answered(lambda: _body(wado.frames(service.holdings, held, asked, _wanted(request))))


@reading.get("/studies/{study}/series/{series}/instances/{instance}/bulkdata/{place:path}")
def bulk_data(request: Request, service: ThisService, study: str, series: str, instance: str, place: str) -> Response:
    """One large value of an instance."""
    held = service.holdings.instance(study, series, instance)

    def answer() -> Response:
        payload, span = wado.bulk(service.holdings, held, place, _wanted(request), _span(request))
        response = _body(payload)
        if span is not None:
            response.status_code = 206
            response.headers["Content-Range"] = f"bytes {span[0]}-{span[1]}/{span[2]}"
        response.headers["Accept-Ranges"] = "bytes"
        return response

    return _answered(answer)


@reading.get("/studies/{study}")
def study_files(request: Request, service: ThisService, study: str) -> Response:
    """All instances of a study."""
    held = service.holdings.instances(study)
    return _answered(lambda: _body(wado.files(service.holdings, held, _wanted(request))))


@reading.get("/studies/{study}/series/{series}")
def series_files(request: Request, service: ThisService, study: str, series: str) -> Response:
    """All instances of a series."""
    held = service.holdings.instances(study, series)
    return _answered(lambda: _body(wado.files(service.holdings, held, _wanted(request))))


@reading.get("/studies/{study}/series/{series}/instances/{instance}")
def instance_file(request: Request, service: ThisService, study: str, series: str, instance: str) -> Response:
    """One instance."""
    held = [service.holdings.instance(study, series, instance)]
    return _answered(lambda: _body(wado.files(service.holdings, held, _wanted(request))))


# ---------------------------------------------------------------- STOW-RS


@storing.post("/studies")
async def store(request: Request, service: ThisService, device: ThisDevice) -> Response:
    """Store instances."""
    return await _store(request, service, device, None)


@storing.post("/studies/{study}")
async def store_in_study(request: Request, service: ThisService, device: ThisDevice, study: str) -> Response:
    """Store instances of one study."""
    return await _store(request, service, device, study)


async def _store(request: Request, service: Service, device: Reader, study: str | None) -> Response:
    media, named = accept.parameters(request.headers.get("content-type", ""))
    if media != "multipart/related" or named.get("type", wado.DICOM).lower() != wado.DICOM:
        raise HTTPException(415, 'instances come as multipart/related; type="application/dicom"')
    if "boundary" not in named:
        raise HTTPException(400, "the content type names no boundary")
    if accept.choose(_wanted(request), [wado.JSON, "application/json"]) is None:
        raise HTTPException(406, "the answer is application/dicom+json")
    if service.intake is None or not service.storing.acquire(blocking=False):
        raise HTTPException(503, "no instance can be taken now", {"Retry-After": _SOON})
    try:
        stored = await stow.store(
            service.intake, request.stream(), named["boundary"], device.name, study, stow.LARGEST_INSTANCE
        )
    except ClientDisconnect:
        return Response(status_code=400)  # to nobody
    finally:
        service.storing.release()
    content = json.dumps(stored.dataset(_root(request)), separators=(",", ":"))
    later = {"Retry-After": _LATER} if stored.status == 503 else None
    return Response(content, stored.status, later, media_type=wado.JSON)


# ---------------------------------------------------------------- shared


def _searched(request: Request, search: Callable[[Query, str], qido.Found]) -> Response:
    media = accept.choose(_wanted(request), [wado.JSON, "application/json"])
    if media is None:
        raise HTTPException(406, "search results are application/dicom+json")

    def answer() -> Response:
        query = parse(request.query_params.multi_items())
        found = search(query, _root(request))
        content = f"[{','.join(found.datasets)}]".encode("utf-8", "replace")
        response = Response(content, media_type=wado.JSON)
        if query.fuzzy:
            response.headers.append("Warning", qido.FUZZY)
        if found.more:
            response.headers.append("Warning", '299 vigie "There are more results than the limit let through."')
        return response

    return _answered(answer)


def _metadata(request: Request, service: Service, find: Callable[[], list[Held]]) -> Response:
    if accept.choose(_wanted(request), [wado.JSON, "application/json"]) is None:
        raise HTTPException(406, "metadata is application/dicom+json")
    return _body(wado.metadata(service.holdings, find(), _root(request)))


def _rendered(
    request: Request, service: Service, find: Callable[[], Held], number: int, default: rendered.Rendering
) -> Response:
    """Frame `number`, from 1, or the one in the middle for 0."""
    media = accept.choose(_wanted(request), rendered.OFFERED)
    if media is None:
        raise HTTPException(406, f"pictures are {' or '.join(rendered.OFFERED)}")

    def answer() -> Response:
        how = rendered.parse(request.query_params, default)
        with opened(service.holdings.archive.path(find().sha256)) as part10:
            image = frames.Image(part10)
            return Response(rendered.render(image, number or (image.frames + 1) // 2, media, how), media_type=media)

    return _answered(answer)


def _standing(service: Service, study: str, series: str | None) -> Held:
    """The image in the middle of a series, or of a study's first series that has images."""
    pictures: list[Held] = []
    for held in service.holdings.instances(study, series):
        if pictures and held.series != pictures[0].series:
            continue
        if "00280010" in service.holdings.header(held.sha256):
            pictures.append(held)
    if not pictures:
        raise NotFound("there is no image in it")
    return pictures[len(pictures) // 2]


def _answered(answer: Callable[[], Response]) -> Response:
    try:
        return answer()
    except tuple(_STATUS) as error:
        status = next(status for kind, status in _STATUS.items() if isinstance(error, kind))
        message = str(error) if not isinstance(error, OSError) else "the file is missing"
        raise HTTPException(status, message or "not satisfiable") from error


def _body(payload: wado.Payload) -> Response:
    if payload.path is not None:
        return FileResponse(payload.path, media_type=payload.media)
    response = StreamingResponse(payload.content, media_type=payload.media)
    if payload.length is not None:
        response.headers["Content-Length"] = str(payload.length)
    return response


def _wanted(request: Request) -> list[accept.Wanted]:
    return accept.parse(request.query_params.get("accept") or request.headers.get("accept", ""))


def _numbers(text: str) -> list[int]:
    try:
        return frames.numbers(text)
    except ValueError as error:
        raise HTTPException(400, str(error)) from None


def _span(request: Request) -> tuple[int | None, int | None] | None:
    """The one range that is asked for; several, or none that is one, are no range (RFC 9110 14.2)."""
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if found is None or found.groups() == ("", ""):
        return None
    first, last = (int(text) if text else None for text in found.groups())
    return first, last


def _root(request: Request) -> str:
    return f"{str(request.base_url).rstrip('/')}{PREFIX}"
