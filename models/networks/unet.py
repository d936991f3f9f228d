"""A U-Net for volumes, as MONAI builds it, with instance norm: what it says of a window depends on no other one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from monai.networks.nets.unet import UNet


@dataclass(frozen=True, slots=True)
class Unet:
    """The facts of the architecture; two networks with the same facts take each other's weights.

    Attributes:
        outputs: channels of the logits.
        channels: width of each level, from the finest.
        strides: between one level and the next; a window's sides are multiples of their product.
        units: residual units in each level, 0 for plain convolutions.
    """

    outputs: int = 1
    channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    strides: tuple[int, ...] = (2, 2, 2, 2)
    units: int = 2

    def __post_init__(self) -> None:
        """Refuse facts that make no network."""
        if len(self.channels) < 2 or len(self.strides) != len(self.channels) - 1:
            raise ValueError("two levels at least, and one stride less than levels")
        if min(self.outputs, *self.channels, *self.strides) < 1 or self.units < 0:
            raise ValueError("every fact is a positive number")
        if max(self.channels) > 2048 or len(self.channels) > 8 or self.units > 8 or self.outputs > 255:
            raise ValueError("larger than any network this is meant for")

    @classmethod
    def of(
        cls,
        outputs: int = 1,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        strides: Sequence[int] = (2, 2, 2, 2),
        units: int = 2,
    ) -> Self:
        """Read the facts from JSON or YAML, where a tuple is a list."""
        return cls(int(outputs), tuple(map(int, channels)), tuple(map(int, strides)), int(units))


def network(facts: Unet) -> UNet:
    """Build it; (N, 1, D, H, W) float32 gives logits (N, outputs, D, H, W)."""
    return UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=facts.outputs,
        channels=list(facts.channels),
        strides=list(facts.strides),
        num_res_units=facts.units,
    )
