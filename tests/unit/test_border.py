"""The border answers everything, records both ways before anything leaves, and lets no text out."""

import logging

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from client.federation.border import Border, Handlers
from models.errors import BundleRefused, NotAllowed, VigieError
from models.exchange import Decision, Refusal, Release, TrainOrder, Update, fingerprint, layout_of, parse
from models.hyperparameters import Hyperparameters

CANARY = "DUPONT^Marie"
BASE = "b" * 64
WEIGHTS = {"w": np.ones((2, 2), np.float32)}


class Memory:
    def __init__(self):
        self.rows = []

    def append(self, event, facts):
        self.rows.append((event, dict(facts)))
        return "0" * 64


def honest(order):
    return Update(retraining=order.retraining, round=order.round, base=order.base, n_cases=30, n_errors=None,
                  train_loss=0.1, weights=dict(order.weights))  # fmt: skip


def never(order):
    raise AssertionError


def border(ledger, train=honest, release=never, layout=None, propose=never, allows=lambda _: None, offer=never):
    known = layout or (lambda _: layout_of(WEIGHTS))
    return Border(ledger, lambda: Handlers(propose, allows, train, offer, release, known))


def order(**changes):
    fields = {"retraining": "autumn", "round": 3, "base": BASE, "hyper": Hyperparameters(), "weights": WEIGHTS}
    return TrainOrder(**{**fields, **changes})


def test_both_ways_are_in_the_ledger_as_they_were_on_the_wire():
    ledger = Memory()
    sent = order().to_record()

    reply = border(ledger).answer(sent)

    assert isinstance(parse(reply), Update)
    for (event, facts), direction, record in zip(ledger.rows, ("in", "out"), (sent, reply), strict=True):
        crossing = fingerprint(record)
        assert event == "border.crossed"
        assert facts == {"direction": direction, "kind": crossing.kind, "retraining": "autumn", "round": 3,
                         "sha256": crossing.sha256, "bytes": crossing.size, "code": None}  # fmt: skip


def test_what_cannot_be_recorded_does_not_leave():
    class Full(Memory):
        def append(self, event, facts):
            if facts["direction"] == "out":
                raise OSError("disk full")
            return super().append(event, facts)

    with pytest.raises(OSError, match="disk full"):
        border(Full()).answer(order().to_record())


class Coded(VigieError):
    code = "consent-missing"


class Uncoded(VigieError):
    code = "DUPONT"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError(CANARY), "failed"),
        (KeyError(CANARY), "failed"),
        (MemoryError(), "failed"),
        (Coded(CANARY), "consent-missing"),
        (Uncoded(CANARY), "failed"),
        (BundleRefused(CANARY), "bundle-refused"),
        (NotAllowed(CANARY), "not-allowed"),
    ],
)
def test_an_exception_leaves_as_a_code(error, code, caplog):
    def train(_):
        raise error from RuntimeError(CANARY)

    ledger = Memory()
    with caplog.at_level(logging.DEBUG):
        reply = border(ledger, train).answer(order().to_record())

    assert parse(reply) == Refusal(to="train", code=code)
    assert ledger.rows[-1][1]["code"] == code
    assert CANARY not in caplog.text + repr(ledger.rows) + repr(reply)


@pytest.mark.parametrize(
    "reply",
    [
        lambda o: honest(o).model_copy(update={"round": 4}),
        lambda o: honest(o).model_copy(update={"base": "c" * 64}),
        lambda o: honest(o).model_copy(update={"retraining": "winter"}),
        lambda o: honest(o).model_copy(update={"train_loss": float("nan")}),
        lambda o: honest(o).model_copy(update={"weights": {"w": np.full((2, 2), np.nan, np.float32)}}),
        lambda o: honest(o).model_copy(update={"weights": {**WEIGHTS, "pixels": np.ones(9, np.float32)}}),
        lambda o: honest(o).model_copy(update={"weights": {"w": WEIGHTS["w"].astype(object)}}),
        lambda o: honest(o).model_copy(update={"n_cases": CANARY}),
        lambda o: Decision(retraining=o.retraining, digest=BASE, outcome="adopted"),
        lambda o: o,
        lambda o: {"patients": CANARY},
        lambda o: None,
    ],
)
def test_a_reply_that_is_not_the_declared_one_does_not_leave(reply):
    sent = border(Memory(), reply).answer(order().to_record())

    assert parse(sent) == Refusal(to="train", code="reply-refused")
    assert CANARY not in repr(sent)


