"""A retraining from its plan to the hospitals' decisions, journalled so that it can go on after any crash.

    consents ─► rounds ─► candidate ─► registered ─► offered ─► evidence ─► release gate ─► released or not ─► decisions

A plan without rounds delivers its base as it is; one without steps, a rehearsal, ends with its rounds. Every step that
is in the journal is not done again; a message that was answered and not journalled is asked again, which changes
nothing at a hospital.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models import terms as signed
from models.bundle import Bundle, to_archive
from models.errors import VigieError
from models.exchange import Decision, Evidence, Offer, Order, Proposal, Release, Update
from models.protection import SecureAggregation
from server import consent, summing
from server import plan as plans
from server.aggregation import Aggregation
from server.coordinator import Coordinator
from server.evaluation import evaluations
from server.journal import Journal, alone, read
from server.lineage import PERSONAL
from server.messaging import LATER
from server.participation import contributed, participation
from server.plan import Plan, QuorumMissed
from server.registry import Registered
from server.release import decide, figures, told_of_forms

log = logging.getLogger(__name__)

Weights = dict[str, NDArray[Any]]


class Hospitals(Protocol):
    """How hospitals are reached: server.messaging.Exchange, or a test's."""

    def wait_for(self, names: list[str], timeout: float) -> Mapping[str, int]:
        """Those of the named hospitals that are connected, at the latest after `timeout` seconds."""
        ...

    def send_and_receive(self, orders: Mapping[str, Order], timeout: float) -> Any:
        """Answers and failures by hospital, in the order of their names."""
        ...


@dataclass(frozen=True, slots=True)
class _Retraining:
    """What every step needs; the plan's hospitals are, from the consents on, those that agreed, `asked` all."""

    hospitals: Hospitals
    coordinator: Coordinator
    plan: Plan
    journal: Journal
    asked: tuple[str, ...]


def conduct(hospitals: Hospitals, folder: Path, name: str) -> None:
    """Carry a plan out, from wherever its journal ends.

    Args:
        folder: the coordinator's.
        name: of the plan.

    Raises:
        QuorumMissed: too few hospitals answered.
        Conflict: this retraining runs already.
        VigieError: the plan, a version or the registry is not in order.
    """
    plan = plans.load(folder, name)
    with alone(folder / "retrainings" / name):
        try:
            _conduct(hospitals, folder, plan)
        except VigieError as error:
            # what was foreseen ends it; what nobody foresaw (a registry that is away) leaves no such line, and whoever
            # launched it tries again
            Journal(folder / "retrainings" / name).write("ended", {"code": error.code, "why": str(error)})
            raise


def _conduct(hospitals: Hospitals, folder: Path, plan: Plan) -> None:
    coordinator = Coordinator(folder)
    step = _Retraining(hospitals, coordinator, plan, Journal(folder / "retrainings" / plan.name), plan.sites)
    step.journal.write("started", {"base": plan.base, "rounds": plan.rounds, "sites": list(plan.sites)})
    connected = hospitals.wait_for(list(plan.sites), plan.connect_seconds)
    _require_quorum(step, "connected", len(connected))
    standing = coordinator.registry.find_standing(plan.base)
    base = coordinator.registry.fetch(standing, coordinator.versions, coordinator.trusted)
    consent.within_change_plan(plan, base.facts)
    proposal = consent.proposal_of(coordinator, plan, base.digest, base.facts)
    agreed = consent.agreed(hospitals, proposal, plan, step.journal)
    _require_quorum(step, "agreed", len(agreed))
    step = replace(step, plan=plan.model_copy(update={"sites": agreed}))
    weights = _rounds(step, base, proposal) if plan.rounds else {}
    if plan.rehearses:
        step.journal.write("finished", {"released": False, "rehearsed": True})
        return
    offered = _candidate(step, base, weights) if plan.rounds else base
    version = coordinator.registry.find_digest(offered.digest)
    evidence = _offer(step, offered, version)
    released = _release_gate(step, version, offered.facts.parent, evidence)
    _announce(step, version, released)
    step.journal.write("finished", {"released": released})


def _rounds(step: _Retraining, base: Bundle, proposal: Proposal) -> Weights:
    done = step.journal.last("round")
    number = int(done["round"]) if done else 0
    aggregation = Aggregation(
        step.plan,
        base.digest,
        base.facts,
        base.read_weights(),
        step.journal.load_weights(number) if done else None,
        step.journal.load_state(number) if done else None,
    )
    members = None
    if isinstance(step.plan.privacy, SecureAggregation):
        terms = signed.read(proposal.terms)
        members = summing.members(step.journal, step.plan, proposal.digest, terms.identities)
    missing = {site: code for site, code in done["failures"].items() if code in LATER} if done else {}
    while number < step.plan.rounds:
        number += 1
        line = (
            _round(step, aggregation, number, missing)
            if members is None
            else _summed_round(step, aggregation, number, members)
        )
        missing = {site: code for site, code in line["failures"].items() if code in LATER}
        step.journal.save_state(number, aggregation.state)
        step.journal.save_weights(number, aggregation.weights)
        step.journal.write("round", {"round": number, **line})
    return aggregation.weights


