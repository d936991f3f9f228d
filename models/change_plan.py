"""What a retraining may change of a version, said beforehand by its vendor and signed with it: the change plan.

A version without one has the default plan: all layers, weights alone. Nothing of what a version says of itself may
change by a retraining except what follows from other weights: its number, its threshold, its parent, its retraining;
calibration and certificate are lost.

Source: FDA, Marketing Submission Recommendations for a Predetermined Change Control Plan for AI-Enabled Device
Software Functions (2024): modifications, how they are tested, and what they may affect.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from models.errors import ConfigurationError
from models.hyperparameters import Hyperparameters
from models.validation import told

Layer = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.*]{1,128}$")]
"""Names of tensors, `*` for any characters."""

FREE: frozenset[str] = frozenset({"number", "threshold", "calibration", "parent", "retraining", "certified"})
"""Fields of a version's facts that other weights bring with them."""


class ChangePlan(BaseModel):
    """What a retraining of this version may do.

    Attributes:
        layers: patterns of the tensors that may change.
        largest_learning_rate: peak of the schedule.
        most_rounds: of one retraining.
        most_steps: optimiser steps of one round at one hospital.
        tested: how a retrained version is tested before it may serve.
        margin: δ; a hospital's gate takes no larger one for a version retrained from this.
        statement: the same for people, and what the changes may affect.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    layers: tuple[Layer, ...] = Field(default=("*",), min_length=1, max_length=64)
    largest_learning_rate: float = Field(default=1.0, gt=0, le=1)
    most_rounds: int = Field(default=1000, ge=1, le=1000)
    most_steps: int = Field(default=100_000, ge=1, le=100_000)
    tested: tuple[Literal["self-test", "non-inferiority"], ...] = ("self-test", "non-inferiority")
    margin: float = Field(default=0.5, gt=0, le=0.5)
    statement: str = Field(default="", max_length=4000)

    def refuses(self, rounds: int, hyper: Hyperparameters, layers: Iterable[str]) -> list[str]:
        """Why a retraining lies outside the plan, one clear sentence each; none: it lies inside."""
        found: list[str] = []
        if rounds > self.most_rounds:
            found.append(f"{rounds} rounds, the version's change plan allows {self.most_rounds}")
        if hyper.steps > self.most_steps:
            found.append(f"{hyper.steps} steps a round, the version's change plan allows {self.most_steps}")
        if hyper.learning_rate > self.largest_learning_rate:
            found.append(
                f"a learning rate of {hyper.learning_rate:g}, the version's change plan allows "
                f"{self.largest_learning_rate:g}"
            )
        if "*" not in self.layers:
            # a pattern is inside the plan only where the plan has it word for word: whether one pattern implies
            # another is for nobody to guess
            found += [
                f"layers {layer!r}, the version's change plan allows {', '.join(self.layers)}"
                for layer in layers
                if layer not in self.layers
            ]
        return found


DEFAULT = ChangePlan()


def read(path: Path) -> ChangePlan:
    """A vendor's change plan from its JSON file.

    Raises:
        ConfigurationError: no such file, or not a change plan.
    """
    try:
        return ChangePlan.model_validate_json(path.read_text())
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ConfigurationError(f"{path}: {told(error)}") from error


def departures(base: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[str]:
    """Names of the facts, beyond those that other weights bring with them, that a candidate does not share with its
    base.

    Args:
        base, candidate: `Facts.model_dump()` of both.
    """
    names = sorted((base.keys() | candidate.keys()) - FREE)
    return [name for name in names if base.get(name) != candidate.get(name)]
