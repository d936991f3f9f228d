"""The hospital's HTTP interface: who may do what, what is refused and how, and that nothing is said to strangers."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from cost import relative
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from full import no_room
from sqlalchemy import insert, select, update
from typer.testing import CliRunner

from client.federation import withdrawal
from client.review import pages, readers, worklist
from client.store import versions
from client.store.site import Site
from client.store.tables import delivery, outcome, patient, study
from models.exchange import Withdrawal
from models.withdrawal import Notice, sign
from scripts.vigie import app

Scored = Callable[..., str]
AGREE = {"revision": 1, "decision": "agree", "answer": "positive", "tier": "ai_visible"}
CORRECT = AGREE | {"decision": "correct", "answer": "negative", "reason": "subtle"}
REJECT = AGREE | {"decision": "reject", "answer": "not_assessable", "reason": "image_quality"}


@pytest.fixture
def http(served: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served, timeout=60) as client:
        yield client


@pytest.fixture
def as_role(site: Site) -> Callable[[str], dict[str, str]]:
    def header(role: str, name: str = "") -> dict[str, str]:
        return {"Authorization": f"Bearer {readers.add(site, name or f'{role} person', role)}"}

    return header


def fail(site: Site, uid: str, state: str = "failed") -> None:
    with site.database.write() as connection:
        connection.execute(update(study).where(study.c.uid == uid).values(state=state))
        connection.execute(
            update(outcome)
            .where(outcome.c.study_uid == uid)
            .values(kind=state, reasons=[{"code": "crashed", "text": "the process ended"}], score=None, positive=None)
        )


def test_health_is_open_and_says_nothing_of_patients(http: httpx.Client, scored: Scored) -> None:
    scored()
    assert http.get("/api/health").json() == {"status": "ok"}


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer nobody"}, {"Authorization": "Basic YTpi"}])
def test_strangers_get_nothing(http: httpx.Client, scored: Scored, header: dict[str, str]) -> None:
    uid = scored(objects=True)
    paths = ["/api/studies", f"/api/studies/{uid}", f"/api/studies/{uid}/heatmap.png", "/api/errors", "/api/versions"]
    for path in [*paths, "/api/deliveries"]:
        answer = http.get(path, headers=header)
        assert answer.status_code == 401, path
        assert answer.json()["code"] == "not-signed-in"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in (f"/api/studies/{uid}/verdicts", f"/api/studies/{uid}/retry", "/api/objections"):
        assert http.post(path, headers=header, json=AGREE).status_code == 401, path


def test_every_route_but_health_wants_a_token(http: httpx.Client) -> None:
    paths = http.get("/api/openapi.json").json()["paths"]
    for path, operations in paths.items():
        for method in operations:
            status = http.request(method, re.sub(r"\{.*?\}", "1.2.3", path)).status_code
            assert status == (200 if path == "/api/health" else 401), f"{method} {path}"


@pytest.mark.parametrize(
    ("role", "verdict", "retry", "objection", "errors"),
    [("clinician", 404, 403, 200, 200), ("it", 403, 404, 403, 403), ("operator", 403, 404, 200, 200)],
)
def test_each_role_may_do_its_own(
    http: httpx.Client, as_role: Any, role: str, verdict: int, retry: int, objection: int, errors: int
) -> None:
    header = as_role(role)
    assert http.post("/api/studies/1.2.3/verdicts", headers=header, json=AGREE).status_code == verdict
    assert http.post("/api/studies/1.2.3/retry", headers=header).status_code == retry
    assert http.post("/api/deliveries/1.2.3/resend", headers=header).status_code == retry
    assert http.post("/api/objections", headers=header, json={"patient_id": "P"}).status_code == objection
    assert http.get("/api/errors", headers=header).status_code == errors


def test_the_most_urgent_comes_first(http: httpx.Client, as_role: Any, scored: Scored) -> None:
    header = as_role("clinician")
    old_negative = scored(score=0.4, received_at=1.0)
    new_negative = scored(score=0.1, received_at=2.0)
    weak = scored(score=0.6, received_at=0.0)
    strong = scored(score=0.95, received_at=3.0)
    expected = [strong, weak, old_negative, new_negative]
    listed = http.get("/api/studies", headers=header).json()
    assert [line["uid"] for line in listed] == expected
    paged: list[str] = []
    while len(
        page := http.get(
            "/api/studies", headers=header, params={"limit": 3, "after": paged[-1] if paged else ""}
        ).json()
    ):
        paged += [line["uid"] for line in page]
    assert paged == expected


def test_search_takes_its_text_as_it_is(http: httpx.Client, as_role: Any, scored: Scored) -> None:
    header = as_role("clinician")
    uid = scored(patient_id="A_1", accession="ACC-7")
    scored(patient_id="AX1")
    for text in ("A_1", "ACC-7", uid[:30]):
        assert [line["uid"] for line in http.get("/api/studies", headers=header, params={"q": text}).json()] == [uid]
    assert http.get("/api/studies", headers=header, params={"q": "%"}).json() == []


def test_status_follows_the_verdicts(http: httpx.Client, as_role: Any, scored: Scored) -> None:
    ada, grace = as_role("clinician", "Ada"), as_role("clinician", "Grace")
    uid = scored(objects=True)

    def status() -> str:
        found = http.get(f"/api/studies/{uid}", headers=ada).json()["status"]
        assert [line["uid"] for line in http.get("/api/studies", headers=ada, params={"state": found}).json()] == [uid]
        return found

    assert status() == "unverified"
    assert http.post(f"/api/studies/{uid}/verdicts", headers=ada, json=AGREE).status_code == 200
    assert status() == "verified"
    assert http.post(f"/api/studies/{uid}/verdicts", headers=grace, json=REJECT).status_code == 200
    assert status() == "withdrawn"
    assert http.post(f"/api/studies/{uid}/verdicts", headers=grace, json=CORRECT).status_code == 200
    detail = http.get(f"/api/studies/{uid}", headers=ada).json()
    assert (detail["status"], detail["verified_by"]) == ("verified", "Grace")
    assert [given["decision"] for given in detail["verdicts"]] == ["agree", "reject", "correct"]
    assert sorted(item["kind"] for item in detail["deliveries"]) == ["kos", "sc", "sr", "verified", "verified"]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (AGREE | {"answer": "negative"}, 422, "invalid-verdict"),
        (CORRECT | {"reason": None}, 422, "invalid-verdict"),
        (AGREE | {"tier": "single_reader", "mode": "ai_first"}, 422, "invalid-verdict"),
        (AGREE | {"reader": "somebody else"}, 422, "invalid-request"),
        (AGREE | {"tier": "gut_feeling"}, 422, "invalid-request"),
        ({"decision": "agree"}, 422, "invalid-request"),
        (AGREE | {"revision": 2}, 409, "conflict"),
    ],
)
def test_refusals_say_what_is_wrong(
    http: httpx.Client, as_role: Any, scored: Scored, body: dict[str, Any], status: int, code: str
) -> None:
    answer = http.post(f"/api/studies/{scored()}/verdicts", headers=as_role("clinician"), json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == {"code", "message"}


def test_a_form_is_not_taken_for_json(http: httpx.Client, as_role: Any, scored: Scored) -> None:
    headers = as_role("clinician") | {"Content-Type": "text/plain"}
    body = '{"revision":1,"decision":"agree","answer":"positive","tier":"ai_visible"}'
    assert http.post(f"/api/studies/{scored()}/verdicts", headers=headers, content=body).status_code == 422


def test_the_same_verdict_twice_is_one(http: httpx.Client, as_role: Any, scored: Scored) -> None:
    header, uid = as_role("clinician"), scored()
    first = http.post(f"/api/studies/{uid}/verdicts", headers=header, json=AGREE).json()
    assert http.post(f"/api/studies/{uid}/verdicts", headers=header, json=AGREE).json() == first


def test_the_map_is_a_picture(http: httpx.Client, as_role: Any, scored: Scored) -> None:
    header = as_role("clinician")
    answer = http.get(f"/api/studies/{scored(objects=True)}/heatmap.png", headers=header)
    assert answer.headers["content-type"] == "image/png"
    assert answer.content.startswith(b"\x89PNG")
    assert answer.headers["cache-control"] == "no-store"
    assert http.get(f"/api/studies/{scored()}/heatmap.png", headers=header).status_code == 404


def test_errors_and_objections(http: httpx.Client, as_role: Any, scored: Scored) -> None:
    header, uid = as_role("clinician"), scored(patient_id="P1", issuer="H")
    http.post(f"/api/studies/{uid}/verdicts", headers=header, json=CORRECT)
    concerned = http.post("/api/objections", headers=header, json={"patient_id": "p1 ", "issuer": "H"})
    assert concerned.json() == {"patients": 1, "studies": 1}
    nobody = http.post("/api/objections", headers=header, json={"patient_id": "x"})
    assert nobody.json() == {"patients": 0, "studies": 0}
    found = http.get("/api/errors", headers=header).json()
    assert [(error["study_uid"], error["kind"], error["objects"]) for error in found["errors"]] == [
        (uid, "false_positive", True)
    ]
    assert found["tallies"][0]["false_positive"] == 1
    take_back = {"patient_id": "P1", "issuer": "H"}
    assert http.request("DELETE", "/api/objections", headers=header, json=take_back).status_code == 204
    assert http.get("/api/errors", headers=header).json()["errors"][0]["objects"] is False
    unknown = http.request("DELETE", "/api/objections", headers=header, json={"patient_id": "nobody"})
    assert unknown.status_code == 404


def test_a_failed_study_is_tried_again(http: httpx.Client, as_role: Any, site: Site, scored: Scored) -> None:
    header, uid = as_role("it"), scored()
    assert http.post(f"/api/studies/{uid}/retry", headers=header).status_code == 409
    fail(site, uid)
    [line] = http.get("/api/studies", headers=header, params={"state": "failed"}).json()
    assert line["reasons"] == [{"code": "crashed", "text": "the process ended"}]
    assert http.post(f"/api/studies/{uid}/retry", headers=header).status_code == 204
    assert http.get(f"/api/studies/{uid}", headers=header).json()["status"] == "queued"


def test_a_failed_delivery_is_sent_again(http: httpx.Client, as_role: Any, site: Site, scored: Scored) -> None:
    header, uid = as_role("it"), scored(objects=True)
    with site.database.write() as connection:
        connection.execute(
            update(delivery).where(delivery.c.kind == "sr").values(state="failed", problem="status A700")
        )
    [found] = http.get("/api/deliveries", headers=header).json()
    assert (found["study_uid"], found["kind"], found["problem"]) == (uid, "sr", "status A700")
    assert http.post(f"/api/deliveries/{found['sop_uid']}/resend", headers=header).status_code == 204
    assert http.get("/api/deliveries", headers=header).json() == []
    assert http.post(f"/api/deliveries/{found['sop_uid']}/resend", headers=header).status_code == 409


def test_versions(http: httpx.Client, as_role: Any) -> None:
    [found] = http.get("/api/versions", headers=as_role("it")).json()
    assert (found["name"], found["number"], found["state"]) == ("brightness", 1, "adopted")


def sign_in(http: httpx.Client, site: Site, role: str = "clinician", name: str = "Ada Lovelace") -> str:
    token = readers.add(site, name, role)
    answer = http.post("/login", data={"token": token})
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert token not in cookie
    return token


def form_of(page: str) -> dict[str, str]:
    return {"csrf": re.findall(r'name="csrf" value="(\w+)"', page)[0], "revision": "1", "tier": "ai_visible"}


def test_pages_lead_strangers_to_the_login(http: httpx.Client, scored: Scored) -> None:
    uid = scored(objects=True)
    for path in ("/", f"/studies/{uid}", f"/studies/{uid}/heatmap.png", f"/studies/{uid}/image.png"):
        answer = http.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login"), path
    assert http.post("/login", data={"token": "guess"}).status_code == 401
    http.cookies.set("vigie", f"{'0' * 64}.9999999999.{'0' * 64}")
    assert http.get("/").status_code == 303
    http.cookies.set("vigie", "x.y.z")
    assert http.get("/").status_code == 303


def test_a_verdict_by_form_needs_this_session_s_token(http: httpx.Client, site: Site, scored: Scored) -> None:
    uid = scored(objects=True)
    sign_in(http, site)
    page = http.get(f"/studies/{uid}").text
    form = form_of(page) | {"decision": "agree"}
    assert http.post(f"/studies/{uid}/verdict", data=form | {"csrf": "0" * 64}).status_code == 403
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert http.post(f"/studies/{uid}/verdict", data=form, headers=elsewhere).status_code == 403
    assert http.post(f"/studies/{uid}/verdict", data=form).status_code == 303
    assert "verified" in http.get(f"/studies/{uid}").text
    # a session is no bearer token: nothing a browser sends by itself opens the interface for programs
    assert http.get("/api/studies").status_code == 401


def test_a_renewed_token_ends_the_session(http: httpx.Client, site: Site) -> None:
    sign_in(http, site)
    assert http.get("/").status_code == 200
    readers.renew(site, "Ada Lovelace")
    assert http.get("/").status_code == 303


def test_hospital_it_gives_another_token_and_shuts_people_out(http: httpx.Client, site: Site, scored: Scored) -> None:
    def command(*words: str) -> str:
        said = CliRunner().invoke(app, ["site", *words, "--folder", str(site.folder)])
        assert said.exit_code == 0, said.output
        return said.output

    uid = scored(objects=True)
    first = sign_in(http, site)
    form = form_of(http.get(f"/studies/{uid}").text) | {"decision": "agree"}
    assert http.post(f"/studies/{uid}/verdict", data=form).status_code == 303
    second = command("reader", "Ada Lovelace", "--renew").strip()
    assert http.get("/").status_code == 303  # the session of a token that was lost, say
    for token, status in ((first, 401), (second, 200)):
        assert http.get("/api/studies", headers={"Authorization": f"Bearer {token}"}).status_code == status
    assert "Ada Lovelace" in command("readers")
    http.post("/login", data={"token": second})
    command("reader", "Ada Lovelace", "--remove")
    assert http.get("/").status_code == 303
    assert http.get("/api/studies", headers={"Authorization": f"Bearer {second}"}).status_code == 401
    assert "Ada Lovelace" not in command("readers")
    [given] = worklist.one(site, uid).verdicts  # what was said stays, and by whom
    assert given.reader == "Ada Lovelace"


def test_a_session_ends_and_what_is_entered_after_it_is_said_not_to_be_kept(
    http: httpx.Client, site: Site, scored: Scored, monkeypatch: pytest.MonkeyPatch
) -> None:
    uid = scored(objects=True)
    monkeypatch.setattr(pages, "_HOURS", -1)
    token = readers.add(site, "Ada Lovelace", "clinician")
    over = http.post("/login", data={"token": token}).headers["set-cookie"]
    http.cookies.set("vigie", over.partition("=")[2].partition(";")[0])
    assert http.get("/").headers["location"] == "/login"
    assert "not kept" not in http.get("/login").text
    form = {"csrf": "0", "revision": "1", "tier": "ai_visible", "decision": "agree"}
    answer = http.post(f"/studies/{uid}/verdict", data=form)
    assert answer.status_code == 303
    assert "was not kept" in http.get(answer.headers["location"]).text
    assert worklist.one(site, uid).verdicts == ()


def test_a_verdict_for_which_there_is_no_room_is_said_not_to_be_kept(
    http: httpx.Client, site: Site, scored: Scored
) -> None:
    uid = scored(objects=True)
    token = sign_in(http, site)
    form = form_of(http.get(f"/studies/{uid}").text) | {"decision": "agree"}
    bearer = {"Authorization": f"Bearer {token}"}
    with no_room():
        page = http.post(f"/studies/{uid}/verdict", data=form)
        answer = http.post(f"/api/studies/{uid}/verdicts", json=AGREE, headers=bearer)
    assert (page.status_code, answer.status_code, answer.json()["code"]) == (507, 507, "no-room")
    assert "nothing was kept" in page.text
    assert worklist.one(site, uid).verdicts == ()
    assert http.post(f"/studies/{uid}/verdict", data=form).status_code == 303
    assert len(worklist.one(site, uid).verdicts) == 1


def test_a_device_opens_no_session(http: httpx.Client, site: Site) -> None:
    answer = http.post("/login", data={"token": readers.add(site, "CT-1", "device")})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert "a device" in answer.text


@pytest.mark.parametrize("short", ["disk-full", "queue-full"])
def test_that_images_are_refused_is_said_to_whoever_is_signed_in_and_to_what_watches(
    http: httpx.Client, site: Site, scored: Scored, short: str
) -> None:
    uid = scored()
    sign_in(http, site)
    assert "refused, for" not in http.get("/").text
    if short == "disk-full":
        site.config.reserve_mib = 1 << 40
    else:
        site.config.most_waiting = 1
        with site.database.write() as connection:
            connection.execute(update(study).values(state="queued"))
    for path in ("/", f"/studies/{uid}", "/deliveries", "/missed"):
        assert "refused, for" in http.get(path).text, path
    assert "refused, for" not in http.get("/login").text
    answer = http.get("/api/health")  # what restarts nodes that do not answer leaves this one alone
    assert (answer.status_code, answer.json()) == (200, {"status": short})


def test_it_sees_no_verdict_form_and_cannot_post_one(http: httpx.Client, site: Site, scored: Scored) -> None:
    uid = scored(objects=True)
    sign_in(http, site, "it", "Ivo")
    assert 'name="csrf"' not in http.get(f"/studies/{uid}").text


def test_what_computed_a_result_is_said_with_it(http: httpx.Client, site: Site, as_role: Any, scored: Scored) -> None:
    uid = scored()
    with site.database.write() as connection:
        connection.execute(update(outcome).values(engine="CPUExecutionProvider", prepared_by="numpy 2.4.6"))
    result = http.get(f"/api/studies/{uid}", headers=as_role("clinician")).json()["result"]
    assert (result["engine"], result["prepared_by"]) == ("CPUExecutionProvider", "numpy 2.4.6")
    sign_in(http, site)
    page = re.sub("<[^>]*>", "", http.get(f"/studies/{uid}").text)
    assert "CPUExecutionProvider pixels prepared by numpy 2.4.6" in page


def test_what_came_with_an_image_is_shown_as_text(http: httpx.Client, site: Site, scored: Scored) -> None:
    uid = scored(patient_id="<script>alert(1)</script>", accession='"><img>')
    sign_in(http, site)
    for path in ("/", f"/studies/{uid}", "/?state=&q=%3Cscript%3E"):
        page = http.get(path)
        assert "<script>alert" not in page.text
        assert '"><img>' not in page.text
        assert "script-src 'self'" in page.headers["content-security-policy"]


def test_who_opens_the_worklist_is_told_what_the_coordinator_withdrew(
    http: httpx.Client, site: Site, bundles: Any
) -> None:
    key = Ed25519PrivateKey.generate()
    bundles.trust(site.trust, key, "coordinator")
    digest = versions.panel(site)[0].digest
    notice = Notice(version=digest, label="brightness@1", reason="<b>films</b> of children", at=1.0).to_bytes()
    order = Withdrawal(notice=notice, signer="coordinator", signature=sign(notice, key))
    sign_in(http, site)
    assert "withdrawn it" not in http.get("/").text

    site.config.consent.withdrawals = "ask"
    withdrawal.answer(site, order)
    assert "goes on here until a person decides" in http.get("/").text
    withdrawal.decide(site, "brightness@1", "kept", "Dr Curie")
    assert "brightness@1" not in http.get("/").text
    withdrawal.decide(site, "brightness@1", "obeyed", "")
    page = http.get("/").text
    assert "brightness@1 has read no study" in page
    assert "&lt;b&gt;films&lt;/b&gt; of children" in page
    withdrawal.see(site, "brightness@1", "Dr Curie")
    assert "brightness@1 has read no study" not in http.get("/").text


def test_a_withdrawal_is_decided_and_noted_on_the_page_by_whom_it_concerns(
    http: httpx.Client, site: Site, bundles: Any, scored: Scored
) -> None:
    uid = scored()
    key = Ed25519PrivateKey.generate()
    bundles.trust(site.trust, key, "coordinator")
    digest = versions.panel(site)[0].digest
    notice = Notice(version=digest, label="brightness@1", reason="films of children", at=1.0).to_bytes()
    site.config.consent.withdrawals = "ask"
    withdrawal.answer(site, Withdrawal(notice=notice, signer="coordinator", signature=sign(notice, key)))

    def state() -> str:
        (found,) = withdrawal.listed(site)
        return f"{found.state} {found.seen_by}".strip()

    sign_in(http, site)  # a clinician reads it, and nothing more
    page = http.get("/").text
    assert "goes on here until a person decides" in page
    assert "/withdrawals/" not in page
    own = {"csrf": form_of(http.get(f"/studies/{uid}").text)["csrf"], "act": "obey"}
    assert http.post(f"/withdrawals/{digest}", data=own).status_code == 403
    assert state() == "waiting"

    http.cookies.clear()
    sign_in(http, site, role="it", name="Grace Hopper")
    token = re.search(r'name="csrf" value="([0-9a-f]+)"', http.get("/").text)
    assert token is not None
    assert http.post(f"/withdrawals/{digest}", data=own).status_code == 403  # of another session
    form = {"csrf": token[1], "act": "obey"}
    assert http.post(f"/withdrawals/{digest}", data={**form, "csrf": "forged"}).status_code == 403
    other = {"sec-fetch-site": "cross-site"}
    assert http.post(f"/withdrawals/{digest}", data=form, headers=other).status_code == 403
    assert http.post(f"/withdrawals/{digest}", data={**form, "act": "forget"}).status_code == 409
    assert http.post(f"/withdrawals/{'0' * 64}", data=form).status_code == 404
    assert state() == "waiting"
    assert http.post(f"/withdrawals/{digest}", data={**form, "act": "keep"}).status_code == 303
    assert state().startswith("kept")
    assert "goes on here until a person decides" not in http.get("/").text
    withdrawal.decide(site, digest, "obeyed", "")
    assert "Taken note" in http.get("/").text
    assert http.post(f"/withdrawals/{digest}", data={**form, "act": "seen"}).status_code == 303
    assert "brightness@1 has read no study" not in http.get("/").text
    assert state() == "obeyed Grace Hopper"
    assert http.post(f"/withdrawals/{digest}", data={**form, "act": "keep"}).status_code == 409  # it is for good


def test_many_studies_are_listed_quickly(http: httpx.Client, site: Site, as_role: Any, scored: Scored) -> None:
    first = scored()
    with site.database.write() as connection:
        key = connection.execute(select(patient.c.key)).scalar_one()
        digest = connection.execute(select(outcome.c.version_digest)).scalar_one()
        rows = range(20_000)
        connection.execute(
            insert(study),
            [
                {
                    "uid": f"1.2.{n}",
                    "patient_key": key,
                    "accession": str(n),
                    "state": "scored",
                    "received_at": float(n),
                    "touched_at": 0.0,
                }
                for n in rows
            ],
        )
        connection.execute(
            insert(outcome),
            [
                {
                    "study_uid": f"1.2.{n}",
                    "revision": 1,
                    "kind": "scored",
                    "reasons": [],
                    "version_digest": digest,
                    "score": n / 40_000,
                    "threshold": 0.5,
                    "positive": False,
                    "input_digest": "0" * 64,
                    "created_at": 0.0,
                }
                for n in rows
            ],
        )
    header = as_role("clinician")
    listed: list[Any] = []

    def asked() -> None:
        params = {"state": "unverified", "limit": 50}
        listed[:] = http.get("/api/studies", headers=header, params=params).json()

    def every_one() -> None:
        with site.database.read() as connection:
            connection.execute(select(study, outcome).join(outcome, outcome.c.study_uid == study.c.uid)).all()

    assert relative(asked, every_one, turns=3) < 1  # a quarter of it
    assert (len(listed), listed[0]["uid"]) == (50, first)


def test_a_study_that_was_read_in_part_is_never_called_negative(http: httpx.Client, site: Site, scored: Scored) -> None:
    part, whole, found = scored(score=0.2, missing=1), scored(score=0.2), scored(score=0.9, missing=1)
    sign_in(http, site)
    listed = re.sub(r"\s+", " ", http.get("/").text)
    for uid, said in ((part, "Not found in what was read"), (whole, "Negative"), (found, "Positive")):
        assert re.search(rf'class="call [a-z]+" href="/studies/{uid}">{said}</a>', listed)
        assert f"AI: {said.lower()}" in http.get(f"/studies/{uid}").text
    assert "fill negative" not in http.get(f"/studies/{part}").text  # nor drawn as an all-clear


def test_a_positive_stays_in_view_when_a_later_image_cannot_be_read(
    http: httpx.Client, as_role: Any, site: Site, scored: Scored
) -> None:
    weaker = scored(score=0.6)
    known, taken_back = scored(score=0.97), scored(score=0.99)
    header = as_role("clinician", "Grace Hopper")
    assert http.post(f"/api/studies/{known}/verdicts", json=AGREE, headers=header).status_code < 300
    assert http.post(f"/api/studies/{taken_back}/verdicts", json=REJECT, headers=header).status_code < 300
    for uid in (known, taken_back):
        with site.database.write() as connection:
            connection.execute(update(study).where(study.c.uid == uid).values(state="refused", revision=2))
            refused = {"kind": "refused", "reasons": [{"code": "truncated", "text": "cut off"}], "created_at": 2.0}
            connection.execute(insert(outcome).values(study_uid=uid, revision=2, **refused))

    listed = http.get("/api/studies", headers=header).json()
    assert [line["uid"] for line in listed] == [known, weaker, taken_back]
    said = listed[0]["earlier"]
    assert "positive, 0.97" in said
    assert "Grace Hopper answered positive" in said
    assert [line["earlier"] for line in listed[1:]] == ["", ""]
    rest = http.get("/api/studies", headers=header, params={"after": known}).json()
    assert [line["uid"] for line in rest] == [weaker, taken_back]
    sign_in(http, site)
    assert "earlier result" in http.get("/", params={"state": "refused"}).text
    assert said in http.get(f"/studies/{known}").text
