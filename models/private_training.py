"""Training that tells next to nothing of any one patient: DP-SGD with a patient, not an image, as the unit.

Source: Abadi et al., Deep Learning with Differential Privacy, CCS 2016; what all studies of one patient contribute is
clipped together, because a patient with ten radiographs would else weigh ten times what the budget says.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.augmentation import augment
from models.errors import InvalidTraining, TrainingDiverged
from models.hyperparameters import Hyperparameters
from models.privacy import Mechanism
from models.training import Images, checked, optimizer, rate


def mechanism_of(hyper: Hyperparameters, patients: int, noise: float) -> Mechanism:
    """What `fit_privately` does, for the accountant: known before it begins.

    Args:
        patients: whom the training may draw.
    """
    return Mechanism(noise, min(1.0, hyper.batch_size / patients), hyper.steps)


def fit_privately(
    network: nn.Module,
    images: Images,
    labels: NDArray[np.generic] | Tensor,
    weights: NDArray[np.generic] | Tensor,
    patients: Sequence[str],
    hyper: Hyperparameters,
    *,
    noise: float,
    clip: float,
    secret: bytes,
    threads: int = 1,
) -> None:
    """Train a network in place; what comes out is differentially private as `mechanism_of` says.

    Each step draws every patient with the same probability, `batch_size` of them on average: by weights, the errors of
    one patient would be drawn more often than the budget says, so here weights scale a case's loss instead, before it
    is clipped. Cases are not mixed with each other, which would mix patients. How many patients there are is not
    protected.

    Args:
        network: gives logits (N, 1) for (N, 1, H, W); without batch norm, which mixes patients.
        images: (N, 1, H, W) float32, preprocessed.
        labels: (N,) 0 normal, 1 abnormal.
        weights: (N,) what each case's loss is multiplied with.
        patients: (N,) whose case each is.
        hyper: how to train; no mixup.
        noise: standard deviation of the noise, in units of `clip`.
        clip: the largest norm of one patient's gradient, summed over their cases.
        secret: of this hospital and this very order; whoever knew it could take the noise off again.
        threads: of torch, while this runs.

    Raises:
        InvalidTraining: shapes do not fit, or a network or hyper-parameters that cannot be trained so.
        TrainingDiverged: a weight is no longer finite.
    """
    pixels, targets, importance = checked(images, labels, weights)
    if len(patients) != len(pixels):
        raise InvalidTraining(f"{len(patients)} patients for {len(pixels)} images")
    if hyper.mixup:
        raise InvalidTraining("mixup mixes patients: set it to 0 to train privately")
    if any(isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) for module in network.modules()):
        raise InvalidTraining("batch norm mixes patients: this network cannot be trained privately")
    if not noise > 0 or not clip > 0 or not math.isfinite(noise * clip):
        raise InvalidTraining("noise and clip are positive")
    cases = _by_patient(patients)
    mechanism = mechanism_of(hyper, len(cases), noise)
    expected = mechanism.share * len(cases)
    generator = torch.Generator().manual_seed(_seed(secret, "draw"))
    randomness = np.random.Generator(np.random.Philox(key=_seed(secret, "noise")))

    def loss_of(chosen: Tensor) -> Tensor:
        batch = augment(pixels[chosen], hyper.augmentation, generator)
        target = targets[chosen] * (1 - hyper.label_smoothing) + 0.5 * hyper.label_smoothing
        loss = functional.binary_cross_entropy_with_logits(network(batch)[:, 0], target, reduction="none")
        return (loss * importance[chosen].to(loss.dtype)).sum()

    network.train()
    descent = optimizer(network, hyper)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for step in range(hyper.steps):
            for group in descent.param_groups:
                group["lr"] = rate(step, hyper)
            drawn = torch.nonzero(torch.rand(len(cases), generator=generator) < mechanism.share)[:, 0].tolist()
            sums = _clipped(network, loss_of, [cases[number] for number in drawn], clip)
            trained = [value for value in network.parameters() if value.requires_grad]
            for value, total in zip(trained, sums, strict=True):
                normal = randomness.standard_normal(tuple(value.shape), dtype=np.float64) * (noise * clip)
                value.grad = (total + torch.from_numpy(normal).to(total.dtype)) / expected
            descent.step()
    finally:
        torch.set_num_threads(before)
    network.eval()
    if not all(bool(torch.isfinite(value).all()) for value in network.state_dict().values()):
        raise TrainingDiverged("a weight is not finite")


def _clipped(
    network: nn.Module,
    loss_of: Callable[[Tensor], Tensor],
    cases: Sequence[Tensor],
    clip: float,
) -> list[Tensor]:
    """The sum over patients of their gradients, each no longer than `clip`.

    One patient at a time: their few images are a small batch of their own, which takes a fraction of the memory of
    every image's gradient at once, and works for any network.

    Args:
        loss_of: the loss of these cases, summed.
        cases: of each patient drawn, their numbers.
    """
    trained = [value for value in network.parameters() if value.requires_grad]
    sums = [torch.zeros_like(value) for value in trained]
    for one in cases:
        gradients = torch.autograd.grad(loss_of(one), trained)
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
        if not math.isfinite(norm):
            raise TrainingDiverged("a patient's gradient is not finite")
        scale = min(1.0, clip / (norm * (1 + 1e-6) + 1e-12))  # rounding never gives more than clip
        for total, gradient in zip(sums, gradients, strict=True):
            total.add_(gradient, alpha=scale)
    return sums


def _by_patient(patients: Sequence[str]) -> list[Tensor]:
    """The cases of each patient, by number."""
    owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)[1]
    return [torch.from_numpy(np.flatnonzero(owner == number)) for number in range(int(owner.max()) + 1)]


def _seed(secret: bytes, purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode() + b"\x00" + secret).digest()[:8], "big") >> 1
