"""What may cross the border survives the journey unchanged; what may not is refused, whatever it is."""

import io

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pydantic import ValidationError

from models.audit import Request
from models.errors import BorderRefused
from models.exchange import (
    CODES,
    KINDS,
    WIRE,
    Audit,
    Consent,
    Decision,
    Evidence,
    Figures,
    GroupOrder,
    Lines,
    Masked,
    MaskOrder,
    Measure,
    Offer,
    Proposal,
    Refusal,
    Release,
    Sealed,
    TrainOrder,
    Unmasked,
    UnmaskOrder,
    Update,
    check_weights,
    fingerprint,
    layout_of,
    parse,
)
from models.hyperparameters import Hyperparameters
from models.protection import SecureAggregation
from models.stats.release import Column, Line
from models.terms import Terms, leaving


def terms(name: str, base: str) -> Terms:
    return Terms(
        name=name, label="chest@1", base=base, hospitals=("a", "b"), quorum=1, rounds=3, strategy="fedavg",
        hyper=Hyperparameters(), norm=10.0, leaves=leaving(3), deadline_seconds=60.0, created_at=1.0, expires_at=2.0,
    )  # fmt: skip


names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,62}", fullmatch=True)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
counts = st.integers(0, 10**6)
shares = st.floats(0, 1)
tensors = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,30}", fullmatch=True)
arrays = st.one_of(
    npst.arrays(
        np.float32,
        npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
        elements=st.floats(-1e6, 1e6, width=32),
    ),
    npst.arrays(np.int64, npst.array_shapes(min_dims=0, max_dims=2, max_side=4)),
)
weights = st.dictionaries(tensors, arrays, min_size=1, max_size=6)


@st.composite
def measures(draw: st.DrawFn) -> Measure:
    tp, fn, fp, tn = (draw(st.integers(0, 500)) for _ in range(4))
    vendor_tp, vendor_tn = draw(st.integers(0, tp + fn)), draw(st.integers(0, fp + tn))
    low, auc, high = sorted(draw(st.tuples(shares, shares, shares)))
    return Measure(
        n=tp + fn + fp + tn, n_positive=tp + fn, threshold=draw(shares), tp=tp, fp=fp, tn=tn, fn=fn,
        vendor_tp=vendor_tp, vendor_fn=tp + fn - vendor_tp, vendor_tn=vendor_tn, vendor_fp=fp + tn - vendor_tn,
        auc=auc, auc_low=low, auc_high=high,
    )  # fmt: skip


updates = st.builds(
    Update, retraining=names, round=counts, base=digests, n_cases=st.just(10**6), n_errors=counts,
    train_loss=st.floats(-1e3, 1e3), auc_received=st.none() | shares, weights=weights,
)  # fmt: skip
proposals = st.builds(
    lambda name, base, signature: Proposal(
        retraining=name, signer="coordinator", signature=signature, terms=terms(name, base).to_bytes()
    ),
    names, digests, st.binary(min_size=64, max_size=64),
)  # fmt: skip
layers = st.lists(tensors, max_size=3).map(tuple)
controlled = weights.flatmap(
    lambda chosen: st.builds(
        TrainOrder, retraining=names, round=counts, base=digests, hyper=st.just(Hyperparameters()), local=layers,
        frozen=layers, reply=st.sampled_from(["plain", "float16", "eight-bit"]), stochastic=st.booleans(),
        controls=st.just(True), weights=st.just(chosen), control=st.none() | st.just(chosen),
    )
)  # fmt: skip
told = st.builds(
    Line, st.builds(Column, inclusion=st.integers(0, 100)), st.sampled_from(["all", "scanner-ge"]),
    st.integers(11, 10**6),
    st.none() | st.integers(0, 11), st.sampled_from(["", "right", "wrong"]),
)  # fmt: skip
points = st.binary(min_size=49, max_size=49)
signatures = st.binary(min_size=64, max_size=112)
parts = st.binary(min_size=1, max_size=512)


