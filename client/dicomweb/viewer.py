"""OHIF beside the worklist: its npm build as it comes, served where it is installed (`scripts/install --viewer`).

The build looks for its scripts at the root of the site, so they are served there, under the names that its folder holds
and no other; nothing of it is altered but the configuration, which is ours. The scripts are anybody's to read and hold
no data; the page itself needs a session, or a viewer without data would open where a login should.
"""

import json
import mimetypes
import os
import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from fastapi import APIRouter, Depends, Response
from fastapi.responses import FileResponse

from client.review import pages
from models.errors import NotFound

PREFIX: Final = "/viewer"
_OURS: Final = ("index.html", "app-config.js", "google.js", "sw.js")
_HASHED: Final = re.compile(r"[.-]?[0-9a-f]{16}\.(js|wasm)$")
POLICY: Final = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "frame-src 'self' blob:; object-src blob:; manifest-src 'self'; form-action 'none'; frame-ancestors 'none'; "
    "base-uri 'none'"
)
"""What the viewer's page may do: OHIF compiles WebAssembly and functions, but speaks to nobody else."""

router = APIRouter(include_in_schema=False)
fallback = APIRouter(include_in_schema=False)


def folder() -> Path:
    """Where the viewer is, or would be: VIGIE_OHIF, else beside the installed environment."""
    return Path(os.environ.get("VIGIE_OHIF") or Path(sys.prefix) / "ohif")


def installed() -> bool:
    """Whether there is a viewer to serve."""
    return (folder() / "index.html").is_file()


@router.get(PREFIX, dependencies=[Depends(pages.signed_in)])
@router.get(f"{PREFIX}/{{path:path}}", dependencies=[Depends(pages.signed_in)])
def page(path: str = "") -> Response:
    """The viewer, at whatever place of its own; it finds its way by the address."""
    if not installed():
        raise NotFound("no image viewer is installed on this node; hospital IT adds one with: scripts/install --viewer")
    response = FileResponse(folder() / "index.html")
    response.headers["Content-Security-Policy"] = POLICY
    return response


@router.get("/app-config.js")
def configuration() -> Response:
    """What OHIF has to know of this node."""
    if not installed():
        raise NotFound("no viewer is installed")
    return Response(f"window.config = {json.dumps(_CONFIGURATION, indent=1)};\n", media_type="text/javascript")


@fallback.get("/{path:path}")
def script(path: str) -> Response:
    """A file of the viewer's build."""
    if path not in _files(folder()):
        raise NotFound("there is nothing here")
    response = FileResponse(folder() / path, media_type=mimetypes.guess_type(path)[0] or "application/octet-stream")
    # workers are held to their own script's policy
    response.headers["Content-Security-Policy"] = POLICY
    # a name with a digest of the content in it never changes what it means
    response.headers["Cache-Control"] = "max-age=31536000, immutable" if _HASHED.search(path) else "no-cache"
    return response


@lru_cache(maxsize=4)
def _files(root: Path) -> frozenset[str]:
    found = (path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return frozenset(name for name in found if name not in _OURS)


_CONFIGURATION: Final[dict[str, Any]] = {
    "name": "vigie",
    "routerBasename": PREFIX,
    "extensions": [],
    "modes": [],
    "customizationService": {},
    "showStudyList": True,
    "maxNumberOfWebWorkers": 3,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": True,
    "showLoadingIndicator": True,
    "strictZSpacingForVolumeViewport": True,
    "groupEnabledModesFirst": True,
    # a browser opens six connections to a site; more requests at once only wait in its own queue
    "maxNumRequests": {"interaction": 100, "thumbnail": 5, "prefetch": 6},
    "defaultDataSourceName": "vigie",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "vigie",
            "configuration": {
                "friendlyName": "Vigie",
                "name": "vigie",
                "wadoUriRoot": "/dicomweb",
                "qidoRoot": "/dicomweb",
                "wadoRoot": "/dicomweb",
                "qidoSupportsIncludeField": True,
                "imageRendering": "wadors",
                "thumbnailRendering": "thumbnail",
                "thumbnailRequestStrategy": "fetch",
                "enableStudyLazyLoad": True,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "staticWado": False,
                "supportsStow": False,
                "supportsReject": False,
                "singlepart": "bulkdata,pdf,video",
                "bulkDataURI": {"enabled": True},
                "omitQuotationForMultipartRequest": True,
            },
        }
    ],
}
