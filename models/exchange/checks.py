"""Which answer belongs to which order, and what of it may leave."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from models import bounds
from models.errors import BorderRefused
from models.exchange.answers import (
    Consent,
    Decision,
    Evidence,
    Holdings,
    Measure,
    Refusal,
    Tally,
    Update,
    Withdrawn,
    classes,
    measures,
)
from models.exchange.figures import Audit, Figures
from models.exchange.grouped import GroupOrder, Masked, MaskOrder, Sealed, Unmasked, UnmaskOrder, follows
from models.exchange.message import claimed
from models.exchange.orders import Inquiry, Offer, Proposal, Release, Survey, TrainOrder, Withdrawal
from models.exchange.weights import Layout, Weights
from models.exchange.words import Channel, Half
from models.protection import Unprotected
from models.stats import disclosure

if TYPE_CHECKING:
    from flwr.app import RecordDict

Order = Proposal | TrainOrder | MaskOrder | UnmaskOrder | Offer | Release | Survey | Withdrawal | Inquiry | Audit
Answer = Consent | Update | Sealed | Masked | Unmasked | Evidence | Decision | Tally | Withdrawn | Holdings | Figures
Reply = Answer | Refusal
Message = Order | Reply

ANSWERS: Mapping[type[Order], type[Answer]] = {
    Proposal: Consent,
    TrainOrder: Update,
    GroupOrder: Sealed,
    MaskOrder: Masked,
    UnmaskOrder: Unmasked,
    Offer: Evidence,
    Release: Decision,
    Survey: Tally,
    Withdrawal: Withdrawn,
    Inquiry: Holdings,
    Audit: Figures,
}
"""Which reply belongs to which order."""

CONTROL: frozenset[type[Order]] = frozenset({Proposal, Survey, Withdrawal, Inquiry, Audit})
"""What is answered in seconds, and needs no network: the orders of the control channel."""

_BY_KIND: Mapping[str, type[Message]] = {model.kind: model for model in (*ANSWERS, *ANSWERS.values(), Refusal)}


def parse(record: "RecordDict", layout: Layout | None = None) -> Message:
    """Read a message, whichever it is, and check all of it.

    Args:
        record: what Flower carried.
        layout: what the weights must look like, where they are known.

    Raises:
        BorderRefused: no message, or not well formed; see `Message.from_record`.
    """
    return _BY_KIND[claimed(record)].from_record(record, layout)


def channel_of(order: Order) -> Channel:
    """By which of a hospital's two connections an order goes."""
    return "control" if type(order) in CONTROL else "training"


def belongs(answer: Answer, order: Order) -> bool:
    """Whether an answer is the one to this order, and not to another of its kind."""
    if not isinstance(answer, ANSWERS[type(order)]):
        return False
    if isinstance(answer, Withdrawn) or isinstance(order, Withdrawal):
        asked = isinstance(order, Withdrawal) and (order.digest, order.sha256)
        return isinstance(answer, Withdrawn) and (answer.digest, answer.notice) == asked
    if isinstance(answer, Holdings) or isinstance(order, Inquiry):
        return isinstance(answer, Holdings) and isinstance(order, Inquiry) and set(answer.digests) <= set(order.digests)
    if isinstance(answer, Figures) or isinstance(order, Audit):
        if not (isinstance(answer, Figures) and isinstance(order, Audit)) or answer.digest != order.asked.version:
            return False
        return not answer.number or answer.number > order.asked.after
    if answer.retraining != order.retraining:
        return False
    match answer, order:
        case Update(), TrainOrder():
            return answer.answers(order)
        case Sealed(), GroupOrder():
            return answer.answers(order)
        case Masked() | Unmasked(), MaskOrder() | UnmaskOrder():
            return follows(answer, order)
        case Tally(), Survey():
            return True
        case Consent() | Evidence() | Decision(), Proposal() | Offer() | Release():
            return answer.digest == order.digest
        case _:
            return False


def check_answer(answer: Answer, order: Order) -> None:
    """Refuse an answer that says more than may leave: the same at the hospital before it goes, and at the coordinator.

    Raises:
        BorderRefused: an update or a control variate beyond the order's bounds, or a count that could show a patient.
    """
    if isinstance(answer, Update) and isinstance(order, TrainOrder):
        bounds.check(answer.weights, _start(answer, order), order.bounds)
        if answer.control is not None:  # of as many numbers as the weights, it could say as much as they do
            bounds.check(answer.control, _nothing(answer.control), order.bounds)
        _require_large(answer.n_cases)
        if answer.n_errors is not None:
            _require_large(answer.n_errors, answer.n_cases - answer.n_errors)
        if not isinstance(order.privacy, Unprotected) and not _is_withheld(answer):
            raise BorderRefused("a protected update that says something of its cases")
    if isinstance(answer, Sealed):
        _require_large(answer.n_cases)
        if answer.n_cases != disclosure.coarse(answer.n_cases):
            raise BorderRefused("an update that is to be summed, and an exact number of its cases")
    if isinstance(answer, Tally) and answer.new_errors % disclosure.LEAST:
        raise BorderRefused("a count whose change could show a patient")
    if isinstance(answer, Figures) and (faults := answer.faults()):
        raise BorderRefused(faults[0])
    if isinstance(answer, Evidence):
        for measure in measures(answer).values():
            _require_large(measure.n_positive, measure.n - measure.n_positive)
            positive, negative, at_vendors_positive, at_vendors_negative = classes(measure)
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
    return _nothing(update.weights)


def _nothing(weights: Weights) -> Weights:
    return {name: np.zeros_like(array) for name, array in weights.items()}


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
