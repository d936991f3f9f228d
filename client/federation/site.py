"""What this hospital does with each order that its border let through."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from client.federation import candidate, consent, group, holdings, statistics, withdrawal
from client.federation.border import Handlers
from client.federation.cases import objecting
from client.federation.kept import Memory
from client.federation.leakage import new_errors
from client.federation.limits import bounds_of
from client.federation.outbox import Outbox
from client.federation.resident import judge, settle, train
from client.store.site import Site
from client.store.versions import barred, signed_facts
from models.bundle import read_layout
from models.errors import NotAllowed
from models.exchange import (
    Consent,
    Decision,
    Evidence,
    GroupOrder,
    Layout,
    MaskOrder,
    Offer,
    Proposal,
    Release,
    Sealed,
    Tally,
    TrainOrder,
    UnmaskOrder,
    Update,
)

Asked = TypeVar("Asked", GroupOrder, MaskOrder, UnmaskOrder)
Given = TypeVar("Given")


def tidy(site: Site) -> None:
    """Throw away what nobody can ask for any more: answers and secrets of retrainings that were withdrawn, or whose
    time is over. One that ended with a decision has done so itself; one that was given up, and a rehearsal, has not.
    """
    for found in consent.listed(site):
        if found.state == "withdrawn" or found.terms.expires_at < time.time():
            Outbox(site.retrainings, found.retraining).finish()
            group.finish(site, found.retraining)


def handlers(folder: Path) -> Handlers:
    """The hospital in `folder`, ready to answer."""
    site = Site(folder)
    site.database.check()

    def layout(digest: str) -> Layout | None:
        # what is trained from is verified, all of it, where it is loaded
        return read_layout(site.versions / digest) if signed_facts(site, digest) else None

    def train_agreed(order: TrainOrder) -> Update:
        outbox = Outbox(site.retrainings, order.retraining)
        within = bounds_of(site, order)
        objected = objecting(site)  # before the training looks: who objects meanwhile is not taken for left out
        if (kept := outbox.find(order, within, objected)) is not None:
            return kept
        update = outbox.late(order, within, objected)
        if update is None:
            consent.begin(site, order)
            update = train(site, order)
        outbox.put(order, update, within, objected)
        return update

    def seal_agreed(site: Site, order: GroupOrder) -> Sealed:
        # a round that is begun anew asks for the update that was trained for its first attempt
        update = train_agreed(order.model_copy(update={"attempt": 1}))
        return group.seal(site, order, update, bounds_of(site, order))

    def told(step: Callable[[Site, Asked], Given]) -> Callable[[Asked], Given]:
        def answered(order: Asked) -> Given:
            try:
                return step(site, order)
            except NotAllowed as error:
                consent.refused(site, order.retraining, order.kind, error.code, str(error))
                raise

        return answered

    def propose(order: Proposal) -> Consent:
        tidy(site)
        return group.consented(site, consent.answer(site, order))

    def judge_agreed(offer: Offer) -> Evidence:
        agreed = consent.require(site, offer)
        if barred(site, offer.digest):
            raise NotAllowed("the coordinator has withdrawn the version that is offered")
        if agreed is not None:
            candidate.check(site, offer, agreed)
        return judge(site, offer)

    def release(order: Release) -> Decision:
        if barred(site, order.digest):  # it came by the other channel, while the cases were looked at
            order = order.model_copy(update={"released": False})
        decision = settle(site, order)
        Outbox(site.retrainings, order.retraining).finish()
        Memory(site.retrainings, order.retraining).finish()
        group.finish(site, order.retraining)
        return decision

    return Handlers(
        propose=propose,
        allows=lambda order: consent.require(site, order),
        train=train_agreed,
        offer=judge_agreed,
        release=release,
        layout=layout,
        seal=told(seal_agreed),
        mask=told(group.mask),
        unmask=told(group.unmask),
        survey=lambda order: Tally(retraining=order.retraining, new_errors=new_errors(site, order.model)),
        withdraw=lambda order: withdrawal.answer(site, order),
        inquire=lambda order: holdings.told(site, order),
        audit=lambda order: statistics.answer(site, order),
    )
