"""A growth is told only against a measurement that nobody has taken back."""

from collections.abc import Callable, Sequence
from datetime import date
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import update

from client.inference.outlining import Prior
from client.inference.priors import earlier
from client.inference.structure import Structure, structure, told
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


NODULE = Structure(("SCT", "49755003"), ("SCT", "27925004"))


def measured(site: Site, scored: Scored, *, coded: bool = True, reasons: Sequence[str] = (), **study: Any) -> str:
    uid = scored(patient_id="P1", **study)
    label = {"value": 1, "name": "Nodule", "volume_ml": 7.5} | ({"structure": told(NODULE)} if coded else {})
    said = {"day": "2024-01-01", "series": [{"labels": [label]}]}
    stated = [{"code": code, "text": ""} for code in reasons]
    with site.database.write() as connection:
        mine = update(outcome).where(outcome.c.study_uid == uid)
        connection.execute(mine.values(measurements=said, reasons=stated))
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
    expected = [Prior(prior, date(2024, 1, 1), {NODULE: 7.5})]
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


def test_a_study_that_was_read_in_part_is_no_measure_for_a_later_one(site: Site, scored: Scored) -> None:
    measured(site, scored, reasons=["incomplete"])
    (prior,) = known(site, scored)
    assert (prior.volumes_ml, prior.unfit) == ({}, "it was read in part")


def test_what_another_version_did_not_read_takes_nothing_from_what_was_measured(site: Site, scored: Scored) -> None:
    measured(site, scored, reasons=["not-read"])
    (prior,) = known(site, scored)
    assert (prior.volumes_ml, prior.unfit) == ({NODULE: 7.5}, "")


def test_an_older_result_is_of_what_its_own_version_declares_or_of_nothing(
    site: Site, scored: Scored, volumes: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured(site, scored, coded=False)
    (untold,) = known(site, scored)  # the version does not outline, so that it declares none
    assert untold.volumes_ml == {}
    assert "what its labels stand for" in untold.unfit
    asked: list[str] = []

    def facts(_site: Site, digest: str) -> Any:
        asked.append(digest)
        return volumes.facts()

    monkeypatch.setattr("client.inference.priors.versions.facts", facts)
    (prior,) = known(site, scored)
    assert (prior.volumes_ml, prior.unfit) == ({NODULE: 7.5}, "")
    assert asked == [versions.panel(site)[0].digest]


def test_labels_with_the_same_codes_are_told_apart_by_their_names(volumes: ModuleType) -> None:
    (nodule,) = volumes.declared().labels
    left, right = (nodule.model_copy(update={"value": n, "name": side}) for n, side in ((1, "left"), (2, "right")))
    both = volumes.declared(labels=(left, right))
    assert structure(volumes.declared(), 1) == NODULE
    assert structure(both, 1) != structure(both, 2)
    assert NODULE not in (structure(both, 1), structure(both, 2))
    swapped = volumes.declared(labels=(left.model_copy(update={"value": 2}), right.model_copy(update={"value": 1})))
    assert structure(swapped, 2) == structure(both, 1)
