"""A hospital's gate: it adopts what is shown not to be worse on its own patients, looks once, and can go back."""

import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, insert, select

from client.federation.adoption import judge, look_again, settle
from client.federation.cases import ReusableCases
from client.review import objections, readers
from client.store import versions
from client.store.site import Site
from client.store.tables import outcome, verdict
from configs.schema import GateConfig
from models.bundle import Bundle, to_archive
from models.errors import BundleRefused, NotFound
from models.exchange import Evidence, Offer, Release
from models.quantizing import quantize

PATIENTS = 260


@pytest.fixture
def read(site: Site, scored: Callable[..., str]) -> Site:
    """A hospital where bright pictures are abnormal, and the served version says the opposite half of the time."""
    readers.add(site, "Dr Truth", "clinician")
    (site.secrets / "fold.key").write_bytes(b"1" * 32)  # the same patients are drawn in every run
    truth = {}
    for number in range(PATIENTS):
        uid = scored(score=0.3 + 0.4 * number / PATIENTS, patient_id=f"P{number}")
        truth[uid] = number >= PATIENTS // 2
    with site.database.write() as connection:
        for row in connection.execute(select(outcome)).all():
            said = bool(row.positive)
            connection.execute(
                insert(verdict).values(
                    study_uid=row.study_uid,
                    outcome_id=row.id,
                    reader="Dr Truth",
                    decision="agree" if said == truth[row.study_uid] else "correct",
                    answer="positive" if truth[row.study_uid] else "negative",
                    tier="single_reader",
                    mode="doctor_first",
                    reason="" if said == truth[row.study_uid] else "subtle",
                    created_at=time.time(),
                )
            )
    return site


def _offer(bundle: Bundle) -> Offer:
    return Offer(retraining="spring", digest=bundle.digest, bundle=to_archive(bundle))


def _serve(site: Site, bundle: Bundle) -> None:
    judged = judge(site, _offer(bundle))
    assert judged.digest == bundle.digest
    versions.adopt(site, bundle.digest)


def _measures(evidence: Evidence) -> tuple[float, float]:
    assert evidence.served_gate is not None
    assert evidence.candidate_gate is not None
    return evidence.served_gate.auc or 0, evidence.candidate_gate.auc or 0


