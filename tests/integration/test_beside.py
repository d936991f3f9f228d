"""What was found stays before people where a later outcome of the study does not speak of it."""

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context
from sqlalchemy import select, update

from client.arrival.completeness import Bounds
from client.arrival.gateway import Gateway
from client.arrival.receive import Receiving
from client.inference import outcomes
from client.inference.objects import objects
from client.inference.panel import Panel
from client.inference.pipeline import Outcome, Pipeline, Refused, Scored, ScoredVolumes
from client.inference.refusals import Refusals
from client.inference.tensors import Tensors
from client.review import deadletters, missed, readers, worklist
from client.review.recall import take_back
from client.review.verdict import Answer, Decision, Reason, TruthTier, answerable, record
from client.store import versions
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, outcome
from models.bundle import Bundle
from models.coding import Coding
from models.errors import Conflict
from models.intended_use import IntendedUse

pytestmark = pytest.mark.integration

Make = Callable[..., Dataset]
AGREE: dict[str, Any] = {"decision": Decision.AGREE, "answer": Answer.POSITIVE, "tier": TruthTier.AI_VISIBLE}
REJECT: dict[str, Any] = {"decision": Decision.REJECT, "reason": Reason.ARTEFACT, "tier": TruthTier.AI_VISIBLE}
ONE, TWO = {"PatientID": "ONE", "PatientName": "One^A"}, {"PatientID": "TWO", "PatientName": "Two^B"}


@pytest.fixture
def ward(site: Site) -> Iterator[tuple[Site, Gateway]]:
    readers.add(site, "Ada", "clinician")
    gateway = Gateway(site)
    yield site, gateway
    gateway.close()


def come(ward: tuple[Site, Gateway], *images: Dataset) -> Outcome:
    """Images come, and their study is read."""
    site, gateway = ward
    entity = AE("MODALITY")
    wanted = dict.fromkeys((str(one.SOPClassUID), str(one.file_meta.TransferSyntaxUID)) for one in images)
    entity.requested_contexts = [build_context(*one) for one in wanted]
    association = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
    assert [association.send_c_store(image).Status for image in images] == [0] * len(images)
    association.release()
    Receiving(site, Bounds(0.0, 0.0, 0.0)).complete()
    return read_again(site)


def read_again(site: Site) -> Outcome:
    """The study that is queued is read."""
    archive, panel = Archive(site.archive), Panel(site).members
    taken = outcomes.take(site)
    assert isinstance(taken, outcomes.Study)
    result = Pipeline(archive, Tensors(site.tensors, archive), panel, "Hospital").process(taken)
    make, mark = partial(objects, wanted=site.config.results), Refusals(site, archive, panel).mark
    assert outcomes.conclude(site, archive, taken, result, make, mark)
    return result


def adopt(site: Site, bundle: Bundle) -> None:
    shutil.copytree(bundle.folder, site.versions / bundle.digest)
    versions.receive(site, bundle)
    versions.adopt(site, bundle.digest)


def hand(bundles: Any, key: Any, folder: Path) -> Bundle:
    use = IntendedUse(
        statement="Hands.",
        modalities=("DX", "CR"),
        sop_classes=(bundles.DX, bundles.CR),
        body_parts=("HAND",),
        views=("PA", "AP"),
        min_age_years=18,
        min_size_px=32,
    )
    return bundles.build(folder / "hand", key, name="hand", intended_use=use, rank=1)


def line(site: Site, uid: str) -> worklist.Line:
    return worklist.one(site, uid).line


def to_read(site: Site) -> list[str]:
    found = [one.uid for one in worklist.page(site, status="to_read")]
    assert worklist.counts(site)["to_read"] == len(found)
    return found


def asked(site: Site, uid: str, reader: str = "Ada") -> dict[int, tuple[Decision, ...]]:
    """By revision, what a reader may decide."""
    with site.database.read() as connection:
        return {one.revision: one.decisions for one in answerable(connection, uid, reader)}


def reports(site: Site) -> list[Dataset]:
    query = select(delivery.c.sha256).where(delivery.c.kind == "sr").order_by(delivery.c.outcome_id)
    with site.database.read() as connection:
        return [dcmread(Archive(site.archive).path(one)) for one in connection.execute(query).scalars()]


def put(site: Site, state: str) -> None:
    with site.database.write() as connection:
        connection.execute(update(delivery).values(state=state))


def told(site: Site, revision: int) -> dict[str, tuple[str, str]]:
    """By kind, where the objects of a revision of the only study are, and their UIDs."""
    query = select(delivery.c.kind, delivery.c.state, delivery.c.sop_uid).join(outcome)
    with site.database.read() as connection:
        rows = connection.execute(query.where(outcome.c.revision == revision)).all()
    return {row.kind: (row.state, row.sop_uid) for row in rows}


