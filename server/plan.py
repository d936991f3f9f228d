"""What a run of the coordinator is to do: deliver a version as it is, or retrain it first."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.bounds import EVERY_LAYER, USUAL_NORM
from models.change_plan import Layer
from models.compression import Encoding
from models.durable import replacing
from models.errors import ConfigurationError, Conflict, NotFound, VigieError
from models.exchange import Name
from models.group import FEWEST, MOST
from models.hyperparameters import Hyperparameters
from models.protection import Protection, SecureAggregation, Unprotected
from models.validation import told
from server.privacy import require_fitting
from server.strategies import AnyStrategy, FedAvg

PLAN = "plan.json"


class QuorumMissed(VigieError):
    """Too few hospitals answered; the retraining can be resumed."""

    code = "quorum-missed"


class Compression(BaseModel):
    """How weights travel; `models.compression` says what there is.

    Attributes:
        updates: from the hospitals.
        orders: to the hospitals.
        stochastic: hospitals round by chance, right on average, instead of to the nearest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    updates: Encoding = "plain"
    orders: Encoding = "plain"
    stochastic: bool = False


class Plan(BaseModel):
    """A retraining, or the delivery of a version; written before it starts, never changed afterwards.

    Attributes:
        base: NAME@NUMBER to deliver, or to start from.
        sites: the hospitals asked.
        quorum: how many of them have to answer for a round, or a release, to count.
        quorum_cases: on how many cases, all together, a round has to rest.
        quorum_sites: hospitals that have to be among those that answer.
        late: an update that missed its round is part of the next one, where the strategy allows it.
        rounds: 0 delivers the base as it is.
        seed: with the retraining's name, round and site it fixes every random draw.
        deadline_seconds: how long to wait for a hospital's answer.
        connect_seconds: how long to wait, at the start, for hospitals to be connected.
        consent_seconds: how long to wait for hospitals to agree; it goes on with a quorum.
        valid_days: how long their agreement counts.
        norm: the largest L2 norm of what one round at one hospital may change.
        layers: patterns of the tensors that may change.
        privacy: how updates are protected; `server.privacy.protection_of` works out its noise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Name
    base: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}@[0-9]+$")]
    sites: tuple[Name, ...] = Field(min_length=1)
    quorum: int = Field(ge=1)
    quorum_cases: int = Field(default=0, ge=0)
    quorum_sites: tuple[Name, ...] = ()
    late: bool = True
    rounds: int = Field(default=0, ge=0, le=1000)
    strategy: AnyStrategy = FedAvg()
    compression: Compression = Compression()
    privacy: Protection = Unprotected()
    hyper: Hyperparameters = Hyperparameters()
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    deadline_seconds: float = Field(default=600.0, gt=0)
    connect_seconds: float = Field(default=60.0, ge=0)
    consent_seconds: float = Field(default=3600.0, ge=0)
    valid_days: float = Field(default=30.0, gt=0, le=3660)
    norm: float = Field(default=USUAL_NORM, gt=0, le=1e9)
    layers: tuple[Layer, ...] = Field(default=EVERY_LAYER, min_length=1, max_length=64)

    def model_post_init(self, _context: object) -> None:
        if self.quorum > len(self.sites):
            raise ConfigurationError(f"a quorum of {self.quorum} cannot come from {len(self.sites)} sites")
        if strangers := sorted(set(self.quorum_sites) - set(self.sites)):
            raise ConfigurationError(f"quorum_sites names {strangers[0]!r}, who is not among the sites")
        if len(set(self.sites)) < len(self.sites):
            raise ConfigurationError("a site is named twice")
        if self.compression.orders != "plain" and self.compression.updates == "plain":
            raise ConfigurationError("compression.orders needs compression.updates: differences answer differences")
        if self.rounds:
            self.strategy.require(self.quorum)
        require_fitting(self.privacy, self.strategy, self.hyper)
        if isinstance(self.privacy, SecureAggregation):
            self._require_sum()

    def _require_sum(self) -> None:
        if not FEWEST <= len(self.sites) <= MOST:
            raise ConfigurationError(
                f"privacy=secure_aggregation sums the updates of {FEWEST} to {MOST} hospitals, not of {len(self.sites)}"
            )
        if self.compression.updates != "plain":
            raise ConfigurationError("privacy=secure_aggregation sums whole numbers: compression=none")

    @property
    def rehearses(self) -> bool:
        """Whether all is done as in a retraining, but nothing is learned and no version made."""
        return self.rounds > 0 and self.hyper.rehearses

    def lacks(self, cases: Mapping[str, int]) -> str:
        """What these hospitals lack of a round's quorum, in words; empty where it is met.

        Args:
            cases: by hospital that answered, on how many its update rests.
        """
        if len(cases) < self.quorum:
            return f"{len(cases)} of {len(self.sites)} hospitals answered, {self.quorum} are needed"
        if missing := [site for site in self.quorum_sites if site not in cases]:
            return f"{', '.join(missing)} did not answer, and has to"
        if sum(cases.values()) < self.quorum_cases:
            return f"the answers rest on {sum(cases.values())} cases, {self.quorum_cases} are needed"
        return ""

    def draw(self, round_: int, site: str) -> int:
        """The seed of one hospital's training in one round."""
        content = json.dumps([self.seed, self.name, round_, site]).encode()
        return int.from_bytes(hashlib.sha256(content).digest()[:4], "big")


def save(plan: Plan, coordinator: Path) -> Path:
    """Write a plan in its own folder and return that.

    Raises:
        Conflict: another plan of this name is there; the very same one is fine (a resumed retraining).
    """
    folder = coordinator / "retrainings" / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / PLAN, plan.model_dump_json(indent=2)
    if path.exists() and _read(path) != plan:
        raise Conflict(f"there is another retraining called {plan.name!r}: choose another name, or resume it")
    if path.exists():
        return folder  # written once: its time says when the retraining was begun, and going on does not begin it
    # a plan that is half there would stop the retraining from being resumed
    with replacing(path) as file:
        file.write(text.encode())
    return folder


def load(coordinator: Path, name: str) -> Plan:
    """Read the plan called `name`.

    Raises:
        NotFound: there is none.
        ConfigurationError: it is damaged.
    """
    if Path(name).name != name:
        raise NotFound(f"{name!r} is no name of a retraining")
    path = coordinator / "retrainings" / name / PLAN
    if not path.exists():
        raise NotFound(f"there is no retraining called {name!r}")
    return _read(path)


def _read(path: Path) -> Plan:
    try:
        return Plan.model_validate_json(path.read_text())
    except ValidationError as error:
        raise ConfigurationError(f"{path}: {told(error)}") from error
