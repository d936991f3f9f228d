"""Studies that were not read leave their mark in the PACS: which ones, once, and until something better is there."""

import io
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from sqlalchemy import delete, func, select, update

from client.arrival.completeness import Bounds
from client.arrival.gateway import Gateway
from client.arrival.receive import Receiving
from client.delivery.sender import Pace, Sender
from client.inference import outcomes
from client.inference.objects import objects
from client.inference.panel import Panel
from client.inference.pipeline import Pipeline
from client.inference.refusals import Refusals
from client.inference.tensors import Tensors
from client.results.conformity import examine
from client.review import deadletters, missed, readers, worklist
from client.review.recall import take_back
from client.review.verdict import Answer, Decision, TruthTier, record
from client.store import versions
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, outcome, study, version
from configs.schema import ResultsConfig
from models.errors import ConfigurationError

pytestmark = pytest.mark.integration
CT = "1.2.840.10008.5.1.4.1.1.2"
SR = "1.2.840.10008.5.1.4.1.1.88.22"
CHILD = {"PatientAge": "009Y"}
AT_ONCE = Bounds(0.0, 0.0, 0.0)
FAST = Pace(first=0.02, longest=0.05, poll=0.01, answer=5.0)
Make = Callable[..., Dataset]


class Reader:
    """A hospital's gateway and worker, without their processes."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.archive = Archive(site.archive)
        self.panel = Panel(site)
        tensors = Tensors(site.tensors, self.archive)
        self.pipeline = Pipeline(self.archive, tensors, self.panel.members, site.config.institution)

    def receive(self, *images: Dataset) -> None:
        gateway = Gateway(self.site)
        entity = AE("MODALITY")
        for sop_class in {str(image.SOPClassUID) for image in images}:
            entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
        try:
            association = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
            assert [association.send_c_store(image).Status for image in images] == [0] * len(images)
            association.release()
        finally:
            gateway.close()
        assert Receiving(self.site, AT_ONCE).complete() >= 1

    def conclude(self, result: Any = None) -> bool:
        found = outcomes.take(self.site)
        assert found is not None
        if isinstance(found, outcomes.Exhausted):
            taken, result = found.study, outcomes.crashed(self.site.config.max_attempts)
        else:
            taken = found
        mark = Refusals(self.site, self.archive, self.panel.members).mark
        make = partial(objects, wanted=self.site.config.results)
        return outcomes.conclude(self.site, self.archive, taken, result or self.pipeline.process(taken), make, mark)

    def read(self, *images: Dataset) -> None:
        self.receive(*images)
        assert self.conclude()

    def made(self, kind: str = "sr") -> list[Dataset]:
        query = select(delivery.c.sha256).join(outcome, outcome.c.id == delivery.c.outcome_id)
        with self.site.database.read() as connection:
            rows = connection.execute(query.where(delivery.c.kind == kind).order_by(outcome.c.id)).scalars().all()
        contents = [self.archive.read(digest) for digest in rows]
        assert [examine(content).problems for content in contents] == [()] * len(contents)
        return [pydicom.dcmread(io.BytesIO(content)) for content in contents]

    def send(self, pacs: Any, eventually: Callable[..., Any]) -> None:
        self.site.config.pacs = pacs.config
        sender = Sender(self.site, FAST)
        sender.start()
        try:
            eventually(lambda: not self.states() & {"pending"})
        finally:
            sender.stop()

    def states(self) -> set[str]:
        with self.site.database.read() as connection:
            return set(connection.execute(select(delivery.c.state)).scalars())


@pytest.fixture
def reader(site: Site) -> Reader:
    return Reader(site)


@pytest.fixture
def wanting(make_site: Callable[..., Site]) -> Iterator[Callable[[str], Reader]]:
    made: list[Site] = []

    def make(refusals: str) -> Reader:
        made.append(make_site(results=ResultsConfig(refusals=refusals)))
        return Reader(made[-1])

    yield make
    for one in made:
        one.database.close()


def outcome_of(report: Dataset) -> str:
    [library] = [item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010"]
    return next(
        item.ConceptCodeSequence[0].CodeValue
        for item in library.ContentSequence[0].ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "111017"
    )


def before(report: Dataset) -> set[str]:
    """What it takes the place of."""
    return {
        str(named.ReferencedSOPInstanceUID)
        for of_study in report.get("PredecessorDocumentsSequence", [])
        for series in of_study.ReferencedSeriesSequence
        for named in series.ReferencedSOPSequence
    }


def kept(report: Dataset) -> set[str]:
    """The reports that it refers to, and leaves as they are."""
    [library] = [item for item in report.ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "126010"]
    return {
        str(item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)
        for item in library.ContentSequence[0].ContentSequence
        if item.ValueType == "COMPOSITE"
    }


def test_the_pacs_hears_of_a_refusal_and_then_of_the_result_that_takes_its_place(
    reader: Reader, pacs: Any, radiograph: Make, eventually: Callable[..., Any]
) -> None:
    child = radiograph(**CHILD)
    reader.read(child)
    reader.send(pacs, eventually)
    [[told]] = pacs.received.values()
    assert outcome_of(told) == "111245"
    assert (told.VerificationFlag, told.PatientID) == ("UNVERIFIED", child.PatientID)
    [evidence] = told.CurrentRequestedProcedureEvidenceSequence
    named = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert (evidence.StudyInstanceUID, named) == (child.StudyInstanceUID, child.SOPInstanceUID)
    assert [letter.kind for letter in deadletters.listed(reader.site, ("sent",))] == ["sr"]
    # a late image that can be read: the study's result names what it takes the place of
    late = radiograph(StudyInstanceUID=child.StudyInstanceUID, PatientID=child.PatientID)
    reader.read(late)
    reader.send(pacs, eventually)
    [result] = [one for [one] in pacs.received.values() if one.Modality == "SR" and outcome_of(one) != "111245"]
    assert before(result) == {told.SOPInstanceUID}


OTHERS: dict[str, list[dict[str, Any]]] = {
    "a child's chest": [CHILD],
    "no body part": [{"BodyPartExamined": None}],
    "a chest film and its dose report": [CHILD, {"SOPClassUID": SR, "Modality": "SR", "Rows": None, "Columns": None}],
    "a CT": [{"SOPClassUID": CT, "Modality": "CT"}],
    "a hand": [{"BodyPartExamined": "HAND"}],
    "a phantom": [{"QualityControlImage": "YES"}],
    "two people": [{}, {"PatientID": "ANOTHER", "PatientName": "Other^Person", "PatientBirthDate": "19700101"}],
}
RELEVANT = ("a child's chest", "no body part", "a chest film and its dose report")


@pytest.mark.parametrize("what", OTHERS)
def test_what_is_none_of_a_version_s_business_leaves_no_mark(
    what: str, wanting: Callable[[str], Reader], radiograph: Make
) -> None:
    reader = wanting("relevant")
    shared = radiograph()
    reader.read(
        *(
            radiograph(**{"StudyInstanceUID": shared.StudyInstanceUID, "PatientID": shared.PatientID} | changes)
            for changes in OTHERS[what]
        )
    )
    with reader.site.database.read() as connection:
        assert connection.execute(select(outcome.c.kind)).scalar_one() == "refused"
    made = reader.made()
    assert len(made) == (what in RELEVANT)
    if what == "a chest film and its dose report":
        assert "MODALITY" not in str(made[0])  # the dose report's


@pytest.mark.parametrize(("wanted", "marks"), [("none", [0, 0]), ("relevant", [1, 0]), ("all", [1, 1])])
def test_the_site_says_which_leave_one(
    wanted: str, marks: list[int], wanting: Callable[[str], Reader], radiograph: Make
) -> None:
    reader = wanting(wanted)
    reader.read(radiograph(**CHILD))
    assert len(reader.made()) == marks[0]
    reader.read(radiograph(SOPClassUID=CT, Modality="CT"))
    assert len(reader.made()) == sum(marks)
    with pytest.raises(ConfigurationError, match="none, relevant, all"):
        ResultsConfig(refusals="some")


def test_a_refusal_after_a_result_is_always_told_and_leaves_it_standing(reader: Reader, radiograph: Make) -> None:
    first = radiograph()
    reader.read(first)
    [result] = reader.made()
    with reader.site.database.write() as connection:
        uid = connection.execute(select(study.c.uid)).scalar_one()
        connection.execute(update(study).values(state="queued", revision=2, attempts=0))
    versions.retire(reader.site, "brightness")  # now it is nobody's business
    assert reader.conclude()
    assert [outcome_of(one) for one in reader.made()] == ["111242", "111245"]
    refusal = reader.made()[1]
    assert (before(refusal), kept(refusal)) == (set(), {result.SOPInstanceUID})
    assert uid == first.StudyInstanceUID
    outcomes.retry(reader.site, uid)
    assert reader.conclude()
    again = reader.made()[2]
    assert (before(again), kept(again)) == ({refusal.SOPInstanceUID}, {result.SOPInstanceUID})
    with reader.site.database.write() as connection:
        connection.execute(update(version).values(state="adopted"))
    outcomes.retry(reader.site, uid)
    assert reader.conclude()
    assert before(reader.made()[3]) == {again.SOPInstanceUID, result.SOPInstanceUID}  # read again: it takes both places


OTHER = {"PatientID": "ANOTHER", "PatientName": "Stranger^Odd", "PatientBirthDate": "19700101", "PatientSex": "F"}


@pytest.mark.parametrize("wanted", ["relevant", "none"])
@pytest.mark.parametrize("brightness", [0.9, 0.2])
def test_the_pacs_hears_that_images_of_another_patient_came_to_a_reported_study(
    wanting: Callable[[str], Reader],
    pacs: Any,
    radiograph: Make,
    eventually: Callable[..., Any],
    wanted: str,
    brightness: float,
) -> None:
    reader = wanting(wanted)
    first = radiograph(brightness)
    reader.read(first)
    reader.send(pacs, eventually)
    [result] = reader.made()
    reader.read(radiograph(StudyInstanceUID=first.StudyInstanceUID, **OTHER))
    reader.send(pacs, eventually)
    [line] = worklist.page(reader.site)
    assert (line.status, [code for code, _ in line.reasons]) == ("refused", ["patient-mismatch"])
    assert ("positive" if brightness > 0.5 else "not found in what was read") in line.earlier
    assert [one.uid for one in missed.listed(reader.site)] == [first.StudyInstanceUID]
    if wanted == "none":
        assert len(reader.made()) == 1
        return
    [_, told] = reader.made()
    assert told.SOPInstanceUID in pacs.received
    assert (before(told), kept(told)) == (set(), {result.SOPInstanceUID})
    assert (told.PatientID, told.PatientName) == (first.PatientID, first.PatientName)
    written = io.BytesIO()
    told.save_as(written)
    assert b"The images name more than one patient" in written.getvalue()
    assert b"check whose it is" in written.getvalue()
    [evidence] = told.CurrentRequestedProcedureEvidenceSequence
    named = {
        item.ReferencedSOPInstanceUID
        for series in evidence.ReferencedSeriesSequence
        for item in series.ReferencedSOPSequence
    }
    assert named == {first.SOPInstanceUID, result.SOPInstanceUID}  # nothing of the other one
    for keyword in ("PatientID", "PatientName", "PatientBirthDate"):
        assert OTHER[keyword].encode() not in written.getvalue()


def test_a_study_that_ends_the_process_is_told_as_failed_and_is_superseded_when_read(
    reader: Reader, radiograph: Make
) -> None:
    reader.receive(radiograph())
    most = reader.site.config.max_attempts
    for _ in range(most):
        assert isinstance(outcomes.take(reader.site), outcomes.Study)
    assert reader.conclude()
    [failed] = reader.made()
    assert "Algorithm" not in str(failed)
    assert (outcome_of(failed), failed.ManufacturerModelName) == ("111245", "Vigie")
    with reader.site.database.read() as connection:
        uid = connection.execute(select(study.c.uid)).scalar_one()
    outcomes.retry(reader.site, uid)
    assert reader.conclude()
    assert before(reader.made()[1]) == {failed.SOPInstanceUID}


def test_a_study_of_two_people_that_ends_the_process_says_that_there_are_two(reader: Reader, radiograph: Make) -> None:
    first = radiograph(0.9)
    reader.read(first)
    [uid] = [line.uid for line in worklist.page(reader.site)]
    readers.add(reader.site, "Ada", "clinician")
    agree = {"decision": Decision.AGREE, "answer": Answer.POSITIVE, "tier": TruthTier.AI_VISIBLE}
    record(reader.site, uid, "Ada", revision=1, **agree)  # type: ignore[arg-type]
    assert worklist.page(reader.site, status="to_read") == []
    reader.receive(radiograph(StudyInstanceUID=uid, **OTHER))
    for _ in range(reader.site.config.max_attempts):
        assert isinstance(outcomes.take(reader.site), outcomes.Study)
    assert reader.conclude()
    [line] = worklist.page(reader.site, status="to_read")  # what was said before is in doubt
    assert (line.status, [code for code, _ in line.reasons]) == ("failed", ["crashed", "patient-mismatch"])
    told = reader.made()[1]
    assert b"The images name more than one patient" in told.to_json().encode()
    with reader.site.database.write() as connection:
        connection.execute(update(delivery).values(state="failed"))
    assert deadletters.resend_all(reader.site).number == 1  # that word alone
    # and a study that cannot be retried by the pipeline is told alike
    outcomes.retry(reader.site, uid)
    assert reader.conclude(outcomes.failure(ZeroDivisionError()))
    [line] = worklist.page(reader.site, status="to_read")
    assert [code for code, _ in line.reasons] == ["unexpected", "patient-mismatch"]


class Killed(BaseException):
    """What ends the process is caught by nobody."""


def _ending(_: object) -> None:
    raise Killed


def _raising(_: object) -> None:
    raise ZeroDivisionError


def test_a_mark_never_stands_between_a_study_and_its_outcome(
    reader: Reader, radiograph: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.receive(radiograph())
    with reader.site.database.write() as connection:
        connection.execute(update(study).values(attempts=reader.site.config.max_attempts))
    # opening the image again ends the process, once; after that it is not opened
    assert isinstance(outcomes.take(reader.site), outcomes.Exhausted)
    with monkeypatch.context() as patched:
        patched.setattr("client.dicom.decode.read_header", _ending)
        assert reader.conclude()
    assert reader.made() == []
    # and what raises is only told
    reader.receive(radiograph(**CHILD))
    with monkeypatch.context() as patched:
        patched.setattr("client.results.unread.report", _raising)
        assert reader.conclude()
    assert reader.made() == []
    with reader.site.database.read() as connection:
        assert sorted(connection.execute(select(study.c.state)).scalars()) == ["failed", "refused"]


def test_a_repeat_after_a_crash_is_the_same_object(reader: Reader, radiograph: Make) -> None:
    reader.read(radiograph(**CHILD))
    [first] = reader.made()
    with reader.site.database.write() as connection:  # as if the transaction had not been
        connection.execute(delete(delivery))
        connection.execute(delete(outcome))
        connection.execute(update(study).values(state="queued"))
    assert reader.conclude()
    [again] = reader.made()
    assert (again.SOPInstanceUID, again.SeriesInstanceUID) == (first.SOPInstanceUID, first.SeriesInstanceUID)


def test_a_recall_takes_back_the_version_s_refusals_too(reader: Reader, radiograph: Make) -> None:
    reader.read(radiograph(**CHILD))
    reader.read(radiograph(SOPClassUID=CT, Modality="CT"))  # of this the PACS knows nothing
    [refusal] = reader.made()
    told = take_back(reader.site, "brightness@1", "Grace Hopper")
    assert (told.found, told.withdrawn, told.without_document) == (1, 1, 0)
    assert told.exact
    [selection] = reader.made("kos")
    named = selection.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert named.ReferencedSOPInstanceUID == refusal.SOPInstanceUID


def test_a_refusal_of_a_version_that_was_recalled_meanwhile_is_not_told(reader: Reader, radiograph: Make) -> None:
    reader.receive(radiograph(**CHILD))
    taken = outcomes.take(reader.site)
    assert isinstance(taken, outcomes.Study)
    result = reader.pipeline.process(taken)
    mark = Refusals(reader.site, reader.archive, reader.panel.members).mark
    made = mark(taken, result, ())  # type: ignore[arg-type]
    assert len(made) == 1
    take_back(reader.site, "brightness@1", "Grace Hopper")
    assert not outcomes.conclude(
        reader.site, reader.archive, taken, result, lambda _: [], lambda _study, _result, _before: made
    )
    with reader.site.database.read() as connection:
        assert connection.execute(select(func.count()).select_from(delivery)).scalar_one() == 0


def test_a_refusal_that_was_put_aside_is_made_anew(reader: Reader, radiograph: Make) -> None:
    reader.read(radiograph(**CHILD))
    with reader.site.database.write() as connection:
        connection.execute(update(delivery).values(state="quarantined"))
        uid = connection.execute(select(delivery.c.sop_uid)).scalar_one()
    deadletters.remake(reader.site, uid)
    assert reader.conclude()
    with reader.site.database.read() as connection:
        rows = connection.execute(select(delivery.c.state, outcome.c.revision).join(outcome)).all()
    assert sorted((row.revision, row.state) for row in rows) == [(1, "dropped"), (2, "pending")]
    assert "PredecessorDocumentsSequence" not in reader.made()[1]  # the PACS never had the first one
