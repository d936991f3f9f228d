"""FedProx: federated averaging of hospitals that are held back from going far from what they received.

Source: Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020.
"""

from typing import Literal

from pydantic import Field

from models.hyperparameters import Hyperparameters
from server.strategies.fedavg import Averaging


class FedProx(Averaging):
    """The mean of the weights; each hospital minimises its loss plus mu / 2 times the squared distance.

    Attributes:
        mu: 0 is federated averaging.
    """

    name: Literal["fedprox"] = "fedprox"
    mu: float = Field(default=0.01, ge=0, le=100)

    def ordered(self, hyper: Hyperparameters) -> Hyperparameters:
        return hyper.model_copy(update={"proximal": self.mu})
