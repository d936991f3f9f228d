"""The only messages that may cross a hospital's border.

Into a hospital come the signed terms of a retraining, an order to train, the offer of a version, and the word whether
it was released. Out of it go, in that order, its consent, an update of the weights, the evidence of how a version did
on local cases, and the hospital's decision; or, instead of any of them, a refusal that carries one code. What leaves is
numbers, words from the closed lists below, digests, and the name of the retraining. There is no field that could hold a
patient, a study, an image or free text; an update is bounded (models/bounds.py), and no count is small enough to show a
patient (models/stats/disclosure.py).

On the wire a message is a Flower RecordDict: one ConfigRecord `vigie`, and one ArrayRecord where there are weights or
a bundle. Weights travel as one vector of bytes with their layout beside it: Flower moves every array in requests of
its own, and a network has hundreds.
"""

import hashlib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, cast, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from models import bounds, compression, terms
from models.bounds import EVERY_LAYER, USUAL_NORM, Bounds
from models.change_plan import Layer
from models.compression import Encoding
from models.errors import BorderRefused
from models.hyperparameters import Hyperparameters
from models.protection import Protection, Unprotected
from models.stats import disclosure
from models.subgroups import FEWEST, Change, Group, Rate

if TYPE_CHECKING:
    from flwr.app import Array, RecordDict

# ── Words ────────────────────────────────────────────────────────────────────────────────────────────────────────────

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, le=10**9)]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Difference = Annotated[float, Field(ge=-1.0, le=1.0, allow_inf_nan=False)]
Score = Annotated[float, Field(ge=-40.0, le=40.0, allow_inf_nan=False)]
Number = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]
LayerName = terms.LayerName
LayerNames = Annotated[tuple[LayerName, ...], Field(max_length=4096)]

Kind = Literal[
    "proposal",
    "consent",
    "train",
    "update",
    "offer",
    "evidence",
    "release",
    "decision",
    "survey",
    "tally",
    "refusal",
]
Agreement = Literal["granted", "waiting", "declined"]
ConsentReason = Literal[
    "person",  # who grants or declines it
    "policy",  # what grants it
    "withdrawn",
    "expired",
    "not-named",  # the terms do not name this hospital
    "base-unknown",  # the hospital does not hold the version to start from
    "change-plan",  # outside what the version's change plan allows
    "no-policy",  # this hospital has no standing policy for it: a person has to look
    "too-many-rounds",
    "too-many-retrainings",
    "other-strategy",
    "too-few-hospitals",
    "norm-too-large",
    "not-private",  # this hospital asks for updates that are differentially private
    "budget-exhausted",  # what is left of its privacy budget is less than the whole of it would cost
]
Half = Literal["tp", "fp", "tn", "fn", "vendor_tp", "vendor_fp", "vendor_tn", "vendor_fn"]
Verdict = Literal["adopt", "refuse", "shadow"]
Outcome = Literal["adopted", "refused", "shadow"]
Reason = Literal[
    "non-inferior",
    "sensitivity-not-shown",
    "specificity-not-shown",
    "sensitivity-inferior",
    "specificity-inferior",
    "certified-not-shown",  # as the four above, of the first certified version
    "certified-inferior",
    "too-few-positives",
    "too-few-negatives",
    "too-few-validated",  # of the random sample: what is left could be chosen by what the AI said
    "no-training-cases",
    "no-incumbent",
    "incumbent-changed",
    "acceptance-passed",
    "self-test-failed",
    "other-model",  # beside a model that serves, another one is put by a person
    "not-compared",  # the gate has no measure for this kind of version
    "population-unknown",  # the version does not say whom it was trained on
    "population-mismatch",  # the patients here are unlike those
    "leakage",  # a case of the random sample may have been trained on
    "shadow-period",  # it reads beside the served version first
    "shadow-disagrees",  # there, it answered otherwise more often than on the random sample
    "shadow-worse",  # there, it was worse beyond the margin
    "not-released",
    "site-policy",
]
Leakage = Literal[
    "none",
    "folds-altered",  # a patient is in another fold than the one that the hospital's key draws
    "same-image",  # a training image is in the random sample, too, under another patient
    "trained-on",  # an earlier retraining learned from it
]
RefusalCode = Literal[
    "border-refused",  # the message is not one of those below, or not well formed
    "reply-refused",  # the hospital's own reply would not have been one
    "bundle-refused",  # a version is altered, unsigned or unfit; or the Flower app is not the approved one
    "consent-missing",  # this hospital has not agreed to this retraining
    "base-unknown",  # the hospital does not hold the version to start from
    "too-few-cases",  # nothing, or too little, to learn from
    "training-diverged",
    "budget-exhausted",  # the privacy budget of this hospital is used up
    "not-allowed",
    "not-found",
    "conflict",
    "unavailable",  # the site could not open its own store
    "interrupted",  # the process that was answering was killed; the same order may be answered next time
    "failed",  # anything else; the hospital's log says what
]