@st.composite
def grouped(draw: st.DrawFn) -> GroupOrder | Sealed | MaskOrder | Masked | UnmaskOrder | Unmasked:
    """The messages of a round whose updates are summed."""
    sites = tuple(sorted(draw(st.sets(names, min_size=3, max_size=5))))

    def each(of: st.SearchStrategy, fewer: int = 0) -> tuple:
        return tuple(draw(of) for _ in sites[fewer:])

    step = {"retraining": draw(names), "round": draw(counts), "attempt": draw(st.integers(1, 99))}
    of_all = {"sites": sites, "keys": each(points), "signatures": each(signatures)}
    match draw(st.sampled_from(["group-train", "sealed", "mask", "masked", "unmask", "unmasked"])):
        case "group-train":
            return GroupOrder(
                **step, **of_all, base=draw(digests), hyper=Hyperparameters(), weights=draw(weights),
                privacy=SecureAggregation(weighting=draw(st.sampled_from(["root", "site", "cases"]))),
            )  # fmt: skip
        case "sealed":
            return Sealed(
                **step, base=draw(digests), n_cases=draw(counts), key=draw(points), commitment=draw(digests),
                shares=each(parts, 1), signature=draw(signatures),
            )  # fmt: skip
        case "mask":
            return MaskOrder(**step, **of_all, commitments=each(digests), cases=each(counts), shares=each(parts, 1))
        case "masked":
            return Masked(**step, vector=draw(npst.arrays(np.uint32, st.integers(0, 9))))
        case "unmask":
            return UnmaskOrder(**step, active=sites[:3], dead=sites[3:])
        case _:
            return Unmasked(**step, seeds=each(parts), keys=each(parts, 2))


messages = st.one_of(
    grouped(),
    proposals,
    controlled,
    st.builds(
        Consent, retraining=names, digest=digests, state=st.sampled_from(["granted", "waiting", "declined"]),
        reasons=st.lists(st.sampled_from(["person", "expired"]), max_size=2).map(tuple),
    ),
    st.builds(
        TrainOrder, retraining=names, round=counts, base=digests, hyper=st.just(Hyperparameters()), weights=weights
    ),
    updates,
    st.builds(
        Offer, retraining=names, digest=digests, parent=st.none() | digests, bundle=st.binary(min_size=1, max_size=3000)
    ),
    st.builds(
        Evidence, retraining=names, digest=digests, served=st.none() | digests,
        verdict=st.sampled_from(["adopt", "refuse"]),
        reasons=st.lists(st.sampled_from(["non-inferior", "too-few-positives"]), max_size=3).map(tuple),
        mended=counts, new_errors=counts, served_gate=st.none() | measures(), candidate_test=st.none() | measures(),
    ),
    st.builds(
        Audit, signer=names, signature=st.binary(min_size=64, max_size=64),
        request=st.builds(Request, version=digests, hospital=names, after=counts, at=st.floats(0, 1e12)).map(
            Request.to_bytes
        ),
    ),
    st.builds(Figures, digest=digests),
    st.builds(
        Figures, digest=digests, number=st.integers(1, 10**6), period=st.integers(1, 999912),
        told=st.lists(told, min_size=1, max_size=9).map(Lines.of),
    ),
    st.builds(Release, retraining=names, digest=digests, released=st.booleans()),
    st.builds(Decision, retraining=names, digest=digests, outcome=st.sampled_from(["adopted", "refused", "shadow"])),
    st.builds(Refusal, to=st.sampled_from(["train", "unknown"]), code=st.sampled_from(sorted(CODES))),
)  # fmt: skip


