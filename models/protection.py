"""How a retraining's updates are protected: what its terms say, and what that costs a hospital's patients.

    none         as they are, within the norm bound
    dp_patient   each hospital trains with noise of its own: nobody else, the coordinator either, sees an update that
                 depends on one patient by more than epsilon
    dp_central   each hospital clips, the coordinator adds noise to the mean: whoever sees the weights of a round, but
                 not the coordinator, learns of one hospital, and so of each of its patients, no more than epsilon
    secure_aggregation
                 each hospital hides its update from everybody, and the coordinator learns the sum alone; what the sum
                 says of a patient is not counted

Only declared here; the accounting loads what it needs when it is asked.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.privacy import MOST_NOISE, Mechanism, epsilon
from models.summand import Weighting

Noise = Annotated[float, Field(gt=0, le=MOST_NOISE)]
Epsilon = Annotated[float, Field(gt=0, le=100)]
Delta = Annotated[float, Field(gt=0, le=1e-2)]

SLACK = 0.01
"""Share by which what terms state may be under what is counted here: two releases of the accountant may differ."""


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Unprotected(_Declared):
    """Updates leave as they are, within the norm bound."""

    mechanism: Literal["none"] = "none"

    def spends(self, steps: int, rounds: int = 1) -> None:
        """Nothing is counted."""
        return None


class PatientLevel(_Declared):
    """Differential privacy per patient, by noise of the hospital's own.

    Attributes:
        clip: the largest norm of what all studies of one patient contribute to a step.
        noise: standard deviation of the noise, in units of `clip`.
        share: probability with which a patient is in a step.
        epsilon: of the whole retraining, at `delta`.
    """

    unit: ClassVar[Literal["patient"]] = "patient"

    mechanism: Literal["dp_patient"] = "dp_patient"
    clip: float = Field(gt=0, le=1e6)
    noise: Noise
    share: float = Field(gt=0, le=1)
    epsilon: Epsilon
    delta: Delta

    def spends(self, steps: int, rounds: int = 1) -> Mechanism:
        """What so many rounds of so many steps do, for the accountant."""
        return Mechanism(self.noise, self.share, steps * rounds)


class SiteLevel(_Declared):
    """Differential privacy per hospital, by noise of the coordinator's; the sensitivity is the terms' norm bound.

    Attributes:
        noise: standard deviation of the noise on the sum of the updates, in units of the norm bound.
        epsilon: of the whole retraining, at `delta`.
    """

    unit: ClassVar[Literal["site"]] = "site"

    mechanism: Literal["dp_central"] = "dp_central"
    noise: Noise
    epsilon: Epsilon
    delta: Delta

    def spends(self, steps: int, rounds: int = 1) -> Mechanism:
        """What so many rounds do: every hospital is in each, so nothing is gained by drawing."""
        return Mechanism(self.noise, 1.0, rounds)


class SecureAggregation(_Declared):
    """Updates leave masked, and only their sum is ever seen; see `models.masks` and `models.group`.

    Attributes:
        weighting: how much a hospital counts, by its number of cases.
    """

    mechanism: Literal["secure_aggregation"] = "secure_aggregation"
    weighting: Weighting

    def spends(self, steps: int, rounds: int = 1) -> None:
        """Nothing is counted."""
        return None


Protection = Annotated[Unprotected | PatientLevel | SiteLevel | SecureAggregation, Field(discriminator="mechanism")]


def understates(protection: Protection, steps: int, rounds: int) -> float | None:
    """What the whole retraining really costs at the stated delta, where that is more than the terms say; else None.

    Args:
        steps: of one round at one hospital.
    """
    if isinstance(protection, Unprotected | SecureAggregation):
        return None
    counted = epsilon([protection.spends(steps, rounds)], protection.delta)
    return counted if counted > protection.epsilon * (1 + SLACK) else None
