"""Hospitals whose updates are summed, behind their real borders and consents, in one process; training is made up."""

import json
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import client.federation.site as served_by
from client.federation import consent, hospitals
from client.federation.border import Border
from client.federation.limits import bounds_of
from configs.schema import ConsentConfig, save
from models import exchange, pki
from models import terms as signed
from models.bounds import keep
from models.bundle import seal
from models.exchange import Decision, Evidence, Proposal, Refusal, TrainOrder, Update
from models.hyperparameters import Hyperparameters
from models.protection import SecureAggregation
from server import consent as asked
from server import summing
from server.aggregation import Aggregation
from server.consent import terms_of
from server.journal import Journal
from server.messaging import ABSENT, Answered, Failure
from server.plan import Plan

HYPER = Hyperparameters(steps=2)


def base_of(folder, bundles, key):
    """A version with weights of several forms: an integer that no update may change among them."""
    bundles.build(folder, key)
    draw = np.random.default_rng(5)
    np.savez(
        folder / "models" / "weights.npz",
        **{
            "layer.weight": draw.normal(size=(40, 9)).astype(np.float32),
            "layer.bias": draw.normal(size=9).astype(np.float16),
            "norm.seen": np.array(7),
        },
    )
    return seal(folder, key, bundles.SIGNER)


def trained(site, order):
    """An update that nobody could guess, the same whenever it is asked for."""
    number = int.from_bytes(site.config.name.encode()[:4], "big")
    draw = np.random.default_rng([number, order.round])
    moved = {
        name: np.asarray(array + draw.normal(size=array.shape), array.dtype) if array.dtype.kind == "f" else array
        for name, array in order.weights.items()
    }
    return Update(
        retraining=order.retraining,
        round=order.round,
        base=order.base,
        n_cases=CASES[site.config.name],
        n_errors=12,
        train_loss=0.5,
        auc_received=0.5 + CASES[site.config.name] / 1000,
        threshold_received=0.25,
        loss_received=0.75,
        weights=keep(moved, order.weights, bounds_of(site, order)),
    )


def judged(site, offer):
    return Evidence(retraining=offer.retraining, digest=offer.digest, verdict="shadow")


def settled(site, order):
    return Decision(retraining=order.retraining, digest=order.digest, outcome="shadow")


CASES = {"alpha": 40, "beta": 90, "gamma": 23, "delta": 64, "epsilon": 200}


@dataclass
class Hospital:
    site: object
    trainings: list = field(default_factory=list)

    @cached_property
    def border(self):
        handlers = served_by.handlers(self.site.folder)  # once: its settings take longer to read than the rest
        return Border(self.site.ledger, lambda: handlers)

    def says(self, message):
        record = message if not hasattr(message, "to_record") else message.to_record()
        return exchange.parse(self.border.answer(record))

    def told(self):
        """Why things were refused, as its own people read it in the ledger."""
        return {why for (_, why) in consent.refusals(self.site)}

    def left(self):
        entries = [json.loads(entry.facts) for entry in self.site.ledger.entries("border.crossed")]
        return [facts["kind"] for facts in entries if facts["direction"] == "out"]


