"""Which tensors of an architecture are of normalisation, and which are its last layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from models.networks import build

_NORMALISING = (
    nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d,
    nn.GroupNorm, nn.LayerNorm,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parts:
    """Names of layers, as they begin the names of their tensors; `names` has every tensor's."""

    names: tuple[str, ...]
    normalisation: tuple[str, ...]
    head: tuple[str, ...]


def parts(name: str, **facts: Any) -> Parts:
    """Look into an architecture.

    Raises:
        UnknownNetwork: no such architecture, or facts that it does not have.
    """
    network = build(name, **facts)
    layers = [(name, module) for name, module in network.named_modules() if list(module.state_dict())]
    leaves = [(name, module) for name, module in layers if not list(module.children())]
    computing = [name for name, module in leaves if not isinstance(module, _NORMALISING)]
    return Parts(
        tuple(network.state_dict()),
        tuple(name for name, module in leaves if isinstance(module, _NORMALISING)),
        tuple(computing[-1:]),
    )
