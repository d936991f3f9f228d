"""The hospital's worklist follows each study that the node reads, whatever goes wrong between the two."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE
from sqlalchemy import insert, select, update

from client.delivery import workflow
from client.delivery.sender import Pace
from client.delivery.workflow import Follower
from client.doctor import examine
from client.store.archive import Archive
from client.store.site import Site, write_secret
from client.store.tables import delivery, instance, outcome, study, workitem
from configs.schema import UpsConfig

pytestmark = pytest.mark.integration

UID = "1.2.826.5"
FAST = Pace(first=0.0, longest=0.05, poll=0.01)


@pytest.fixture(scope="session")
def ups_server() -> ModuleType:
    """tests/support/ups_server.py"""
    import importlib.util

    path = Path(__file__).parents[1] / "support" / "ups_server.py"
    spec = importlib.util.spec_from_file_location("tests_ups_server", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server(ups_server: ModuleType) -> Iterator[Any]:
    made = ups_server.UpsServer()
    yield made
    made.close()


@pytest.fixture
def hospital(make_site: Callable[..., Site], server: Any) -> Iterator[Site]:
    site = make_site(ups=UpsConfig(url=server.url, create=True))
    yield site
    site.database.close()


@pytest.fixture
def queued(hospital: Site, radiograph: Callable[..., Dataset]) -> str:
    """A study that waits for its turn."""
    image = radiograph(StudyInstanceUID=UID, PatientName="Worklist^Test")
    buffer = io.BytesIO()
    image.save_as(buffer, enforce_file_format=True)
    digest = Archive(hospital.archive).store(buffer.getvalue())
    with hospital.database.write() as connection:
        connection.execute(insert(study).values(uid=UID, state="queued", received_at=1.0, touched_at=1.0))
        connection.execute(
            insert(instance).values(
                sop_uid=str(image.SOPInstanceUID),
                sha256=digest,
                study_uid=UID,
                transfer_syntax="1.2",
                series_uid=str(image.SeriesInstanceUID),
                sop_class=str(image.SOPClassUID),
                revision=1,
                received_at=1.0,
            )
        )
    return UID


def take(site: Site, revision: int = 1) -> None:
    """As the worker does."""
    with site.database.write() as connection:
        connection.execute(update(study).where(study.c.uid == UID).values(attempts=1))
        workflow.begin(connection, UID, revision)


def conclude(site: Site, kind: str) -> None:
    """A study that is not read, as the worker writes it."""
    reasons = [{"code": "wrong-modality", "text": ""}, {"code": "series-missing", "text": ""}]
    values = {"study_uid": UID, "revision": 1, "kind": kind, "reasons": reasons, "created_at": 2.0}
    with site.database.write() as connection:
        connection.execute(update(study).where(study.c.uid == UID).values(state=kind))
        connection.execute(insert(outcome).values(**values))


def objects_are(site: Site, state: str) -> None:
    with site.database.write() as connection:
        connection.execute(update(delivery).values(state=state))


def deliver(site: Site, state: str, radiograph: Callable[..., Dataset]) -> str:
    """A scored outcome with one object in this state; the object's UID."""
    made = radiograph(
        SOPClassUID="1.2.840.10008.5.1.4.1.1.88.34", SOPInstanceUID="2.25.99", SeriesInstanceUID="2.25.98"
    )
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    digest = Archive(site.archive).store(buffer.getvalue())
    with site.database.write() as connection:
        connection.execute(update(study).where(study.c.uid == UID).values(state="scored"))
        written = connection.execute(
            insert(outcome).values(study_uid=UID, revision=1, kind="scored", reasons=[], created_at=2.0)
        ).inserted_primary_key
        assert written is not None
        connection.execute(
            insert(delivery).values(sop_uid="2.25.99", outcome_id=written[0], kind="sr", sha256=digest, state=state)
        )
    return "2.25.99"


def row(site: Site) -> Any:
    with site.database.read() as connection:
        return connection.execute(select(workitem)).one()


def follow(site: Site, times: int = 1) -> None:
    """As many rounds of a fresh follower each: nothing is remembered but what is on the disk."""
    for _ in range(times):
        follower = Follower(site, FAST)
        follower.follow()
        follower.stop()


