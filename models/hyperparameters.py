"""How to train, in numbers that are bounded: an order cannot keep a hospital busy for ever. No torch here."""

import math
from typing import Self

from pydantic import BaseModel, ConfigDict, Field


class Hyperparameters(BaseModel):
    """How to train; the values for a first training and for a local round stand in configs/training.

    Attributes:
        steps: optimiser steps; 0: a rehearsal, in which all is done as in a round but nothing is learned.
        batch_size: cases in a step.
        learning_rate: peak of the schedule (AdamW).
        final_rate: the schedule's end, as a share of the peak.
        warmup: share of the steps in which the rate rises.
        weight_decay: of convolution and linear weights; norms and biases have none.
        augmentation: strength of augmentation, 0 none, 1 full.
        mixup: parameter of the Beta distribution that mixes pairs of cases, 0 none.
        label_smoothing: how far labels are drawn towards one half.
        averaging: decay of the running mean of the weights that is kept in the end, 0 keeps the last ones.
        error_weight: how much more often a case is drawn on which the served version erred; no patient is drawn more
            often than once in eleven, whatever these weights say (`client/federation/draws.py`).
        ai_visible_weight, report_weight, single_reader_weight, blind_consensus_weight, follow_up_weight,
            biopsy_weight: how much more often a case is drawn whose truth rests on that tier; 0 leaves it out.
        proximal: weight of the squared distance from the received weights (FedProx), 0 none.
        flip_penalty: weight of staying with the served version where that was right, 0 none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    steps: int = Field(default=500, ge=0, le=100_000)
    batch_size: int = Field(default=32, ge=2, le=4096)
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    final_rate: float = Field(default=0.01, ge=0, le=1)
    warmup: float = Field(default=0.1, ge=0, lt=1)
    weight_decay: float = Field(default=0.05, ge=0, le=10)
    augmentation: float = Field(default=0.5, ge=0, le=2)
    mixup: float = Field(default=0.0, ge=0, le=10)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    averaging: float = Field(default=0.99, ge=0, lt=1)
    error_weight: float = Field(default=2.0, ge=1, le=100)
    ai_visible_weight: float = Field(default=1.0, ge=0, le=100)
    report_weight: float = Field(default=1.0, ge=0, le=100)
    single_reader_weight: float = Field(default=1.0, ge=0, le=100)
    blind_consensus_weight: float = Field(default=1.0, ge=0, le=100)
    follow_up_weight: float = Field(default=1.0, ge=0, le=100)
    biopsy_weight: float = Field(default=1.0, ge=0, le=100)
    proximal: float = Field(default=0.0, ge=0, le=100)
    flip_penalty: float = Field(default=0.0, ge=0, le=100)

    @property
    def rehearses(self) -> bool:
        """Whether nothing is to be learned."""
        return self.steps == 0

    def tier_weight(self, tier: str) -> float:
        """How much more often a case is drawn whose truth rests on this tier, by the tier's word."""
        weights = {
            "ai_visible": self.ai_visible_weight,
            "report": self.report_weight,
            "single_reader": self.single_reader_weight,
            "blind_consensus": self.blind_consensus_weight,
            "follow_up": self.follow_up_weight,
            "biopsy": self.biopsy_weight,
        }
        return weights[tier]

    def at_round(self, number: int, rounds: int) -> Self:
        """Give the hyper-parameters of one round of a retraining: the peak rate falls along a cosine.

        Args:
            number: the round, from 1.
            rounds: how many there will be.
        """
        share = 0.5 * (1 + math.cos(math.pi * (number - 1) / max(rounds, 1)))
        return self.model_copy(update={"learning_rate": self.learning_rate * max(share, 0.05)})
