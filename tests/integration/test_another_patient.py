"""A choice among copies that makes a study another patient's: what was said of it before is said of nobody any more."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid
from sqlalchemy import update
from typer.testing import CliRunner

from client.arrival.conflicts import keep
from client.arrival.gateway import Gateway
from client.arrival.receive import Receiving
from client.delivery.standing import named
from client.dicomweb.holdings import Holdings
from client.inference.pipeline import Refused, Scored
from client.review import deadletters, readers, worklist
from client.review.recall import take_back
from client.review.verdict import Answer, Decision, Reason, TruthTier, record
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, outcome, recall
from models.errors import Conflict, NotFound
from scripts.vigie import app
from tests.integration import test_conflicts as copies
from tests.integration.test_conflicts import AT_ONCE, read, rows, same_uids, send

pytestmark = copies.pytestmark
Make = copies.Make


@pytest.fixture
def gateway(site: Site) -> Iterator[Gateway]:
    made = Gateway(site)
    yield made
    made.close()


def wrong_patient(site: Site, gateway: Gateway, radiograph: Make) -> Dataset:
    readers.add(site, "Ada", "clinician")
    wrong = radiograph(0.9, PatientID="WRONG", PatientName="Wrong^One", AccessionNumber="W1")
    send(gateway, wrong)
    Receiving(site, AT_ONCE).complete()
    assert isinstance(read(site), Scored)
    return wrong


def corrected(gateway: Gateway, radiograph: Make, wrong: Dataset, **values: Any) -> None:
    right = {"PatientID": "RIGHT", "PatientName": "Right^Two", "AccessionNumber": "R1", **values}
    send(gateway, radiograph(0.2, **same_uids(wrong) | right))


def all_sent(site: Site, state: str = "sent") -> None:
    with site.database.write() as connection:
        connection.execute(update(delivery).values(state=state))


def objects_of(site: Site, revision: int, *kinds: str) -> dict[str, Any]:
    """By kind, what was made of a revision of the only study."""
    number = {row.revision: row.id for row in rows(site, outcome)}[revision]
    return {
        row.kind: row for row in rows(site, delivery) if row.outcome_id == number and (not kinds or row.kind in kinds)
    }


def opened(site: Site, row: Any) -> Dataset:
    return dcmread(Archive(site.archive).path(row.sha256))


def withdrawn(site: Site, row: Any) -> set[str]:
    return named(Archive(site.archive).read(row.sha256))


def judge(
    site: Site, uid: str, revision: int, decision: Decision, answer: Answer, reason: Reason | None = None
) -> None:
    record(
        site, uid, "Ada", revision=revision, decision=decision, answer=answer, tier=TruthTier.AI_VISIBLE, reason=reason
    )


def test_what_the_pacs_has_of_the_wrong_patient_is_withdrawn_and_never_named_again(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    wrong = wrong_patient(site, gateway, radiograph)
    all_sent(site)
    corrected(gateway, radiograph, wrong)

    (done,) = keep(site, wrong.StudyInstanceUID, "last").studies
    assert (done.done, done.disowned) == ("read-again", 1)
    assert isinstance(read(site), Scored)

    first, second = objects_of(site, 1), objects_of(site, 2)
    selection = opened(site, first["kos"])
    assert selection.PatientID == "WRONG"  # under whom the objects lie in the PACS
    assert selection.ConceptNameCodeSequence[0].CodeValue == "113037"
    assert withdrawn(site, first["kos"]) == {first["sr"].sop_uid, first["sc"].sop_uid}
    assert first["kos"].state == "pending"
    report = opened(site, second["sr"])
    assert report.PatientID == "RIGHT"
    assert first["sr"].sop_uid not in str(report)
    assert site.ledger.first_break() is None


def test_what_was_not_sent_of_the_wrong_patient_never_is(site: Site, gateway: Gateway, radiograph: Make) -> None:
    wrong = wrong_patient(site, gateway, radiograph)
    corrected(gateway, radiograph, wrong, ViewPosition="LL")
    keep(site, wrong.StudyInstanceUID, "last")
    assert isinstance(read(site), Refused)
    assert {row.state for row in objects_of(site, 1, "sr", "sc").values()} == {"dropped"}
    all_sent(site, "failed")
    assert deadletters.resend_all(site).number == 2  # the withdrawal, and the word that nothing was read
    line = worklist.one(site, wrong.StudyInstanceUID).line
    assert (line.status, line.shown, line.patient_id) == ("refused", None, "RIGHT")
    with pytest.raises(Conflict):  # nobody signs in the wrong patient's name
        judge(site, wrong.StudyInstanceUID, 1, Decision.AGREE, Answer.POSITIVE)


def test_undone_the_study_is_read_for_the_first_patient_again(site: Site, gateway: Gateway, radiograph: Make) -> None:
    wrong = wrong_patient(site, gateway, radiograph)
    corrected(gateway, radiograph, wrong)
    uid = str(wrong.StudyInstanceUID)
    for which in ("last", "first", "last"):
        keep(site, uid, which)
        assert isinstance(read(site), Scored)
    for revision, patient in enumerate(("WRONG", "RIGHT", "WRONG"), 1):
        made = objects_of(site, revision)
        assert opened(site, made["kos"]).PatientID == patient
        assert withdrawn(site, made["kos"]) == {made["sr"].sop_uid, made["sc"].sop_uid}
    last = objects_of(site, 4)
    assert set(last) == {"sr", "sc"}
    assert opened(site, last["sr"]).PatientID == "RIGHT"
    assert "PredecessorDocumentsSequence" not in opened(site, last["sr"])


def test_a_choice_for_the_same_patient_withdraws_nothing(site: Site, gateway: Gateway, radiograph: Make) -> None:
    wrong = wrong_patient(site, gateway, radiograph)
    all_sent(site)
    send(gateway, radiograph(0.2, **same_uids(wrong, "PatientID", "PatientName")))
    (done,) = keep(site, wrong.StudyInstanceUID, "last").studies
    assert done.disowned == 0
    assert isinstance(read(site), Scored)
    assert rows(site, recall) == []
    assert copies.predecessor(opened(site, objects_of(site, 2)["sr"])) == objects_of(site, 1)["sr"].sop_uid


def test_the_word_that_nothing_was_read_of_the_wrong_patient_is_withdrawn(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    wrong = radiograph(PatientID="WRONG", PatientName="Wrong^One", ViewPosition="LL")
    send(gateway, wrong)
    Receiving(site, AT_ONCE).complete()
    assert isinstance(read(site), Refused)
    all_sent(site)
    corrected(gateway, radiograph, wrong)
    keep(site, wrong.StudyInstanceUID, "last")
    assert isinstance(read(site), Scored)
    told = objects_of(site, 1)
    assert withdrawn(site, told["kos"]) == {told["sr"].sop_uid}
    assert told["sr"].sop_uid not in str(opened(site, objects_of(site, 2)["sr"]))


def cut(gateway: Gateway, radiograph: Make, site: Site, first: Dataset, **values: Any) -> None:
    """An image of the study that nobody can read comes."""
    late = radiograph(0.9, **{name: first[name].value for name in ("StudyInstanceUID", "PatientID")} | values)
    late.PixelData = late.PixelData[:100]
    send(gateway, late)
    Receiving(site, AT_ONCE).complete()
    assert isinstance(read(site), Refused)


def test_who_signed_of_the_wrong_patient_is_asked_and_the_answer_withdraws_it(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    wrong = wrong_patient(site, gateway, radiograph)
    uid = str(wrong.StudyInstanceUID)
    judge(site, uid, 1, Decision.AGREE, Answer.POSITIVE)
    all_sent(site)
    corrected(gateway, radiograph, wrong)
    keep(site, uid, "last")
    assert isinstance(read(site), Scored)
    assert worklist.one(site, uid).line.recalled == "Ada"

    judge(site, uid, 2, Decision.AGREE, Answer.NEGATIVE)
    assert worklist.one(site, uid).line.recalled == ""
    signed = {row.outcome_id: row for row in rows(site, delivery) if row.kind == "verified"}
    first, second = (signed[number] for number in sorted(signed))
    selections = [row for row in rows(site, delivery) if row.kind == "kos"]
    assert {opened(site, row).PatientID for row in selections} == {"WRONG"}
    assert first.sop_uid in {uid for row in selections for uid in withdrawn(site, row)}
    assert first.sop_uid not in str(opened(site, second))
    assert opened(site, second).PatientID == "RIGHT"
    (again,) = (row for row in selections if first.sop_uid in withdrawn(site, row))
    all_sent(site, "failed")
    deadletters.remake(site, again.sop_uid)
    assert withdrawn(site, objects_by_uid(site)[again.sop_uid]) == {first.sop_uid}


def objects_by_uid(site: Site) -> dict[str, Any]:
    return {row.sop_uid: row for row in rows(site, delivery)}


def test_who_signed_of_the_wrong_patient_can_only_reject_it_where_the_right_one_is_not_read(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    wrong = wrong_patient(site, gateway, radiograph)
    uid = str(wrong.StudyInstanceUID)
    judge(site, uid, 1, Decision.AGREE, Answer.POSITIVE)
    all_sent(site)
    corrected(gateway, radiograph, wrong, ViewPosition="LL")
    keep(site, uid, "last")
    assert isinstance(read(site), Refused)
    with pytest.raises(Conflict, match="only be rejected"):
        judge(site, uid, 1, Decision.CORRECT, Answer.NEGATIVE, Reason.OTHER)
    judge(site, uid, 1, Decision.REJECT, Answer.NOT_ASSESSABLE, Reason.WRONG_PATIENT)
    assert worklist.one(site, uid).line.recalled == ""
    (signed,) = (row for row in rows(site, delivery) if row.kind == "verified")
    assert signed.sop_uid in {one for row in rows(site, delivery) if row.kind == "kos" for one in withdrawn(site, row)}


def test_whatever_was_said_before_can_be_rejected_and_no_all_clear_signed(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    readers.add(site, "Ada", "clinician")
    first = radiograph(0.2, PatientID="ONE")
    send(gateway, first)
    Receiving(site, AT_ONCE).complete()
    assert isinstance(read(site), Scored)
    cut(gateway, radiograph, site, first)
    uid = str(first.StudyInstanceUID)
    with pytest.raises(Conflict, match="only be rejected"):
        judge(site, uid, 1, Decision.AGREE, Answer.NEGATIVE)
    judge(site, uid, 1, Decision.REJECT, Answer.NOT_ASSESSABLE, Reason.WRONG_PATIENT)
    made = objects_of(site, 1)
    assert withdrawn(site, made["kos"]) == {made["sr"].sop_uid, made["sc"].sop_uid}


def test_who_signed_what_was_recalled_since_can_answer_where_the_study_is_not_read(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    readers.add(site, "Ada", "clinician")
    first = radiograph(0.2, PatientID="ONE")
    send(gateway, first)
    Receiving(site, AT_ONCE).complete()
    assert isinstance(read(site), Scored)
    uid = str(first.StudyInstanceUID)
    judge(site, uid, 1, Decision.AGREE, Answer.NEGATIVE)
    cut(gateway, radiograph, site, first)
    take_back(site, "brightness@1", "IT")
    assert worklist.one(site, uid).line.recalled == "Ada"
    judge(site, uid, 1, Decision.REJECT, Answer.NOT_ASSESSABLE, Reason.DANGEROUS)
    assert worklist.one(site, uid).line.recalled == ""
    made = objects_of(site, 1)
    assert made["verified"].sop_uid in withdrawn(site, made["kos"])


@pytest.mark.parametrize("rejects", [False, True])
def test_a_reader_says_one_thing_of_a_study_whatever_the_revision(
    site: Site, gateway: Gateway, radiograph: Make, rejects: bool
) -> None:
    readers.add(site, "Ada", "clinician")
    first = radiograph(0.9)
    send(gateway, first)
    Receiving(site, AT_ONCE).complete()
    read(site)
    uid = str(first.StudyInstanceUID)
    judge(site, uid, 1, Decision.AGREE, Answer.POSITIVE)
    send(gateway, radiograph(0.9, StudyInstanceUID=uid, PatientID=first.PatientID))
    Receiving(site, AT_ONCE).complete()
    assert isinstance(read(site), Scored)
    before = objects_of(site, 1)["verified"].sop_uid
    if rejects:
        judge(site, uid, 2, Decision.REJECT, Answer.NOT_ASSESSABLE, Reason.ARTEFACT)
        made = objects_of(site, 2)
        assert withdrawn(site, made["kos"]) == {made["sr"].sop_uid, made["sc"].sop_uid, before}
        judge(site, uid, 2, Decision.AGREE, Answer.POSITIVE)
    else:
        judge(site, uid, 2, Decision.AGREE, Answer.POSITIVE)
    replaced = opened(site, objects_of(site, 2)["verified"]).PredecessorDocumentsSequence
    assert (before in str(replaced)) is not rejects


def test_a_rejection_of_an_earlier_finding_can_be_taken_back_on_the_page(
    site: Site, gateway: Gateway, radiograph: Make, served: str
) -> None:
    token = readers.add(site, "Ada", "clinician")
    first = radiograph(0.9)
    send(gateway, first)
    Receiving(site, AT_ONCE).complete()
    read(site)
    cut(gateway, radiograph, site, first)
    uid = str(first.StudyInstanceUID)
    with requests.Session() as browser:
        browser.post(f"{served}/login", data={"token": token})
        for decision, also in (("reject", {"answer": "not_assessable", "reason": "artefact"}), ("agree", {})):
            page = browser.get(f"{served}/studies/{uid}").text
            assert 'value="agree"' in page
            csrf, revision = (re.search(rf'name="{name}" value="([^"]+)"', page) for name in ("csrf", "revision"))
            assert csrf
            assert revision
            form = {"csrf": csrf[1], "revision": revision[1], "decision": decision, "tier": "ai_visible", **also}
            assert browser.post(f"{served}/studies/{uid}/verdict", data=form, allow_redirects=False).status_code == 303
    assert worklist.one(site, uid).line.answered == "Ada answered positive"


def test_what_was_withdrawn_is_not_in_the_nodes_own_dicomweb(site: Site, gateway: Gateway, radiograph: Make) -> None:
    wrong = wrong_patient(site, gateway, radiograph)
    uid = str(wrong.StudyInstanceUID)
    held = Holdings(site)
    made = objects_of(site, 1)
    assert {one.sop_uid for one in held.instances(uid)} == {
        wrong.SOPInstanceUID,
        made["sr"].sop_uid,
        made["sc"].sop_uid,
    }
    assert len(held.study(uid).series) == 3
    judge(site, uid, 1, Decision.REJECT, Answer.NEGATIVE, Reason.DANGEROUS)
    selection = objects_of(site, 1)["kos"].sop_uid
    for one in (held, Holdings(site)):  # also after a restart
        assert {row.sop_uid for row in one.instances(uid)} == {wrong.SOPInstanceUID, selection}
        assert one.study(uid).instances == 2
        with pytest.raises(NotFound):
            one.instance(uid, str(opened(site, made["sr"]).SeriesInstanceUID), made["sr"].sop_uid)


def test_what_was_put_aside_is_shown_once_it_is_sent_after_all(site: Site, gateway: Gateway, radiograph: Make) -> None:
    wrong = wrong_patient(site, gateway, radiograph)
    uid = str(wrong.StudyInstanceUID)
    held = Holdings(site)
    assert held.study(uid).instances == 3
    all_sent(site, "quarantined")
    assert held.study(uid).instances == 1
    for row in objects_of(site, 1).values():
        deadletters.override(site, row.sop_uid, deadletters.Override.CHECK_IS_WRONG, "IT")
    assert held.study(uid).instances == 3


def test_what_another_took_the_place_of_is_sent_anyway_and_what_was_withdrawn_never(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    wrong = wrong_patient(site, gateway, radiograph)
    all_sent(site, "quarantined")
    send(gateway, radiograph(0.9, StudyInstanceUID=wrong.StudyInstanceUID, PatientID="WRONG"))
    Receiving(site, AT_ONCE).complete()
    assert isinstance(read(site), Scored)
    made = objects_of(site, 1)
    command = ["site", "deliveries", "--folder", str(site.folder), "--override", made["sr"].sop_uid]
    command += ["--reason", "clinically_needed"]
    assert CliRunner().invoke(app, command).exit_code == 1
    told = CliRunner().invoke(app, [*command, "--anyway"])
    assert told.exit_code == 0
    assert made["sc"].sop_uid in told.output  # whole, in a window of 80 columns
    assert objects_of(site, 1)["sr"].state == "pending"
    judge(site, str(wrong.StudyInstanceUID), 2, Decision.REJECT, Answer.NEGATIVE, Reason.DANGEROUS)
    withdrawn_now = objects_of(site, 2)["sr"].sop_uid
    all_sent(site, "quarantined")
    with pytest.raises(Conflict):
        deadletters.override(site, withdrawn_now, deadletters.Override.OTHER, "IT", anyway=True)


def test_reports_of_one_uid_that_differ_leave_no_image_out(site: Site, gateway: Gateway, radiograph: Make) -> None:
    first = radiograph(0.2)
    uid, sop_uid = str(first.StudyInstanceUID), generate_uid()
    send(gateway, first, *(dose_report(first, sop_uid, text) for text in ("one", "two")))
    Receiving(site, AT_ONCE).complete()
    result = read(site)
    assert isinstance(result, Scored)
    assert result.reasons == ()
    assert worklist.one(site, uid).line.conflicting == ""
    (done,) = keep(site, sop_uid, "last").studies
    assert (done.done, done.revision) == ("no-image", 1)
    assert worklist.one(site, uid).line.status == "unverified"


def dose_report(image: Dataset, sop_uid: str, text: str) -> Dataset:
    made = Dataset()
    for name in ("StudyInstanceUID", "PatientID", "PatientName", "AccessionNumber"):
        setattr(made, name, image[name].value)
    made.SOPClassUID, made.SOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.88.67"), UID(sop_uid)
    made.SeriesInstanceUID, made.Modality, made.SeriesDescription = "2.25.777", "SR", text
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = UID(made.SOPClassUID)
    made.file_meta.MediaStorageSOPInstanceUID = UID(sop_uid)
    return made


def test_a_result_whose_report_is_lost_can_be_rejected_and_not_signed(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    wrong = wrong_patient(site, gateway, radiograph)
    made = objects_of(site, 1)
    Archive(site.archive).path(made["sr"].sha256).unlink()
    with pytest.raises(NotFound):
        judge(site, str(wrong.StudyInstanceUID), 1, Decision.AGREE, Answer.POSITIVE)
    judge(site, str(wrong.StudyInstanceUID), 1, Decision.REJECT, Answer.NEGATIVE, Reason.DANGEROUS)
    selection = objects_of(site, 1)["kos"]
    assert withdrawn(site, selection) == {made["sr"].sop_uid, made["sc"].sop_uid}
    assert opened(site, selection).PatientID == "WRONG"


def test_a_picture_whose_file_is_lost_is_withdrawn_with_the_rest(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    wrong = wrong_patient(site, gateway, radiograph)
    made = objects_of(site, 1)
    Archive(site.archive).path(made["sc"].sha256).unlink()
    judge(site, str(wrong.StudyInstanceUID), 1, Decision.REJECT, Answer.NEGATIVE, Reason.DANGEROUS)
    assert withdrawn(site, objects_of(site, 1)["kos"]) == {made["sr"].sop_uid, made["sc"].sop_uid}