def the_item(server: Any) -> Dataset:
    (item,) = server.items.values()
    return item


def test_a_step_is_made_claimed_and_completed_with_what_came_out(
    hospital: Site, server: Any, queued: str, radiograph: Callable[..., Dataset]
) -> None:
    follow(hospital)
    item = the_item(server)
    assert item.ProcedureStepState == "SCHEDULED"
    assert str(item.PatientName) == "Worklist^Test"
    assert item.InputInformationSequence[0].StudyInstanceUID == UID
    assert item.ScheduledStationNameCodeSequence[0].CodeValue == hospital.config.ae_title

    take(hospital)
    follow(hospital)
    assert item.ProcedureStepState == "IN PROGRESS"

    made = deliver(hospital, "pending", radiograph)
    follow(hospital)
    assert item.ProcedureStepState == "IN PROGRESS"  # what nobody can fetch yet is not done
    assert item.ProcedureStepProgressInformationSequence[0].ProcedureStepProgress == 90

    objects_are(hospital, "sent")
    follow(hospital, 2)
    assert item.ProcedureStepState == "COMPLETED"
    (output,) = item.UnifiedProcedureStepPerformedProcedureSequence[0].OutputInformationSequence
    assert output.StudyInstanceUID == UID
    assert output.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == made
    assert output.DICOMRetrievalSequence[0].RetrieveAETitle == hospital.config.pacs.ae_title
    assert [state for _, state in server.history] == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    assert row(hospital).state == "completed"


@pytest.mark.parametrize(
    ("kind", "codes"), [("refused", ["110522", "110523"]), ("failed", ["110501"])], ids=["refused", "failed"]
)
def test_a_refusal_and_a_failure_cancel_the_step_and_say_why(
    hospital: Site, server: Any, queued: str, kind: str, codes: list[str]
) -> None:
    take(hospital)
    conclude(hospital, kind)
    follow(hospital)

    item = the_item(server)
    told = item.ProcedureStepProgressInformationSequence[0]
    assert item.ProcedureStepState == "CANCELED"
    assert [code.CodeValue for code in told.ProcedureStepDiscontinuationReasonCodeSequence] == codes
    assert told.ReasonForCancellation == "wrong-modality, series-missing"
    assert row(hospital).state == "canceled"


def test_a_step_scheduled_for_us_is_claimed_and_no_other_s(hospital: Site, server: Any, queued: str) -> None:
    server.schedule("2.25.5", UID, "RADIOLOGIST")
    server.schedule("2.25.6", "1.2.3", hospital.config.ae_title)
    server.schedule("2.25.7", UID, hospital.config.ae_title)
    take(hospital)
    follow(hospital)

    assert [server.state(uid) for uid in ("2.25.5", "2.25.6", "2.25.7")] == ["SCHEDULED", "SCHEDULED", "IN PROGRESS"]
    assert len(server.items) == 3


def test_where_none_is_made_a_study_without_a_step_is_left_out_once_it_is_read(
    make_site: Callable[..., Site], server: Any
) -> None:
    site = make_site("quiet", ups=UpsConfig(url=server.url))
    with site.database.write() as connection:
        connection.execute(insert(study).values(uid=UID, state="queued", received_at=1.0, touched_at=1.0))
    follow(site, 2)
    assert row(site).state == "due"
    take(site)
    conclude(site, "refused")
    follow(site)

    assert row(site).state == "absent"
    assert server.items == {}
    site.database.close()


def test_every_answer_may_be_lost_and_nothing_happens_twice(
    hospital: Site, server: Any, queued: str, radiograph: Callable[..., Dataset]
) -> None:
    server.deaf = 1  # made, and nobody heard of it
    follow(hospital, 2)
    assert len(server.items) == 1
    assert row(hospital).state == "scheduled"

    take(hospital)
    server.deaf = 1  # claimed, and nobody heard of it: the second claim is refused, and the lock is ours
    follow(hospital, 2)
    assert row(hospital).state == "claimed"

    deliver(hospital, "sent", radiograph)
    server.deaf = 1  # what came out
    follow(hospital)
    assert row(hospital).state == "claimed"
    server.deaf = 2  # what came out, said again
    follow(hospital, 3)
    assert row(hospital).state == "completed"
    assert [state for _, state in server.history] == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]


