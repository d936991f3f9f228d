"""A hospital has several models: what is true of one's finding is no truth about another's."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, select, update

from client.federation.cases import ReusableCases
from client.inference.choice import EVERYBODY
from client.inference.panel import record
from client.review import readers, verdict
from client.review.verdict import Answer, Decision, Mode, Reason, TruthTier
from client.store import versions
from client.store.site import Site
from client.store.tables import outcome, shadow
from client.vigilance import calibration, register
from client.vigilance.sample import drawn, patients
from models.bundle import Bundle, Facts
from models.coding import Coding

CT = ("1.2.840.10008.5.1.4.1.1.2",)
HEART = Coding(value="8186001", scheme="SCT", meaning="Cardiomegaly")


@pytest.fixture
def bundle(site: Site, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path) -> Callable[..., Bundle]:
    """A version that is held and serves here: `bundle(name, **facts)`."""

    def make(name: str, **changes: object) -> Bundle:
        made: Bundle = bundles.build(tmp_path / name, vendor_key, gain=7.0, name=name, **changes)
        shutil.copytree(made.folder, site.versions / made.digest)
        versions.receive(site, made)
        versions.adopt(site, made.digest)
        return made

    return make


@pytest.fixture
def truth(site: Site, scored: Callable[..., str]) -> Callable[..., str]:
    """A study that a version read, and the truth: always positive, where it was called negative."""
    readers.add(site, "ada", "clinician")
    names = (f"P{number}" for number in range(1000))

    def put(digest: str, fold: str) -> str:
        uid = scored(score=0.2, patient_id=next(name for name in names if site.fold(name) == fold))
        with site.database.write() as connection:
            connection.execute(update(outcome).where(outcome.c.study_uid == uid).values(version_digest=digest))
        verdict.record(
            site, uid, "ada", revision=1, decision=Decision.CORRECT, answer=Answer.POSITIVE,
            tier=TruthTier.SINGLE_READER, mode=Mode.DOCTOR_FIRST, reason=Reason.OTHER,
        )  # fmt: skip
        return uid

    return put


def held(site: Site) -> tuple[str, Facts]:
    served = versions.serving(site, "brightness")
    assert served is not None
    facts = versions.facts(site, served.digest)
    assert facts is not None
    return served.digest, facts


def of(site: Site, facts: Facts) -> set[str]:
    return {case.study_uid for case in ReusableCases.of(site, facts).cases}


def test_a_model_learns_from_the_truth_about_its_own_finding(
    site: Site, bundle: Callable[..., Bundle], truth: Callable[..., str]
) -> None:
    digest, facts = held(site)
    heart, twin = bundle("heart", finding=HEART), bundle("twin")
    slices = bundle("slices", intended_use=facts.intended_use.model_copy(update={"sop_classes": CT}))
    own, other, alike = (truth(one, "train") for one in (digest, heart.digest, twin.digest))
    # what looks for the same on such an image may learn from it, whoever read it; what reads other images may not
    assert of(site, facts) == of(site, twin.facts) == {own, alike}
    assert of(site, heart.facts) == {other}
    assert of(site, slices.facts) == set()


def test_a_verdict_on_one_finding_is_none_on_that_of_a_later_result(
    site: Site, bundle: Callable[..., Bundle], truth: Callable[..., str], scored: Callable[..., str]
) -> None:
    """The study is read again by another model: what was said of the first one's finding does not judge the second."""
    digest, facts = held(site)
    heart, twin = bundle("heart", finding=HEART), bundle("twin")
    uid = truth(digest, "train")
    with site.database.read() as connection:
        image = connection.execute(select(outcome.c.input_digest)).scalar_one()
    for revision, later, counts in ((2, heart, False), (3, twin, True)):
        scored(uid, revision=revision, score=0.2, input_digest=image)
        with site.database.write() as connection:
            connection.execute(
                update(outcome).where(outcome.c.revision == revision).values(version_digest=later.digest)
            )
        assert [case.positive for case in register.cases(site)] == [True] * counts
        assert len(register.errors(site)) == counts
        assert of(site, later.facts) == ({uid} if counts else set())
    assert of(site, facts) == {uid}


def test_the_random_sample_is_of_the_studies_that_the_model_read(
    site: Site, bundle: Callable[..., Bundle], truth: Callable[..., str], scored: Callable[..., str]
) -> None:
    digest, facts = held(site)
    heart = bundle("heart", finding=HEART)
    own = truth(digest, "gate")
    for _ in range(3):
        truth(heart.digest, "gate")
    found = drawn(site, "brightness", ReusableCases.of(site, facts).fold("gate"))
    assert ([case.study_uid for case in found.cases], found.share) == ([own], 1.0)
    assert (patients(site, "brightness").total(), patients(site, "heart").total()) == (1, 3)
    assert patients(site, "never-read").total() == 4


def test_a_version_that_looks_on_is_not_wrong_about_what_it_does_not_look_for(
    site: Site, bundle: Callable[..., Bundle], truth: Callable[..., str]
) -> None:
    digest, _ = held(site)
    heart, twin = bundle("heart", finding=HEART), bundle("twin")
    for _ in range(3):
        uid = truth(digest, "train")
        with site.database.write() as connection:
            number = connection.execute(select(outcome.c.id).where(outcome.c.study_uid == uid)).scalar_one()
            for one in (heart, twin):
                connection.execute(
                    insert(shadow).values(
                        outcome_id=number, version_digest=one.digest, kind="scored", reasons=[], positive=False,
                        score=0.1, threshold=0.5, created_at=1.0,
                    )
                )  # fmt: skip
    known = record(site)
    assert known[digest, EVERYBODY].false_negative == known[twin.digest, EVERYBODY].false_negative == 3
    assert (heart.digest, EVERYBODY) not in known
    assert calibration.local(site, twin.digest, retrained=False).positives == 3
    assert calibration.local(site, heart.digest, retrained=False).positives == 0
