"""What private training costs agrees with others' accounting; one patient moves the sum no more than the clip says."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models.errors import InvalidTraining
from models.hyperparameters import Hyperparameters
from models.networks import build
from models.privacy import Mechanism, epsilon, noise_for
from models.private_training import _by_patient, _clipped, fit_privately, mixes_patients
from models.protection import PatientLevel, understates
from models.training import get_weights

FACTS = {"channels": [8, 8, 8, 8], "blocks": [1, 1, 1, 1], "groups": 4}
PLAIN = Hyperparameters(steps=3, batch_size=4, augmentation=0.0, averaging=0.0, label_smoothing=0.0, warmup=0.0)
NOISY = PatientLevel(clip=1.0, noise=1.0, share=0.5, epsilon=10.0, delta=1e-5)


# Computed with dp-accounting 0.6.0 (Google): PLDAccountant, value_discretization_interval 1e-3, add or remove one.
@pytest.mark.parametrize(
    ("spent", "delta", "theirs"),
    [
        ([Mechanism(1.1, 0.05, 360)], 1e-5, 5.3016),
        ([Mechanism(1.1, 0.05, 360)], 1e-3, 3.6525),
        ([Mechanism(1.1, 0.1, 45)] * 8, 1e-3, 8.4598),
        ([Mechanism(2.0, 0.3, 45)] * 8, 1e-5, 16.9689),
        ([Mechanism(4.0, 1.0, 100)], 1e-3, 10.2048),
        ([Mechanism(0.6, 0.01, 1000)], 1e-3, 4.7110),
        ([Mechanism(1.0, 0.05, 100), Mechanism(2.0, 0.2, 50)], 1e-3, 3.3410),
    ],
)
def test_the_cost_agrees_with_an_independent_accountant(spent: list[Mechanism], delta: float, theirs: float) -> None:
    ours = epsilon(spent, delta)
    assert theirs * 0.999 <= ours <= theirs * 1.05  # hardly ever less than it costs


def test_one_gaussian_step_costs_what_the_closed_formula_says() -> None:
    """Balle and Wang, Improving the Gaussian Mechanism for Differential Privacy, ICML 2018, theorem 8."""
    noise, delta = 2.0, 1e-4
    found = epsilon([Mechanism(noise, 1.0, 1)], delta)

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    exact = phi(0.5 / noise - found * noise) - math.exp(found) * phi(-0.5 / noise - found * noise)
    assert exact <= delta
    less = found * 0.97
    assert phi(0.5 / noise - less * noise) - math.exp(less) * phi(-0.5 / noise - less * noise) > delta


@settings(max_examples=3, deadline=None)
@given(
    st.lists(
        st.builds(Mechanism, st.floats(0.8, 8.0), st.floats(0.01, 1.0), st.integers(1, 60)), min_size=1, max_size=2
    ),
    st.randoms(use_true_random=False),
)
def test_more_steps_cost_more_and_the_order_does_not_matter(spent: list[Mechanism], random: object) -> None:
    shuffled = list(spent)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    whole = epsilon(spent, 1e-4)
    assert whole == epsilon(shuffled, 1e-4)
    assert epsilon(spent[:-1], 1e-4) <= whole * 1.02 + 0.02


def test_the_least_noise_that_keeps_a_budget() -> None:
    before = [Mechanism(2.0, 0.1, 45)]
    noise = noise_for(4.0, 1e-3, 0.1, 90, before)
    assert epsilon([*before, Mechanism(noise, 0.1, 90)], 1e-3) <= 4.0
    assert epsilon([*before, Mechanism(noise * 0.97, 0.1, 90)], 1e-3) > 4.0


def test_a_spent_budget_buys_nothing() -> None:
    with pytest.raises(InvalidTraining, match="spent"):
        noise_for(1.0, 1e-3, 0.1, 90, [Mechanism(1.0, 0.1, 900)])


@pytest.mark.parametrize("values", [(0.0, 0.1, 1), (1.0, 0.0, 1), (1.0, 1.1, 1), (1.0, 0.5, 0), (math.nan, 0.5, 1)])
def test_what_is_no_mechanism_is_refused(values: tuple[float, float, int]) -> None:
    with pytest.raises(InvalidTraining):
        Mechanism(*values)


def _cohort(count: int = 14, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    random = np.random.default_rng(seed)
    images = random.normal(size=(count, 1, 32, 32)).astype(np.float32) * 3
    labels = (np.arange(count) % 2).astype(np.float32)
    return images, labels, [f"p{number // 3}" for number in range(count)]  # three studies each, the last one two


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=14, max_size=14), st.integers(0, 13), st.floats(0.05, 5.0), st.booleans())
def test_removing_a_patient_moves_the_sum_no_more_than_the_clip(
    owners: list[int], one: int, clip: float, loud: bool
) -> None:
    """All studies of a patient are one unit, however many there are and however loud they are."""
    images, labels, _ = _cohort()
    patients = [f"p{owner}" for owner in owners]
    there = [number for number, owner in enumerate(owners) if owner != owners[one]]
    images = images * (100 if loud else 1)
    torch.manual_seed(1)
    network = nn.Sequential(nn.Conv2d(1, 3, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(147, 1))
    whole = _sum(network, images, labels, patients, clip)
    rest = _sum(network, images[there], labels[there], [patients[n] for n in there], clip) if there else None
    squares = (
        float((value - (rest[number] if rest else 0)).double().square().sum()) for number, value in enumerate(whole)
    )
    assert math.sqrt(sum(squares)) <= clip * (1 + 1e-5)


def _sum(network: nn.Module, images: np.ndarray, labels: np.ndarray, patients: list[str], clip: float) -> list:
    pixels, targets = torch.from_numpy(images), torch.from_numpy(labels)

    def loss_of(chosen: torch.Tensor) -> torch.Tensor:
        logits = network(pixels[chosen])[:, 0]
        return 50 * nn.functional.binary_cross_entropy_with_logits(logits, targets[chosen], reduction="sum")

    return _clipped(network, loss_of, _by_patient(patients), clip)


def test_the_same_order_gives_the_same_weights_and_another_secret_others() -> None:
    images, labels, patients = _cohort()
    first, again, other = (_trained(images, labels, patients, secret) for secret in (b"a", b"a", b"b"))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def _trained(images: np.ndarray, labels: np.ndarray, patients: list[str], secret: bytes) -> dict[str, np.ndarray]:
    torch.manual_seed(1)
    network = build("residual", **FACTS)
    fit_privately(network, images, labels, np.ones(len(labels)), patients, PLAIN, NOISY, secret=secret)
    return get_weights(network)


def test_hardly_any_noise_learns() -> None:
    random = np.random.default_rng(3)
    labels = (np.arange(24) % 2).astype(np.float32)
    images = random.normal(size=(24, 1, 32, 32)).astype(np.float32) * 0.3
    images[labels == 1, :, 8:16, 8:16] += 2
    torch.manual_seed(2)
    network = build("residual", **FACTS)
    hyper = PLAIN.model_copy(update={"steps": 40, "learning_rate": 5e-3})
    patients = [str(number) for number in range(24)]
    faint = NOISY.model_copy(update={"noise": 0.01})
    fit_privately(network, images, labels, np.ones(24), patients, hyper, faint, secret=b"s")
    with torch.inference_mode():
        said = network(torch.from_numpy(images))[:, 0].numpy()
    assert said[labels == 1].min() > said[labels == 0].max()


def test_frozen_layers_stay_and_what_holds_back_does() -> None:
    images, labels, patients = _cohort()

    def far(frozen: tuple[str, ...] = (), **hyper: float) -> dict[str, float]:
        torch.manual_seed(1)
        network = build("residual", **FACTS)
        start = get_weights(network)
        values = PLAIN.model_copy(update={"steps": 6, **hyper})
        fit_privately(
            network, images, labels, np.ones(14), patients, values, NOISY, secret=b"s", frozen=frozen,
            taught=np.where(labels > 0, 0.6, 0.4),
        )  # fmt: skip
        return {name: float(np.abs(value - start[name]).max()) for name, value in get_weights(network).items()}

    free = far()
    held = far(frozen=("fc.weight",), proximal=50.0)
    assert held["fc.weight"] == 0 < free["fc.weight"]
    assert sum(held.values()) < 0.95 * sum(free[name] for name in held if name != "fc.weight")
    assert far(flip_penalty=20.0) != free
    assert sum(far(averaging=0.99).values()) < sum(free.values())


def test_what_mixes_patients_is_refused() -> None:
    images, labels, patients = _cohort()
    ones = np.ones(len(labels))
    mixed = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1))
    with pytest.raises(InvalidTraining, match="group norm"):
        fit_privately(mixed, images, labels, ones, patients, PLAIN, NOISY, secret=b"s")
    network = build("residual", **FACTS)
    mixing = PLAIN.model_copy(update={"mixup": 0.2})
    for hyper, whose, secret, what in (
        (mixing, patients, b"s", "mixup"),
        (PLAIN, patients[:-1], b"s", "patients"),
        (PLAIN, patients, b"", "secret"),
    ):
        with pytest.raises(InvalidTraining, match=what):
            fit_privately(network, images, labels, ones, whose, hyper, NOISY, secret=secret)
    assert not mixes_patients(build("densenet121", norm="batch"))  # its statistics stay as they came


def test_terms_that_cost_more_than_they_say_are_seen() -> None:
    cost = epsilon([Mechanism(1.0, 0.5, 24)], 1e-5)
    assert understates(NOISY.model_copy(update={"epsilon": cost}), 3, 8) is None
    counted = understates(NOISY.model_copy(update={"epsilon": cost * 0.95}), 3, 8)
    assert counted == pytest.approx(cost)
