"""A coordinator that wants more than a hospital agreed to: nothing is trained, nothing leaves, the hospital is told."""

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, MetricRecord
from onnx import TensorProto, helper
from pydantic import ValidationError
from registry_in_memory import Kept

import client.federation.site as served_by
from client.federation import consent
from client.federation.border import Border
from client.federation.limits import bounds_of
from client.review.objections import object_to_reuse
from client.store import versions
from configs.schema import ConsentConfig, CoordinatorConfig, save
from models import terms as signed
from models.bounds import distance, keep
from models.bundle import seal, to_archive
from models.change_plan import ChangePlan
from models.errors import Conflict, NotFound
from models.exchange import (
    Consent,
    Evidence,
    Offer,
    Proposal,
    Refusal,
    Release,
    TrainOrder,
    Update,
    belongs,
    check_answer,
    parse,
)
from models.hyperparameters import Hyperparameters
from models.protection import PatientLevel
from models.terms import Terms, leaving
from scripts.retrain_commands import told
from server.messaging import Failure

HYPER = Hyperparameters(steps=5)
END = time.time() + 3600  # the same terms each time that they are asked for


class Hospital:
    """A hospital behind its real border and consent; training and judging are counted, not done."""

    def __init__(self, site, base, key, monkeypatch):
        self.site, self.base, self.key = site, base, key
        self.done = []
        self.during = lambda: None
        monkeypatch.setattr(served_by, "train", self._train)
        monkeypatch.setattr(served_by, "judge", self._judge)
        self.border = Border(site.ledger, lambda: served_by.handlers(site.folder))

    def _train(self, site, order):
        self.done.append("train")
        self.during()
        far = {name: np.asarray(array + np.float32(5)) for name, array in order.weights.items()}
        weights = keep(far, order.weights, bounds_of(site, order))
        return Update(retraining=order.retraining, round=order.round, base=order.base, n_cases=40, n_errors=3,
                      train_loss=0.5, weights=weights)  # fmt: skip

    def _judge(self, site, offer):
        self.done.append("judge")
        return Evidence(retraining=offer.retraining, digest=offer.digest, verdict="shadow")

    def terms(self, name="spring", **changes):
        rounds = changes.get("rounds", 2)
        values = {
            "name": name, "label": self.base.facts.label, "base": self.base.digest, "hospitals": ("hospital", "b", "c"),
            "quorum": 2, "rounds": rounds, "strategy": "fedavg-root", "hyper": HYPER, "norm": 1.0,
            "leaves": leaving(rounds), "deadline_seconds": 60.0, "created_at": 1.0,
            "expires_at": END,
        }  # fmt: skip
        return Terms(**(values | changes))

    def proposal(self, name="spring", key=None, signer="coordinator", **changes):
        content = self.terms(name, **changes).to_bytes()
        return Proposal(retraining=name, terms=content, signer=signer, signature=signed.sign(content, key or self.key))

    def order(self, name="spring", **changes):
        weights = self.base.read_weights()
        values = {"retraining": name, "round": 1, "base": self.base.digest, "norm": 1.0, "weights": weights}
        number = changes.get("round", 1)
        return TrainOrder(**({**values, "hyper": HYPER.at_round(number, 2)} | changes))

    def says(self, message):
        record = message if not hasattr(message, "to_record") else message.to_record()
        return parse(self.border.answer(record))

    def agree(self, name="spring", **changes):
        assert self.says(self.proposal(name, **changes)).state == "waiting"
        consent.approve(self.site, name, "Dr Curie")

    def write(self):
        """Put the changed settings where the next message finds them."""
        save(self.site.config, self.site.folder / "site.yaml")

    def told(self):
        """Why things were refused, as the hospital's own people read it."""
        return {why for (_, why) in consent.refusals(self.site)}

    def left(self):
        """What left beside refusals, from the ledger."""
        entries = [json.loads(entry.facts) for entry in self.site.ledger.entries("border.crossed")]
        return [facts["kind"] for facts in entries if facts["direction"] == "out" and facts["kind"] != "refusal"]


