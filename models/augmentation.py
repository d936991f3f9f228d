"""What a radiograph might have looked like elsewhere: another machine, another cropping, another patient's position.

A whole batch is changed at once by a handful of tensor operations, each image by its own random numbers; one image at a
time would cost more than the network itself. Everything is drawn from one generator, so a training can be repeated.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional


def augment(images: Tensor, strength: float, generator: Generator, *, erasing: bool = True) -> Tensor:
    """Vary a batch in geometry, resolution and grey levels.

    Args:
        images: (N, 1, H, W) float32, each of about zero mean and unit variance; left as it is.
        strength: 0 leaves the images alone, 1 is the full range of every change.
        generator: the source of all randomness.
        erasing: blank a rectangle of some, too; not for who has to tell blanked films from whole ones.

    Returns:
        (N, 1, H, W) float32, each again of zero mean and unit variance.
    """
    if strength <= 0:
        return images
    images = _moved(images, strength, generator)
    changes = ((0.7, _coarser), (1.0, _regraded), (0.4, _shaded), (0.4, _noisy), (0.4, _erased))
    for share, change in changes if erasing else changes[:-1]:
        chosen = torch.randperm(len(images), generator=generator)[: round(share * len(images))]
        if len(chosen):
            images[chosen] = change(images[chosen], strength, generator)
    return standardised(images)


def standardised(images: Tensor) -> Tensor:
    """Bring each image to zero mean and unit variance; a constant one to zeros."""
    flat = images.flatten(1)
    flat = flat - flat.mean(1, keepdim=True)
    # By hand: torch.std_mean takes several times as long on a CPU.
    return (flat / flat.square().mean(1, keepdim=True).sqrt().clamp_min(1e-5)).view_as(images)


def _uniform(images: Tensor, low: float, high: float, generator: Generator) -> Tensor:
    """One number for each image, (N, 1, 1, 1)."""
    return torch.rand(len(images), 1, 1, 1, generator=generator) * (high - low) + low


def _moved(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Mirror, turn, zoom, stretch and shift: cropping and position differ most between hospitals."""
    angle = _uniform(images, -1, 1, generator).flatten() * strength * math.radians(12)
    zoom = torch.exp(_uniform(images, -0.35, 0.20, generator).flatten() * strength)
    stretch = torch.exp(_uniform(images, -0.18, 0.18, generator).flatten() * strength)
    shift = (torch.rand(len(images), 2, generator=generator) * 2 - 1) * 0.12 * strength
    mirror = torch.sign(_uniform(images, -1, 1, generator).flatten())
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = (
        torch.stack((cosine * stretch * mirror, -sine, shift[:, 0]), dim=1),
        torch.stack((sine * mirror, cosine / stretch, shift[:, 1]), dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _coarser(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Mix with a blurred copy, or (where the mix goes beyond the image) sharpen."""
    scale = float(torch.rand((), generator=generator)) * 0.55 + 0.25
    size = [max(1, int(side * scale)) for side in images.shape[-2:]]
    small = functional.interpolate(images, size=size, mode="area")
    blurred = functional.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False)
    return images.lerp(blurred, _uniform(images, -0.6, 1.0, generator) * strength)


def _regraded(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Change the grey-level curve: brighter or darker middle (as gamma does), steeper or flatter (as film does)."""
    low, high = torch.aminmax(images.flatten(1), dim=1)
    low, high = low.view(-1, 1, 1, 1), high.view(-1, 1, 1, 1)
    unit = (images - low) / (high - low).clamp_min(1e-5)
    # A cubic through (0, 0) and (1, 1): a power would cost more than the first layer of the network.
    bright = _uniform(images, -0.8, 0.8, generator) * strength
    steep = _uniform(images, -1.0, 1.6, generator) * strength
    return standardised(unit + unit * (1 - unit) * (bright + steep * (unit - 0.5)))


def _shaded(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Lay a slow shade over the image: scatter, heel effect, unequal exposure."""
    shade = torch.rand(len(images), 1, 4, 4, generator=generator) - 0.5
    field = functional.interpolate(shade, size=images.shape[-2:], mode="bilinear", align_corners=True)
    return images + field * 2 * strength


def _noisy(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Add grain."""
    grain = torch.randn(images.shape, generator=generator)
    return images + grain * _uniform(images, 0, 0.3, generator) * strength


def _erased(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Blank one rectangle: markers, devices and borders are not findings."""
    height, width = images.shape[-2:]
    centre = torch.rand(2, len(images), 1, 1, 1, generator=generator)
    half = (torch.rand(2, len(images), 1, 1, 1, generator=generator) * 0.3 + 0.1) * min(strength, 1.0)
    rows = torch.linspace(0, 1, height).view(1, 1, height, 1)
    columns = torch.linspace(0, 1, width).view(1, 1, 1, width)
    inside = ((rows - centre[0]).abs() < half[0]) & ((columns - centre[1]).abs() < half[1])
    return images.masked_fill(inside, 0.0)
