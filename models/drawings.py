"""Drawings of what else comes under a wrong header, coarse as the thumbnails that are looked at; no patient is in them.

Each family is a recipe with loose numbers, never a picture that somebody took: what a vendor's cohort cannot hold.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional


def drawings(count: int, side: int, generator: Generator) -> Tensor:
    """Draw `count` pictures of each family; some made alike on both sides, as a thorax is.

    Returns:
        (M, 1, S, S) float32, any scale.
    """
    families = (
        _clouds,
        _clouds,
        _few_shapes,
        _many_shapes,
        _sections,
        _sections,
        _sections,
        _heads,
        _brains,
        _brains,
        _brains,
        _chambers,
        _chambers,
        _joints,
        _bars,
        _limbs,
        _limbs,
        _renderings,
        _ultrasounds,
        _ultrasounds,
        _breasts,
        _spines,
        _abdomens,
        _jaws,
    )
    drawn = [_mirrored(family(count, side, generator), generator) for family in families]
    return torch.cat((*drawn, *(family(count, side, generator) for family in (_patterns, _pages, _fields))))


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


def _few_shapes(count: int, side: int, generator: Generator) -> Tensor:
    return _shapes(count, side, 6, generator)


def _many_shapes(count: int, side: int, generator: Generator) -> Tensor:
    return _shapes(count, side, 10, generator)


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


def _heads(count: int, side: int, generator: Generator) -> Tensor:
    """A head in section: scalp, skull and brain as rings, bright or dark by turns, and the cleft between the halves."""
    centre = (_uniform(generator, count, -0.1, 0.1), _uniform(generator, count, -0.12, 0.12))
    width = _uniform(generator, count, 0.4, 0.85)
    radii = (width, width * _uniform(generator, count, 1.0, 1.35))
    turn = _uniform(generator, count, -0.3, 0.3)
    reach = _oval(side, centre, radii, turn, _uniform(generator, count, 1.9, 2.6)).clamp_min(1e-6).sqrt()
    scalp, skull = _uniform(generator, count, 0.03, 0.12), _uniform(generator, count, 0.05, 0.16)
    levels = [_uniform(generator, count) for _ in range(3)]
    edge = _uniform(generator, count, 15, 60)
    brain = torch.sigmoid(edge * (1 - scalp - skull - reach))
    bone = torch.sigmoid(edge * (1 - scalp - reach)) - brain
    skin = torch.sigmoid(edge * (1 - reach)) - brain - bone
    x, y = _axes(side)
    middle = (x - centre[0]) * torch.cos(turn) + (y - centre[1]) * torch.sin(turn)
    cleft = torch.exp(-((middle / _uniform(generator, count, 0.03, 0.15)) ** 2)) * _uniform(generator, count, -0.6, 0.3)
    texture = _clouds(count, side, generator)[:, 0] * _uniform(generator, count, 0, 0.25)
    picture = skin * levels[0] + bone * levels[1] + brain * (0.2 + 0.8 * levels[2] + cleft + texture)
    return picture[:, None]


def _brains(count: int, side: int, generator: Generator) -> Tensor:
    """A brain in its skull from any side: folds under a rim of fluid, ventricles beside the middle, face and neck."""
    centre = (_uniform(generator, count, -0.15, 0.15), _uniform(generator, count, -0.3, 0.15))
    width = _uniform(generator, count, 0.45, 1.0)
    radii = (width, width * _uniform(generator, count, 0.75, 1.35))
    turn = _uniform(generator, count, -0.3, 0.3)
    reach = _oval(side, centre, radii, turn, _uniform(generator, count, 1.8, 2.8)).clamp_min(1e-6).sqrt()
    x, y = _axes(side)
    cosine, sine = torch.cos(turn), torch.sin(turn)
    aside = (x - centre[0]) * cosine + (y - centre[1]) * sine
    along = (y - centre[1]) * cosine - (x - centre[0]) * sine
    edge = _uniform(generator, count, 15, 60)
    rims = (
        _uniform(generator, count, 0.02, 0.1),
        _uniform(generator, count, 0.03, 0.12),
        _uniform(generator, count, 0, 0.08),
    )
    insides = [torch.sigmoid(edge * (1 - thick - reach)) for thick in (0, rims[0], rims[0] + rims[1], sum(rims))]
    folds = _clouds(count, side, generator)[:, 0]
    waves = torch.sin(folds * _uniform(generator, count, 1, 4) + reach * _uniform(generator, count, 0, 25))
    waves = torch.where(_chance(generator, count, 0.7), (waves + waves.flip(2)) / 2, waves)
    deep = torch.sigmoid((reach - _uniform(generator, count, 0.2, 0.8)) * 10)  # grey matter around white
    brain = _uniform(generator, count, 0.3, 1) + waves * deep * _uniform(generator, count, 0, 0.35)
    brain = brain + deep * _uniform(generator, count, -0.3, 0.3)
    lean = _uniform(generator, count, -0.6, 0.6)
    for _ in range(3):  # ventricles, nuclei, what else comes in pairs
        middle = (_uniform(generator, count, 0.05, 0.5) * radii[0], _uniform(generator, count, -0.5, 0.5) * radii[1])
        size = (_uniform(generator, count, 0.05, 0.25) * radii[0], _uniform(generator, count, 0.08, 0.45) * radii[1])
        tilted = (aside.abs() - middle[0]) + lean * (along - middle[1])
        within = torch.sigmoid(12 * (1 - (tilted / size[0]).square() - ((along - middle[1]) / size[1]).square()))
        brain = brain + within * _uniform(generator, count, -0.9, 0.5) * _chance(generator, count, 0.7)
    cleft = torch.exp(-((aside / _uniform(generator, count, 0.02, 0.1)) ** 2)) * _uniform(generator, count, -0.6, 0.3)
    brain = brain + cleft * torch.sigmoid((reach - _uniform(generator, count, 0, 0.7)) * 10)
    outer, skull, fluid, inner = insides
    picture = (outer - skull) * _uniform(generator, count, 0, 1.3) + (skull - fluid) * _uniform(
        generator, count, 0, 1.2
    )
    picture = picture + (fluid - inner) * _uniform(generator, count, 0, 1.2)
    below = _few_shapes(count, side, generator)[:, 0].clamp_min(0) * torch.sigmoid((along - 0.3 * radii[1]) * 8)
    neck = torch.sigmoid((_uniform(generator, count, 0.3, 0.8) * radii[0] - aside.abs()) * 12)
    below = below * torch.where(
        _chance(generator, count, 0.5), neck, torch.sigmoid((1.2 * radii[0] - aside.abs()) * 12)
    )
    picture = picture + below * (1 - outer) * _uniform(generator, count, 0.3, 1) * _chance(generator, count, 0.5)
    picture = picture + inner * brain.clamp_min(0)
    slope = (
        1 + _uniform(generator, count, -0.4, 0.4) * x + _uniform(generator, count, -0.4, 0.4) * y
    )  # a coil is nearer
    return (picture * slope + torch.randn(picture.shape, generator=generator) * 0.02)[:, None]


def _chambers(count: int, side: int, generator: Generator) -> Tensor:
    """A heart by ultrasound: dark chambers in pairs beside a bright wall, in a sector whose tip is at the top."""
    x, y = _axes(side)
    tip = _uniform(generator, count, -1.0, -0.6)
    aside, below = x - _uniform(generator, count, -0.25, 0.25), y - tip
    depth, angle = (aside.square() + below.square()).sqrt(), torch.atan2(aside, below)
    sharp = _uniform(generator, count, 15, 60)
    long = _uniform(generator, count, 1.2, 2.0)
    fan = torch.sigmoid((_uniform(generator, count, 0.45, 0.9) - angle.abs()) * depth * sharp)
    fan = fan * torch.sigmoid((long - depth) * sharp)
    tissue = _uniform(generator, count, 0.2, 0.9)
    tissue = tissue + _clouds(count, side, generator)[:, 0] * _uniform(generator, count, 0.05, 0.5)
    lean = _uniform(generator, count, -0.4, 0.4)
    across = aside - lean * (below - long / 2)
    wall = _uniform(generator, count, 0.03, 0.15)
    for right in (-1, 1):
        for start, end in ((0.15, 0.6), (0.5, 0.95)):
            size = (_uniform(generator, count, 0.08, 0.35), _uniform(generator, count, 0.12, 0.4))
            middle = _uniform(generator, count, start, end) * long
            far = ((right * across - wall - size[0]) / size[0]).square() + ((below - middle) / size[1]).square()
            hole = torch.sigmoid(_uniform(generator, count, 3, 12) * (1 - far)) * _uniform(generator, count, 0.5, 1)
            tissue = tissue * (1 - hole * _chance(generator, count, 0.85))
            rim = torch.exp(-((far - 1.1) * 4).square()) * _uniform(generator, count, 0, 0.6)
            tissue = tissue + rim * _chance(generator, count, 0.5)
    first, second = (torch.randn(count, side, side, generator=generator) for _ in range(2))
    grain = (first.square() + second.square()).sqrt() * 0.8
    speckle = 1 + (grain - 1) * _uniform(generator, count, 0, 0.7)
    tissue = tissue.clamp_min(0) * torch.exp(-depth / long * _uniform(generator, count, -0.5, 2)) * speckle
    return (fan * tissue + _margins(count, side, generator) * (1 - fan))[:, None]


def _joints(count: int, side: int, generator: Generator) -> Tensor:
    """One limb or both in section: round soft tissue on black, bones with a dense rim, muscles, the table below."""
    x, y = _axes(side)
    both = _chance(generator, count, 0.5)
    centre = (_uniform(generator, count, 0.25, 0.6) * both, _uniform(generator, count, -0.2, 0.2))
    radii = (_uniform(generator, count, 0.2, 0.5) * (2 - both.float()), _uniform(generator, count, 0.25, 0.9))
    aside = torch.where(both, x.abs(), x)
    tilt = _uniform(generator, count, -0.4, 0.4)

    def oval(middle: tuple[Tensor, Tensor], size: tuple[Tensor, Tensor]) -> Tensor:
        across, down = aside - middle[0] + tilt * (y - middle[1]), y - middle[1]
        return ((across / size[0]).square() + (down / size[1]).square()).clamp_min(1e-6).sqrt()

    edge = _uniform(generator, count, 6, 30)
    flesh = torch.sigmoid(edge * (1 - oval(centre, radii)))
    texture = _clouds(count, side, generator)[:, 0] * _uniform(generator, count, 0, 0.2)
    picture = flesh * (_uniform(generator, count, 0.2, 0.7) + texture)
    for number in range(4):
        away = 0.15 if number == 0 else 0.6
        middle = (
            centre[0] + _uniform(generator, count, -away, away) * radii[0],
            centre[1] + _uniform(generator, count, -away, away) * radii[1],
        )
        share = _uniform(generator, count, 0.12, 0.7 if number == 0 else 0.4)
        reach = oval(middle, (share * radii[0], share * radii[1] * _uniform(generator, count, 0.6, 1.4)))
        bone = torch.sigmoid(edge * (1 - reach)) * _uniform(generator, count, -0.2, 0.7)
        rim = torch.exp(-((reach - 0.9) * _uniform(generator, count, 3, 9)).square()) * _uniform(
            generator, count, 0, 1.2
        )
        picture = picture + (bone + rim) * _chance(generator, count, 1.0 if number == 0 else 0.5)
    table = torch.exp(-((y - _uniform(generator, count, 0.6, 0.95) - 0.3 * x.square()) * 20).square())
    picture = picture + table * _uniform(generator, count, 0, 0.5) * _chance(generator, count, 0.4)
    turned = torch.where(_chance(generator, count, 0.8), picture, picture.transpose(1, 2))
    return (turned + torch.randn(turned.shape, generator=generator) * 0.02)[:, None]


def _strokes(count: int, side: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Jointed rays as of a hand, a foot, an arm or two legs: how near each pixel is to the bones, in their radii.

    Returns:
        (count, S, S) of the nearest bone, and the same of the whole limb, joints closed.
    """
    rays, joints = 5, 3
    number = torch.randint(1, rays + 1, (count, 1), generator=generator)
    order = torch.arange(rays)[None] - (number - 1) / 2
    present = torch.arange(rays)[None] < number

    def one(low: float, high: float) -> Tensor:
        return torch.rand(count, 1, generator=generator) * (high - low) + low

    direction = one(0, 2 * math.pi) + order * one(0, 1.1) / number
    across = order * one(0.1, 1.0) / number.clamp_min(2) * 1.6
    along = direction.mean(1, keepdim=True)
    length = one(0.8, 2.6) * (1 + 0.15 * torch.randn(count, rays, generator=generator))
    start_x = one(-0.4, 0.4) - across * torch.sin(along) - torch.cos(along) * one(0.2, 1.3)
    start_y = one(-0.4, 0.4) + across * torch.cos(along) - torch.sin(along) * one(0.2, 1.3)
    radius = one(0.04, 0.3) / number.sqrt()
    x, y = _axes(side)
    bones, limbs = [], []
    for _ in range(joints):
        part = length / joints * (1 + 0.2 * torch.randn(count, rays, generator=generator)).clamp_min(0.3)
        direction = direction + 0.15 * torch.randn(count, rays, generator=generator)
        cosine, sine = torch.cos(direction), torch.sin(direction)
        away_x, away_y = x[:, None] - start_x[..., None, None], y[:, None] - start_y[..., None, None]
        forth = away_x * cosine[..., None, None] + away_y * sine[..., None, None]
        aside = away_y * cosine[..., None, None] - away_x * sine[..., None, None]
        part_, gap = part[..., None, None], (0.25 * radius)[..., None, None]
        wide = radius[..., None, None]
        for found, least, most in ((bones, gap + 0.7 * wide, part_ - gap - 0.7 * wide), (limbs, 0 * part_, part_)):
            beyond = forth - torch.maximum(torch.minimum(forth, most), least)
            near = (aside.square() + beyond.square()).sqrt() / wide
            found.append(near.masked_fill(~present[..., None, None], 99.0).amin(1))
        start_x, start_y = start_x + part * cosine, start_y + part * sine
        radius = radius * 0.88
    return torch.stack(bones).amin(0), torch.stack(limbs).amin(0)