@pytest.fixture
def hospital(site, bundles, monkeypatch):
    """With the version that it has adopted as the base."""
    key = Ed25519PrivateKey.generate()
    bundles.trust(site.trust, key, "coordinator")
    base = versions.held(site, versions.panel(site)[0].digest)
    return Hospital(site, base, key, monkeypatch)


def candidate(hospital, folder, *, key=None, signer="coordinator", change=None, **facts):
    """The base with other weights, signed by the coordinator; `change` spoils the files before they are signed."""
    base = hospital.base
    shutil.copytree(base.folder, folder)
    said = base.facts.model_copy(
        update={"number": 2, "parent": base.digest, "retraining": "spring", "certified": False} | facts
    )
    path = folder / "configs" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vigie": said.model_dump(mode="json")}))
    weights = base.read_weights()
    weights[min(weights)] += np.float32(0.01)
    np.savez(folder / "models" / "weights.npz", **weights)
    if change is not None:
        change(folder)
    return seal(folder, key or hospital.key, signer)


def offer(version, name="spring", **changes):
    return Offer(**({"retraining": name, "digest": version.digest, "bundle": to_archive(version)} | changes))


# ── A run that nobody approved ───────────────────────────────────────────────────────────────────────────────────────


def test_what_was_never_proposed_is_refused_whatever_it_is(hospital):
    release = Release(retraining="spring", digest=hospital.base.digest, released=True)
    for message in (hospital.order(), offer(hospital.base), release):
        assert hospital.says(message) == Refusal(to=message.kind, code="consent-missing")
    assert (hospital.done, hospital.left()) == ([], [])
    assert hospital.told() == {f"{kind}: nobody has proposed it" for kind in ("train", "offer", "release")}


def test_a_rehearsal_trains_nothing_and_is_followed_by_no_version(hospital):
    rehearsal = HYPER.model_copy(update={"steps": 0})
    for leaves in (leaving(2), ("update", "evidence")):  # a hospital reads what leaves: it says so, or is no terms
        with pytest.raises(ValidationError, match="what is said to leave"):
            hospital.terms(hyper=rehearsal, leaves=leaves)
    hospital.agree(hyper=rehearsal, leaves=leaving(2, rehearsal=True))
    assert hospital.says(hospital.order(hyper=HYPER.at_round(1, 2))) == Refusal(to="train", code="not-allowed")
    release = Release(retraining="spring", digest=hospital.base.digest, released=True)
    for message in (offer(hospital.base), release):
        assert hospital.says(message) == Refusal(to=message.kind, code="not-allowed")
    assert hospital.done == []
    assert isinstance(hospital.says(hospital.order(hyper=rehearsal.at_round(1, 2))), Update)
    assert hospital.left() == ["consent", "update"]


@pytest.mark.parametrize("objects", ["nobody", "before the next round", "while it trains"])
def test_who_objects_is_in_no_late_update_of_the_next_round(hospital, objects):
    hospital.agree()
    if objects == "while it trains":
        hospital.during = lambda: object_to_reuse(hospital.site, "17")
    assert isinstance(hospital.says(hospital.order()), Update)  # and it is lost on the way
    hospital.during = lambda: None
    if objects == "before the next round":
        object_to_reuse(hospital.site, "17")
    said = hospital.says(hospital.order(round=2, late=1))
    assert said.late == (1 if objects == "nobody" else 0)
    assert hospital.done == (["train"] if objects == "nobody" else ["train", "train"])


def test_what_nobody_can_ask_for_any_more_is_not_kept(hospital):
    hospital.agree()
    assert isinstance(hospital.says(hospital.order()), Update)
    kept = hospital.site.retrainings / "spring" / "outbox"
    secrets = hospital.site.retrainings / "spring" / "group"
    secrets.mkdir()
    hospital.says(hospital.proposal("summer"))
    assert kept.exists()
    consent.withdraw(hospital.site, "spring", "Dr Curie")
    hospital.says(hospital.proposal("autumn"))
    assert not kept.exists()
    assert not secrets.exists()


