"""Masks cancel in the sum, the sum is exact to quantisation, and one masked vector says nothing."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import group, masks, shares, summand
from models.bounds import Bounds
from models.errors import BorderRefused, NotAllowed
from models.summand import Figures

numbers = st.lists(st.floats(-1, 1), min_size=1, max_size=20)


def keys_of(names):
    keys = {name: masks.new_key() for name in names}
    return {
        (one, two): masks.agreed(keys[one], group.point(keys[two])) for one, two in itertools.permutations(names, 2)
    }


NAMES = ("alpha", "beta", "delta", "epsilon", "gamma")
PAIRS = keys_of(NAMES)


@given(st.data())
def test_masks_cancel_whoever_drops_out(data):
    vectors = {name: np.array(data.draw(st.lists(st.floats(-1, 1), min_size=7, max_size=7))) for name in NAMES}
    active = sorted(data.draw(st.sets(st.sampled_from(NAMES), min_size=3)))
    dead = [name for name in NAMES if name not in active]
    seeds = {name: data.draw(st.binary(min_size=32, max_size=32)) for name in NAMES}
    sent = {
        name: masks.masked(
            masks.quantized(vectors[name], len(NAMES)), "context", name, seeds[name],
            {other: PAIRS[name, other] for other in NAMES if other != name},
        )
        for name in active
    }  # fmt: skip

    total = masks.unmasked(
        masks.summed(sent.values()),
        "context",
        {name: seeds[name] for name in active},
        {(name, gone): PAIRS[name, gone] for name in active for gone in dead},
    )

    found = masks.restored(total, len(active), len(NAMES))
    expected = sum(vectors[name] for name in active)
    assert np.abs(found - expected).max() <= len(active) * masks.step(len(NAMES))


@given(st.integers(3, group.MOST))
def test_the_sum_over_a_group_of_any_size_does_not_overflow(hospitals):
    ends = np.array([-1.0, 1.0, 0.0])
    total = masks.summed(masks.quantized(ends, hospitals) for _ in range(hospitals))
    found = masks.restored(total, hospitals, hospitals)
    assert np.abs(found - hospitals * ends).max() <= hospitals * masks.step(hospitals)
    assert masks.step(hospitals) < 1e-7 * hospitals


@given(numbers, numbers)
def test_what_the_server_sees_of_one_hospital_does_not_depend_on_its_update(one, other):
    """For each update there is exactly one mask that gives what was seen: seen alone, all updates are as likely."""
    length = min(len(one), len(other))
    first, second = (masks.quantized(np.array(vector[:length]), 3) for vector in (one, other))
    seen = masks.masked(first, "context", "alpha", bytes(32), {"beta": PAIRS["alpha", "beta"]})

    mask = seen - second  # the mask under which the other update would have been seen so
    assert np.array_equal(second + mask, seen)


def test_masks_are_uniform_and_differ_wherever_anything_differs():
    length = 1 << 16
    vector = masks.quantized(np.zeros(length), 3)
    seen = masks.masked(vector, "context", "alpha", b"s" * 32, {"beta": PAIRS["alpha", "beta"]})
    counts = np.bincount(seen.view(np.uint8), minlength=256)
    expected = 4 * length / 256
    assert ((counts - expected) ** 2 / expected).sum() < 360  # chi-square with 255 degrees: 1 in 10^5 is above

    streams = [
        masks.own_mask(b"s" * 32, "context", "alpha", 8),
        masks.own_mask(b"s" * 32, "context", "beta", 8),
        masks.own_mask(b"s" * 32, "another", "alpha", 8),
        masks.own_mask(b"t" * 32, "context", "alpha", 8),
        masks.pair_mask(b"s" * 32, "context", "alpha", "beta", 8),
        masks.pair_mask(b"s" * 32, "context", "alpha", "delta", 8),
    ]
    assert len({stream.tobytes() for stream in streams}) == len(streams)


def test_all_bits_of_a_secret_count():
    """Flower's generator folds its seed into 32 bits; two secrets that differ in one byte anywhere differ here."""
    secret = bytes(range(44))
    plain = masks.pair_mask(secret, "context", "alpha", "beta", 4).tobytes()
    for place in range(len(secret)):
        changed = secret[:place] + bytes([secret[place] ^ 1]) + secret[place + 1 :]
        assert masks.pair_mask(changed, "context", "alpha", "beta", 4).tobytes() != plain


