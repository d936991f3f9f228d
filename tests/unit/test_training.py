"""Protects training: it learns, it can be repeated, errors come back more often, nonsense is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.augmentation import augment
from models.errors import InvalidTraining, TrainingDiverged
from models.networks import build
from models.training import Hyperparameters, batches, fit, get_weights, scores, set_weights

QUICK = Hyperparameters(steps=40, batch_size=16, augmentation=0.3, averaging=0.9, learning_rate=5e-3)


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("residual", channels=[8, 8, 8, 8], groups=4, stride=2)


def cases(count: int = 64, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = draw.normal(0, 0.5, (count, 1, side, side)).astype(np.float32)
    images[labels == 1, :, 10:22, 10:22] += 3
    return images, labels


def test_learns_and_repeats_itself_to_the_bit() -> None:
    images, labels = cases()
    first, second = small(), small()
    heard: list[int] = []
    loss = fit(first, images, labels, np.ones(64), QUICK, 7, on_progress=lambda done, _all, _loss: heard.append(done))
    again = fit(second, images, labels, np.ones(64), QUICK, 7)
    assert loss == again
    assert heard == list(range(1, 41))
    for name, value in get_weights(first).items():
        np.testing.assert_array_equal(value, get_weights(second)[name])
    found = scores(first, images)
    assert found.shape == (64,)
    assert found[labels == 1].min() > found[labels == 0].max()


def test_another_seed_is_another_training() -> None:
    images, labels = cases()
    losses = {fit(small(), images, labels, np.ones(64), QUICK, seed) for seed in (1, 2)}
    assert len(losses) == 2


def test_draws_follow_the_weights() -> None:
    weights = torch.tensor([1.0] * 8 + [3.0] * 4 + [0.0] * 2, dtype=torch.float64)
    hyper = Hyperparameters(steps=70, batch_size=20)
    drawn = torch.cat(list(batches(weights, hyper, torch.Generator().manual_seed(0))))
    counts = torch.bincount(drawn, minlength=14).double()
    torch.testing.assert_close(counts, weights * 70, rtol=0.1, atol=2)


def test_a_cancelled_training_stops_and_gives_threads_back() -> None:
    class Cancelled(Exception):
        pass

    def stop(done: int, _steps: int, _loss: float) -> None:
        if done == 2:
            raise Cancelled

    before = torch.get_num_threads()
    with pytest.raises(Cancelled):
        fit(small(), *cases(), np.ones(64), QUICK, 0, threads=1, on_progress=stop)
    assert torch.get_num_threads() == before


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    images, labels = cases()
    images[:] = np.inf
    with pytest.raises(TrainingDiverged):
        fit(small(), images, labels, np.ones(64), QUICK, 0)


@pytest.mark.parametrize(
    ("labels", "weights"),
    [
        (np.ones(63), np.ones(64)),
        (np.ones(64), np.zeros(64)),
        (np.ones(64), -np.ones(64)),
        (np.ones(64), np.full(64, np.nan)),
        (np.full(64, 2), np.ones(64)),
    ],
)
def test_refuses_cases_that_do_not_fit(labels: np.ndarray, weights: np.ndarray) -> None:
    with pytest.raises(InvalidTraining):
        fit(small(), cases()[0], labels, weights, QUICK, 0)


def test_staying_with_what_was_right_draws_scores_to_it() -> None:
    images, labels = cases()
    right = np.arange(64) % 4 < 2
    taught = np.where(right, np.where(labels == 1, 0.6, 0.4), np.nan)
    hyper = QUICK.model_copy(update={"augmentation": 0.0, "label_smoothing": 0.0, "learning_rate": 0.02})

    def away(weight: float) -> float:
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(32 * 32, 1))
        fit(network, images, labels, np.ones(64), hyper.model_copy(update={"flip_penalty": weight}), 0, taught=taught)
        return float(np.abs(scores(network, images) - taught)[right].mean())

    assert away(50.0) < 0.5 * away(0.0)
    for wrong in (np.full(64, 2.0), np.full(63, 0.5)):
        with pytest.raises(InvalidTraining):
            fit(small(), images, labels, np.ones(64), QUICK.model_copy(update={"flip_penalty": 1.0}), 0, taught=wrong)


def test_frozen_parameters_stay_and_all_can_be_trained_afterwards() -> None:
    images, labels = cases(16)
    network = small()
    before = get_weights(network)
    fit(network, images, labels, np.ones(16), QUICK.model_copy(update={"steps": 2}), 0, frozen=["conv1.weight"])
    np.testing.assert_array_equal(get_weights(network)["conv1.weight"], before["conv1.weight"])
    assert not np.array_equal(get_weights(network)["fc.weight"], before["fc.weight"])
    assert all(value.requires_grad for value in network.parameters())


def test_weights_go_out_and_in() -> None:
    one, other = small(), build("residual", channels=[8, 8, 8, 8], groups=4, stride=2)
    set_weights(other, get_weights(one))
    images = cases()[0]
    np.testing.assert_array_equal(scores(one, images), scores(other, images))
    for spoil in (
        {"fc.weight": np.zeros((2, 8), dtype=np.float32)},
        {"fc.bias": np.array([np.nan], dtype=np.float32)},
        {"stranger": np.zeros(1, dtype=np.float32)},
    ):
        with pytest.raises(InvalidTraining):
            set_weights(other, get_weights(one) | spoil)


def test_hyperparameters_refuse_nonsense_and_cool_down() -> None:
    for wrong in ({"steps": -1}, {"learning_rate": float("inf")}, {"optimiser": 1}):
        with pytest.raises(ValidationError):
            Hyperparameters.model_validate(wrong)
    with pytest.raises(InvalidTraining, match="nothing to learn"):
        fit(build("residual"), *cases(4), np.ones(4), Hyperparameters(steps=0), seed=0)
    rates = [QUICK.at_round(number, 8).learning_rate for number in range(1, 9)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == QUICK.learning_rate
    assert rates[-1] > 0


def test_augmentation_varies_each_image_and_stays_standardised() -> None:
    images = torch.from_numpy(cases(6)[0][:1]).expand(6, 1, 32, 32)
    varied = augment(images, 1.0, torch.Generator().manual_seed(0))
    assert varied.shape == images.shape
    assert (varied[0] - varied[1]).abs().max() > 0.1
    assert varied.mean((1, 2, 3)).abs().max() < 1e-4
    assert augment(images, 0.0, torch.Generator()) is images
    assert torch.isfinite(augment(torch.zeros(2, 1, 32, 32), 1.0, torch.Generator())).all()
