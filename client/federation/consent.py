"""What this hospital agrees to: nothing starts here, and no evidence leaves, that it has not.

    proposal ─► signature, name, expiry, base, change plan ─► standing policy, else a person ─► each order held to it

A coordinator's first message of a retraining, or of a delivery, are its signed terms. The answer is granted, waiting or
declined; every order that follows is held against the terms with this name, when it comes and again before the reply
leaves, so that a withdrawal counts while a training runs. Whatever is refused is in the ledger, with the reason.
"""

import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from sqlalchemy import Connection, func, insert, select, update

from client.federation import hospitals
from client.federation.budget import after
from client.store import ledger, versions
from client.store.site import Site
from client.store.tables import agreement
from configs.schema import ConsentConfig
from models import terms as signed
from models.errors import Conflict, ConsentMissing, NotAllowed, NotFound, VigieError
from models.exchange import (
    Audit,
    Consent,
    ConsentReason,
    Inquiry,
    MaskOrder,
    Offer,
    Order,
    Proposal,
    Release,
    Survey,
    TrainOrder,
    UnmaskOrder,
    Withdrawal,
)
from models.hyperparameters import Hyperparameters
from models.protection import PatientLevel, SecureAggregation, understates
from models.signing import load_trust
from models.terms import Terms

State = Literal["waiting", "granted", "declined", "withdrawn"]
YEAR = 365 * 86400.0
ATTEMPTS = 5
"""How often one round may be asked for: a coordinator that crashed asks again, one that trains on and on does not."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was asked, and what this hospital said.

    Attributes:
        digest: of the terms.
        basis: of the decision: a person, the policy, or nothing yet.
        by: who decided.
        trained: orders to train that were begun, by round.
    """

    retraining: str
    digest: str
    terms: Terms
    signer: str
    state: State
    basis: str
    by: str
    proposed_at: float
    decided_at: float | None
    trained: dict[int, int]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an agreement stands at this moment: a grant may have expired, a policy may be gone."""

    state: Literal["granted", "waiting", "declined"]
    reasons: tuple[ConsentReason, ...]


# ── What the coordinator asks ────────────────────────────────────────────────────────────────────────────────────────


def answer(site: Site, proposal: Proposal) -> Consent:
    """Take in the terms of a retraining and say whether this hospital agrees; asked again, it says how it stands.

    Raises:
        NotAllowed: nobody whose signature counts here has signed them, or they promise more privacy than they give.
        Conflict: the name stands for other terms already.
    """
    try:
        _verify(site, proposal)
        if find(site, proposal.retraining) is None:  # the arithmetic takes seconds, and terms are bytes
            _require_honest(signed.read(proposal.terms))
        found = _note(site, proposal)
    except VigieError as error:
        refused(site, proposal.retraining, "proposal", error.code, str(error))
        raise
    standing = stands(site, found)
    if standing.state == "granted" and found.state == "waiting":
        if not affordable(site, found.terms):
            return Consent(
                retraining=found.retraining, digest=found.digest, state="waiting", reasons=("budget-exhausted",)
            )
        _decide(site, found.retraining, ("waiting",), "granted", "policy", "standing policy")
    return Consent(retraining=found.retraining, digest=found.digest, state=standing.state, reasons=standing.reasons)


def require(site: Site, order: Order) -> Terms | None:
    """The terms that an order belongs to; a proposal belongs to none yet, and a survey to none ever.

    A withdrawal is looked at by its signature (`withdrawal.py`), and needs nobody's agreement; so is a question how a
    version does (`statistics.py`), which needs the settings' and may wait for a person's.

    Raises:
        ConsentMissing: this hospital has not agreed, has withdrawn, or its agreement has expired.
        NotAllowed: the order is not what was agreed to.
    """
    if isinstance(order, Proposal | Withdrawal):
        return None
    if isinstance(order, Inquiry):
        if not site.config.consent.holdings:
            raise ConsentMissing("nobody is told which versions serve here (consent.holdings)")
        return None
    if isinstance(order, Audit):
        if site.config.consent.statistics == "none":
            why = "nobody is told how versions do here (consent.statistics)"
            refused_as = {"version": order.asked.version, "code": ConsentMissing.code, "why": why}
            site.ledger.append("statistics.refused", refused_as)
            raise ConsentMissing(why)
        return None
    try:
        if isinstance(order, Survey):
            if not site.config.consent.surveys:
                raise ConsentMissing("errors are counted for nobody (consent.surveys)")
            return None
        found = find(site, order.retraining)
        if found is None:
            raise ConsentMissing("nobody has proposed it")
        standing = stands(site, found)
        if found.state != "granted" or standing.state != "granted":
            raise ConsentMissing(f"{standing.state}: {', '.join(standing.reasons)}")
        if why := _departs(site, order, found.terms):
            raise NotAllowed(why)
    except (ConsentMissing, NotAllowed) as error:
        refused(site, order.retraining, order.kind, error.code, str(error))
        raise
    return found.terms


def begin(site: Site, order: TrainOrder) -> None:
    """Count a training that starts.

    Raises:
        NotAllowed: this round was asked for too often.
    """
    with site.database.write() as connection:
        query = select(agreement.c.trained).where(agreement.c.retraining == order.retraining)
        trained = Counter(_rounds(connection.execute(query).scalar_one()))
        trained[order.round] += 1
        if trained[order.round] <= ATTEMPTS:
            connection.execute(
                update(agreement)
                .where(agreement.c.retraining == order.retraining)
                .values(trained={str(round_): times for round_, times in trained.items()})
            )
            return
    why = f"round {order.round} was asked for {ATTEMPTS} times already"
    refused(site, order.retraining, order.kind, NotAllowed.code, why)
    raise NotAllowed(why)


# ── What people ask ──────────────────────────────────────────────────────────────────────────────────────────────────


def find(site: Site, retraining: str) -> Agreement | None:
    """What is known here of a retraining."""
    with site.database.read() as connection:
        row = connection.execute(select(agreement).where(agreement.c.retraining == retraining)).first()
    return _read(row) if row else None


def listed(site: Site) -> list[Agreement]:
    """All that was ever asked, newest first."""
    with site.database.read() as connection:
        rows = connection.execute(select(agreement).order_by(agreement.c.proposed_at.desc())).all()
    return [_read(row) for row in rows]


def approve(site: Site, retraining: str, by: str) -> Agreement:
    """Agree to a retraining, by a person's word; twice is once.

    Raises:
        NotFound: nobody has proposed it.
        Conflict: it was withdrawn, or this hospital cannot take part in it.
    """
    found = _known(site, retraining)
    if hindering := hindrances(site, found.terms):
        raise Conflict(f"{retraining!r} cannot be approved: {', '.join(hindering)}")
    if found.state == "withdrawn":
        raise Conflict(f"{retraining!r} was withdrawn: the coordinator has to propose it under another name")
    if not affordable(site, found.terms):
        raise Conflict(
            f"{retraining!r} costs more privacy than is left here: see `vigie site privacy`; site.yaml says how much"
            " may be spent (privacy.epsilon)"
        )
    hospitals.trust(site, found.terms, by)
    if found.state != "granted" or found.basis != "person":  # a person's word outlasts the policy
        _decide(site, retraining, ("waiting", "declined", "granted"), "granted", "person", by)
    return _known(site, retraining)


def decline(site: Site, retraining: str, by: str) -> Agreement:
    """Do not agree to a retraining; it may be approved later.

    Raises:
        NotFound: nobody has proposed it.
        Conflict: it is granted already.
    """
    found = _known(site, retraining)
    if found.state in ("granted", "withdrawn"):
        raise Conflict(f"{retraining!r} is {found.state}" + (": withdraw it" if found.state == "granted" else ""))
    _decide(site, retraining, ("waiting",), "declined", "person", by)
    return _known(site, retraining)


def withdraw(site: Site, retraining: str, by: str) -> Agreement:
    """Take an agreement back, for good: what is being computed for it does not leave any more.

    Raises:
        NotFound: nobody has proposed it.
        Conflict: there is nothing to take back.
    """
    found = _known(site, retraining)
    if found.state in ("waiting", "declined"):
        raise Conflict(f"{retraining!r} is {found.state}: there is no agreement to withdraw")
    _decide(site, retraining, ("granted",), "withdrawn", "person", by)
    return _known(site, retraining)


def stands(site: Site, found: Agreement) -> Standing:
    """Where an agreement stands now."""
    if found.state == "withdrawn":
        return Standing("declined", ("withdrawn",))
    if found.state == "declined":
        return Standing("declined", ("person",))
    if hindering := hindrances(site, found.terms):
        return Standing("declined", hindering)
    if found.state == "granted" and found.basis == "person":
        return Standing("granted", ("person",))
    problems = unfit(site.config.consent, found.terms, _by_policy(site, found.retraining))
    if hospitals.strangers(site, found.terms):
        problems = (*problems, "hospital-unknown")
    return Standing("waiting", problems) if problems else Standing("granted", ("policy",))


def hindrances(site: Site, asked: Terms) -> tuple[ConsentReason, ...]:
    """Why this hospital cannot take part, whoever would like it to."""
    found: list[ConsentReason] = []
    if asked.expires_at < time.time():
        found.append("expired")
    if site.config.name not in asked.hospitals:
        found.append("not-named")
    if asked.rounds:
        base = versions.signed_facts(site, asked.base)
        if base is None:
            found.append("base-unknown")
        elif base.changes.refuses(asked.rounds, asked.hyper, asked.layers):
            found.append("change-plan")
        if site.config.privacy.required and not isinstance(asked.privacy, PatientLevel):
            found.append("not-private")
        if site.config.privacy.summed and not isinstance(asked.privacy, SecureAggregation):
            found.append("not-summed")
        if hospitals.changed(site, asked):
            found.append("hospital-changed")
    return tuple(found)


def affordable(site: Site, asked: Terms) -> bool:
    """Whether the whole of a retraining fits into what is left of this hospital's privacy budget."""
    whole = asked.privacy.spends(asked.hyper.steps, asked.rounds)
    return whole is None or after(site, asked.name, whole) <= site.config.privacy.epsilon


