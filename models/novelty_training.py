"""Fits a version's novelty check to its training cohort in seconds, repeatable to the bit on the same machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional

from models import novelty
from models.augmentation import augment, standardised
from models.novelty import Novelty
from models.strangers import strangers

FEWEST_PATIENTS: Final = 120  # 60 phantoms made a limit that refused every tenth of another hospital's
_HELD_OUT: Final = 4  # every fourth patient sets the limit
_STRENGTH: Final = 1.2
_JUDGED: Final = 1.6
_QUANTILE: Final = 0.985  # .975 halves the strangers that pass, and refuses a fiftieth of another hospital's films
_WIDTH: Final = 96
_MEMBERS: Final = 2
_POSITIVES, _NEGATIVES, _TRIALS = 5000, 9000, 2000
_STEPS: Final = 300
_BATCH: Final = 192
_RATE: Final = 3e-3
_DECAY: Final = 1.0
_NOISE: Final = 0.7
_EDGED: Final = 0.1  # share of pictures: with none, three of ten collimated films of another hospital were refused
_EDGE: Final = 0.18  # of the side at most, on each of the four


def fit(images: NDArray[np.float32], patients: Sequence[str], seed: int = 0, threads: int = 1) -> Novelty | None:
    """Fit the check and set its limit by the declared rule.

    The rule: 98.5 % of the held-out training patients' images are accepted, varied by more than other hospitals'
    machines, collimation and positioning vary them (and by more than those that it was trained on: it knows its own
    hospital too well).

    Args:
        images: (N, 1, h, w) float32, preprocessed.
        patients: whose image each is; nobody is on both sides.
        seed: of every draw.
        threads: of torch, while this runs.

    Returns:
        The check; None with fewer than `FEWEST_PATIENTS` patients, from whom no limit can be set.
    """
    names = sorted(set(patients))
    if len(names) < FEWEST_PATIENTS:
        return None
    held_out = set(names[::_HELD_OUT])
    away = np.array([patient in held_out for patient in patients])
    small = standardised(torch.from_numpy(novelty.thumbnails(images[:, 0])[:, None]))
    generator = Generator().manual_seed(seed)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        known, judged = small[torch.from_numpy(~away)], small[torch.from_numpy(away)]
        own = _edged(_many(known, _POSITIVES, _STRENGTH, generator), generator)
        own[: len(known)] = known
        others = strangers(known.repeat(math.ceil(_NEGATIVES / len(known)), 1, 1, 1)[:_NEGATIVES], generator)
        check = _classifier(_features(own), _features(others), small.mean(0)[0].numpy(), generator)
        distances = check.distances(_features(_edged(_many(judged, _TRIALS, _JUDGED, generator), generator)))
    finally:
        torch.set_num_threads(before)
    limit = float(np.quantile(distances, _QUANTILE))
    arrays = {name: getattr(check, name) for name in Novelty.__slots__ if name != "limit"}
    return Novelty(limit=limit, **arrays)


def _many(images: Tensor, count: int, strength: float, generator: Generator) -> Tensor:
    """`count` variations of the images, each image as often as any other; whole ones, as a film painted over is not."""
    repeated = images.repeat(math.ceil(count / len(images)), 1, 1, 1)[: max(count, len(images))]
    return augment(repeated, strength, generator, erasing=False)


def _edged(images: Tensor, generator: Generator) -> Tensor:
    """Blacken the edges of some, as a collimator does and whoever pads a film; whiten those of a few."""
    count, side = len(images), images.shape[-1]
    wide = torch.rand(count, 4, 1, 1, generator=generator) * _EDGE * side
    wide = wide * (torch.rand(count, 4, 1, 1, generator=generator) < 0.6)
    line = torch.arange(side)
    across, down = line.view(1, 1, side), line.view(1, side, 1)
    outside = (across < wide[:, 0]) | (across >= side - wide[:, 1]) | (down < wide[:, 2]) | (down >= side - wide[:, 3])
    chosen = torch.rand(count, 1, 1, generator=generator) < _EDGED
    low, high = torch.aminmax(images.flatten(1), dim=1)
    black = torch.rand(count, generator=generator) < 0.85
    level = torch.where(black, low, high).view(-1, 1, 1, 1)
    return standardised(torch.where((outside & chosen)[:, None], level, images))


def _features(pictures: Tensor) -> NDArray[np.float32]:
    return novelty.described(pictures[:, 0].numpy())


def _classifier(
    own: NDArray[np.float32], others: NDArray[np.float32], typical: NDArray[np.float32], generator: Generator
) -> Novelty:
    """Train a few small classifiers to tell the cohort from strangers and average them; without a limit yet."""
    both = np.concatenate((own, others))
    centre, scale = both.mean(0), both.std(0) + 0.05
    inputs = torch.from_numpy((both - centre) / scale)
    inner = nn.Linear(inputs.shape[1], _MEMBERS * _WIDTH)
    outer, bias = nn.Parameter(torch.empty(_MEMBERS, _WIDTH)), nn.Parameter(torch.zeros(_MEMBERS))
    with torch.no_grad():
        for value, fan_in in ((inner.weight, inputs.shape[1]), (inner.bias, inputs.shape[1]), (outer, _WIDTH)):
            value.copy_((torch.rand(value.shape, generator=generator) * 2 - 1) / math.sqrt(fan_in))
    optimizer = torch.optim.AdamW([inner.weight, inner.bias, outer, bias], lr=_RATE, weight_decay=_DECAY)
    targets = torch.cat((torch.full((_BATCH, _MEMBERS), 0.01), torch.full((_BATCH, _MEMBERS), 0.99)))
    for step in range(_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * (0.5 * (1 + math.cos(math.pi * step / _STEPS)) + 0.02)
        chosen = torch.cat(
            (
                torch.randint(0, len(own), (_BATCH,), generator=generator),
                len(own) + torch.randint(0, len(others), (_BATCH,), generator=generator),
            )
        )
        noise = _NOISE * torch.randn(len(chosen), inputs.shape[1], generator=generator)
        hidden = torch.relu(inner(inputs[chosen] + noise)).view(-1, _MEMBERS, _WIDTH)
        answers = (hidden * outer).sum(2) + bias
        loss = functional.binary_cross_entropy_with_logits(answers, targets) * _MEMBERS
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return Novelty(
        limit=math.inf,
        typical=typical.astype(np.float32),
        centre=centre,
        scale=scale,
        inner=inner.weight.detach().numpy().T.copy(),
        inner_bias=inner.bias.detach().numpy().copy(),
        outer=(outer.detach() / _MEMBERS).flatten().numpy(),
        outer_bias=bias.detach().mean().numpy(),
    )