def _round(step: _Retraining, aggregation: Aggregation, number: int, missing: Mapping[str, str]) -> dict[str, Any]:
    """One round, each hospital's update by itself; returns what the journal keeps of it."""
    orders: dict[str, Order] = {
        site: aggregation.order(number, site, number - 1 if site in missing else 0) for site in step.plan.sites
    }
    answered = step.hospitals.send_and_receive(orders, step.plan.deadline_seconds)
    updates = {site: found for site, found in answered.results.items() if isinstance(found, Update)}
    failures = {site: found.code for site, found in answered.results.items() if site not in updates}
    if lacks := step.plan.lacks({site: found.n_cases for site, found in updates.items()}):
        step.journal.write("quorum-missed", {"round": number, "failures": failures, "why": lacks})
        raise QuorumMissed(f"round {number}: {lacks}")
    aggregation.take(updates)
    return {
        "seconds": round(answered.seconds, 3),
        "failures": failures,
        "sites": {
            site: {
                "cases": found.n_cases,
                "errors": found.n_errors,
                "loss": found.train_loss,
                "auc_received": found.auc_received,
                "threshold_received": found.threshold_received,
                **({"late": found.late} if found.late else {}),
            }
            for site, found in updates.items()
        },
    }


def _summed_round(step: _Retraining, aggregation: Aggregation, number: int, members: summing.Members) -> dict[str, Any]:
    """One round of which only the sum is known, and means over it."""
    found = summing.conduct(step.hospitals, step.journal, step.plan, aggregation, members, number)
    return {
        "seconds": round(found.seconds, 3),
        "failures": found.failures,
        "sites": {site: {"cases": cases} for site, cases in found.cases.items()},
        "together": {
            "auc_received": found.figures.auc,
            "threshold_received": found.figures.threshold,
            "loss_received": found.figures.loss,
        },
    }


def _candidate(step: _Retraining, base: Bundle, weights: Weights) -> Bundle:
    registry = step.coordinator.registry
    if made := step.journal.last("candidate"):
        version = registry.find_digest(made["digest"])
        return registry.fetch(version, step.coordinator.versions, step.coordinator.trusted)
    from server.candidate import make  # torch: only where a version is made

    rounds = [line for line in read(step.journal.folder) if line["step"] == "round"]
    last = rounds[-1]["sites"]
    known = [site["threshold_received"] for site in last.values() if site.get("threshold_received") is not None]
    if together := rounds[-1].get("together"):
        known = [together["threshold_received"]]
    threshold = float(np.mean(known)) if known else base.facts.threshold
    contributions = {site: int(facts["cases"]) for site, facts in last.items()}
    # registered before a crash, and not journalled: another one would be packed with the number after it
    registered = registry.of_retraining(base.facts.name, step.plan.name)
    bundle = (
        registry.fetch(registered, step.coordinator.versions, step.coordinator.trusted)
        if registered is not None
        else make(step.coordinator, step.plan, base, weights, threshold, contributions)
    )
    lineage = {
        "retraining": step.plan.name,
        "base": step.plan.base,
        "rounds": str(step.plan.rounds),
        "strategy": str(step.plan.strategy),
        "sites": ",".join(sorted(contributions)),
        "asked": ",".join(step.asked),
        "plan": step.plan.model_dump_json(),
        **{f"cases.{site}": str(cases) for site, cases in contributions.items()},
        **{
            f"took-part.{site}": found.told(step.plan.rounds)
            for site, found in participation(read(step.journal.folder)).items()
        },
    }
    version = registry.register(bundle, lineage)
    for line in rounds:
        figures_of_round = {
            f"rounds/{site}/{key}": float(value)
            for site, facts in line["sites"].items()
            for key, value in facts.items()
            if value is not None
        }
        figures_of_round |= {
            f"rounds/{site}/took_part": float(site in line["sites"]) for site in (*line["sites"], *line["failures"])
        }
        figures_of_round |= {f"rounds/{key}": value for key, value in line.get("together", {}).items()}
        registry.record(version, figures_of_round, step=int(line["round"]))
    told_of_round = ("round", "seconds", "failures", "sites", "together")
    registry.keep_rounds(version, [{key: line[key] for key in told_of_round if key in line} for line in rounds])
    registry.alias(version, "candidate")
    told = {"digest": bundle.digest, "label": version.label, "threshold": bundle.facts.threshold}
    step.journal.write("candidate", told)
    return bundle