def _limbs(count: int, side: int, generator: Generator) -> Tensor:
    """Limbs, hands and feet: soft tissue, bones with a dense rim, joints between them."""
    bones, limbs = _strokes(count, side, generator)
    flesh = torch.sigmoid((_uniform(generator, count, 1.3, 4) - limbs) * _uniform(generator, count, 2, 8))
    bone = torch.sigmoid((1 - bones) * _uniform(generator, count, 4, 12))
    rim = torch.exp(-(((bones - 0.85) * 5).square())) * _uniform(generator, count)
    texture = _clouds(count, side, generator)[:, 0] * _uniform(generator, count, 0, 0.15)
    picture = flesh * _uniform(generator, count, 0.15, 1.0) + bone * _uniform(generator, count, 0.2, 1.0) + 0.5 * rim
    # tissue thins out towards the skin
    thick = (1 - 0.15 * limbs).clamp_min(0) * _uniform(generator, count, 0, 0.6) * flesh
    return (picture + thick + texture * (flesh + _chance(generator, count, 0.3)))[:, None]


def _renderings(count: int, side: int, generator: Generator) -> Tensor:
    """Surfaces lit from one side on a plain ground: renderings of volumes, things on a table."""
    _, limbs = _strokes(count, side, generator)
    centre = (_uniform(generator, count, -0.3, 0.3), _uniform(generator, count, -0.3, 0.3))
    radii = (_uniform(generator, count, 0.2, 0.8), _uniform(generator, count, 0.2, 0.8))
    body = _oval(side, centre, radii, _uniform(generator, count, 0, math.pi), torch.tensor(2.0))
    shown = torch.where(_chance(generator, count, 0.6), limbs / _uniform(generator, count, 1, 4), 99.0)
    body = torch.where(_chance(generator, count, 0.7), body.sqrt(), shown)
    depth = torch.minimum(shown, body)
    height = (1 - depth.square()).clamp_min(0).sqrt() * _uniform(generator, count, 0.1, 0.5)
    height = height + 0.04 * _clouds(count, side, generator)[:, 0] * _uniform(generator, count)
    down, across = torch.gradient(height, dim=(1, 2))
    down, across = down * side / 2, across * side / 2
    steep = (1 + down.square() + across.square()).sqrt()
    lit = (1 + across * _uniform(generator, count, -1, 1) + down * _uniform(generator, count, -1, 1)) / steep
    inside = torch.sigmoid((1 - depth) * 20)
    ground = _chance(generator, count, 0.2) * _uniform(generator, count, 0, 1.5)
    return (inside * lit.clamp_min(0) + (1 - inside) * ground)[:, None]


