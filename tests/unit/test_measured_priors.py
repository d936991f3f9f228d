"""A growth is told only against a measurement that nobody has taken back."""

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from sqlalchemy import update

from client.inference.outlining import Prior
from client.inference.priors import earlier
from client.review import readers, recall
from client.review.verdict import Answer, Decision, Reason, TruthTier, record
from client.store import versions
from client.store.site import Site
from client.store.tables import outcome

Scored = Callable[..., str]
ADA, GRACE = "Ada Lovelace", "Grace Hopper"


@pytest.fixture
def prior(site: Site, scored: Scored) -> str:
    """The UID of a patient's earlier study, measured."""
    for name in (ADA, GRACE):
        readers.add(site, name, "clinician")
    return measured(site, scored)


def measured(site: Site, scored: Scored, **study: Any) -> str:
    uid = scored(patient_id="P1", **study)
    said = {"day": "2024-01-01", "series": [{"labels": [{"value": 1, "volume_ml": 7.5}]}]}
    with site.database.write() as connection:
        connection.execute(update(outcome).where(outcome.c.study_uid == uid).values(measurements=said))
    return uid


def say(site: Site, uid: str, by: str = ADA, **changes: Any) -> None:
    values: dict[str, Any] = {
        "revision": 1,
        "decision": Decision.AGREE,
        "answer": Answer.POSITIVE,
        "tier": TruthTier.AI_VISIBLE,
    }
    record(site, uid, by, **(values | changes))


REJECTED = {"decision": Decision.REJECT, "answer": Answer.NOT_ASSESSABLE, "reason": Reason.WRONG_PATIENT}
ABSENT = {"decision": Decision.CORRECT, "answer": Answer.NEGATIVE, "reason": Reason.ARTEFACT}


def known(site: Site, scored: Scored) -> list[Prior]:
    return earlier(site, scored(patient_id="P1"), "brightness")


def test_what_nobody_judged_and_what_was_signed_is_measured_against(site: Site, scored: Scored, prior: str) -> None:
    expected = [Prior(prior, date(2024, 1, 1), {1: 7.5})]
    assert known(site, scored) == expected
    say(site, prior)
    assert known(site, scored) == expected


def test_a_rejected_prior_is_none_whoever_else_agreed_until_the_reader_takes_it_back(
    site: Site, scored: Scored, prior: str
) -> None:
    say(site, prior, GRACE, tier=TruthTier.BIOPSY)
    say(site, prior, **REJECTED)
    assert known(site, scored) == []
    say(site, prior)
    assert len(known(site, scored)) == 1


def test_the_wrong_patient_s_study_stays_so_when_a_late_image_makes_a_new_revision(
    site: Site, scored: Scored, prior: str
) -> None:
    say(site, prior, **REJECTED)
    measured(site, scored, uid=prior, revision=2)
    assert known(site, scored) == []
    say(site, prior, revision=2)
    assert len(known(site, scored)) == 1


def test_a_rejection_of_an_earlier_revision_for_its_quality_is_not_one_of_the_later(
    site: Site, scored: Scored, prior: str
) -> None:
    say(site, prior, **(REJECTED | {"reason": Reason.IMAGE_QUALITY}))
    assert known(site, scored) == []
    measured(site, scored, uid=prior, revision=2)
    assert len(known(site, scored)) == 1


def test_what_is_absent_by_the_word_that_counts_was_not_measured(site: Site, scored: Scored, prior: str) -> None:
    say(site, prior, **ABSENT)
    assert known(site, scored) == []
    say(site, prior, GRACE, tier=TruthTier.FOLLOW_UP)
    assert len(known(site, scored)) == 1


@pytest.mark.parametrize("signed", [False, True])
def test_a_recalled_version_s_measurement_is_none(site: Site, scored: Scored, prior: str, signed: bool) -> None:
    if signed:
        say(site, prior)
    recall.take_back(site, "brightness@1", GRACE)
    assert known(site, scored) == []


def test_nor_is_one_that_an_interrupted_recall_has_not_come_to(site: Site, scored: Scored, prior: str) -> None:
    versions.put(site, recall.named(site, "brightness@1").digest, "withdrawn", "recall")
    assert known(site, scored) == []
