"""One architecture per file; `build` makes the one a version names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.errors import UnknownNetwork

if TYPE_CHECKING:
    from torch import nn

NAMES = ("residual", "densenet121", "unet")


def build(name: str, **facts: Any) -> nn.Module:
    """Make an untrained network.

    Args:
        name: one of `NAMES`.
        facts: the fields of the architecture's facts, as they stand in a version's metadata.

    Returns:
        A module that takes (N, 1, H, W) float32 and gives logits (N, 1) float32; `unet` takes (N, 1, D, H, W) and
        gives (N, channels, D, H, W).

    Raises:
        UnknownNetwork: no such architecture, or facts that it does not have.
    """
    # torch stays out until a network is wanted
    try:
        match name:
            case "residual":
                from models.networks import residual

                return residual.network(residual.Residual.of(**facts))
            case "densenet121":
                from models.networks import densenet

                return densenet.DenseNet(densenet.DenseNet121.of(**facts))
            case "unet":
                from models.networks import unet

                return unet.network(unet.Unet.of(**facts))
            case _:
                raise UnknownNetwork(f"no architecture is called {name!r}; known: {', '.join(NAMES)}")
    except (TypeError, ValueError) as error:
        raise UnknownNetwork(f"{name} cannot be built from these facts: {error}") from error


def build_for(name: str, **facts: Any) -> nn.Module:
    """Make a network whose weights are given to it next: as `build`, without numbers that nobody will read.

    To draw them takes longer than to copy the weights. Whoever forgets to give it weights has what lay in memory.
    """
    from torch.overrides import TorchFunctionMode

    drawn = {"uniform_", "normal_", "kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_"}

    class Undrawn(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            named = kwargs or {}
            if getattr(func, "__name__", "") in drawn:
                return args[0] if args else named["tensor"]
            return func(*args, **named)

    with Undrawn():
        return build(name, **facts)


def with_activation_map(network: nn.Module) -> nn.Module | None:
    """The same network, giving logits (N, 1) and the map (N, h, w) that each is the mean of; None where it has none."""
    from monai.networks.nets.resnet import ResNet

    from models.networks import densenet, residual

    if isinstance(network, ResNet):
        return residual.WithActivationMap(network)
    if isinstance(network, densenet.DenseNet):
        return densenet.WithActivationMap(network)
    return None
