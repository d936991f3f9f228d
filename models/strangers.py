"""Pictures that are no radiograph of the kind a version was trained on, made without having any.

Two sorts: the cohort's own images turned, inverted, cut up, zoomed or deprived of their structure, and drawings of what
else comes under a wrong header: sections and heads (ovals on black), limbs (bars), mammograms and cones (shapes), film
borders, clouds and textures (photographs, ultrasound), pages of text, blank and shaded fields.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from models.augmentation import standardised


def strangers(cohort: Tensor, generator: Generator) -> Tensor:
    """Make about as many pictures as the cohort has, a share of each kind.

    Args:
        cohort: (N, 1, S, S) float32, each of about zero mean and unit variance.
        generator: the source of all randomness.

    Returns:
        (M, 1, S, S) float32, each of zero mean and unit variance.
    """
    count, side = len(cohort), cohort.shape[-1]
    share = count // 20 + 1

    def some() -> Tensor:
        return cohort[torch.randint(0, count, (share,), generator=generator)]

    drawn = (
        _clouds(share, side, generator),
        _clouds(share, side, generator),
        _shapes(share, side, 6, generator),
        _shapes(share, side, 10, generator),
        _sections(share, side, generator),
        _sections(share, side, generator),
        _sections(share, side, generator),
        _bars(share, side, generator),
    )
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
        *(_mirrored(pictures, generator) for pictures in drawn),
        _pages(share, side, generator),
        _fields(share, side, generator),
    )
    return standardised(torch.cat(kinds))


def _uniform(generator: Generator, count: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """One number for each picture, (count, 1, 1)."""
    return torch.rand(count, 1, 1, generator=generator) * (high - low) + low


def _chance(generator: Generator, count: int, share: float) -> Tensor:
    return _uniform(generator, count) < share


def _axes(side: int) -> tuple[Tensor, Tensor]:
    """(1, 1, S) and (1, S, 1), -1 to 1."""
    line = torch.linspace(-1, 1, side)
    return line.view(1, 1, side), line.view(1, side, 1)


def _clouds(count: int, side: int, generator: Generator) -> Tensor:
    """Textures from white noise to slow clouds; some cut to two levels, some with a black ground."""
    step = torch.fft.fftfreq(side)
    frequency = (step[:, None].square() + step[None, :].square()).sqrt()
    frequency[0, 0] = 1 / side
    amplitude = frequency[None] ** (-_uniform(generator, count, 0, 3.2))
    noise = torch.fft.fft2(torch.randn(count, side, side, generator=generator))
    field = torch.fft.ifft2(noise * amplitude).real
    field = field / field.std((1, 2), keepdim=True).clamp_min(1e-6)
    manner, cut = _uniform(generator, count), _uniform(generator, count, -1, 1)
    field = torch.where(manner < 0.2, (field > cut).float(), torch.where(manner < 0.45, field.clamp_min(0), field))
    return field[:, None]


def _oval(
    side: int, centre: tuple[Tensor, Tensor], radii: tuple[Tensor, Tensor], angle: Tensor, power: Tensor
) -> Tensor:
    """(count, S, S): below 1 inside an oval, turned; a larger power makes it a box."""
    x, y = _axes(side)
    x, y = x - centre[0], y - centre[1]
    cosine, sine = torch.cos(angle), torch.sin(angle)
    across, down = (x * cosine + y * sine) / radii[0], (y * cosine - x * sine) / radii[1]
    return across.abs() ** power + down.abs() ** power


def _shapes(count: int, side: int, most: int, generator: Generator) -> Tensor:
    """Ovals, boxes and rings over one another, with a texture."""
    picture = torch.zeros(count, side, side) + _chance(generator, count, 0.25) * _uniform(generator, count)
    for number in range(most):
        away, size = (0.25, 1.0) if number == 0 else (0.8, 0.55)
        centre = (_uniform(generator, count, -away, away), _uniform(generator, count, -away, away))
        radii = (0.08 + _uniform(generator, count) * size, 0.08 + _uniform(generator, count) * size)
        angle = _uniform(generator, count, 0, math.pi)
        reach = _oval(side, centre, radii, angle, 2 + 6 * _chance(generator, count, 0.3).float())
        filled = torch.sigmoid(_uniform(generator, count, 4, 44) * (1 - reach))
        ring = torch.exp(-((reach - 1) * 6).square())
        mask = torch.where(_chance(generator, count, 0.25), ring, filled)
        mask = mask * _chance(generator, count, 1.0 if number == 0 else 0.6)
        level = _uniform(generator, count, 0.4, 1.4) if number == 0 else _uniform(generator, count, -0.6, 1.4)
        picture = picture * (1 - mask) + (picture * 0.3 + level) * mask
    texture = _clouds(count, side, generator)[:, 0]
    everywhere = _chance(generator, count, 0.3) | (picture > 0.15)
    return (picture + texture * _uniform(generator, count, 0, 0.25) * everywhere)[:, None]


def _sections(count: int, side: int, generator: Generator) -> Tensor:
    """One body or head on a dark ground: a rim, a textured inside that is often alike on both sides, some organs."""
    centre = (_uniform(generator, count, -0.12, 0.12), _uniform(generator, count, -0.15, 0.15))
    radii = (_uniform(generator, count, 0.3, 1.0), _uniform(generator, count, 0.3, 1.0))
    reach = _oval(side, centre, radii, _uniform(generator, count, -0.25, 0.25), _uniform(generator, count, 1.8, 3))
    inside = torch.sigmoid(_uniform(generator, count, 8, 40) * (1 - reach))
    texture = _clouds(count, side, generator)[:, 0]
    texture = torch.where(_chance(generator, count, 0.6), (texture + texture.flip(2)) / 2, texture)
    rim = torch.exp(-((reach - _uniform(generator, count, 0.75, 1)) * _uniform(generator, count, 3, 10)).square())
    content = _uniform(generator, count, 0.2, 0.8) + texture * _uniform(generator, count, 0, 0.3)
    picture = inside * (content + rim * _uniform(generator, count, -0.4, 1.2))
    for _ in range(4):
        middle = (_uniform(generator, count, -0.5, 0.5) * radii[0], _uniform(generator, count, -0.6, 0.6) * radii[1])
        organ = (_uniform(generator, count, 0.05, 0.35), _uniform(generator, count, 0.05, 0.35))
        within = torch.sigmoid(
            15 * (1 - _oval(side, middle, organ, _uniform(generator, count, 0, 3), torch.tensor(2.0)))
        )
        both = torch.where(_chance(generator, count, 0.4), torch.maximum(within, within.flip(2)), within)
        picture = picture + inside * both * _uniform(generator, count, -0.6, 0.6) * _chance(generator, count, 0.6)
    return (picture.clamp_min(0) + torch.randn(picture.shape, generator=generator) * 0.02)[:, None]


def _bars(count: int, side: int, generator: Generator) -> Tensor:
    """A limb: a bone in soft tissue, in any direction."""
    x, y = _axes(side)
    angle = _uniform(generator, count, 0, math.pi)
    across = x * torch.cos(angle) + y * torch.sin(angle) - _uniform(generator, count, -0.3, 0.3)
    width = _uniform(generator, count, 0.1, 0.5)
    tissue = torch.exp(-((across / (width * _uniform(generator, count, 1.3, 3.3))) ** 4))
    bone = torch.exp(-((across / width).abs() ** _uniform(generator, count, 2, 8)))
    rim = torch.exp(-(((across - width) / width * 2.5).square()))
    picture = tissue * _uniform(generator, count, 0.2, 1.2) + bone * _uniform(generator, count)
    picture = picture + rim * _uniform(generator, count) + 0.1 * _clouds(count, side, generator)[:, 0]
    return picture[:, None]


def _pages(count: int, side: int, generator: Generator) -> Tensor:
    """Lines of text, black on white or white on black."""
    fine = 2 * side
    lines = (torch.rand(count, fine // 4, 1, generator=generator) < _uniform(generator, count)).float()
    lines = lines.repeat_interleave(4, 1)
    lines[:, 3::4] = 0
    left = _uniform(generator, count, 0, 0.3)
    length = torch.rand(count, fine // 4, 1, generator=generator).repeat_interleave(4, 1)
    place = torch.linspace(0, 1, fine).view(1, 1, fine)
    ink = (
        (torch.rand(count, fine, fine, generator=generator) < 0.5) * lines * ((place > left) & (place < left + length))
    )
    page = functional.avg_pool2d(ink[:, None], 2)
    return torch.where(_chance(generator, count, 0.5)[:, None], page, 1 - page)


def _fields(count: int, side: int, generator: Generator) -> Tensor:
    """Next to nothing: blank or shaded, with or without grain."""
    x, y = _axes(side)
    shade = _uniform(generator, count, -1, 1) * x + _uniform(generator, count, -1, 1) * y
    bowl = _uniform(generator, count, -1, 1) * x.square() + _uniform(generator, count, -1, 1) * y.square()
    field = (shade + bowl * _chance(generator, count, 0.5)) * _chance(generator, count, 0.8)
    grain = torch.randn(count, side, side, generator=generator) * _uniform(generator, count) ** 3 * 0.2
    return (field + grain)[:, None]


def _mirrored(pictures: Tensor, generator: Generator) -> Tensor:
    """Make some alike on both sides: a thorax is, and that alone must not do."""
    chosen = _chance(generator, len(pictures), 0.3)[:, None]
    return torch.where(chosen, (pictures + pictures.flip(3)) / 2, pictures)


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
    zoom = _uniform(generator, count, low, high).flatten()
    shift = (torch.rand(count, 2, generator=generator) * 2 - 1) * (1 - zoom)[:, None].clamp_min(0)
    none = torch.zeros(count)
    rows = (torch.stack((zoom, none, shift[:, 0]), 1), torch.stack((none, zoom, shift[:, 1]), 1))
    grid = functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def _scrambled(images: Tensor, generator: Generator) -> Tensor:
    """The same spectrum with the phases of noise: the texture of a radiograph without its form."""
    noise = torch.fft.fft2(torch.randn(images.shape, generator=generator))
    return torch.fft.ifft2(torch.fft.fft2(images).abs() * noise / noise.abs().clamp_min(1e-6)).real