def states(site: Site, revision: int) -> dict[str, str]:
    return {kind: state for kind, (state, _) in told(site, revision).items()}


def fallen(site: Site) -> set[str]:
    return {letter.fallen for letter in deadletters.listed(site)}


def test_a_series_that_can_no_longer_be_read_keeps_its_finding(
    make_site: Callable[..., Site], volumes: Any, vendor_key: Any, tmp_path: Path
) -> None:
    site = make_site(adopted=False)
    adopt(site, volumes.build(tmp_path / "volume", vendor_key))
    readers.add(site, "Ada", "clinician")
    gateway = Gateway(site)
    ward = site, gateway
    found = volumes.series(count=14, shape=(48, 48))
    uid, frame = found[0].StudyInstanceUID, found[0].FrameOfReferenceUID
    calm = volumes.series(count=14, shape=(48, 48), size=0.01, StudyInstanceUID=uid, FrameOfReferenceUID=frame)
    assert isinstance(come(ward, *found, *calm), ScoredVolumes)
    put(site, "sent")
    late = volumes.series(count=14, shape=(48, 48))[0]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"):
        setattr(late, keyword, found[0][keyword].value)
    x, y, z = found[-1].ImagePositionPatient
    late.ImagePositionPatient, late.InstanceNumber = [x, y, float(z) + 7.3], 15
    read = come(ward, late)
    gateway.close()

    assert isinstance(read, ScoredVolumes)
    assert not read.best.positive
    before, after = reports(site)
    assert "PredecessorDocumentsSequence" not in after
    assert before.SOPInstanceUID in str(after.CurrentRequestedProcedureEvidenceSequence)
    assert before.SOPInstanceUID in str(after.ContentSequence)
    shown = line(site, uid)
    assert (shown.looks_back, shown.shown and shown.shown.call) == (True, "positive")
    assert set(asked(site, uid)) == {1, 2}
    assert worklist.next_uid(site) == uid
    put(site, "failed")
    assert fallen(site) == {""}
    record(site, uid, "Ada", revision=1, **AGREE)
    assert (line(site, uid).looks_back, to_read(site)) == (False, [uid])  # the second one still
    record(site, uid, "Ada", revision=2, **AGREE | {"answer": Answer.NEGATIVE})
    assert to_read(site) == []


def test_a_film_that_another_model_searches_for_something_else_is_not_wholly_read(
    ward: tuple[Site, Gateway], radiograph: Make, bundles: Any, vendor_key: Any, tmp_path: Path
) -> None:
    site, _ = ward
    heart = Coding(value="8186001", scheme="SCT", meaning="Cardiomegaly")
    adopt(site, bundles.build(tmp_path / "heart", vendor_key, name="heart", finding=heart))
    read = come(ward, radiograph(level=0.1))
    assert isinstance(read, Scored)
    assert (read.choice and read.choice.why, read.finding.partial) == ("only", True)  # nothing compares two findings
    assert {(reason.code, reason.text) for reason in read.reasons} == {
        ("not-read", "heart@1 was not asked, which looks for Cardiomegaly")
    }
    assert [one.why for one in missed.listed(site)] == ["in_part"]


def test_a_model_for_other_images_neither_takes_over_nor_clears_the_study(
    ward: tuple[Site, Gateway], radiograph: Make, bundles: Any, vendor_key: Any, tmp_path: Path
) -> None:
    site, _ = ward
    adopt(site, hand(bundles, vendor_key, tmp_path))
    first = radiograph(0.9, **ONE)
    uid = first.StudyInstanceUID
    come(ward, first)
    read = come(ward, radiograph(0.2, StudyInstanceUID=uid, BodyPartExamined="HAND", **ONE))
    assert isinstance(read, Scored)
    assert (read.finding.bundle.facts.name, read.finding.positive, read.finding.partial) == ("brightness", True, True)
    assert [(one.uid, one.why) for one in missed.listed(site)] == [(uid, "in_part")]
    before, after = reports(site)
    assert before.SOPInstanceUID in str(after.PredecessorDocumentsSequence)
    # the model is gone: the other one reads, and has not looked at what was found
    versions.retire(site, "brightness")
    read = come(ward, radiograph(0.2, StudyInstanceUID=uid, BodyPartExamined="HAND", **ONE))
    assert isinstance(read, Scored)
    assert not read.finding.positive
    _, middle, last = reports(site)
    assert "PredecessorDocumentsSequence" not in last
    assert middle.SOPInstanceUID in str(last.ContentSequence)
    shown = line(site, uid).shown
    assert (shown and shown.revision, to_read(site)) == (2, [uid])
    with site.database.read() as connection:
        assert connection.execute(select(outcome.c.read)).scalars().all()[0] == [first.SOPInstanceUID]


