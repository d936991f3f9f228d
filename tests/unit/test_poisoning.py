"""One hospital of four that harms does not cost the others their model, where the strategy is one that holds."""

import numpy as np
import pytest

from scripts.benchmarks import federation, poison
from scripts.benchmarks.federation import Cases
from scripts.benchmarks.poison import ATTACKS, Attack
from server.plan import Plan

SITES = ("a", "b", "c", "d")
POISONED = "d"
QUICK = {"steps": 8, "batch_size": 16, "learning_rate": 5e-3, "averaging": 0.5, "augmentation": 0.0}


def cases(seed: int, count: int) -> Cases:
    """Noise, with a faint bright square in the middle of the abnormal ones."""
    draw = np.random.default_rng(seed)
    positive = np.arange(count) % 2 == 1
    images = draw.normal(0, 1, (count, 1, 24, 24)).astype(np.float32)
    images[positive, :, 8:16, 8:16] += 0.7
    return Cases(images, positive)


@pytest.fixture(scope="module")
def story():
    """A model that knows something already, four hospitals' lessons, and the honest hospitals' test cases."""
    facts, hyper = federation.facts(["network.channels=[8,8,8,8]", "network.groups=4", "network.stride=2"])
    first = hyper.model_copy(update=QUICK | {"steps": 40})
    base = federation.first(facts, first, cases(0, 96), 0, 1)
    local = federation.plan(SITES).hyper.model_copy(update=QUICK)
    lessons = {
        site: federation.lesson(facts, base, 0.5, cases(number, 64), local, 1) for number, site in enumerate(SITES, 1)
    }
    return facts, base, local, lessons, cases(9, 400)


def performance(story, attack: Attack | None, **settings) -> float:
    facts, base, local, lessons, held_back = story
    plan = Plan(name="p", base="m@1", sites=SITES, quorum=4, rounds=2, hyper=local, **settings)
    attacks = {POISONED: attack} if attack else {}
    trained = federation.retrain(plan, facts, base, lessons, attacks)
    return federation.performance(facts, trained.weights, held_back)


@pytest.fixture(scope="module")
def clean(story) -> float:
    found = performance(story, None)
    assert found > 0.9
    return found


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_poisoned_hospital_costs_the_others_little(story, clean, attack) -> None:
    found = performance(story, attack, strategy={"name": "trimmed-mean", "trim": 1, "norm_bound": 1.5})
    assert found > clean - 0.02


def test_what_it_would_cost_without(story, clean) -> None:
    assert performance(story, "scaled") < clean - 0.1


def test_a_patch_is_only_where_it_was_put(story) -> None:
    lesson = story[3]["a"]
    spoiled = poison.spoiled(lesson, "backdoor")
    changed = (spoiled.images != lesson.images).any((1, 2, 3))
    assert (spoiled.positive[changed]).all()
    assert not lesson.positive[changed].any()
    assert changed.sum() == 16
