"""This hospital's part in sums of updates: what it gives in each step of a round, and what it refuses.

Whatever leaves is on the disk first (`sealed.py`), so that the same question has the same answer after a crash; a step
that is asked for again in another way is refused. Two decisions are for good, in the database: with whom the updates of
a retraining are summed, and which sum of a round is unmasked, for two sums that differ in one hospital give it away.

The order of things, and the attacks that it answers, are in `models.exchange.grouped`, `models.group` and
`models.masks`.
"""

import hashlib
import json
import time

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from sqlalchemy import Connection, insert, select

from client.federation import consent
from client.federation.sealed import Received, Round, Secrets
from client.store.ledger import append
from client.store.site import Site
from client.store.tables import summed
from models import bounds, group, masks, pki, shares, summand
from models.errors import NotAllowed, NotFound, TooFewCases
from models.exchange import (
    Consent,
    GroupOrder,
    Masked,
    MaskOrder,
    Sealed,
    Unmasked,
    UnmaskOrder,
    Update,
    digest,
    disclosed,
    fingerprint,
)
from models.group import Given, Group
from models.protection import SecureAggregation
from models.stats import disclosure
from models.summand import Figures
from models.terms import Terms

_GROUP = 0  # in the place of a round: with whom updates are summed


def consented(site: Site, given: Consent) -> Consent:
    """An agreement with this hospital's key for the retraining, signed, where its updates will be summed.

    Without a key where they were summed under another one before, which is gone: it has ended here.
    """
    found = consent.find(site, given.retraining)
    if given.state != "granted" or found is None or not isinstance(found.terms.privacy, SecureAggregation):
        return given
    kept = Secrets(site.retrainings, given.retraining)
    with site.database.read() as connection:
        if not kept.has_agreement() and _decided(connection, given.retraining, _GROUP) is not None:
            return given
    key = group.point(kept.make_agreement())
    signature = group.sign_agreement(_identity(site), given.digest, site.config.name, key)
    return given.model_copy(update={"key": key, "signature": signature})


def seal(site: Site, order: GroupOrder, update: Update, within: bounds.Bounds) -> Sealed:
    """Make ready to add an update to a sum: a key for the round, and parts of it for the others.

    Args:
        update: trained as ordered.
        within: what it may change.

    Raises:
        NotAllowed: another group than in the rounds before, a hospital that the terms do not know, a round that was
            summed already, or an attempt that came before.
        NotFound: this hospital's key for the retraining is gone.
        TooFewCases: so few that a power of two would show them.
    """
    terms, asked = _agreed(site, order.retraining)
    members, kept = order.group(asked), Secrets(site.retrainings, order.retraining)
    agreement = kept.agreement()
    _require_members(site, terms, members, order, agreement)
    _decide(site, order.retraining, _GROUP, members.digest, {"hospitals": ", ".join(members.sites)})
    context = members.context(order.round, order.attempt, digest(order.weights))
    before = kept.round()
    if before is not None and (before.round, before.attempt) == (order.round, order.attempt):
        if before.context != context:
            raise NotAllowed("this attempt was begun with other weights")
        return before.answer
    if before is not None and (before.round, before.attempt) > (order.round, order.attempt):
        raise NotAllowed("a later round, or a later attempt, was begun already")
    with site.database.read() as connection:
        if _decided(connection, order.retraining, order.round) is not None:
            raise NotAllowed("this round was summed already")
    cases = disclosure.coarse(update.n_cases)
    if cases < disclosure.LEAST:
        raise TooFewCases(f"fewer than {2 * disclosure.LEAST} training cases are too few to be told by a power of two")
    bounds.check(update.weights, order.weights, within)
    change = summand.change(update.weights, order.weights, order.bounds)
    kept.keep_summand(context, change, update.n_cases, _figures(update))
    new = _secrets(site, order, members, context, agreement, cases)
    kept.begin(new)
    return new.answer


