"""STOW-RS: result objects to the PACS by HTTP, several in one request, each with an answer of its own.

Source: DICOM PS3.18 10.5 (Store transaction), I.2 (the response: what is in ReferencedSOPSequence is stored, what is in
FailedSOPSequence is not).
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import httpx
from sqlalchemy import Row

from client.delivery.carrier import Answer, Unreachable
from client.dicom.listener import client_tls
from client.store.archive import Archive
from client.store.site import Site

_TOGETHER: Final = 16
_REFERENCED: Final = "00081199"
_FAILED: Final = "00081198"
_INSTANCE: Final = "00081155"
_WARNING: Final = "00081196"
_REASON: Final = "00081197"
# nothing in these is about an object: wrong credentials or address, or a server that cannot just now
_NOT_ABOUT_OBJECTS: Final = (401, 403, 404, 405, 407, 408, 429, 502, 503, 504)


class StowCarrier:
    """Posts to the DICOMweb root of `pacs.stow_url`.

    Args:
        answer_seconds: how long the PACS may take to answer.
    """

    def __init__(self, site: Site, archive: Archive, answer_seconds: float) -> None:
        self._site = site
        self._archive = archive
        self._timeout = httpx.Timeout(answer_seconds, connect=min(answer_seconds, 10.0))
        self._client: httpx.Client | None = None

    def offer(self, rows: Iterable[Row[Any]]) -> Iterator[tuple[Row[Any], Answer]]:
        waiting = iter(rows)
        while together := list(islice(waiting, _TOGETHER)):
            for row, answer in self._offer(together):
                yield row, answer
                if answer.lost:
                    return

    def prepare(self) -> None:
        pass  # the first request opens the connection

    def alive(self) -> bool:
        try:
            answer = self._opened().get(self._address, params={"limit": "1"}, headers=_JSON)
        except httpx.HTTPError:
            return False
        return answer.status_code < 500

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @property
    def _address(self) -> str:
        return f"{self._site.config.pacs.stow_url.rstrip('/')}/studies"

    def _opened(self) -> httpx.Client:
        if self._client is None:
            # what stands in the environment about proxies is not the hospital's allow-list
            verify = client_tls(self._site) or True
            self._client = httpx.Client(timeout=self._timeout, verify=verify, trust_env=False)
        return self._client

    def _offer(self, rows: Sequence[Row[Any]]) -> list[tuple[Row[Any], Answer]]:
        try:
            answer = self._post([self._archive.path(row.sha256).read_bytes() for row in rows])
        except httpx.ReadTimeout:
            return [(rows[0], Answer(False, "", "silent"))]
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProtocolError) as error:
            if isinstance(error, httpx.RemoteProtocolError):
                return [(rows[0], Answer(False, "", "broken"))]
            raise Unreachable("the PACS cannot be reached") from error
        except httpx.TransportError:
            return [(rows[0], Answer(False, "", "broken"))]
        if answer.status_code in _NOT_ABOUT_OBJECTS:
            raise Unreachable(f"the PACS answers STOW-RS with {answer.status_code}")
        said = _said(answer)
        if said is not None:
            return [(row, said.get(row.sop_uid, Answer(False, "the PACS says nothing of it"))) for row in rows]
        if answer.status_code == 200:
            return [(row, Answer(True, "")) for row in rows]
        if len(rows) > 1:  # which of them it is about, the answer does not say
            return [pair for row in rows for pair in self._offer([row])]
        if answer.status_code >= 500:
            return [(rows[0], Answer(False, "", "broken"))]
        return [(rows[0], Answer(False, f"STOW-RS status {answer.status_code}"))]

    def _post(self, objects: Sequence[bytes]) -> httpx.Response:
        boundary = secrets.token_hex(16)
        parts: list[bytes] = []
        for content in objects:
            parts += [f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode(), content, b"\r\n"]
        parts.append(f"--{boundary}--\r\n".encode())
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        return self._opened().post(self._address, content=b"".join(parts), headers=_JSON | {"Content-Type": kind})


_JSON: Final = {"Accept": "application/dicom+json"}


def _said(answer: httpx.Response) -> dict[str, Answer] | None:
    """What the body says of each instance; None where it says nothing of any."""
    try:
        body: Any = answer.json()
        if isinstance(body, list):
            (body,) = body
        stored = body.get(_REFERENCED, {}).get("Value") or []
        failed = body.get(_FAILED, {}).get("Value") or []
        found = {_first(item, _INSTANCE): Answer(True, _coded("warning", item, _WARNING)) for item in stored}
        # named in both, it is not there
        found |= {
            _first(item, _INSTANCE): Answer(False, _coded("status", item, _REASON) or "refused") for item in failed
        }
    except (ValueError, AttributeError, TypeError, KeyError):
        return None
    return found or None


def _first(item: dict[str, Any], tag: str) -> Any:
    values = item.get(tag, {}).get("Value") or [""]
    return values[0]


def _coded(word: str, item: dict[str, Any], tag: str) -> str:
    value = _first(item, tag)
    return f"{word} {value:04X}" if isinstance(value, int) else ""
