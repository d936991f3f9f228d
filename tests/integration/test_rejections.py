"""What a PACS' quality control or a person takes out of a study is not read, and what rested on it does not stand."""

import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, KeyObjectSelectionDocumentStorage, generate_uid
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from client.arrival import exclusions
from client.arrival.conflicts import keep, listed
from client.arrival.exclusions import leave_out, take_back
from client.arrival.gateway import Gateway
from client.arrival.receive import Receiving
from client.arrival.rejection import Cause
from client.dicomweb.holdings import Holdings
from client.doctor import _rejections  # pyright: ignore[reportPrivateUsage]
from client.inference.outcomes import conclude
from client.inference.pipeline import Refused, Scored
from client.review import readers, worklist
from client.review.verdict import Answer, Decision, Reason
from client.store.site import Site
from client.store.tables import delivery, exclusion, outcome, recall, study
from models.errors import Conflict, NotFound
from scripts.vigie import app
from tests.integration import test_conflicts as copies
from tests.integration import test_dicomweb
from tests.integration.test_another_patient import all_sent, judge, objects_of, opened, withdrawn
from tests.integration.test_conflicts import AT_ONCE, Make, predecessor, read, rows, send, state, take
from tests.integration.test_dicomweb import store as stow

device, dicomweb = test_dicomweb.device, test_dicomweb.dicomweb
pytestmark = copies.pytestmark
QUALITY, SAFETY, WORKLIST, EXPIRED = "113001", "113037", "113038", "113039"


@pytest.fixture
def gateway(site: Site) -> Iterator[Gateway]:
    site.config.rejections_from = ["MODALITY"]  # all that the tests send comes from there
    made = Gateway(site)
    yield made
    made.close()


def rejecting(*images: Dataset, title: str = QUALITY, **values: Any) -> Dataset:
    """The key object selection by which a PACS says that images are not to be used."""
    first = images[0]
    made = Dataset()
    said = {
        "SOPClassUID": KeyObjectSelectionDocumentStorage,
        "SOPInstanceUID": generate_uid(prefix=None),
        "StudyInstanceUID": first.StudyInstanceUID,
        "SeriesInstanceUID": generate_uid(prefix=None),
        "Modality": "KO",
        "PatientID": first.PatientID,
        "PatientName": first.PatientName,
        "PatientBirthDate": first.PatientBirthDate,
        "PatientSex": "O",
        "AccessionNumber": first.AccessionNumber,
        "ValueType": "CONTAINER",
        "ConceptNameCodeSequence": Sequence([coded(title)]),
        "CurrentRequestedProcedureEvidenceSequence": Sequence([evidence(one) for one in images]),
    }
    for keyword, value in (said | values).items():
        if value is not None:
            setattr(made, keyword, value)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    return made


def coded(value: str) -> Dataset:
    title = Dataset()
    title.CodeValue, title.CodingSchemeDesignator, title.CodeMeaning = value, "DCM", "Rejected"
    return title


def evidence(image: Dataset) -> Dataset:
    of_study, series, one = Dataset(), Dataset(), Dataset()
    one.ReferencedSOPClassUID, one.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    series.SeriesInstanceUID, series.ReferencedSOPSequence = image.SeriesInstanceUID, Sequence([one])
    of_study.StudyInstanceUID, of_study.ReferencedSeriesSequence = image.StudyInstanceUID, Sequence([series])
    return of_study


def beside(image: Dataset, radiograph: Make, brightness: float, **values: Any) -> Dataset:
    """Another image of the same study, series and patient."""
    names = ("StudyInstanceUID", "SeriesInstanceUID", "PatientID", "AccessionNumber")
    return radiograph(brightness, InstanceNumber=2, **{name: image[name].value for name in names} | values)


def pair(radiograph: Make, **values: Any) -> tuple[Dataset, Dataset]:
    """A study of a bright image, which its result rests on, and a dark one."""
    bright = radiograph(0.9)
    return bright, beside(bright, radiograph, 0.2, **values)