def test_a_rehearsal_pays_for_no_noise(hospital):
    private = PatientLevel(clip=1.0, noise=1.0, share=0.1, epsilon=1.0, delta=1e-5)
    with pytest.raises(ValidationError, match="nothing to protect"):
        hospital.terms(hyper=HYPER.model_copy(update={"steps": 0}), privacy=private, leaves=leaving(2, rehearsal=True))


def test_a_proposal_waits_for_a_person_and_starts_nothing(hospital):
    said = hospital.says(hospital.proposal())
    assert (said.state, said.reasons) == ("waiting", ("no-policy",))
    assert hospital.says(hospital.order()) == Refusal(to="train", code="consent-missing")
    consent.decline(hospital.site, "spring", "Dr Curie")
    assert hospital.says(hospital.proposal()).state == "declined"
    assert hospital.says(hospital.order()) == Refusal(to="train", code="consent-missing")
    assert hospital.done == []
    consent.approve(hospital.site, "spring", "Dr Curie")
    assert isinstance(hospital.says(hospital.order()), Update)
    assert (
        hospital.says(hospital.proposal())
        == Consent(retraining="spring", digest=hospital.proposal().digest, state="granted", reasons=("person",))
        or hospital.says(hospital.proposal()).code == "conflict"
    )  # terms made a moment later are other terms
    events = [(entry.event, json.loads(entry.facts).get("by")) for entry in hospital.site.ledger.entries("retraining.")]
    assert ("retraining.granted", "Dr Curie") in events
    assert hospital.site.ledger.first_break() is None


def test_a_proposal_that_nobody_trusted_has_signed_is_refused(hospital, vendor_key):
    stranger, altered = Ed25519PrivateKey.generate(), hospital.proposal()
    more = signed.read(altered.terms).model_copy(update={"rounds": 900}).to_bytes()
    for proposal in (
        hospital.proposal(key=stranger),
        hospital.proposal(key=stranger, signer="stranger"),
        hospital.proposal(key=vendor_key, signer="vendor"),  # trusted for versions, not for retrainings
        altered.model_copy(update={"terms": more}),
    ):
        assert hospital.says(proposal) == Refusal(to="proposal", code="not-allowed")
    assert consent.listed(hospital.site) == []
    assert hospital.told() == {
        "proposal: the signature of the terms is not coordinator's",
        "proposal: terms signed by 'stranger' do not count here (consent.signers)",
        "proposal: terms signed by 'vendor' do not count here (consent.signers)",
    }


# ── Something else than was approved ─────────────────────────────────────────────────────────────────────────────────


def test_a_name_stands_for_one_set_of_terms(hospital):
    """A replayed proposal, one altered and signed anew, one under another name."""
    first = hospital.proposal()
    assert hospital.says(first).state == "waiting"
    consent.approve(hospital.site, "spring", "Dr Curie")
    assert hospital.says(first).state == "granted"
    assert hospital.says(hospital.proposal(norm=50.0)) == Refusal(to="proposal", code="conflict")
    assert consent.find(hospital.site, "spring").digest == first.digest
    renamed = {**first.model_dump(), "retraining": "autumn"}
    record = first.to_record()
    record["vigie"] = ConfigRecord({**dict(record["vigie"]), "retraining": renamed["retraining"]})
    assert (
        hospital.says(record) == Refusal(to="unknown", code="border-refused") or hospital.says(record).to == "proposal"
    )
    assert consent.find(hospital.site, "autumn") is None
    assert hospital.says(hospital.order("autumn")).code == "consent-missing"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"round": 3, "hyper": HYPER}, "round 3 of 2"),
        ({"round": 0, "hyper": HYPER}, "round 0 of 2"),
        ({"hyper": HYPER.model_copy(update={"steps": 100_000})}, "other hyper-parameters"),
        ({"hyper": HYPER.model_copy(update={"learning_rate": 0.5})}, "other hyper-parameters"),
        ({"norm": 2.0}, "another norm bound"),
        ({"layers": ("head.*",)}, "other layers"),
        ({"base": "e" * 64}, "another base"),
    ],
    ids=["a-round-more", "round-0", "steps", "rate", "norm", "layers", "base"],
)
def test_an_order_beyond_the_terms_trains_nothing(hospital, changes, why):
    hospital.agree()
    assert hospital.says(hospital.order(**changes)) == Refusal(to="train", code="not-allowed")
    assert (hospital.done, hospital.told()) == ([], {f"train: {why}"})