def _ultrasounds(count: int, side: int, generator: Generator) -> Tensor:
    """A sector, a curved fan or a straight block of speckled tissue on black, with its text, scale and traces."""
    x, y = _axes(side)
    top = _uniform(generator, count, -1.0, -0.3)
    behind = torch.where(_chance(generator, count, 0.5), 0.0, _uniform(generator, count, 0, 1.2))  # curved array
    aside, below = x - _uniform(generator, count, -0.35, 0.35), y - top + behind
    depth, angle = (aside.square() + below.square()).sqrt(), torch.atan2(aside, below)
    long = _uniform(generator, count, 0.9, 1.9)
    half = _uniform(generator, count, 0.3, 0.85)
    sharp = _uniform(generator, count, 20, 60)
    fan = torch.sigmoid((half - angle.abs()) * depth * sharp)
    fan = fan * torch.sigmoid((depth - behind) * sharp) * torch.sigmoid((behind + long - depth) * sharp)
    broad = _uniform(generator, count, 0.4, 0.95)
    block = torch.sigmoid((broad - aside.abs()) * sharp) * torch.sigmoid((y - top) * sharp)
    block = block * torch.sigmoid((top + long - y) * sharp)
    straight = _chance(generator, count, 0.3)
    inside = torch.where(straight, block, fan)
    deep = torch.where(straight, y - top, depth - behind).clamp_min(0) / long
    texture = _clouds(count, side, generator)[:, 0]
    tissue = _uniform(generator, count, 0.1, 0.9) + texture * _uniform(generator, count, 0.1, 0.6)
    layers = torch.sin(deep * _uniform(generator, count, 5, 40) + _uniform(generator, count, 0, 6))
    tissue = tissue + layers * _uniform(generator, count, -0.3, 0.3) * _chance(generator, count, 0.5)
    for _ in range(3):  # vessels, chambers, cysts: black; behind them brighter
        middle = (_uniform(generator, count, -0.6, 0.6), _uniform(generator, count, -0.6, 0.7))
        size = (_uniform(generator, count, 0.05, 0.45), _uniform(generator, count, 0.05, 0.45))
        reach = _oval(side, middle, size, _uniform(generator, count, 0, 3), torch.tensor(2.0))
        hole = torch.sigmoid(12 * (1 - reach))
        tissue = tissue * (1 - hole * _uniform(generator, count, 0.2, 1) * _chance(generator, count, 0.6))
    tissue = tissue.clamp_min(0) * torch.exp(-deep * _uniform(generator, count, -0.5, 3))
    first, second = (torch.randn(count, side, side, generator=generator) for _ in range(2))
    grain = (first.square() + second.square()).sqrt() * 0.8
    speckle = 1 + (grain - 1) * _uniform(generator, count, 0, 0.9)
    return (inside * tissue * speckle + _margins(count, side, generator) * (1 - inside))[:, None]