def test_a_better_version_is_adopted_once_and_can_be_rolled_back(
    read: Site, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    poor = bundles.build(tmp_path / "poor", vendor_key, gain=-8.0, number=2)
    _serve(read, poor)
    good = bundles.build(tmp_path / "good", vendor_key, gain=6.0, number=3)
    with pytest.raises(NotFound):
        settle(read, Release(retraining="spring", digest=good.digest, released=True))
    evidence = judge(read, _offer(good))
    assert evidence.verdict == "adopt"
    assert evidence.reasons == ("non-inferior",)
    assert _measures(evidence)[0] < 0.1
    assert _measures(evidence)[1] > 0.9
    assert judge(read, _offer(good)) == evidence
    release = Release(retraining="spring", digest=good.digest, released=True)
    assert [settle(read, release).outcome for _ in range(2)] == ["adopted", "adopted"]
    serving = versions.serving(read, "brightness")
    assert serving is not None
    assert serving.digest == good.digest
    assert serving.threshold == pytest.approx(evidence.candidate_gate.threshold)  # type: ignore[union-attr]
    assert versions.roll_back(read, "brightness").digest == poor.digest
    # the coordinator's word, late or again, does not undo what a person did
    assert settle(read, release).reasons == ("site-policy",)
    assert [held.digest for held in versions.panel(read)] == [poor.digest]
    events = [entry.event for entry in read.ledger.entries("version.")]
    assert events.count("version.adopted") >= 3
    assert read.ledger.first_break() is None


def test_a_worse_version_is_refused_and_an_unreleased_one_too(
    read: Site, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    before = versions.serving(read, "brightness")
    worse = bundles.build(tmp_path / "worse", vendor_key, gain=-8.0, number=2)
    evidence = judge(read, _offer(worse))
    assert evidence.verdict == "refuse"
    assert set(evidence.reasons) == {"sensitivity-inferior", "specificity-inferior"}
    decision = settle(read, Release(retraining="spring", digest=worse.digest, released=True))
    assert decision.outcome == "refused"
    assert versions.serving(read, "brightness") == before
    # as good as the served one, and too few patients to show it: not adopted either
    same = bundles.build(tmp_path / "same", vendor_key, gain=7.0, number=3)
    assert judge(read, _offer(same)).verdict == "refuse"
    # better than a poor one, and not released
    versions.adopt(read, worse.digest)
    good = bundles.build(tmp_path / "good", vendor_key, gain=6.0, number=4)
    assert judge(read, _offer(good)).verdict == "adopt"
    kept = settle(read, Release(retraining="spring", digest=good.digest, released=False))
    assert (kept.outcome, kept.reasons) == ("refused", ("not-released",))
    serving = versions.serving(read, "brightness")
    assert serving is not None
    assert serving.digest == worse.digest


def test_an_old_decision_or_another_name_is_no_way_around_the_gate(
    read: Site, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    first = versions.serving(read, "brightness")
    assert first is not None
    poor = bundles.build(tmp_path / "poor", vendor_key, gain=-8.0, number=2)
    good = bundles.build(tmp_path / "good", vendor_key, gain=6.0, number=3)
    versions.adopt(read, judge(read, _offer(poor)).digest)
    assert judge(read, _offer(good)).verdict == "adopt"
    # meanwhile something else serves: the old comparison says nothing any more
    versions.adopt(read, first.digest)
    decision = settle(read, Release(retraining="spring", digest=good.digest, released=True))
    assert (decision.outcome, decision.reasons) == ("refused", ("incumbent-changed",))
    again = judge(read, _offer(good))
    assert again.served == first.digest
    # a version of another model's name has nothing to be compared with: only a person puts it beside what serves
    other = bundles.build(tmp_path / "other", vendor_key, gain=-8.0, name="other-model")
    evidence = judge(read, _offer(other))
    assert (evidence.verdict, evidence.reasons) == ("shadow", ("other-model",))
    assert settle(read, Release(retraining="spring", digest=other.digest, released=True)).outcome == "shadow"
    adopted = [held for held in versions.listed(read) if held.state == "adopted"]
    assert [held.digest for held in adopted] == [first.digest]


def test_a_recalled_version_is_not_brought_back_from_outside(
    read: Site, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    poor = bundles.build(tmp_path / "poor", vendor_key, gain=-8.0, number=2)
    good = bundles.build(tmp_path / "good", vendor_key, gain=6.0, number=3)
    versions.adopt(read, judge(read, _offer(poor)).digest)
    assert judge(read, _offer(good)).verdict == "adopt"
    versions.put(read, good.digest, "withdrawn", "recalled")

    decision = settle(read, Release(retraining="spring", digest=good.digest, released=True))

    assert (decision.outcome, decision.reasons) == ("refused", ("site-policy",))
    assert good.digest not in [held.digest for held in versions.panel(read)]


def test_a_version_in_shadow_is_looked_at_again_when_there_are_more_cases(
    read: Site, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    poor = bundles.build(tmp_path / "poor", vendor_key, gain=-8.0, number=2)
    good = bundles.build(tmp_path / "good", vendor_key, gain=6.0, number=3)
    _serve(read, poor)
    read.config.gate = GateConfig(min_positives=10_000, planned_positives=10_000)
    release = Release(retraining="spring", digest=good.digest, released=True)
    assert judge(read, _offer(good)).reasons == ("too-few-positives",)
    assert settle(read, release).outcome == "shadow"
    assert [found.verdict for found in look_again(read).values()] == ["shadow"]
    assert not versions.looks(read, good.digest, [poor.digest])
    # enough by now, and the site wants to see it beside the served one first
    read.config.gate = GateConfig(shadow_cases=30)
    assert [found.verdict for found in look_again(read).values()] == ["adopt"]
    assert len(versions.looks(read, good.digest, [poor.digest])) == 1
    assert settle(read, release).reasons == ("shadow-period",)
    assert [held.digest for held in versions.panel(read)] == [poor.digest]
    assert look_again(read) == {}


def test_what_readers_chose_to_validate_decides_nothing(
    read: Site, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    poor = bundles.build(tmp_path / "poor", vendor_key, gain=-8.0, number=2)
    good = bundles.build(tmp_path / "good", vendor_key, gain=6.0, number=3)
    _serve(read, poor)
    with read.database.write() as connection:  # of what the AI called negative hardly anything is known
        silent = select(outcome.c.id).where(outcome.c.positive.is_(False), outcome.c.id % 8 != 0)
        connection.execute(delete(verdict).where(verdict.c.outcome_id.in_(silent)))
    evidence = judge(read, _offer(good))
    assert (evidence.verdict, evidence.reasons) == ("shadow", ("too-few-validated",))
    assert 0.4 < (evidence.validated or 0) < 0.8


def test_too_few_cases_keep_a_version_in_shadow(
    site: Site, scored: Callable[..., str], bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    other = bundles.build(tmp_path / "other", vendor_key, gain=7.0, number=2)
    evidence = judge(site, _offer(other))
    assert evidence.verdict == "shadow"
    assert settle(site, Release(retraining="spring", digest=other.digest, released=True)).outcome == "shadow"


def test_altered_or_misannounced_versions_enter_nothing(
    site: Site, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    other = bundles.build(tmp_path / "other", vendor_key, gain=7.0, number=2)
    content = bytearray(to_archive(other))
    content[len(content) // 2] ^= 1
    for offer in (
        Offer(retraining="spring", digest=other.digest, bundle=bytes(content)),
        Offer(retraining="spring", digest="0" * 64, bundle=to_archive(other)),
    ):
        with pytest.raises(BundleRefused):
            judge(site, offer)
        assert versions.find(site, other.digest) is None
    stranger = bundles.build(tmp_path / "stranger", Ed25519PrivateKey.generate(), gain=7.0, number=2)
    with pytest.raises(BundleRefused, match="signature"):
        judge(site, _offer(stranger))


def test_objecting_patients_are_in_no_fold(read: Site) -> None:
    served = versions.panel(read)[0]
    facts = versions.facts(read, served.digest)
    assert facts is not None
    assert len(ReusableCases.of(read, facts).cases) == PATIENTS
    for number in range(10):
        objections.object_to_reuse(read, f"P{number}", "")
    assert len(ReusableCases.of(read, facts).cases) == PATIENTS - 10
    objections.withdraw_objection(read, "P0", "")
    assert len(ReusableCases.of(read, facts).cases) == PATIENTS - 9


def test_a_quantized_version_passes_the_same_gate_as_any_other(
    read: Site, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    poor = bundles.build(tmp_path / "poor", vendor_key, gain=-8.0, number=2)
    good = bundles.build(tmp_path / "good", vendor_key, gain=6.0, number=3)
    seen = np.linspace(0.2, 0.8, 20)[:, None, None, None] * np.ones((1, 1, bundles.SIZE, bundles.SIZE))
    images = seen.astype(np.float32)
    close, _ = quantize(good, tmp_path / "close", "int8", 4, vendor_key, "vendor", images)
    # calibrated on pictures that are nearly black: everything brighter looks alike to it
    blind, _ = quantize(good, tmp_path / "blind", "int8", 5, vendor_key, "vendor", images * 0.01)
    _serve(read, poor)

    assert judge(read, _offer(close)).verdict == "adopt"
    release = Release(retraining="spring", digest=close.digest, released=True)
    assert settle(read, release).outcome == "adopted"
    evidence = judge(read, _offer(blind))
    assert evidence.verdict == "refuse"
    assert evidence.reasons
    # what its base or its sister was adopted for counts nothing for it
    assert evidence.served == close.digest
