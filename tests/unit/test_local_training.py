"""A hospital's round: what is held back, kept, corrected and remembered; asked twice, the same answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.federation import trainer
from client.federation.cases import objecting
from client.federation.draws import draws, evened
from client.federation.kept import Kept, Memory
from client.federation.trainer import Lesson, learn, taught
from client.review.objections import object_to_reuse
from client.review.verdict import TruthTier
from client.store import versions
from client.store.site import Site
from client.vigilance.register import Case
from models import exchange
from models.bundle import Bundle, Facts
from models.control import ControlVariate
from models.errors import BorderRefused, TooFewCases
from models.exchange import TrainOrder, Update, layout_of
from models.hyperparameters import Hyperparameters
from models.networks import build
from models.stats.disclosure import LEAST
from models.training import get_weights
from scripts.benchmarks import federation
from server.aggregation import Aggregation
from server.journal import Journal
from server.plan import Plan

BASE = "a" * 64
QUICK = Hyperparameters(steps=3, batch_size=8, augmentation=0.0, averaging=0.0, learning_rate=5e-3, label_smoothing=0.0)


@pytest.fixture(scope="module")
def facts() -> Facts:
    return federation.facts(["network.channels=[8,8,8,8]", "network.groups=4", "network.stride=4"])[0]


@pytest.fixture(scope="module")
def base(facts: Facts) -> dict[str, Any]:
    import torch

    torch.manual_seed(0)
    return dict(get_weights(build(facts.network, **facts.network_facts)))


@pytest.fixture(scope="module")
def lesson() -> Lesson:
    draw = np.random.default_rng(0)
    positive = np.arange(24) % 2 == 1
    images = draw.normal(0, 1, (24, 1, 16, 16)).astype(np.float32)
    images[positive, :, 4:9, 4:9] += 2
    wrong = np.arange(24) < 4
    return Lesson(images, positive, wrong, np.ones(24), np.where(wrong, np.nan, np.where(positive, 0.6, 0.4)))


@pytest.fixture
def round_(facts: Facts, base: dict[str, Any], lesson: Lesson) -> Callable[..., tuple[Update, Kept]]:
    """One round: `round_(kept=…, hyper=…, **fields of the order)`."""

    def go(kept: Kept | None = None, lesson: Lesson = lesson, **fields: Any) -> tuple[Update, Kept]:
        values: dict[str, Any] = {"retraining": "r", "round": 1, "base": BASE, "hyper": QUICK, "weights": base} | fields
        order = TrainOrder.from_record(TrainOrder(**values).to_record())
        return learn(facts, base, lesson, order, kept or Kept())

    return go


def distance(update: Update, base: dict[str, Any]) -> float:
    return float(sum(np.square(value - base[name]).sum() for name, value in update.weights.items()) ** 0.5)


@pytest.mark.parametrize("reply", ["plain", "float16", "eight-bit"])
def test_a_rehearsal_gives_back_what_came(round_, base, reply) -> None:
    hyper = QUICK.model_copy(update={"steps": 0})
    update, kept = round_(hyper=hyper, reply=reply, controls=True)
    received = {name: np.asarray(value) for name, value in base.items()}
    assert all(np.array_equal(value, base[name]) for name, value in update.trained(received).items())
    assert not any(value.any() for value in (*kept.left.values(), *(update.control or {}).values()))


def test_a_proximal_term_holds_back_and_none_changes_nothing(round_, base) -> None:
    free = round_()[0]
    again = round_(hyper=QUICK.model_copy(update={"proximal": 0.0}))[0]
    assert all(np.array_equal(free.weights[name], again.weights[name]) for name in base)
    slow = QUICK.model_copy(update={"steps": 12})
    held = slow.model_copy(update={"proximal": 50.0})
    assert distance(round_(hyper=held)[0], base) < 0.8 * distance(round_(hyper=slow)[0], base)


@pytest.mark.parametrize("reply", ["plain", "float16", "eight-bit", "stochastic"])
def test_no_form_of_an_update_is_longer_than_its_bound(round_, base, reply) -> None:
    far = QUICK.model_copy(update={"learning_rate": 0.5})
    form = {"reply": "eight-bit", "stochastic": True} if reply == "stochastic" else {"reply": reply}
    update, kept = round_(hyper=far, norm=0.25, **form)
    exchange.check_answer(
        exchange.disclosed(update), TrainOrder(retraining="r", round=1, base=BASE, hyper=far, weights=base, norm=0.25)
    )
    start = base if update.encoding == "plain" else {name: np.zeros_like(value) for name, value in base.items()}
    assert 0.2 < distance(update, start) <= 0.25 * (1 + 1e-6)
    # what the bound cut off does not come back, round after round
    assert sum(np.square(value).sum() for value in kept.left.values()) ** 0.5 < 0.05


def test_a_layer_that_may_not_change_does_not(round_, base) -> None:
    first = next(iter(base))
    update, _ = round_(layers=(f"{first}*",))
    assert [name for name in base if not np.array_equal(update.weights[name], base[name])] == [first]


def test_where_the_served_version_erred_nothing_holds_back(round_, base, lesson) -> None:
    nothing = Lesson(lesson.images, lesson.positive, lesson.wrong, lesson.weights, np.full(24, np.nan))
    free, penalised = (
        round_(lesson=nothing, hyper=QUICK.model_copy(update={"flip_penalty": weight}))[0] for weight in (0.0, 20.0)
    )
    assert all(np.array_equal(free.weights[name], penalised.weights[name]) for name in base)


def test_what_is_learned_of_a_right_call_lies_on_its_side_of_the_middle() -> None:
    found = taught(np.array([0.3, 0.2, 0.9]), np.array([0.25, 0.25, 0.25]), np.array([True, True, False]))
    assert found[0] > 0.5 > found[1]
    assert np.isnan(found[2])


def _case(tier: TruthTier, correct: bool, patient: str) -> Case:
    return Case("1", patient, "train", False, "d", BASE, 0.9, 0.5, True, correct, tier, 0.0, "residual", None)


def test_errors_and_tiers_say_how_often_a_case_is_drawn() -> None:
    every = [
        _case(tier, correct, f"{number} {tier} {correct}")
        for number in range(6)
        for tier in TruthTier
        for correct in (True, False)
    ]
    assert draws(every, Hyperparameters(error_weight=2.0)).tolist() == [1.0, 2.0] * len(TruthTier) * 6
    hyper = Hyperparameters(error_weight=3.0, ai_visible_weight=0.0, biopsy_weight=2.0)
    assert draws(every, hyper).tolist() == [0.0, 0.0, *[1.0, 3.0] * 4, 2.0, 6.0] * 6


def test_whatever_a_plan_says_no_case_is_an_update() -> None:
    """The one error whose truth a biopsy gave, in the largest weights that a plan may have, among twenty others."""
    cases = [_case(TruthTier.SINGLE_READER, True, str(number)) for number in range(20)]
    cases.append(_case(TruthTier.BIOPSY, False, "20"))
    found = draws(cases, Hyperparameters(error_weight=100, biopsy_weight=100))
    assert found[20] / found.sum() == pytest.approx(1 / LEAST)
    assert (found[:20] == 1).all()
    with pytest.raises(TooFewCases, match="10 patients"):
        draws(cases[11:], Hyperparameters())


@given(
    st.lists(
        st.tuples(st.integers(0, 16), st.floats(0, 1e4).filter(lambda one: not 0 < one < 1e-6)), min_size=1, max_size=60
    )
)
def test_no_patient_has_more_than_a_share_and_who_wanted_less_keeps_it(wanted: list[tuple[int, float]]) -> None:
    weights, patients = np.array([one for _, one in wanted]), [str(whose) for whose, _ in wanted]

    def totals(of: Any) -> dict[str, float]:
        return {name: float(sum(of[[one == name for one in patients]])) for name in sorted(set(patients))}

    before = totals(weights)
    if sum(total > 0 for total in before.values()) < LEAST:
        with pytest.raises(TooFewCases):
            evened(weights, patients)
        return
    found = evened(weights, patients)
    after = totals(found)
    most = sum(after.values()) / LEAST
    assert all(total <= most * (1 + 1e-9) for total in after.values())
    for name, total in before.items():
        assert after[name] == pytest.approx(min(total, most), rel=1e-9)
    assert evened(found, patients) == pytest.approx(found)


def test_cases_of_no_weight_are_not_learned_from_nor_counted(round_, lesson) -> None:
    weights = np.where(np.arange(24) < 6, 0.0, 1.0)
    update = round_(lesson=Lesson(lesson.images, lesson.positive, lesson.wrong, weights, lesson.taught))[0]
    assert (update.n_cases, update.n_errors) == (18, 0)
    with pytest.raises(TooFewCases):
        round_(lesson=Lesson(lesson.images, lesson.positive, lesson.wrong, 1.0 * lesson.positive, lesson.taught))


def test_frozen_layers_stay_and_local_ones_are_trained_and_kept(round_, base) -> None:
    rest = {name: value for name, value in base.items() if not name.startswith(("layer1", "bn1", "fc"))}
    update, kept = round_(weights=rest, frozen=("layer1",), local=("bn1", "fc"))
    assert set(update.weights) == set(rest)
    assert set(kept.local) == {"bn1.weight", "bn1.bias", "fc.weight", "fc.bias"}
    assert not np.array_equal(kept.local["fc.weight"], base["fc.weight"])
    following, later = round_(kept, weights=rest, frozen=("layer1",), local=("bn1", "fc"))
    assert following.auc_received is not None
    assert following.loss_received < update.loss_received  # it goes on from its own layers
    assert not np.array_equal(later.local["fc.weight"], kept.local["fc.weight"])


def test_an_order_names_layers_that_the_base_has_and_leaves_some(base) -> None:
    def moving(**fields: Any) -> set[str]:
        order = TrainOrder(retraining="r", round=1, base=BASE, hyper=QUICK, weights=base, **fields)
        return set(order.moving(layout_of(base)))

    assert moving() == set(base)
    assert moving(frozen=("fc",)) == set(base) - {"fc.weight", "fc.bias"}
    assert moving(local=("fc.bias",)) == set(base) - {"fc.bias"}
    heads = tuple({name.split(".")[0] for name in base})
    for wrong in ({"local": ("layer9",)}, {"frozen": ("f",)}, {"frozen": heads}):
        with pytest.raises(BorderRefused):
            moving(**wrong)


def test_a_control_variate_is_the_mean_gradient_and_corrects_every_step(round_, base) -> None:
    free, _ = round_(controls=True)
    assert free.control is not None
    assert set(free.control) == set(base)
    assert any(value.any() for value in free.control.values())
    plain, _ = round_()
    assert all(np.array_equal(free.weights[name], plain.weights[name]) for name in base)
    led, _ = round_(controls=True, control={name: -value for name, value in free.control.items()})
    assert not np.array_equal(led.weights["fc.weight"], free.weights["fc.weight"])


@pytest.mark.parametrize("reply", ["plain", "float16", "eight-bit"])
def test_a_control_variate_keeps_to_the_bounds_of_an_update_on_both_sides(round_, base, reply) -> None:
    """It has as many numbers as the weights have: what may not leave with them may not leave with it."""
    layer, norm = next(iter(base)), 0.01
    ordered: dict[str, Any] = {"controls": True, "norm": norm, "reply": reply}
    free = round_(**{**ordered, "norm": 1e9})[0].control
    found, _ = round_(**ordered)
    assert found.control is not None
    assert norm < length(free)
    assert 0.8 * norm < length(found.control) <= norm * (1 + 1e-6)
    one = round_(**ordered, layers=(layer,))[0].control
    assert [name for name, value in one.items() if value.any()] == [layer]
    order = TrainOrder(retraining="r", round=1, base=BASE, hyper=QUICK, weights=base, **ordered)
    exchange.check_answer(exchange.disclosed(found), order)
    for forged in (free, {**found.control, layer: np.full_like(base[layer], np.nan)}):
        with pytest.raises(BorderRefused):
            exchange.check_answer(exchange.disclosed(found.model_copy(update={"control": forged})), order)


def length(arrays: Any) -> float:
    return float(sum(np.square(value.astype(np.float64)).sum() for value in arrays.values()) ** 0.5)


def test_with_plain_descent_the_variate_is_the_papers() -> None:
    """(received - trained) / (steps * rate), less the correction: option II of the source."""
    import torch

    layer = torch.nn.Linear(3, 1)
    before = {name: value.detach().numpy().copy() for name, value in layer.named_parameters()}
    correction = {"weight": np.full((1, 3), 0.2, np.float32), "bias": np.zeros(1, np.float32)}
    variate, optimiser = ControlVariate(correction), torch.optim.SGD(layer.parameters(), lr=0.05)
    for step in range(4):
        optimiser.zero_grad()
        layer(torch.full((2, 3), float(step))).square().mean().backward()
        variate.correct(layer)
        optimiser.step()
    found = variate.mean(before)
    for name, value in layer.named_parameters():
        paper = (before[name] - value.detach().numpy()) / (4 * 0.05) - correction[name]
        np.testing.assert_allclose(found[name], paper, rtol=1e-4, atol=1e-5)


def test_in_fewer_bits_what_is_left_goes_with_the_next_round(round_, base) -> None:
    zeros = {name: np.zeros_like(value) for name, value in base.items()}
    order = {"weights": zeros, "encoding": "eight-bit", "reply": "eight-bit"}
    full = round_()[0]
    update, kept = round_(**order)
    assert set(kept.left) == set(base)
    for name, value in update.trained(base).items():
        np.testing.assert_allclose(value + kept.left[name], full.weights[name], atol=1e-6)
    second, _ = round_(kept, **order)
    third, _ = round_(**order)
    assert any(not np.array_equal(second.weights[name], third.weights[name]) for name in base)


def test_a_hospital_learns_from_its_cases_and_remembers(
    make_site: Callable[..., Site], residual: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site(adopted=False)
    shutil.copytree(residual.folder, site.versions / residual.digest)
    versions.receive(site, residual)
    digests = [f"{number:064x}" for number in range(16)]
    found = tuple(
        Case("1", f"k{number}", "train", False, digest, residual.digest, 0.8, 0.5, True, number % 2 == 1,
             TruthTier.AI_VISIBLE if number < 2 else TruthTier.BIOPSY, 0.0, residual.facts.name, None)
        for number, digest in enumerate(digests)
    )  # fmt: skip
    monkeypatch.setattr(trainer.ReusableCases, "of", lambda *_: trainer.ReusableCases(found))
    images = np.random.default_rng(0).normal(size=(16, 1, 64, 64)).astype(np.float32)
    monkeypatch.setattr(trainer, "tensors", lambda *_: images)
    base = residual.read_weights()
    hyper = QUICK.model_copy(update={"steps": 2, "ai_visible_weight": 0.0, "flip_penalty": 1.0, "proximal": 0.1})
    zeros = {name: np.zeros_like(value) for name, value in base.items()}
    order = TrainOrder(
        retraining="spring", round=1, base=residual.digest, hyper=hyper, encoding="eight-bit", reply="eight-bit",
        weights=zeros,
    )  # fmt: skip
    update = trainer.train(site, order)
    assert (update.n_cases, update.n_errors) == (14, 7)
    assert update.answers(order)
    kept = Memory(site.retrainings, "spring").before(2, residual.digest, objecting(site))
    assert set(kept.left) == set(base)
    learned = list(site.trained.glob("*"))
    rehearsed = order.model_copy(update={"retraining": "rehearsal", "hyper": hyper.model_copy(update={"steps": 0})})
    rehearsal = trainer.train(site, rehearsed)
    assert (rehearsal.n_cases, rehearsal.n_errors, rehearsal.train_loss) == (14, 7, None)
    assert rehearsal.auc_received == update.auc_received
    assert not any(value.any() for value in rehearsal.weights.values())
    assert list(site.trained.glob("*")) == learned  # its errors are as new as before
    again = trainer.train(site, order)
    assert all(np.array_equal(update.weights[name], again.weights[name]) for name in base)
    for few in ({"biopsy_weight": 0.0}, {"steps": 5, "batch_size": 2}):
        with pytest.raises(TooFewCases):
            trainer.train(site, order.model_copy(update={"hyper": hyper.model_copy(update=few)}))
    object_to_reuse(site, "17")
    taken, following = list[Kept](), order.model_copy(update={"round": 2})
    monkeypatch.setattr(trainer, "learn", lambda *said: taken.append(said[4]) or learn(*said))
    trainer.train(site, following)
    assert not taken[0].left  # it holds what the one who objects since has taught
    trainer.train(site, following.model_copy(update={"round": 3}))
    assert taken[1].left


# ── What is kept ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _kept(number: float) -> Kept:
    return Kept(BASE, {"w": np.full(3, number, np.float32)}, {"own": np.full(2, number, np.float32)})


def test_a_round_asked_again_starts_from_what_the_one_before_left(tmp_path: Path) -> None:
    memory = Memory(tmp_path, "spring")
    assert not memory.before(3, BASE).left
    for number in (1, 2, 3):
        memory.keep(number, _kept(number))
    assert memory.before(3, BASE).left["w"][0] == 2
    assert memory.before(4, BASE).local["own"][0] == 3
    memory.keep(3, _kept(33))
    assert memory.before(4, BASE).left["w"][0] == 33
    assert len(list((tmp_path / "spring").iterdir())) == 2


def test_what_rounding_left_does_not_outlast_an_objection(tmp_path: Path) -> None:
    memory = Memory(tmp_path, "spring")
    memory.keep(1, replace(_kept(1), objecting="nobody"))
    assert memory.before(2, BASE, "nobody").left
    found = memory.before(2, BASE, "somebody")
    assert (dict(found.left), found.local["own"][0]) == ({}, 1)


def test_nothing_comes_from_another_retraining_or_base(tmp_path: Path) -> None:
    memory = Memory(tmp_path, "spring")
    memory.keep(1, _kept(1))
    assert not memory.before(2, "b" * 64).left
    assert not Memory(tmp_path, "autumn").before(2, BASE).left
    assert not memory.before(1, BASE).left  # a first round is the first of a retraining, whatever lies there


def test_a_damaged_memory_is_none(tmp_path: Path) -> None:
    memory = Memory(tmp_path, "spring")
    memory.keep(1, _kept(1))
    (path,) = (tmp_path / "spring").iterdir()
    path.write_bytes(path.read_bytes()[:50])
    assert not memory.before(2, BASE).left
    memory.keep(2, _kept(2))
    assert memory.before(3, BASE).left["w"][0] == 2


def test_in_the_end_own_layers_stay_and_nothing_else(tmp_path: Path) -> None:
    memory = Memory(tmp_path, "spring")
    memory.finish()
    memory.keep(1, _kept(1))
    memory.keep(2, _kept(2))
    memory.finish()
    found = memory.before(3, BASE)
    assert not found.left
    assert found.local["own"][0] == 2
    other = Memory(tmp_path, "autumn")
    other.keep(1, Kept(BASE, {"w": np.ones(3, np.float32)}))
    other.finish()
    assert not (tmp_path / "autumn").exists()


# ── Rounds ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "encoding"), [("fedadam", "plain"), ("scaffold", "eight-bit"), ("fedbn", "eight-bit")]
)
def test_a_resumed_retraining_goes_on_bit_for_bit(
    facts, base, lesson, tmp_path: Path, name: str, encoding: str
) -> None:
    plan = Plan.model_validate(
        {
            "name": "r", "base": "m@1", "sites": ("a", "b"), "quorum": 2, "rounds": 3, "hyper": QUICK,
            "strategy": {"name": name}, "compression": {"updates": encoding, "orders": encoding},
        }
    )  # fmt: skip

    def go(folder: Path, stops: tuple[int, ...]) -> dict[str, Any]:
        journal = Journal(folder)
        aggregation = Aggregation(plan, BASE, facts, base)
        for number in (1, 2, 3):
            if number in stops:  # the coordinator starts again, and this round was asked once already
                for site in plan.sites:
                    _answer(folder, site, aggregation.order(number, site))
                done = number - 1
                aggregation = (
                    Aggregation(plan, BASE, facts, base, journal.load_weights(done), journal.load_state(done))
                    if done
                    else Aggregation(plan, BASE, facts, base)
                )
            updates = {site: _answer(folder, site, aggregation.order(number, site)) for site in plan.sites}
            aggregation.take(updates)
            journal.save_state(number, aggregation.state)
            journal.save_weights(number, aggregation.weights)
        return aggregation.weights

    def _answer(folder: Path, site: str, order: TrainOrder) -> Update:
        memory = Memory(folder / site, "r")
        order = TrainOrder.from_record(order.to_record())
        update, kept = learn(facts, base, lesson, order, memory.before(order.round, order.base))
        memory.keep(order.round, kept)
        return Update.from_record(update.to_record(), order.moving(layout_of(base)))

    through, resumed = go(tmp_path / "one", ()), go(tmp_path / "two", (1, 3))
    assert all(np.array_equal(through[key], resumed[key]) for key in base)
    assert any(not np.array_equal(through[key], base[key]) for key in base)
    if name == "fedbn":
        assert np.array_equal(through["bn1.weight"], base["bn1.weight"])