def complete(site: Site) -> int:
    return Receiving(site, AT_ONCE).complete()


def scored(site: Site, gateway: Gateway, *images: Dataset) -> Scored:
    send(gateway, *images)
    assert complete(site) == 1
    result = read(site)
    assert isinstance(result, Scored)
    return result


def last(site: Site) -> Any:
    return max(rows(site, outcome), key=lambda row: (row.revision, row.id))


def codes(result: Refused) -> list[str]:
    return [str(reason.code) for reason in result.reasons]


def events(site: Site) -> list[str]:
    assert site.ledger.first_break() is None
    return [one.event for one in site.ledger.entries() if one.event.startswith(("images.", "result."))]


@pytest.mark.parametrize("order", ["before", "between", "after"])
def test_a_study_is_read_without_what_was_rejected_whenever_that_is_said(
    site: Site, gateway: Gateway, radiograph: Make, order: str
) -> None:
    bright, dark = pair(radiograph)
    sent = {"before": ["kos", bright, dark], "between": [bright, "kos", dark], "after": [bright, dark, "kos"]}[order]
    document = rejecting(bright)
    for one in sent:
        send(gateway, document if isinstance(one, str) else one)
    assert complete(site) == 1
    result = read(site)
    assert isinstance(result, Scored)
    assert (result.image.sop_uid, result.read, result.reasons) == (dark.SOPInstanceUID, {dark.SOPInstanceUID}, ())
    assert events(site) == ["images.rejected"]

    send(gateway, document, bright)  # both again
    assert state(site, bright.StudyInstanceUID) == ("scored", 1)
    assert len(events(site)) == 1
    assert "1 image was left out" in worklist.one(site, bright.StudyInstanceUID).line.excluded


