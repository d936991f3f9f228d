"""A control variate: what a hospital's gradients are on average, and how they are brought back to everybody's.

Source: Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020. There the new
variate is (received - trained) / (steps * rate), plus what the gradients were corrected by; with plain gradient descent
that is exactly the mean of the uncorrected gradients along the way, which is what is taken here, since it is as good
with any other optimiser.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.errors import InvalidTraining


class ControlVariate:
    """Corrects each gradient of one training and remembers what they were."""

    def __init__(self, correction: Mapping[str, NDArray[np.generic]] | None = None) -> None:
        """Prepare.

        Args:
            correction: to add to every gradient, by parameter: everybody's mean less this hospital's. None: nothing.
        """
        self._correction = {name: torch.tensor(np.asarray(value)) for name, value in (correction or {}).items()}
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    @torch.no_grad()
    def correct(self, network: nn.Module) -> None:
        """Note the gradients that the network holds, then correct them.

        Raises:
            InvalidTraining: the correction of a parameter has another shape.
        """
        self._steps += 1
        for name, value in network.named_parameters():
            if value.grad is None:
                continue
            self._sums[name] = self._sums[name] + value.grad if name in self._sums else value.grad.clone()
            if name in self._correction:
                if self._correction[name].shape != value.grad.shape:
                    raise InvalidTraining(f"the correction of {name} has another shape")
                value.grad.add_(self._correction[name])

    def mean(self, like: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.float32]]:
        """The mean gradient for each of these tensors; zeros for what was not trained."""
        return {
            name: np.ascontiguousarray((self._sums[name] / self._steps).numpy(), dtype=np.float32)
            if name in self._sums
            else np.zeros(value.shape, np.float32)
            for name, value in like.items()
        }