def _margins(count: int, side: int, generator: Generator) -> Tensor:
    """(count, S, S): lines of writing at the edges, a grey scale, a trace at the bottom; or nothing of it."""
    x, y = _axes(side)
    ink = torch.rand(count, side, side, generator=generator)
    ink = (ink - 0.5).clamp_min(0) * 2  # a half stays empty
    rows = torch.rand(count, side, 1, generator=generator) < _uniform(generator, count, 0, 0.6)
    left = (x < _uniform(generator, count, -1, -0.4)) & _chance(generator, count, 0.6)
    right = (x > _uniform(generator, count, 0.4, 1)) & _chance(generator, count, 0.4)
    over = (y < _uniform(generator, count, -1, -0.7)) & _chance(generator, count, 0.6)
    under = (y > _uniform(generator, count, 0.75, 1)) & _chance(generator, count, 0.3)
    text = ink * ((rows & (left | right)) | over | under) * _uniform(generator, count, 0, 0.8)
    place = _uniform(generator, count, -0.97, 0.97)
    scale = ((x - place).abs() < 0.05) & (y.abs() < _uniform(generator, count, 0.2, 0.8))
    scale = scale * (0.5 - y / 2) * _chance(generator, count, 0.4)
    return torch.maximum(text, scale)


def _breasts(count: int, side: int, generator: Generator) -> Tensor:
    """Something round that enters from one edge into black: a breast, a shoulder, a hip, with a marker or a paddle."""
    centre = (_uniform(generator, count, 0.6, 1.5), _uniform(generator, count, -0.4, 0.4))
    radii = (_uniform(generator, count, 0.5, 1.7), _uniform(generator, count, 0.5, 1.5))
    reach = _oval(side, centre, radii, _uniform(generator, count, -0.4, 0.4), _uniform(generator, count, 1.6, 2.5))
    inside = torch.sigmoid(_uniform(generator, count, 5, 30) * (1 - reach))
    texture = _clouds(count, side, generator)[:, 0] * _uniform(generator, count, 0, 0.4)
    picture = inside * (_uniform(generator, count, 0.2, 1) + texture - reach * _uniform(generator, count, -0.3, 0.5))
    x, y = _axes(side)
    muscle = torch.sigmoid((x - y * _uniform(generator, count, 0.3, 1) - _uniform(generator, count, 0.9, 1.6)) * 12)
    picture = picture + muscle * _chance(generator, count, 0.4) * _uniform(generator, count, 0, 0.8)
    box = _oval(
        side,
        (_uniform(generator, count, -0.9, 0.9), _uniform(generator, count, -0.9, 0.9)),
        (_uniform(generator, count, 0.05, 0.25), _uniform(generator, count, 0.05, 0.25)),
        torch.tensor(0.0),
        torch.tensor(8.0),
    )
    picture = torch.where(_chance(generator, count, 0.5) & (box < 1), 1.3, picture)
    turned = torch.where(_chance(generator, count, 0.5), picture, picture.flip(2))
    turned = torch.where(_chance(generator, count, 0.5), turned, turned.flip(1))
    return torch.where(_chance(generator, count, 0.75), turned, turned.transpose(1, 2))[:, None]


