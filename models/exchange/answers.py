"""What may leave a hospital, each in answer to an order."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self, cast, get_args

from pydantic import Field, model_validator

from models import compression
from models.exchange.message import Declared, Message, Weighted, require
from models.exchange.orders import TrainOrder
from models.exchange.weights import Weights
from models.exchange.words import (
    MAX_ASKED,
    Agreement,
    Changed,
    ConsentReason,
    Count,
    Difference,
    Digest,
    Half,
    Holding,
    Leakage,
    Name,
    Number,
    Outcome,
    Reason,
    RefusalCode,
    Score,
    Share,
    Taken,
    Verdict,
)
from models.group import POINT
from models.subgroups import FEWEST, Change, Group, Rate

Asked = Literal[
    "proposal", "train", "group-train", "mask", "unmask", "offer", "release", "survey", "withdrawal", "inquiry",
    "audit", "unknown",
]  # fmt: skip


def asked(kind: str) -> Asked:
    """The kind of an order, as a refusal names it."""
    return cast(Asked, kind) if kind in get_args(Asked) else "unknown"


class Consent(Message):
    """Site to coordinator: whether the hospital agrees to the terms with this digest.

    Attributes:
        key, signature: under secure aggregation, with the agreement: the hospital's key for this retraining, signed.
    """

    kind = "consent"

    retraining: Name
    digest: Digest
    state: Agreement
    reasons: Annotated[tuple[ConsentReason, ...], Field(max_length=16)] = ()
    key: Annotated[bytes, Field(min_length=POINT, max_length=POINT)] | None = None
    signature: Annotated[bytes, Field(min_length=64, max_length=112)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require((self.key is None) == (self.signature is None), "a key comes with its signature")
        require(self.key is None or self.state == "granted", "a key without an agreement")
        return self


class Update(Weighted):
    """Site to coordinator: the weights after local training, and how the received ones did before it.

    `n_errors` is absent where it, or what it leaves of the cases, is too small a count to leave. A protected update
    says of its cases only how many there are, to a power of two: no other figure has been given noise.

    Attributes:
        late: the earlier round in which this was trained; what it changed is added to this order's weights. 0: none.
        weights: of the moving layers; in another encoding than `plain`, their differences from the received ones.
        control: the hospital's control variate, where it was asked for; laid out and encoded as the weights are.
    """

    kind = "update"

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

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require(self.n_errors is None or self.n_errors <= self.n_cases, "more errors than cases")
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


class Measure(Declared):
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
        require(self.n_positive <= self.n, "cases do not add up")
        for right, wrong, total in classes(self):
            require((right is None) == (wrong is None), "half a class")
            require(right is None or wrong is None or right + wrong == total, "cases do not add up")
        require(all(getattr(self, name) is None for name in self.few), "a small count that is there")
        if self.auc_low is not None and self.auc_high is not None:
            require(self.auc_low <= self.auc_high, "interval upside down")
        return self


def classes(measure: Measure) -> tuple[tuple[int | None, int | None, int], ...]:
    """(right, wrong, sum) of positives and negatives at the local threshold, then at the vendor's."""
    negative = measure.n - measure.n_positive
    return (
        (measure.tp, measure.fn, measure.n_positive),
        (measure.tn, measure.fp, negative),
        (measure.vendor_tp, measure.vendor_fn, measure.n_positive),
        (measure.vendor_tn, measure.vendor_fp, negative),
    )


class Subgroups(Declared):
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
        require(len(lengths) == 1, "lists of different lengths")
        require(len(set(zip(self.group, self.rate, strict=True))) == len(self.group), "a group twice")
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


class Evidence(Message):
    """Site to coordinator: the served and the offered version on the gate's and the test's cases, and the verdict.

    A fold with too few positives or negatives has no measure; `mended` and `new_errors` are both there or neither.

    Attributes:
        digest: of the offered version.
        personal: of the hospital's own form of it, which was judged in its place; the figures of the offered version
            are then this form's. Its layers never leave the hospital.
        validated: share of the random sample whose truth is known.
        brier_change: of the candidate against the served version, on the gate's cases, with its standard error.
    """

    kind = "evidence"

    retraining: Name
    digest: Digest
    personal: Digest | None = None
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

    @model_validator(mode="after")
    def _another(self) -> Self:
        require(self.personal != self.digest, "a form of a version is another version")
        return self


class Decision(Message):
    """Site to coordinator: what the hospital made of a version."""

    kind = "decision"

    retraining: Name
    digest: Digest
    outcome: Outcome
    reasons: Annotated[tuple[Reason, ...], Field(max_length=16)] = ()


class Tally(Message):
    """Site to coordinator: how many errors there are that no retraining has learned from.

    Attributes:
        new_errors: rounded down to a multiple of the least count that may leave, so that neither it nor the difference
            to an earlier one shows a patient.
    """

    kind = "tally"

    retraining: Name
    new_errors: Count


class Withdrawn(Message):
    """Site to coordinator: what this hospital did with a withdrawal.

    Attributes:
        digest: of the version.
        notice: the digest of what was signed.
    """

    kind = "withdrawn"

    digest: Digest
    notice: Digest
    state: Taken


class Holdings(Message):
    """Site to coordinator: what the versions that were asked for are here, one a place; what is not held is left out.

    Attributes:
        changed: by what each came into its state: a closed word, so that going back for a safety reason is known to be
            an incident, and nothing else leaves.
    """

    kind = "holdings"

    digests: Annotated[tuple[Digest, ...], Field(max_length=MAX_ASKED)] = ()
    states: Annotated[tuple[Holding, ...], Field(max_length=MAX_ASKED)] = ()
    changed: Annotated[tuple[Changed, ...], Field(max_length=MAX_ASKED)] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        require(len({len(self.digests), len(self.states), len(self.changed)}) == 1, "lists of different lengths")
        require(len(set(self.digests)) == len(self.digests), "a version twice")
        return self


class Refusal(Message):
    """Site to coordinator, instead of an answer: one code, and nothing of what lies behind it."""

    kind = "refusal"

    to: Asked
    code: RefusalCode


def measures(evidence: Evidence) -> dict[str, Measure]:
    """The measures that there are, by field."""
    found = {
        "served_gate": evidence.served_gate,
        "served_test": evidence.served_test,
        "candidate_gate": evidence.candidate_gate,
        "candidate_test": evidence.candidate_test,
    }
    return {name: measure for name, measure in found.items() if measure is not None}
