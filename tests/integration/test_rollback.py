"""Going back to the version before, in the middle of a day's work: nothing waits for ever, nothing is read twice."""

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from sqlalchemy import select, update
from typer.testing import CliRunner

from client.inference.panel import load
from client.store import versions
from client.store.site import Site
from client.store.tables import outcome, study, version
from models.bundle import Bundle, from_archive, to_archive
from models.errors import Conflict, NotFound
from models.signing import load_trust
from scripts.site_commands import app

pytestmark = pytest.mark.integration

DX = "1.2.840.10008.5.1.4.1.1.1.1"


@pytest.fixture
def newer(site: Site, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path) -> Callable[[int], Bundle]:
    """Take in and adopt the version of this number."""

    def adopt(number: int) -> Bundle:
        made = bundles.build(tmp_path / f"version-{number}", vendor_key, gain=5.0 + number, number=number)
        held = from_archive(to_archive(made), site.versions, load_trust(site.trust))
        versions.receive(site, held)
        load(site, held.digest)
        versions.adopt(site, held.digest)
        return held

    return adopt


def _send(port: int, images: list[Dataset]) -> None:
    entity = AE("MODALITY")
    entity.add_requested_context(DX, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port)
    assert association.is_established
    assert [association.send_c_store(image).Status for image in images] == [0] * len(images)
    association.release()


def _outcomes(site: Site) -> list[Any]:
    with site.database.read() as connection:
        return list(connection.execute(select(outcome).order_by(outcome.c.id)).all())


def test_every_study_has_one_outcome_by_the_old_or_the_new_version(
    site: Site,
    newer: Callable[[int], Bundle],
    run_node: Callable[..., Any],
    radiograph: Callable[..., Dataset],
    eventually: Callable[..., Any],
) -> None:
    before = versions.panel(site)[0].digest
    after = newer(2).digest
    node = run_node(site)
    images = [radiograph(0.2 + 0.015 * number) for number in range(30)]
    sending = threading.Thread(target=_send, args=(node.dicom_port, images))
    sending.start()
    eventually(lambda: len(_outcomes(site)) >= 5)

    done = CliRunner().invoke(app, ["rollback", "--folder", str(site.folder), "brightness", "--reason", "quality"])

    assert done.exit_code == 0, done.output
    sending.join()
    later = [radiograph(0.3) for _ in range(3)]
    _send(node.dicom_port, later)
    eventually(lambda: len(_outcomes(site)) >= 33, timeout=60)
    found = _outcomes(site)
    assert Counter(row.study_uid for row in found) == Counter(str(one.StudyInstanceUID) for one in images + later)
    by = [row.version_digest for row in found]
    assert set(by[:5]) == {after}
    assert set(by) == {before, after}
    late = {str(one.StudyInstanceUID) for one in later}
    assert {row.version_digest for row in found if row.study_uid in late} == {before}
    with site.database.read() as connection:
        assert set(connection.execute(select(study.c.state)).scalars()) == {"scored"}
    (entry,) = site.ledger.entries("version.rolled-back")
    assert '"reason":"quality"' in entry.facts
    assert after in entry.facts
    node.stop()


def test_a_clock_that_was_wrong_does_not_change_what_served_before(site: Site, newer: Callable[[int], Bundle]) -> None:
    first = versions.panel(site)[0].digest
    with site.database.write() as connection:  # adopted while the clock was years ahead
        connection.execute(update(version).where(version.c.digest == first).values(adopted_at=4e9))
    second = newer(2).digest
    newer(3)
    assert versions.roll_back(site, "brightness").digest == second
    assert versions.roll_back(site, "brightness").digest == first


def test_going_back_again_goes_further_back_and_never_to_what_was_left(
    site: Site, newer: Callable[[int], Bundle]
) -> None:
    first = versions.panel(site)[0].digest
    second, third = newer(2).digest, newer(3).digest
    assert versions.roll_back(site, "brightness").digest == second
    assert versions.roll_back(site, "brightness").digest == first
    with pytest.raises(NotFound):
        versions.roll_back(site, "brightness")
    assert [held.digest for held in versions.panel(site)] == [first]
    # a person may bring one back, and go back from it
    versions.adopt(site, third, "it", versions.Why.MISTAKE)
    assert versions.roll_back(site, "brightness").digest == first


def test_what_a_person_has_retired_is_not_gone_back_to(site: Site, newer: Callable[[int], Bundle]) -> None:
    first = versions.panel(site)[0].digest
    second = newer(2).digest
    versions.retire(site, "brightness")
    assert versions.roll_back(site, "brightness").digest == first
    versions.retire(site, "brightness")
    with pytest.raises(NotFound):
        versions.roll_back(site, "brightness")
    assert versions.panel(site) == []
    # what was recalled was not retired by hand: before it served the one that is gone back to
    versions.adopt(site, first, "it", versions.Why.MISTAKE)
    versions.adopt(site, second, "it", versions.Why.MISTAKE)
    versions.put(site, second, "withdrawn", "recall")
    assert versions.roll_back(site, "brightness").digest == first


def test_a_version_that_is_recalled_while_it_is_loaded_serves_no_more(
    site: Site, newer: Callable[[int], Bundle]
) -> None:
    first, second = versions.panel(site)[0].digest, newer(2).digest
    versions.adopt(site, first, "it", versions.Why.MISTAKE)
    versions.put(site, second, "withdrawn", "recall")
    with pytest.raises(Conflict, match="recalled"):
        versions.adopt(site, second, "it", versions.Why.TRIAL)
    versions.put(site, second, "shadow", "trial")
    held = versions.find(site, second)
    assert held is not None
    assert (held.state, [one.digest for one in versions.panel(site)]) == ("withdrawn", [first])