WIRE = 3  # version of this file's messages; both sides must speak the same
MAX_WEIGHTS = 512 * 2**20  # bytes
MAX_BUNDLE = 128 * 2**20  # bytes
MAX_TENSORS = 4096

KINDS: frozenset[str] = frozenset(get_args(Kind))
CODES: frozenset[str] = frozenset(get_args(RefusalCode))

_DTYPES = ("float32", "float16", "int64", "uint8")
_ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)
_TENSOR = re.compile(r"[A-Za-z_][A-Za-z0-9_.]{0,127}", re.ASCII)
_SHAPE = re.compile(r"(?:[0-9]{1,7}(?:x[0-9]{1,7}){0,5})?", re.ASCII)

Weights = Mapping[str, NDArray[Any]]
"""Tensors by name, as in a version's weights.npz."""

Layout = Mapping[str, tuple[tuple[int, ...], str]]
"""(shape, number type) by name: what the weights of a version look like."""


def is_in(name: str, layer: str) -> bool:
    """Whether a tensor belongs to a layer: it is it, or stands below it (`layer4` has `layer4.0.conv1.weight`)."""
    return name == layer or name.startswith(f"{layer}.")


def layout_of(weights: Weights) -> dict[str, tuple[tuple[int, ...], str]]:
    """The layout of these weights, to hold others against."""
    return {name: (tuple(array.shape), array.dtype.name) for name, array in weights.items()}


# ── Messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Declared(BaseModel):
    """Strict: no conversion, no unknown field, nothing changed afterwards."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", arbitrary_types_allowed=True)


class _Message(_Declared):
    kind: ClassVar[Kind]
    payload: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[tuple[str, ...]] = ()

    def to_record(self) -> "RecordDict":
        """The message as Flower carries it."""
        return _pack(self)

    @classmethod
    def from_record(cls, record: "RecordDict", layout: Layout | None = None) -> Self:
        """Read and check a message of this kind.

        Args:
            record: what Flower carried.
            layout: the base's weights; those of the message must have exactly these names, shapes and types.

        Raises:
            BorderRefused: it is another kind, or not well formed.
        """
        message = parse(record, layout)
        if not isinstance(message, cls):
            raise BorderRefused(f"expected {cls.kind}, got {message.kind}")
        return message


class Proposal(_Message):
    """Coordinator to site, before anything else: the terms of a retraining, to agree to."""

    kind = "proposal"

    retraining: Name
    terms: Annotated[bytes, Field(min_length=1, max_length=terms.MAX_BYTES)]
    signer: Name
    signature: Annotated[bytes, Field(min_length=64, max_length=64)]

    @model_validator(mode="after")
    def _readable(self) -> Self:
        _require(terms.read(self.terms).name == self.retraining, "the terms are of another retraining")
        return self

    @property
    def digest(self) -> str:
        """Of the terms."""
        return terms.digest(self.terms)


class Consent(_Message):
    """Site to coordinator: whether the hospital agrees to the terms with this digest."""

    kind = "consent"

    retraining: Name
    digest: Digest
    state: Agreement
    reasons: Annotated[tuple[ConsentReason, ...], Field(max_length=16)] = ()


class TrainOrder(_Message):
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
    payload = ("weights",)
    optional = ("control",)

    retraining: Name
    round: Count
    base: Digest
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    hyper: Hyperparameters
    norm: Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)] = USUAL_NORM
    layers: Annotated[tuple[Layer, ...], Field(min_length=1, max_length=64)] = EVERY_LAYER
    encoding: Encoding = "plain"
    reply: Encoding = "plain"
    stochastic: bool = False
    local: LayerNames = ()
    frozen: LayerNames = ()
    controls: bool = False
    privacy: Protection = Unprotected()
    late: Count = 0
    weights: Weights
    control: Weights | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _require(not self.controls or isinstance(self.privacy, Unprotected), "a control variate has no noise")
        _require(self.controls or self.control is None, "a control variate that was not asked for")
        _require(not self.late or (self.late < self.round and not self.controls), "no earlier round to wait for")
        _require(
            not self.late or isinstance(self.privacy, Unprotected), "a protected update is paid for round by round"
        )
        # the bound of an answer is looked at without the base that differences begin at
        _require(self.encoding == "plain" or self.reply != "plain", "differences are answered by differences")
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


class Update(_Message):
    """Site to coordinator: the weights after local training, and how the received ones did before it.

    `n_errors` is absent where it, or what it leaves of the cases, is too small a count to leave. A protected update
    says of its cases only how many there are, to a power of two: no other figure has been given noise.

    Attributes:
        late: the earlier round in which this was trained; what it changed is added to this order's weights. 0: none.
        weights: of the moving layers; in another encoding than `plain`, their differences from the received ones.
        control: the hospital's control variate, where it was asked for; laid out and encoded as the weights are.
    """

    kind = "update"
    payload = ("weights",)
    optional = ("control",)

    retraining: Name
    round: Count
    base: Digest
    n_cases: Count
    n_errors: Count | None = None
    train_loss: Number | None = None
    auc_received: Share | None = None
    threshold_received: Share | None = None
    loss_received: Number | None = None
    late: Count = 0
    encoding: Encoding = "plain"
    weights: Weights
    control: Weights | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _require(self.n_errors is None or self.n_errors <= self.n_cases, "more errors than cases")
        return self

    def trained(self, received: Weights) -> Weights:
        """The weights of the moving layers that this update stands for.

        Args:
            received: what the hospital was sent, of the same layout.

        Raises:
            BorderRefused: a sum is not finite.
        """
        return self.weights if self.encoding == "plain" else compression.applied(self.weights, received)

    def answers(self, order: TrainOrder) -> bool:
        """Whether this is the update that was ordered, in the form in which it was ordered."""
        asked = (order.retraining, order.round, order.base, order.reply, order.controls)
        given = (self.retraining, self.round, self.base, self.encoding, self.control is not None)
        return given == asked and self.late in (0, order.late)


class Offer(_Message):
    """Coordinator to site: a version to judge. The signature is inside the bundle and checked by the site."""

    kind = "offer"
    payload = ("bundle",)

    retraining: Name
    digest: Digest
    parent: Digest | None = None
    bundle: Annotated[bytes, Field(min_length=1, max_length=MAX_BUNDLE)]


class Measure(_Declared):
    """How one version did on one fold of a hospital's cases; counts of cases, never a case.

    `tp`…`tn` are at the local threshold, `vendor_tp`…`vendor_tn` at the vendor's; a curve that does not exist (one
    class only) is absent. A class whose two halves may not leave has neither; `few` names those that are under
    `disclosure.LEAST`, for what that says of the rate.
    """

    n: Count
    n_positive: Count
    threshold: Share
    tp: Count | None = None
    fp: Count | None = None
    tn: Count | None = None
    fn: Count | None = None
    vendor_tp: Count | None = None
    vendor_fp: Count | None = None
    vendor_tn: Count | None = None
    vendor_fn: Count | None = None
    few: Annotated[tuple[Half, ...], Field(max_length=8)] = ()
    auc: Share | None = None
    auc_low: Share | None = None
    auc_high: Share | None = None
    brier: Share | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _require(self.n_positive <= self.n, "cases do not add up")
        for right, wrong, total in _classes(self):
            _require((right is None) == (wrong is None), "half a class")
            _require(right is None or wrong is None or right + wrong == total, "cases do not add up")
        _require(all(getattr(self, name) is None for name in self.few), "a small count that is there")
        if self.auc_low is not None and self.auc_high is not None:
            _require(self.auc_low <= self.auc_high, "interval upside down")
        return self


def _classes(measure: Measure) -> tuple[tuple[int | None, int | None, int], ...]:
    """(right, wrong, sum) of positives and negatives at the local threshold, then at the vendor's."""
    negative = measure.n - measure.n_positive
    return (
        (measure.tp, measure.fn, measure.n_positive),
        (measure.tn, measure.fp, negative),
        (measure.vendor_tp, measure.vendor_fn, measure.n_positive),
        (measure.vendor_tn, measure.vendor_fp, negative),
    )


