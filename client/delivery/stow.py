"""STOW-RS: result objects to the PACS by HTTP, several in one request, each with an answer of its own.

Only what the answer names as stored is: a proxy that wants somebody to sign in says 200, too.

Source: DICOM PS3.18 10.5 (Store transaction), I.2 (the response: what is in ReferencedSOPSequence is stored, what is in
FailedSOPSequence is not), F.2 (the DICOM JSON model); PS3.19 A.1 (the native DICOM model, in XML).
"""

import secrets
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final
from xml.etree import ElementTree as ET

import httpx
from sqlalchemy import Row

from client.delivery.carrier import Answer, Checked, Lost, Unreachable, out_of_resources
from client.dicom.listener import client_tls
from client.store.site import Site

_TOGETHER: Final = 16
_REFERENCED: Final = "00081199"
_FAILED: Final = "00081198"
_INSTANCE: Final = "00081155"
_WARNING: Final = "00081196"
_REASON: Final = "00081197"
# nothing in these is about an object: wrong credentials or address, or a server that cannot just now; nor in a redirect
_NOT_ABOUT_OBJECTS: Final = (401, 403, 404, 405, 407, 408, 429, 502, 503, 504)
_TOO_LARGE: Final = 413
_IN_A_ROW: Final = 2  # objects offered alone that a server fails on: it is the server


class StowCarrier:
    """Posts to the DICOMweb root of `pacs.stow_url`.

    Args:
        answer_seconds: how long the PACS may take to answer.
    """

    def __init__(self, site: Site, answer_seconds: float) -> None:
        self._site = site
        self._timeout = httpx.Timeout(answer_seconds, connect=min(answer_seconds, 10.0))
        self._client: httpx.Client | None = None
        self._most = _TOGETHER  # fewer after a request that was left unanswered: it does not say by which object

    def offer(self, checked: Iterable[Checked]) -> Iterator[tuple[Row[Any], Answer]]:
        waiting = iter(checked)
        while together := list(islice(waiting, self._most)):
            for row, answer in self._offer(together):
                yield row, answer
                if answer.lost in ("broken", "silent"):
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

    def _offer(self, checked: Sequence[Checked]) -> Iterator[tuple[Row[Any], Answer]]:
        try:
            answer = self._post([one.content for one in checked])
        except httpx.ReadTimeout:
            return self._unanswered(checked, "silent")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProtocolError) as error:
            if isinstance(error, httpx.RemoteProtocolError):
                return self._unanswered(checked, "broken")
            raise Unreachable("the PACS cannot be reached") from error
        except httpx.TransportError:
            return self._unanswered(checked, "broken")
        code = answer.status_code
        if code in _NOT_ABOUT_OBJECTS or answer.is_redirect:
            raise Unreachable(f"the PACS answers STOW-RS with {code}")
        said = _said(answer)
        if any(one.row.sop_uid in said for one in checked):
            self._most = min(2 * self._most, _TOGETHER)
            unsaid = Answer(False, "the PACS says nothing of it")
            return ((one.row, said.get(one.row.sop_uid, unsaid)) for one in checked)
        if answer.is_success:
            raise Unreachable(f"the PACS answers STOW-RS with {code}, and does not say what it has stored")
        if code == _TOO_LARGE:
            # of what is sent together, too: less of it next time
            self._most = max(1, len(checked) // 2)
        if len(checked) > 1:  # which of them it is about, the answer does not say
            return self._one_by_one(checked)
        if code == _TOO_LARGE:
            # RFC 9110 15.5.14: one that may be sent again is told when
            final = "retry-after" not in answer.headers
            return iter(
                [(checked[0].row, Answer(False, f"too large for the PACS: STOW-RS status {code}", final=final))]
            )
        if answer.is_server_error:
            return iter(
                [(checked[0].row, Answer(False, f"the PACS cannot take it just now: STOW-RS status {code}", "busy"))]
            )
        return iter([(checked[0].row, Answer(False, f"STOW-RS status {code}"))])

    def _unanswered(self, checked: Sequence[Checked], lost: Lost) -> Iterator[tuple[Row[Any], Answer]]:
        self._most = 1
        return self._one_by_one(checked) if len(checked) > 1 else iter([(checked[0].row, Answer(False, "", lost))])

    def _one_by_one(self, checked: Sequence[Checked]) -> Iterator[tuple[Row[Any], Answer]]:
        failures = 0
        for one in checked:
            ((row, answer),) = self._offer([one])
            yield row, answer
            failures = failures + 1 if answer.lost == "busy" else 0
            if failures == _IN_A_ROW:
                raise Unreachable(answer.problem)

    def _post(self, objects: Sequence[bytes]) -> httpx.Response:
        boundary = secrets.token_hex(16)
        parts: list[bytes] = []
        for content in objects:
            parts += [f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode(), content, b"\r\n"]
        parts.append(f"--{boundary}--\r\n".encode())
        kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
        return self._opened().post(self._address, content=b"".join(parts), headers=_JSON | {"Content-Type": kind})


_JSON: Final = {"Accept": "application/dicom+json"}


def _said(answer: httpx.Response) -> dict[str, Answer]:
    """What the body says of each instance; empty where it says nothing of any."""
    body = _of_json(answer) or _of_xml(answer.content)
    found = {uid: Answer(True, f"warning {code:04X}" if code else "") for uid, code in body.get(_REFERENCED, [])}
    # named in both, it is not there
    found |= {uid: _refused(code) for uid, code in body.get(_FAILED, [])}
    return found


def _refused(code: int | None) -> Answer:
    if code is None:
        return Answer(False, "refused")
    return out_of_resources(code) or Answer(False, f"status {code:04X}")


_Named = dict[str, list[tuple[str, int | None]]]
"""Of each sequence, the instances that it names, with the code that stands by."""
_CODES: Final = {_REFERENCED: _WARNING, _FAILED: _REASON}


def _of_json(answer: httpx.Response) -> _Named:
    try:
        body: Any = answer.json()
        if isinstance(body, list):
            (body,) = body
        return {
            tag: [(str(uid), _code(_first(item, code))) for item in items if (uid := _first(item, _INSTANCE))]
            for tag, code in _CODES.items()
            if (items := body.get(tag, {}).get("Value"))
        }
    except (ValueError, AttributeError, TypeError, KeyError):
        return {}


def _first(item: dict[str, Any], tag: str) -> Any:
    values = item.get(tag, {}).get("Value") or [""]
    return values[0]


def _code(said: Any) -> int | None:
    return int(said) if said != "" else None


def _of_xml(content: bytes) -> _Named:
    """As `_of_json`, for servers that know the older of the two models only."""
    if b"<!" in content:  # no document type is ours, and what one declares may grow without end
        return {}
    try:
        root = ET.fromstring(content)
        return {
            tag: [
                (uid, _code(_text(item, code)))
                for item in _attribute(root, tag, "Item")
                if (uid := _text(item, _INSTANCE))
            ]
            for tag, code in _CODES.items()
        }
    except (ET.ParseError, ValueError):
        return {}


def _attribute(parent: ET.Element, tag: str, what: str) -> list[ET.Element]:
    return parent.findall(f"{{*}}DicomAttribute[@tag='{tag}']/{{*}}{what}")


def _text(item: ET.Element, tag: str) -> str:
    values = _attribute(item, tag, "Value")
    return (values[0].text or "").strip() if values else ""
