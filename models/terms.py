"""The terms of a retraining: what a coordinator asks a hospital to agree to, signed before anything else is sent.

A hospital agrees to these bytes and to nothing else: each later order is held against them. A name stands for one set
of terms for good.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from models import group
from models.bounds import Bounds
from models.change_plan import Layer
from models.compression import Encoding
from models.documents import Kind
from models.hyperparameters import Hyperparameters
from models.protection import PatientLevel, Protection, SecureAggregation, SiteLevel, Unprotected

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
LayerName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,127}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Identity = Annotated[str, StringConstraints(pattern=r"^0[23][0-9a-f]{96}$")]
Leaves = Literal["update", "masked-update", "evidence", "decision"]

MAX_BYTES = 64 * 1024


class Terms(BaseModel):
    """A retraining as a hospital agrees to it, or the delivery of a version (no rounds).

    Attributes:
        name: of the retraining.
        label: NAME@NUMBER of the base, for people.
        base: digest of the version to start from, or to deliver.
        hospitals: all that are asked.
        hyper: of the first round; `Hyperparameters.at_round` gives those of the others.
        layers: patterns of the tensors that may change.
        local: layers that are trained at each hospital and stay there, by name or the beginning of names.
        frozen: layers that are neither trained nor sent.
        encoding: how updates travel.
        controls: an update comes with the hospital's control variate, its mean gradient.
        norm: the largest L2 norm of what one round at one hospital may change.
        privacy: how the updates are protected, and what that costs.
        keys: under secure aggregation, who each of the hospitals is: its SuperNode's public key, in hexadecimal.
        leaves: the messages that leave a hospital.
        expires_at: seconds since the epoch; no order counts afterwards.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    purpose: Literal["vigie retraining terms 1"] = "vigie retraining terms 1"
    name: Name
    label: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}@[0-9]{1,9}$")]
    base: Digest
    hospitals: tuple[Name, ...] = Field(min_length=1, max_length=10_000)
    quorum: int = Field(ge=1)
    rounds: int = Field(ge=0, le=1000)
    strategy: Name
    hyper: Hyperparameters
    layers: tuple[Layer, ...] = Field(default=("*",), min_length=1, max_length=64)
    local: tuple[LayerName, ...] = Field(default=(), max_length=4096)
    frozen: tuple[LayerName, ...] = Field(default=(), max_length=4096)
    encoding: Encoding = "plain"
    controls: bool = False
    norm: float = Field(gt=0, le=1e9)
    privacy: Protection = Unprotected()
    keys: tuple[Identity, ...] = Field(default=(), max_length=group.MOST)
    leaves: tuple[Leaves, ...]
    deadline_seconds: float = Field(gt=0)
    created_at: float = Field(ge=0)
    expires_at: float = Field(ge=0)

    @model_validator(mode="after")
    def _whole(self) -> "Terms":
        if set(self.leaves) != set(leaving(self.rounds, self.privacy, self.rehearses)):
            raise ValueError("what is said to leave is not what such a retraining sends")
        if self.controls and not isinstance(self.privacy, Unprotected):
            raise ValueError("a control variate has no noise")
        if self.rehearses and isinstance(self.privacy, PatientLevel | SiteLevel):
            raise ValueError("there is nothing to protect, and nothing to pay for, where nothing is learned")
        if self.quorum > len(self.hospitals) or len(set(self.hospitals)) < len(self.hospitals):
            raise ValueError("quorum and hospitals do not fit each other")
        if isinstance(self.privacy, SecureAggregation):
            if len(self.hospitals) < group.FEWEST or self.encoding != "plain":
                raise ValueError("such updates cannot be summed")
            if len(self.keys) != len(self.hospitals) or len(set(self.keys)) < len(self.keys):
                raise ValueError("each hospital has a key of its own")
        elif self.keys:
            raise ValueError("keys that are for nothing")
        return self

    @property
    def bounds(self) -> Bounds:
        """What one round at one hospital may change."""
        return Bounds(self.norm, self.layers)

    @property
    def rehearses(self) -> bool:
        """Whether nothing is learned, and no version offered in the end."""
        return self.rounds > 0 and self.hyper.rehearses

    @property
    def identities(self) -> dict[str, bytes]:
        """The public key of each hospital, under secure aggregation."""
        return {site: bytes.fromhex(key) for site, key in zip(self.hospitals, self.keys, strict=False)}

    def to_bytes(self) -> bytes:
        """What is signed, and travels."""
        return self.model_dump_json().encode()


def leaving(rounds: int, privacy: Protection | None = None, rehearsal: bool = False) -> tuple[Leaves, ...]:
    """Which messages leave a hospital in a retraining of so many rounds; a rehearsal ends with them."""
    if not rounds:
        return ("evidence", "decision")
    update: Leaves = "masked-update" if isinstance(privacy, SecureAggregation) else "update"
    return (update,) if rehearsal else (update, "evidence", "decision")


_KIND = Kind(Terms, "vigie retraining terms", "the terms", MAX_BYTES)
read, digest, sign, verify = _KIND.read, _KIND.digest, _KIND.sign, _KIND.verify