def test_a_field_smuggled_past_the_model_stays_behind():
    def smuggle(o):
        return Update.model_construct(**dict(honest(o)), note=CANARY)

    assert CANARY not in repr(border(Memory(), smuggle).answer(order().to_record()))


def test_an_order_from_a_version_that_the_hospital_does_not_hold_is_refused():
    reply = border(Memory(), layout=lambda _: None).answer(order().to_record())

    assert parse(reply) == Refusal(to="train", code="base-unknown")


def test_an_order_with_a_tensor_too_many_never_reaches_the_trainer():
    def train(_):
        raise AssertionError

    extra = {**WEIGHTS, "more": np.zeros(2, np.float32)}

    reply = border(Memory(), train).answer(order(weights=extra).to_record())

    assert parse(reply) == Refusal(to="train", code="border-refused")


TWO = {**WEIGHTS, "fc.bias": np.ones(3, np.float32)}


def asked_of_two(**changes):
    """An order over a base of two layers of which only `w` crosses."""
    return order(local=("fc",), **changes)


@pytest.mark.parametrize(
    ("asked", "reply", "code"),
    [
        (asked_of_two(), honest, None),
        (asked_of_two(), lambda o: honest(o).model_copy(update={"weights": TWO}), "reply-refused"),
        (asked_of_two(weights=TWO), honest, "border-refused"),
        (order(weights=TWO, frozen=("layer9",)), honest, "border-refused"),
        (order(weights=TWO, local=("fc",), frozen=("w",)), honest, "border-refused"),
        (asked_of_two(reply="eight-bit"), honest, "reply-refused"),
        (asked_of_two(), lambda o: honest(o).model_copy(update={"encoding": "eight-bit"}), "reply-refused"),
        (asked_of_two(reply="eight-bit"), lambda o: honest(o).model_copy(update={"encoding": "eight-bit"}), None),
        (asked_of_two(), lambda o: honest(o).model_copy(update={"control": WEIGHTS}), "reply-refused"),
        (asked_of_two(controls=True), honest, "reply-refused"),
        (asked_of_two(controls=True), lambda o: honest(o).model_copy(update={"control": TWO}), "reply-refused"),
        (asked_of_two(controls=True), lambda o: honest(o).model_copy(update={"control": WEIGHTS}), None),
    ],
)
def test_only_the_layers_and_the_form_that_were_ordered_leave(asked, reply, code):
    sent = parse(border(Memory(), reply, layout=lambda _: layout_of(TWO)).answer(asked.to_record()))

    if code is None:
        assert isinstance(sent, Update)
        assert set(sent.weights) == {"w"}
    else:
        assert sent == Refusal(to="train", code=code)


def test_what_is_not_a_message_is_refused_without_opening_the_site():
    ledger = Memory()

    def open_site():
        raise AssertionError

    reply = Border(ledger, open_site).answer(RecordDict({"x": ConfigRecord({"query": "select"})}))

    assert parse(reply) == Refusal(to="unknown", code="border-refused")
    assert [event for event, _ in ledger.rows] == ["border.refused", "border.crossed"]


def test_a_site_that_does_not_open_is_unavailable():
    def open_site():
        raise OSError(CANARY)

    reply = Border(Memory(), open_site).answer(order().to_record())

    assert parse(reply) == Refusal(to="train", code="unavailable")


def test_a_decision_belongs_to_its_release():
    asked = Release(retraining="autumn", digest=BASE, released=True)

    def another(_):
        return Decision(retraining="autumn", digest="c" * 64, outcome="adopted")

    reply = border(Memory(), release=another).answer(asked.to_record())

    assert parse(reply) == Refusal(to="release", code="reply-refused")
