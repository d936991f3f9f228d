"""Results by STOW-RS: all of them, with an answer for each; one that is refused holds up no other."""

import json
import subprocess
import threading
import urllib.request
from collections.abc import Callable, Iterator
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pydicom
import pytest
from sqlalchemy import select

from client.delivery.sender import Pace, Sender
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery
from configs.schema import PeerConfig
from models.children import free_port

pytestmark = pytest.mark.integration
FAST = Pace(first=0.05, longest=0.2, poll=0.05, answer=5.0)
Scored = Callable[..., str]
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


@pytest.fixture
def sender(site: Site) -> Iterator[Callable[..., Sender]]:
    started: list[Sender] = []

    def start(url: str, **settings: Any) -> Sender:
        site.config.pacs = PeerConfig("127.0.0.1", 4242, "PACS", stow_url=url)
        made = Sender(site, **({"pace": FAST} | settings))
        started.append(made)
        made.start()
        return made

    yield start
    for made in started:
        made.stop()


def states(site: Site) -> list[tuple[str, str]]:
    with site.database.read() as connection:
        return [(row.state, row.problem) for row in connection.execute(select(delivery).order_by(delivery.c.kind))]


def native(attributes: dict[str, Any]) -> bytes:
    """A DICOM JSON object as PS3.19 A.1 writes it."""
    model = ET.Element("NativeDicomModel", xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM")

    def write(parent: ET.Element, said: dict[str, Any]) -> None:
        for tag, content in said.items():
            element = ET.SubElement(parent, "DicomAttribute", tag=tag, vr=content["vr"])
            for number, value in enumerate(content["Value"], 1):
                one = ET.SubElement(element, "Item" if content["vr"] == "SQ" else "Value", number=str(number))
                if content["vr"] == "SQ":
                    write(one, value)
                else:
                    one.text = str(value)

    write(model, attributes)
    return ET.tostring(model)


class Server:
    """A STOW-RS origin server that answers as told and remembers what it got."""

    def __init__(self) -> None:
        self.status = 200
        self.says: tuple[str, bytes] | None = None
        self.xml = False
        self.hangs_on: set[str] = set()
        self.most = 0  # bytes of a request, beyond which there is a 413
        self.later = False  # and it says when to come again
        self.mended = threading.Event()
        self.refuses: dict[str, int] = {}
        self.warns: dict[str, int] = {}
        self.got: list[str] = []
        self.posts = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.posts += 1
                status, answer = outer.answer(self.headers["Content-Type"], body)
                kind = "application/dicom+json"
                if outer.says:
                    status, (kind, answer) = 200, outer.says
                self.send_response(status)
                self.send_header("Content-Type", kind)
                if status == 413 and outer.later:
                    self.send_header("Retry-After", "1")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/dicom-web"

    def answer(self, kind: str, body: bytes) -> tuple[int, bytes]:
        if self.status != 200:
            return self.status, b""
        if self.most and len(body) > self.most:
            return 413, b"<html>Request Entity Too Large</html>"
        message = BytesParser().parsebytes(f"Content-Type: {kind}\r\n\r\n".encode() + body)
        kept: list[Any] = []
        lost: list[Any] = []
        for part in message.get_payload():
            uid = str(pydicom.dcmread(BytesIO(part.get_payload(decode=True))).SOPInstanceUID)
            item: dict[str, Any] = {"00081155": {"vr": "UI", "Value": [uid]}}
            if uid in self.hangs_on:
                self.mended.wait(20)
            if uid in self.refuses:
                lost.append(item | {"00081197": {"vr": "US", "Value": [self.refuses[uid]]}})
                continue
            self.got.append(uid)
            if uid in self.warns:
                item |= {"00081196": {"vr": "US", "Value": [self.warns[uid]]}}
            kept.append(item)
        said = {"00081199": {"vr": "SQ", "Value": kept}, "00081198": {"vr": "SQ", "Value": lost}}
        return (202 if lost else 200), native(said) if self.xml else json.dumps(said).encode()

    def close(self) -> None:
        self.mended.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_of_many_in_one_request_only_the_refused_one_is_put_aside(
    site: Site, scored: Scored, sender: Callable[..., Sender], server: Server, eventually: Callable[..., Any]
) -> None:
    for _ in range(5):
        scored(objects=True)
    with site.database.read() as connection:
        uids = list(connection.execute(select(delivery.c.sop_uid)).scalars())
    server.refuses[uids[0]], server.warns[uids[1]] = 0xC000, 0xB000
    sender(server.url, max_attempts=2)
    eventually(lambda: sorted(state for state, _ in states(site)) == ["failed"] + ["sent"] * 9)
    assert {problem for _, problem in states(site)} == {"", "status C000", "warning B000"}
    assert sorted(server.got) == sorted(uids[1:])
    assert server.posts <= 4


def test_what_is_too_large_for_the_pacs_is_put_aside_at_once_and_costs_no_other_an_attempt(
    site: Site, scored: Scored, sender: Callable[..., Sender], server: Server, eventually: Callable[..., Any]
) -> None:
    for _ in range(3):
        scored(objects=True)
    with site.database.read() as connection:
        rows = connection.execute(select(delivery)).all()
    sizes = sorted((Archive(site.archive).path(row.sha256).stat().st_size, row.sop_uid) for row in rows)
    assert sizes[-1][0] > sizes[0][0] + 1000  # the picture, and the report
    server.most = sizes[0][0] + 1000
    sender(server.url)
    eventually(lambda: sorted(state for state, _ in states(site)) == ["failed"] * 3 + ["sent"] * 3)
    with site.database.read() as connection:
        assert {row.attempts for row in connection.execute(select(delivery))} == {1}
    assert {problem for state, problem in states(site) if state == "failed"} == {
        "too large for the PACS: STOW-RS status 413"
    }


def test_a_pacs_that_says_when_to_come_again_with_what_is_too_large_is_asked_again(
    site: Site, scored: Scored, sender: Callable[..., Sender], server: Server, eventually: Callable[..., Any]
) -> None:
    scored(objects=True)
    server.most, server.later = 10, True
    sender(server.url)
    eventually(lambda: server.posts >= 4)
    server.most = 0
    eventually(lambda: {state for state, _ in states(site)} == {"sent"})


@pytest.mark.parametrize("status", [503, 401, 302, 429, 500, 502, 504, 507])
def test_a_server_that_cannot_just_now_costs_no_attempt(
    site: Site,
    scored: Scored,
    sender: Callable[..., Sender],
    server: Server,
    eventually: Callable[..., Any],
    status: int,
) -> None:
    scored(objects=True)
    server.status = status
    sender(server.url, max_attempts=2)
    eventually(lambda: server.posts >= 4)
    assert {state for state, _ in states(site)} == {"pending"}
    assert str(status) in states(site)[0][1]
    server.status = 200
    eventually(lambda: {state for state, _ in states(site)} == {"sent"})


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html", b"<html>Please sign in</html>"),
        ("text/html", b"<!DOCTYPE html><html><body>Please sign in<br></body></html>"),
        ("application/dicom+json", b"{}"),
        ("application/dicom+json", b""),
        ("application/dicom+json", b'{"00081199": {"vr": "SQ", "Value": [{"00081155": {"Value": ["1.2.3"]}}]}}'),
        ("application/dicom+xml", b"<NativeDicomModel/>"),
    ],
)
def test_what_no_answer_says_is_stored_is_not_sent(
    site: Site,
    scored: Scored,
    sender: Callable[..., Sender],
    server: Server,
    eventually: Callable[..., Any],
    kind: str,
    body: bytes,
) -> None:
    scored(objects=True)
    server.says = kind, body
    sender(server.url, max_attempts=2)
    eventually(lambda: server.posts >= 4)
    assert {state for state, _ in states(site)} == {"pending"}
    assert "200, and does not say what it has stored" in states(site)[0][1]
    server.says = None
    eventually(lambda: {state for state, _ in states(site)} == {"sent"})