def _column(count: int, side: int, generator: Generator) -> Tensor:
    """(count, S, S): vertebrae over one another along a bent line."""
    x, y = _axes(side)
    bent = _uniform(generator, count, -0.35, 0.35) + _uniform(generator, count, -0.25, 0.25) * torch.sin(
        y * _uniform(generator, count, 0.5, 2.5) + _uniform(generator, count, 0, 6)
    )
    across = (x - bent) / _uniform(generator, count, 0.1, 0.35)
    pace = _uniform(generator, count, 6, 22)
    discs = torch.sigmoid(6 * (torch.cos(y * pace + _uniform(generator, count, 0, 6)) + 0.6))
    body = torch.sigmoid((1 - across.abs()) * _uniform(generator, count, 4, 14))
    return body * (1 - (1 - discs) * _uniform(generator, count, 0.2, 0.9))


def _spines(count: int, side: int, generator: Generator) -> Tensor:
    """A spine: vertebrae in a broad or narrow band of soft tissue, from the side or from the front."""
    x, y = _axes(side)
    spine = _column(count, side, generator)
    band = torch.exp(-(((x - _uniform(generator, count, -0.3, 0.3)) / _uniform(generator, count, 0.3, 1.4)) ** 4))
    slope = _uniform(generator, count, -0.5, 0.5) * y
    texture = _clouds(count, side, generator)[:, 0] * _uniform(generator, count, 0, 0.2)
    picture = band * (_uniform(generator, count, 0.2, 1) + slope + texture)
    return (picture + spine * _uniform(generator, count, 0.2, 1))[:, None]