def test_the_recall_of_a_successor_brings_back_what_it_took_the_place_of(
    ward: tuple[Site, Gateway], radiograph: Make, bundles: Any, vendor_key: Any, tmp_path: Path
) -> None:
    site, _ = ward
    first = radiograph(0.9, **ONE)
    uid = first.StudyInstanceUID
    come(ward, first)
    put(site, "failed")
    adopt(site, bundles.build(tmp_path / "b", vendor_key, gain=-20.0, number=2))
    come(ward, radiograph(0.9, StudyInstanceUID=uid, **ONE))
    assert line(site, uid).before is None
    take_back(site, "brightness@2", "IT")
    assert (line(site, uid).looks_back, to_read(site), fallen(site)) == (True, [uid], {""})


@pytest.mark.parametrize("signed", [False, True])
def test_images_of_another_patient_put_what_was_said_in_doubt_also_where_no_version_serves(
    ward: tuple[Site, Gateway], radiograph: Make, signed: bool
) -> None:
    site, _ = ward
    first = radiograph(0.9, **ONE)
    uid = first.StudyInstanceUID
    come(ward, first)
    if signed:
        record(site, uid, "Ada", revision=1, **AGREE)
    put(site, "failed")
    versions.retire(site, "brightness")
    assert isinstance(come(ward, radiograph(0.9, StudyInstanceUID=uid, **TWO)), Refused)
    assert fallen(site) == {"images of another patient came to its study since"}
    assert deadletters.resend_all(site).number == 0
    assert (to_read(site), set(asked(site, uid))) == ([uid], {1})
    record(site, uid, "Ada", revision=1, **AGREE)  # the same word as before, after a look at whose it is
    assert to_read(site) == []
    assert len(worklist.one(site, uid).verdicts) == 1 + signed


def test_a_report_of_nobody_named_is_not_forgotten_when_two_people_come(
    ward: tuple[Site, Gateway], radiograph: Make
) -> None:
    site, _ = ward
    nobody = dict.fromkeys(("PatientID", "PatientName", "PatientBirthDate", "PatientSex"), "")
    first = radiograph(0.9, **nobody)
    uid = first.StudyInstanceUID
    come(ward, first)
    put(site, "sent")
    come(ward, *(radiograph(0.9, StudyInstanceUID=uid, **whose) for whose in (ONE, TWO)))
    before, after = reports(site)
    assert before.SOPInstanceUID in str(after.ContentSequence)
    assert str(after.PatientID) == ""


def test_a_copy_that_differs_and_comes_late_leaves_no_all_clear(ward: tuple[Site, Gateway], radiograph: Make) -> None:
    site, gateway = ward
    first = radiograph(0.2)
    come(ward, first)
    assert line(site, first.StudyInstanceUID).result.shade == "negative"  # type: ignore[union-attr]
    names = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "AccessionNumber")
    entity = AE("PACS")
    copy = radiograph(0.9, **{name: first[name].value for name in names})
    entity.requested_contexts = [build_context(copy.SOPClassUID, copy.file_meta.TransferSyntaxUID)]
    association = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
    assert association.send_c_store(copy).Status == 0
    association.release()
    result = line(site, first.StudyInstanceUID).result
    assert result is not None
    assert (result.call, result.shade) == ("not found in what was read", "partial")


def test_what_is_made_anew_is_there_until_what_takes_its_place_is_queued(
    ward: tuple[Site, Gateway], radiograph: Make
) -> None:
    site, _ = ward
    come(ward, radiograph(0.9, **ONE))
    report = told(site, 1)["sr"][1]
    with site.database.write() as connection:
        bad = {"state": "quarantined", "problem": "no template"}
        connection.execute(update(delivery).where(delivery.c.sop_uid == report).values(**bad))
    deadletters.remake(site, report)
    # whatever happens to the node now, the report is among what was put aside; and no picture goes without it
    assert states(site, 1) == {"sr": "quarantined", "sc": "failed"}
    assert {one.problem for one in deadletters.listed(site)} == {
        "it is made anew; before: no template",
        "it is made anew",
    }
    with pytest.raises(Conflict, match="about to be read"):
        deadletters.remake(site, report)
    versions.retire(site, "brightness")
    assert isinstance(read_again(site), Refused)
    assert states(site, 1) == {"sr": "quarantined", "sc": "failed"}  # nothing has taken its place
    assert fallen(site) == {""}
    versions.adopt(site, next(held.digest for held in versions.listed(site)))
    deadletters.remake(site, report)  # of an earlier revision than the study's, and standing
    assert isinstance(read_again(site), Scored)
    assert states(site, 1) == {"sr": "dropped", "sc": "dropped"}
    assert states(site, 3) == {"sr": "pending", "sc": "pending"}
    assert "PredecessorDocumentsSequence" not in reports(site)[-1]  # the PACS never had the first one
    with pytest.raises(Conflict):
        deadletters.remake(site, report)


