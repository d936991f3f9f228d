"""A worklist server for tests, written from the standard (PS3.18 11, PS3.4 CC.1.1 and CC.2): states, locks, refusals.

No UPS-RS server could be had as a peer (Orthanc has none, dcm4chee-arc is not packaged), so this one stands in for it:
a reading of the same text by the same people, which is second best and would share a misreading. It is strict where
the standard is: what a client may not do is refused, not forgiven.

`outage`: what it answers to everything while set. `deaf`: counts down requests that are carried out and never answered.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pydicom.dataset import Dataset

FINAL = ("COMPLETED", "CANCELED")


class UpsServer:
    """Runs on a free port until closed: `url`, `items` by UID, `log` of (method, path, status)."""

    def __init__(self) -> None:
        self.items: dict[str, Dataset] = {}
        self.locks: dict[str, str] = {}
        self.log: list[tuple[str, str, int]] = []
        self.outage: int | None = None
        self.deaf = 0
        self.token = ""
        self.history: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                return

            def do_GET(self) -> None:
                self._answer()

            do_POST = do_PUT = do_GET

            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with outer._lock:
                    if outer.outage is not None:
                        status, said, headers = outer.outage, None, {}
                    elif outer.token and self.headers.get("Authorization") != f"Bearer {outer.token}":
                        status, said, headers = 401, None, {}
                    else:
                        status, said, headers = outer._handle(self.command, self.path, body)
                    outer.log.append((self.command, urlsplit(self.path).path, status))
                    if outer.deaf > 0 and self.command != "GET":
                        outer.deaf -= 1
                        self.close_connection = True
                        return  # carried out, and the answer is lost
                content = json.dumps(said).encode() if said is not None else b""
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/dicom+json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/rs"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def schedule(self, uid: str, study_uid: str, station: str) -> None:
        """A step that somebody else has put into the worklist."""
        item = Dataset()
        item.SOPInstanceUID = uid
        item.ProcedureStepState = "SCHEDULED"
        code, source = Dataset(), Dataset()
        code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = station, "99TEST", station
        source.StudyInstanceUID = study_uid
        item.ScheduledStationNameCodeSequence = [code]
        item.InputInformationSequence = [source]
        self.items[uid] = item

    def put(self, uid: str, state: str, lock: str = "2.25.1") -> None:
        """Somebody else changes a step's state."""
        self.items[uid].ProcedureStepState = state
        self.locks[uid] = lock

    def state(self, uid: str) -> str:
        return str(self.items[uid].ProcedureStepState) if uid in self.items else "GONE"

    def _handle(self, method: str, target: str, body: bytes) -> tuple[int, Any, dict[str, str]]:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        path = parts.path.removeprefix("/rs").strip("/").split("/")
        if path[0] != "workitems":
            return 404, None, {}
        sent = None
        if method != "GET":
            given = json.loads(body)
            if not isinstance(given, list) or len(given) != 1:
                return 400, None, {}
            sent = Dataset.from_json(given[0])
        match method, path[1:]:
            case "GET", []:
                return self._search(query)
            case "POST", [] if sent is not None:
                return self._create(query, sent)
            case "GET", [uid]:
                return (200, [self.items[uid].to_json_dict()], {}) if uid in self.items else (404, None, {})
            case "POST", [uid] if sent is not None:
                return self._update(uid, query, sent)
            case "PUT", [uid, "state"] if sent is not None:
                return self._change(uid, sent)
            case _:
                return 404, None, {}

    def _search(self, query: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        found = []
        for item in self.items.values():
            if item.ProcedureStepState != query.get("ProcedureStepState", item.ProcedureStepState):
                continue
            stations = [code.CodeValue for code in item.ScheduledStationNameCodeSequence]
            if query.get("ScheduledStationNameCodeSequence.CodeValue", stations[0]) in stations:
                found.append(item)
        first, most = int(query.get("offset", 0)), int(query.get("limit", 1000))
        page = [item.to_json_dict() for item in found[first : first + most]]
        return (200, page, {}) if page else (204, None, {})

    def _create(self, query: dict[str, str], sent: Dataset) -> tuple[int, Any, dict[str, str]]:
        uid = query.get("workitem", "")
        if not uid or sent.get("ProcedureStepState") != "SCHEDULED" or sent.get("TransactionUID"):
            return 400, None, {}
        needed = (
            "ScheduledProcedureStepPriority", "ProcedureStepLabel", "WorklistLabel", "InputReadinessState",
            "ScheduledProcedureStepStartDateTime",
        )  # fmt: skip
        if not all(sent.get(keyword) for keyword in needed) or "PatientName" not in sent:
            return 400, None, {}
        if uid in self.items:
            return 409, None, {}
        self.items[uid] = sent
        self.history.append((uid, "SCHEDULED"))
        return 201, None, {"Location": f"{self.url}/workitems/{uid}"}

    def _update(self, uid: str, query: dict[str, str], sent: Dataset) -> tuple[int, Any, dict[str, str]]:
        if uid not in self.items:
            return 404, None, {}
        item = self.items[uid]
        lock = sent.get("TransactionUID") or query.get("transaction-uid", "")
        if item.ProcedureStepState in FINAL or (
            item.ProcedureStepState == "IN PROGRESS" and lock != self.locks.get(uid)
        ):
            return 409, None, {"Warning": "299 test: The Transaction UID is incorrect."}
        if "ProcedureStepState" in sent:
            return 400, None, {}
        for element in sent:
            if element.keyword != "TransactionUID":
                item[element.tag] = element
        return 200, None, {}

    def _change(self, uid: str, sent: Dataset) -> tuple[int, Any, dict[str, str]]:
        if uid not in self.items:
            return 404, None, {}
        item, wanted, lock = self.items[uid], str(sent.get("ProcedureStepState", "")), sent.get("TransactionUID")
        now = str(item.ProcedureStepState)
        if not lock or wanted not in ("IN PROGRESS", *FINAL):
            return 400, None, {}
        if now in FINAL:
            # twice the same is told, not refused
            return (200 if now == wanted else 409), None, {"Warning": f"299 test: The UPS is already in state {now}"}
        if now == "SCHEDULED":
            if wanted != "IN PROGRESS":
                return 409, None, {}
            self.locks[uid] = str(lock)
        elif lock != self.locks[uid] or wanted == "IN PROGRESS" or not self._complete(item, wanted):
            return 409, None, {}
        item.ProcedureStepState = wanted
        self.history.append((uid, wanted))
        return 200, None, {}

    @staticmethod
    def _complete(item: Dataset, wanted: str) -> bool:
        """Final state requirements (PS3.4 CC.2.5.1.1)."""
        performed = (item.get("UnifiedProcedureStepPerformedProcedureSequence") or [Dataset()])[0]
        told = (item.get("ProcedureStepProgressInformationSequence") or [Dataset()])[0]
        if wanted == "CANCELED":
            return bool(told.get("ProcedureStepDiscontinuationReasonCodeSequence"))
        needed = (
            "PerformedStationNameCodeSequence", "PerformedProcedureStepStartDateTime",
            "PerformedProcedureStepEndDateTime", "OutputInformationSequence",
        )  # fmt: skip
        return all(performed.get(keyword) for keyword in needed)
