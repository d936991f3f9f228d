"""UPS-RS: the transactions of a worklist server that the node needs, and what their answers mean.

An answer is one of three: done, refused (the server says that this cannot be, so look at what is), or the server cannot
be talked to just now, which is nobody's refusal.

Source: DICOM PS3.18 11 (Worklist Service), 11.4 create, 11.5 retrieve, 11.6 update, 11.7 change of state, 11.9 search.
"""

import json
from collections.abc import Iterator
from typing import Any, Final

import httpx
from pydicom.dataset import Dataset

from client.delivery.workitem import State
from client.dicom.listener import client_tls
from client.dicom.malformed import MALFORMED
from client.store.site import Site

TOKEN: Final = "ups.token"  # in the site's secrets
_JSON: Final = "application/dicom+json"
_PAGE: Final = 100
_MOST_PAGES: Final = 50
_GONE: Final = (404, 410)
# nothing in these is about a workitem: wrong credentials, or a server that cannot just now
_NOT_NOW: Final = (401, 403, 407, 408, 429)
_STATES: Final[tuple[State, ...]] = ("SCHEDULED", "IN PROGRESS", "COMPLETED", "CANCELED")


class Away(Exception):
    """The worklist server cannot be reached, or answers nothing that concerns a workitem; the text says which."""


class Worklist:
    """A worklist server at `ups.url`.

    Args:
        answer_seconds: how long it may take to answer.
    """

    def __init__(self, site: Site, answer_seconds: float = 10.0) -> None:
        self._site = site
        self._timeout = answer_seconds
        self._client: httpx.Client | None = None

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def search(self, station: str) -> Iterator[Dataset]:
        """The steps that stand open for a station.

        Raises:
            Away: as said, or it answers with what is no list of datasets.
        """
        query = {
            "ProcedureStepState": "SCHEDULED",
            "ScheduledStationNameCodeSequence.CodeValue": station,
            "includefield": "InputInformationSequence,ReferencedRequestSequence,ScheduledStationNameCodeSequence",
            "limit": str(_PAGE),
        }
        seen: set[str] = set()
        for page in range(_MOST_PAGES):
            answer = self._ask("GET", "/workitems", params=query | {"offset": str(page * _PAGE)})
            found = _datasets(answer) if answer.status_code == 200 else []
            new = [item for item in found if str(item.get("SOPInstanceUID", "")) not in seen]
            seen |= {str(item.get("SOPInstanceUID", "")) for item in new}
            yield from new
            if len(found) < _PAGE or not new:  # a server without paging gives the same again
                return

    def create(self, item: Dataset) -> str:
        """Schedule a step; the UID under which it is kept, empty where the server refuses."""
        uid = str(item.SOPInstanceUID)
        answer = self._ask("POST", "/workitems", params={"workitem": uid}, body=item)
        if answer.status_code not in (200, 201):
            return ""
        named = (answer.headers.get("Location") or answer.headers.get("Content-Location") or "").rstrip("/")
        return named.rpartition("/")[2] if "/workitems/" in named else uid

    def state(self, uid: str) -> State | None:
        """The state that a step is really in; None where there is no such step."""
        answer = self._ask("GET", f"/workitems/{uid}")
        if answer.status_code in _GONE:
            return None
        if answer.status_code != 200:
            raise Away(f"the worklist server answers {answer.status_code} when asked for a workitem")
        said = next((str(item.get("ProcedureStepState", "")) for item in _datasets(answer)), "")
        for state in _STATES:
            if said == state:
                return state
        raise Away("the worklist server does not say the state of a workitem")

    def change(self, uid: str, item: Dataset) -> bool:
        """Change the state of a step; False where the server refuses."""
        answer = self._ask("PUT", f"/workitems/{uid}/state", body=item)
        if answer.status_code in (404, 405):  # dcm4chee-arc wants to know who asks, in the path
            answer = self._ask("PUT", f"/workitems/{uid}/state/{self._site.config.ae_title}", body=item)
        return answer.is_success

    def update(self, uid: str, item: Dataset) -> bool:
        """Say more of a step; False where the server refuses."""
        # the lock stands in the dataset (CC.2.5-3) and, as the web service has it, in the query
        query = {"transaction-uid": str(item.TransactionUID)}
        return self._ask("POST", f"/workitems/{uid}", params=query, body=item).is_success

    def _ask(
        self, method: str, path: str, params: dict[str, str] | None = None, body: Dataset | None = None
    ) -> httpx.Response:
        headers = {"Accept": _JSON} | ({"Content-Type": _JSON} if body is not None else {})
        content = json.dumps([body.to_json_dict()]) if body is not None else None
        url = self._site.config.ups.url.rstrip("/") + path
        try:
            answer = self._opened().request(method, url, params=params, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise Away("the worklist server cannot be reached") from error
        if answer.status_code in _NOT_NOW or answer.status_code >= 500:
            raise Away(f"the worklist server answers {answer.status_code}")
        return answer

    def _opened(self) -> httpx.Client:
        if self._client is None:
            token = self._site.secrets / TOKEN
            headers = {"Authorization": f"Bearer {token.read_text().strip()}"} if token.exists() else {}
            # what stands in the environment about proxies is not the hospital's allow-list
            verify = client_tls(self._site) or True
            self._client = httpx.Client(timeout=self._timeout, verify=verify, trust_env=False, headers=headers)
        return self._client


def _datasets(answer: httpx.Response) -> list[Dataset]:
    try:
        said: Any = answer.json()
        return [Dataset.from_json(item) for item in (said if isinstance(said, list) else [said])]
    except (*MALFORMED, RecursionError) as error:
        raise Away("the worklist server answers with what is no dataset") from error
