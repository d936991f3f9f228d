"""The error register: what it says follows from verdicts and results, tier by tier, patient by patient."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from client.review import objections, readers
from client.review.readers import Role
from client.review.verdict import Answer, Decision, Reason, TruthTier, record
from client.store.site import Site
from client.vigilance import register
from client.vigilance.register import ErrorKind
from scripts.vigie import app

Scored = Callable[..., str]


@pytest.fixture
def ready(site: Site) -> Site:
    for name in ("ada", "grace"):
        readers.add(site, name, Role.CLINICIAN)
    return site


def agree(site: Site, uid: str, positive: bool, **more: Any) -> None:
    answer = Answer.POSITIVE if positive else Answer.NEGATIVE
    values = {"revision": 1, "tier": TruthTier.AI_VISIBLE} | more
    record(site, uid, "ada", decision=Decision.AGREE, answer=answer, **values)


def correct(site: Site, uid: str, to: bool, reader: str = "ada", **more: Any) -> None:
    answer = Answer.POSITIVE if to else Answer.NEGATIVE
    values = {"revision": 1, "tier": TruthTier.AI_VISIBLE, "reason": Reason.SUBTLE} | more
    record(site, uid, reader, decision=Decision.CORRECT, answer=answer, **values)


def test_no_verdict_is_missing_never_agreement(ready: Site, scored: Scored) -> None:
    scored(score=0.9)
    assert register.cases(ready) == []
    assert register.errors(ready) == []


def test_each_kind_of_error(ready: Site, scored: Scored) -> None:
    right, over, missed, unclear = scored(score=0.9), scored(score=0.8), scored(score=0.1), scored(score=0.7)
    agree(ready, right, positive=True)
    correct(ready, over, to=False)
    correct(ready, missed, to=True)
    record(
        ready,
        unclear,
        "ada",
        revision=1,
        decision=Decision.REJECT,
        answer=Answer.NOT_ASSESSABLE,
        tier=TruthTier.AI_VISIBLE,
        reason=Reason.IMAGE_QUALITY,
    )
    found = {error.study_uid: error.kind for error in register.errors(ready)}
    assert found == {
        over: ErrorKind.FALSE_POSITIVE,
        missed: ErrorKind.FALSE_NEGATIVE,
        unclear: ErrorKind.NOT_ASSESSABLE,
    }
    cases = {case.study_uid: case for case in register.cases(ready)}
    assert cases.keys() == {right, over, missed}
    assert [cases[uid].correct for uid in (right, over, missed)] == [True, False, False]
    [tally] = register.tallies(ready)
    assert (tally.true_positive, tally.false_positive, tally.true_negative, tally.false_negative) == (1, 1, 0, 1)
    assert (tally.not_assessable, tally.scored, tally.validated) == (1, 4, 3)


def test_tiers_are_not_pooled_and_the_highest_counts(ready: Site, scored: Scored) -> None:
    uid, other = scored(score=0.9), scored(score=0.9)
    correct(ready, uid, to=False, reader="grace", tier=TruthTier.BIOPSY)
    agree(ready, uid, positive=True)
    agree(ready, other, positive=True)
    assert {tally.tier: tally.validated for tally in register.tallies(ready)} == {
        TruthTier.AI_VISIBLE: 1,
        TruthTier.BIOPSY: 1,
    }
    [error] = register.errors(ready)
    assert (error.study_uid, error.tier) == (uid, TruthTier.BIOPSY)


def test_truth_follows_the_image_not_the_score(ready: Site, scored: Scored) -> None:
    uid = scored(score=0.9, input_digest="a" * 64)
    agree(ready, uid, positive=True)
    scored(uid=uid, revision=2, score=0.2, input_digest="a" * 64)  # the same image, scored anew
    [case] = register.cases(ready)
    assert (case.positive, case.ai_positive, case.correct) == (True, False, False)
    scored(uid=uid, revision=3, score=0.2, input_digest="b" * 64)  # another image of the study
    assert register.cases(ready) == []


def test_an_objection_is_flagged_also_before_the_first_image(ready: Site, scored: Scored) -> None:
    objections.object_to_reuse(ready, "P-early", "H")
    early, known = scored(patient_id="P-early", issuer="H"), scored(patient_id="P-known", issuer="H")
    for uid in (early, known):
        agree(ready, uid, positive=True)
    objects = {case.study_uid: case.objects for case in register.cases(ready)}
    assert objects == {early: True, known: False}
    objections.object_to_reuse(ready, "P-known", "H")
    objections.withdraw_objection(ready, "P-early", "H")
    objects = {case.study_uid: case.objects for case in register.cases(ready)}
    assert objects == {early: False, known: True}
    assert "P-known" not in "".join(entry.facts for entry in ready.ledger.entries("objection"))


def test_errors_are_listed_searched_and_written_out(ready: Site, scored: Scored, tmp_path: Path) -> None:
    over, missed = scored(score=0.8, accession="A1"), scored(score=0.1)
    correct(ready, over, to=False)
    correct(ready, missed, to=True)

    def command(*words: str, status: int = 0) -> str:
        said = CliRunner().invoke(
            app, ["site", "watch", "errors", "--folder", str(ready.folder), *words], env={"COLUMNS": "250"}
        )
        assert said.exit_code == status, said.output
        return said.output

    assert "2 errors" in command()
    assert "A1" in command("--kind", "false_positive")
    assert "A1" not in command("--kind", "false_negative")
    assert "2 errors" in command("--version", "brightness@1", "--since", "2020-01-01")
    assert "0 errors" in command("--since", "2999-01-01")
    path = tmp_path / "errors.csv"
    command("--export", str(path))
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["study"], row["error"]) for row in rows} == {(over, "false_positive"), (missed, "false_negative")}
    for wrong in (("--kind", "all"), ("--since", "today"), ("--export", str(path))):
        command(*wrong, status=1)
