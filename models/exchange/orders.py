"""What the coordinator may send into a hospital."""

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, model_validator

from models import compression, terms, withdrawal
from models.bounds import EVERY_LAYER, USUAL_NORM, Bounds
from models.change_plan import Layer
from models.compression import Encoding
from models.errors import BorderRefused
from models.exchange.message import Message, Weighted, require
from models.exchange.weights import Layout, Pack, Weights, is_in, vector
from models.exchange.words import MAX_ASKED, MAX_BUNDLE, Count, Digest, LayerNames, Name
from models.hyperparameters import Hyperparameters
from models.protection import Protection, SecureAggregation, Unprotected

if TYPE_CHECKING:
    from flwr.app import RecordDict


class Proposal(Message):
    """Coordinator to site, before anything else: the terms of a retraining, to agree to."""

    kind = "proposal"

    retraining: Name
    terms: Annotated[bytes, Field(min_length=1, max_length=terms.MAX_BYTES)]
    signer: Name
    signature: Annotated[bytes, Field(min_length=64, max_length=64)]

    @model_validator(mode="after")
    def _readable(self) -> Self:
        require(terms.read(self.terms).name == self.retraining, "the terms are of another retraining")
        return self

    @property
    def digest(self) -> str:
        """Of the terms."""
        return terms.digest(self.terms)


class TrainOrder(Weighted):
    """Coordinator to site: judge these weights on training patients, then train from them.

    Only the layers that are neither `local` nor `frozen` cross, in both directions.

    Attributes:
        weights: of those layers; in another encoding than `plain`, their differences from the base's.
        encoding: how these weights travel.
        reply: how those of the update are to travel.
        stochastic: the update is rounded by chance, right on average, instead of to the nearest.
        local: layers that are trained here and stay here from round to round, by name or the beginning of names.
        frozen: layers that are neither trained nor sent.
        controls: the update is to come with the hospital's control variate.
        privacy: how the update is protected; then it says nothing exact of the cases it rests on.
        late: an earlier round whose update has not come; where it is there by now, it is the answer. 0: none.
        control: what to correct gradients by, laid out and encoded as the weights are; None: by nothing.
    """

    kind = "train"
    grouped: ClassVar[bool] = False
    """Whether the answer is a part of a sum (`models.exchange.grouped`)."""

    retraining: Name
    round: Count
    base: Digest
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    hyper: Hyperparameters
    norm: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] = USUAL_NORM
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=64)] = EVERY_LAYER
    reply: Encoding = "plain"
    stochastic: bool = False
    local: LayerNames = ()
    frozen: LayerNames = ()
    controls: bool = False
    privacy: Protection = Unprotected()
    late: Count = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require(not self.controls or isinstance(self.privacy, Unprotected), "a control variate has no noise")
        require(self.controls or self.control is None, "a control variate that was not asked for")
        # or an update that is to be summed could be asked for by itself
        require(self.grouped == isinstance(self.privacy, SecureAggregation), "an order unlike its protection")
        require(not self.late or (self.late < self.round and not self.controls), "no earlier round to wait for")
        require(not self.late or isinstance(self.privacy, Unprotected), "a protected update is paid for round by round")
        # the bound of an answer is looked at without the base that differences begin at
        require(self.encoding == "plain" or self.reply != "plain", "differences are answered by differences")
        return self

    def moving(self, layout: Layout) -> Layout:
        """What crosses of a base of this layout.

        Raises:
            BorderRefused: a layer that the base does not have, or none is left.
        """
        layers = (*self.local, *self.frozen)
        if unknown := [layer for layer in layers if not any(is_in(name, layer) for name in layout)]:
            raise BorderRefused(f"the base has no layer {unknown[0]}")
        found = {name: form for name, form in layout.items() if not any(is_in(name, layer) for layer in layers)}
        if not found:
            raise BorderRefused("no layer is left to send")
        return found

    def received(self, base: Weights) -> Weights:
        """The weights of the moving layers that this order stands for.

        Raises:
            BorderRefused: a sum is not finite.
        """
        return self.weights if self.encoding == "plain" else compression.applied(self.weights, base)

    @property
    def bounds(self) -> Bounds:
        """What the update may change of these weights."""
        return Bounds(self.norm, self.layers)


class Offer(Message):
    """Coordinator to site: a version to judge. The signature is inside the bundle and checked by the site."""

    kind = "offer"
    payload = ("bundle",)

    retraining: Name
    digest: Digest
    parent: Digest | None = None
    bundle: Annotated[bytes, Field(min_length=1, max_length=MAX_BUNDLE)]

    def _pack(self, record: "RecordDict", fields: dict[str, Any], pack: Pack) -> None:
        from flwr.app import Array, ArrayRecord

        fields["bundle_sha256"] = hashlib.sha256(self.bundle).hexdigest()
        record["bundle"] = ArrayRecord({"tar": Array(np.frombuffer(self.bundle, np.uint8))})

    @classmethod
    def _unpack(cls, record: "RecordDict", values: dict[str, Any]) -> None:
        sha256 = values.pop("bundle_sha256", None)
        if "bundle" not in record.array_records or set(record.array_records["bundle"]) != {"tar"}:
            raise BorderRefused("no bundle")
        bundle = vector(record.array_records["bundle"]["tar"], "uint8", MAX_BUNDLE).tobytes()
        if hashlib.sha256(bundle).hexdigest() != sha256:
            raise BorderRefused("bundle is not the one declared")
        values["bundle"] = bundle


class Release(Message):
    """Coordinator to site: whether the version offered was released."""

    kind = "release"

    retraining: Name
    digest: Digest
    released: bool


class Survey(Message):
    """Coordinator to site: is there enough to learn from? Answered where the site's settings let it (consent.surveys).

    Attributes:
        retraining: the name of the policy that asks; it may become retrainings of names that begin so.
        model: whose errors, by name.
    """

    kind = "survey"

    retraining: Name
    model: Name


class Withdrawal(Message):
    """Coordinator to site: a version is withdrawn. It may come more than once, and years later."""

    kind = "withdrawal"

    notice: Annotated[bytes, Field(min_length=1, max_length=withdrawal.MAX_BYTES)]
    signer: Name
    signature: Annotated[bytes, Field(min_length=64, max_length=64)]

    @model_validator(mode="after")
    def _readable(self) -> Self:
        withdrawal.read(self.notice)
        return self

    @property
    def digest(self) -> str:
        """Of the version."""
        return withdrawal.read(self.notice).version

    @property
    def sha256(self) -> str:
        """Of the notice."""
        return withdrawal.digest(self.notice)


class Inquiry(Message):
    """Coordinator to site: what has become of these versions? Answered where the site's settings let it.

    See `consent.holdings` of the settings.
    """

    kind = "inquiry"

    digests: Annotated[tuple[Digest, ...], Field(min_length=1, max_length=MAX_ASKED)]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require(len(set(self.digests)) == len(self.digests), "a version twice")
        return self
