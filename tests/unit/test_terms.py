"""Terms are signed as bytes, a change plan bounds them, and the coordinator waits for consents, not for ever."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from configs.schema import ConsentConfig, CoordinatorConfig, SiteConfig, VersionConfig, compose, load
from models import terms as signed
from models.change_plan import ChangePlan
from models.change_plan import read as read_change_plan
from models.errors import ConfigurationError, NotAllowed
from models.exchange import Consent, Proposal
from models.hyperparameters import Hyperparameters
from server import consent, plan
from server.coordinator import create
from server.journal import Journal, read
from server.messaging import Failure
from server.plan import Plan

BASE = "b" * 64
FACTS: Any = None  # what averaging asks of no version


def _plan(**changes: object) -> Plan:
    values = {"name": "spring", "base": "chest@1", "sites": ("a", "b", "c"), "quorum": 2, "rounds": 3}
    return Plan.model_validate(values | changes)


def test_terms_that_one_byte_was_changed_in_are_nobodys():
    key = Ed25519PrivateKey.generate()
    content = consent.terms_of(_plan(), BASE, FACTS, 5.0).to_bytes()
    signature = signed.sign(content, key)
    signed.verify(content, signature, "coordinator", {"coordinator": key.public_key()})
    assert signed.read(content).hyper == Hyperparameters()
    for altered, signer in ((content.replace(b'"rounds":3', b'"rounds":9'), "coordinator"), (content, "vendor")):
        with pytest.raises(NotAllowed):
            signed.verify(altered, signature, signer, {"coordinator": key.public_key()})


def test_a_version_signature_is_no_signature_of_terms():
    """The purpose is part of what is signed."""
    key = Ed25519PrivateKey.generate()
    content = consent.terms_of(_plan(), BASE, FACTS, 5.0).to_bytes()
    with pytest.raises(NotAllowed):
        signed.verify(
            content, key.sign(f"vigie model version {signed.digest(content)}".encode()), "c", {"c": key.public_key()}
        )


def test_terms_say_what_leaves_and_nothing_else():
    with pytest.raises(ValueError, match="leave"):
        signed.read(
            consent.terms_of(_plan(rounds=0), BASE, FACTS, 5.0).to_bytes().replace(b'"rounds":0', b'"rounds":3')
        )


def test_a_plan_from_before_consents_is_the_same_plan(tmp_path: Path):
    folder = tmp_path / "retrainings" / "spring"
    folder.mkdir(parents=True)
    old = _plan().model_dump(exclude={"consent_seconds", "valid_days", "norm", "layers"}, mode="json")
    (folder / "plan.json").write_text(__import__("json").dumps(old))
    assert plan.load(tmp_path, "spring") == _plan()
    plan.save(_plan(), tmp_path)  # resumed, not another one of the same name


def test_a_site_from_before_consents_agrees_to_nothing_by_itself(tmp_path: Path):
    (tmp_path / "site.yaml").write_text("name: old\n")
    assert load(tmp_path / "site.yaml", SiteConfig).consent == ConsentConfig()
    assert ConsentConfig().standing == "none"
    (tmp_path / "site.yaml").write_text("name: old\nconsent: {standing: everything}\n")
    with pytest.raises(ConfigurationError, match="standing"):
        load(tmp_path / "site.yaml", SiteConfig)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rounds": 9}, "9 rounds, the version's change plan allows 8"),
        ({"hyper": Hyperparameters(steps=500)}, "500 steps a round"),
        ({"hyper": Hyperparameters(steps=10, learning_rate=0.1)}, "learning rate of 0.1"),
        ({"hyper": Hyperparameters(steps=10), "layers": ("*",)}, "layers '*'"),
    ],
)
def test_a_plan_outside_the_change_plan_does_not_start(changes, said):
    allowed = ChangePlan(layers=("head.*",), most_rounds=8, most_steps=50, largest_learning_rate=0.01)
    facts = SimpleNamespace(changes=allowed)
    inside = {"layers": ("head.*",), "hyper": Hyperparameters(steps=50)}
    consent.within_change_plan(_plan(**inside), facts)
    with pytest.raises(ConfigurationError, match="cannot retrain chest@1") as refused:
        consent.within_change_plan(_plan(**(inside | changes)), facts)
    assert said in str(refused.value)
    consent.within_change_plan(
        _plan(rounds=0, **{key: value for key, value in changes.items() if key != "rounds"}), facts
    )


def test_a_vendors_change_plan_is_read_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "plan.json"
    path.write_text('{"layers": ["head.*"], "most_rounds": 8, "margin": 0.03}')
    assert read_change_plan(path) == ChangePlan(layers=("head.*",), most_rounds=8, margin=0.03)
    assert compose("version", VersionConfig, [f"change_plan={path}"]).change_plan == str(path)
    path.write_text('{"most_round": 8}')
    for wrong in (path, tmp_path / "missing.json"):
        with pytest.raises(ConfigurationError, match=wrong.name):
            read_change_plan(wrong)


@dataclass
class Asked:
    """Hospitals that answer from a list, one answer a question; the last one again and again."""

    said: dict[str, list[object]]

    def send_and_receive(self, orders, timeout):
        results = {}
        for site, order in orders.items():
            answers = self.said[site]
            found = answers.pop(0) if len(answers) > 1 else answers[0]
            results[site] = (
                Failure(found.removeprefix("!"))
                if found.startswith("!")
                else Consent(retraining=order.retraining, digest=order.digest, state=found)
            )
        return SimpleNamespace(results=results)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def _proposal(asked: Plan) -> Proposal:
    content = consent.terms_of(asked, BASE, FACTS, 5.0).to_bytes()
    return Proposal(retraining=asked.name, terms=content, signer="coordinator", signature=b"s" * 64)


def test_hospitals_are_asked_until_all_have_decided(tmp_path: Path):
    clock, asked = Clock(), _plan(consent_seconds=600)
    hospitals = Asked({"a": ["granted"], "b": ["!absent", "waiting", "granted"], "c": ["waiting", "declined"]})
    granted = consent.agreed(hospitals, _proposal(asked), asked, Journal(tmp_path), clock.sleep, clock)
    assert granted == ("a", "b")
    assert clock.now < 10
    lines = list(read(tmp_path))
    assert [line["step"] for line in lines] == ["proposed", *["consent"] * 6, "consents"]
    assert lines[-1]["granted"] == ["a", "b"]
    assert list(lines[-1]["declined"]) == ["c"]


def test_who_does_not_answer_holds_nobody_up_for_ever(tmp_path: Path):
    clock, asked = Clock(), _plan(consent_seconds=3600)
    hospitals = Asked({"a": ["granted"], "b": ["granted"], "c": ["waiting"]})
    assert consent.agreed(hospitals, _proposal(asked), asked, Journal(tmp_path), clock.sleep, clock) == ("a", "b")
    assert clock.now == pytest.approx(3600)
    lines = list(read(tmp_path))
    assert list(lines[-1]["waiting"]) == ["c"]
    assert len(lines) == 5  # only what changed


def test_a_resumed_retraining_proposes_the_same_bytes(tmp_path: Path):
    coordinator = create(tmp_path / "coordinator", CoordinatorConfig())
    folder = plan.save(_plan(), coordinator.folder)
    first = consent.proposal_of(coordinator, _plan(), BASE, FACTS)
    assert (folder / "terms.json").read_bytes() == first.terms
    assert consent.proposal_of(coordinator, _plan(), BASE, FACTS) == first
    signed.verify(first.terms, first.signature, first.signer, coordinator.trusted)
