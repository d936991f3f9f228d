"""What every strategy is: checked settings, what it asks of hospitals, how their updates become the next weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.bundle import Facts
from models.errors import ConfigurationError
from models.exchange import is_in
from models.hyperparameters import Hyperparameters

Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Contribution:
    """One hospital's update.

    Attributes:
        weights: of the layers that cross, by name.
        cases: on how many cases they rest.
        loss: the received weights' on those cases.
        control: the hospital's control variate, where the strategy asks for one.
    """

    site: str
    weights: Weights
    cases: int
    loss: float | None = None
    control: Weights | None = None


@dataclass(frozen=True, slots=True)
class Next:
    """The weights after a round, and what the strategy has to remember until the next; the journal keeps both."""

    weights: dict[str, NDArray[Any]]
    state: dict[str, NDArray[Any]] = field(default_factory=lambda: dict[str, NDArray[Any]]())


@dataclass(frozen=True, slots=True)
class Staying:
    """Layers that do not cross: trained and kept at each hospital, or not trained at all."""

    local: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()


class Strategy(BaseModel):
    """A strategy with its settings; one of `server.strategies.AnyStrategy`.

    Attributes:
        norm_bound: an update may be that many times as long as the round's median one, else it is shortened to that;
            0: no bound.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    controls: ClassVar[bool] = False
    """Whether hospitals are asked for control variates."""

    late: ClassVar[bool] = True
    """Whether an update that was trained in the round before may be part of this one."""

    norm_bound: float = Field(default=0.0, ge=0, le=100)

    def __str__(self) -> str:
        """The name and the settings, but those that are off."""
        values = self.model_dump(mode="json")
        name = values.pop("name")
        told = ", ".join(f"{key} {value}" for key, value in values.items() if value)
        return f"{name} ({told})" if told else str(name)

    def require(self, quorum: int) -> None:
        """Refuse a plan in which so few hospitals may answer that the strategy means nothing.

        Raises:
            ConfigurationError: with the number it needs.
        """

    def ordered(self, hyper: Hyperparameters) -> Hyperparameters:
        """The hyper-parameters with what the strategy wants of hospitals."""
        return hyper

    def staying(self, facts: Facts) -> Staying:
        """Which layers of this model do not cross.

        Raises:
            ConfigurationError: it has no such layers.
        """
        return Staying()

    def correction(self, site: str, sites: Sequence[str], state: Weights) -> dict[str, NDArray[Any]] | None:
        """What the hospital is to correct its gradients by."""
        return None

    def next(self, received: Weights, contributions: Sequence[Contribution], state: Weights) -> Next:
        """Make the next weights; the same updates give the same bits, in whatever order they came.

        Args:
            received: what the hospitals started from, the layers that cross.
            contributions: at least one.
            state: what this gave after the round before; empty at first.
        """
        ordered = sorted(contributions, key=lambda contribution: contribution.site)
        if not ordered:
            raise ValueError("nothing to aggregate")
        return self.aggregate(received, self._bounded(received, ordered), state)

    def aggregate(self, received: Weights, contributions: Sequence[Contribution], state: Weights) -> Next:
        """What `next` does once the updates are in the order of their sites and none is too long."""
        raise NotImplementedError

    def _bounded(self, received: Weights, contributions: Sequence[Contribution]) -> Sequence[Contribution]:
        """Shorten updates that are much longer than the others.

        Source: Sun et al., Can You Really Backdoor Federated Learning?, 2019 (norm clipping); the median instead of a
        constant, since how long an update is depends on rate, steps and round.
        """
        if not self.norm_bound:
            return contributions
        lengths = [length(contribution.weights, received) for contribution in contributions]
        longest = self.norm_bound * float(np.median(lengths))
        return [
            replace(contribution, weights=_shortened(contribution.weights, received, longest / found))
            if found > longest
            else contribution
            for contribution, found in zip(contributions, lengths, strict=True)
        ]


def length(weights: Weights, received: Weights) -> float:
    """How far weights are from those received: the Euclidean distance over all layers."""
    squares = (float(np.square(array.astype(np.float64) - received[name]).sum()) for name, array in weights.items())
    return float(np.sqrt(sum(squares)))


def stacked(contributions: Sequence[Contribution], name: str) -> NDArray[np.float64]:
    """(hospitals, …) one layer of every update."""
    return np.stack([contribution.weights[name].astype(np.float64) for contribution in contributions])


def require_answers(quorum: int, needed: int, why: str) -> None:
    """Refuse a quorum that is too small for a strategy.

    Raises:
        ConfigurationError: with what it needs.
    """
    if quorum < needed:
        raise ConfigurationError(f"{why} needs answers of {needed} hospitals in every round; the quorum is {quorum}")


def require_layers(network: str, names: Sequence[str], layers: Sequence[str]) -> None:
    """Refuse layers that a network does not have.

    Args:
        names: of all its tensors.
        layers: names, or the beginnings of names.

    Raises:
        ConfigurationError: with those that there are.
    """
    if unknown := [layer for layer in layers if not any(is_in(name, layer) for name in names)]:
        there = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
        raise ConfigurationError(f"{network} has no layer {unknown[0]!r}; there are {there}")


def _shortened(weights: Weights, received: Weights, share: float) -> dict[str, NDArray[Any]]:
    return {
        name: (received[name] + (array.astype(np.float64) - received[name]) * share).astype(array.dtype)
        for name, array in weights.items()
    }