def unfit(policy: ConsentConfig, asked: Terms, granted_this_year: int) -> tuple[ConsentReason, ...]:
    """Why the standing policy does not grant this; pure.

    Args:
        granted_this_year: other retrainings that it has granted within a year.
    """
    if policy.standing == "none" or (policy.standing == "deliveries" and asked.rounds):
        return ("no-policy",)
    if not asked.rounds:
        return ()
    found: list[ConsentReason] = []
    if asked.rounds > policy.most_rounds:
        found.append("too-many-rounds")
    if granted_this_year >= policy.most_retrainings:
        found.append("too-many-retrainings")
    if policy.strategies and asked.strategy not in policy.strategies:
        found.append("other-strategy")
    if len(asked.hospitals) - 1 < policy.fewest_others:
        found.append("too-few-hospitals")
    if asked.norm > policy.largest_norm:
        found.append("norm-too-large")
    return tuple(found)


def refusals(site: Site) -> Counter[tuple[str, str]]:
    """How often something was refused, by retraining and reason, from the ledger."""
    import json

    found: Counter[tuple[str, str]] = Counter()
    for entry in site.ledger.entries("retraining.refused"):
        facts = json.loads(entry.facts)
        found[facts["retraining"], f"{facts['kind']}: {facts['why']}"] += 1
    return found


