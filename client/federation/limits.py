"""What an update of this hospital may change."""

from client.store.site import Site
from models.bounds import Bounds
from models.exchange import TrainOrder


def bounds_of(site: Site, order: TrainOrder) -> Bounds:
    """What the order allows, and no more than this hospital does."""
    own = site.config.consent.clip_norm or order.norm
    return Bounds(min(own, order.norm), order.layers)