def test_a_completion_that_was_not_heard_is_found_out(
    hospital: Site, server: Any, queued: str, radiograph: Callable[..., Dataset]
) -> None:
    take(hospital)
    follow(hospital)
    deliver(hospital, "sent", radiograph)
    the_item(server).ProcedureStepState = "COMPLETED"  # by us: the answer was lost, and the node killed

    follow(hospital)

    assert row(hospital).state == "completed"


@pytest.mark.parametrize("how", ["claimed", "canceled", "removed"])
def test_what_another_did_to_a_step_stands_and_the_study_is_read_all_the_same(
    hospital: Site, server: Any, queued: str, radiograph: Callable[..., Dataset], how: str
) -> None:
    follow(hospital)
    (uid,) = server.items
    if how == "removed":
        server.items.clear()
    else:
        server.put(uid, {"claimed": "IN PROGRESS", "canceled": "CANCELED"}[how])
    take(hospital)
    deliver(hospital, "sent", radiograph)
    follow(hospital, 2)

    assert row(hospital).state == "lost"
    assert server.state(uid) == {"claimed": "IN PROGRESS", "canceled": "CANCELED", "removed": "GONE"}[how]


@pytest.mark.parametrize("status", [503, 401, 500])
def test_a_server_that_is_away_costs_nothing_but_time(hospital: Site, server: Any, queued: str, status: int) -> None:
    server.outage = status
    take(hospital)
    conclude(hospital, "refused")
    follow(hospital, 12)
    assert row(hospital).state == "due"
    assert row(hospital).attempts == 0
    server.outage = None
    follow(hospital)

    assert [state for _, state in server.history] == ["SCHEDULED", "IN PROGRESS", "CANCELED"]


def test_the_server_s_token_is_the_one_in_the_secrets(hospital: Site, server: Any, queued: str) -> None:
    server.token = "worklist secret"
    follow(hospital)
    assert server.items == {}
    write_secret(hospital.secrets / "ups.token", b"worklist secret\n")
    follow(hospital)

    assert len(server.items) == 1


def test_a_later_revision_has_a_step_of_its_own(hospital: Site, server: Any, queued: str) -> None:
    take(hospital)
    conclude(hospital, "refused")
    follow(hospital)
    with hospital.database.write() as connection:
        connection.execute(update(study).where(study.c.uid == UID).values(state="queued", revision=2, attempts=0))
    follow(hospital)

    assert sorted(item.ProcedureStepState for item in server.items.values()) == ["CANCELED", "SCHEDULED"]


def test_a_node_s_worklist_is_told_through_a_kill(
    make_site: Callable[..., Site],
    server: Any,
    pacs: Any,
    run_node: Callable[[Site], Any],
    radiograph: Callable[..., Dataset],
    eventually: Callable[..., Any],
) -> None:
    site = make_site("whole", pacs=pacs.config, ups=UpsConfig(url=server.url, create=True))
    server.outage = 503  # reading does not wait for it
    node = run_node(site)
    entity = AE("MODALITY")
    image = radiograph()
    entity.add_requested_context(image.SOPClassUID)
    association = entity.associate("127.0.0.1", node.dicom_port, ae_title=site.config.ae_title)
    assert association.send_c_store(image).Status == 0x0000
    association.release()
    eventually(lambda: len(pacs.received) == 2 and server.log, 60)
    node.kill()
    server.outage = None
    objects_are(site, "sent")  # the PACS has them; the kill may have come before that was written down
    follow(site)

    assert [state for _, state in server.history] == ["SCHEDULED", "IN PROGRESS", "COMPLETED"]
    (done,) = the_item(server).UnifiedProcedureStepPerformedProcedureSequence
    named = {
        item.ReferencedSOPInstanceUID for out in done.OutputInformationSequence for item in out.ReferencedSOPSequence
    }
    assert named == set(pacs.received)


def test_the_doctor_says_whether_the_worklist_answers(hospital: Site, server: Any, queued: str) -> None:
    def said() -> tuple[bool, str]:
        (check,) = (check for check in examine(hospital) if check.name == "worklist")
        return check.ok, check.found

    follow(hospital)
    assert said()[0]
    assert "1 scheduled for us" in said()[1]
    server.outage = 503
    assert not said()[0]
