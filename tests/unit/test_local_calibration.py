"""What a score means here rests on training patients alone, and on readings that the version had not learnt from."""

import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, select, update

from client.review import objections, readers, worklist
from client.store import versions
from client.store.site import Site
from client.store.tables import outcome, shadow, verdict, version
from client.vigilance import calibration
from client.vigilance.calibration import Calibrations, local
from models.bundle import Bundle
from models.stats.calibration import FEWEST, Calibration

Scored = Callable[..., str]
VENDORS = Calibration(
    slope=1.0, intercept=0.0, level=0.9, lowest_positive=0.4, highest_negative=0.6, positives=300, negatives=900
)


@pytest.fixture
def served(site: Site) -> Bundle:
    held = versions.serving(site, "brightness")
    assert held is not None
    found = versions.held(site, held.digest)
    assert found is not None
    return found


@pytest.fixture
def patients(site: Site) -> Callable[[str], str]:
    """Give a patient of a fold, another one each time."""
    names = (f"P{number}" for number in count())
    waiting: dict[str, list[str]] = {"train": [], "gate": [], "test": []}

    def take(fold: str) -> str:
        while not waiting[fold]:
            name = next(names)
            waiting[site.fold(name)].append(name)
        return waiting[fold].pop()

    return take


@pytest.fixture
def validated(site: Site, scored: Scored, patients: Callable[[str], str]) -> Callable[..., str]:
    """Put a study with a truth into the hospital: `validated(score, positive, fold="train", patient_id=…, at=…)`."""
    readers.add(site, "ada", "clinician")

    def put(score: float, positive: bool, *, fold: str = "train", patient_id: str = "", at: float = 1e9) -> str:
        digest = f"{score}{positive}{patient_id}"
        uid = scored(score=score, patient_id=patient_id or patients(fold), input_digest=digest)
        with site.database.write() as connection:
            made = connection.execute(select(outcome.c.id).where(outcome.c.study_uid == uid)).scalar()
            given = {"decision": "agree" if positive == (score >= 0.5) else "correct", "tier": "report"}
            given |= {"answer": "positive" if positive else "negative", "mode": "ai_first"}
            connection.execute(
                insert(verdict).values(study_uid=uid, outcome_id=made, reader="ada", created_at=at, **given)
            )
        return uid

    return put


@pytest.fixture
def cohort(validated: Callable[..., str]) -> list[str]:
    """Just enough training patients of each kind."""
    random = np.random.default_rng(5)
    drawn = [(truth, random.normal(1.0 if truth else -1.0, 1.2)) for truth in [True, False] * FEWEST]
    return [validated(float(1 / (1 + np.exp(-value))), truth) for truth, value in drawn]


def test_before_there_are_enough_it_is_said_how_many_are_missing(
    site: Site, served: Bundle, validated: Callable[..., str]
) -> None:
    for number in range(3):
        validated(0.8 + number / 100, True)
    validated(0.3, False)
    found = Calibrations(site).confidence(served, 0.7)
    assert (found.source, found.probability, found.answers) == ("none", None, ())
    assert (found.positives, found.negatives) == (3, 1)
    assert "3 positive and 1 negative patients" in found.basis


def test_until_then_the_vendors_own_stands_in_and_is_called_so(site: Site, served: Bundle) -> None:
    facts = served.facts.model_copy(update={"calibration": VENDORS})
    found = Calibrations(site).confidence(Bundle(served.folder, served.digest, served.signer, facts), 0.5)
    assert (found.source, found.probability, found.answers) == ("vendor", 0.5, ("positive", "negative"))
    assert "of the vendor, not of this hospital" in found.basis
    assert "25 % of them have the finding" in found.basis


@pytest.mark.usefixtures("cohort")
def test_the_hospitals_own_patients_count_once_there_are_enough(site: Site, served: Bundle) -> None:
    facts = served.facts.model_copy(update={"calibration": VENDORS})
    found = Calibrations(site).confidence(Bundle(served.folder, served.digest, served.signer, facts), 0.9)
    assert (found.source, found.positives, found.negatives, found.level) == ("site", FEWEST, FEWEST, 0.9)
    assert found.answers == ("positive",)
    assert found.probability is not None
    assert 0.6 < found.probability < 1.0


@pytest.mark.usefixtures("cohort")
def test_gate_and_test_patients_and_those_who_object_are_never_looked_at(
    site: Site, served: Bundle, validated: Callable[..., str], patients: Callable[[str], str]
) -> None:
    before = local(site, served.digest, retrained=False)
    for fold in ("gate", "test"):
        validated(0.01, True, fold=fold)
        validated(0.99, False, fold=fold)
    objecting = patients("train")
    objections.object_to_reuse(site, objecting, "")
    validated(0.02, True, patient_id=objecting)
    assert local(site, served.digest, retrained=False) == before


@pytest.mark.usefixtures("cohort")
def test_a_patient_counts_once_with_the_reading_validated_last(
    site: Site, served: Bundle, validated: Callable[..., str], patients: Callable[[str], str]
) -> None:
    one = patients("train")
    validated(0.9, True, patient_id=one, at=2e9)
    before = local(site, served.digest, retrained=False)
    assert before.positives == FEWEST + 1
    validated(0.1, False, patient_id=one, at=1e9)
    assert local(site, served.digest, retrained=False) == before


def test_a_retrained_version_is_not_calibrated_on_whom_it_may_have_learnt_from(
    site: Site,
    served: Bundle,
    cohort: list[str],
    bundles: ModuleType,
    vendor_key: Ed25519PrivateKey,
    tmp_path: Path,
) -> None:
    again = bundles.build(tmp_path / "again", vendor_key, gain=9.0, number=2, retraining="spring")
    shutil.copytree(again.folder, site.versions / again.digest)
    versions.receive(site, again)
    versions.put(site, again.digest, "shadow", "too-few-positives")
    with site.database.write() as connection:  # it has read all of them in shadow
        for row in connection.execute(select(outcome.c.id, outcome.c.score)).all():
            said = {"kind": "scored", "reasons": [], "score": 1 - row.score, "positive": True, "created_at": 1.0}
            connection.execute(insert(shadow).values(outcome_id=row.id, version_digest=again.digest, **said))

    assert local(site, again.digest, retrained=True).positives == 0  # validated before it came
    with site.database.write() as connection:
        connection.execute(update(version).where(version.c.digest == again.digest).values(received_at=1.0))
    found = local(site, again.digest, retrained=True)
    assert (found.positives, found.negatives) == (FEWEST, FEWEST)
    assert found.calibration is None  # its own scores, which order these patients the wrong way round
    assert local(site, served.digest, retrained=False).calibration is not None
    assert len(cohort) == 2 * FEWEST


@pytest.mark.usefixtures("cohort")
def test_what_was_said_when_a_study_was_read_stays(
    site: Site, served: Bundle, scored: Scored, validated: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Calibrations(site)
    first = known.confidence(served, 0.9)
    uid = scored(score=0.9, confidence=first)
    for number in range(8):
        validated(0.9 + number / 100, False)
    assert known.confidence(served, 0.9) == first  # a few minutes old at most
    monkeypatch.setattr(calibration, "_SECONDS", 0.0)
    assert known.confidence(served, 0.9) != first
    result = worklist.one(site, uid).line.result
    assert result is not None
    assert result.confidence == first
