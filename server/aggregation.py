"""The weights of a retraining on their way through the rounds: what hospitals are ordered, and what becomes of it."""

from collections.abc import Mapping
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import compression, summand
from models.bounds import Bounds, keep
from models.bundle import Facts
from models.exchange import GroupOrder, TrainOrder, Update, is_in
from models.group import Group
from models.protection import SiteLevel, Unprotected
from models.summand import Figures
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
        self._rounded: tuple[Weights, Weights] | None = None
        # a protected round is paid for with its own noise, and counted with its own hospitals
        self._waits = plan.late and plan.strategy.late and isinstance(plan.privacy, Unprotected)

    def order(self, number: int, site: str, late: int = 0) -> TrainOrder:
        """The order to one hospital for a round, counted from 1; each draws with a seed of its own.

        Args:
            late: an earlier round whose update is still waited for.
        """
        return TrainOrder(**self._ordered(number, site, late))

    def group_order(
        self, number: int, site: str, attempt: int, members: Group, signatures: tuple[bytes, ...]
    ) -> GroupOrder:
        """The order to one hospital for a round whose updates are summed.

        Args:
            attempt: at this round, from 1.
            signatures: of each member under its key.
        """
        ordered = self._ordered(number, site, 0)
        return GroupOrder(**ordered, attempt=attempt, sites=members.sites, keys=members.keys, signatures=signatures)

    def _ordered(self, number: int, site: str, late: int) -> dict[str, Any]:
        plan = self._plan
        encoding = plan.compression.orders
        correction = plan.strategy.correction(site, plan.sites, self.state)
        return {
            "retraining": plan.name,
            "round": number,
            "base": self._digest,
            "seed": plan.draw(number, site),
            "hyper": plan.strategy.ordered(plan.hyper.at_round(number, plan.rounds)),
            "encoding": encoding,
            "reply": plan.compression.updates,
            "stochastic": plan.compression.stochastic,
            "local": self._staying.local,
            "frozen": self._staying.frozen,
            "controls": plan.strategy.controls,
            "privacy": plan.privacy,
            "late": late if self._waits else 0,
            "norm": plan.norm,
            "layers": plan.layers,
            "weights": self._shown(encoding),
            "control": None if correction is None else compression.rounded(correction, encoding),
        }

    def take(self, updates: Mapping[str, Update]) -> None:
        """Make the next weights of a round's updates, by site.

        Raises:
            BorderRefused: an update's weights are not finite.
        """
        received = self.moving
        # A hospital's difference is added to our own weights and not to what it was shown of them: so what the
        # broadcast left out is still there, and is shown in the next round.
        contributions = [
            Contribution(site, found.trained(received), found.n_cases, found.loss_received, found.control)
            for site, found in updates.items()
        ]
        self._go_on(received, contributions)

    def take_sum(self, total: NDArray[np.float64], summed: int, inexact: float, cases: int) -> Figures:
        """Make the next weights of the sum of a round's updates.

        Args:
            total: what `models.summand` says a hospital adds, over all of them.
            summed: how many they are.
            inexact: by how much each number may be wrong for each hospital.
            cases: on how many cases all of it rests, at least.

        Returns:
            How the received weights did at those hospitals, on average.

        Raises:
            BorderRefused: this is no sum of what hospitals may add.
        """
        received = self.moving
        found = summand.mean(total, summed, received, self.bounds, inexact)
        self._go_on(received, [Contribution("all", found.weights, cases)])
        return found.figures

    @property
    def moving(self) -> Weights:
        """The layers that cross."""
        return {name: self.weights[name] for name in self._moving}

    @property
    def bounds(self) -> Bounds:
        """What one round at one hospital may change."""
        return Bounds(self._plan.norm, self._plan.layers)

    def _go_on(self, received: Weights, contributions: list[Contribution]) -> None:
        following = self._plan.strategy.next(received, contributions, self.state)
        weights = following.weights
        if isinstance(self._plan.privacy, SiteLevel):
            weights = noised(weights, self._plan.privacy, self._plan.norm, len(contributions))
        # what may not change is not left to the last bit of a mean of equal numbers
        kept = keep(weights, received, Bounds(inf, self._plan.layers))
        self.weights = {**self.weights, **kept}
        self.state = following.state

    def _shown(self, encoding: compression.Encoding) -> Weights:
        moving = self.moving
        if encoding == "plain":
            return moving
        if self._rounded is None or self._rounded[0] is not self.weights:  # for all hospitals alike
            self._rounded = self.weights, compression.rounded(compression.difference(moving, self._base), encoding)
        return self._rounded[1]
