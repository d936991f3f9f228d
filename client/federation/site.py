"""What this hospital does with each order that its border let through."""

from pathlib import Path

from client.federation import candidate, consent
from client.federation.adoption import judge, settle
from client.federation.border import Handlers
from client.federation.trainer import train
from client.store.site import Site
from client.store.versions import held
from models.bounds import Bounds, keep
from models.exchange import Evidence, Layout, Offer, TrainOrder, Update, layout_of


def handlers(folder: Path) -> Handlers:
    """The hospital in `folder`, ready to answer."""
    site = Site(folder)
    site.database.check()

    def layout(digest: str) -> Layout | None:
        bundle = held(site, digest)
        return layout_of(bundle.read_weights()) if bundle else None

    def train_within(order: TrainOrder) -> Update:
        consent.begin(site, order)
        update = train(site, order)
        own = site.config.consent.clip_norm or order.norm
        bounds = Bounds(min(own, order.norm), order.layers)
        return update.model_copy(update={"weights": keep(update.weights, order.weights, bounds)})

    def judge_agreed(offer: Offer) -> Evidence:
        agreed = consent.require(site, offer)
        if agreed is not None:
            candidate.check(site, offer, agreed)
        return judge(site, offer)

    return Handlers(
        propose=lambda order: consent.answer(site, order),
        allows=lambda order: consent.require(site, order),
        train=train_within,
        offer=judge_agreed,
        release=lambda order: settle(site, order),
        layout=layout,
    )