def test_a_round_is_not_asked_for_again_and_again(hospital):
    hospital.agree()
    for seed in range(consent.ATTEMPTS):
        for _ in range(2):  # the very same order is answered by what it was answered before
            assert isinstance(hospital.says(hospital.order(seed=seed)), Update)
    assert len(hospital.done) == consent.ATTEMPTS
    assert hospital.says(hospital.order(seed=consent.ATTEMPTS)) == Refusal(to="train", code="not-allowed")
    assert isinstance(hospital.says(hospital.order(round=2)), Update)
    assert len(hospital.done) == consent.ATTEMPTS + 1


def test_what_has_expired_or_names_others_starts_nothing(hospital):
    first = hospital.proposal()
    hospital.says(first)
    consent.approve(hospital.site, "spring", "Dr Curie")
    later = time.time() + 4000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(consent.time, "time", lambda: later)
        assert hospital.says(hospital.order()) == Refusal(to="train", code="consent-missing")
        assert hospital.says(first).reasons == ("expired",)
    said = hospital.says(hospital.proposal("autumn", hospitals=("b", "c")))
    assert (said.state, said.reasons) == ("declined", ("not-named",))
    with pytest.raises(Conflict, match="not-named"):
        consent.approve(hospital.site, "autumn", "Dr Curie")
    assert hospital.done == []


# ── Withdrawn ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_nothing_starts_after_a_withdrawal_and_what_was_being_computed_does_not_leave(hospital):
    hospital.agree()
    hospital.during = lambda: consent.withdraw(hospital.site, "spring", "Dr Curie")
    assert hospital.says(hospital.order()) == Refusal(to="train", code="consent-missing")
    assert hospital.done == ["train"]
    hospital.during = lambda: None
    assert hospital.says(hospital.order()) == Refusal(to="train", code="consent-missing")
    assert hospital.done == ["train"]
    assert hospital.left() == ["consent"]
    with pytest.raises(Conflict, match="another name"):
        consent.approve(hospital.site, "spring", "Dr Curie")
    for act in (consent.approve, consent.decline, consent.withdraw):
        with pytest.raises(NotFound):
            act(hospital.site, "never-asked", "Dr Curie")


# ── The standing policy ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_policy_grants_what_fits_it_and_stops_what_no_longer_does(hospital):
    policy = ConsentConfig(standing="retrainings", most_retrainings=1)
    hospital.site.config.consent = policy

    def write():
        save(hospital.site.config, hospital.site.folder / "site.yaml")

    hospital.write()
    first = hospital.proposal()
    assert hospital.says(first).reasons == ("policy",)
    assert isinstance(hospital.says(hospital.order()), Update)
    # one a year by policy; deliveries are no retrainings
    assert hospital.says(hospital.proposal("autumn")).reasons == ("too-many-retrainings",)
    assert hospital.says(hospital.proposal("delivery", rounds=0)).state == "granted"
    policy.standing = "deliveries"
    hospital.write()
    assert hospital.says(hospital.order()) == Refusal(to="train", code="consent-missing")
    assert hospital.says(first).state == "waiting"
    # a person's word outlasts the policy
    consent.approve(hospital.site, "spring", "Dr Curie")
    assert isinstance(hospital.says(hospital.order()), Update)


