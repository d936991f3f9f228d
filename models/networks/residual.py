"""A small residual network for radiographs, with the exact map of what its score is made of.

Group norm, not batch norm: a batch's statistics would tell one hospital's look from another's, and averaging
running statistics over hospitals describes none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Residual:
    """The facts of the architecture; two networks with the same facts take each other's weights.

    Attributes:
        channels: width of the four stages; each is a multiple of `groups`.
        blocks: residual blocks in each stage.
        groups: groups of the group norm.
        kernel: side of the first convolution, pixels, odd.
        stride: stride of the first convolution; the map is stride * 8 times coarser than the image.
    """

    channels: tuple[int, int, int, int] = (16, 48, 96, 192)
    blocks: tuple[int, int, int, int] = (1, 1, 1, 1)
    groups: int = 8
    kernel: int = 7
    stride: int = 4

    def __post_init__(self) -> None:
        """Refuse facts that make no network."""
        if len(self.channels) != 4 or len(self.blocks) != 4:
            raise ValueError("four stages are needed")
        if min(*self.channels, *self.blocks, self.groups, self.kernel, self.stride) < 1:
            raise ValueError("every fact is a positive number")
        if max(self.channels) > 2048 or max(self.blocks) > 64 or self.kernel > 31 or self.stride > 8:
            raise ValueError("larger than any network this is meant for")
        if any(width % self.groups for width in self.channels) or self.kernel % 2 == 0:
            raise ValueError("channels are multiples of groups, the kernel is odd")

    @classmethod
    def of(
        cls,
        channels: Sequence[int] = (16, 48, 96, 192),
        blocks: Sequence[int] = (1, 1, 1, 1),
        groups: int = 8,
        kernel: int = 7,
        stride: int = 4,
    ) -> Self:
        """Read the facts from JSON or YAML, where a tuple is a list."""
        a, b, c, d = (int(width) for width in channels)
        e, f, g, h = (int(count) for count in blocks)
        return cls((a, b, c, d), (e, f, g, h), int(groups), int(kernel), int(stride))


def network(facts: Residual) -> ResNet:
    """Build MONAI's residual network with group norm; (N, 1, H, W) float32 gives logits (N, 1)."""
    net = ResNet(
        block="basic",
        layers=list(facts.blocks),
        block_inplanes=list(facts.channels),
        spatial_dims=2,
        n_input_channels=1,
        conv1_t_size=facts.kernel,
        conv1_t_stride=facts.stride,
        no_max_pool=True,
        num_classes=1,
    )
    # MONAI 1.6 hands its argument `norm` to the first layer only; the stages would stay batch norm.
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, nn.GroupNorm(facts.groups, child.num_features))
    return net


class WithActivationMap(nn.Module):
    """The same network, giving beside the logit the map it is the mean of.

    With global average pooling and one linear layer the logit is mean(map) exactly: the linear layer may be applied
    before the pooling. The bias is spread evenly over the map.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016.
    """

    def __init__(self, net: ResNet) -> None:
        """Wrap a network; its weights are shared, not copied."""
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Give logit (N, 1) and class activation map (N, h, w), positive where it speaks for abnormal.

        Args:
            image: (N, 1, H, W) float32, preprocessed.
        """
        net: Any = self.net  # MONAI types its attributes as Module | Tensor
        features: Tensor = net.act(net.bn1(net.conv1(image)))
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            features = stage(features)
        cam = torch.nn.functional.conv2d(features, net.fc.weight[:, :, None, None], net.fc.bias)
        return cam.mean(dim=(2, 3)), cam[:, 0]
