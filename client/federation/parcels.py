"""How the hospital fetches and brings what is large in a message, see models/parcels.py.

It is the process that answers the message which does so, by a request of its own: out of the house, to the one address
that the SuperNode calls, with its certificate authority and its key. What leaves has been through the border by then.
"""

import hashlib
import logging
import os
import ssl
import time
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from models import parcels, pki
from models.errors import VigieError
from models.parcels import Buffer

log = logging.getLogger(__name__)

SUPERLINK, CA, KEY = "VIGIE_SUPERLINK", "VIGIE_SUPERLINK_CA", "VIGIE_SUPERLINK_KEY"
"""Environment variables that say where the coordinator is, and with which files each proves itself to the other; set
where a SuperNode is started, and never by a message."""

_PAUSES: Final = (0.5, 2.0, 5.0, 15.0)  # seconds before it is tried again
_PATIENCE: Final = 60.0  # seconds without a byte
_FINAL: Final = frozenset({400, 401, 403, 404, 405, 413})

Done = TypeVar("Done")


class ParcelLost(VigieError):
    """What belongs to a message could not be fetched or brought; the coordinator may ask again."""

    code = "interrupted"


class Carrier:
    """Goes to the coordinator for parcels.

    Args:
        address: of the SuperLink, host:port.
        ca: the coordinator's certificate authority.
        key: the hospital's, of the channel that the message came by.
        pauses: in seconds, before each further attempt.
    """

    def __init__(
        self, address: str, ca: Path, key: ec.EllipticCurvePrivateKey, pauses: tuple[float, ...] = _PAUSES
    ) -> None:
        self._base, self._key, self._pauses = f"https://{address}", key, pauses
        # through the proxy that the environment names, as Flower goes; read straight into the weights' memory
        self._opener = build_opener(HTTPSHandler(context=ssl.create_default_context(cafile=ca)), _Nowhere)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Carrier":
        """The carrier of this process."""
        return cls(environment[SUPERLINK], Path(environment[CA]), pki.load_supernode(Path(environment[KEY])))

    def fetch(self, digest: str, size: int) -> memoryview:
        """The parcel of this digest and size.

        Raises:
            ParcelLost: it is not there, is another, or the line broke again and again.
        """
        return self._patiently(lambda: self._fetched(parcels.PATH + digest, digest, size))

    def bring(self, digest: str, content: Buffer) -> None:
        """Lay a parcel down at the coordinator.

        Raises:
            ParcelLost: it was not taken, or the line broke again and again.
        """
        self._patiently(lambda: self._brought(parcels.PATH + digest, memoryview(content)))

    def _fetched(self, path: str, digest: str, size: int) -> memoryview:
        content = np.empty(size, np.uint8).data  # in pages of 2 MiB, where the kernel has them
        found, at = hashlib.sha256(), 0
        with self._asked("GET", path) as answer:
            if answer.length != size:
                raise ParcelLost("a parcel is not as large as was said")
            while read := answer.readinto(content[at : at + parcels.PIECE]):
                found.update(content[at : at + read])
                at += read
        if at != size:
            raise ConnectionError("the line broke")
        if found.hexdigest() != digest:
            raise ParcelLost("a parcel is not the one that was said")
        return content.toreadonly()

    def _brought(self, path: str, content: memoryview) -> None:
        with self._asked("PUT", path, content):
            pass

    def _asked(self, method: str, path: str, content: memoryview | None = None) -> Any:
        headers = parcels.credential(self._key, method, path)
        if content is not None:
            headers |= {"content-length": str(len(content)), "content-type": "application/octet-stream"}
        request = Request(self._base + path, content, headers, method=method)
        return self._opener.open(request, timeout=_PATIENCE)

    def _patiently(self, attempt: Callable[[], Done]) -> Done:
        for pause in (*self._pauses, None):
            try:
                return attempt()
            except HTTPError as error:
                error.close()
                why = f"the coordinator said {error.code}"
                if error.code in _FINAL:
                    break
            except (OSError, HTTPException) as error:  # no connection is an URLError, which is an OSError
                why = type(error).__name__
            if pause is not None:
                log.warning("a parcel is tried again: %s", why)
                time.sleep(pause)
        raise ParcelLost(f"a parcel was neither fetched nor brought: {why}")  # pyright: ignore[reportPossiblyUnboundVariable]


class _Nowhere(HTTPRedirectHandler):
    """There is one destination."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def within() -> Carrier | None:
    """The carrier of this process, None where it has no coordinator to go to: a simulation has everything in memory."""
    return Carrier.of(os.environ) if SUPERLINK in os.environ else None
