"""How updates become one set of weights; one strategy per file."""

from typing import Annotated

from pydantic import Field

from server.strategies.fedadam import FedAdam
from server.strategies.fedavg import FedAvg
from server.strategies.fedbn import FedBN
from server.strategies.fedprox import FedProx
from server.strategies.krum import Krum
from server.strategies.median import Median
from server.strategies.partial import Partial
from server.strategies.qfair import QFair
from server.strategies.scaffold import Scaffold
from server.strategies.strategy import Contribution, Next, Staying, Strategy
from server.strategies.trimmed_mean import TrimmedMean

AnyStrategy = Annotated[
    FedAvg | FedProx | FedAdam | Scaffold | FedBN | TrimmedMean | Median | Krum | QFair | Partial,
    Field(discriminator="name"),
]
"""The strategies there are; which one, its name says."""

__all__ = ["AnyStrategy", "Contribution", "FedAvg", "Next", "Staying", "Strategy"]