def example() -> Update:
    return Update(
        retraining="autumn", round=2, base="a" * 64, n_cases=9, n_errors=1, train_loss=0.5,
        weights={"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(4, np.int64)},
    )  # fmt: skip


def over_the_wire(record: RecordDict) -> RecordDict:
    """As Flower moves it: every object to bytes and back."""
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
    from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

    contents = {key: part.deflate() for key, part in get_all_nested_objects(record).items()}
    inflated = inflate_object_from_contents(record.object_id, contents)
    assert isinstance(inflated, RecordDict)
    return inflated


ARRAYS = {"weights", "control", "vector"}


@given(messages)
def test_a_message_survives_the_journey(message):
    read = parse(over_the_wire(message.to_record()))

    assert type(read) is type(message)
    assert read.model_dump(exclude=ARRAYS) == message.model_dump(exclude=ARRAYS)
    if isinstance(message, Masked):
        assert np.array_equal(read.vector, message.vector)
    if isinstance(message, TrainOrder | Update):
        assert layout_of(read.weights) == layout_of(message.weights)
        assert all(np.array_equal(read.weights[name], array) for name, array in message.weights.items())
        assert (read.control is None) == (message.control is None)
        assert all(np.array_equal(read.control[name], array) for name, array in (message.control or {}).items())
    assert fingerprint(read.to_record()) == fingerprint(message.to_record())


@given(messages, st.data())
def test_one_changed_field_is_refused_or_another_message(message, data):
    """No field takes text: a canary planted in any of them never comes through."""
    record = message.to_record()
    fields = dict(record.config_records["vigie"])
    field = data.draw(st.sampled_from(sorted(fields)) | st.just("patient"))
    old = fields.get(field)
    canary = "DUPONT^Marie"
    fields[field] = [canary] if isinstance(old, list) else canary
    record["vigie"] = ConfigRecord(fields)

    with pytest.raises(BorderRefused) as refused:
        parse(record)

    assert canary not in str(refused.value)


values = st.one_of(
    st.text(max_size=20), st.integers(-(2**40), 2**40), st.floats(), st.binary(max_size=20), st.booleans(),
    st.lists(st.text(max_size=5), max_size=3), st.lists(st.integers(0, 9), max_size=3),
)  # fmt: skip


@given(
    st.dictionaries(
        st.sampled_from(["kind", "wire", "retraining", "round", "base", "digest", "layout", "a.b", "a"])
        | st.text(max_size=9),
        values,
        max_size=8,
    ),
    st.sampled_from(sorted(KINDS)) | values,
)
def test_anything_at_all_is_refused_and_never_crashes(fields, kind):
    assume(kind != "holdings" or not fields.keys() <= {"kind", "wire"})  # nothing at all says that none is held
    record = RecordDict({"vigie": ConfigRecord({**fields, "kind": kind, "wire": WIRE})})

    fingerprint(record)
    with pytest.raises(BorderRefused):
        parse(record)


def with_weights(**arrays: Array) -> RecordDict:
    record = example().to_record()
    record["weights"] = ArrayRecord(arrays)
    return record


def header(shape: tuple[int, ...], descr: str = "|u1", fortran: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"shape": shape, "fortran_order": fortran, "descr": descr})
    return buffer.getvalue()


SIZE = 8 + 6 * 4  # bytes of the example's weights


