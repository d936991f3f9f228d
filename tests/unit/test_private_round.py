"""A protected retraining: agreed to with its price, paid for once, and nothing exact leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner

import client.federation.site as served_by
from client.federation import consent, trainer
from client.federation.border import Border
from client.federation.budget import account, paid
from client.federation.outbox import Outbox
from client.review.verdict import TruthTier
from client.store import versions
from client.store.site import Site
from client.vigilance.register import Case
from configs.schema import ConsentConfig, PrivacyConfig, RetrainingConfig, compose, save
from models import terms as signed
from models.bundle import Bundle
from models.errors import BorderRefused, ConfigurationError, Conflict
from models.exchange import Proposal, Refusal, Update, check_answer, parse
from models.hyperparameters import Hyperparameters
from models.privacy import Mechanism, epsilon
from models.protection import PatientLevel, SiteLevel, Unprotected
from scripts.vigie import app
from server.aggregation import Aggregation
from server.consent import terms_of
from server.plan import Plan
from server.privacy import noised, protection_of, require_trainable
from server.strategies import FedAvg

SITES = ("alpha", "beta", "gamma")
HYPER = Hyperparameters(steps=2, batch_size=8, augmentation=0.0, averaging=0.0, label_smoothing=0.0)
PATIENT = PatientLevel(clip=1.0, noise=2.0, share=0.2, epsilon=10.0, delta=1e-5)
SITE = SiteLevel(noise=3.0, epsilon=10.0, delta=1e-5)
EQUAL = FedAvg(weighting="site")


def plan(privacy: PatientLevel | SiteLevel = PATIENT, **changes: Any) -> Plan:
    values: dict[str, Any] = {
        "name": "spring", "base": "residual@1", "sites": SITES, "quorum": 2, "rounds": 2, "hyper": HYPER,
        "strategy": EQUAL, "norm": 5.0, "privacy": privacy,
    }  # fmt: skip
    return Plan(**(values | changes))


class Hospital:
    """A hospital behind its real border, consent, budget and trainer; its cases are made up."""

    def __init__(self, site: Site, base: Bundle, key: Ed25519PrivateKey, cases: dict[str, Any]) -> None:
        self.site, self.base, self.key, self.cases = site, base, key, cases
        self.border = Border(site.ledger, lambda: served_by.handlers(site.folder))

    def allow(self, **settings: Any) -> None:
        self.site.config.privacy = PrivacyConfig(**({"epsilon": 20.0} | settings))
        save(self.site.config, self.site.folder / "site.yaml")

    def says(self, message: Any) -> Any:
        return parse(self.border.answer(message.to_record()))

    def proposal(self, plan: Plan) -> Proposal:
        content = terms_of(plan, self.base.digest, self.base.facts, 1e10).to_bytes()
        signature = signed.sign(content, self.key)
        return Proposal(retraining=plan.name, terms=content, signer="coordinator", signature=signature)

    def agree(self, plan: Plan) -> None:
        assert self.says(self.proposal(plan)).state == "waiting"
        consent.approve(self.site, plan.name, "Dr Curie")

    def told(self) -> list[str]:
        entries = [json.loads(entry.facts) for entry in self.site.ledger.entries("border.crossed")]
        return [f"{facts['kind']} {facts['code']}" for facts in entries if facts["direction"] == "out"]


@pytest.fixture
def hospitals(
    make_site: Callable[..., Site], residual: Bundle, bundles: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Hospital]]:
    key, found = Ed25519PrivateKey.generate(), {}
    cases: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(SITES):
        site = make_site(name, adopted=False)
        bundles.trust(site.trust, key, "coordinator")
        shutil.copytree(residual.folder, site.versions / residual.digest)
        versions.receive(site, residual)
        cases[name] = made_up(residual.digest, seed=number, count=24 + 6 * number)
        found[name] = Hospital(site, residual, key, cases[name])
        found[name].allow()

    def of(site: Site, _: object) -> trainer.ReusableCases:
        return trainer.ReusableCases(cases[site.config.name]["cases"])

    monkeypatch.setattr(trainer.ReusableCases, "of", of)
    monkeypatch.setattr(trainer, "tensors", lambda site, *_: cases[site.config.name]["images"])
    yield found
    for one in found.values():
        one.site.database.close()


def made_up(base: str, seed: int, count: int) -> dict[str, Any]:
    """Two studies a patient; every other patient is positive, with a bright corner."""
    draw = np.random.default_rng(seed)
    positive = np.arange(count) // 2 % 2 == 1
    images = draw.normal(size=(count, 1, 64, 64)).astype(np.float32)
    images[positive, :, :16, :16] += 2
    cases = tuple(
        Case("1", f"k{n // 2}", "train", False, f"{n:064x}", base, 0.8, 0.5, True, bool(positive[n]),
             TruthTier.BIOPSY, 0.0, "chest", None)
        for n in range(count)
    )  # fmt: skip
    return {"cases": cases, "images": images}


def aggregation(plan: Plan, base: Bundle) -> Aggregation:
    return Aggregation(plan, base.digest, base.facts, base.read_weights())


# ── Agreeing ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_terms_that_promise_more_than_they_give_are_refused(hospitals: dict[str, Hospital]) -> None:
    alpha = hospitals["alpha"]
    false = PATIENT.model_copy(update={"epsilon": epsilon([PATIENT.spends(2, 2)], 1e-5) * 0.9})
    assert alpha.says(alpha.proposal(plan(false))) == Refusal(to="proposal", code="not-allowed")
    assert "less than they cost" in next(iter(consent.refusals(alpha.site)))[1]


def test_a_hospital_agrees_to_no_more_than_is_left(hospitals: dict[str, Hospital]) -> None:
    alpha = hospitals["alpha"]
    alpha.site.config.consent = ConsentConfig(standing="retrainings")
    alpha.allow(epsilon=0.2)
    said = alpha.says(alpha.proposal(plan()))
    assert (said.state, said.reasons) == ("waiting", ("budget-exhausted",))
    with pytest.raises(Conflict, match="vigie site privacy"):
        consent.approve(alpha.site, "spring", "Dr Curie")
    alpha.allow(epsilon=20.0)
    assert alpha.says(alpha.proposal(plan())).state == "granted"


def test_a_hospital_that_asks_for_protection_takes_part_in_nothing_else(hospitals: dict[str, Hospital]) -> None:
    alpha = hospitals["alpha"]
    alpha.allow(required=True)
    for number, privacy in enumerate((Unprotected(), SITE)):
        said = alpha.says(alpha.proposal(plan(privacy, name=f"open-{number}")))
        assert (said.state, said.reasons) == ("declined", ("not-private",))
    assert alpha.says(alpha.proposal(plan())).state == "waiting"


def test_an_order_with_less_noise_than_agreed_is_refused(hospitals: dict[str, Hospital]) -> None:
    alpha = hospitals["alpha"]
    alpha.agree(plan())
    for other in (PATIENT.model_copy(update={"noise": 0.1}), Unprotected(), SITE):
        order = aggregation(plan(other), alpha.base).order(1, "alpha")
        assert alpha.says(order) == Refusal(to="train", code="not-allowed")
    assert paid(alpha.site) == ()


# ── Training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_retraining_over_hospitals_is_paid_for_round_by_round(hospitals: dict[str, Hospital]) -> None:
    base = hospitals["alpha"].base
    going = aggregation(plan(), base)
    for one in hospitals.values():
        one.agree(plan())
    for number in (1, 2):
        updates = {name: one.says(going.order(number, name)) for name, one in hospitals.items()}
        assert {type(found) for found in updates.values()} == {Update}
        # of 20, 30 and 40 cases; and no figure that has no noise
        assert [found.n_cases for found in updates.values()] == [16, 16, 32]
        for found in updates.values():
            assert {found.n_errors, found.train_loss, found.auc_received, found.threshold_received} == {None}
            assert found.loss_received is None
        going.take(updates)
    assert any(not np.array_equal(value, going.weights[name]) for name, value in base.read_weights().items())
    for one in hospitals.values():
        assert [(found.round, found.unit, found.mechanism) for found in paid(one.site)] == [
            (1, "patient", Mechanism(2.0, 0.2, 2)),
            (2, "patient", Mechanism(2.0, 0.2, 2)),
        ]
        assert account(one.site).spent == pytest.approx(epsilon([PATIENT.spends(2, 2)], 1e-5))
        assert one.told() == ["consent None", "update None", "update None"]


def test_an_order_asked_again_has_the_same_answer_and_costs_nothing(hospitals: dict[str, Hospital]) -> None:
    alpha = hospitals["alpha"]
    alpha.agree(plan())
    order = aggregation(plan(), alpha.base).order(1, "alpha")
    first, again = alpha.says(order), alpha.says(order)
    assert all(np.array_equal(first.weights[name], again.weights[name]) for name in first.weights)
    (charge,) = paid(alpha.site)
    crossed = [json.loads(entry.facts) for entry in alpha.site.ledger.entries("border.crossed")]
    assert charge.order in {facts["sha256"] for facts in crossed if facts["kind"] == "train"}


def test_two_trainings_from_other_cases_never_share_their_noise(hospitals: dict[str, Hospital]) -> None:
    """Who saw both could take the noise off by subtracting them, and see the patient between."""
    alpha = hospitals["alpha"]
    alpha.agree(plan())
    order = aggregation(plan(), alpha.base).order(1, "alpha")
    first = alpha.says(order)
    alpha.cases["cases"], alpha.cases["images"] = alpha.cases["cases"][2:], alpha.cases["images"][2:]
    Outbox(alpha.site.retrainings, order.retraining).finish()  # which would give the first answer again
    second = alpha.says(order)
    start = alpha.base.read_weights()
    one, other = (
        np.concatenate([(found.weights[name] - start[name]).ravel() for name in sorted(start)])
        for found in (first, second)
    )
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.5
    assert len(paid(alpha.site)) == 2


def test_at_the_cap_no_training_begins_also_after_a_restart(hospitals: dict[str, Hospital]) -> None:
    alpha = hospitals["alpha"]
    alpha.agree(plan())
    going = aggregation(plan(), alpha.base)
    assert isinstance(alpha.says(going.order(1, "alpha")), Update)
    alpha.allow(epsilon=account(alpha.site).spent * 1.05)
    anew = Hospital(Site(alpha.site.folder), alpha.base, alpha.key, alpha.cases)
    assert anew.says(going.order(2, "alpha")) == Refusal(to="train", code="budget-exhausted")
    assert len(paid(anew.site)) == 1
    assert isinstance(anew.says(going.order(1, "alpha")), Update)  # what was paid for is still answered
    shown = CliRunner().invoke(app, ["site", "privacy", "--folder", str(alpha.site.folder)])
    assert shown.exit_code == 0
    assert f"spent {account(anew.site).spent:.2f} of {account(anew.site).cap:g}" in shown.stdout
    assert "patients" in shown.stdout
    terms = CliRunner().invoke(app, ["site", "retraining", "show", "--folder", str(alpha.site.folder), "spring"])
    assert "epsilon 10 at delta 1e-05 for each patient" in terms.stdout


def test_a_protected_update_says_nothing_exact(hospitals: dict[str, Hospital]) -> None:
    base = hospitals["alpha"].base
    order = aggregation(plan(), base).order(1, "alpha")
    weights = base.read_weights()
    fields = {"retraining": "spring", "round": 1, "base": base.digest, "n_cases": 16, "weights": weights}
    check_answer(Update(**fields), order)
    for said in ({"n_cases": 17}, {"n_cases": 32, "n_errors": 16}, {"train_loss": 0.5}, {"auc_received": 0.5}):
        with pytest.raises(BorderRefused, match="protected"):
            check_answer(Update(**(fields | said)), order)


def test_too_few_to_be_told_by_a_power_of_two_are_not_trained_from(hospitals: dict[str, Hospital]) -> None:
    alpha = hospitals["alpha"]
    alpha.agree(plan())
    alpha.cases["cases"], alpha.cases["images"] = alpha.cases["cases"][:14], alpha.cases["images"][:14]
    assert alpha.says(aggregation(plan(), alpha.base).order(1, "alpha")) == Refusal(to="train", code="too-few-cases")


# ── At the coordinator ───────────────────────────────────────────────────────────────────────────────────────────────


def test_noise_on_the_mean_is_what_hides_one_hospital(hospitals: dict[str, Hospital]) -> None:
    base = hospitals["alpha"].base
    chosen = plan(SITE)
    going = aggregation(chosen, base)
    for one in hospitals.values():
        one.agree(chosen)
    updates = {name: one.says(going.order(1, name)) for name, one in hospitals.items()}
    np.random.seed(1)  # whoever seeds numpy does not know the noise
    going.take(updates)
    mean = {
        name: np.mean([found.weights[name].astype(np.float64) for found in updates.values()], axis=0)
        for name in going.weights
    }
    noise = np.concatenate([(going.weights[name] - mean[name]).ravel() for name in sorted(mean)])
    assert noise.std() == pytest.approx(3.0 * 5.0 / 3, rel=0.05)
    assert not np.allclose(noise[:5], 5.0 * np.random.RandomState(1).normal(size=5))
    assert all(found.n_cases in (16, 32) and found.train_loss is None for found in updates.values())
    assert [(found.unit, found.mechanism) for found in paid(hospitals["beta"].site)] == [
        ("site", Mechanism(3.0, 1.0, 1))
    ]


def test_a_counter_of_batches_has_no_noise() -> None:
    given = {"n": np.array(3, np.int64), "w": np.zeros(1000, np.float32)}
    found = noised(given, SITE, norm=2.0, count=4)
    assert found["n"] == 3
    assert found["w"].dtype == np.float32
    assert found["w"].std() == pytest.approx(1.5, rel=0.1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"strategy": {"name": "scaffold"}}, "control variates"),
        ({"strategy": {"name": "qfair"}}, "losses"),
        ({"hyper": HYPER.model_copy(update={"mixup": 0.2})}, "mixup"),
        ({"privacy": SITE, "strategy": FedAvg(weighting="cases")}, "weighting=site"),
        ({"privacy": SITE, "strategy": FedAvg(weighting="site", norm_bound=2.0)}, "norm_bound"),
        ({"privacy": SITE, "strategy": {"name": "median"}}, "mean"),
        ({"privacy": SITE, "strategy": {"name": "fedadam", "weighting": "site"}}, "mean"),
    ],
)
def test_a_plan_that_would_undo_its_protection_does_not_start(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        plan(**({"quorum": 3} | changes))


def test_protection_is_chosen_by_a_word_and_its_noise_follows() -> None:
    def asked(*overrides: str, steps: int = 45) -> Any:
        config = compose("retraining", RetrainingConfig, ["name=x", "base=x@1", *overrides])
        return protection_of(config.privacy, steps, config.rounds)

    assert asked() == Unprotected()
    assert asked("privacy=dp_patient", "rounds=0") == Unprotected()
    patient = asked("privacy=dp_patient")
    assert isinstance(patient, PatientLevel)
    assert 7.8 < patient.epsilon <= 8.0
    assert epsilon([patient.spends(45, 8)], 1e-5) <= 8.0
    central = asked("privacy=dp_central", "privacy.noise=4", "rounds=4")
    assert central == SiteLevel(noise=4.0, epsilon=round(epsilon([Mechanism(4.0, 1.0, 4)], 1e-5), 3), delta=1e-5)
    with pytest.raises(ConfigurationError, match="protects nobody"):
        asked("privacy=dp_central", "privacy.noise=0.01")
    for mechanism in ("dp_central", "dp_patient"):
        with pytest.raises(ConfigurationError, match="learns nothing"):
            asked(f"privacy={mechanism}", steps=0)


def test_a_network_that_mixes_patients_is_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    import models.networks

    facts: Any = SimpleNamespace(network="old", network_facts={})
    mixing = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
    monkeypatch.setattr(models.networks, "build", lambda *_args, **_facts: mixing)
    with pytest.raises(ConfigurationError, match="group norm"):
        require_trainable(PATIENT, facts)
    require_trainable(SITE, facts)
