"""Fewer bits carry what they say, lose nothing over the rounds, and carry nothing beside it."""

import numpy as np
import pytest
from flwr.app import ConfigRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from models import compression
from models.compression import BLOCK, Encoding, applied, difference, pack, rounded, size, unpack, with_feedback
from models.errors import BorderRefused
from models.exchange import Update, fingerprint, layout_of

floats = npst.arrays(
    np.float32, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9), elements=st.floats(-9, 9, width=32)
)
integers = npst.arrays(np.int64, npst.array_shapes(max_dims=2, max_side=3))
tensors = st.dictionaries(st.sampled_from("abcdef"), floats | integers, min_size=1)
encodings = st.sampled_from(["float16", "eight-bit"])


def same(one, other) -> bool:
    return set(one) == set(other) and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


@given(tensors, encodings, st.none() | st.integers(0, 9))
def test_what_was_rounded_once_is_carried_unchanged(values, encoding, seed) -> None:
    shown = rounded(values, encoding, None if seed is None else np.random.default_rng(seed))
    packed = pack(shown, encoding)
    assert packed.size == size(layout_of(values), encoding)
    assert same(unpack(packed, layout_of(values), encoding), shown)


@given(floats, st.none() | st.integers(0, 9))
def test_no_value_is_further_off_than_its_block_allows(values, seed) -> None:
    draw = None if seed is None else np.random.default_rng(seed)
    shown = rounded({"a": values}, "eight-bit", draw)["a"].reshape(-1)
    flat = values.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        block = slice(start, start + BLOCK)
        # the step is the power of two with which the largest takes up more than half of the words
        step = float(np.abs(flat[block]).max()) / 31.5
        bound = step * (0.5 if draw is None else 1.0) + 2.0**-149
        assert float(np.abs(shown[block].astype(np.float64) - flat[block]).max()) <= bound


def test_chance_is_right_on_average() -> None:
    values = {"a": np.random.default_rng(0).normal(size=64).astype(np.float32)}
    draw = np.random.default_rng(1)
    mean = np.mean([rounded(values, "eight-bit", draw)["a"] for _ in range(4000)], axis=0)
    assert np.abs(mean - values["a"]).max() < 0.005


@given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=8), encodings, st.booleans())
def test_over_the_rounds_the_sum_sent_is_the_sum_meant(seeds, encoding, chance) -> None:
    left: dict = {}
    meant, sent = np.zeros((7, 11)), np.zeros((7, 11))
    for seed in seeds:
        draw = np.random.default_rng(seed)
        update = {"a": draw.normal(0, 1e-3, (7, 11)).astype(np.float32)}
        shown, left = with_feedback(update, left, encoding, draw if chance else None)
        meant, sent = meant + update["a"], sent + shown["a"]
    np.testing.assert_allclose(sent + left["a"], meant, atol=1e-8)
    assert np.abs(left["a"]).max() < 3e-4  # what is left behind does not grow


def test_what_was_left_of_another_network_is_forgotten() -> None:
    values = {"a": np.ones(3, np.float32)}
    shown, left = with_feedback(values, {"a": np.ones(4, np.float32), "b": np.ones(3, np.float32)}, "eight-bit")
    assert same(shown, values)
    assert same(left, {"a": np.zeros(3, np.float32)})


def network(draw: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = {"conv.weight": (48, 16, 3, 3), "norm.weight": (48,), "norm.bias": (48,), "fc.weight": (1, 48)}
    return {name: draw.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def update(encoding: Encoding, weights) -> Update:
    return Update(
        retraining="r", round=1, base="a" * 64, n_cases=2, n_errors=0, train_loss=0.5, encoding=encoding,
        weights=weights,
    )  # fmt: skip


def test_a_message_takes_a_quarter_and_brings_the_weights() -> None:
    draw = np.random.default_rng(0)
    received, change = network(draw), network(draw)
    trained = {name: received[name] + change[name] / 100 for name in received}
    plain = fingerprint(update("plain", trained).to_record()).size
    for encoding, share, off in (("float16", 0.52, 1e-5), ("eight-bit", 0.25, 2e-4)):
        shown = rounded(difference(trained, received), encoding)
        record = update(encoding, shown).to_record()
        assert fingerprint(record).size <= share * plain
        found = Update.from_record(record, layout_of(received))
        assert same(found.trained(received), applied(shown, received))
        assert max(np.abs(found.trained(received)[name] - trained[name]).max() for name in trained) < off


def hostile(change) -> None:
    values = network(np.random.default_rng(0))
    forms = layout_of(values)
    packed = pack(values, "eight-bit")
    unpack(packed, forms, "eight-bit")
    with pytest.raises(BorderRefused):
        unpack(change(packed.copy()), forms, "eight-bit")


def test_another_length_is_refused() -> None:
    hostile(lambda packed: packed[:-1])
    hostile(lambda packed: np.append(packed, np.uint8(0)))


def test_bytes_that_we_would_not_write_are_refused() -> None:
    """Each set of values has one form: no bit is left to carry anything else."""
    blocks = -(-48 * 16 * 9 // BLOCK) + 2 + 2 + 2

    def zero_word(packed):
        packed[blocks : blocks + 7] = 0  # -64 is no word
        return packed

    hostile(zero_word)
    silent = pack({"a": np.zeros(3, np.float32)}, "eight-bit")
    silent[0] = 7  # nothing, in a power of two that says something
    with pytest.raises(BorderRefused):
        unpack(silent, {"a": ((3,), "float32")}, "eight-bit")


def test_padding_holds_nothing() -> None:
    forms = {"a": ((3,), "float32")}
    packed = pack({"a": np.array([1, 0.5, -1], np.float32)}, "eight-bit")
    packed[-1] |= 0x80
    with pytest.raises(BorderRefused):
        unpack(packed, forms, "eight-bit")


def test_what_is_not_finite_is_refused() -> None:
    forms = {"a": ((2,), "float32")}
    for value in (np.inf, np.nan):
        with pytest.raises(BorderRefused):
            unpack(np.array([1, value], "<f2").view(np.uint8), forms, "float16")
    with pytest.raises(BorderRefused):
        applied({"a": np.full(2, 3e38, np.float32)}, {"a": np.full(2, 3e38, np.float32)})


@pytest.mark.parametrize("encoding", ["four-bit", "", "DUPONT^Marie", 8, "plain", "float16"])
def test_an_encoding_that_is_not_the_one_of_the_bytes_is_refused(encoding) -> None:
    record = update("eight-bit", rounded(network(np.random.default_rng(0)), "eight-bit")).to_record()
    record["vigie"] = ConfigRecord({**dict(record.config_records["vigie"]), "encoding": encoding})
    with pytest.raises(BorderRefused):
        Update.from_record(record)


@given(st.binary(max_size=64), encodings)
def test_any_bytes_are_values_or_refused(content, encoding) -> None:
    forms = {"a": ((5,), "float32"), "b": ((), "int64"), "c": ((33,), "float32")}
    packed = np.frombuffer(content.ljust(size(forms, encoding), b"\x41")[: size(forms, encoding)], np.uint8)
    try:
        found = compression.unpack(packed, forms, encoding)
    except BorderRefused:
        return
    assert np.array_equal(pack(found, encoding), packed)