def test_an_object_that_the_server_has_no_room_for_costs_no_attempt_and_holds_up_no_other(
    site: Site, scored: Scored, sender: Callable[..., Sender], server: Server, eventually: Callable[..., Any]
) -> None:
    scored(objects=True)
    with site.database.read() as connection:
        (large,) = connection.execute(select(delivery.c.sop_uid).where(delivery.c.kind == "sc")).scalars()
    server.refuses[large] = 0xA700
    sender(server.url, max_attempts=2)
    eventually(lambda: server.posts >= 5)
    problem = "the PACS cannot take it just now: status A700"
    assert sorted(states(site)) == [("pending", problem), ("sent", "")]
    server.refuses.clear()
    eventually(lambda: {state for state, _ in states(site)} == {"sent"})


def test_of_many_in_one_request_the_one_that_hangs_the_server_is_found(
    site: Site, scored: Scored, sender: Callable[..., Sender], server: Server, eventually: Callable[..., Any]
) -> None:
    for _ in range(3):
        scored(objects=True)
    with site.database.read() as connection:
        rows = connection.execute(select(delivery).where(delivery.c.kind == "sr")).all()
    server.hangs_on.add(rows[1].sop_uid)
    sender(server.url, pace=Pace(first=0.05, longest=0.2, poll=0.05, answer=0.4))
    eventually(lambda: sorted(state for state, _ in states(site)) == ["pending"] + ["sent"] * 5)
    with site.database.read() as connection:
        hanging = connection.execute(select(delivery.c.sop_uid).where(delivery.c.state == "pending")).scalar_one()
    assert hanging == rows[1].sop_uid
    server.hangs_on.clear()
    eventually(lambda: {state for state, _ in states(site)} == {"sent"})