def mask(site: Site, order: MaskOrder) -> Masked:
    """Mask the update for a sum with those who trained.

    Raises:
        NotFound: nothing was made ready for this attempt.
        NotAllowed: too few, somebody outside the group, a key that nobody signed, or another question than before.
    """
    kept, name = Secrets(site.retrainings, order.retraining), site.config.name
    state, asked = kept.attempt(order.round, order.attempt), fingerprint(order.to_record()).sha256
    received = kept.received(state.context)
    if received is None:
        terms, _ = _agreed(site, order.retraining)
        given = _round_given(terms, state, order, name)
        received = _opened(kept.agreement(), state, order, name, asked)
        key = group.private(state.key)
        pairs = {other: masks.agreed(key, one.key) for other, one in given.items() if other != name}
        change, cases, figures = kept.summand(state.context)
        assert isinstance(terms.privacy, SecureAggregation)
        share = summand.share(terms.privacy.weighting, cases, max(order.cases))
        integers = masks.quantized(summand.summand(change, share, figures), len(given))
        occasion = group.occasion(state.context, given)
        kept.keep_masked(received, masks.masked(integers, occasion, name, state.seed, pairs))
    elif received.order != asked:
        raise NotAllowed("the update was masked for other hospitals already")
    return kept.masked(state.context, order)


def unmask(site: Site, order: UnmaskOrder) -> Unmasked:
    """Give the parts that take the masks off the sum of a round; one sum a round, for good.

    Raises:
        NotFound: nothing was masked in this attempt.
        NotAllowed: too few are left, not just those who were to mask, or another sum of this round was unmasked.
    """
    kept, name = Secrets(site.retrainings, order.retraining), site.config.name
    state = kept.attempt(order.round, order.attempt)
    received = kept.received(state.context)
    if received is None:
        raise NotFound("nothing was masked in this attempt")
    if name not in order.active:
        raise NotAllowed("this hospital has masked an update, and is said not to have")
    if sorted((*order.active, *order.dead)) != sorted(received.of_seed):
        raise NotAllowed("not the hospitals that were to mask an update")
    if len(order.active) < state.group.threshold:
        raise NotAllowed(f"{len(order.active)} hospitals are too few: {state.group.threshold} are needed")
    lists = hashlib.sha256(json.dumps([state.context, order.active, order.dead]).encode()).hexdigest()
    told = {"round": order.round, "summed": ", ".join(order.active), "without": ", ".join(order.dead)}
    _decide(site, order.retraining, order.round, lists, told)
    return Unmasked(
        retraining=order.retraining,
        round=order.round,
        attempt=order.attempt,
        seeds=tuple(received.of_seed[other] for other in order.active),
        keys=tuple(received.of_key[other] for other in order.dead),
    )


def finish(site: Site, retraining: str) -> None:
    """The retraining has ended: its secrets go, what was decided stays."""
    Secrets(site.retrainings, retraining).finish()


# ── Inside ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _agreed(site: Site, retraining: str) -> tuple[Terms, str]:
    found = consent.find(site, retraining)
    if found is None or not isinstance(found.terms.privacy, SecureAggregation):
        raise NotAllowed("nobody has agreed here to a sum")
    return found.terms, found.digest


def _require_members(
    site: Site, terms: Terms, members: Group, order: GroupOrder, agreement: EllipticCurvePrivateKey
) -> None:
    if len(set(members.keys)) < len(members.keys):
        raise NotAllowed("a key twice")
    for other, public, signature in zip(members.sites, members.keys, order.signatures, strict=True):
        if other not in terms.identities:
            raise NotAllowed(f"the terms do not know {other!r}")
        if not group.holds_agreement(terms.identities[other], signature, members.terms, other, public):
            raise NotAllowed(f"the key is not one that {other!r} has signed for these terms")
    if dict(zip(members.sites, members.keys, strict=True)).get(site.config.name) != group.point(agreement):
        raise NotAllowed("this hospital is not in the group, or under another key")


