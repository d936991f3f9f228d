"""Pictures that are no radiograph of the kind a version was trained on, made without having any.

Two sorts: the cohort's own images turned, inverted, cut up, painted over in part, zoomed or deprived of their
structure, and drawings of what else comes under a wrong header (`models/drawings.py`).
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn import functional

from models.augmentation import standardised
from models.drawings import drawings

_CHANGED, _DRAWN = 15, 27  # kinds; of the cohort's own there are twice as many each, for they are hardest to tell


def strangers(cohort: Tensor, generator: Generator) -> Tensor:
    """Make about as many pictures as the cohort has, a share of each kind.

    Args:
        cohort: (N, 1, S, S) float32, each of about zero mean and unit variance.
        generator: the source of all randomness.

    Returns:
        (M, 1, S, S) float32, each of zero mean and unit variance.
    """
    count, side = len(cohort), cohort.shape[-1]
    share = count // (2 * _CHANGED + _DRAWN) + 1

    def some() -> Tensor:
        return cohort[torch.randint(0, count, (2 * share,), generator=generator)]

    kinds = (
        torch.rot90(some(), 1, (2, 3)),
        torch.rot90(some(), 3, (2, 3)),
        some().flip(2),
        -some(),
        -some().flip(2),
        _shuffled(some(), 4, generator),
        _shuffled(some(), 2, generator),
        _zoomed(some(), 0.15, 0.45, generator),
        _zoomed(some(), 2.0, 4.0, generator),
        _scrambled(some(), generator),
        _blanked(some(), generator),
        _blanked(some(), generator),
        _blanked(some(), generator),
        _halved(some(), generator),
        _doubled(some(), generator),
        drawings(share, side, generator),
    )
    return standardised(torch.cat(kinds))


def _shuffled(images: Tensor, pieces: int, generator: Generator) -> Tensor:
    """Cut into pieces² squares and put together in another order."""
    count, side = len(images), images.shape[-1] // pieces
    parts = images.reshape(count, pieces, side, pieces, side).permute(0, 1, 3, 2, 4).reshape(count, -1, side, side)
    order = torch.rand(count, pieces * pieces, generator=generator).argsort(1)
    parts = parts.gather(1, order[:, :, None, None].expand_as(parts))
    whole = parts.reshape(count, pieces, pieces, side, side).permute(0, 1, 3, 2, 4)
    return whole.reshape(count, 1, pieces * side, pieces * side)


def _zoomed(images: Tensor, low: float, high: float, generator: Generator) -> Tensor:
    """Keep a corner of that share of the side; above 1: a small picture on an empty ground."""
    count = len(images)
    zoom = torch.rand(count, generator=generator) * (high - low) + low
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * (1 - zoom)[:, None].clamp_min(0)
    none = torch.zeros(count)
    rows = (torch.stack((zoom, none, shift[:, 0]), 1), torch.stack((none, zoom, shift[:, 1]), 1))
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def _scrambled(images: Tensor, generator: Generator) -> Tensor:
    """The same spectrum with the phases of noise: the texture of a radiograph without its form."""
    noise = torch.fft.fft2(torch.randn(images.shape, generator=generator))
    return torch.fft.ifft2(torch.fft.fft2(images).abs() * noise / noise.abs().clamp_min(1e-6)).real


def _blanked(images: Tensor, generator: Generator) -> Tensor:
    """Parts painted over with one grey: a lung, a half, the middle; never just the edge that a collimator leaves."""
    count, side = len(images), images.shape[-1]
    line = torch.linspace(0, 1, side)
    across, down = line.view(1, 1, side), line.view(1, side, 1)

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(count, 1, 1, generator=generator) * (high - low) + low

    covered = torch.zeros(count, side, side, dtype=torch.bool)
    for chance in (1.0, 0.25):
        aside = ((across - draw(0.2, 0.8)) / draw(0.1, 0.25)).abs()
        away = ((down - draw(0.25, 0.75)) / draw(0.1, 0.35)).abs()
        part = torch.where(draw(0, 1) < 0.3, aside.square() + away.square() < 1.2, torch.maximum(aside, away) < 1)
        covered |= part & (draw(0, 1) < chance)
    half = (across < draw(0.35, 0.6)).expand(count, side, side)
    half = torch.where(draw(0, 1) < 0.5, half, half.flip(2))
    half = torch.where(draw(0, 1) < 0.5, half, half.transpose(1, 2))
    covered = torch.where(draw(0, 1) < 0.25, half, covered)
    low, high = (one.view(-1, 1, 1) for one in torch.aminmax(images.flatten(1), dim=1))
    kind, grey = draw(0, 1), low + (high - low) * draw(0, 1)
    grey = torch.where(kind < 0.25, low, torch.where(kind < 0.5, high, torch.where(kind < 0.75, 0.0, grey)))
    return torch.where(covered, grey, images[:, 0])[:, None]


def _halved(images: Tensor, generator: Generator) -> Tensor:
    """Only about half of a film, left or right, drawn out to the whole."""
    count = len(images)
    share = torch.rand(count, generator=generator) * 0.16 + 0.42
    edge = (1 - share) * torch.sign(torch.rand(count, generator=generator) - 0.5)
    none, whole = torch.zeros(count), torch.ones(count)
    rows = torch.stack((torch.stack((share, none, edge), 1), torch.stack((none, whole, none), 1)), 1)
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _doubled(images: Tensor, generator: Generator) -> Tensor:
    """Two films beside or above one another."""
    count, _, side, _ = images.shape
    other = images[torch.randperm(count, generator=generator)]
    beside = functional.interpolate(torch.cat((images, other), 3), size=(side, side), mode="area")
    above = functional.interpolate(torch.cat((images, other), 2), size=(side, side), mode="area")
    return torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.5, beside, above)