def refused(site: Site, retraining: str, kind: str, code: str, why: str) -> None:
    """Tell this hospital's own people that an order was refused, and why."""
    site.ledger.append("retraining.refused", {"retraining": retraining, "kind": kind, "code": code, "why": why})


# ── Inside ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _verify(site: Site, proposal: Proposal) -> None:
    if proposal.signer not in site.config.consent.signers:
        raise NotAllowed(f"terms signed by {proposal.signer!r} do not count here (consent.signers)")
    signed.verify(proposal.terms, proposal.signature, proposal.signer, load_trust(site.trust))


def _require_honest(asked: Terms) -> None:
    if (counted := understates(asked.privacy, asked.hyper.steps, asked.rounds)) is not None:
        raise NotAllowed(f"the terms state less than they cost: epsilon {counted:.2f}")


def _note(site: Site, proposal: Proposal) -> Agreement:
    with site.database.write() as connection:
        query = select(agreement.c.digest).where(agreement.c.retraining == proposal.retraining)
        row = connection.execute(query).first()
        if row is not None and row.digest != proposal.digest:
            raise Conflict("its name stands for other terms here")
        if row is None:
            connection.execute(
                insert(agreement).values(
                    retraining=proposal.retraining,
                    digest=proposal.digest,
                    terms=proposal.terms.decode(),
                    signer=proposal.signer,
                    signature=proposal.signature.hex(),
                    state="waiting",
                    proposed_at=time.time(),
                    trained={},
                )
            )
            _trace(connection, "proposed", proposal.retraining, {"terms": proposal.digest, "signer": proposal.signer})
    return _known(site, proposal.retraining)


