"""Several versions on one panel: the one that fits reads, the others look on in shadow, and nobody is shown that."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydicom.dataset import Dataset
from pynetdicom import AE
from sqlalchemy import select

from client.inference.choice import EVERYBODY
from client.inference.panel import record
from client.review import readers, verdict
from client.review.verdict import Answer, Decision, Mode, Reason, TruthTier
from client.store import versions
from client.store.site import Site
from client.store.tables import delivery, outcome, shadow
from models.bundle import Bundle

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
