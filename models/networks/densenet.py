"""MONAI's DenseNet121, with the exact map of what its score is made of.

With group norm it is trained like the residual network. With batch norm it takes the weights that vendors have; its
running statistics then stay as they came, in training too: a hospital's batches would describe that hospital, and
their average over hospitals none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from monai.networks.nets.densenet import DenseNet121 as Stock
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class DenseNet121:
    """The facts of the architecture; two networks with the same facts take each other's weights.

    Attributes:
        norm: group, or batch with statistics that are never learned here.
        groups: groups of the group norm; every width of the network is a multiple of 32.
    """

    norm: Literal["group", "batch"] = "group"
    groups: int = 8

    def __post_init__(self) -> None:
        """Refuse facts that make no network."""
        if self.norm not in ("group", "batch"):
            raise ValueError(f"norm is {self.norm!r}: group or batch")
        if self.groups not in (1, 2, 4, 8, 16, 32):
            raise ValueError("groups: a power of two, 32 at most")

    @classmethod
    def of(cls, norm: Any = "group", groups: int = 8) -> Self:
        """Read the facts from JSON or YAML."""
        return cls(norm, int(groups))


class DenseNet(Stock):
    """(N, 1, H, W) float32 gives logits (N, 1); sides of 32 pixels or more."""

    def __init__(self, facts: DenseNet121) -> None:
        """Build it untrained."""
        norm: Any = ("group", {"num_groups": facts.groups}) if facts.norm == "group" else "batch"
        super().__init__(spatial_dims=2, in_channels=1, out_channels=1, norm=norm)

    def train(self, mode: bool = True) -> Self:
        """Switch to training; batch norm keeps to its statistics."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class WithActivationMap(nn.Module):
    """The same network, giving beside the logit the map it is the mean of, as `residual.WithActivationMap` does."""

    def __init__(self, net: DenseNet) -> None:
        """Wrap a network; its weights are shared, not copied."""
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Give logit (N, 1) and class activation map (N, h, w), 32 times coarser than the image.

        Args:
            image: (N, 1, H, W) float32, preprocessed.
        """
        net: Any = self.net  # MONAI types its attributes as Module | Tensor
        features: Tensor = torch.relu(net.features(image))
        out = net.class_layers.out
        cam = torch.nn.functional.conv2d(features, out.weight[:, :, None, None], out.bias)
        return cam.mean(dim=(2, 3)), cam[:, 0]
