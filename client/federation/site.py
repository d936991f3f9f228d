"""What this hospital does with each order that its border let through."""

from pathlib import Path

from client.federation.adoption import judge, settle
from client.federation.border import Handlers
from client.federation.kept import Memory
from client.federation.trainer import train
from client.store.site import Site
from client.store.versions import held
from models.exchange import Decision, Layout, Release, layout_of


def handlers(folder: Path) -> Handlers:
    """The hospital in `folder`, ready to answer."""
    site = Site(folder)
    site.database.check()

    def layout(digest: str) -> Layout | None:
        bundle = held(site, digest)
        return layout_of(bundle.read_weights()) if bundle else None

    def release(order: Release) -> Decision:
        decision = settle(site, order)
        Memory(site.retrainings, order.retraining).finish()
        return decision

    return Handlers(
        train=lambda order: train(site, order),
        offer=lambda order: judge(site, order),
        release=release,
        layout=layout,
    )