class Subgroups(_Declared):
    """How rates changed in groups of patients, one group and rate a place; no group of fewer than eleven patients.

    See models.subgroups. Flower carries no list of records: hence five lists of the same length.
    """

    group: Annotated[tuple[Group, ...], Field(max_length=32)] = ()
    rate: Annotated[tuple[Rate, ...], Field(max_length=32)] = ()
    patients: Annotated[tuple[Annotated[int, Field(ge=FEWEST, le=10**9)], ...], Field(max_length=32)] = ()
    difference: Annotated[tuple[Difference, ...], Field(max_length=32)] = ()
    z: Annotated[tuple[Score, ...], Field(max_length=32)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        lengths = {len(self.group), len(self.rate), len(self.patients), len(self.difference), len(self.z)}
        _require(len(lengths) == 1, "lists of different lengths")
        _require(len(set(zip(self.group, self.rate, strict=True))) == len(self.group), "a group twice")
        return self

    @classmethod
    def of(cls, changes: Sequence[Change]) -> Self | None:
        """None where there is nothing to tell: Flower drops empty lists' types."""
        if not changes:
            return None
        return cls(
            group=tuple(one.group for one in changes),
            rate=tuple(one.rate for one in changes),
            patients=tuple(one.patients for one in changes),
            difference=tuple(one.difference for one in changes),
            z=tuple(one.z for one in changes),
        )

    def changes(self) -> list[Change]:
        """One by one."""
        places = zip(self.group, self.rate, self.patients, self.difference, self.z, strict=True)
        return [Change(*place) for place in places]


class Evidence(_Message):
    """Site to coordinator: the served and the offered version on the gate's and the test's cases, and the verdict.

    A fold with too few positives or negatives has no measure; `mended` and `new_errors` are both there or neither.

    Attributes:
        validated: share of the random sample whose truth is known.
        brier_change: of the candidate against the served version, on the gate's cases, with its standard error.
    """

    kind = "evidence"

    retraining: Name
    digest: Digest
    served: Digest | None = None
    verdict: Verdict
    reasons: Annotated[tuple[Reason, ...], Field(max_length=16)] = ()
    mended: Count | None = None
    new_errors: Count | None = None
    served_gate: Measure | None = None
    served_test: Measure | None = None
    candidate_gate: Measure | None = None
    candidate_test: Measure | None = None
    validated: Share | None = None
    leakage: Leakage | None = None
    brier_change: Difference | None = None
    brier_error: Share | None = None
    subgroups: Subgroups | None = None


class Release(_Message):
    """Coordinator to site: whether the version offered was released."""

    kind = "release"

    retraining: Name
    digest: Digest
    released: bool


class Decision(_Message):
    """Site to coordinator: what the hospital made of a version."""

    kind = "decision"

    retraining: Name
    digest: Digest
    outcome: Outcome
    reasons: Annotated[tuple[Reason, ...], Field(max_length=16)] = ()


class Survey(_Message):
    """Coordinator to site: is there enough to learn from? Answered where the site's settings let it (consent.surveys).

    Attributes:
        retraining: the name of the policy that asks; it may become retrainings of names that begin so.
        model: whose errors, by name.
    """

    kind = "survey"

    retraining: Name
    model: Name


class Tally(_Message):
    """Site to coordinator: how many errors there are that no retraining has learned from.

    Attributes:
        new_errors: rounded down to a multiple of the least count that may leave, so that neither it nor the difference
            to an earlier one shows a patient.
    """

    kind = "tally"

    retraining: Name
    new_errors: Count


class Refusal(_Message):
    """Site to coordinator, instead of an answer: one code, and nothing of what lies behind it."""

    kind = "refusal"

    to: Literal["proposal", "train", "offer", "release", "survey", "unknown"]
    code: RefusalCode


Order = Proposal | TrainOrder | Offer | Release | Survey
Answer = Consent | Update | Evidence | Decision | Tally
Reply = Answer | Refusal
Message = Order | Reply

ANSWERS: Mapping[type[Order], type[Answer]] = {
    Proposal: Consent,
    TrainOrder: Update,
    Offer: Evidence,
    Release: Decision,
    Survey: Tally,
}
"""Which reply belongs to which order."""

_BY_KIND: Mapping[str, type[Message]] = {
    "proposal": Proposal,
    "consent": Consent,
    "train": TrainOrder,
    "update": Update,
    "offer": Offer,
    "evidence": Evidence,
    "release": Release,
    "decision": Decision,
    "survey": Survey,
    "tally": Tally,
    "refusal": Refusal,
}


# ── Checking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def parse(record: "RecordDict", layout: Layout | None = None) -> Message:
    """Read a message, whichever it is, and check all of it.

    Args:
        record: what Flower carried.
        layout: what the weights must look like, where they are known.

    Raises:
        BorderRefused: unknown kind, a field too many or too few, a value outside its list or bounds, a number that is
            not finite, weights unlike the layout.
    """
    fields = _config(record)
    kind = fields.pop("kind", None)
    model = _BY_KIND.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise BorderRefused("unknown kind")
    if fields.pop("wire", None) != WIRE:
        raise BorderRefused("other wire version")
    values = _nest(fields)
    extra = set(record.keys()) - {"vigie", *model.payload, *model.optional}
    if extra or (model.payload and not set(model.payload) <= set(record.keys())):
        raise BorderRefused("records do not fit the kind")
    if "weights" in model.payload:
        forms, encoding = _forms(values.pop("layout", None)), values.get("encoding")
        if encoding not in _ENCODINGS:
            raise BorderRefused("unknown encoding")
        for name in ("weights", "control"):
            if name in record.keys():  # noqa: SIM118 - a RecordDict is no dict
                values[name] = _unpack_weights(record, name, forms, encoding)
    if "bundle" in model.payload:
        values["bundle"] = _unpack_bundle(record, values.pop("bundle_sha256", None))
    try:
        message = model.model_validate(values)
    except ValidationError as error:
        # Field and rule only: the value itself is what must not travel or be logged.
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise BorderRefused(f"{model.kind}: {first['type']}") from None
    if layout is not None and isinstance(message, TrainOrder | Update):
        check_weights(message.weights, layout)
    return message


def check_weights(weights: Weights, layout: Layout) -> None:
    """Refuse weights whose names, shapes or number types are not exactly those of the base.

    Raises:
        BorderRefused: a tensor too many, too few, or of another form.
    """
    if layout_of(weights) != {name: (tuple(shape), dtype) for name, (shape, dtype) in layout.items()}:
        raise BorderRefused("weights are not laid out as the base's")


def belongs(answer: Answer, order: Order) -> bool:
    """Whether an answer is the one to this order, and not to another of its kind."""
    if not isinstance(answer, ANSWERS[type(order)]) or answer.retraining != order.retraining:
        return False
    if isinstance(answer, Update) and isinstance(order, TrainOrder):
        return answer.answers(order)
    if isinstance(answer, Update | Tally) or isinstance(order, TrainOrder | Survey):
        return isinstance(answer, Tally) and isinstance(order, Survey)
    return answer.digest == order.digest


def check_answer(answer: Answer, order: Order) -> None:
    """Refuse an answer that says more than may leave: the same at the hospital before it goes, and at the coordinator.

    Raises:
        BorderRefused: an update beyond the order's bounds, or a count that could show a patient.
    """
    if isinstance(answer, Update) and isinstance(order, TrainOrder):
        bounds.check(answer.weights, _start(answer, order), order.bounds)
        _require_large(answer.n_cases)
        if answer.n_errors is not None:
            _require_large(answer.n_errors, answer.n_cases - answer.n_errors)
        if not isinstance(order.privacy, Unprotected) and not _is_withheld(answer):
            raise BorderRefused("a protected update that says something of its cases")
    if isinstance(answer, Tally) and answer.new_errors % disclosure.LEAST:
        raise BorderRefused("a count whose change could show a patient")
    if isinstance(answer, Evidence):
        for measure in measures(answer).values():
            _require_large(measure.n_positive, measure.n - measure.n_positive)
            positive, negative, at_vendors_positive, at_vendors_negative = _classes(measure)
            for local, vendor in ((positive, at_vendors_positive), (negative, at_vendors_negative)):
                _require_large(*(half for half in (*local[:2], *vendor[:2]) if half is not None))
                if local[0] is not None and vendor[0] is not None and not disclosure.apart(local[0], vendor[0]):
                    raise BorderRefused("two counts that show a few patients between them")
                if local[2] < 2 * disclosure.LEAST and set(measure.few) & _HALVES[local is positive]:
                    raise BorderRefused("a half that is said to be small shows the other")
        if (answer.mended is None) != (answer.new_errors is None):
            raise BorderRefused("one of two counts that give away each other")
        _require_large(*(count for count in (answer.mended, answer.new_errors) if count is not None))


def _start(update: Update, order: TrainOrder) -> Weights:
    """Where the weights of an update begin: at the received ones, or at nothing where they are differences."""
    if update.encoding == "plain":
        return order.weights
    return {name: np.zeros_like(array) for name, array in update.weights.items()}


_HALVES: Mapping[bool, frozenset[Half]] = {
    True: frozenset({"tp", "fn", "vendor_tp", "vendor_fn"}),
    False: frozenset({"tn", "fp", "vendor_tn", "vendor_fp"}),
}
"""Of positives, and of negatives."""


def disclosed(answer: Answer) -> Answer:
    """The answer without the counts and digits that could show a patient."""
    if isinstance(answer, Update):
        changes: dict[str, Any] = {
            "n_errors": None if answer.n_errors is None else disclosure.part(answer.n_errors, answer.n_cases)
        }
        for name in ("train_loss", "loss_received", "auc_received", "threshold_received"):
            if (value := getattr(answer, name)) is not None:
                changes[name] = disclosure.rounded(value)
        return answer.model_copy(update=changes)
    if isinstance(answer, Tally):
        return answer.model_copy(update={"new_errors": answer.new_errors // disclosure.LEAST * disclosure.LEAST})
    if isinstance(answer, Evidence):
        changes = {name: _measure_disclosed(measure) for name, measure in measures(answer).items()}
        if answer.mended is not None and answer.new_errors is not None:
            changes["mended"], changes["new_errors"] = disclosure.pair(answer.mended, answer.new_errors)
        return answer.model_copy(update=changes)
    return answer


def _is_withheld(update: Update) -> bool:
    figures = {"weights", "control"}  # arrays have no one answer to whether they are equal
    return update.model_dump(exclude=figures) == withheld(update).model_dump(exclude=figures)


def withheld(update: Update) -> Update:
    """A protected update: without any figure of the hospital's cases but how many, to a power of two."""
    told = ("n_errors", "train_loss", "auc_received", "threshold_received", "loss_received")
    return update.model_copy(update={**dict.fromkeys(told), "n_cases": disclosure.coarse(update.n_cases)})


def measures(evidence: Evidence) -> dict[str, Measure]:
    """The measures that there are, by field."""
    found = {
        "served_gate": evidence.served_gate,
        "served_test": evidence.served_test,
        "candidate_gate": evidence.candidate_gate,
        "candidate_test": evidence.candidate_test,
    }
    return {name: measure for name, measure in found.items() if measure is not None}


def _measure_disclosed(measure: Measure) -> Measure | None:
    negative = measure.n - measure.n_positive
    if min(measure.n_positive, negative) < disclosure.LEAST:
        return None
    values, few = measure.model_dump(), list(measure.few)
    for right, wrong, total in (("tp", "fn", measure.n_positive), ("tn", "fp", negative)):
        local, vendor = values[right], values[f"vendor_{right}"]
        if local is None or vendor is None:
            continue  # kept back before; whoever did it is checked like everybody
        for prefix, row in zip(("", "vendor_"), disclosure.rows(local, vendor, total), strict=True):
            values |= {prefix + right: row.right, prefix + wrong: row.wrong}
            few += [prefix + name for name, small in ((right, row.few_right), (wrong, row.few_wrong)) if small]
    for name in ("threshold", "auc", "auc_low", "auc_high"):
        if values[name] is not None:
            values[name] = disclosure.rounded(values[name])
    return Measure.model_validate(values | {"few": tuple(few)})


def _require_large(*counts: int) -> None:
    if any(count < disclosure.LEAST for count in counts):
        raise BorderRefused("a count that could show a patient")


@dataclass(frozen=True, slots=True)
class Crossing:
    """What the ledger keeps of a message: what it said it was, its digest and its size."""

    kind: str
    retraining: str | None
    round: int | None
    sha256: str
    size: int


def fingerprint(record: "RecordDict") -> Crossing:
    """Digest and size in bytes of a message, well formed or not.

    `kind`, `retraining` and `round` are as claimed where the claim is well formed, else `unknown` and None.
    """
    digest, size = hashlib.sha256(), 0

    def take(label: str, content: bytes | memoryview) -> None:
        nonlocal size
        digest.update(json.dumps([label, len(content)]).encode())
        digest.update(content)
        size += len(content)

    for key in sorted(record.array_records):
        arrays = record.array_records[key]
        for name in sorted(arrays):
            array = arrays[name]
            take(json.dumps([key, name, array.dtype, list(array.shape), array.stype]), memoryview(array.data))
    for key in sorted(record.metric_records):
        take(key, json.dumps(dict(record.metric_records[key]), sort_keys=True).encode())
    for key in sorted(record.config_records):
        take(key, json.dumps(dict(record.config_records[key]), sort_keys=True, default=repr).encode())

    claimed = dict(record.config_records["vigie"]) if "vigie" in record.config_records else {}
    kind, name, number = claimed.get("kind"), claimed.get("retraining"), claimed.get("round")
    named = isinstance(name, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name, re.ASCII) is not None
    return Crossing(
        kind=kind if isinstance(kind, str) and kind in KINDS else "unknown",
        retraining=cast(str, name) if named else None,
        round=number if isinstance(number, int) and 0 <= number <= 10**9 else None,
        sha256=digest.hexdigest(),
        size=size,
    )


# ── To and from Flower ───────────────────────────────────────────────────────────────────────────────────────────────


def _pack(message: _Message) -> "RecordDict":
    from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

    fields: dict[str, Any] = {"kind": message.kind, "wire": WIRE}
    for key, value in message.model_dump(exclude={*message.payload, *message.optional}, exclude_none=True).items():
        if isinstance(value, dict):
            fields.update({f"{key}.{part}": _listed(found) for part, found in value.items()})
        else:
            fields[key] = _listed(value)
    record = RecordDict()
    if isinstance(message, TrainOrder | Update):
        record["weights"] = ArrayRecord({"packed": Array(_bytes(message.weights, message.encoding))})
        fields["layout"] = _lines(message.weights)
        if message.control is not None:
            if layout_of(message.control) != layout_of(message.weights):
                raise BorderRefused("a control variate is not laid out as the weights")
            record["control"] = ArrayRecord({"packed": Array(_bytes(message.control, message.encoding))})
    if isinstance(message, Offer):
        fields["bundle_sha256"] = hashlib.sha256(message.bundle).hexdigest()
        record["bundle"] = ArrayRecord({"tar": Array(np.frombuffer(message.bundle, np.uint8))})
    record["vigie"] = ConfigRecord(fields)
    return record


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _config(record: "RecordDict") -> dict[str, Any]:
    if "vigie" not in record.config_records:
        raise BorderRefused("no declaration")
    return dict(record.config_records["vigie"])


def _nest(fields: dict[str, Any]) -> dict[str, Any]:
    """`gate.n` → {"gate": {"n": …}}, one level; lists become tuples. What is not a declared field is refused later."""
    values: dict[str, Any] = {}
    for key, value in fields.items():
        head, dot, tail = key.partition(".")
        if isinstance(value, list) and key != "layout":
            value = tuple(cast(list[Any], value))
        if not dot:
            if head in values:
                raise BorderRefused("a field twice")
            values[head] = value
            continue
        inner = values.setdefault(head, {})
        if not isinstance(inner, dict):
            raise BorderRefused("a field twice")
        inner[tail] = value
    return values


def _order(weights: Weights) -> list[str]:
    """Wider number types come first, so that every tensor is aligned where it lies."""
    return sorted(weights, key=lambda name: (-weights[name].dtype.itemsize, name))


def _lines(weights: Weights) -> list[str]:
    """The layout on the wire: `name dtype shape`, in order."""
    return [f"{name} {weights[name].dtype.name} {'x'.join(map(str, weights[name].shape))}" for name in _order(weights)]


def _bytes(weights: Weights, encoding: Encoding) -> NDArray[np.uint8]:
    """All tensors' bytes end to end (little-endian), in the order of the layout; or the encoding's."""
    if encoding != "plain":
        return compression.pack(weights, encoding)
    parts = [np.ascontiguousarray(weights[name]).reshape(-1).view(np.uint8) for name in _order(weights)]
    return np.concatenate(parts) if parts else np.empty(0, np.uint8)


def _forms(lines: object) -> dict[str, tuple[tuple[int, ...], str]]:
    if not isinstance(lines, list) or not 0 < len(lines) <= MAX_TENSORS:
        raise BorderRefused("no layout")
    forms: dict[str, tuple[tuple[int, ...], str]] = {}
    for line in cast(list[object], lines):
        name, dtype, shape = _tensor(line)
        if name in forms:
            raise BorderRefused("layout does not fit the weights")
        forms[name] = (shape, dtype)
    return forms


def _unpack_weights(record: "RecordDict", key: str, forms: Layout, encoding: Encoding) -> dict[str, NDArray[Any]]:
    if key not in record.array_records or set(record.array_records[key]) != {"packed"}:
        raise BorderRefused("no weights")
    packed = _vector(record.array_records[key]["packed"], "uint8", MAX_WEIGHTS).copy()
    if encoding != "plain":
        return compression.unpack(packed, forms, encoding)
    weights: dict[str, NDArray[Any]] = {}
    start = 0
    for name, (shape, dtype) in forms.items():
        end = start + int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
        if end > packed.size:
            raise BorderRefused("layout does not fit the weights")
        weights[name] = packed[start:end].view(dtype).reshape(shape)
        if weights[name].dtype.kind == "f" and not bool(np.isfinite(weights[name]).all()):
            raise BorderRefused("weights are not finite")
        start = end
    if start != packed.size:
        raise BorderRefused("layout does not fit the weights")
    return weights


def _tensor(line: object) -> tuple[str, str, tuple[int, ...]]:
    parts = line.split(" ") if isinstance(line, str) else []
    if len(parts) != 3 or not _TENSOR.fullmatch(parts[0]) or parts[1] not in _DTYPES or not _SHAPE.fullmatch(parts[2]):
        raise BorderRefused("layout is not well formed")
    return parts[0], parts[1], tuple(int(size) for size in parts[2].split("x")) if parts[2] else ()


def _unpack_bundle(record: "RecordDict", sha256: object) -> bytes:
    if "bundle" not in record.array_records or set(record.array_records["bundle"]) != {"tar"}:
        raise BorderRefused("no bundle")
    bundle = _vector(record.array_records["bundle"]["tar"], "uint8", MAX_BUNDLE).tobytes()
    if hashlib.sha256(bundle).hexdigest() != sha256:
        raise BorderRefused("bundle is not the one declared")
    return bundle


def _vector(array: "Array", dtype: str, limit: int) -> NDArray[Any]:
    """The numbers of a one-dimensional Flower array, without unpickling and without copying (read-only).

    Source: numpy.lib.format, version 1.0 header; `Array.numpy()` would allocate whatever shape the header claims.
    """
    if array.stype != "numpy.ndarray" or array.dtype != dtype or len(array.data) > limit + 4096:
        raise BorderRefused("an array of another form")
    stream = io.BytesIO(array.data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise BorderRefused("an array of another form")
        shape, _, found = np.lib.format.read_array_header_1_0(stream, max_header_size=4096)
    except ValueError:
        raise BorderRefused("an array of another form") from None
    if found != np.dtype(dtype) or len(shape) != 1 or tuple(array.shape) != shape:
        raise BorderRefused("an array of another form")
    if len(array.data) - stream.tell() != shape[0] * found.itemsize:
        raise BorderRefused("an array of another form")
    return np.frombuffer(array.data, found, offset=stream.tell())


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)
