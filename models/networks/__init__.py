"""One architecture per file; `build` makes the one a version names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.errors import UnknownNetwork

if TYPE_CHECKING:
    from torch import nn

NAMES = ("residual", "densenet121")


def build(name: str, **facts: Any) -> nn.Module:
    """Make an untrained network.

    Args:
        name: one of `NAMES`.
        facts: the fields of the architecture's facts, as they stand in a version's metadata.

    Returns:
        A module that takes (N, 1, H, W) float32 and gives logits (N, 1) float32.

    Raises:
        UnknownNetwork: no such architecture, or facts that it does not have.
    """
    if name not in NAMES:
        raise UnknownNetwork(f"no architecture is called {name!r}; known: {', '.join(NAMES)}")
    from models.networks import densenet, residual  # torch stays out until a network is wanted

    try:
        if name == "densenet121":
            return densenet.DenseNet(densenet.DenseNet121.of(**facts))
        return residual.network(residual.Residual.of(**facts))
    except (TypeError, ValueError) as error:
        raise UnknownNetwork(f"{name} cannot be built from these facts: {error}") from error


def with_activation_map(network: nn.Module) -> nn.Module | None:
    """The same network, giving logits (N, 1) and the map (N, h, w) that each is the mean of; None where it has none."""
    from monai.networks.nets.resnet import ResNet

    from models.networks import densenet, residual

    if isinstance(network, ResNet):
        return residual.WithActivationMap(network)
    if isinstance(network, densenet.DenseNet):
        return densenet.WithActivationMap(network)
    return None
