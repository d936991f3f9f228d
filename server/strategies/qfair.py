"""q-fair weighting: a hospital counts the more, the worse the received weights are there.

The direction is that of the gradient of q-FFL's objective, the sum of share / (q + 1) * loss ** (q + 1); the length is
a mean's, where q-FedAvg estimates one from a Lipschitz constant that hospitals with an adaptive optimiser do not have.

Source: Li et al., Fair Resource Allocation in Federated Learning, ICLR 2020.
"""

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from server.strategies.fedavg import Averaging, mean
from server.strategies.strategy import Contribution, Next, Weights

LEAST, MOST = 0.05, 2.0
"""Losses are taken within these bounds, so that no hospital decides alone by what it says of itself."""


class QFair(Averaging):
    """The mean of the weights, each share times the loss to the power of q.

    Attributes:
        q: 0 is federated averaging; the larger, the more alike hospitals' losses become.
    """

    name: Literal["qfair"] = "qfair"
    late: ClassVar[bool] = False  # its share rests on the loss of the weights that this round has sent
    q: float = Field(default=1.0, ge=0, le=10)

    def aggregate(self, received: Weights, contributions: Sequence[Contribution], state: Weights) -> Next:
        losses = [
            1.0 if contribution.loss is None else min(max(contribution.loss, LEAST), MOST)
            for contribution in contributions
        ]
        shares = [
            self.share(contribution) * loss**self.q for contribution, loss in zip(contributions, losses, strict=True)
        ]
        return Next(mean(contributions, shares))
