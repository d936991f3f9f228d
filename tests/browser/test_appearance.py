"""What the pages look like in every state that they have to show: nothing cut off, nothing too faint, all of it named.

With VIGIE_SCREENSHOTS=FOLDER each page is kept there as a picture at each width.
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from client.federation.withdrawal import listed
from client.inference.study import left_out as told
from client.review import readers
from client.review.recall import take_back
from client.review.verdict import Answer, Decision, TruthTier, record
from client.store import suspensions, versions
from client.store.site import Site
from client.store.tables import alarm, delivery, drift, instance, outcome, study, version, withdrawal
from client.vigilance import incidents
from client.vigilance.deadlines import Severity
from models.withdrawal import Notice

pytestmark = pytest.mark.peers("chromium")
Scored = Callable[..., str]
TRUNCATED = "truncated: 6144 bytes of pixels, 12288 expected"
GRACE = "Grace Brewster Murray Hopper"


def not_read(site: Site, uid: str, state: str, *reasons: str) -> None:
    """As if images had come after the study's result, and it could not be read with them."""
    with site.database.write() as connection:
        connection.execute(update(study).where(study.c.uid == uid).values(state=state, revision=study.c.revision + 1))
        if reasons:
            revision = connection.execute(select(study.c.revision).where(study.c.uid == uid)).scalar_one()
            said = [{"code": "truncated", "text": text} for text in reasons]
            values = {"revision": revision, "kind": state, "reasons": said, "created_at": 1_700_000_100.0}
            connection.execute(insert(outcome).values(study_uid=uid, **values))


def keep_apart(site: Site, uid: str, number: int) -> None:
    """As if images had come under UIDs of others that differ; the result then says so."""
    with site.database.write() as connection:
        for n in range(number):
            facts = {"sop_uid": f"{uid}.{n}", "sha256": f"{n:064}", "series_uid": f"{uid}.1", "sop_class": "1.2"}
            facts |= {"transfer_syntax": "1.2", "revision": 1, "conflicting": True, "received_at": 0.0}
            connection.execute(insert(instance).values(study_uid=uid, **facts))
        said = [{"code": "conflicting", "text": told(number)}]
        connection.execute(update(outcome).where(outcome.c.study_uid == uid).values(reasons=said))


@pytest.fixture
def states(site: Site, scored: Scored) -> dict[str, str]:
    """A study in each state that a reader has to tell from the others: its UID by a name for it."""
    readers.add(site, GRACE, "clinician")
    scores = {"plain": 0.72, "calm": 0.2, "refused": 0.97, "failed": 0.55, "coming": 0.81, "signed": 0.93}
    scores |= {"faint": 0.12, "mixed": 0.66, "mixed-calm": 0.31, "all": 0.99}
    made = {
        name: scored(score=score, objects=True, accession=f"A-{name.upper()}", patient_id=f"P-{1000 + number}")
        for number, (name, score) in enumerate(scores.items())
    }
    for name in ("signed", "all"):
        said: dict[str, Any] = {"decision": Decision.AGREE, "answer": Answer.POSITIVE, "tier": TruthTier.AI_VISIBLE}
        record(site, made[name], GRACE, revision=1, **said)
    not_read(site, made["refused"], "refused", TRUNCATED)
    not_read(site, made["failed"], "failed", "the process ended 3 times while it read this study")
    not_read(site, made["coming"], "receiving")
    not_read(site, made["signed"], "refused", TRUNCATED)
    many = [f"series {n} has planes at 3.0 and 7.5 mm: {n} images are missing" for n in range(2, 6)]
    not_read(site, made["faint"], "refused", TRUNCATED, *many)
    for name, number in (("mixed", 1), ("mixed-calm", 12), ("all", 2)):
        keep_apart(site, made[name], number)
    not_read(site, made["all"], "failed", TRUNCATED)
    long = {"urgency": "emergency", "accession": "2026-11-22/XR/0000184467", "received_at": 1_790_000_000.0}
    with site.database.write() as connection:
        connection.execute(update(study).where(study.c.uid == made["all"]).values(**long))
    return made


def withdraw_both(site: Site) -> None:
    """As if the coordinator had withdrawn a version that served, and another one that waits for a person."""
    with site.database.write() as connection:
        served = connection.execute(select(version)).mappings().one()
        other = {"digest": "f" * 64, "name": "a-model-with-quite-a-long-name", "number": 12, "state": "shadow"}
        connection.execute(insert(version).values({**served, **other}))
        for digest, state, reason in (
            (served["digest"], "obeyed", "the threshold is wrong on films of two makers"),
            ("f" * 64, "waiting", "see https://registry.example.org/" + "withdrawals/" * 35),
        ):
            label = "brightness@1" if state == "obeyed" else "a-model-with-quite-a-long-name@12"
            notice = Notice(version=digest, label=label, reason=reason, at=1_790_000_000.0).to_bytes().decode()
            values = {"version_digest": digest, "notice": notice, "signer": "coordinator", "signature": ""}
            values |= {"state": state, "served": True, "received_at": 1_790_000_000.0}
            connection.execute(insert(withdrawal).values(**values))


@pytest.fixture
def seen(page: Any, axe: str, picture: Callable[[str], None]) -> Callable[..., None]:
    """Look at a page at two widths: `seen(address, name, key="")`; the key is pressed first."""

    def look(address: str, name: str, key: str = "") -> None:
        page.goto(address)
        if key:
            page.keyboard.press(key)
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
        assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == [], name
        for width in (1280, 820):
            page.set_viewport_size({"width": width, "height": 800})
            picture(f"{name}-{width}")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is cut off at {width}"
            pictures = "Promise.all([...document.images].map((one) => one.decode().then(() => 1, () => 0)))"
            assert 0 not in page.evaluate(pictures), f"{name} has a picture that is not there"

    return look


