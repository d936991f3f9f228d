"""The messages of a round whose updates are only summed: three orders, and an answer to each.

    group-train ─► sealed    train; then a key for the round, and parts of the hospital's secrets for each other one
    mask        ─► masked    the keys and parts of those who trained; the update under masks
    unmask      ─► unmasked  who is in the sum and who is not; the parts that take the masks off the sum

No field can hold an update that is not masked. `models.group` says what keys and signatures are worth.
"""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from models import group
from models.errors import BorderRefused
from models.exchange.message import Message, require
from models.exchange.orders import TrainOrder
from models.exchange.weights import Pack, vector
from models.exchange.words import MAX_WEIGHTS, Count, Digest, Name
from models.group import Given, Group

if TYPE_CHECKING:
    from flwr.app import RecordDict

Attempt = Annotated[int, Field(ge=1, le=10_000)]
Point = Annotated[bytes, Field(min_length=group.POINT, max_length=group.POINT)]
Signature = Annotated[bytes, Field(min_length=64, max_length=112)]
Part = Annotated[bytes, Field(min_length=1, max_length=group.PART)]
Several = Field(min_length=group.FEWEST, max_length=group.MOST)


class GroupOrder(TrainOrder):
    """Coordinator to site: train, and make ready to add the update to a sum.

    Attributes:
        attempt: from 1; a round that was cut off is begun anew.
        sites: the group: all that agreed when the first round began, in order.
        keys: what each gave with its agreement.
        signatures: of each under its key.
    """

    kind = "group-train"
    grouped: ClassVar[bool] = True

    attempt: Attempt
    sites: Annotated[tuple[Name, ...], Several]
    keys: Annotated[tuple[Point, ...], Several]
    signatures: Annotated[tuple[Signature, ...], Several]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _once(self.sites)
        _alike(self.sites, self.keys, self.signatures)
        require(self.encoding == self.reply == "plain", "a sum of updates that travel in fewer bits")
        return self

    def group(self, terms: str) -> Group:
        """The group, under terms of this digest."""
        return Group(terms, self.sites, self.keys)


class Sealed(Message):
    """Site to coordinator: it has trained.

    Attributes:
        n_cases: on how many cases the update rests, to the power of two below.
        key: of this round and attempt.
        commitment: to the seed of the hospital's own mask.
        shares: for each other hospital of the group, in order: parts of the round's private key and of that seed,
            which only that hospital can read.
        signature: under key, commitment and n_cases.
    """

    kind = "sealed"

    retraining: Name
    round: Count
    base: Digest
    attempt: Attempt
    n_cases: Count
    key: Point
    commitment: Digest
    shares: Annotated[tuple[Part, ...], Field(max_length=group.MOST)]
    signature: Signature

    @property
    def given(self) -> Given:
        """What it tells all others."""
        return Given(self.key, self.commitment, self.n_cases)

    def answers(self, order: GroupOrder) -> bool:
        """Whether this is what was ordered."""
        asked = (order.retraining, order.round, order.base, order.attempt, len(order.sites) - 1)
        return (self.retraining, self.round, self.base, self.attempt, len(self.shares)) == asked


class _Step(Message):
    """A later step of a round."""

    retraining: Name
    round: Count
    attempt: Attempt


class MaskOrder(_Step):
    """Coordinator to site: who has trained; mask the update.

    Attributes:
        sites: all of them, in order, the hospital asked among them.
        keys, commitments, cases, signatures: of each.
        shares: what each other one gave for this hospital.
    """

    kind = "mask"

    sites: Annotated[tuple[Name, ...], Several]
    keys: Annotated[tuple[Point, ...], Several]
    commitments: Annotated[tuple[Digest, ...], Several]
    cases: Annotated[tuple[Count, ...], Several]
    signatures: Annotated[tuple[Signature, ...], Several]
    shares: Annotated[tuple[Part, ...], Field(max_length=group.MOST)]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _once(self.sites)
        _alike(self.sites, self.keys, self.commitments, self.cases, self.signatures, (*self.shares, b"its own"))
        return self

    def given(self) -> dict[str, Given]:
        """What each hospital gave, by name."""
        lists = zip(self.sites, self.keys, self.commitments, self.cases, strict=True)
        return {site: Given(key, committed, cases) for site, key, committed, cases in lists}


class Masked(_Step):
    """Site to coordinator: the update under masks.

    Attributes:
        vector: (N,) modulo 2^32; see `models.summand`.
    """

    kind = "masked"
    payload = ("vector",)

    vector: NDArray[np.uint32]

    def _pack(self, record: "RecordDict", fields: dict[str, Any], pack: Pack) -> None:
        from flwr.app import Array, ArrayRecord

        record["vector"] = ArrayRecord({"packed": Array(self.vector)})

    @classmethod
    def _unpack(cls, record: "RecordDict", values: dict[str, Any]) -> None:
        if "vector" not in record.array_records or set(record.array_records["vector"]) != {"packed"}:
            raise BorderRefused("no vector")
        values["vector"] = vector(record.array_records["vector"]["packed"], "uint32", MAX_WEIGHTS)


class UnmaskOrder(_Step):
    """Coordinator to site: whose masked updates are in the sum, and who of those that were to send one is not."""

    kind = "unmask"

    active: Annotated[tuple[Name, ...], Several]
    dead: Annotated[tuple[Name, ...], Field(max_length=group.MOST)] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        _once(self.active)
        _once(self.dead)
        require(not set(self.active) & set(self.dead), "somebody is both active and dead")
        return self


class Unmasked(_Step):
    """Site to coordinator: parts of what takes the masks off, and of nothing else.

    Attributes:
        seeds: of each active hospital's seed, in order.
        keys: of each dead hospital's key.
    """

    kind = "unmasked"

    seeds: Annotated[tuple[Part, ...], Several]
    keys: Annotated[tuple[Part, ...], Field(max_length=group.MOST)] = ()


def follows(answer: "Masked | Unmasked", order: MaskOrder | UnmaskOrder) -> bool:
    """Whether an answer is the one to this step of a round."""
    if (answer.round, answer.attempt) != (order.round, order.attempt):
        return False
    if isinstance(answer, Unmasked) and isinstance(order, UnmaskOrder):
        return (len(answer.seeds), len(answer.keys)) == (len(order.active), len(order.dead))
    return isinstance(answer, Masked) and isinstance(order, MaskOrder)


def _once(sites: tuple[str, ...]) -> None:
    require(list(sites) == sorted(set(sites)), "hospitals are named once, in order")


def _alike(*lists: tuple[object, ...]) -> None:
    require(len({len(one) for one in lists}) == 1, "lists of different lengths")
