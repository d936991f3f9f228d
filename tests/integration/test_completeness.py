"""When a study is complete, told over real associations: procedure steps, notifications, counts, split sendings."""

import contextlib
import io
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pydicom
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.sop_class import (
    InstanceAvailabilityNotification,
    ModalityPerformedProcedureStep,
    StudyRootQueryRetrieveInformationModelFind,
)
from sqlalchemy import insert, select, update

from client.arrival import receive
from client.arrival.census import Census
from client.arrival.completeness import MOST_HABITS, Basis, Bounds
from client.arrival.gateway import Gateway
from client.arrival.receive import Completion, Receiving
from client.inference import outcomes
from client.inference.objects import objects
from client.inference.panel import Panel
from client.inference.pipeline import Pipeline
from client.inference.study import Study
from client.inference.tensors import Tensors
from client.store import versions
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import announcement, delivery, habit, instance, outcome, study
from configs.schema import PeerConfig, ResultsConfig

pytestmark = pytest.mark.integration

DX = "1.2.840.10008.5.1.4.1.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
SOON = Bounds(0.0)  # whoever waits does so because of what was told


@pytest.fixture
def gateway(site: Site) -> Iterator[Gateway]:
    made = Gateway(site)
    yield made
    made.close()


@contextlib.contextmanager
def calling(gateway: Gateway, title: str = "MODALITY") -> Iterator[Association]:
    entity = AE(title)
    for sop_class in (DX, CT, ModalityPerformedProcedureStep, InstanceAvailabilityNotification):
        entity.add_requested_context(sop_class, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
    assert association.is_established
    try:
        yield association
    finally:
        association.release()


def store(association: Association, *images: Dataset) -> None:
    assert [association.send_c_store(image).Status for image in images] == [0] * len(images)


def begun(study_uid: str, status: str = "IN PROGRESS") -> Dataset:
    scheduled = Dataset()
    scheduled.StudyInstanceUID = study_uid
    step = Dataset()
    step.ScheduledStepAttributesSequence = [scheduled] if study_uid else []
    step.PerformedProcedureStepStatus = status
    step.PerformedSeriesSequence = []
    return step


def ended(images: Sequence[Dataset], status: str = "COMPLETED") -> Dataset:
    step = Dataset()
    step.PerformedProcedureStepStatus = status
    step.PerformedSeriesSequence = []
    for image in images:
        series, reference = Dataset(), Dataset()
        series.SeriesInstanceUID = image.SeriesInstanceUID
        reference.ReferencedSOPClassUID = image.SOPClassUID
        reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
        series.ReferencedImageSequence = [reference]
        step.PerformedSeriesSequence.append(series)
    return step


def available(images: Sequence[Dataset]) -> Dataset:
    told = Dataset()
    told.StudyInstanceUID = images[0].StudyInstanceUID
    told.ReferencedPerformedProcedureStepSequence = []
    told.ReferencedSeriesSequence = []
    for image in images:
        series, reference = Dataset(), Dataset()
        series.SeriesInstanceUID = image.SeriesInstanceUID
        reference.ReferencedSOPClassUID = image.SOPClassUID
        reference.ReferencedSOPInstanceUID = image.SOPInstanceUID
        reference.InstanceAvailability = "ONLINE"
        reference.RetrieveAETitle = "PACS"
        series.ReferencedSOPSequence = [reference]
        told.ReferencedSeriesSequence.append(series)
    return told


def create(association: Association, told: Dataset, uid: str, sop_class: str = ModalityPerformedProcedureStep) -> int:
    status, _ = association.send_n_create(told, sop_class, uid)
    return int(status.Status)


def change(association: Association, told: Dataset, uid: str) -> int:
    status, _ = association.send_n_set(told, ModalityPerformedProcedureStep, uid)
    return int(status.Status)


def of_one_study(radiograph: Callable[..., Dataset], count: int, **keywords: Any) -> list[Dataset]:
    first = radiograph(**keywords)
    same = {"StudyInstanceUID": first.StudyInstanceUID, "PatientID": first.PatientID} | keywords
    return [first, *(radiograph(**(same | {"InstanceNumber": number})) for number in range(2, count + 1))]


def row_of(site: Site, uid: str) -> Any:
    with site.database.read() as connection:
        return connection.execute(select(study).where(study.c.uid == uid)).one()


def announcements(site: Site) -> list[Any]:
    with site.database.read() as connection:
        return [tuple(row) for row in connection.execute(select(announcement))]


def test_a_step_that_began_before_the_images_holds_the_study_until_all_that_it_lists_is_here(
    site: Site, gateway: Gateway, radiograph: Callable[..., Dataset]
) -> None:
    images = of_one_study(radiograph, 3)
    uid, step = images[0].StudyInstanceUID, generate_uid()
    receiving = Receiving(site, SOON)
    with calling(gateway) as association:
        assert create(association, begun(uid), step) == 0
        store(association, *images[:2])
        assert receiving.complete() == 0
        assert change(association, ended(images), step) == 0
        assert receiving.complete() == 0
        store(association, images[2])
        # the association is open, and may stay so all day
        assert receiving.complete(gateway.intake.sending()) == 1
    assert row_of(site, uid).completed_by == Basis.ANNOUNCED


def test_a_study_that_is_all_here_is_called_complete_when_its_association_ends(
    site: Site,
    gateway: Gateway,
    radiograph: Callable[..., Dataset],
    eventually: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # nobody looks by the clock: what completes it is the end of the association, which nobody writes down
    monkeypatch.setattr(receive, "_LOOK_SECONDS", 600.0)
    monkeypatch.setattr(receive, "_LONGEST_POLL_SECONDS", 600.0)
    image = radiograph()
    step = generate_uid()
    with closing(Completion(site, gateway.intake.sending, gateway.intake.over)):
        with calling(gateway) as association:
            create(association, begun(image.StudyInstanceUID), step)
            change(association, ended([image]), step)
            store(association, image)
            assert row_of(site, image.StudyInstanceUID).state == "receiving"
        eventually(lambda: row_of(site, image.StudyInstanceUID).state == "queued")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("large", [False, True])
def test_a_study_of_which_the_node_refused_images_is_waited_for_and_is_not_called_whole(
    site: Site, radiograph: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch, syntax: UID, large: bool
) -> None:
    big = {"rows": 1500, "columns": 1000} if large else {}  # comes in several pieces
    images = of_one_study(radiograph, 5, SOPClassUID=CT, Modality="CT", **big)
    uid = images[0].StudyInstanceUID
    for image in images:
        image.file_meta.MediaStorageSOPClassUID, image.file_meta.TransferSyntaxUID = CT, syntax
        image.SeriesInstanceUID = images[0].SeriesInstanceUID
    fifth = images.pop()
    gateway = Gateway(site)
    receiving = Receiving(site, Bounds(0.0, 0.0, 0.0), refused=gateway.intake.refused)

    def send(*images: Dataset) -> list[int]:
        entity = AE("CT")
        entity.add_requested_context(CT, syntax)
        association = entity.associate("127.0.0.1", gateway.port, ae_title="VIGIE")
        try:
            return [int(association.send_c_store(encoded(image, syntax)).Status) for image in images]
        finally:
            association.release()

    try:
        assert send(*images[:2]) == [0, 0]
        room = gateway.intake._room
        monkeypatch.setattr(room, "_reserve", 1 << 60)
        assert send(*images[1:]) == [0xA700] * 3  # the first of them is here already
        assert Receiving(site, SOON, refused=gateway.intake.refused).complete() == 0  # they may be sent again
        assert receiving.complete() == 1
        assert row_of(site, uid).completed_by == Basis.EXPECTED_MISSING
        assert row_of(site, uid).missing == 2
        with site.database.write() as connection:
            connection.execute(update(study).values(state="scored"))
        assert send(*images[2:]) == [0xA700] * 2  # tried again: nothing new is known
        assert receiving.complete() == 0
        assert (row_of(site, uid).state, row_of(site, uid).revision) == ("scored", 1)
        assert send(fifth) == [0xA700]  # of a study that has been read
        assert receiving.complete() == 1
        assert (row_of(site, uid).state, row_of(site, uid).revision) == ("queued", 2)
        assert row_of(site, uid).missing == 3
        monkeypatch.setattr(room, "_reserve", 0)
        assert send(*images, fifth) == [0] * 5
        assert receiving.complete() == 1
        assert row_of(site, uid).missing == 0
    finally:
        gateway.close()


def encoded(image: Dataset, syntax: UID) -> Dataset:
    """The image as it comes from a modality that has it in this transfer syntax."""
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    file.seek(0)
    return pydicom.dcmread(file)


def test_a_step_that_is_given_up_holds_nobody(site: Site, gateway: Gateway, radiograph: Callable[..., Dataset]) -> None:
    images = of_one_study(radiograph, 2)
    uid, step = images[0].StudyInstanceUID, generate_uid()
    receiving = Receiving(site, SOON)
    with calling(gateway) as association:
        assert create(association, begun(uid), step) == 0
        store(association, images[0])
        assert receiving.complete() == 0
        assert change(association, ended(images, "DISCONTINUED"), step) == 0
    assert receiving.complete() == 1
    assert row_of(site, uid).completed_by == Basis.SINGLE


def test_the_pacs_says_which_images_of_a_study_it_has(
    site: Site, gateway: Gateway, radiograph: Callable[..., Dataset]
) -> None:
    images = of_one_study(radiograph, 2)
    receiving = Receiving(site, SOON)
    with calling(gateway, "PACS") as association:
        store(association, images[0])
        assert create(association, available(images), generate_uid(), InstanceAvailabilityNotification) == 0
        assert receiving.complete() == 0
        store(association, images[1])
        assert receiving.complete(gateway.intake.sending()) == 1
    assert row_of(site, images[0].StudyInstanceUID).completed_by == Basis.ANNOUNCED


def test_what_was_announced_and_never_comes_is_waited_for_and_then_read_visibly(
    site: Site, gateway: Gateway, radiograph: Callable[..., Dataset], eventually: Callable[..., Any]
) -> None:
    images = of_one_study(radiograph, 2)
    step = generate_uid()
    receiving = Receiving(site, Bounds(0.0, longest=1.0))
    with calling(gateway) as association:
        create(association, begun(images[0].StudyInstanceUID), step)
        change(association, ended(images), step)
        store(association, images[0])
    assert receiving.complete() == 0
    eventually(lambda: receiving.complete() == 1)
    assert row_of(site, images[0].StudyInstanceUID).completed_by == Basis.EXPECTED_MISSING
    (entry,) = site.ledger.entries("study.incomplete")
    assert '"missing":1' in entry.facts
    assert incomplete(site) == "2 images were expected, 1 came"


def test_what_the_images_state_and_never_comes_is_in_the_report(
    site: Site, gateway: Gateway, volumes: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    bundle = volumes.build(tmp_path / "volume", vendor_key)
    shutil.copytree(bundle.folder, site.versions / bundle.digest)
    versions.receive(site, bundle)
    versions.adopt(site, bundle.digest)
    images = volumes.series(count=20, step=3.0, ImagesInAcquisition=20)
    with calling(gateway) as association:
        store(association, *images[:6])
    assert Receiving(site, SOON).complete() == 1
    assert row_of(site, images[0].StudyInstanceUID).completed_by == Basis.HOLES
    assert incomplete(site) == "20 images were expected, 6 came"


def incomplete(site: Site) -> str:
    """Read the one study that waits: what its outcome says is missing, after its report says so too."""
    archive = Archive(site.archive)
    taken = outcomes.take(site)
    assert isinstance(taken, Study)
    result = Pipeline(archive, Tensors(site.tensors, archive), Panel(site).members, "Hospital").process(taken)
    assert outcomes.conclude(site, archive, taken, result, partial(objects, wanted=ResultsConfig()))
    with site.database.read() as connection:
        (reason,) = connection.execute(select(outcome.c.reasons)).scalar_one()
        digest = connection.execute(select(delivery.c.sha256).where(delivery.c.kind == "sr")).scalar_one()
    report = pydicom.dcmread(archive.path(digest))
    assert report.CompletionFlag == "PARTIAL"
    assert reason["code"] == "incomplete"
    return str(reason["text"])


def test_announcements_that_are_wrong_are_refused_as_the_standard_says_and_change_nothing(
    site: Site, gateway: Gateway, radiograph: Callable[..., Dataset]
) -> None:
    image = radiograph()
    uid, step = image.StudyInstanceUID, generate_uid()
    with calling(gateway) as association:
        assert create(association, begun(uid), step) == 0
        known = announcements(site)
        assert create(association, begun(uid), step) == 0x0111  # twice
        assert create(association, begun(""), generate_uid()) == 0x0120  # of no study
        assert create(association, begun(uid, "COMPLETED"), generate_uid()) == 0x0106
        assert create(association, begun(uid, ""), generate_uid()) == 0x0120
        assert create(association, begun(uid), generate_uid(), InstanceAvailabilityNotification) == 0x0120
        assert change(association, ended([image]), generate_uid()) == 0x0112  # never begun
        assert change(association, ended([]), step) == 0x0120  # half: completed, and no series
        assert change(association, ended([image], "DONE"), step) == 0x0106
        with calling(gateway, "STRANGER") as stranger:
            assert change(stranger, ended([image]), step) == 0x0124
        assert announcements(site) == known
        assert change(association, ended([image]), step) == 0
        known = announcements(site)
        status, _ = association.send_n_set(ended([]), ModalityPerformedProcedureStep, step)
        assert (status.Status, status.ErrorID) == (0x0110, 0xA710)  # it has ended
        assert announcements(site) == known
        store(association, image)  # and the association goes on


def test_who_may_not_send_may_not_announce(make_site: Callable[..., Site]) -> None:
    site = make_site(calling_ae_titles=["XRAY1"])
    gateway = Gateway(site)
    try:
        entity = AE("INTRUDER")
        entity.add_requested_context(ModalityPerformedProcedureStep)
        assert not entity.associate("127.0.0.1", gateway.port).is_established
    finally:
        gateway.close()
        site.database.close()


def test_a_sender_that_splits_its_studies_is_learned_and_a_restart_forgets_nothing(
    site: Site, gateway: Gateway, radiograph: Callable[..., Dataset], eventually: Callable[..., Any]
) -> None:
    bounds = Bounds(0.1, longest=20.0)
    first, late = of_one_study(radiograph, 2)
    receiving = Receiving(site, bounds)
    with calling(gateway, "SPLITS") as association:
        store(association, first)
    eventually(lambda: receiving.complete() == 1)
    paused = time.time() - row_of(site, first.StudyInstanceUID).touched_at
    with calling(gateway, "SPLITS") as association:
        store(association, late)
    # the node was restarted before anybody looked
    receiving = Receiving(site, bounds)
    eventually(lambda: receiving.complete() == 1)
    receiving = Receiving(site, bounds)
    other, another = radiograph(), radiograph()
    with calling(gateway, "SPLITS") as association:
        store(association, other)
    with calling(gateway, "PROMPT") as association:
        store(association, another)
    eventually(lambda: receiving.complete() == 1)
    assert row_of(site, another.StudyInstanceUID).state == "queued"
    assert row_of(site, other.StudyInstanceUID).state == "receiving"
    eventually(lambda: receiving.complete() == 1)
    waited = row_of(site, other.StudyInstanceUID)
    assert waited.completed_at - waited.touched_at > paused
    # as many names as a stranger likes to call himself by: the table has its largest size
    with site.database.write() as connection:
        for number in range(MOST_HABITS + 50):
            values = {"seen": 1, "clean": 1, "late": 0, "gaps": [], "changed_at": number}
            connection.execute(insert(habit).values(calling_ae=f"AE{number}", modality="DX", basis="single", **values))
    with calling(gateway, "PROMPT") as association:
        store(association, radiograph())
    eventually(lambda: receiving.complete() == 1)
    with site.database.read() as connection:
        kept = connection.execute(select(habit.c.calling_ae)).scalars().all()
    assert len(kept) == MOST_HABITS
    assert {"SPLITS", "PROMPT"} <= set(kept)


def test_a_kept_association_holds_only_the_study_that_it_sent_of_last(
    site: Site, gateway: Gateway, radiograph: Callable[..., Dataset]
) -> None:
    before, now = radiograph(), radiograph()
    receiving = Receiving(site, SOON)
    with calling(gateway) as association:
        store(association, before)
        assert receiving.complete(gateway.intake.sending()) == 0
        store(association, now)
        assert receiving.complete(gateway.intake.sending()) == 1
        assert row_of(site, before.StudyInstanceUID).state == "queued"
    assert receiving.complete() == 1


def test_numbers_that_cannot_be_read_are_no_reason_to_refuse_an_image(
    site: Site, gateway: Gateway, radiograph: Callable[..., Dataset]
) -> None:
    odd = radiograph(InstanceNumber=None)
    odd.add_new(0x00200013, "LO", "one of\\many")
    fine = radiograph(InstanceNumber=7, ImagesInAcquisition=12, AcquisitionNumber=2)
    with calling(gateway, "XRAY") as association:
        store(association, odd, fine)
    with site.database.read() as connection:
        kept = {row.sop_uid: row for row in connection.execute(select(instance))}
    assert kept[odd.SOPInstanceUID].number is None
    found = kept[fine.SOPInstanceUID]
    assert (found.number, found.stated, found.acquisition, found.modality, found.calling_ae) == (7, 12, 2, "DX", "XRAY")


@contextlib.contextmanager
def counting(answer: Callable[[Dataset], Iterator[tuple[int, Dataset | None]]]) -> Iterator[PeerConfig]:
    """A PACS that is asked for counts."""
    entity = AE("PACS")
    entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
    handlers: Any = [(evt.EVT_C_FIND, lambda event: answer(event.identifier))]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    assert server is not None
    try:
        yield PeerConfig("127.0.0.1", server.server_address[1], "PACS", query=True)
    finally:
        server.shutdown()


def series(question: Dataset, modality: str, count: object) -> tuple[int, Dataset]:
    answer = Dataset()
    answer.QueryRetrieveLevel = "SERIES"
    answer.StudyInstanceUID = question.StudyInstanceUID
    answer.SeriesInstanceUID = generate_uid()
    answer.Modality = modality
    if count is not None:
        answer.NumberOfSeriesRelatedInstances = count
    return 0xFF00, answer


def test_the_count_of_the_pacs_holds_a_study_and_only_images_count(
    make_site: Callable[..., Site], radiograph: Callable[..., Dataset], eventually: Callable[..., Any]
) -> None:
    def answer(question: Dataset) -> Iterator[tuple[int, Dataset | None]]:
        yield series(question, "DX", 2)
        yield series(question, "SR", 5)

    with counting(answer) as pacs:
        site = make_site(pacs=pacs)
        gateway, census = Gateway(site), Census(site)
        receiving = Receiving(site, Bounds(0.2), census)
        try:
            images = of_one_study(radiograph, 2)
            uid = str(images[0].StudyInstanceUID)
            with calling(gateway, "PACS") as association:
                store(association, images[0])
            time.sleep(0.1)  # a pause that is looked at
            receiving.complete()
            eventually(lambda: census.count(uid, 0.0))
            time.sleep(0.3)  # longer than it would wait by the quiet alone
            assert receiving.complete() == 0
            assert row_of(site, uid).state == "receiving"
            with calling(gateway, "PACS") as association:
                store(association, images[1])
            eventually(lambda: receiving.complete() == 1)
            assert row_of(site, uid).completed_by == Basis.COUNTED
        finally:
            census.close()
            gateway.close()
            site.database.close()


def test_asking_does_not_wait_for_the_answer(make_site: Callable[..., Site]) -> None:
    asked, before = threading.Event(), []

    def answer(question: Dataset) -> Iterator[tuple[int, Dataset | None]]:
        before.append(asked.wait(20))
        yield series(question, "DX", 3)

    with counting(answer) as pacs:
        site = make_site(pacs=pacs)
        census = Census(site, answer_seconds=60.0)
        census.ask("1.2.3")
        asked.set()
        census.close()
        site.database.close()
    assert before in ([], [True])


@pytest.mark.parametrize("count", [-1, None, 10**9])
def test_a_count_that_cannot_be_is_none(make_site: Callable[..., Site], count: int | None) -> None:
    with counting(lambda question: iter([series(question, "DX", count)])) as pacs:
        assert asked(make_site(pacs=pacs)) is None


def test_a_pacs_that_fails_is_no_evidence_and_holds_nobody(make_site: Callable[..., Site]) -> None:
    with counting(lambda _: iter([(0xA700, None)])) as pacs:
        assert asked(make_site(pacs=pacs)) is None
    assert asked(make_site("gone", pacs=pacs)) is None


def asked(site: Site) -> object:
    """What is known once the PACS has been asked."""
    census = Census(site, answer_seconds=2.0)
    census.ask("1.2.3")
    census.close()  # waits for the answer under way
    site.database.close()
    return census.count("1.2.3", 0.0)