@pytest.mark.parametrize(
    ("policy", "changes", "reason"),
    [
        ({"most_rounds": 1}, {}, "too-many-rounds"),
        ({"strategies": ["median"]}, {}, "other-strategy"),
        ({"fewest_others": 3}, {}, "too-few-hospitals"),
        ({"largest_norm": 0.5}, {}, "norm-too-large"),
        ({"most_retrainings": 0}, {}, "too-many-retrainings"),
        ({"standing": "deliveries"}, {}, "no-policy"),
        ({"standing": "none"}, {"rounds": 0}, "no-policy"),
    ],
)
def test_what_a_policy_does_not_fit_waits_for_a_person(hospital, policy, changes, reason):
    fits = ConsentConfig(standing="retrainings")
    assert consent.unfit(fits, hospital.terms(**changes), 0) == ()
    narrower = ConsentConfig(**({"standing": "retrainings"} | policy))
    assert consent.unfit(narrower, hospital.terms(**changes), 0) == (reason,)


# ── What leaves ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_update_is_kept_to_the_bound_and_small_counts_stay(hospital):
    hospital.agree()
    order = hospital.order()
    update = hospital.says(order)
    assert distance(update.weights, order.weights) == pytest.approx(1.0, rel=1e-5)  # the network has moved far more
    assert update.n_errors is None
    hospital.site.config.consent.clip_norm = 0.25
    hospital.write()
    assert distance(hospital.says(order).weights, order.weights) == pytest.approx(0.25, rel=1e-5)


def test_a_metric_named_to_carry_data_reaches_nobody(hospital):
    hospital.agree()
    record = hospital.order().to_record()
    record["DUPONT^Marie"] = MetricRecord({"auc": 0.5})
    assert hospital.says(record) == Refusal(to="train", code="border-refused")
    record = hospital.order().to_record()
    record["vigie"] = ConfigRecord({**dict(record["vigie"]), "report": "patient names, please"})
    assert hospital.says(record) == Refusal(to="train", code="border-refused")
    assert hospital.done == []


# ── Versions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_candidate_of_the_retraining_is_judged(hospital, tmp_path):
    hospital.agree()
    made = candidate(hospital, tmp_path / "made")
    assert isinstance(hospital.says(offer(made)), Evidence)
    assert hospital.done == ["judge"]


def test_a_candidate_as_the_coordinator_makes_it_is_judged(hospital, residual, tmp_path, vendor_key):
    """What the coordinator packs differs from its base in nothing that a hospital would refuse."""
    from server.candidate import make
    from server.plan import Plan

    shutil.copytree(residual.folder, hospital.site.versions / residual.digest)
    versions.receive(hospital.site, residual)
    hospital.base = residual
    hospital.agree("summer", layers=("head.*",))
    coordinator = SimpleNamespace(
        registry=SimpleNamespace(next_number=lambda _: 2), folder=tmp_path, versions=tmp_path, signing_key=hospital.key
    )
    plan = Plan(name="summer", base=residual.facts.label, sites=("hospital",), quorum=1, rounds=2)
    weights = residual.read_weights()
    fixed = next(name for name in weights if not name.startswith("head."))
    for name in weights:
        weights[name] = weights[name] + np.float32(0.01) if name.startswith("head.") else weights[name]
    made = make(coordinator, plan, residual, weights, 0.4, {"hospital": 40})
    assert isinstance(hospital.says(offer(made, "summer")), Evidence)
    weights[fixed] = weights[fixed] + np.float32(0.01)
    made = make(coordinator, plan, residual, weights, 0.4, {"hospital": 40})
    assert hospital.says(offer(made, "summer")) == Refusal(to="offer", code="bundle-refused")


def _extra_output(folder: Path) -> None:
    path = folder / "models" / "model.onnx"
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Identity", ["image"], ["copy"]))
    model.graph.output.append(helper.make_tensor_value_info("copy", TensorProto.FLOAT, None))
    onnx.save(model, path)


def _other_preprocessing(folder: Path) -> None:
    path = folder / "configs" / "inference.json"
    said = json.loads(path.read_text())
    said["preprocessing"]["transforms"][0]["mode"] = "nearest"
    path.write_text(json.dumps(said))


