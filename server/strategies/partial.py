"""Partial layers: only what is named is trained and sent; everything else stays as it is in the base.

Source: Pillutla et al., Federated Learning with Partial Model Personalization, ICML 2022; here the part that does not
move belongs to the base and to no hospital.
"""

from typing import Annotated, Literal

from pydantic import Field

from models.bundle import Facts
from models.exchange import LayerName, is_in
from server.strategies.fedavg import Averaging
from server.strategies.strategy import Staying, require_layers


class Partial(Averaging):
    """The mean of the named layers.

    Attributes:
        layers: by name, or the beginning of names: `fc`, `layer4`, `layer4.0.conv1.weight`.
    """

    name: Literal["partial"] = "partial"
    layers: Annotated[tuple[LayerName, ...], Field(min_length=1)]

    def staying(self, facts: Facts) -> Staying:
        from models.networks.parts import parts  # torch: only here does the coordinator look into a network

        names = parts(facts.network, **facts.network_facts).names
        require_layers(facts.network, names, self.layers)
        return Staying(frozen=tuple(name for name in names if not any(is_in(name, layer) for layer in self.layers)))
