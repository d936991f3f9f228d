"""Training that tells next to nothing of any one patient: DP-SGD with a patient, not an image, as the unit.

Source: Abadi et al., Deep Learning with Differential Privacy, CCS 2016; what all studies of one patient contribute is
clipped together, because a patient with ten radiographs would else weigh ten times what the budget says.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.augmentation import augment
from models.errors import InvalidTraining
from models.hyperparameters import Hyperparameters
from models.protection import PatientLevel
from models.stats.disclosure import coarse
from models.training import Images, checked, conclude, departure, follow, lessons, optimizer, rate, trained


def mixes_patients(network: nn.Module) -> bool:
    """Whether what comes out for one patient depends on who else is in the batch: batch norm that learns.

    Group norm looks at one image; batch norm whose statistics stay as they came (models/networks/densenet.py), too.
    """
    network.train()
    found = any(
        isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d))
        and (module.training or not module.track_running_stats)
        for module in network.modules()
    )
    network.eval()
    return found


def fit_privately(
    network: nn.Module,
    images: Images,
    labels: NDArray[np.generic] | Tensor,
    weights: NDArray[np.generic] | Tensor,
    patients: Sequence[str],
    hyper: Hyperparameters,
    protection: PatientLevel,
    *,
    secret: bytes,
    threads: int = 1,
    frozen: Sequence[str] = (),
    taught: NDArray[np.generic] | None = None,
) -> None:
    """Train a network in place; what comes out is differentially private as `protection.spends(hyper.steps)` says.

    Each step draws every patient with the same probability, so that `hyper.batch_size` counts for nothing: by weights,
    the errors of one patient would be drawn more often than the budget says, so here weights scale a case's loss
    instead, before it is clipped. Cases are not mixed with each other, which would mix patients. The proximal term and
    the running mean of the weights look at no patient, and come after the noise. How many patients there are is
    protected only to a power of two, which scales the steps.

    Args:
        network: gives logits (N, 1) for (N, 1, H, W); without batch norm that learns, which mixes patients.
        images: (N, 1, H, W) float32, preprocessed.
        labels: (N,) 0 normal, 1 abnormal.
        weights: (N,) what each case's loss is multiplied with.
        patients: (N,) whose case each is.
        hyper: how to train; no mixup.
        secret: of this hospital, this very order and these very cases; whoever knew it could take the noise off again,
            and so could whoever saw two trainings from other cases with the noise of one secret.
        threads: of torch, while this runs.
        frozen: names of parameters that stay as they are.
        taught: (N,) scores to stay close to, 0..1, NaN where there is none; for `hyper.flip_penalty`.

    Raises:
        InvalidTraining: shapes do not fit, or a network or hyper-parameters that cannot be trained so.
        TrainingDiverged: a weight is no longer finite.
    """
    pixels, targets, importance = checked(images, labels, weights)
    served = lessons(taught, len(pixels)) if hyper.flip_penalty else None
    if len(patients) != len(pixels):
        raise InvalidTraining(f"{len(patients)} patients for {len(pixels)} images")
    if hyper.mixup:
        raise InvalidTraining("mixup mixes patients: set it to 0 to train privately")
    if mixes_patients(network):
        raise InvalidTraining("batch norm mixes patients: private training needs group norm")
    if not secret:
        raise InvalidTraining("noise without a secret is no noise")
    for name, value in network.named_parameters():
        value.requires_grad_(name not in frozen)
    cases = _by_patient(patients)
    expected = protection.share * coarse(len(cases))
    generator = torch.Generator().manual_seed(seed_of(secret, "draw", 7))
    randomness = np.random.Generator(np.random.Philox(key=seed_of(secret, "noise", 16)))

    def loss_of(chosen: Tensor) -> Tensor:
        batch = augment(pixels[chosen], hyper.augmentation, generator)
        target = targets[chosen] * (1 - hyper.label_smoothing) + 0.5 * hyper.label_smoothing
        logits = network(batch)[:, 0]
        loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        whole = (loss * importance[chosen].to(loss.dtype)).sum()
        if served is None:
            return whole
        return whole + hyper.flip_penalty * len(chosen) * departure(logits, served[chosen])

    network.train()
    descent, learned = optimizer(network, hyper), trained(network)
    anchor = [value.detach().clone() for value in learned]
    average = copy.deepcopy(network.state_dict()) if hyper.averaging else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for step in range(hyper.steps):
            for group in descent.param_groups:
                group["lr"] = rate(step, hyper)
            drawn = torch.nonzero(torch.rand(len(cases), generator=generator) < protection.share)[:, 0].tolist()
            sums = _clipped(network, loss_of, [cases[number] for number in drawn], protection.clip)
            for value, total, start in zip(learned, sums, anchor, strict=True):
                normal = randomness.standard_normal(tuple(value.shape), dtype=np.float64)
                noised = total.double() + torch.from_numpy(normal * (protection.noise * protection.clip))
                value.grad = (noised / expected).to(total.dtype)
                if hyper.proximal:
                    value.grad.add_(value.detach() - start, alpha=hyper.proximal)
            descent.step()
            if average is not None:
                follow(average, network, min(hyper.averaging, (step + 1) / (step + 10)))
    finally:
        torch.set_num_threads(before)
        network.requires_grad_(True)
    conclude(network, average)


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
    learned = trained(network)
    sums = [torch.zeros_like(value) for value in learned]
    for one in cases:
        gradients = torch.autograd.grad(loss_of(one), learned)
        norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients))
        if not math.isfinite(norm):
            continue  # a refusal would say that such a patient is here
        scale = min(1.0, clip / (norm * (1 + 1e-6) + 1e-12))  # rounding never gives more than clip
        for total, gradient in zip(sums, gradients, strict=True):
            total.add_(gradient, alpha=scale)
    return sums


def _by_patient(patients: Sequence[str]) -> list[Tensor]:
    """The cases of each patient, by number."""
    owner = np.unique(np.asarray(patients, dtype=str), return_inverse=True)[1]
    return [torch.from_numpy(np.flatnonzero(owner == number)) for number in range(int(owner.max()) + 1)]


def seed_of(secret: bytes, purpose: str, size: int) -> int:
    """What one kind of chance in a training is drawn from: a number of so many bytes, other for another purpose."""
    return int.from_bytes(hashlib.sha256(purpose.encode() + b"\x00" + secret).digest()[:size], "big")