@pytest.mark.parametrize(
    "spoilt",
    [
        {"change": _extra_output},
        {"change": _other_preprocessing},
        {"retraining": "autumn"},
        {"parent": "e" * 64},
        {"title": "Something else"},
        {"certified": True},
        {"rank": 1},
        {"change_plan": ChangePlan()},
    ],
    ids=["extra-output", "preprocessing", "other-retraining", "other-base", "title", "certificate", "rank", "plan"],
)
def test_a_candidate_that_changed_more_than_weights_is_refused_and_nothing_of_it_stays(hospital, tmp_path, spoilt):
    hospital.agree()
    made = candidate(hospital, tmp_path / "made", **spoilt)
    before = sorted(path.name for path in hospital.site.versions.iterdir())
    assert hospital.says(offer(made)) == Refusal(to="offer", code="bundle-refused")
    assert hospital.done == []
    assert sorted(path.name for path in hospital.site.versions.iterdir()) == before
    assert versions.find(hospital.site, made.digest) is None


def test_a_candidate_with_another_intended_use_is_refused(hospital, tmp_path):
    hospital.agree()
    wider = hospital.base.facts.intended_use.model_copy(update={"min_age_years": 0})
    made = candidate(hospital, tmp_path / "made", intended_use=wider)
    assert hospital.says(offer(made)) == Refusal(to="offer", code="bundle-refused")