def test_whatever_state_a_study_is_in_its_pages_can_be_read(
    page: Any, states: dict[str, str], sign_in: Callable[..., None], seen: Callable[..., None]
) -> None:
    seen("/login", "look-login")
    sign_in()
    for state in ("to_read", "refused", ""):
        seen(f"/?state={state}", f"look-list-{state or 'all'}")
    for name in ("refused", "coming", "faint", "mixed-calm", "all"):
        seen(f"/studies/{states[name]}", f"look-study-{name}", "r")
    seen("/studies/1.2.3", "look-error")
    assert [one for one in page.complaints if "404" not in one] == []


def test_what_the_coordinator_withdrew_is_decided_and_noted_with_two_clicks(
    page: Any, site: Site, states: dict[str, str], sign_in: Callable[..., None]
) -> None:
    withdraw_both(site)
    sign_in()
    assert page.locator(".notice").count() == 2
    assert page.locator(".notice button").count() == 0  # a reader is told, and hospital IT acts
    page.context.clear_cookies()
    sign_in("it", "Grace Hopper")
    page.click("text=Taken note")
    page.wait_for_selector("text=It goes on here until a person decides")
    assert page.locator(".notice").count() == 1
    page.click("text=Keep it")
    page.wait_for_selector(".notice", state="detached")
    assert {(one.state, one.seen_by) for one in listed(site)} == {("obeyed", "Grace Hopper"), ("kept", "Grace Hopper")}
    assert page.complaints == []


def test_what_hospital_it_sees_can_be_read(
    site: Site, states: dict[str, str], sign_in: Callable[..., None], seen: Callable[..., None]
) -> None:
    take_back(site, "brightness@1", "IT")
    withdraw_both(site)
    with site.database.write() as connection:
        for name, state in (("plain", "failed"), ("calm", "quarantined")):
            known = select(outcome.c.id).where(outcome.c.study_uid == states[name])
            problem = "the PACS does not take Comprehensive 3D SR, and our own check says: " + "TID 1500 " * 12
            values = {"state": state, "problem": problem, "attempts": 12}
            connection.execute(update(delivery).where(delivery.c.outcome_id.in_(known)).values(**values))
    sign_in("it", "Ivo")
    for address in (
        "/?state=to_read",
        "/deliveries",
        "/missed",
        "/watch",
        "/?state=withdrawn",
        "/?state=recalled",
        f"/studies/{states['signed']}",
    ):
        seen(address, "look-it-" + address.rpartition("=")[2].strip("/").replace("/", "-")[:12])


def test_a_reader_answers_what_a_study_said_before_images_came_that_could_not_be_read(
    page: Any, states: dict[str, str], sign_in: Callable[..., None]
) -> None:
    sign_in()
    shown = {row.split("\n")[0] for row in page.locator("tbody tr", has_text="A-REFUSED").all_inner_texts()}
    assert {row.split("\t")[0] for row in shown} == {"Positive before"}
    page.click("text=Positive before")
    page.wait_for_url(f"**/studies/{states['refused']}")
    said = page.inner_text("aside")
    assert "positive, 0.97 (brightness@1); nobody has answered it" in said
    assert TRUNCATED in said
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/studies/{states['plain']}")  # the next that can be judged: another is still coming in
    page.goto("/")
    assert "A-REFUSED" not in page.inner_text("tbody")
    assert "A-COMING" in page.inner_text("tbody")
    page.goto("/?state=refused")
    assert "Ada Lovelace answered positive" in page.locator("tbody tr", has_text="A-REFUSED").inner_text()
    assert page.complaints == []


def test_an_alarm_is_seen_noted_and_the_version_let_read_again(
    page: Any, site: Site, states: dict[str, str], sign_in: Callable[..., None], seen: Callable[..., None]
) -> None:
    served = versions.serving(site, "brightness")
    assert served is not None
    with site.database.write() as connection:
        facts = {"errors": 14, "exams": 60, "tolerated": 0.1}
        values = {"version_digest": served.digest, "claim": "error", "since": 0.0, "facts": facts, "at": time.time()}
        connection.execute(insert(alarm).values(**values))
        suspensions.suspend_in(connection, served.digest, "alarm", "error")
        different = ["manufacturer: Acme in 34%, before 0%", "pixel spacing: 0.2, before 0.14 (medians)"]
        facts = {"differences": [*different, "rows: 2000, before 2500 (medians)", "age: 40, before 52 (medians)"]}
        values = {"name": "brightness", "since": 0.0, "change_at": time.time(), "cause": "acquisition technique"}
        connection.execute(insert(drift).values(facts=facts, at=time.time(), **values))
    sign_in()
    seen("/", "look-alarm")
    assert "14 of 60 exams" in page.inner_text(".notice")
    assert page.locator(".notice button").count() == 0
    page.context.clear_cookies()
    sign_in("it", "Grace Hopper")
    page.click("text=Taken note")
    page.wait_for_url("**/watch")
    seen("/watch", "look-watch")
    page.click("text=Usual now")
    page.wait_for_selector("text=; usual now")
    page.select_option("select[name=reason]", "mistake")
    page.click("text=Let it read again")
    page.wait_for_selector("text=Suspend it")
    assert suspensions.standing(site) == {}
    seen("/dashboard", "look-dashboard")
    incidents.open_incident(site, served, "missed", Severity.SERIOUS, "drained six hours later", "ada", number=1)
    seen("/incidents", "look-incidents")
    page.fill("input[name=text]", "R-7")
    page.click("text=Authority told")
    page.wait_for_selector("text=told authority, R-7", state="attached")
    assert incidents.find(site, 1).told("authority") is not None
    assert page.complaints == []
