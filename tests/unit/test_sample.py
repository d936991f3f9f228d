"""The random sample stands for the hospital: whom readers chose to look at does not decide on a version."""

import time
from collections.abc import Callable
from itertools import count

import numpy as np
import pytest
from sqlalchemy import insert, select, update

from client.federation import leakage
from client.federation.cases import ReusableCases
from client.review import readers
from client.store import versions
from client.store.site import Site
from client.store.tables import outcome, patient, shadow, verdict, version, withdrawal
from client.vigilance import probation
from client.vigilance.sample import drawn, patients
from configs.schema import GateConfig
from models.bundle import Facts
from models.gate import GateReason

Scored = Callable[..., str]
MODEL = "brightness"


def facts(site: Site) -> Facts:
    served = versions.serving(site, MODEL)
    assert served is not None
    told = versions.facts(site, served.digest)
    assert told is not None
    return told


@pytest.fixture
def name_of(site: Site) -> Callable[[str], str]:
    """Give a patient of a fold, another one each time."""
    names = (f"P{number}" for number in count())

    def take(fold: str) -> str:
        return next(name for name in names if site.fold(name) == fold)

    return take


@pytest.fixture
def validate(site: Site) -> Callable[..., None]:
    """Give studies a truth: `validate(uids, positive)`."""
    readers.add(site, "ada", "clinician")

    def give(uids: list[str], positive: bool) -> None:
        with site.database.write() as connection:
            for uid in uids:
                row = connection.execute(select(outcome).where(outcome.c.study_uid == uid)).one()
                given = {"decision": "agree" if positive == row.positive else "correct", "tier": "report"}
                given |= {"answer": "positive" if positive else "negative", "mode": "doctor_first"}
                connection.execute(
                    insert(verdict).values(
                        study_uid=uid, outcome_id=row.id, reader="ada", created_at=time.time(), **given
                    )
                )

    return give


def _gate(site: Site) -> list[str]:
    return [case.study_uid for case in drawn(site, MODEL, ReusableCases.of(site, facts(site)).fold("gate")).cases]


def test_of_either_answer_the_same_share_counts(
    site: Site, scored: Scored, name_of: Callable[[str], str], validate: Callable[..., None]
) -> None:
    called = [scored(score=0.9, patient_id=name_of("gate"), input_digest=f"c{n}") for n in range(40)]
    silent = [scored(score=0.1, patient_id=name_of("gate"), input_digest=f"s{n}") for n in range(40)]
    scored(score=0.9, patient_id=name_of("train"), input_digest="t")
    # every call is looked at, and of what was called negative only a tenth: those that readers found to be missed
    validate(called, True)
    validate(silent[:4], True)
    found = drawn(site, MODEL, ReusableCases.of(site, facts(site)).fold("gate"))
    assert found.share == pytest.approx(44 / 80)
    assert found.least == pytest.approx(0.1)
    kept = {case.study_uid for case in found.cases}
    assert set(silent[:4]) <= kept
    assert len(kept & set(called)) < 14  # 4 are expected; with 40 of them the missed ones would be a tenth
    assert _gate(site) == _gate(site)
    # when all is validated, all of it counts, and what counted before still does
    validate(silent[4:], False)
    whole = drawn(site, MODEL, ReusableCases.of(site, facts(site)).fold("gate"))
    assert (whole.share, whole.least, len(whole.cases)) == (1.0, 1.0, 80)
    assert kept <= {case.study_uid for case in whole.cases}


def test_a_case_that_may_have_been_trained_on_is_noticed(
    site: Site, scored: Scored, name_of: Callable[[str], str], validate: Callable[..., None]
) -> None:
    served = versions.panel(site)[0]
    bundle = versions.held(site, served.digest)
    assert bundle is not None
    learned, held_out = name_of("train"), name_of("gate")
    uids = [scored(score=0.7, patient_id=learned), scored(score=0.7, patient_id=held_out)]
    validate(uids, True)
    cases = ReusableCases.of(site, facts(site))
    assert leakage.look(site, bundle, cases) == "none"
    leakage.remember(site, "spring", cases.fold("train"))
    assert leakage.look(site, bundle, cases) == "none"

    (digest,) = [case.input_digest for case in cases.fold("train")]
    validate([scored(score=0.7, patient_id=name_of("test"), input_digest=digest)], True)
    assert leakage.look(site, bundle, ReusableCases.of(site, facts(site))) == "trained-on"
    (site.trained / "spring.sha256").unlink()
    assert leakage.look(site, bundle, ReusableCases.of(site, facts(site))) == "same-image"
    with site.database.write() as connection:
        connection.execute(update(patient).where(patient.c.patient_id == learned).values(fold="gate"))
    assert leakage.look(site, bundle, ReusableCases.of(site, facts(site))) == "folds-altered"