def _abdomens(count: int, side: int, generator: Generator) -> Tensor:
    """An abdomen or pelvis: soft tissue to the flanks, some gas, the spine, the wings of the pelvis, hips."""
    x, y = _axes(side)
    half = _uniform(generator, count, 0.7, 1.4)
    flank = torch.sigmoid((half - x.abs() + 0.1 * torch.cos(3 * y)) * _uniform(generator, count, 6, 20))
    texture = _clouds(count, side, generator)[:, 0]
    gas = ((texture - _uniform(generator, count, 0.3, 1.5)) * 3).clamp(0, 1) * torch.exp(-((x / 0.7) ** 4))
    picture = flank * (0.7 + 0.1 * _uniform(generator, count, -1, 1) * y - gas * _uniform(generator, count, 0, 0.5))
    x0 = _uniform(generator, count, -0.08, 0.08)
    spine = torch.sigmoid((_uniform(generator, count, 0.1, 0.2) - (x - x0).abs()) * 25)
    low = _uniform(generator, count, -0.2, 0.9)
    picture = picture + spine * torch.sigmoid((low - y) * 8) * _uniform(generator, count, 0.05, 0.4)
    for low_, high_ in ((0.0, 0.5), (0.3, 0.9)):  # the wings, then the hips
        out, down = _uniform(generator, count, 0.35, 0.8), low + _uniform(generator, count, low_ - 0.2, high_)
        size = (_uniform(generator, count, 0.12, 0.4), _uniform(generator, count, 0.12, 0.4))
        tilt = _uniform(generator, count, 0, 1.2)
        right = _oval(side, (x0 + out, down), size, tilt, torch.tensor(2.0))
        left = _oval(side, (x0 - out, down), size, -tilt, torch.tensor(2.0))
        wing = torch.sigmoid(8 * (1 - torch.minimum(left, right)))
        picture = picture + wing * _uniform(generator, count, 0.05, 0.5)
    return (picture + 0.02 * torch.randn(picture.shape, generator=generator))[:, None]


