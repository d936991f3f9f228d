"""What an update tells of who was trained on, with and without protection: membership inference, gradient inversion.

Membership: canaries are made-up patients whose picture is noise and whose truth is wrong; half of them, drawn by
chance, are among a hospital's training patients. The attacker is the coordinator: it holds the received weights, the
update as it crossed the border, and every canary, and says for each whether it was trained on, by two signs: how much
its loss fell, and how far the update goes along its gradient. 0.5 is guessing. A small network on small pictures, which
learns a canary by heart more easily than a large one on radiographs.

Source: Carlini et al., The Secret Sharer, USENIX Security 2019 (canaries); Nasr et al., Adversary Instantiation: Lower
Bounds for Differentially Private Machine Learning, S&P 2021 (an attacker who sees the updates).

Inversion: which of fifty pictures was trained on, told by pictures that are worked out of the update
(`scripts/benchmarks/inversion.py`). 0.02 is guessing.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from client.federation.kept import Kept
from client.federation.trainer import Lesson, learn
from configs.schema import RetrainingConfig, compose
from models.bundle import Facts
from models.exchange import TrainOrder, Update
from models.hyperparameters import Hyperparameters
from models.networks import build
from models.protection import Protection
from models.stats.intervals import Bools, auc
from models.training import set_weights
from scripts.benchmarks import federation, inversion
from scripts.benchmarks.accuracy import show
from scripts.benchmarks.federation import Cases, Weights
from scripts.benchmarks.report import Report, at_least, at_most
from server.privacy import protection_of

SIDE = 24
HYPER = Hyperparameters(
    steps=40, batch_size=24, learning_rate=1e-2, augmentation=0.0, averaging=0.0, label_smoothing=0.0, weight_decay=0.0
)
_SHARE = 0.3
_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class Told:
    """What the attacker makes of one update.

    Attributes:
        loss, gradient: (canaries,) the two signs; larger is more likely a member.
        member: (canaries,) the truth.
        utility: area under the curve of the update's weights on other patients.
    """

    loss: NDArray[np.float64]
    gradient: NDArray[np.float64]
    member: Bools
    utility: float


def run(arguments: Sequence[str]) -> Report:
    """Attack updates without protection, and with."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench privacy", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(6)))
    parser.add_argument("--patients", type=int, default=64, help="beside the canaries")
    parser.add_argument("--canaries", type=int, default=24)
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for budget in (0.0, 8.0, 2.0):
        found = [attacked(budget, seed, options.patients, options.canaries) for seed in options.seeds]
        rows.append({"privacy": f"epsilon {budget:g}" if budget else "none", **figures(found)})
    show(rows)
    pictures = _inverted(options.seeds)
    show(pictures)
    none, eight, two = (max(row["loss"], row["gradient"]) for row in rows)
    found = {str(row["update"]): float(row["identified"]) for row in pictures}
    return Report(
        {"privacy": rows, "inversion": pictures},
        [
            at_least("no protection: AUC of the better attack", none, 0.8),
            at_most("epsilon 8: what is left of its advantage over guessing", (eight - 0.5) / (none - 0.5), 0.5),
            at_most("epsilon 2: what is left of its advantage over guessing", (two - 0.5) / (none - 0.5), 0.25),
            at_least("one step on two cases: pictures identified", found["one step on 2 of 16 cases"], 0.5),
            at_most("the same at epsilon 8", found["the same, epsilon 8"], 0.1),
            at_most("a round as configured: pictures identified", found["as configured"], 0.1),
        ],
    )


