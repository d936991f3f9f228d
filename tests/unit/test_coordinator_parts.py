"""A plan is kept, a journal survives a crash, the gate blocks."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from configs.schema import CoordinatorConfig
from models.errors import ConfigurationError, Conflict, NotFound
from models.exchange import Evidence, Measure, Subgroups
from models.subgroups import Change
from server import journal, plan
from server.coordinator import create
from server.launch import plan_named
from server.plan import Plan
from server.release import decide, figures

DIGEST = "a" * 64


def _plan(**changes: object) -> Plan:
    values = {"name": "spring", "base": "chest@1", "sites": ("a", "b"), "quorum": 2, "rounds": 1}
    return Plan.model_validate(values | changes)


def test_a_plan_is_never_replaced_by_another_of_its_name(tmp_path: Path) -> None:
    plan.save(_plan(), tmp_path)
    plan.save(_plan(), tmp_path)
    assert plan.load(tmp_path, "spring") == _plan()
    with pytest.raises(Conflict, match="spring"):
        plan.save(_plan(rounds=2), tmp_path)
    with pytest.raises(NotFound):
        plan.load(tmp_path, "autumn")


@pytest.mark.parametrize(
    "changes",
    [
        {"quorum": 3},
        {"sites": ("a", "a"), "quorum": 1},
        {"strategy": {"name": "krum"}},
        {"strategy": {"name": "trimmed-mean"}},
        {"strategy": {"name": "median"}},
        {"deadline_seconds": math.inf},  # no JSON: such a plan would be written, and could not be read again
        {"connect_seconds": math.inf},
        {"consent_seconds": math.inf},
    ],
)
def test_a_plan_that_cannot_work_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises((ConfigurationError, ValidationError)):
        _plan(**changes)


@pytest.mark.parametrize(("name", "overrides"), [("spring", ["name=autumn"]), ("1e3", [])])
def test_a_retraining_is_called_what_it_was_called(tmp_path: Path, name: str, overrides: list[str]) -> None:
    made = create(tmp_path / "coordinator", CoordinatorConfig())
    (made.folder / "sites.json").write_text(json.dumps({"alpha": {"node_id": 1, "key_sha256": ""}}))
    with pytest.raises(ConfigurationError, match=name):
        plan_named(name, ["base=chest@1", *overrides], made)
    assert plan_named("spring", ["base=chest@1"], made).name == "spring"


def test_every_hospital_and_round_draws_from_a_seed_of_its_own() -> None:
    seeds = {_plan(seed=seed).draw(round_, site) for seed in (0, 1) for round_ in (1, 2) for site in ("a", "b")}
    assert len(seeds) == 8


def test_a_torn_last_line_is_forgotten_and_the_journal_goes_on(tmp_path: Path) -> None:
    kept = journal.Journal(tmp_path)
    kept.write("round", {"round": 1})
    with kept.path.open("a") as file:
        file.write('{"step": "round", "rou')
    assert [line["round"] for line in journal.read(tmp_path)] == [1]
    again = journal.Journal(tmp_path)
    again.write("round", {"round": 2})
    assert [line["round"] for line in journal.read(tmp_path)] == [1, 2]
    assert again.last("round") == list(journal.read(tmp_path))[-1]
    weights = {"w": np.arange(4, dtype=np.float32)}
    again.save_weights(2, weights)
    assert np.array_equal(again.load_weights(2)["w"], weights["w"])


def test_a_retraining_runs_once_at_a_time(tmp_path: Path) -> None:
    with journal.alone(tmp_path), pytest.raises(Conflict, match="runs already"), journal.alone(tmp_path):
        pass
    with journal.alone(tmp_path):
        pass


def _measure(auc: float) -> Measure:
    return Measure(
        n=100, n_positive=50, threshold=0.5, tp=40, fp=10, tn=40, fn=10,
        vendor_tp=45, vendor_fp=20, vendor_tn=30, vendor_fn=5, auc=auc, auc_low=auc - 0.05, auc_high=auc + 0.05,
    )  # fmt: skip


def _evidence(before: float, after: float, *reasons: str) -> Evidence:
    return Evidence.model_validate(
        {
            "retraining": "spring",
            "digest": DIGEST,
            "verdict": "adopt",
            "reasons": reasons,
            "served_gate": _measure(before),
            "candidate_gate": _measure(after),
        }
    )


def test_the_release_gate_blocks_what_is_worse_somewhere_or_no_better_and_lists_who_is_missing() -> None:
    good = {"a": _evidence(0.7, 0.8), "b": _evidence(0.6, 0.7)}
    assert decide(good, ("a", "b"), 2).released
    found = decide({"a": good["a"]}, ("a", "b"), 1)
    assert found.released
    assert found.missing == ("b",)
    assert not decide({"a": good["a"]}, ("a", "b"), 2).released
    worse = decide(good | {"b": _evidence(0.6, 0.9, "sensitivity-inferior")}, ("a", "b"), 2)
    assert not worse.released
    assert "b: sensitivity" in worse.reasons[0]
    first = Evidence(retraining="spring", digest=DIGEST, verdict="adopt", reasons=("no-incumbent",))
    assert decide({"a": first}, ("a",), 1, must_compare=False).released
    assert not decide({"a": first}, ("a",), 1).released
    same = decide({"a": _evidence(0.7, 0.7)}, ("a",), 1)
    assert not same.released
    assert "not better" in same.reasons[0]


def test_a_version_is_blocked_that_is_unfair_badly_calibrated_leaky_or_of_other_hospitals_than_planned() -> None:
    good = _evidence(0.7, 0.8)
    women = Change("sex-f", "sensitivity", 60, -0.2, -4.0)
    cases: list[tuple[dict[str, object], str]] = [
        ({"subgroups": Subgroups.of([women])}, "unfair: sensitivity of sex-f"),
        ({"brier_change": 0.06, "brier_error": 0.01}, "calibration"),
        ({"leakage": "trained-on"}, "a: leakage"),
        ({"reasons": ("certified-inferior",)}, "a: it is shown to be worse than the first certified"),
    ]
    for changes, expected in cases:
        found = decide({"a": good.model_copy(update=changes)}, ("a",), 1)
        assert not found.released
        assert expected in found.reasons[0]
    harmless = {"brier_change": 0.03, "brier_error": 0.02, "leakage": "none"}
    assert decide({"a": good.model_copy(update=harmless)}, ("a",), 1).released

    both = {"a": good, "b": good}
    assert decide(both, ("a", "b"), 1, rounds=[{"a", "b"}, {"a", "b"}]).released
    changed = decide(both, ("a", "b"), 1, rounds=[{"a", "b"}, {"a"}])
    assert changed.reasons == ("composition changed: b trained, but not in round 2",)
    assert "1 of 2 hospitals trained in round 2" in decide(both, ("a", "b"), 2, rounds=[{"a", "b"}, {"a"}]).reasons[0]
    assert "stranger" in decide(both, ("a", "b"), 1, rounds=[{"a", "b", "stranger"}]).reasons[0]


def test_evidence_with_groups_crosses_the_wire_as_it_is() -> None:
    women = Change("sex-f", "sensitivity", 60, -0.2, -4.0)
    men = Change("sex-m", "specificity", 11, 0.1, 40.0)
    sent = _evidence(0.7, 0.8).model_copy(update={"subgroups": Subgroups.of([women, men]), "leakage": "none"})
    got = Evidence.from_record(sent.to_record())
    assert got == sent
    assert got.subgroups is not None
    assert got.subgroups.changes() == [women, men]
    with pytest.raises(ValidationError):
        Subgroups.of([Change("sex-f", "sensitivity", 10, 0.0, 0.0)])


def test_tracked_figures_carry_exact_intervals() -> None:
    found = figures(_measure(0.8))
    assert found["sensitivity"] == pytest.approx(0.8)
    assert found["sensitivity_low"] == pytest.approx(0.6628, abs=1e-3)  # Clopper-Pearson 40 of 50
    assert found["vendor_specificity"] == pytest.approx(0.6)
    assert found["auc_high"] == pytest.approx(0.85)
