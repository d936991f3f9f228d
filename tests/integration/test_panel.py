"""Several versions on one panel: the one that fits reads, the others look on in shadow, and nobody is shown that."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydicom.dataset import Dataset
from pynetdicom import AE
from sqlalchemy import select, update
from typer.testing import CliRunner

from client.inference import scope
from client.inference.choice import EVERYBODY, Candidate, choose
from client.inference.evidence import gathered, told
from client.inference.panel import record
from client.inference.pipeline import Failed
from client.inference.shadow import due, keep
from client.review import readers, verdict
from client.review.verdict import Answer, Decision, Mode, Reason, TruthTier
from client.store import versions
from client.store.site import Site
from client.store.tables import delivery, outcome, shadow, study
from models.bundle import Bundle
from scripts import site_commands

pytestmark = pytest.mark.integration


def send(port: int, *images: Dataset) -> None:
    entity = AE("MODALITY")
    for uid in {image.SOPClassUID for image in images}:
        entity.add_requested_context(uid)
    association = entity.associate("127.0.0.1", port, ae_title="VIGIE")
    assert association.is_established
    assert {association.send_c_store(image).get("Status") for image in images} == {0}
    association.release()


def take_in(site: Site, bundle: Bundle) -> None:
    shutil.copytree(bundle.folder, site.versions / bundle.digest)
    versions.receive(site, bundle)


def rows(site: Site, table: Any) -> list[Any]:
    with site.database.read() as connection:
        return list(connection.execute(select(table)))


def test_each_study_goes_to_a_version_that_fits_and_the_others_read_in_shadow(
    site: Site,
    bundles: ModuleType,
    volumes: ModuleType,
    vendor_key: Ed25519PrivateKey,
    tmp_path: Path,
    radiograph: Callable[..., Dataset],
    run_node: Callable[[Site], Any],
    eventually: Callable[..., Any],
) -> None:
    first = versions.serving(site, "brightness")
    assert first is not None
    nodule = volumes.build(tmp_path / "nodule", vendor_key)
    eager = bundles.build(tmp_path / "eager", vendor_key, gain=9.0, name="eager", rank=1)
    trial = bundles.build(tmp_path / "trial", vendor_key, gain=7.0, number=2)
    for bundle in (nodule, eager, trial):
        take_in(site, bundle)
    versions.adopt(site, nodule.digest)
    versions.adopt(site, eager.digest)
    versions.put(site, trial.digest, "shadow", "too-few-positives")
    node = run_node(site)

    chest, slices = radiograph(), volumes.series(count=12)
    send(node.dicom_port, chest)
    send(node.dicom_port, *slices)
    eventually(lambda: len(rows(site, outcome)) == 2, 60)
    # the radiograph: the version that was not asked and the one in shadow; the CT: both radiograph versions refuse it
    eventually(lambda: len(rows(site, shadow)) >= 5, 60)

    read = {row.study_uid: row for row in rows(site, outcome)}
    assert read[slices[0].StudyInstanceUID].version_digest == nodule.digest
    assert read[slices[0].StudyInstanceUID].chosen == "only"
    by_eager = read[chest.StudyInstanceUID]
    assert (by_eager.version_digest, by_eager.chosen) == (eager.digest, "vendor")
    aside = {row.version_digest: row for row in rows(site, shadow) if row.outcome_id == by_eager.id}
    assert set(aside) == {first.digest, trial.digest, nodule.digest}
    assert aside[first.digest].kind == "scored"
    assert aside[trial.digest].score is not None
    assert (aside[nodule.digest].kind, "modality" in aside[nodule.digest].reasons) == ("refused", True)
    assert {row.outcome_id for row in rows(site, delivery)} == {row.id for row in rows(site, outcome)}
    assert {row.prepared_by.split()[0] for row in read.values()} <= {"monai", "numpy", "dali"}


def test_the_record_counts_what_was_read_and_what_was_read_in_shadow(
    site: Site, scored: Callable[..., str], bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    first = versions.serving(site, "brightness")
    assert first is not None
    other = bundles.build(tmp_path / "other", vendor_key, gain=9.0, name="other")
    take_in(site, other)
    uid = scored(score=0.9)
    readers.add(site, "Dr A", "clinician")
    verdict.record(
        site,
        uid,
        "Dr A",
        revision=1,
        decision=Decision.CORRECT,
        answer=Answer.NEGATIVE,
        tier=TruthTier.SINGLE_READER,
        mode=Mode.DOCTOR_FIRST,
        reason=Reason.OTHER,
    )
    with site.database.write() as connection:
        connection.execute(
            shadow.insert().values(
                outcome_id=1, version_digest=other.digest, kind="scored", reasons=[], positive=False, created_at=1.0
            )
        )

    known = record(site)

    assert known[first.digest, EVERYBODY].false_positive == 1
    assert known[other.digest, EVERYBODY].true_negative == 1


def validated(site: Site, scored: Callable[..., str], positive: bool, right: bool) -> int:
    """A study that the version which serves read, and a reader's truth; gives the outcome's number."""
    uid = scored(score=0.9 if positive is right else 0.1)
    verdict.record(
        site,
        uid,
        "Dr A",
        revision=1,
        decision=Decision.AGREE if right else Decision.CORRECT,
        answer=Answer.POSITIVE if positive else Answer.NEGATIVE,
        tier=TruthTier.SINGLE_READER,
        mode=Mode.DOCTOR_FIRST,
        reason=None if right else Reason.OTHER,
    )
    return max(row.id for row in rows(site, outcome))


def test_a_newcomer_behind_a_proven_version_gets_its_record_by_looking_on(
    site: Site,
    scored: Callable[..., str],
    bundles: ModuleType,
    vendor_key: Ed25519PrivateKey,
    tmp_path: Path,
) -> None:
    """No patient is read by it to learn about it, and a person sees how far it has come and what keeps it from it."""
    first = versions.serving(site, "brightness")
    assert first is not None
    readers.add(site, "Dr A", "clinician")
    assert told(gathered(site)) == ("one version reads: nothing to choose between", "")
    other = bundles.build(tmp_path / "other", vendor_key, gain=9.0, name="other", rank=1)
    take_in(site, other)
    versions.adopt(site, other.digest)
    numbers = [validated(site, scored, positive=number % 2 == 0, right=number % 10 > 1) for number in range(50)]

    def candidates() -> str:
        both = [Candidate(first.digest, "brightness@1", 0), Candidate(other.digest, "other@1", 1)]
        return choose(both, record(site), "F|40-64|siemens").digest

    assert candidates() == first.digest
    found, advice = told(gathered(site))
    assert "other@1 has no record yet (0 of 20 validated positives, 0 of 20 negatives)" in found
    assert "50 wait" in found
    assert advice == ""  # it has only begun

    while work := due(site):
        assert work.digest == other.digest
        if len(numbers) - numbers.index(work.outcome_id) < 4:  # the newest are looked at first
            keep(site, work, Failed(scope.Reason("crashed", "it ended")))
            assert "other@1 fails on every study" in told(gathered(site))[1]
        else:
            positive = numbers.index(work.outcome_id) % 2 == 0
            answer = SimpleNamespace(score=float(positive), threshold=0.5, positive=positive)
            keep(site, work, cast("Any", SimpleNamespace(best=answer)))  # what it would have said was always right

    found, advice = told(gathered(site))
    assert "other@1 0." in found
    assert "on 24 validated positives and 23 negatives" in found
    assert "no record" not in found
    assert advice == ""
    assert candidates() == other.digest  # it was right more often, on the same patients


def test_a_version_that_never_gets_to_look_on_is_said(
    site: Site, scored: Callable[..., str], bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    other = bundles.build(tmp_path / "other", vendor_key, gain=9.0, name="other", rank=1)
    take_in(site, other)
    versions.adopt(site, other.digest)
    uid = scored()
    with site.database.write() as connection:
        (row,) = connection.execute(select(outcome)).all()
        values = {key: value for key, value in row._mapping.items() if key != "id"}
        many = [f"{uid}.{number}" for number in range(99)]
        (known,) = connection.execute(select(study)).all()
        connection.execute(study.insert(), [dict(known._mapping) | {"uid": one} for one in many])
        connection.execute(outcome.insert(), [values | {"study_uid": one} for one in many])
    found, advice = told(gathered(site))
    assert "100 wait" in found
    assert "the node never rests" in advice
    with site.database.write() as connection:
        connection.execute(update(outcome).values(created_at=1.0))  # from before it came
    assert told(gathered(site))[1] == ""


def test_a_person_puts_a_version_into_shadow(
    site: Site, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    other = bundles.build(tmp_path / "other", vendor_key, gain=9.0, name="other", rank=1)
    take_in(site, other)

    def ask(*words: str) -> Any:
        return CliRunner().invoke(site_commands.app, [words[0], "--folder", str(site.folder), *words[1:]])

    done = ask("shadow", other.digest[:8])
    assert done.exit_code == 0, done.output
    assert "other@1 looks on; on the panel: brightness@1" in done.output
    held = versions.find(site, other.digest)
    assert held is not None
    assert held.state == "shadow"
    versions.put(site, other.digest, "refused", "worse")
    again = ask("shadow", other.digest)
    assert again.exit_code != 0
    assert "cannot be put into shadow" in str(again.exception)
    assert "looks on" in ask("shadow", "--help").output or "look on" in ask("shadow", "--help").output