def test_a_result_is_made_again_without_a_rejected_image_and_names_the_one_before(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    bright, dark = pair(radiograph)
    holdings = Holdings(site)
    assert scored(site, gateway, bright, dark).image.sop_uid == bright.SOPInstanceUID
    assert holdings.study(bright.StudyInstanceUID).series[bright.SeriesInstanceUID].instances == 2
    all_sent(site)
    send(gateway, rejecting(bright))
    result = read(site)
    assert isinstance(result, Scored)
    assert (result.finding.positive, result.read) == (False, {dark.SOPInstanceUID})
    assert predecessor(opened(site, objects_of(site, 2)["sr"])) == objects_of(site, 1)["sr"].sop_uid
    assert rows(site, recall) == []  # it took the place of the first: nothing is to be withdrawn
    line = worklist.one(site, bright.StudyInstanceUID).line
    assert (line.status, line.revision, line.before) == ("unverified", 2, None)
    assert holdings.study(bright.StudyInstanceUID).series[bright.SeriesInstanceUID].instances == 1

    # a person knows better than the PACS
    (again,) = take_back(site, bright.SOPInstanceUID, "Ada").studies
    assert (again.done, again.revision) == ("read-again", 3)
    result = read(site)
    assert isinstance(result, Scored)
    assert result.read == {bright.SOPInstanceUID, dark.SOPInstanceUID}
    assert holdings.study(bright.StudyInstanceUID).series[bright.SeriesInstanceUID].instances == 2
    assert events(site) == ["images.rejected", "images.taken-back"]


@pytest.mark.parametrize("title", [QUALITY, SAFETY, WORKLIST])
def test_where_nothing_is_left_the_result_is_withdrawn(
    site: Site, gateway: Gateway, radiograph: Make, title: str
) -> None:
    image = radiograph(0.9)
    scored(site, gateway, image)
    all_sent(site)
    send(gateway, rejecting(image, title=title))
    result = read(site)
    assert isinstance(result, Refused)
    assert codes(result) == ["left-out"]
    first = objects_of(site, 1)
    assert withdrawn(site, first["kos"]) == {first["sr"].sop_uid, first["sc"].sop_uid}
    assert first["kos"].state == "pending"
    wanted = QUALITY if title == QUALITY else SAFETY
    assert opened(site, first["kos"]).ConceptNameCodeSequence[0].CodeValue == wanted
    line = worklist.one(site, image.StudyInstanceUID).line
    if title == QUALITY:  # nobody has answered it, and nobody has said that the patient is well
        assert line.pressing
        assert line.earlier.startswith(
            "Its image was rejected; nothing was read instead: positive, 0.96 (brightness@1)"
        )
    else:
        assert line.shown is None
    assert line.status == "refused"
    assert events(site) == ["images.rejected", "result.forsaken"]

    # the PACS forwards everything, also what we told it, and its own word again
    send(gateway, opened(site, first["kos"]), rejecting(image, title=title))
    assert state(site, image.StudyInstanceUID) == ("refused", 2)
    assert complete(site) == 0
    assert events(site).count("result.forsaken") == 1


def test_what_the_pacs_does_not_have_yet_it_never_gets(site: Site, gateway: Gateway, radiograph: Make) -> None:
    bright, dark = pair(radiograph)
    scored(site, gateway, bright, dark)
    send(gateway, rejecting(bright))
    assert {row.state for row in rows(site, delivery)} == {"dropped"}  # before the study is read again
    read(site)
    second = objects_of(site, 2)
    assert {row.state for row in second.values()} == {"pending"}
    assert "PredecessorDocumentsSequence" not in opened(site, second["sr"])


def test_a_result_does_not_stand_on_a_rejected_image_where_the_rest_is_refused_and_its_signer_is_asked(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    readers.add(site, "Ada", "clinician")
    bright, lateral = pair(radiograph, ViewPosition="LL")
    uid = str(bright.StudyInstanceUID)
    scored(site, gateway, bright, lateral)
    judge(site, uid, 1, Decision.AGREE, Answer.POSITIVE)
    all_sent(site)
    send(gateway, rejecting(bright, title=SAFETY))
    assert isinstance(read(site), Refused)
    (told,) = rows(site, recall)
    assert (told.action, told.signer) == ("to_signer", "Ada")
    first = objects_of(site, 1)
    assert first["verified"].sop_uid not in withdrawn(site, first["kos"])  # it is hers
    assert worklist.one(site, uid).line.recalled == "Ada"
    judge(site, uid, 1, Decision.REJECT, Answer.NOT_ASSESSABLE, Reason.IMAGE_QUALITY)
    assert worklist.one(site, uid).line.recalled == ""


def test_a_rejection_while_a_study_is_being_read_is_heard(site: Site, gateway: Gateway, radiograph: Make) -> None:
    bright, dark = pair(radiograph)
    send(gateway, bright, dark)
    complete(site)
    taken = take(site)
    send(gateway, rejecting(bright))
    archive = copies.Archive(site.archive)
    result = copies.Pipeline(
        archive, copies.Tensors(site.tensors, archive), copies.Panel(site).members, "Hospital"
    ).process(taken)
    assert not conclude(site, archive, taken, result, lambda _: [])
    complete(site)
    again = read(site)
    assert isinstance(again, Scored)
    assert again.read == {dark.SOPInstanceUID}


def test_what_a_result_does_not_rest_on_changes_nothing(site: Site, gateway: Gateway, radiograph: Make) -> None:
    bright, lateral = pair(radiograph, ViewPosition="LL")
    scored(site, gateway, bright)
    send(gateway, lateral)
    complete(site)
    read(site)
    send(gateway, rejecting(lateral))
    assert state(site, bright.StudyInstanceUID) == ("scored", 2)
    assert len(exclusions.listed(site)) == 1


def test_rejections_that_say_nothing_of_the_study_or_cannot_be_believed_change_nothing(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    image, other = radiograph(0.9), radiograph(0.9)
    scored(site, gateway, image)
    scored(site, gateway, other)
    elsewhere = Sequence([evidence(other)])
    broken = evidence(image)
    del broken.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    absent = radiograph(0.9, StudyInstanceUID=image.StudyInstanceUID)
    for document in (
        rejecting(image, title=EXPIRED),
        rejecting(image, title="113000"),  # of interest
        rejecting(image, ConceptNameCodeSequence=None),
        rejecting(image, CurrentRequestedProcedureEvidenceSequence=None),
        rejecting(image, CurrentRequestedProcedureEvidenceSequence=Sequence([evidence(image), broken])),
        rejecting(image, CurrentRequestedProcedureEvidenceSequence=elsewhere),
        rejecting(image, PatientID="SOMEBODY", PatientName="Else^Somebody"),
        rejecting(image, CurrentRequestedProcedureEvidenceSequence=Sequence([evidence(absent)])),
    ):
        send(gateway, document)
    assert {(row.state, row.revision) for row in rows(site, study)} == {("scored", 1)}
    assert {row.state for row in rows(site, delivery)} == {"pending"}
    assert sorted(events(site)) == [
        "images.rejected",  # one that has not come
        "images.rejection-doubted",
        *["images.rejection-noted"] * 4,
    ]
    told = {one.sop_uid: one for one in exclusions.listed(site, every=True)}
    assert not told[image.SOPInstanceUID].counts
    assert not told[absent.SOPInstanceUID].here
    assert "SOMEBODY" not in "".join(one.facts for one in site.ledger.entries())


def test_a_rejection_in_the_name_of_another_patient_is_not_believed_when_it_comes_first(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    image = radiograph(0.9)
    send(gateway, rejecting(image, PatientID="SOMEBODY"), image)
    complete(site)
    result = read(site)
    assert isinstance(result, Scored)
    assert events(site) == ["images.rejected", "images.rejection-doubted"]


def test_one_foreign_image_no_longer_keeps_a_study_from_being_read(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    own = radiograph(0.9, PatientID="OWN", PatientName="Own^One", AccessionNumber="O1")
    foreign = beside(own, radiograph, 0.9, PatientID="ALIEN", PatientName="Alien^Two", AccessionNumber="F1")
    uid = str(own.StudyInstanceUID)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["site", "images", arguments[0], "--folder", str(site.folder), *arguments[1:]])
        assert done.exit_code == 0, done.output
        return done.output

    scored(site, gateway, foreign)  # and its result, in the wrong patient's name, went to the PACS
    all_sent(site)
    send(gateway, own)
    complete(site)
    refused = read(site)
    assert isinstance(refused, Refused)
    assert codes(refused) == ["patient-mismatch"]
    assert run("list") == "none; --all lists those too that are read again\n"

    said = run("leave-out", foreign.SOPInstanceUID, "--reason", "other-patient")
    assert said == f"1 images are left out\nstudy {uid} is read again, as revision 3\n"
    assert "1 were so before" in run("leave-out", foreign.SOPInstanceUID, "--reason", "quality")
    result = read(site)
    assert isinstance(result, Scored)
    assert result.finding.source.PatientID == "OWN"
    line = worklist.one(site, uid).line
    assert (line.patient_id, line.accession, line.before) == ("OWN", "O1", None)
    first = objects_of(site, 1)
    assert opened(site, first["kos"]).PatientID == "ALIEN"
    assert withdrawn(site, first["kos"]) == {first["sr"].sop_uid, first["sc"].sop_uid}
    assert f"image {foreign.SOPInstanceUID}  left out  other-patient" in run("list", "--of", "O1")

    assert "is read again, as revision 4" in run("take-back", foreign.SOPInstanceUID)
    assert codes(read(site)) == ["patient-mismatch"]  # type: ignore[arg-type]
    assert "taken back by" in run("list", "--all")
    assert events(site) == ["images.left-out", "result.forsaken", "images.taken-back"]
    assert (
        "Example: vigie site images leave-out"
        in CliRunner().invoke(app, ["site", "images", "leave-out", "--help"], env={"COLUMNS": "200"}).output
    )
    with pytest.raises(NotFound):
        leave_out(site, generate_uid(), Cause.QUALITY)


@pytest.mark.parametrize("said", ["series", "nothing"])
def test_a_result_rests_on_every_slice_of_a_series_that_it_read(
    site: Site, gateway: Gateway, radiograph: Make, said: str
) -> None:
    """Volumes say which series they read, results of earlier releases nothing."""
    bright, dark = pair(radiograph)
    scored(site, gateway, bright, dark)
    late = beside(bright, radiograph, 0.2)
    with site.database.write() as connection:
        connection.execute(update(outcome).values(read=[bright.SeriesInstanceUID] if said == "series" else None))
    send(gateway, rejecting(late), late)  # came after the result, which says nothing of it
    assert state(site, bright.StudyInstanceUID) == ("scored", 1)
    send(gateway, rejecting(dark))
    assert state(site, bright.StudyInstanceUID) == ("queued", 2)


def test_a_rejection_that_could_not_be_heeded_is_refused_and_heeded_when_it_comes_again(
    site: Site, gateway: Gateway, radiograph: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = radiograph(0.9)
    scored(site, gateway, image)
    document = rejecting(image)

    def broken(*_: Any, **__: Any) -> None:
        raise OperationalError("insert", {}, Exception("database is locked"))

    with monkeypatch.context() as patch:
        patch.setattr(exclusions, "believe", broken)
        with pytest.raises(AssertionError):
            send(gateway, document)
    assert state(site, image.StudyInstanceUID) == ("scored", 1)
    send(gateway, document)
    assert codes(read(site)) == ["left-out"]  # type: ignore[arg-type]


def test_the_pacs_word_on_the_nodes_own_report_is_none_on_an_image(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    image = radiograph(0.9)
    scored(site, gateway, image)
    send(gateway, rejecting(opened(site, objects_of(site, 1)["sr"])))
    assert exclusions.listed(site, every=True) == []
    assert state(site, image.StudyInstanceUID) == ("scored", 1)


def test_a_rejection_by_stow_is_heard_as_one_by_store(
    site: Site, gateway: Gateway, device: httpx.Client, radiograph: Make
) -> None:
    bright, dark = pair(radiograph)
    scored(site, gateway, bright, dark)
    document = rejecting(bright)
    assert stow(device, document).status_code == 200
    assert state(site, bright.StudyInstanceUID) == ("scored", 1)  # no account may say so that is not named
    site.config.rejections_from = [exclusions.listed(site)[0].by]
    assert stow(device, document).status_code == 200
    result = read(site)
    assert isinstance(result, Scored)
    assert result.read == {dark.SOPInstanceUID}


def test_a_whole_study_can_be_left_out_and_taken_back(site: Site, gateway: Gateway, radiograph: Make) -> None:
    bright, dark = pair(radiograph)
    send(gateway, bright, dark)
    assert leave_out(site, bright.StudyInstanceUID, Cause.QUALITY).studies[0].done == "still-coming"
    assert complete(site) == 1
    assert codes(read(site)) == ["left-out"]  # type: ignore[arg-type]
    holdings = Holdings(site)
    with pytest.raises(NotFound):
        holdings.study(bright.StudyInstanceUID)
    done = take_back(site, bright.SeriesInstanceUID)
    assert (done.images, [one.done for one in done.studies]) == (2, ["read-again"])
    assert holdings.study(bright.StudyInstanceUID).instances == 2
    assert isinstance(read(site), Scored)
    assert all(row.lifted_at for row in rows(site, exclusion))


def test_a_result_falls_with_its_image_when_the_copy_that_stands_is_another_studys(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    first = radiograph(0.9)
    other = radiograph(0.9, SOPInstanceUID=first.SOPInstanceUID)
    scored(site, gateway, first)
    all_sent(site)
    send(gateway, other)
    assert complete(site) == 1
    waiting = read(site)
    assert isinstance(waiting, Refused)
    assert codes(waiting) == ["conflicting"]
    keep(site, first.SOPInstanceUID, "last")
    found = {type(one): one for one in (read(site), read(site))}
    assert codes(found[Refused]) == ["moved"]  # type: ignore[arg-type]
    assert {uid: state(site, uid)[0] for uid in (first.StudyInstanceUID, other.StudyInstanceUID)} == {
        first.StudyInstanceUID: "refused",
        other.StudyInstanceUID: "scored",
    }
    (told,) = rows(site, recall)
    report = next(row for row in rows(site, delivery) if row.outcome_id == told.outcome_id and row.kind == "sr")
    kos = next(row for row in rows(site, delivery) if row.kind == "kos")
    assert report.sop_uid in withdrawn(site, kos)
    assert opened(site, kos).PatientID == first.PatientID
    assert worklist.one(site, first.StudyInstanceUID).line.shown is None


def test_of_two_studies_with_one_image_uid_each_has_an_outcome_and_the_clash_is_explained(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    first = radiograph(0.9)
    other = radiograph(0.9, SOPInstanceUID=first.SOPInstanceUID)
    together: list[threading.Thread] = [threading.Thread(target=send, args=(gateway, one)) for one in (first, other)]
    for one in together:
        one.start()
    for one in together:
        one.join()
    assert complete(site) == 2
    results = [read(site), read(site)]
    assert {type(one) for one in results} == {Scored, Refused}
    assert {row.study_uid for row in rows(site, outcome)} == {first.StudyInstanceUID, other.StudyInstanceUID}
    (clash,) = listed(site)
    assert set(clash.studies) == {first.StudyInstanceUID, other.StudyInstanceUID}
    said = CliRunner().invoke(app, ["site", "conflicts", "--folder", str(site.folder)]).output
    assert "its copies are of 2 studies" in said
    for uid in clash.studies:
        assert worklist.one(site, uid).line.conflicting or state(site, uid)[0] == "scored"


@pytest.mark.parametrize("wrong", ["sender", "nobody", "another"])
def test_a_rejection_by_whoever_likes_waits_for_a_person_who_is_told(
    site: Site, gateway: Gateway, radiograph: Make, wrong: str
) -> None:
    site.config.rejections_from = []
    image = radiograph(0.9)
    uid = str(image.StudyInstanceUID)
    scored(site, gateway, image)
    who = {"sender": str(image.PatientID), "nobody": "", "another": "SOMEBODY"}[wrong]
    document = rejecting(image, title=SAFETY, PatientID=who)
    send(gateway, document, title="US-ROOM-9" if wrong == "sender" else "PACS")
    assert (state(site, uid), events(site)) == (("scored", 1), ["images.rejection-doubted"])
    assert worklist.one(site, uid).line.doubted == "a rejection of 1 image waits for a person"
    assert exclusions.waiting(site) == (1, 1)
    (word,) = exclusions.listed(site)
    assert word.doubt
    assert not word.counts
    assert not _rejections(site).ok
    if wrong == "another":
        assert take_back(site, image.SOPInstanceUID, "Ada").settled == 1
        assert (state(site, uid), exclusions.listed(site)) == (("scored", 1), [])
    elif wrong == "nobody":
        assert leave_out(site, image.SOPInstanceUID, Cause.SAFETY, "Ada").settled == 1
        assert codes(read(site)) == ["left-out"]  # type: ignore[arg-type]
    else:
        send(gateway, document, title="PACS")  # the same word of somebody who may say it
        assert codes(read(site)) == ["left-out"]  # type: ignore[arg-type]
    assert exclusions.waiting(site) == (0, 0)
    assert worklist.one(site, uid).line.doubted == ""
    assert _rejections(site).ok


def test_an_unanswered_finding_whose_image_was_rejected_stays_to_be_read_until_it_is_answered(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    readers.add(site, "Ada", "clinician")
    image = radiograph(0.9)
    uid = str(image.StudyInstanceUID)
    scored(site, gateway, image)
    all_sent(site)
    send(gateway, rejecting(image), beside(image, radiograph, 0.9, ViewPosition="LL"))
    complete(site)
    refused = read(site)
    assert isinstance(refused, Refused)
    assert set(codes(refused)) == {"view"}, "the document has no view, and is not why"
    assert [one.uid for one in worklist.page(site, status="to_read")] == [uid]
    assert worklist.next_uid(site) == uid
    made = len(rows(site, delivery))
    with pytest.raises(Conflict):
        judge(site, uid, 1, Decision.AGREE, Answer.POSITIVE)
    judge(site, uid, 1, Decision.REJECT, Answer.NOT_ASSESSABLE, Reason.IMAGE_QUALITY)
    assert worklist.page(site, status="to_read") == []
    assert len(rows(site, delivery)) == made, "it was withdrawn before"


def test_of_two_documents_of_one_uid_a_person_chooses_what_is_rejected(
    site: Site, gateway: Gateway, radiograph: Make
) -> None:
    bright, dark = pair(radiograph)
    scored(site, gateway, bright, dark)
    first = rejecting(dark)
    second = rejecting(bright, SOPInstanceUID=first.SOPInstanceUID)
    send(gateway, first, second)
    assert {one.sop_uid: one.counts for one in exclusions.listed(site)} == {
        dark.SOPInstanceUID: True,
        bright.SOPInstanceUID: False,
    }
    (again,) = keep(site, first.SOPInstanceUID, "last", "Ada").studies
    assert again.done == "read-again"
    assert [one.sop_uid for one in exclusions.listed(site)] == [bright.SOPInstanceUID]
    result = read(site)
    assert isinstance(result, Scored)
    assert result.read == {dark.SOPInstanceUID}


def test_a_word_on_an_image_that_has_not_come_can_be_taken_back(site: Site, gateway: Gateway, radiograph: Make) -> None:
    bright, dark = pair(radiograph)
    send(gateway, dark, rejecting(bright))
    assert take_back(site, bright.SOPInstanceUID, "Ada").images == 1
    send(gateway, bright)
    complete(site)
    result = read(site)
    assert isinstance(result, Scored)
    assert result.read == {bright.SOPInstanceUID, dark.SOPInstanceUID}


@pytest.mark.parametrize("cause", [Cause.OTHER_PATIENT, Cause.WORKLIST])
def test_the_rest_of_a_study_that_is_another_patients_is_not_read_either(
    site: Site, gateway: Gateway, radiograph: Make, cause: Cause
) -> None:
    """A person may say so while it still comes: what was denied of all that was here is denied of the rest."""
    first = radiograph(0.9)
    scored(site, gateway, first)
    leave_out(site, str(first.StudyInstanceUID), cause, "Ada")
    read(site)
    late = radiograph(0.95, StudyInstanceUID=first.StudyInstanceUID, PatientID=first.PatientID)
    send(gateway, late)
    assert state(site, late.StudyInstanceUID) == ("refused", 2)
    words = {one.sop_uid: one for one in exclusions.listed(site)}
    assert (words[late.SOPInstanceUID].cause, words[late.SOPInstanceUID].by) == (cause, "Ada")

    take_back(site, str(late.SOPInstanceUID))
    assert isinstance(read(site), Scored)


def test_a_study_that_is_sent_again_in_the_right_name_is_read(site: Site, gateway: Gateway, radiograph: Make) -> None:
    wrong = radiograph(0.9)
    scored(site, gateway, wrong)
    leave_out(site, str(wrong.StudyInstanceUID), Cause.WORKLIST, "Ada")
    read(site)
    right = radiograph(0.2, StudyInstanceUID=wrong.StudyInstanceUID, PatientID="RIGHT", PatientName="Right^One")
    send(gateway, right)
    complete(site)
    assert isinstance(read(site), Scored)
