"""What an update shows of the pictures it was learned from: gradient inversion by the coordinator.

The attacker holds the received weights, the order, and the update as it crossed the border, and knows the labels and
what a step does with a gradient. It looks for pictures whose gradient would have given this update: its direction,
after the squeezing that AdamW's first step does. It has published thoraxes of the same kind and looks among their main
variations alone, which finds more than free pixels held together by total variation. It is curious and keeps to the
protocol: weights made for the purpose would show more. There is nothing to be read off directly: no network here has a
linear layer over pixels, only one over what was pooled from them.

All thoraxes look alike, so that likeness to the true picture alone says nothing: what counts is whether the picture
found is more like the one trained on than like any other of a line-up.

Sources: Geiping et al., Inverting Gradients: How easy is it to break privacy in federated learning?, NeurIPS 2020 (the
direction of the gradient); Jeon et al., Gradient Inversion with Generative Image Prior, NeurIPS 2021 (what is known of
such pictures).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from client.federation.kept import Kept
from client.federation.trainer import Lesson, learn
from models.augmentation import standardised
from models.bundle import Facts
from models.exchange import TrainOrder, Update
from models.hyperparameters import Hyperparameters
from models.networks import build
from models.private_training import seed_of
from models.protection import PatientLevel, Protection, Unprotected
from models.training import batches, checked, set_weights
from scripts.benchmarks import federation
from scripts.benchmarks.federation import Weights
from scripts.demonstration.phantoms import Look, draw
from server.privacy import protection_of

SIDE = 32
LINE_UP = 50
"""Pictures to choose from: those of the hospital, and others drawn alike."""

SMALLEST = Hyperparameters(
    steps=1, batch_size=2, learning_rate=1e-2, warmup=0.0, augmentation=0.0, averaging=0.0, label_smoothing=0.0,
    weight_decay=0.0,
)  # fmt: skip
"""What tells most: one step on two cases, of however many there are."""

_CASES = 16  # at the hospital: a protected training of fewer is refused
_TASK = ("network.channels=[8,8,16,16]", "network.groups=4", "network.stride=2", "network.kernel=5")
_BASE = Hyperparameters(steps=20, batch_size=32, learning_rate=3e-3, augmentation=0.4, averaging=0.0)
_DIGEST = "0" * 64
_PUBLISHED, _VARIATIONS = 300, 30
_LOOK = Look(0, SIDE, 1.0, 0.5, 0.02, 0.35)


@dataclass(frozen=True, slots=True)
class Shown:
    """What the attacker's pictures are worth.

    Attributes:
        own: (N,) likeness of each picture found to the one that was trained on: correlation, -1..1, of what
            distinguishes them from the mean of the line-up.
        nearest: (N,) its likeness to the nearest picture of the line-up that was not in the step.
        identified: (N,) whether no other picture of the line-up is as near as the one that was trained on.
    """

    own: NDArray[np.float64]
    nearest: NDArray[np.float64]
    identified: NDArray[np.bool_]


def figures(found: Sequence[Shown]) -> Mapping[str, float]:
    """Means over all pictures of some attacks."""
    return {
        "identified": float(np.concatenate([one.identified for one in found]).mean()),
        "likeness": float(np.concatenate([one.own for one in found]).mean()),
        "likeness to another": float(np.concatenate([one.nearest for one in found]).mean()),
    }


def attacked(
    seed: int, hyper: Hyperparameters = SMALLEST, protection: Protection | None = None, iterations: int = 150,
    **terms: Any,
) -> Shown:  # fmt: skip
    """Train one round at one hospital, and look for its pictures in the update.

    Args:
        hyper: of the round. Of one step, the pictures of that step are looked for; of several, those of all cases,
            with the whole update in the place of a gradient.
        terms: further fields of the order, e.g. `norm` or `reply`.
    """
    facts, base = _base()
    lined_up = _thoraxes(np.random.default_rng([seed, 1]), LINE_UP)
    positive = np.arange(_CASES) % 2 == 1
    lesson = Lesson(
        lined_up[:_CASES], positive, np.zeros(_CASES, bool), np.ones(_CASES), np.full(_CASES, np.nan),
        tuple(f"p{number:02d}" for number in range(_CASES)),
    )  # fmt: skip
    order = TrainOrder(
        retraining="bench", round=1, base=_DIGEST, seed=seed, hyper=hyper, privacy=protection or Unprotected(),
        weights=base, **terms,
    )  # fmt: skip
    secret = _secret(seed, order)
    chosen = _drawn(lesson, order, secret)
    # as it crosses: kept to the bound, packed, read back
    update, _ = learn(facts, base, lesson, order, Kept(), secret=secret)
    trained = Update.from_record(update.to_record()).trained(base)
    step = {name: trained[name] - base[name] for name in base}
    pictures = invert(facts, base, step, positive[chosen], iterations)
    return _compared(pictures, chosen, lined_up)


def invert(
    facts: Facts, weights: Weights, step: Weights, positive: NDArray[np.bool_], iterations: int
) -> NDArray[np.float32]:
    """Pictures (N, 1, SIDE, SIDE), standardised, whose gradient goes against an update as nearly as can be found.

    Args:
        weights: that the update starts from.
        step: the update less those.
        positive: (N,) the truth of each picture.
    """
    network = build(facts.network, **facts.network_facts)
    set_weights(network, weights)
    network.eval()
    named = dict(network.named_parameters())
    against = torch.cat([torch.from_numpy(-step[name]).ravel() for name in named])
    truth = torch.from_numpy(positive.astype(np.float32))
    mean, variations = _published()
    along = torch.zeros(len(positive), len(variations), requires_grad=True)
    descent = torch.optim.Adam([along], lr=0.1)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(descent, iterations)

    def pictures() -> Tensor:
        return standardised((mean + along @ variations).view(-1, 1, SIDE, SIDE))

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # more wait for each other longer than such small tensors take
    try:
        for _ in range(iterations):
            found = _squeezed(network, list(named.values()), pictures(), truth)
            (along.grad,) = torch.autograd.grad(-functional.cosine_similarity(found, against, dim=0), [along])
            descent.step()
            falling.step()
    finally:
        torch.set_num_threads(before)
    return pictures().detach().numpy()


def _squeezed(network: nn.Module, parameters: list[nn.Parameter], pictures: Tensor, truth: Tensor) -> Tensor:
    """The gradient of the loss, each tensor's numbers squeezed to -1..1 as AdamW's first step does it, but smoothly."""
    loss = functional.binary_cross_entropy_with_logits(network(pictures)[:, 0], truth)
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    return torch.cat([torch.tanh(one / (0.3 * one.detach().abs().mean() + 1e-12)).ravel() for one in gradients])


@cache
def _published() -> tuple[Tensor, Tensor]:
    """The mean (pixels,) of thoraxes that anybody has, and their main variations (_VARIATIONS, pixels), each as long as
    it is usual.
    """
    pictures = _thoraxes(np.random.default_rng(7), _PUBLISHED).reshape(_PUBLISHED, -1)
    mean = pictures.mean(axis=0)
    _, lengths, directions = np.linalg.svd(pictures - mean, full_matrices=False)
    usual = lengths[:_VARIATIONS, None] / np.sqrt(_PUBLISHED)
    return torch.from_numpy(mean), torch.from_numpy((directions[:_VARIATIONS] * usual).astype(np.float32))


@cache
def _base() -> tuple[Facts, Weights]:
    """A version that knows something of the task, but none of these patients."""
    facts, _ = federation.facts(_TASK)
    cases = federation.Cases(_thoraxes(np.random.default_rng(99), 96), np.arange(96) % 2 == 1)
    return facts, federation.first(facts, _BASE, cases, 0, 1)


def _thoraxes(draws: np.random.Generator, count: int) -> NDArray[np.float32]:
    """(N, 1, SIDE, SIDE), standardised; every other one is abnormal."""
    pictures = np.stack([draw(draws, _LOOK, number % 2 == 1) for number in range(count)])
    return standardised(torch.from_numpy(pictures[:, None].astype(np.float32))).numpy()


def _drawn(lesson: Lesson, order: TrainOrder, secret: bytes) -> NDArray[np.int64]:
    """The cases whose pictures are looked for: those of the only step, or of several steps all."""
    if order.hyper.steps > 1:
        return np.arange(_CASES)
    if isinstance(order.privacy, PatientLevel):
        return _drawn_privately(order.privacy, secret)
    *_, weights = checked(lesson.images, lesson.positive, lesson.weights)
    return next(batches(weights, order.hyper, torch.Generator().manual_seed(order.seed))).numpy()


def _drawn_privately(protection: PatientLevel, secret: bytes) -> NDArray[np.int64]:
    """Which patients a protected training has in its first step; nobody outside the hospital knows."""
    generator = torch.Generator().manual_seed(seed_of(secret, "draw", 7))
    return np.flatnonzero((torch.rand(_CASES, generator=generator) < protection.share).numpy())


def _secret(seed: int, order: TrainOrder) -> bytes:
    """A hospital's secret; for a protected step, one that draws as many as an unprotected step has."""
    secrets = (f"hospital {seed} {number}".encode() for number in itertools.count())
    protection, wanted = order.privacy, order.hyper.batch_size
    if not isinstance(protection, PatientLevel):
        return next(secrets)
    return next(secret for secret in secrets if len(_drawn_privately(protection, secret)) == wanted)


def _compared(pictures: NDArray[np.float32], chosen: NDArray[np.int64], lined_up: NDArray[np.float32]) -> Shown:
    mean = lined_up.mean(axis=0)
    likeness = _correlations(pictures - mean, lined_up - mean)
    rows, columns = linear_sum_assignment(-likeness[:, chosen])  # in which order they were found says nothing
    own = chosen[columns][np.argsort(rows)]
    others = np.setdiff1d(np.arange(len(lined_up)), chosen)
    return Shown(
        likeness[np.arange(len(pictures)), own],
        likeness[:, others].max(axis=1),
        likeness.argmax(axis=1) == own,
    )


def _correlations(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, M) between each of N pictures and each of M."""
    return np.corrcoef(left.reshape(len(left), -1), right.reshape(len(right), -1))[: len(left), len(left) :]


def protected(budget: float, hyper: Hyperparameters = SMALLEST) -> Protection:
    """What a plan of one round asks for, at delta 1e-3 and as many patients a step as without it; 0: nothing."""
    share = min(1.0, hyper.batch_size / _CASES)
    asked = {"mechanism": "dp_patient", "epsilon": budget, "delta": 1e-3, "share": share} if budget else {}
    return protection_of(asked, hyper.steps, 1)