class Several:
    """Hospitals by name, as the coordinator reaches them.

    `fails(site, order)` may say that a hospital does not answer: "before" it hears of the order, or "after" it has
    worked on it.
    """

    def __init__(self, sites, base, key):
        self.hospitals = {site.config.name: Hospital(site) for site in sites}
        self.base, self.key = base, key
        self.fails = lambda site, order: ""
        self.sent = []

    def __getitem__(self, name):
        return self.hospitals[name]

    def points(self):
        return {name: hospitals.own(one.site) for name, one in sorted(self.hospitals.items())}

    def proposal(self, plan, **changes):
        points = self.points()
        summed = isinstance(plan.privacy, SecureAggregation)
        keys = tuple(points[name] for name in plan.sites) if summed else ()
        terms = terms_of(plan, self.base.digest, self.base.facts, 1e10, keys).model_copy(update=changes)
        content = terms.to_bytes()
        signature = signed.sign(content, self.key)
        return Proposal(retraining=plan.name, terms=content, signer="coordinator", signature=signature)

    def agree(self, plan, folder):
        """By a person everywhere; returns what a coordinator needs for the rounds."""
        proposal = self.proposal(plan)
        for name in plan.sites:
            assert self[name].says(proposal).state == "waiting"
            consent.approve(self[name].site, plan.name, "Dr Curie")
        journal = Journal(folder)
        assert asked.agreed(self, proposal, plan, journal) == plan.sites
        identities = signed.read(proposal.terms).identities
        return Coordinator(self, plan, journal, summing.members(journal, plan, proposal.digest, identities))

    def trust(self, signing):
        """Trust a coordinator and each other, and let a policy agree to all."""
        points = self.points()
        for name, one in self.hospitals.items():
            one.site.config.consent = ConsentConfig(standing="retrainings")
            save(one.site.config, one.site.folder / "site.yaml")
            (one.site.trust / "coordinator.pub").write_bytes(signing.read_bytes())
            for other in set(points) - {name}:
                pki.write_supernode_public(one.site.trust / "hospitals" / f"{other}.pub", points[other])

    def wait_for(self, names, timeout):
        return dict.fromkeys(names, 1)

    def send_and_receive(self, orders, timeout):
        results = {}
        for name, order in sorted(orders.items()):
            self.sent.append((name, order))
            record = order.to_record()
            if (when := self.fails(name, order)) == "before":
                results[name] = Failure(ABSENT)
                continue
            answer = self[name].says(record)
            if when == "after":
                results[name] = Failure("lost")
            elif isinstance(answer, Refusal):
                results[name] = Failure(answer.code)
            else:
                assert exchange.belongs(answer, order)
                exchange.check_answer(answer, order)
                results[name] = answer
        return Answered(results, 0.0)


@dataclass
class Coordinator:
    """An honest one, with its journal."""

    hospitals: Several
    plan: Plan
    journal: Journal
    members: summing.Members

    def aggregation(self, weights=None):
        base = self.hospitals.base
        return Aggregation(self.plan, base.digest, base.facts, base.read_weights(), weights)

    def round(self, number=1, aggregation=None):
        aggregation = aggregation or self.aggregation()
        found = summing.conduct(self.hospitals, self.journal, self.plan, aggregation, self.members, number)
        return found, aggregation

    def group_order(self, site, number=1, attempt=1, **changes):
        order = self.aggregation().group_order(number, site, attempt, self.members.group, self.members.signatures)
        return type(order).model_validate({**vars(order), **changes}) if changes else order

    def in_the_open(self, names, number=1, weights=None):
        """The weighted mean of the named hospitals' updates, as it would be if nothing were hidden."""
        received = self.aggregation(weights).weights
        shares = {name: _share(self.plan.privacy.weighting, CASES[name]) for name in names}
        updates = {}
        for name in names:
            order = self.aggregation(weights).group_order(number, name, 1, self.members.group, self.members.signatures)
            updates[name] = trained(self.hospitals[name].site, order).weights
        return {
            key: sum(
                shares[name] * (updates[name][key].astype(np.float64) - array.astype(np.float64)) for name in names
            )
            / sum(shares.values())
            + array.astype(np.float64)
            for key, array in received.items()
        }


def _share(weighting, cases):
    return {"site": 1.0, "root": cases**0.5, "cases": float(cases)}[weighting]


def plan_of(names, **changes):
    weighting = changes.pop("weighting", "root")
    values = {
        "name": "spring", "base": "brightness@1", "sites": tuple(sorted(names)), "quorum": 3, "rounds": 2,
        "hyper": HYPER, "strategy": {"name": "fedavg", "weighting": weighting}, "norm": 5.0,
        "privacy": SecureAggregation(weighting=weighting),
    }  # fmt: skip
    return Plan.model_validate(values | changes)


def make(names, make_site, bundles, vendor_key, folder, monkeypatch):
    """Hospitals that trust the coordinator and hold the base."""
    import shutil

    from client.store import versions

    base, key = base_of(folder / "base", bundles, vendor_key), Ed25519PrivateKey.generate()
    sites = []
    for name in names:
        site = make_site(name, adopted=False)
        bundles.trust(site.trust, key, "coordinator")
        pki.make_supernode(site.secrets / "supernode.key")
        shutil.copytree(base.folder, site.versions / base.digest)
        versions.receive(site, base)
        sites.append(site)
    several = Several(sites, base, key)

    def train(site, order: TrainOrder):
        several[site.config.name].trainings.append((order.round, getattr(order, "attempt", None)))
        return trained(site, order)

    monkeypatch.setattr(served_by, "train", train)
    return several