@pytest.mark.parametrize(
    "array",
    [
        Array("uint8", (SIZE,), "pickle", b"cposix\nsystem\n(S'true'\ntR."),
        Array("uint8", (SIZE,), "numpy.ndarray", b""),
        Array("uint8", (SIZE,), "numpy.ndarray", b"\x93NUMPY\x01\x00"),
        Array("uint8", (10**12,), "numpy.ndarray", header((10**12,))),
        Array("uint8", (SIZE,), "numpy.ndarray", header((SIZE,), "|O") + b"\x80\x04."),
        Array("uint8", (SIZE,), "numpy.ndarray", header((SIZE,), "{'a': 1}.__class__")),
        Array(np.zeros((2, SIZE // 2), np.uint8)),
        Array(np.zeros(SIZE + 1, np.uint8)),
        Array(np.zeros(SIZE - 1, np.uint8)),
        Array(np.zeros(SIZE // 8, np.float64)),
    ],
    ids=["pickle", "empty", "cut", "huge", "objects", "expression", "shape", "longer", "shorter", "other-type"],
)
def test_an_array_of_another_form_is_refused_unread(array):
    with pytest.raises(BorderRefused):
        parse(with_weights(packed=array))


def test_an_array_beside_the_declared_one_is_refused():
    packed = example().to_record().array_records["weights"]["packed"]

    parse(with_weights(packed=packed))
    with pytest.raises(BorderRefused):
        parse(with_weights(packed=packed, pixels=packed))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value):
    weights = {**example().weights, "w": np.full((2, 3), value, np.float32)}

    with pytest.raises(BorderRefused):
        parse(example().model_copy(update={"weights": weights}).to_record())


@pytest.mark.parametrize(
    "lines",
    [
        ["n int64 ", "w float32 2x4"],
        ["n int64 ", "w float32 2x2"],
        ["n int64 ", "w float32 2x3", "w float32 0"],
        ["n int64 ", "w object 6"],
        ["n int64 ", "w float32 -2x-3"],
        ["n int64 ", "Dupont Marie float32 2x3"],
        ["n int64 ", "w float32 9999999x9999999x9999999"],
        [1, 2],
        [],
    ],
)
def test_a_layout_that_does_not_fit_is_refused(lines):
    record = example().to_record()
    record["vigie"] = ConfigRecord({**dict(record.config_records["vigie"]), "layout": lines})

    with pytest.raises(BorderRefused):
        parse(record)


@pytest.mark.parametrize(
    "change",
    [
        {"x": np.zeros(1, np.float32)},
        {"w": np.zeros((3, 2), np.float32)},
        {"w": np.zeros((2, 3), np.float16)},
        {"n": None},
    ],
    ids=["extra", "shape", "type", "missing"],
)
def test_weights_unlike_the_base_are_refused(change):
    base = layout_of(example().weights)
    changed = {name: array for name, array in {**example().weights, **change}.items() if array is not None}

    check_weights(example().weights, base)
    with pytest.raises(BorderRefused):
        parse(example().model_copy(update={"weights": changed}).to_record(), base)


def test_a_record_beside_the_declared_ones_is_refused():
    record = example().to_record()
    record["metrics"] = MetricRecord({"auc": 0.5})

    with pytest.raises(BorderRefused):
        parse(record)


def test_a_bundle_that_is_not_the_declared_one_is_refused():
    record = Offer(retraining="r", digest="d" * 64, bundle=b"a bundle").to_record()
    record["bundle"] = ArrayRecord({"tar": Array(np.frombuffer(b"A bundle", np.uint8))})

    with pytest.raises(BorderRefused):
        parse(record)


@pytest.mark.parametrize("change", [{"tp": 9}, {"n": 39}, {"vendor_fn": 4}, {"auc_low": 0.96}, {"auc": float("nan")}])
def test_counts_that_do_not_add_up_are_refused(change):
    good = {
        "n": 40,
        "n_positive": 10,
        "threshold": 0.5,
        "tp": 8,
        "fp": 3,
        "tn": 27,
        "fn": 2,
        "vendor_tp": 7,
        "vendor_fp": 2,
        "vendor_tn": 28,
        "vendor_fn": 3,
        "auc": 0.9,
        "auc_low": 0.8,
        "auc_high": 0.95,
    }
    Measure(**good)
    with pytest.raises(ValidationError):
        Measure(**{**good, **change})


def test_the_fingerprint_of_what_is_not_a_message_takes_nothing_over():
    record = RecordDict({"vigie": ConfigRecord({"kind": "DUPONT", "retraining": "../DUPONT", "round": -1})})

    crossing = fingerprint(record)

    assert (crossing.kind, crossing.retraining, crossing.round) == ("unknown", None, None)
    assert len(crossing.sha256) == 64


def test_twenty_megabytes_travel():
    offer = Offer(retraining="r", digest="d" * 64, bundle=np.random.default_rng(1).bytes(20 * 2**20))

    assert parse(over_the_wire(offer.to_record())).bundle == offer.bundle