def _inverted(seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Look for pictures in updates, from the one that tells most to the one that is usual."""
    smallest = inversion.SMALLEST
    plan = compose("retraining", RetrainingConfig, ["name=bench", "base=bench@1"])
    kinds: dict[str, dict[str, Any]] = {
        "one step on 2 of 16 cases": {},
        "the same, cut to a hundredth of its length": {"norm": 0.01},
        "the same, eight-bit": {"reply": "eight-bit"},
        "the same, epsilon 8": {"protection": inversion.protected(8.0)},
        "the same, epsilon 2": {"protection": inversion.protected(2.0)},
        "one step on 4": {"hyper": smallest.model_copy(update={"batch_size": 4})},
        "one step on 8": {"hyper": smallest.model_copy(update={"batch_size": 8})},
        "one step on 16": {"hyper": smallest.model_copy(update={"batch_size": 16})},
        "as configured": {"hyper": Hyperparameters.model_validate(plan.hyper)},
    }
    return [
        {"update": name, **inversion.figures([inversion.attacked(seed, **kind) for seed in seeds])}
        for name, kind in kinds.items()
    ]


def figures(found: Sequence[Told]) -> Mapping[str, float]:
    """The areas under the attacks' curves over all canaries, and the mean utility."""
    member = np.concatenate([one.member for one in found])
    return {
        "loss": auc(np.concatenate([one.loss for one in found]), member).value,
        "gradient": auc(np.concatenate([one.gradient for one in found]), member).value,
        "utility": float(np.mean([one.utility for one in found])),
    }


def attacked(budget: float, seed: int, patients: int = 64, canaries: int = 24) -> Told:
    """Train one round at one hospital, and attack its update.

    Args:
        budget: epsilon of the round at delta 1e-3; 0: no protection.
    """
    facts, base = _base()
    draw = np.random.default_rng(seed)
    ordinary, secret = _pictures(draw, patients), _canaries(draw, canaries)
    member = draw.permutation(canaries) < canaries // 2
    images = np.concatenate([ordinary.images, secret.images[member]])
    positive = np.concatenate([ordinary.positive, secret.positive[member]])
    lesson = Lesson(
        images,
        positive,
        np.zeros(len(images), bool),
        np.ones(len(images)),
        np.full(len(images), np.nan),
        tuple(f"p{number}" for number in range(len(images))),
    )
    order = _order(base, seed, _protection(budget))
    # as it crosses: kept to the bound, packed, read back
    update, _ = learn(facts, base, lesson, order, Kept(), secret=f"hospital {seed}".encode())
    after = dict(Update.from_record(update.to_record()).weights)
    return Told(
        _losses(facts, base, secret) - _losses(facts, after, secret),
        _along(facts, base, after, secret),
        member,
        federation.performance(facts, after, _pictures(np.random.default_rng(10_000 + seed), 200)),
    )


@cache
def _base() -> tuple[Facts, Weights]:
    """A version that knows something of the task, but none of these patients."""
    facts, _ = federation.facts(["network.channels=[8,8,16,16]", "network.groups=4", "network.stride=2"])
    return facts, federation.first(facts, HYPER, _pictures(np.random.default_rng(99), 96), 0, 1)


@cache
def _protection(budget: float) -> Protection:
    asked = {"mechanism": "dp_patient", "epsilon": budget, "delta": 1e-3, "share": _SHARE} if budget else {}
    return protection_of(asked, HYPER.steps, 1)


def _order(base: Weights, seed: int, protection: Protection) -> TrainOrder:
    return TrainOrder(
        retraining="bench", round=1, base=_DIGEST, seed=seed, hyper=HYPER, privacy=protection, weights=base
    )


def _pictures(draw: np.random.Generator, count: int) -> Cases:
    """Noise, with a bright square in the middle of the abnormal ones."""
    positive = np.arange(count) % 2 == 1
    images = draw.normal(0, 1, (count, 1, SIDE, SIDE)).astype(np.float32)
    images[positive, :, 9:15, 9:15] += 1.0
    return Cases(images, positive)


def _canaries(draw: np.random.Generator, count: int) -> Cases:
    images = draw.normal(0, 1, (count, 1, SIDE, SIDE)).astype(np.float32)
    return Cases(images, np.ones(count, bool))  # nothing is to be seen on them


def _losses(facts: Facts, weights: Weights, cases: Cases) -> NDArray[np.float64]:
    said = federation.read_with(facts, weights, cases.images)
    return -np.log(np.where(cases.positive, said, 1 - said).clip(1e-12, 1))


def _along(facts: Facts, before: Weights, after: Weights, cases: Cases) -> NDArray[np.float64]:
    """How far the update goes down each canary's gradient, as a cosine."""
    network = build(facts.network, **facts.network_facts)
    set_weights(network, before)
    network.eval()
    named = dict(network.named_parameters())
    step = torch.cat([torch.from_numpy(after[name] - before[name]).ravel() for name in named])
    found: list[float] = []
    for image, positive in zip(cases.images, cases.positive, strict=True):
        logit = network(torch.from_numpy(image[None]))[:, 0]
        loss = functional.binary_cross_entropy_with_logits(logit, torch.tensor([float(positive)]))
        gradient = torch.cat([part.ravel() for part in torch.autograd.grad(loss, list(named.values()))])
        found.append(-float(functional.cosine_similarity(step, gradient, dim=0)))
    return np.array(found)
