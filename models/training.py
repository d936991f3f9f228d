"""Training a network on the cases of one place, repeatable to the bit on the same machine.

The vendor's first training and a hospital's local round are the same function with other hyper-parameters. Cases are
drawn in proportion to their weights, so that errors come back more often while right cases are replayed.

Sources: Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020 (the proximal term); Yan et al.,
Positive-Congruent Training, CVPR 2021 (distillation from the served version where it was right).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor, nn
from torch.nn import functional

from models.augmentation import augment
from models.control import ControlVariate
from models.errors import InvalidTraining, TrainingDiverged
from models.hyperparameters import Hyperparameters

Images = NDArray[np.float32] | Tensor


def fit(
    network: nn.Module,
    images: Images,
    labels: NDArray[np.generic] | Tensor,
    weights: NDArray[np.generic] | Tensor,
    hyper: Hyperparameters,
    seed: int,
    threads: int = 1,
    on_progress: Callable[[int, int, float], None] | None = None,
    frozen: Sequence[str] = (),
    taught: NDArray[np.generic] | None = None,
    variate: ControlVariate | None = None,
) -> float:
    """Train a network in place.

    Args:
        network: gives logits (N, 1) for (N, 1, H, W).
        images: (N, 1, H, W) float32, preprocessed.
        labels: (N,) 0 normal, 1 abnormal.
        weights: (N,) how often to draw each case, relative to the others; 0 leaves it out.
        hyper: how to train.
        seed: of drawing, augmentation and mixing.
        threads: of torch, while this runs.
        on_progress: told (steps done, steps in all, running loss) after each step; may raise to stop.
        frozen: names of parameters that stay as they are.
        taught: (N,) scores to stay close to, 0..1, NaN where there is none; for `hyper.flip_penalty`.
        variate: corrects each gradient and remembers their mean.

    Returns:
        The mean loss over the last tenth of the steps.

    Raises:
        InvalidTraining: shapes do not fit, there is nothing to draw, or no step to take.
        TrainingDiverged: the loss or a weight is no longer finite; the network is spoilt.
    """
    if hyper.rehearses:
        raise InvalidTraining("steps is 0: there is nothing to learn in no step")
    pixels, targets, draw = checked(images, labels, weights)
    served = lessons(taught, len(pixels)) if hyper.flip_penalty else None
    generator = torch.Generator().manual_seed(seed)
    mixing = np.random.default_rng(seed)
    network.train()
    network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    for name, value in network.named_parameters():
        value.requires_grad_(name not in frozen)
    descent = optimizer(network, hyper)
    anchor = [value.detach().clone() for value in trained(network)] if hyper.proximal else []
    average = copy.deepcopy(network.state_dict()) if hyper.averaging else None
    losses: list[float] = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for step, chosen in enumerate(batches(draw, hyper, generator)):
            for group in descent.param_groups:
                group["lr"] = rate(step, hyper)
            with torch.no_grad():
                batch = augment(pixels[chosen], hyper.augmentation, generator)
                target = targets[chosen] * (1 - hyper.label_smoothing) + 0.5 * hyper.label_smoothing
                lesson = served[chosen] if served is not None else None
                if hyper.mixup:
                    share = float(mixing.beta(hyper.mixup, hyper.mixup))
                    batch = share * batch + (1 - share) * batch.flip(0)
                    target = share * target + (1 - share) * target.flip(0)
                    # of a mixture the served version said something only where it did so of both
                    lesson = share * lesson + (1 - share) * lesson.flip(0) if lesson is not None else None
            batch = batch.contiguous(memory_format=torch.channels_last)
            # torch 2.13 crashes in the gradient of group norm in this memory format where nothing before it has one
            logits = network(batch.requires_grad_() if frozen else batch)[:, 0]
            loss = functional.binary_cross_entropy_with_logits(logits, target)
            if lesson is not None:
                loss = loss + hyper.flip_penalty * departure(logits, lesson)
            descent.zero_grad(set_to_none=True)
            loss.backward()
            for value, start in zip(trained(network), anchor, strict=False):
                if value.grad is not None:  # the gradient of half the squared distance, times its weight
                    value.grad.add_(value.detach() - start, alpha=hyper.proximal)
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            if variate is not None:
                variate.correct(network)
            descent.step()
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]):
                raise TrainingDiverged(f"the loss is {losses[-1]} at step {step}")
            if average is not None:
                follow(average, network, min(hyper.averaging, (step + 1) / (step + 10)))
            if on_progress is not None:
                on_progress(step + 1, hyper.steps, float(np.mean(losses[-20:])))
    finally:
        torch.set_num_threads(before)
        network.requires_grad_(True)
    conclude(network, average)
    return float(np.mean(losses[-max(1, hyper.steps // 10) :]))


def conclude(network: nn.Module, average: Mapping[str, Tensor] | None) -> None:
    """Leave a trained network ready to score, with its averaged weights where they were kept.

    Raises:
        TrainingDiverged: a weight is not finite.
    """
    if average is not None:
        network.load_state_dict(dict(average))
    network.eval()
    # NumPy looks in one pass; torch.isfinite makes three copies
    if not all(bool(np.isfinite(value.detach().numpy()).all()) for value in network.state_dict().values()):
        raise TrainingDiverged("a weight is not finite")


@torch.inference_mode()
def scores(network: nn.Module, images: Images, batch_size: int = 64, threads: int = 1) -> NDArray[np.float32]:
    """Score cases; (N, 1, H, W) float32 gives (N,) float32 in 0..1, larger is more abnormal."""
    network.eval()
    pixels = torch.as_tensor(images, dtype=torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        parts = [torch.sigmoid(network(part)[:, 0]) for part in pixels.split(batch_size)] if len(pixels) else []
    finally:
        torch.set_num_threads(before)
    return torch.cat(parts).numpy() if parts else np.zeros(0, dtype=np.float32)


def get_weights(network: nn.Module) -> dict[str, NDArray[np.float32]]:
    """Copy the weights out, by name, in the network's order."""
    return {
        name: value.detach().to(torch.float32).clone(memory_format=torch.contiguous_format).numpy()
        for name, value in network.state_dict().items()
    }