# ── Shares ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@given(st.data())
def test_a_threshold_of_parts_gives_a_secret_back_and_wrong_parts_are_left_out(data):
    number = data.draw(st.integers(3, 8))
    threshold = group.threshold(number)
    seed = data.draw(st.binary(min_size=32, max_size=32))
    parts = dict(enumerate(shares.split(seed, threshold, number), 1))
    right = group.commitment(seed)
    given_ = data.draw(st.sets(st.sampled_from(sorted(parts))))
    wrong = data.draw(st.sets(st.sampled_from(sorted(parts)), max_size=1)) & given_
    held = {
        place: (parts[place][:-1] + bytes([parts[place][-1] ^ 1]) if place in wrong else parts[place])
        for place in given_
    }

    found = shares.joined(held, threshold, lambda secret: group.commitment(secret) == right)

    assert found == (seed if len(given_ - wrong) >= threshold else None)


def test_a_part_is_read_by_whom_and_when_it_was_meant_for():
    secret, other = PAIRS["alpha", "beta"], PAIRS["alpha", "gamma"]
    content = shares.sealed(secret, "round 1", "alpha", "beta", b"k" * 68, b"s" * 52)
    assert shares.opened(PAIRS["beta", "alpha"], "round 1", "alpha", "beta", content) == (b"k" * 68, b"s" * 52)
    for key, context, sender, receiver in (
        (other, "round 1", "alpha", "beta"),
        (secret, "round 2", "alpha", "beta"),
        (secret, "round 1", "beta", "alpha"),
        (secret, "round 1", "gamma", "beta"),
    ):
        with pytest.raises(NotAllowed):
            shares.opened(key, context, sender, receiver, content)


def test_two_stories_about_one_hospital_need_more_than_a_third_of_the_group():
    """Each hospital believes one: t say it is active, t say it is dead, and those who help say both."""
    for hospitals in range(group.FEWEST, group.MOST + 1):
        threshold = group.threshold(hospitals)
        assert 2 * threshold - hospitals > hospitals / 3
        assert group.FEWEST <= threshold <= hospitals


# ── What is summed ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_sum_beyond_what_hospitals_may_add_is_refused():
    """As far as a sum can tell: what is longer than updates within the bound, whoever is to blame."""
    received = {"w": np.zeros(50, np.float32), "n": np.array(3)}
    bounds = Bounds(2.0, ("*",))
    update = {"w": np.full(50, 0.2, np.float32), "n": np.array(3)}
    one = summand.summand(summand.change(update, received, bounds), 1.0, Figures(0.75, 0.5, 0.25))
    assert len(one) == summand.length(received, bounds)
    found = summand.mean(3 * one, 3, received, bounds, 1e-9)
    assert np.allclose(found.weights["w"], update["w"])
    assert found.weights["n"] == 3
    assert found.figures == Figures(0.75, 0.5, 0.25)
    poisoned = one.copy()
    poisoned[4:] = 1.0
    no_share = np.zeros_like(one)
    for total in (2 * one + poisoned, no_share, 3 * one + np.eye(1, len(one), 1)[0] * 3):
        with pytest.raises(BorderRefused):
            summand.mean(total, 3, received, bounds, 1e-9)


@pytest.mark.parametrize(("weighting", "expected"), [("site", 1.0), ("cases", 0.25), ("root", 0.5)])
def test_a_hospital_counts_by_the_rule_of_the_strategy(weighting, expected):
    assert summand.share(weighting, 32, 64) == expected
    if weighting != "site":
        with pytest.raises(BorderRefused):
            summand.share(weighting, 129, 64)