@pytest.fixture
def on_probation(
    site: Site, scored: Scored, name_of: Callable[[str], str], validate: Callable[..., None]
) -> Callable[..., Site]:
    """A version in its shadow period of 40 patients, which answers otherwise with the given probability."""

    def make(otherwise: float, *, validated: bool = False) -> Site:
        site.config.gate = GateConfig(shadow_cases=40)
        served = versions.serving(site, "brightness")
        assert served is not None
        decision = {"verdict": "adopt", "reasons": ["non-inferior"], "served": served.digest}
        with site.database.write() as connection:
            connection.execute(
                insert(version).values(
                    digest="c" * 64, name="brightness", number=2, state="offered", received_at=time.time()
                )
            )
        look = {"against": served.digest, "looks": "fixed", "positives": 100, "negatives": 100}
        versions.note_decision(site, "c" * 64, decision, 0.5, {**look, "changed": 10, "cases": 200})
        versions.put(site, "c" * 64, "shadow", "shadow-period")
        random = np.random.default_rng(2)
        for number in range(40):
            uid = scored(score=0.9, patient_id=name_of("gate"), input_digest=f"d{number}")
            if validated:
                validate([uid], True)
            with site.database.write() as connection:
                made = connection.execute(select(outcome.c.id).where(outcome.c.study_uid == uid)).scalar_one()
                connection.execute(
                    insert(shadow).values(
                        outcome_id=made,
                        version_digest="c" * 64,
                        kind="scored",
                        reasons=[],
                        positive=bool(random.random() >= otherwise),
                        created_at=time.time(),
                    )
                )
        return site

    return make


def test_a_shadow_period_ends_with_adoption_when_enough_patients_show_nothing_else(
    on_probation: Callable[..., Site],
) -> None:
    site = on_probation(0.05)
    found = probation.advance(site, "c" * 64)
    assert found is not None
    assert (found.patients, found.refuted) == (40, None)
    assert [one.digest for one in versions.panel(site)] == ["c" * 64]
    assert probation.advance(site, "c" * 64) is None


def test_a_shadow_period_does_not_end_with_the_adoption_of_what_the_coordinator_withdrew(
    on_probation: Callable[..., Site],
) -> None:
    site = on_probation(0.05)
    facts = {"version_digest": "c" * 64, "notice": "", "signer": "", "signature": "", "served": False}
    with site.database.write() as connection:
        connection.execute(insert(withdrawal).values(**facts, state="waiting", received_at=time.time()))
    assert probation.advance(site, "c" * 64) is not None
    assert "c" * 64 not in [one.digest for one in versions.panel(site)]
    with site.database.write() as connection:
        connection.execute(update(withdrawal).values(state="kept"))
    assert probation.advance(site, "c" * 64) is not None
    assert [one.digest for one in versions.panel(site)] == ["c" * 64]


def test_a_version_that_answers_otherwise_too_often_in_shadow_is_refused_for_good(
    on_probation: Callable[..., Site],
) -> None:
    site = on_probation(0.6)
    found = probation.advance(site, "c" * 64)
    assert found is not None
    assert found.refuted is GateReason.SHADOW_DISAGREES
    known = versions.find(site, "c" * 64)
    assert known is not None
    assert known.decision is not None
    assert (known.state, known.decision["verdict"]) == ("refused", "refuse")
    assert "c" * 64 not in [one.digest for one in versions.panel(site)]


def test_a_version_that_is_wrong_where_the_served_one_was_right_is_refused_as_worse(
    on_probation: Callable[..., Site],
) -> None:
    site = on_probation(0.6, validated=True)
    found = probation.advance(site, "c" * 64)
    assert found is not None
    assert found.refuted is GateReason.SHADOW_WORSE


def test_a_shadow_period_lasts_as_long_as_was_asked(on_probation: Callable[..., Site]) -> None:
    site = on_probation(0.05)
    site.config.gate = GateConfig(shadow_cases=41)
    assert probation.advance(site, "c" * 64) is not None
    site.config.gate = GateConfig(shadow_cases=40, shadow_days=1.0)
    assert probation.advance(site, "c" * 64) is not None
    known = versions.find(site, "c" * 64)
    assert known is not None
    assert known.state == "shadow"


def test_each_patient_counts_once_in_the_population(site: Site, scored: Scored) -> None:
    for number in range(3):
        scored(score=0.9, patient_id="P1", input_digest=f"p{number}")
    scored(score=0.9, patient_id="P2", input_digest="q")
    with site.database.write() as connection:
        connection.execute(update(outcome).values(stratum="F|40-64|siemens"))
    assert dict(patients(site, MODEL)) == {"F|40-64|siemens": 2}
