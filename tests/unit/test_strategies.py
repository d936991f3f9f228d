"""Strategies: equal to the mean where they must be, the same bits in whatever order, held by nobody who lies."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from configs.schema import RetrainingConfig, compose
from models.errors import ConfigurationError
from scripts.benchmarks import federation
from server.strategies import AnyStrategy, Contribution, Strategy
from server.strategies.strategy import length

NAMES = sorted(path.stem for path in (Path(federation.__file__).parents[2] / "configs" / "strategy").glob("*.yaml"))
_adapter: TypeAdapter[Strategy] = TypeAdapter(AnyStrategy)


@cache
def configured(name: str) -> dict[str, Any]:
    return compose("retraining", RetrainingConfig, ["name=x", "base=x@1", f"strategy={name}"]).strategy


def strategy(name: str, **settings: Any) -> Strategy:
    """As `strategy=NAME strategy.KEY=VALUE` would choose it."""
    return _adapter.validate_python(configured(name) | settings)


def received() -> dict[str, np.ndarray]:
    return {"w": np.linspace(-1, 1, 40, dtype=np.float32).reshape(8, 5), "b": np.array(0.5, np.float32)}


def updates(count: int = 5, spread: float = 0.1, seed: int = 1) -> list[Contribution]:
    draw = np.random.default_rng(seed)

    def some() -> dict[str, np.ndarray]:
        return {name: (value + draw.normal(0, spread, value.shape)).astype(np.float32) for name, value in start.items()}

    start = received()
    return [
        Contribution(f"site-{number}", some(), 10 + 7 * number, 0.2 + 0.1 * number, some()) for number in range(count)
    ]


def same(one: Any, other: Any) -> bool:
    return set(one) == set(other) and all(np.array_equal(one[name], other[name]) for name in one)


def test_a_strategy_is_chosen_with_its_settings_and_nothing_else() -> None:
    assert str(strategy("fedavg-root")) == "fedavg (weighting root)"
    assert str(strategy("fedprox", mu=0.1)) == "fedprox (weighting root, mu 0.1)"
    for name, settings in (("fedprox", {"mu": -1}), ("fedavg", {"mu": 1}), ("fedadam", {"server_rate": np.inf})):
        with pytest.raises(ValidationError):
            strategy(name, **settings)
    with pytest.raises(ConfigurationError, match="median-of-nothing"):
        strategy("median-of-nothing")


@given(st.sampled_from(NAMES), st.permutations(range(5)), st.sampled_from([0.0, 1.0]))
def test_the_same_bits_in_whatever_order_updates_came(name: str, order: list[int], bound: float) -> None:
    chosen, all_ = strategy(name, norm_bound=bound), updates()
    first = chosen.next(received(), all_, {})
    again = chosen.next(received(), [all_[number] for number in order], {})
    assert same(first.weights, again.weights)
    assert same(first.state, again.state)


@pytest.mark.parametrize(
    ("name", "settings", "mean"),
    [
        ("fedprox", {}, "fedavg-root"),  # what differs is at the hospital
        ("fedbn", {}, "fedavg-root"),
        ("partial", {}, "fedavg-root"),
        ("scaffold", {}, "fedavg-root"),
        ("qfair", {"q": 0}, "fedavg-root"),
        ("trimmed-mean", {"trim": 0}, "fedavg-equal"),
        ("krum", {"poisoned": 0}, "fedavg-equal"),
        ("fedavg", {"norm_bound": 100}, "fedavg"),
    ],
)
def test_is_the_mean_where_nothing_sets_it_apart(name: str, settings: dict[str, Any], mean: str) -> None:
    found = strategy(name, **settings).next(received(), updates(), {})
    assert same(found.weights, strategy(mean).next(received(), updates(), {}).weights)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("fedadam", "krum", "trimmed-mean")])
def test_of_one_hospital_the_weights_are_its_own(name: str) -> None:
    (one,) = updates(1)
    found = strategy(name).next(received(), [one], {}).weights
    for key, value in one.weights.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-6)


def test_a_mean_has_the_same_bits_however_large_the_tensors_are() -> None:
    draw = np.random.default_rng(0)
    shapes = {"large": (3, 1 << 15), "odd": ((1 << 15) + 7,), "none": (0, 4), "one": ()}
    all_ = [
        Contribution(
            site,
            {name: np.asarray(draw.normal(size=shape), np.float32) for name, shape in shapes.items()}
            | {"steps": np.asarray(number, np.int64)},
            number,
        )
        for number, site in ((40, "b"), (7, "a"), (90, "c"))
    ]
    found = strategy("fedavg").next({}, all_, {}).weights
    for name, value in found.items():
        exact = np.zeros(value.shape)
        for one in sorted(all_, key=lambda one: one.site):
            exact = exact + one.weights[name].astype(np.float64) * (one.cases / 137)
        assert value.tobytes() == exact.astype(value.dtype).tobytes()


def test_hospitals_count_by_what_was_chosen() -> None:
    zero, one = {"w": np.zeros(1, np.float32)}, {"w": np.ones(1, np.float32)}
    pair = [Contribution("a", zero, 90, 0.2), Contribution("b", one, 10, 0.8)]
    for name, share in (("fedavg", 0.1), ("fedavg-equal", 0.5), ("fedavg-root", 0.25)):
        assert strategy(name).next(zero, pair, {}).weights["w"][0] == pytest.approx(share)
    # shares 3 and 1, times losses 0.2 and 0.8
    assert strategy("qfair").next(zero, pair, {}).weights["w"][0] == pytest.approx(0.8 / (0.6 + 0.8))
    lying = [pair[0], Contribution("b", one, 10, 1e12)]
    assert strategy("qfair").next(zero, lying, {}).weights["w"][0] <= 2 / (0.6 + 2)


@given(
    st.sampled_from([("median", {}), ("trimmed-mean", {}), ("krum", {})]),
    st.floats(-1e6, 1e6),
    st.integers(0, 4),
    st.integers(0, 50),
)
def test_whatever_one_of_five_sends_the_result_is_among_the_honest(
    chosen: tuple[str, dict[str, Any]], wild: float, liar: int, seed: int
) -> None:
    all_ = updates(seed=seed)
    honest = [update for number, update in enumerate(all_) if number != liar]
    noise = np.random.default_rng(seed)
    weights = {
        key: (wild * noise.normal(size=value.shape)).astype(np.float32) for key, value in all_[liar].weights.items()
    }
    all_[liar] = Contribution(all_[liar].site, weights, 10**9, 1e12)
    found = strategy(chosen[0], **chosen[1]).next(received(), all_, {}).weights
    for key, value in found.items():
        among = np.stack([update.weights[key] for update in honest])
        if chosen[0] == "krum" and abs(wild) < 10:
            continue  # a liar who lies near them may be among those that are kept
        assert (value <= among.max(0) + 1e-5).all()
        assert (value >= among.min(0) - 1e-5).all()


@given(st.sampled_from(["fedavg", "median", "trimmed-mean", "krum"]), st.sampled_from([0.25, 2.0, 8.0]))
def test_updates_twice_as_large_move_the_weights_twice_as_far(name: str, scale: float) -> None:
    zero = {"w": np.zeros((8, 5), np.float32)}
    all_ = [Contribution(one.site, {"w": one.weights["w"]}, one.cases) for one in updates()]
    larger = [Contribution(one.site, {"w": one.weights["w"] * np.float32(scale)}, one.cases) for one in all_]
    found = strategy(name).next(zero, all_, {}).weights["w"]
    np.testing.assert_allclose(strategy(name).next(zero, larger, {}).weights["w"], found * scale, rtol=1e-5)


def test_an_update_that_is_too_long_is_shortened_and_no_other() -> None:
    start, all_ = received(), updates()
    lengths = sorted(length(update.weights, start) for update in all_)
    scaled = {key: start[key] + 50 * (value - start[key]) for key, value in all_[0].weights.items()}
    all_[0] = Contribution(all_[0].site, scaled, all_[0].cases)
    bounded = strategy("fedavg-equal", norm_bound=1.0)._bounded(start, all_)
    longest = max(length(update.weights, start) for update in bounded)
    assert longest == pytest.approx(sorted(length(update.weights, start) for update in all_)[2], rel=1e-5)
    assert longest <= lengths[-1]


@pytest.mark.parametrize(
    ("name", "settings", "needed"),
    [("krum", {}, 5), ("krum", {"poisoned": 0, "keep": 6}, 6), ("trimmed-mean", {"trim": 2}, 5), ("median", {}, 3)],
)
def test_too_few_hospitals_are_said_before_anything_starts(name: str, settings: dict[str, Any], needed: int) -> None:
    strategy(name, **settings).require(needed)
    with pytest.raises(ConfigurationError, match=str(needed)):
        strategy(name, **settings).require(needed - 1)


def test_adam_goes_where_the_mean_goes_and_remembers() -> None:
    start = received()
    chosen = strategy("fedadam", server_rate=0.01, tau=1e-6)
    mean = strategy("fedavg-root").next(start, updates(), {}).weights
    first = chosen.next(start, updates(), {})
    clear = np.abs(mean["w"] - start["w"]) > 0.01
    step = first.weights["w"] - start["w"]
    assert (np.sign(step[clear]) == np.sign((mean["w"] - start["w"])[clear])).all()
    # the paper's first step: (1 - 0.9) / sqrt(1 - 0.99) of the rate for every number
    np.testing.assert_allclose(np.abs(step[clear]), 0.01, rtol=0.01)
    second = chosen.next(first.weights, updates(), first.state)
    forgetful = chosen.next(first.weights, updates(), {})
    assert not same(second.weights, forgetful.weights)
    still = [Contribution("a", start, 1)]
    assert same(chosen.next(start, still, {}).weights, start)


def test_scaffold_leads_each_hospital_from_its_own_way_to_everybodys() -> None:
    sites = ("site-0", "site-1", "site-2", "absent")
    chosen, all_ = strategy("scaffold"), updates(3)
    state = chosen.next(received(), all_, {}).state
    assert chosen.correction("site-0", sites, {}) is None
    found = {site: chosen.correction(site, sites, state) for site in sites}
    assert all(found.values())
    # corrections add up to nothing: together the hospitals go where they would have gone
    total = sum(found[site]["w"].astype(np.float64) for site in sites)  # type: ignore[index]
    np.testing.assert_allclose(total, 0, atol=1e-6)
    np.testing.assert_allclose(
        found["absent"]["w"], sum(one.control["w"] for one in all_) / 4, rtol=1e-5  # type: ignore[index]
    )  # fmt: skip
    later = chosen.next(received(), all_[:1], state).state
    assert set(later) == set(state)  # who does not answer is not forgotten
    alone = chosen.correction("site-0", ("site-0",), chosen.next(received(), all_[:1], {}).state)
    assert alone is not None
    assert not alone["w"].any()


def test_which_layers_stay_is_said_by_the_network() -> None:
    facts, _ = federation.facts(["network.channels=[8,8,8,8]", "network.groups=4"])
    norms = strategy("fedbn").staying(facts).local
    assert "bn1" in norms
    assert "layer2.0.downsample.1" in norms
    assert not any("conv" in name or "fc" in name for name in norms)
    assert strategy("fedbn", head=True).staying(facts).local == (*norms, "fc")
    assert strategy("fedbn", layers=("layer4",)).staying(facts).local == (*norms, "layer4")
    with pytest.raises(ConfigurationError, match=r"layer9.*there are conv1, bn1, layer1"):
        strategy("fedbn", layers=("layer4", "layer9")).staying(facts)
    frozen = strategy("partial", layers=("fc", "layer4.0.conv1")).staying(facts).frozen
    assert "conv1.weight" in frozen
    assert not {"fc.weight", "fc.bias", "layer4.0.conv1.weight"} & set(frozen)
    with pytest.raises(ConfigurationError, match="layer9"):
        strategy("partial", layers=("layer9",)).staying(facts)


def test_a_benchmark_that_looks_at_each_update_says_that_it_cannot_sum_them() -> None:
    with pytest.raises(ConfigurationError, match="privacy=secure_aggregation shows a sum alone"):
        federation.plan(("a", "b", "c"), ["privacy=secure_aggregation", "strategy=fedavg"])


def test_what_a_strategy_wants_of_hospitals_is_in_their_orders() -> None:
    plan = federation.plan(("a", "b"), ["strategy=fedprox", "strategy.mu=0.5", "hyper.biopsy_weight=3"])
    assert plan.strategy.ordered(plan.hyper).proximal == 0.5
    assert plan.hyper.biopsy_weight == 3
    assert plan.hyper == federation.plan(("a", "b"), ["hyper.biopsy_weight=3"]).hyper
    assert strategy("fedavg").ordered(plan.hyper) == plan.hyper
