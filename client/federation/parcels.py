"""How the hospital fetches and brings what is large in a message, see models/parcels.py.

It is the process that answers the message which does so, by a request of its own: out of the house, to the one address
that the SuperNode calls, with its certificate authority and its key. What leaves has been through the border by then.
"""

import hashlib
import logging
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

import httpx
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
        context = ssl.create_default_context(cafile=ca)
        self._client = httpx.Client(verify=context, timeout=_PATIENCE)

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Carrier":
        """The carrier of this process."""
        return cls(environment[SUPERLINK], Path(environment[CA]), pki.load_supernode(Path(environment[KEY])))

    def __enter__(self) -> "Carrier":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

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
        content = memoryview(np.empty(size, np.uint8)).cast("B")  # in pages of 2 MiB, where the kernel has them
        found, at = hashlib.sha256(), 0
        with self._client.stream("GET", self._base + path, headers=self._headers("GET", path)) as answer:
            answer.raise_for_status()
            for piece in answer.iter_raw():
                if at + len(piece) > size:
                    raise ParcelLost("a parcel is larger than was said")
                content[at : at + len(piece)] = piece
                found.update(piece)
                at += len(piece)
        if at != size or found.hexdigest() != digest:
            raise ParcelLost("a parcel is not the one that was said")
        return content.toreadonly()

    def _brought(self, path: str, content: memoryview) -> None:
        def pieces() -> Iterator[bytes]:
            for start in range(0, len(content), parcels.PIECE):
                yield bytes(content[start : start + parcels.PIECE])

        headers = self._headers("PUT", path) | {"content-length": str(len(content))}
        self._client.put(self._base + path, headers=headers, content=pieces()).raise_for_status()

    def _headers(self, method: str, path: str) -> dict[str, str]:
        return {**parcels.credential(self._key, method, path), "accept-encoding": "identity"}

    def _patiently(self, attempt: Callable[[], Done]) -> Done:
        for pause in (*self._pauses, None):
            try:
                return attempt()
            except httpx.HTTPStatusError as error:
                why = f"the coordinator said {error.response.status_code}"
                if error.response.status_code in _FINAL:
                    break
            except httpx.HTTPError as error:
                why = type(error).__name__
            if pause is not None:
                log.warning("a parcel is tried again: %s", why)
                time.sleep(pause)
        raise ParcelLost(f"a parcel was neither fetched nor brought: {why}")  # pyright: ignore[reportPossiblyUnboundVariable]


def within() -> Carrier | None:
    """The carrier of this process, None where it has no coordinator to go to: a simulation has everything in memory."""
    return Carrier.of(os.environ) if SUPERLINK in os.environ else None
