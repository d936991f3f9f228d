"""FedBN: what a hospital's images look like stays in its own normalisation layers, everything else is averaged.

The candidate has the mean of what crossed and, of the local layers, what the base has: no hospital has sent any, and
that is what a hospital that did not train gets. What a hospital has trained of its own stays there
(`client/federation/kept.py`).

Source: Li et al., FedBN: Federated Learning on Non-IID Features via Local Batch Normalization, ICLR 2021; Collins et
al., Exploiting Shared Representations for Personalized Federated Learning, ICML 2021 (a head of one's own); Pillutla et
al., Federated Learning with Partial Model Personalization, ICML 2022 (any layers of one's own).
"""

from typing import Literal

from models.bundle import Facts
from models.errors import ConfigurationError
from models.exchange import LayerName
from server.strategies.fedavg import Averaging
from server.strategies.strategy import Staying, require_layers


class FedBN(Averaging):
    """The mean of the weights but those of normalisation.

    Attributes:
        head: the last layer stays at the hospital too.
        layers: these stay too, by name, or the beginning of names: `fc`, `layer4`.
    """

    name: Literal["fedbn"] = "fedbn"
    head: bool = False
    layers: tuple[LayerName, ...] = ()

    def staying(self, facts: Facts) -> Staying:
        from models.networks.parts import parts  # torch: only here does the coordinator look into a network

        found = parts(facts.network, **facts.network_facts)
        require_layers(facts.network, found.names, self.layers)
        local = (*found.normalisation, *(found.head if self.head else ()), *self.layers)
        if not local:
            raise ConfigurationError(f"{facts.network} has no normalisation layers that could stay at a hospital")
        return Staying(local=local)
