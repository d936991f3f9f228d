"""Differential privacy at the coordinator: how much noise a budget needs, which plans undo it, noise on a mean."""

import math
from collections.abc import Mapping
from typing import Any, cast, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.bundle import Facts
from models.errors import ConfigurationError
from models.hyperparameters import Hyperparameters
from models.privacy import epsilon, noise_for
from models.protection import PatientLevel, Protection, SecureAggregation, SiteLevel, Unprotected
from models.summand import Weighting
from server.strategies import AnyStrategy

_MEANS = ("fedavg", "fedprox", "fedbn", "partial")
"""Strategies whose next weights are nothing but the mean of the updates."""
_SUMS = (
    "privacy=secure_aggregation shows the coordinator a sum and no hospital's update: strategy is one of"
    f" {', '.join(_MEANS)}, fedadam"
)


class Wanted(BaseModel):
    """What a person asks for (configs/privacy): the same as `models.protection`, but noise or epsilon may follow.

    Attributes:
        noise: 0: the least that keeps the whole retraining within epsilon.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    mechanism: str = "none"
    epsilon: float = Field(default=8.0, gt=0, le=100)
    delta: float = Field(default=1e-5, gt=0, le=1e-2)
    clip: float = Field(default=1.0, gt=0)
    share: float = Field(default=0.1, gt=0, le=1)
    noise: float = Field(default=0.0, ge=0)


def protection_of(asked: Mapping[str, Any], steps: int, rounds: int, weighting: str = "") -> Protection:
    """The protection that a configuration asks for, with its noise or its epsilon worked out.

    Args:
        asked: of configs/privacy; empty: none.
        steps: of one round at one hospital.
        weighting: the strategy's, where it takes a mean.

    Raises:
        ConfigurationError: no such mechanism, a strategy that needs more than a sum, or an epsilon that no noise keeps
            to; or a mechanism that would be paid for learning nothing.
    """
    wanted = Wanted.model_validate(dict(asked))
    match wanted.mechanism:
        case "none":
            return Unprotected()
        case "dp_patient":
            share, count = wanted.share, steps * rounds
        case "dp_central":
            share, count = 1.0, rounds
        case "secure_aggregation":
            if weighting not in get_args(Weighting):
                raise ConfigurationError(_SUMS)
            return SecureAggregation(weighting=cast(Weighting, weighting)) if rounds else Unprotected()
        case other:
            raise ConfigurationError(f"privacy.mechanism {other!r}: none, dp_patient, dp_central or secure_aggregation")
    if rounds and not steps:
        raise ConfigurationError("hyper.steps=0 learns nothing that could be protected: privacy=none")
    if not rounds:
        return Unprotected()  # a delivery sends no update
    noise = wanted.noise or math.ceil(1e4 * noise_for(wanted.epsilon, wanted.delta, share, count)) / 1e4
    found = (
        PatientLevel(clip=wanted.clip, noise=noise, share=share, epsilon=wanted.epsilon, delta=wanted.delta)
        if wanted.mechanism == "dp_patient"
        else SiteLevel(noise=noise, epsilon=wanted.epsilon, delta=wanted.delta)
    )
    cost = round(epsilon([found.spends(steps, rounds)], wanted.delta), 3)
    if cost > 100:
        raise ConfigurationError(f"privacy.noise {noise:g} costs an epsilon of {cost:.0f}, which protects nobody")
    return found.model_copy(update={"epsilon": cost})


def require_fitting(protection: Protection, strategy: AnyStrategy, hyper: Hyperparameters) -> None:
    """Refuse a plan whose protection its strategy or its training would undo.

    Raises:
        ConfigurationError: with what to change.
    """
    if isinstance(protection, Unprotected):
        return
    if isinstance(protection, SecureAggregation):
        require_sum(strategy.name)
        if strategy.norm_bound:
            raise ConfigurationError(
                "strategy.norm_bound holds updates against each other, and privacy=secure_aggregation shows nobody two"
                " of them: hospitals keep to norm"
            )
        if getattr(strategy, "weighting", "") != protection.weighting:
            raise ConfigurationError("hospitals weigh their updates themselves, and by the strategy's rule")
        return
    if strategy.controls:
        raise ConfigurationError(f"{strategy.name} sends control variates, which have no noise: privacy=none")
    if strategy.name == "qfair":
        raise ConfigurationError("qfair weighs hospitals by their losses, which a protected update does not tell")
    if isinstance(protection, PatientLevel) and strategy.ordered(hyper).mixup:
        raise ConfigurationError("mixup mixes patients: hyper.mixup=0 with privacy=dp_patient")
    if isinstance(protection, SiteLevel):
        require_mean(protection.mechanism, strategy.name)
        if getattr(strategy, "weighting", "") != "site" or strategy.norm_bound:
            raise ConfigurationError(
                "privacy=dp_central adds noise to a mean in which every hospital counts once: strategy.weighting=site,"
                " without strategy.norm_bound"
            )


def require_sum(strategy: str) -> None:
    """Refuse secure aggregation of anything but a mean.

    Raises:
        ConfigurationError: with the strategies that need no more.
    """
    if strategy not in (*_MEANS, "fedadam"):
        raise ConfigurationError(f"{_SUMS}, not {strategy}")


def require_mean(mechanism: str, strategy: str) -> None:
    """Refuse noise of the coordinator's on anything but a mean.

    Raises:
        ConfigurationError: with the strategies that take one.
    """
    if mechanism == "dp_central" and strategy not in _MEANS:
        raise ConfigurationError(f"privacy=dp_central adds noise to a mean: one of {', '.join(_MEANS)}, not {strategy}")


def require_trainable(protection: Protection, base: Facts) -> None:
    """Refuse to protect patients of a network that mixes them.

    Raises:
        ConfigurationError: its batch norm learns.
    """
    if not isinstance(protection, PatientLevel):
        return
    from models.networks import build  # torch: only here does the coordinator look into a network
    from models.private_training import mixes_patients

    if mixes_patients(build(base.network, **base.network_facts)):
        raise ConfigurationError(
            f"{base.network} has batch norm that learns, which mixes patients: privacy=dp_patient needs a version with"
            " group norm"
        )


def noised(mean: Mapping[str, NDArray[Any]], protection: SiteLevel, norm: float, count: int) -> dict[str, NDArray[Any]]:
    """The mean of updates with the noise that hides any one of them.

    One update changes the sum by `norm` at most, which the border has checked, and so the mean by `norm / count`.

    Args:
        norm: the bound that each update was kept to.
        count: of updates in the mean.

    Source: Flower's central differential privacy with fixed clipping at the clients; McMahan et al., Learning
    Differentially Private Recurrent Language Models, ICLR 2018.
    """
    from flwr.supercore.differential_privacy import add_gaussian_noise_inplace, compute_stdv

    # Flower draws from numpy's own generator, which anybody in this process may have seeded
    np.random.seed(None)
    hidden = {name: np.array(array, dtype=np.float64) for name, array in mean.items() if array.dtype.kind == "f"}
    add_gaussian_noise_inplace(list(hidden.values()), compute_stdv(protection.noise, norm, count))
    return {name: hidden[name].astype(array.dtype) if name in hidden else array for name, array in mean.items()}