def _offer(step: _Retraining, bundle: Bundle, version: Registered) -> dict[str, Evidence]:
    if told := step.journal.last("evidence"):
        return {site: Evidence.model_validate_json(text) for site, text in told["evidence"].items()}
    offer = Offer(
        retraining=step.plan.name, digest=bundle.digest, parent=bundle.facts.parent, bundle=to_archive(bundle)
    )
    answered = step.hospitals.send_and_receive(dict.fromkeys(step.plan.sites, offer), step.plan.deadline_seconds)
    evidence = {site: found for site, found in answered.results.items() if isinstance(found, Evidence)}
    failures = {site: found.code for site, found in answered.results.items() if site not in evidence}
    for site, found in evidence.items():
        for measured, fold, which in (
            (found.served_gate, "gate", "served"),
            (found.candidate_gate, "gate", "candidate"),
            (found.served_test, "test", "served"),
            (found.candidate_test, "test", "candidate"),
        ):
            if measured is not None:
                values = {f"{site}/{fold}/{which}/{key}": value for key, value in figures(measured).items()}
                step.coordinator.registry.record(version, values)
        changed = {f"{site}/mended": found.mended, f"{site}/new_errors": found.new_errors}
        step.coordinator.registry.record(
            version, {key: float(count) for key, count in changed.items() if count is not None}
        )
    forms = {PERSONAL + site: found.personal for site, found in evidence.items() if found.personal is not None}
    if forms:
        step.coordinator.registry.tag(version, forms)
    measured = [one for site, found in evidence.items() for one in evaluations(site, found)]
    step.coordinator.registry.evaluate(version, measured)
    step.journal.write(
        "evidence",
        {"evidence": {site: found.model_dump_json() for site, found in evidence.items()}, "failures": failures},
    )
    return evidence


def _release_gate(step: _Retraining, version: Registered, parent: str | None, evidence: Mapping[str, Evidence]) -> bool:
    if told := step.journal.last("release-gate"):
        return bool(told["released"])
    decision = decide(
        evidence,
        step.asked,
        step.plan.quorum,
        must_compare=parent is not None,
        rounds=contributed(read(step.journal.folder)),
        agreed=step.plan.sites if step.plan.rounds else (),
        named=step.plan.quorum_sites,
    )
    if step.coordinator.registry.find(version.label).withdrawn:  # by a person, while the hospitals compared it
        decision = replace(decision, released=False, reasons=(*decision.reasons, "it was withdrawn"))
    step.coordinator.registry.tag(
        version,
        {
            "release": "released" if decision.released else "blocked",
            "release.reasons": "; ".join(decision.reasons) or _good(decision.compared),
            "release.missing": ",".join(decision.missing) or "none",
            **({"release.judged": judged} if (judged := told_of_forms(evidence)) else {}),
        },
    )
    step.coordinator.registry.alias(version, "released" if decision.released else "blocked")
    step.journal.write(
        "release-gate",
        {"released": decision.released, "reasons": list(decision.reasons), "missing": list(decision.missing)},
    )
    return decision.released


def _good(compared: int) -> str:
    if not compared:
        return "quorum met, acceptance test passed; a first version, compared with nothing"
    return f"quorum met, better on average over {compared} hospitals, shown to be worse at none"


def _announce(step: _Retraining, version: Registered, released: bool) -> None:
    if step.journal.last("decisions"):
        return
    release = Release(retraining=step.plan.name, digest=version.digest, released=released)
    answered = step.hospitals.send_and_receive(dict.fromkeys(step.plan.sites, release), step.plan.deadline_seconds)
    decisions = {site: found for site, found in answered.results.items() if isinstance(found, Decision)}
    failures = {site: found.code for site, found in answered.results.items() if site not in decisions}
    for site, found in decisions.items():
        step.coordinator.registry.tag(
            version, {f"decision.{site}": found.outcome, f"decision.{site}.reasons": ", ".join(found.reasons)}
        )
        if found.outcome == "adopted":
            step.coordinator.registry.alias(version, f"adopted-at-{site}")
    step.journal.write(
        "decisions",
        {
            "decisions": {site: {"outcome": d.outcome, "reasons": list(d.reasons)} for site, d in decisions.items()},
            "failures": failures,
        },
    )


def _require_quorum(step: _Retraining, what: str, count: int) -> None:
    if count < step.plan.quorum:
        raise QuorumMissed(f"{count} of {len(step.asked)} hospitals {what}, {step.plan.quorum} are needed")