def set_weights(network: nn.Module, weights: Mapping[str, NDArray[np.generic]]) -> None:
    """Put weights into a network.

    Raises:
        InvalidTraining: other names or shapes than the network's, or values that are not finite.
    """
    state = network.state_dict()
    if set(state) != set(weights):
        raise InvalidTraining("the weights' names are not this network's")
    for name, value in state.items():
        if tuple(weights[name].shape) != tuple(value.shape):
            raise InvalidTraining(f"{name} has shape {weights[name].shape}, not {tuple(value.shape)}")
        if not np.isfinite(weights[name]).all():
            raise InvalidTraining(f"{name} holds values that are not finite")
    # a copy each takes the place of what was there: to copy into that would be a second one
    own = {name: torch.from_numpy(np.array(weights[name], np.float32)).to(value.dtype) for name, value in state.items()}
    network.load_state_dict(own, assign=True)


def checked(
    images: Images, labels: NDArray[np.generic] | Tensor, weights: NDArray[np.generic] | Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Check that images (N, 1, H, W), labels (N,) and weights (N,) belong together."""
    pixels = torch.as_tensor(images, dtype=torch.float32)
    targets = torch.as_tensor(labels, dtype=torch.float32)
    draw = torch.as_tensor(weights, dtype=torch.float64)
    if pixels.ndim != 4 or pixels.shape[1] != 1 or targets.shape != (len(pixels),) or draw.shape != targets.shape:
        raise InvalidTraining(
            f"images {tuple(pixels.shape)}, labels {tuple(targets.shape)}, weights {tuple(draw.shape)}"
        )
    if not bool(torch.isfinite(draw).all()) or bool((draw < 0).any()) or float(draw.sum()) <= 0:
        raise InvalidTraining("weights must be finite, none negative, and not all zero")
    if not bool(((targets == 0) | (targets == 1)).all()):
        raise InvalidTraining("labels are 0 and 1")
    return pixels, targets, draw


def trained(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that are not frozen."""
    return [value for value in network.parameters() if value.requires_grad]


def lessons(taught: NDArray[np.generic] | None, count: int) -> Tensor | None:
    """Check (count,) scores to stay close to, 0..1, NaN where there is none."""
    if taught is None:
        return None
    scores = torch.as_tensor(taught, dtype=torch.float32)
    told = scores[~torch.isnan(scores)]
    if scores.shape != (count,) or bool(((told < 0) | (told > 1)).any()):
        raise InvalidTraining("scores to stay close to are one for each case, 0..1")
    return scores


def departure(logits: Tensor, lesson: Tensor) -> Tensor:
    """How far the answers are from the served version's where there is one: the mean over the whole batch of the
    divergence between the two, 0 where they agree.
    """
    there = ~torch.isnan(lesson)
    score = lesson[there].clamp(1e-6, 1 - 1e-6)
    least = functional.binary_cross_entropy(score, score, reduction="sum")
    return (functional.binary_cross_entropy_with_logits(logits[there], score, reduction="sum") - least) / len(lesson)


def optimizer(network: nn.Module, hyper: Hyperparameters) -> torch.optim.Optimizer:
    """Make AdamW; only matrices and kernels decay."""
    parameters = trained(network)
    groups = [
        {"params": [value for value in parameters if value.ndim > 1], "weight_decay": hyper.weight_decay},
        {"params": [value for value in parameters if value.ndim <= 1], "weight_decay": 0.0},
    ]
    # fused: one pass over all parameters, where one operation each would take as long as the first layer
    return torch.optim.AdamW(groups, lr=hyper.learning_rate, betas=(0.9, 0.99), fused=True)


def rate(step: int, hyper: Hyperparameters) -> float:
    """The learning rate of a step: rise linearly, then fall along a cosine."""
    rise = hyper.warmup * hyper.steps
    if step < rise:
        return hyper.learning_rate * (step + 1) / (rise + 1)
    share = (step - rise) / max(1.0, hyper.steps - rise)
    cosine = 0.5 * (1 + math.cos(math.pi * share))
    return hyper.learning_rate * (hyper.final_rate + (1 - hyper.final_rate) * cosine)


def batches(draw: Tensor, hyper: Hyperparameters, generator: Generator) -> Iterator[Tensor]:
    """Give the case numbers of each step.

    Systematic sampling, one pass of N draws at a time: each case comes as often as its weight says, to within one,
    where independent draws would leave out a third of the cases in a pass.
    """
    count = len(draw)
    queue = torch.zeros(0, dtype=torch.int64)
    for _ in range(hyper.steps):
        while len(queue) < hyper.batch_size:
            order = torch.randperm(count, generator=generator)
            edges = torch.cumsum(draw[order], 0) / draw.sum()
            points = (torch.arange(count) + torch.rand((), generator=generator)).double() / count
            taken = order[torch.searchsorted(edges, points).clamp_max(count - 1)]
            queue = torch.cat((queue, taken[torch.randperm(count, generator=generator)]))
        yield queue[: hyper.batch_size]
        queue = queue[hyper.batch_size :]


@torch.no_grad()
def follow(average: dict[str, Tensor], network: nn.Module, decay: float) -> None:
    """Move the running mean of the weights a little towards the weights."""
    for name, value in network.state_dict().items():
        average[name].lerp_(value, 1 - decay)