def _secrets(
    site: Site, order: GroupOrder, members: Group, context: str, agreement: EllipticCurvePrivateKey, cases: int
) -> Round:
    name, key, seed = site.config.name, masks.new_key(), masks.new_seed()
    of_key = shares.split(group.scalar(key), members.threshold, len(members.sites))
    of_seed = shares.split(seed, members.threshold, len(members.sites))
    own, given = members.sites.index(name), Given(group.point(key), group.commitment(seed), cases)
    parts = [
        shares.sealed(masks.agreed(agreement, public), context, name, other, one, two)
        for other, public, one, two in zip(members.sites, members.keys, of_key, of_seed, strict=True)
        if other != name
    ]
    return Round(
        context=context,
        retraining=order.retraining,
        round=order.round,
        attempt=order.attempt,
        terms=members.terms,
        sites=members.sites,
        keys=members.keys,
        key=group.scalar(key),
        seed=seed,
        of_key=of_key[own],
        of_seed=of_seed[own],
        base=order.base,
        cases=cases,
        shares=tuple(parts),
        signature=group.sign_round(_identity(site), context, name, given),
    )


def _round_given(terms: Terms, state: Round, order: MaskOrder, name: str) -> dict[str, Given]:
    """What each hospital gave for a round, if all of it is in order."""
    members, given = state.group, order.given()
    if name not in given or not set(given) <= set(members.sites):
        raise NotAllowed("hospitals outside the group")
    if len(given) < members.threshold:
        raise NotAllowed(f"{len(given)} hospitals are too few: {members.threshold} are needed")
    if len(set(order.keys)) < len(order.keys):
        raise NotAllowed("a key twice")
    for (other, one), signature in zip(given.items(), order.signatures, strict=True):
        if not group.holds_round(terms.identities[other], signature, state.context, other, one):
            raise NotAllowed(f"this is not what {other!r} has signed for this round")
    if given[name] != state.answer.given:
        raise NotAllowed("this hospital itself is said to have given something else")
    return given


def _opened(agreement: EllipticCurvePrivateKey, state: Round, order: MaskOrder, name: str, asked: str) -> Received:
    public = dict(zip(state.sites, state.keys, strict=True))
    of_key, of_seed = {name: state.of_key}, {name: state.of_seed}
    others = (other for other in order.sites if other != name)
    for other, content in zip(others, order.shares, strict=True):
        secret = masks.agreed(agreement, public[other])
        of_key[other], of_seed[other] = shares.opened(secret, state.context, other, name, content)
    return Received(context=state.context, order=asked, of_key=of_key, of_seed=of_seed)


def _figures(update: Update) -> Figures:
    told = disclosed(update)
    assert isinstance(told, Update)
    if told.auc_received is None or told.threshold_received is None or told.loss_received is None:
        raise TooFewCases("the received weights could not be judged")
    return Figures(told.auc_received, told.threshold_received, told.loss_received)


def _identity(site: Site) -> EllipticCurvePrivateKey:
    return pki.load_supernode(site.secrets / "supernode.key")


def _decided(connection: Connection, retraining: str, round_: int) -> str | None:
    query = select(summed.c.digest).where(summed.c.retraining == retraining, summed.c.round == round_)
    row = connection.execute(query).first()
    return row.digest if row else None


def _decide(site: Site, retraining: str, round_: int, what: str, facts: dict[str, str | int]) -> None:
    """Once and for good; the same again is fine.

    Raises:
        NotAllowed: it was decided otherwise.
    """
    with site.database.write() as connection:
        before = _decided(connection, retraining, round_)
        if before is None:
            connection.execute(insert(summed).values(retraining=retraining, round=round_, digest=what, at=time.time()))
            told = "grouped" if round_ == _GROUP else "summed"
            append(connection, f"retraining.{told}", {"retraining": retraining, **facts})
        elif before != what:
            raise NotAllowed("another group" if round_ == _GROUP else "another sum of this round was unmasked already")
