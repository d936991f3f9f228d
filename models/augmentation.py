"""What a radiograph might have looked like elsewhere: another machine, another cropping, another patient's position.

A whole batch is changed at once by a handful of tensor operations, each image by its own random numbers; one image at a
time would cost more than the network itself. Everything is drawn from one generator, so a training can be repeated.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional


def augment(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Vary a batch in geometry, resolution and grey levels.

    Args:
        images: (N, 1, H, W) float32, each of about zero mean and unit variance; left as it is.
        strength: 0 leaves the images alone, 1 is the full range of every change.
        generator: the source of all randomness.

    Returns:
        (N, 1, H, W) float32, each again of zero mean and unit variance.
    """
    if strength <= 0:
        return images
    images = _moved(images, strength, generator)
    images = _coarser(images, strength, generator)
    images = _regraded(images, strength, generator)
    images = _noisy(images, strength, generator)
    return standardised(_erased(images, strength, generator))


def standardised(images: Tensor) -> Tensor:
    """Bring each image to zero mean and unit variance; a constant one to zeros."""
    deviation, mean = torch.std_mean(images, dim=(1, 2, 3), keepdim=True, correction=0)
    return (images - mean) / deviation.clamp_min(1e-5)


def _uniform(images: Tensor, low: float, high: float, generator: Generator) -> Tensor:
    """One number for each image, (N, 1, 1, 1)."""
    return torch.rand(len(images), 1, 1, 1, generator=generator) * (high - low) + low


def _chosen(images: Tensor, share: float, generator: Generator) -> Tensor:
    """Choose each image with a probability; (N, 1, 1, 1) of 0 and 1."""
    return (torch.rand(len(images), 1, 1, 1, generator=generator) < share).float()


def _moved(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Mirror, turn, zoom, stretch and shift: cropping and position differ most between hospitals."""
    angle = _uniform(images, -1, 1, generator).flatten() * strength * math.radians(12)
    zoom = torch.exp(_uniform(images, -0.35, 0.20, generator).flatten() * strength)
    stretch = torch.exp(_uniform(images, -0.18, 0.18, generator).flatten() * strength)
    shift = (torch.rand(len(images), 2, generator=generator) * 2 - 1) * 0.12 * strength
    mirror = 1 - 2 * _chosen(images, 0.5, generator).flatten()
    cosine, sine = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = (
        torch.stack((cosine * stretch * mirror, -sine, shift[:, 0]), dim=1),
        torch.stack((sine * mirror, cosine / stretch, shift[:, 1]), dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _coarser(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Mix with a blurred copy, or (where the mix goes beyond the image) sharpen."""
    side = images.shape[-1]
    scale = float(torch.rand((), generator=generator)) * 0.55 + 0.25
    small = functional.interpolate(images, size=max(8, int(side * scale)), mode="area")
    blurred = functional.interpolate(small, size=images.shape[-2:], mode="bilinear", align_corners=False)
    share = _uniform(images, -0.6, 1.0, generator) * strength * _chosen(images, 0.7, generator)
    return images + share * (blurred - images)


def _regraded(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Change the grey-level curve and lay a slow shade over the image."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    unit = (images - low) / (high - low).clamp_min(1e-5)
    unit = unit.pow(torch.exp(_uniform(images, -0.7, 0.7, generator) * strength))
    bend = _uniform(images, -0.5, 0.8, generator) * strength
    unit = unit + bend * (unit * unit * (3 - 2 * unit) - unit)  # towards or away from an S-shaped film curve
    shade = torch.rand(len(images), 1, 3, 3, generator=generator) - 0.5
    field = functional.interpolate(shade, size=images.shape[-2:], mode="bicubic", align_corners=False)
    unit = unit + field * strength * 0.5 * _chosen(images, 0.5, generator)
    return standardised(unit)


def _noisy(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Add grain."""
    grain = torch.randn(images.shape, generator=generator)
    return images + grain * _uniform(images, 0, 0.15, generator) * strength * _chosen(images, 0.5, generator)


def _erased(images: Tensor, strength: float, generator: Generator) -> Tensor:
    """Blank one rectangle in some of the images: markers, devices and borders are not findings."""
    height, width = images.shape[-2:]
    centre = torch.rand(2, len(images), 1, 1, 1, generator=generator)
    half = torch.rand(2, len(images), 1, 1, 1, generator=generator) * 0.15 + 0.05
    rows = torch.linspace(0, 1, height).view(1, 1, height, 1)
    columns = torch.linspace(0, 1, width).view(1, 1, 1, width)
    inside = ((rows - centre[0]).abs() < half[0]) & ((columns - centre[1]).abs() < half[1])
    return images * (1 - inside.float() * _chosen(images, 0.4 * min(strength, 1.0), generator))
