"""A clinician at the keyboard, in a real browser: sign in, open the most urgent study, give a verdict."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert, update

from client.results.confidence import Confidence
from client.review.recall import take_back
from client.review.verdict import Answer, Decision, Reason, TruthTier, history, record
from client.store.site import Site
from client.store.tables import outcome, study

pytestmark = pytest.mark.peers("chromium")
Scored = Callable[..., str]


def test_a_verdict_by_keyboard(
    page: Any, site: Site, scored: Scored, sign_in: Callable[..., None], picture: Callable[[str], None]
) -> None:
    urgent = scored(score=0.93, objects=True, accession="A-URGENT", patient_id="P-1001")
    second = scored(score=0.61, objects=True, accession="A-SECOND", patient_id="P-1002")
    calm = scored(score=0.2, objects=True, accession="A-CALM", patient_id="P-1003")
    sign_in()
    assert page.locator("tbody tr").count() == 3
    assert "A-URGENT" in page.locator("tbody tr").first.inner_text()
    picture("worklist")

    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/studies/{urgent}")
    assert page.locator(".status").first.inner_text().lower() == "unverified"
    assert page.evaluate("document.getElementById('map').naturalWidth") > 0
    picture("study")
    page.keyboard.press("o")
    page.locator("#shown", has_text="Original image").wait_for()
    assert page.evaluate("document.getElementById('map').decode().then(() => true)")

    page.keyboard.press("a")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/studies/{second}")  # on to the next

    page.keyboard.press("c")
    page.select_option("#reason", "overlap")
    picture("correct")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/studies/{calm}")
    with site.database.read() as connection:
        [agreed], [corrected] = history(connection, urgent), history(connection, second)
    assert (agreed.decision, agreed.answer, agreed.mode) == ("agree", "positive", "ai_first")
    assert (corrected.decision, corrected.answer, corrected.reason) == ("correct", "negative", "overlap")
    page.goto("/?state=verified")
    assert page.locator("tbody tr").count() == 2
    assert page.complaints == []


def test_whoever_answers_or_takes_back_an_earlier_result_sees_its_picture(
    page: Any, site: Site, scored: Scored, sign_in: Callable[..., None], picture: Callable[[str], None]
) -> None:
    uid = scored(score=0.93, objects=True, accession="A-EARLIER")
    scored(uid=uid, revision=2, score=0.61, objects=True, covers=False)
    sign_in()
    page.goto(f"/studies/{uid}")
    forms = page.locator("form.verdict")
    revisions = [forms.nth(at).locator("[name=revision]").input_value() for at in range(2)]
    assert revisions == ["1", "2"]  # the keys answer what is shown
    pictures = [page.locator("#map"), forms.nth(1).locator("img")]
    drawn = [one.evaluate("one => one.decode().then(() => one.naturalWidth)") for one in pictures]
    assert min(drawn) > 0
    assert [one.get_attribute("src").partition("=")[2] for one in pictures] == revisions
    picture("two-results")
    # a study that is not read as it is now: what was rejected of it can be taken back, and is looked at for that
    with site.database.write() as connection:
        connection.execute(update(study).where(study.c.uid == uid).values(state="refused", revision=3))
        said = [{"code": "truncated", "text": "cut off"}]
        values = {"study_uid": uid, "revision": 3, "kind": "refused", "reasons": said, "created_at": 1_700_000_100.0}
        connection.execute(insert(outcome).values(**values))
    reject = {"decision": Decision.REJECT, "answer": Answer.NEGATIVE, "reason": Reason.ARTEFACT}
    for revision in (1, 2):
        record(site, uid, "Ada Lovelace", revision=revision, tier=TruthTier.AI_VISIBLE, **reject)  # type: ignore[arg-type]
    page.goto(f"/studies/{uid}")
    shown = page.locator("#map")
    assert shown.evaluate("one => one.decode().then(() => one.naturalWidth)") > 0
    assert shown.get_attribute("src").endswith(f"revision={forms.first.locator('[name=revision]').input_value()}")
    picture("taken-back")
    page.keyboard.press("o")
    page.locator("#shown", has_text="Original image").wait_for()
    assert page.complaints == []


def test_a_correction_without_a_reason_is_not_sent(
    page: Any, site: Site, scored: Scored, sign_in: Callable[..., None]
) -> None:
    uid = scored(score=0.93, objects=True)
    sign_in()
    page.goto(f"/studies/{uid}")
    page.keyboard.press("c")
    page.keyboard.press("Enter")
    assert page.url.endswith(uid)
    with site.database.read() as connection:
        assert history(connection, uid) == []


def test_a_reader_sees_how_sure_a_result_is_and_what_it_rests_on(
    page: Any, scored: Scored, sign_in: Callable[..., None], picture: Callable[[str], None]
) -> None:
    known = {"source": "site", "level": 0.9, "positives": 34, "negatives": 51}
    clear = Confidence(probability=0.87, answers=("positive",), **known)
    torn = Confidence(probability=0.46, answers=("positive", "negative"), **known)
    none = Confidence(source="none", positives=3, negatives=40)
    scored(score=0.93, objects=True, accession="A-CLEAR", confidence=clear)
    uid = scored(score=0.61, objects=True, accession="A-TORN", confidence=torn, missing=2)
    new = scored(score=0.58, objects=True, accession="A-NEW", confidence=none)
    sign_in()
    picture("confidence-worklist")
    rows = [page.locator("tbody tr").nth(number).inner_text().lower() for number in range(3)]
    assert "87 %" in rows[0]
    assert "uncertain" not in rows[0]
    assert "46 %" in rows[1]
    assert "uncertain" in rows[1]
    assert "incomplete" in rows[1]
    assert "%" not in rows[2]
    page.goto(f"/studies/{uid}")
    said = page.locator("aside").inner_text()
    picture("confidence-study")
    assert "uncertain: positive or negative" in said
    assert "34 positive and 51 negative validated patients of this hospital" in said
    assert "40 % of them have the finding: where it is rarer, it is less likely than said" in said
    assert "2 images were expected, 0 came" in said
    page.goto(f"/studies/{new}")
    picture("confidence-none")
    assert "No calibration yet: 3 positive and 40 negative patients" in page.locator("aside").inner_text()
    assert page.complaints == []


def test_it_sees_what_was_not_read_and_reads_it_again(
    page: Any, site: Site, scored: Scored, sign_in: Callable[..., None], picture: Callable[[str], None]
) -> None:
    scored(objects=True, accession="A-RECALLED")
    take_back(site, "brightness@1", "IT")
    with site.database.write() as connection:
        for number, (state, code, text) in enumerate(
            (
                ("failed", "crashed", "the process ended 3 times while it read this study"),
                ("refused", "truncated", "truncated: 6144 bytes of pixels, 12288 expected"),
                ("refused", "view", "the view is LL; accepted: AP, PA"),
            )
        ):
            uid, at = f"1.2.{number}", 1_700_000_000.0 + number
            connection.execute(
                insert(study).values(uid=uid, accession=f"A-{code}", state=state, received_at=at, touched_at=at)
            )
            reasons = [{"code": code, "text": text}]
            connection.execute(
                insert(outcome).values(study_uid=uid, revision=1, kind=state, reasons=reasons, created_at=at)
            )
    sign_in("it", "IT")
    page.click("text=Not read")
    page.wait_for_selector("tbody tr")
    picture("missed")
    assert page.locator("tbody tr").count() == 3  # the view is outside the intended use: nothing was missed
    assert "A-view" not in page.inner_text("main")
    page.click("text=Read all 3 again")
    page.locator("text=Nothing was missed").wait_for()
    assert page.complaints == []
