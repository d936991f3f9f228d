"""How updates become one set of weights; one strategy per file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from models.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Contribution:
    """One hospital's update: its weights by name, and on how many cases they rest."""

    site: str
    weights: Mapping[str, NDArray[Any]]
    cases: int


Aggregate = Callable[[Sequence[Contribution]], dict[str, NDArray[Any]]]


def strategy(name: str) -> Aggregate:
    """The strategy a plan names.

    Raises:
        ConfigurationError: there is none of this name.
    """
    from server.strategies import fedavg

    known: dict[str, Aggregate] = {
        "fedavg": fedavg.by_cases,
        "fedavg-equal": fedavg.by_site,
        "fedavg-root": fedavg.by_root,
    }
    if name not in known:
        raise ConfigurationError(f"strategy {name!r} is unknown; there are {', '.join(known)}")
    return known[name]
