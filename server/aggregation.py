"""The weights of a retraining on their way through the rounds: what hospitals are ordered, and what becomes of it."""

from collections.abc import Mapping
from math import inf
from typing import Any

from numpy.typing import NDArray

from models import compression
from models.bounds import Bounds, keep
from models.bundle import Facts
from models.exchange import TrainOrder, Update, is_in
from models.protection import SiteLevel, Unprotected
from server.plan import Plan
from server.privacy import noised
from server.strategies import Contribution

Weights = dict[str, NDArray[Any]]


class Aggregation:
    """One retraining's weights and what its strategy remembers; the journal keeps both.

    Attributes:
        weights: all layers; those that do not cross stay as they are in the base.
        state: the strategy's.
    """

    def __init__(
        self, plan: Plan, digest: str, facts: Facts, base: Weights, weights: Weights | None = None,
        state: Weights | None = None,
    ) -> None:  # fmt: skip
        """Prepare.

        Args:
            digest, facts, base: of the version to start from.
            weights, state: after the last round that was journalled; None before the first.

        Raises:
            ConfigurationError: the strategy does not fit this model.
        """
        self._plan, self._digest, self._base = plan, digest, base
        self._staying = plan.strategy.staying(facts)
        layers = (*self._staying.local, *self._staying.frozen)
        self._moving = [name for name in base if not any(is_in(name, layer) for layer in layers)]
        self.weights = base if weights is None else weights
        self.state: Weights = state or {}
        # a protected round is paid for with its own noise, and counted with its own hospitals
        self._waits = plan.late and plan.strategy.late and isinstance(plan.privacy, Unprotected)

    def order(self, number: int, site: str, late: int = 0) -> TrainOrder:
        """The order to one hospital for a round, counted from 1; each draws with a seed of its own.

        Args:
            late: an earlier round whose update is still waited for.
        """
        plan = self._plan
        encoding = plan.compression.orders
        correction = plan.strategy.correction(site, plan.sites, self.state)
        return TrainOrder(
            retraining=plan.name,
            round=number,
            base=self._digest,
            seed=plan.draw(number, site),
            hyper=plan.strategy.ordered(plan.hyper.at_round(number, plan.rounds)),
            encoding=encoding,
            reply=plan.compression.updates,
            stochastic=plan.compression.stochastic,
            local=self._staying.local,
            frozen=self._staying.frozen,
            controls=plan.strategy.controls,
            privacy=plan.privacy,
            late=late if self._waits else 0,
            norm=plan.norm,
            layers=plan.layers,
            weights=self._shown(encoding),
            control=None if correction is None else compression.rounded(correction, encoding),
        )

    def take(self, updates: Mapping[str, Update]) -> None:
        """Make the next weights of a round's updates, by site.

        Raises:
            BorderRefused: an update's weights are not finite.
        """
        received = {name: self.weights[name] for name in self._moving}
        # A hospital's difference is added to our own weights and not to what it was shown of them: so what the
        # broadcast left out is still there, and is shown in the next round.
        contributions = [
            Contribution(site, found.trained(received), found.n_cases, found.loss_received, found.control)
            for site, found in updates.items()
        ]
        following = self._plan.strategy.next(received, contributions, self.state)
        weights = following.weights
        if isinstance(self._plan.privacy, SiteLevel):
            weights = noised(weights, self._plan.privacy, self._plan.norm, len(contributions))
        # what may not change is not left to the last bit of a mean of equal numbers
        kept = keep(weights, received, Bounds(inf, self._plan.layers))
        self.weights = {**self.weights, **kept}
        self.state = following.state

    def _shown(self, encoding: compression.Encoding) -> Weights:
        moving = {name: self.weights[name] for name in self._moving}
        if encoding == "plain":
            return moving
        return compression.rounded(compression.difference(moving, self._base), encoding)