def _departs(site: Site, order: TrainOrder | MaskOrder | UnmaskOrder | Offer | Release, asked: Terms) -> str:
    """How an order differs from what was agreed to; empty where it does not."""
    if isinstance(order, TrainOrder):
        expected = asked.hyper.at_round(order.round, asked.rounds)
        for wrong, what in (
            (not 1 <= order.round <= asked.rounds, f"round {order.round} of {asked.rounds}"),
            (order.base != asked.base, "another base"),
            (not _same(order.hyper, expected), "other hyper-parameters"),
            (order.norm != asked.norm, "another norm bound"),
            (order.layers != asked.layers, "other layers"),
            ((order.local, order.frozen) != (asked.local, asked.frozen), "other layers that stay"),
            (order.reply != asked.encoding, "another encoding"),
            (order.controls != asked.controls, "control variates that were not agreed to"),
            (order.privacy != asked.privacy, "another protection"),
        ):
            if wrong:
                return what
        return ""
    if isinstance(order, MaskOrder | UnmaskOrder):
        if not isinstance(asked.privacy, SecureAggregation):
            return "a sum that was not agreed to"
        return "" if 1 <= order.round <= asked.rounds else f"round {order.round} of {asked.rounds}"
    if asked.rehearses:
        return "a version, after rounds in which nothing was to be learned"
    if not asked.rounds:
        return "" if order.digest == asked.base else "another version than the one to deliver"
    if isinstance(order, Release):
        facts = versions.facts(site, order.digest)
        return "" if facts is None or facts.retraining == asked.name else "a version of another retraining"
    return ""  # what an offered candidate must be can be seen only in its bundle, see candidate.py


def _same(given: Hyperparameters, expected: Hyperparameters) -> bool:
    """Equal but for the last bits of a cosine that two machines computed."""
    one, other = given.model_dump(), expected.model_dump()
    return all(math.isclose(one[key], other[key], rel_tol=1e-9) for key in other)


def _by_policy(site: Site, but: str) -> int:
    query = (
        select(func.count())
        .select_from(agreement)
        .where(
            agreement.c.retraining != but,
            agreement.c.basis == "policy",
            agreement.c.decided_at > time.time() - YEAR,
            func.json_extract(agreement.c.terms, "$.rounds") > 0,
        )
    )
    with site.database.read() as connection:
        return int(connection.execute(query).scalar_one())


def _decide(site: Site, retraining: str, before: Sequence[State], state: State, basis: str, by: str) -> None:
    with site.database.write() as connection:
        changed = connection.execute(
            update(agreement)
            .where(agreement.c.retraining == retraining, agreement.c.state.in_(before))
            .values(state=state, basis=basis, by=by, decided_at=time.time())
        ).rowcount
        if changed:
            _trace(connection, state, retraining, {"basis": basis, "by": by})


def _trace(connection: Connection, what: str, retraining: str, facts: dict[str, ledger.Fact]) -> None:
    ledger.append(connection, f"retraining.{what}", {"retraining": retraining, **facts})


def _known(site: Site, retraining: str) -> Agreement:
    found = find(site, retraining)
    if found is None:
        raise NotFound(f"nobody has proposed a retraining called {retraining!r}: `vigie site retraining list`")
    return found


def _read(row: Any) -> Agreement:
    return Agreement(
        row.retraining,
        row.digest,
        signed.read(row.terms.encode()),
        row.signer,
        cast(State, row.state),
        row.basis,
        row.by,
        row.proposed_at,
        row.decided_at,
        _rounds(row.trained),
    )


def _rounds(trained: dict[str, int]) -> dict[int, int]:
    # JSON has text where this has numbers
    return {int(round_): times for round_, times in trained.items()}
