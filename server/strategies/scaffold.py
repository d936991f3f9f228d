"""SCAFFOLD: hospitals correct their gradients by what everybody's are on average and theirs are not.

The coordinator keeps the control variate of every hospital and sends each one the difference to their mean. So a
hospital keeps nothing: whatever is lost there, or asked again, the training is the same.

Source: Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from server.strategies.fedavg import Averaging
from server.strategies.strategy import Contribution, Next, Weights


class Scaffold(Averaging):
    """The mean of the weights, of hospitals that were led in one direction.

    Attributes:
        server_rate: how much of the mean update is taken; 1 is all of it.
    """

    name: Literal["scaffold"] = "scaffold"
    controls: ClassVar[bool] = True
    late: ClassVar[bool] = False  # a control variate is of the round's weights
    server_rate: float = Field(default=1.0, gt=0, le=10)

    def correction(self, site: str, sites: Sequence[str], state: Weights) -> dict[str, NDArray[Any]] | None:
        """Everybody's mean less the hospital's own; one that has not answered yet counts with zeros."""
        if not state:
            return None
        names = sorted({key.partition("/")[2] for key in state})
        found: dict[str, NDArray[Any]] = {}
        for name in names:
            known = [state[f"{each}/{name}"] for each in sorted(sites) if f"{each}/{name}" in state]
            everybody = np.sum([value.astype(np.float64) for value in known], axis=0) / len(sites)
            own = state.get(f"{site}/{name}", np.zeros_like(known[0]))
            found[name] = (everybody - own).astype(known[0].dtype)
        return found

    def aggregate(self, received: Weights, contributions: Sequence[Contribution], state: Weights) -> Next:
        weights = self.mean(contributions)
        if self.server_rate != 1:
            weights = {
                name: (received[name] + self.server_rate * (value.astype(np.float64) - received[name])).astype(
                    value.dtype
                )
                for name, value in weights.items()
            }
        controls: dict[str, NDArray[Any]] = dict(state)
        for contribution in contributions:
            for name, value in (contribution.control or {}).items():
                controls[f"{contribution.site}/{name}"] = value
        return Next(weights, controls)