def test_what_was_put_aside_and_sent_after_all_stays_sent_when_it_was_to_be_made_anew(
    ward: tuple[Site, Gateway], radiograph: Make
) -> None:
    site, _ = ward
    come(ward, radiograph(0.9, **ONE))
    report = told(site, 1)["sr"][1]
    put(site, "failed")
    deadletters.remake(site, report)
    assert deadletters.resend_all(site).number == 2
    assert isinstance(read_again(site), Scored)
    assert states(site, 1) == {"sr": "pending", "sc": "pending"}
    assert report in str(reports(site)[-1].PredecessorDocumentsSequence)


def test_what_a_newer_result_took_the_place_of_is_not_made_anew(ward: tuple[Site, Gateway], radiograph: Make) -> None:
    site, _ = ward
    first = radiograph(0.9, **ONE)
    come(ward, first)
    put(site, "failed")
    come(ward, radiograph(0.9, StudyInstanceUID=first.StudyInstanceUID, **ONE))
    with pytest.raises(Conflict, match="a newer revision"):
        deadletters.remake(site, told(site, 1)["sr"][1])
    assert states(site, 1) == {"sr": "failed", "sc": "failed"}  # a person may still send it as it is


@pytest.mark.parametrize("said", [Answer.NEGATIVE, Answer.NOT_ASSESSABLE])
def test_the_rejection_of_a_successor_does_not_answer_what_it_took_the_place_of(
    ward: tuple[Site, Gateway], radiograph: Make, said: Answer
) -> None:
    site, _ = ward
    first = radiograph(0.9, **ONE)
    uid = first.StudyInstanceUID
    come(ward, first)
    put(site, "failed")
    come(ward, radiograph(0.9, StudyInstanceUID=uid, **ONE))
    assert line(site, uid).before is None
    record(site, uid, "Ada", revision=2, answer=said, **REJECT)
    # the PACS shows the first one alone now, and nobody has said anything of it
    assert (line(site, uid).looks_back, to_read(site), worklist.next_uid(site)) == (True, [uid], uid)
    assert {told(site, 1)["sr"][1]} <= {letter.sop_uid for letter in deadletters.listed(site) if not letter.fallen}
    # another reader believes the second one, or the same one does after all
    record(site, uid, "Ada", revision=2, **AGREE)
    assert (line(site, uid).before, to_read(site)) == (None, [])
    record(site, uid, "Ada", revision=2, answer=said, **REJECT)
    record(site, uid, "Ada", revision=1, answer=said, **REJECT)
    assert (line(site, uid).before, to_read(site)) == (None, [])
    assert told(site, 1)["kos"][0] == "pending"


def test_what_somebody_has_answered_is_not_asked_again_when_its_successor_is_rejected(
    ward: tuple[Site, Gateway], radiograph: Make
) -> None:
    site, _ = ward
    readers.add(site, "Bob", "clinician")
    first = radiograph(0.9, **ONE)
    uid = first.StudyInstanceUID
    come(ward, first)
    record(site, uid, "Ada", revision=1, **AGREE)
    come(ward, radiograph(0.9, StudyInstanceUID=uid, **ONE))
    record(site, uid, "Bob", revision=2, answer=Answer.NEGATIVE, **REJECT)
    assert to_read(site) == []
    assert line(site, uid).answered == "Ada answered positive"


def test_a_signed_all_clear_comes_before_people_again_when_images_of_another_patient_come(
    ward: tuple[Site, Gateway], radiograph: Make
) -> None:
    site, _ = ward
    readers.add(site, "Bob", "clinician")
    first, unsigned = radiograph(0.2, **ONE), radiograph(0.2, **ONE)
    uid = first.StudyInstanceUID
    come(ward, first)
    clear = AGREE | {"answer": Answer.NEGATIVE}
    record(site, uid, "Ada", revision=1, **clear)
    assert to_read(site) == []
    assert isinstance(come(ward, radiograph(0.2, StudyInstanceUID=uid, **TWO)), Refused)
    assert (to_read(site), worklist.next_uid(site), line(site, uid).looks_back) == ([uid], uid, True)
    assert line(site, uid).earlier.endswith("Ada answered negative, and images of another patient came since")
    assert asked(site, uid) == {1: (Decision.AGREE, Decision.REJECT)}
    assert asked(site, uid, "Bob") == {1: (Decision.REJECT,)}  # who has signed nothing signs no all-clear now
    for _ in range(2):  # a double click
        record(site, uid, "Ada", revision=1, **clear)
    assert to_read(site) == []
    assert len(worklist.one(site, uid).verdicts) == 2
    # of what nobody has signed, nobody has to take anything back
    come(ward, unsigned)
    come(ward, radiograph(0.2, StudyInstanceUID=unsigned.StudyInstanceUID, **TWO))
    assert to_read(site) == []