def _jaws(count: int, side: int, generator: Generator) -> Tensor:
    """Teeth: two rows along an arc, or a few large ones."""
    x, y = _axes(side)
    line = y - _uniform(generator, count, -0.3, 0.3) - _uniform(generator, count, -0.5, 0.5) * x.square()
    apart, high = _uniform(generator, count, 0.15, 0.3), _uniform(generator, count, 0.1, 0.4)
    rows = torch.exp(-(((line.abs() - apart) / high) ** 4))
    pace, phase = _uniform(generator, count, 5, 28), _uniform(generator, count, 0, 6)
    gaps = torch.sigmoid(6 * (torch.cos(x * pace + phase) + 0.5))
    texture = _clouds(count, side, generator)[:, 0] * _uniform(generator, count, 0, 0.2)
    bone = torch.exp(-((line / _uniform(generator, count, 0.4, 1)) ** 4))
    bone = bone * (_uniform(generator, count, 0.1, 0.7) + texture)
    ramus = torch.exp(-(((x.abs() - _uniform(generator, count, 0.7, 0.95)) / 0.15) ** 2)) * (y < line.abs() + 0.4)
    picture = rows * gaps * _uniform(generator, count, 0.4, 1.2) + bone
    return (picture + ramus * _uniform(generator, count, 0, 0.6))[:, None]


def _patterns(count: int, side: int, generator: Generator) -> Tensor:
    """Test patterns and phantoms: stripes, checks, nested frames, steps of grey, grids."""
    x, y = _axes(side)
    angle = torch.where(
        _chance(generator, count, 0.7),
        torch.randint(0, 2, (count, 1, 1), generator=generator) * math.pi / 2,
        _uniform(generator, count, 0, math.pi),
    )
    first = x * torch.cos(angle) + y * torch.sin(angle)
    second = y * torch.cos(angle) - x * torch.sin(angle)
    pace, phase = _uniform(generator, count, 2, 45), _uniform(generator, count, 0, 6)
    stripes = torch.sign(torch.sin(first * pace + phase))
    checks = stripes * torch.sign(torch.sin(second * pace * _uniform(generator, count, 0.5, 1.5)))
    frames = torch.sign(torch.sin(torch.maximum(x.abs(), y.abs()) * pace + phase))
    steps = torch.floor(first * _uniform(generator, count, 1, 6)) * 0.5
    choice = torch.randint(0, 4, (count, 1, 1), generator=generator)
    picture = torch.zeros(count, side, side)
    for number, one in enumerate((stripes, checks, frames, steps)):
        picture = torch.where(choice == number, one, picture)
    cut = (x > _uniform(generator, count, -1.5, 0)) & (y > _uniform(generator, count, -1.5, 0))
    cut = cut & (x < _uniform(generator, count, 0.3, 2)) & (y < _uniform(generator, count, 0.3, 2))
    picture = torch.where(cut, picture, _uniform(generator, count, -1, 1))
    return (picture + 0.1 * _uniform(generator, count) * torch.randn(picture.shape, generator=generator))[:, None]


def _mirrored(pictures: Tensor, generator: Generator) -> Tensor:
    """Make some alike on both sides: a thorax is, and that alone must not do."""
    chosen = _chance(generator, len(pictures), 0.3)[:, None]
    return torch.where(chosen, (pictures + pictures.flip(3)) / 2, pictures)