def test_an_answer_in_xml_counts(
    site: Site, scored: Scored, sender: Callable[..., Sender], server: Server, eventually: Callable[..., Any]
) -> None:
    scored(objects=True)
    scored(objects=True)
    with site.database.read() as connection:
        uids = list(connection.execute(select(delivery.c.sop_uid)).scalars())
    server.xml, server.refuses[uids[0]], server.warns[uids[1]] = True, 0xC000, 0xB000
    sender(server.url, max_attempts=2)
    eventually(lambda: sorted(state for state, _ in states(site)) == ["failed"] + ["sent"] * 3)
    assert {problem for _, problem in states(site)} == {"", "status C000", "warning B000"}


def test_a_bad_request_is_an_objects_fault_one_by_one(
    site: Site, scored: Scored, sender: Callable[..., Sender], server: Server, eventually: Callable[..., Any]
) -> None:
    scored(objects=True)
    server.status = 400
    sender(server.url, max_attempts=2)
    eventually(lambda: states(site) == [("failed", "STOW-RS status 400")] * 2)


@pytest.mark.peers("Orthanc")
@pytest.mark.skipif(not PLUGIN.exists(), reason="Orthanc's DICOMweb plugin is not installed: scripts/install --peers")
def test_orthanc_keeps_what_is_stored_over_the_web_also_after_it_was_down(
    site: Site, scored: Scored, sender: Callable[..., Sender], tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    port, http = free_port(), free_port()
    settings = {
        "StorageDirectory": str(tmp_path / "storage"),
        "IndexDirectory": str(tmp_path / "storage"),
        "DicomPort": port,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(PLUGIN)],
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(settings))
    for _ in range(3):
        scored(objects=True)
    sender(f"http://127.0.0.1:{http}/dicom-web")
    eventually(lambda: any("cannot be reached" in problem for _, problem in states(site)))
    process = subprocess.Popen(
        ["/usr/sbin/Orthanc", str(tmp_path / "orthanc.json")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        eventually(lambda: {state for state, _ in states(site)} == {"sent"})
        with urllib.request.urlopen(f"http://127.0.0.1:{http}/statistics", timeout=5) as answer:
            assert json.load(answer)["CountInstances"] == 6
    finally:
        process.terminate()
        process.wait(20)