def test_only_the_version_to_deliver_is_delivered(hospital, tmp_path):
    hospital.agree("delivery", rounds=0)
    other = candidate(hospital, tmp_path / "made", retraining="delivery")
    assert hospital.says(offer(other, "delivery")) == Refusal(to="offer", code="not-allowed")
    assert hospital.says(hospital.order("delivery")).code == "not-allowed"
    assert isinstance(hospital.says(offer(hospital.base, "delivery")), Evidence)
    altered = bytearray(to_archive(hospital.base))
    altered[len(altered) // 2] ^= 1
    spoilt = offer(hospital.base, "delivery", bundle=bytes(altered))
    assert hospital.says(spoilt) == Refusal(to="offer", code="bundle-refused")
    assert hospital.done == ["judge"]


def test_a_release_belongs_to_the_retraining_that_made_the_version(hospital, tmp_path):
    hospital.agree()
    hospital.agree("autumn")
    made = candidate(hospital, tmp_path / "made")
    hospital.says(offer(made))
    release = Release(retraining="autumn", digest=made.digest, released=True)
    assert hospital.says(release) == Refusal(to="release", code="not-allowed")


# ── The change plan ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_retraining_outside_the_change_plan_cannot_even_be_approved(hospital, tmp_path):
    hospital.agree()
    planned = candidate(
        hospital, tmp_path / "base", change_plan=ChangePlan(layers=("head.*",), most_rounds=1, margin=0.02), number=2
    )
    shutil.copytree(planned.folder, hospital.site.versions / planned.digest)
    versions.receive(hospital.site, planned)
    said = hospital.says(hospital.proposal("summer", base=planned.digest))
    assert (said.state, said.reasons) == ("declined", ("change-plan",))
    with pytest.raises(Conflict, match="change-plan"):
        consent.approve(hospital.site, "summer", "Dr Curie")
    inside = hospital.proposal("winter", base=planned.digest, rounds=1, layers=("head.*",))
    assert hospital.says(inside).state == "waiting"


# ── The honest way ───────────────────────────────────────────────────────────────────────────────────────────────────


class Reached:
    """Hospitals without a network between: one real border, one that never answers."""

    def __init__(self, hospital):
        self.hospital = hospital
        self.sent = []

    def wait_for(self, names, timeout):
        return dict.fromkeys(names, 1)

    def send_and_receive(self, orders, timeout):
        results = {site: Failure("absent") for site in orders}
        if "hospital" in orders:
            order = orders["hospital"]
            self.sent.append(order.kind)
            answer = self.hospital.says(order)
            if isinstance(answer, Refusal):
                results["hospital"] = Failure(answer.code)
            else:
                check_answer(answer, order)
                assert belongs(answer, order)
                results["hospital"] = answer
        return SimpleNamespace(results=results, seconds=0.0)


def test_a_retraining_goes_on_with_those_who_agree_and_lists_the_others(hospital, residual, tmp_path, monkeypatch):
    from server import plan as plans
    from server import retraining
    from server.coordinator import create
    from server.journal import read

    shutil.copytree(residual.folder, hospital.site.versions / residual.digest)
    versions.receive(hospital.site, residual)
    coordinator = create(tmp_path / "coordinator", CoordinatorConfig())
    hospital.key = coordinator.signing_key
    shutil.copy(coordinator.folder / "signing.pub", hospital.site.trust / "coordinator.pub")
    registry = Kept(residual)
    coordinator.__dict__["registry"] = registry
    monkeypatch.setattr(retraining, "Coordinator", lambda _: coordinator)
    asked = plans.Plan(
        name="spring", base="residual@1", sites=("hospital", "silent"), quorum=1, rounds=2, norm=1.0,
        hyper=HYPER, consent_seconds=0,
    )  # fmt: skip
    folder = plans.save(asked, coordinator.folder)
    reached = Reached(hospital)
    # nobody has agreed in time: nothing starts, and it can be resumed
    with pytest.raises(retraining.QuorumMissed, match="0 of 2 hospitals agreed"):
        retraining.conduct(reached, coordinator.folder, "spring")
    assert (reached.sent, hospital.done) == (["proposal"], [])
    consent.approve(hospital.site, "spring", "Dr Curie")
    retraining.conduct(reached, coordinator.folder, "spring")
    assert reached.sent == ["proposal", "proposal", "train", "train", "offer", "release"]
    assert hospital.done == ["train", "train", "judge"]
    lines = {line["step"]: line for line in read(folder)}
    assert (lines["consents"]["granted"], list(lines["consents"]["waiting"])) == (["hospital"], ["silent"])
    assert lines["release-gate"]["missing"] == ["silent"]
    assert lines["round"]["sites"]["hospital"]["errors"] is None
    assert registry.lineage["asked"] == "hospital,silent"
    assert all(told(line) for line in read(folder))


def test_people_see_what_is_asked_and_decide(hospital):
    """`vigie site retraining`, as hospital IT types it."""
    from typer.testing import CliRunner

    from scripts.site_commands import app

    def vigie(*words):
        done = CliRunner().invoke(app, [*words, "--folder", str(hospital.site.folder)])
        return done.exit_code, done.output, done.exception

    hospital.says(hospital.order("unasked"))
    hospital.says(hospital.proposal())
    status, said, _ = vigie("retraining", "show", "spring")
    assert status == 0
    for words in ("waiting (no-policy)", "signed by          coordinator", "2, aggregated by fedavg-root", "1 a round",
                  "update, evidence, decision", "hospital, b, c", "steps 5"):  # fmt: skip
        assert words in said
    status, said, _ = vigie("retraining", "list")
    assert status == 0
    assert "refused 1 times  unasked  train: nobody has proposed it" in said
    assert vigie("retraining", "approve", "spring", "--by", "Dr Curie")[0] == 0
    assert isinstance(hospital.says(hospital.order()), Update)
    assert "by Dr Curie" in vigie("retraining", "show", "spring")[1]
    assert isinstance(vigie("retraining", "decline", "spring")[2], Conflict)
    assert vigie("retraining", "withdraw", "spring", "--by", "Dr Curie")[0] == 0
    assert hospital.says(hospital.order()).code == "consent-missing"
    assert isinstance(vigie("retraining", "approve", "never")[2], NotFound)
    assert "the ledger holds" in vigie("border")[1]
    decided = [json.loads(entry.facts) for entry in hospital.site.ledger.entries("retraining.")]
    assert [facts["by"] for facts in decided if "by" in facts] == ["Dr Curie"] * 2
