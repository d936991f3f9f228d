"""From errors that readers find to a version that reads nothing, in a running node, and back by a person's word."""

import re
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from sqlalchemy import select, update
from typer.testing import CliRunner

from client.inference.traits import SIZE
from client.review import readers
from client.store import suspensions, versions
from client.store.site import Site
from client.store.tables import outcome, study, trait, version
from models.errors import NotFound
from scripts.vigie import app

pytestmark = pytest.mark.integration

Scored = Callable[..., str]
YEAR = 365 * 86400.0


@pytest.fixture
def unread(site: Site, scored: Scored) -> list[str]:
    """Exams of the random sample, read in the last weeks by a version that has served for a year."""
    began = time.time() - YEAR
    names = (name for number in count() if site.fold(name := f"P{number}") != "train")
    uids = [scored(score=0.9, patient_id=next(names), objects=True) for _ in range(12)]
    with site.database.write() as connection:
        connection.execute(update(version).values(adopted_at=began))
        for number, uid in enumerate(uids):
            at = began + YEAR - (20 - number) * 86400
            connection.execute(update(outcome).where(outcome.c.study_uid == uid).values(created_at=at))
    return uids


def send(port: int, image: Dataset) -> str:
    entity = AE("MODALITY")
    entity.add_requested_context(image.SOPClassUID, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port)
    assert association.is_established
    assert association.send_c_store(image).Status == 0
    association.release()
    return str(image.StudyInstanceUID)


def state(site: Site, uid: str) -> str:
    with site.database.read() as connection:
        return str(connection.execute(select(study.c.state).where(study.c.uid == uid)).scalar())


def reasons(site: Site, uid: str) -> list[str]:
    with site.database.read() as connection:
        row = connection.execute(select(outcome.c.reasons).where(outcome.c.study_uid == uid)).scalar()
    return [reason["code"] for reason in row or ()]


def traits(site: Site, uid: str) -> Any:
    query = select(trait).join(outcome, outcome.c.id == trait.c.outcome_id).where(outcome.c.study_uid == uid)
    with site.database.read() as connection:
        return connection.execute(query).first()


def command(site: Site, *words: str, status: int = 0) -> str:
    said = CliRunner().invoke(app, ["site", "watch", *words, "--folder", str(site.folder)], env={"COLUMNS": "200"})
    assert said.exit_code == status, said.output
    return said.output


def test_errors_ring_the_alarm_and_the_version_reads_nothing_until_a_person_lets_it(
    site: Site,
    unread: list[str],
    radiograph: Callable[..., Dataset],
    run_node: Callable[[Site], Any],
    eventually: Callable[..., Any],
    tmp_path: Path,
) -> None:
    served = versions.serving(site, "brightness")
    assert served is not None
    node = run_node(site)
    before = send(node.dicom_port, radiograph())
    eventually(lambda: state(site, before) == "scored", 60)
    seen = eventually(lambda: traits(site, before), 60)
    assert (seen.words["view"], "score" in seen.numbers, len(seen.look)) == ("PA", True, 2 * SIZE)
    token, operator = readers.add(site, "ada", "clinician"), readers.add(site, "it", "it")
    with httpx.Client(base_url=f"http://127.0.0.1:{node.api_port}", timeout=60) as http:
        wrong = {"revision": 1, "decision": "correct", "answer": "negative", "reason": "overlap"}
        blind = {"tier": "single_reader", "mode": "doctor_first"}
        for uid in unread:
            answer = http.post(
                f"/api/studies/{uid}/verdicts", json=wrong | blind, headers={"Authorization": f"Bearer {token}"}
            )
            assert answer.status_code < 400, answer.text
        eventually(lambda: served.digest in suspensions.standing(site), 60)

        refused = send(node.dicom_port, radiograph())
        eventually(lambda: state(site, refused) == "refused", 60)
        assert reasons(site, refused) == ["suspended"]
        shown = command(site, "show", "--svg", str(tmp_path / "pictures"), status=1)
        assert "ALARM 1" in shown
        assert "(suspended)" in shown
        assert len(list((tmp_path / "pictures").glob("*.svg"))) == 1
        assert "NOT NOTED" in command(site, "alarms")

        http.post("/login", data={"token": token})
        page = http.get("/").text
        assert "Alarm: " in page
        assert http.get("/api/health").json() == {"status": "alarm"}
        assert "Taken note" not in page  # it is for whoever answers for the version
        assert http.post("/watch/alarms/1", data={"csrf": "0" * 64}).status_code == 403
        http.post("/login", data={"token": operator})
        page = http.get("/watch").text
        assert "suspended" in page
        csrf = re.findall(r'name="csrf" value="(\w+)"', page)[0]
        assert http.post("/watch/alarms/1", data={"csrf": "0" * 64}).status_code == 403
        assert http.post("/watch/alarms/1", data={"csrf": csrf}).status_code == 303
        assert "Alarm: " not in http.get("/").text
        assert "reads no study since" in http.get("/").text
        assert http.get("/api/health").json() == {"status": "suspended"}
        form = {"csrf": csrf, "act": "resume", "reason": "mistake"}
        assert http.post(f"/watch/{served.digest}", data=form).status_code == 303
        assert http.post(f"/watch/{served.digest}", data=form).status_code == 409
        assert http.post(f"/watch/{'0' * 64}", data=form).status_code == 404
        assert "noted by it" in command(site, "alarms")
        assert "12 exams since" not in http.get("/watch").text
        http.post(f"/api/studies/{refused}/retry", headers={"Authorization": f"Bearer {operator}"})
        eventually(lambda: state(site, refused) == "scored", 60)
    command(site, "suspend", served.label, "--reason", "safety", "--by", "Dr Curie")
    command(site, "show", status=1)
    command(site, "resume", served.digest[:12], "--by", "Dr Curie")
    command(site, "show")
    with pytest.raises(NotFound):
        CliRunner().invoke(app, ["site", "watch", "resume", "--folder", str(site.folder), "brightness@99"],
                           catch_exceptions=False)  # fmt: skip
    events = [entry.event for entry in site.ledger.entries("version.")]
    assert (events.count("version.suspended"), events.count("version.resumed")) == (2, 2)
    node.stop()
