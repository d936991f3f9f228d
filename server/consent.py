"""Asking hospitals to agree: the signed terms go out before anything else, and only who grants them takes part.

A hospital where a person has to look answers `waiting`; it is asked again, ever less often, until all have decided or
the time in the plan is up. Who granted, declined or has not answered stands in the journal.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from models import terms as signed
from models.bundle import Facts
from models.durable import replacing
from models.errors import ConfigurationError
from models.exchange import Consent, Order, Proposal
from models.protection import SecureAggregation
from models.terms import Terms, leaving
from server.coordinator import SIGNER, Coordinator
from server.journal import Journal
from server.plan import Plan
from server.privacy import require_trainable
from server.strategies.strategy import Staying
from server.superlink import registered_sites

TERMS = "terms.json"
ANSWER_SECONDS = 60.0  # for a hospital that is connected: what it says is known there already
PAUSES = (1.0, 60.0)  # seconds between two questions, at first and in the end


class Hospitals(Protocol):
    """How hospitals are reached: server.messaging.Exchange, or a test's."""

    def send_and_receive(self, orders: Mapping[str, Order], timeout: float) -> Any:
        """Answers and failures by hospital, in the order of their names."""
        ...


def within_change_plan(plan: Plan, base: Facts) -> None:
    """Refuse a plan that the base's vendor has not foreseen, or that its network cannot be trained by.

    Raises:
        ConfigurationError: with what lies outside the change plan, in clear sentences.
    """
    if plan.rounds and (outside := base.changes.refuses(plan.rounds, plan.hyper, plan.layers)):
        raise ConfigurationError(f"{plan.name!r} cannot retrain {plan.base}: {'; '.join(outside)}")
    require_trainable(plan.privacy, base)


def terms_of(plan: Plan, base: str, facts: Facts, now: float, keys: tuple[str, ...] = ()) -> Terms:
    """What hospitals are asked to agree to.

    Args:
        base, facts: digest and facts of the version that the plan names.
        now: seconds since the epoch.
        keys: under secure aggregation, of each hospital.
    """
    staying = plan.strategy.staying(facts) if plan.rounds else Staying()
    return Terms(
        name=plan.name,
        label=plan.base,
        base=base,
        hospitals=plan.sites,
        quorum=plan.quorum,
        rounds=plan.rounds,
        strategy=plan.strategy.name,
        hyper=plan.strategy.ordered(plan.hyper),
        layers=plan.layers,
        local=staying.local,
        frozen=staying.frozen,
        encoding=plan.compression.updates,
        controls=plan.strategy.controls,
        norm=plan.norm,
        privacy=plan.privacy,
        keys=keys,
        leaves=leaving(plan.rounds, plan.privacy, plan.rehearses),
        deadline_seconds=plan.deadline_seconds,
        created_at=now,
        expires_at=now + plan.valid_days * 86400,
    )


def keys_of(folder: Path, plan: Plan) -> tuple[str, ...]:
    """Who each hospital of a plan is, where their updates are to be summed; else nothing.

    Raises:
        ConfigurationError: a key is not known.
    """
    if not isinstance(plan.privacy, SecureAggregation):
        return ()
    registered = registered_sites(folder)
    points = {site: registered[site].point if site in registered else "" for site in plan.sites}
    if unknown := [site for site, point in points.items() if not point]:
        raise ConfigurationError(
            f"the key of {unknown[0]!r} was not kept when it was registered: `vigie coordinator register {unknown[0]}"
            " KEY.pub` once more, with the same key"
        )
    return tuple(points.values())


def proposal_of(coordinator: Coordinator, plan: Plan, base: str, facts: Facts) -> Proposal:
    """The signed terms of a plan: the same bytes each time that it is resumed, for hospitals agree to those alone."""
    path = coordinator.folder / "retrainings" / plan.name / TERMS
    if not path.exists():
        keys = keys_of(coordinator.folder, plan)
        with replacing(path) as file:  # half of it would be other terms under the same name
            file.write(terms_of(plan, base, facts, round(time.time()), keys).to_bytes())
    content = path.read_bytes()
    return Proposal(
        retraining=plan.name, terms=content, signer=SIGNER, signature=signed.sign(content, coordinator.signing_key)
    )


def agreed(
    hospitals: Hospitals,
    proposal: Proposal,
    plan: Plan,
    journal: Journal,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[str, ...]:
    """The hospitals that agree, once all have decided or the time is up.

    A retraining that is resumed asks again: who has withdrawn meanwhile does not take part, who has agreed does.
    """
    deadline, pause = clock() + plan.consent_seconds, PAUSES[0]
    said: dict[str, tuple[str, tuple[str, ...]]] = {}
    keys: dict[str, list[str]] = {}
    waiting = list(plan.sites)
    journal.write("proposed", {"terms": proposal.digest, "sites": waiting})
    while True:
        answered = hospitals.send_and_receive(dict.fromkeys(waiting, proposal), ANSWER_SECONDS)
        for site, found in answered.results.items():
            now = (found.state, found.reasons) if isinstance(found, Consent) else ("no answer", (found.code,))
            if isinstance(found, Consent) and found.key is not None and found.signature is not None:
                keys[site] = [found.key.hex(), found.signature.hex()]
            if said.get(site) != now:
                said[site] = now
                journal.write("consent", {"site": site, "state": now[0], "reasons": list(now[1])})
        waiting = [site for site in plan.sites if said[site][0] not in ("granted", "declined")]
        left = deadline - clock()
        if not waiting or left <= 0:
            break
        sleep(min(pause, left))
        pause = min(pause * 1.5, PAUSES[1])
    granted = tuple(site for site in plan.sites if said[site][0] == "granted")
    journal.write(
        "consents",
        {
            "granted": list(granted),
            **({"keys": keys} if keys else {}),
            "declined": {site: list(why) for site, (state, why) in said.items() if state == "declined"},
            "waiting": {site: list(why) for site, (_, why) in said.items() if site in waiting},
        },
    )
    return granted
