"""The heat map depends on what the network has learned, and not on the picture alone.

A map that stays the same when the weights are drawn anew shows edges or bright places, whatever the network knows, and
explains nothing (Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018: model parameter randomization). It is
not enough to look whether the map still points at the object: in these pictures the object is the brightest thing, and
the map of a network that knows nothing often points at it too.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from models.networks import build
from models.networks.residual import WithActivationMap
from models.training import Hyperparameters, fit

# from the answer down to the picture
STAGES = (("fc",), ("layer4",), ("layer3", "layer2", "layer1", "conv1"))
SEEDS = range(8)
SIDE, OBJECT = 96, 24


def fresh(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build("residual", channels=[16, 16, 16, 16], groups=8, stride=2)


def pictures(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Noise with a square in it: a full one where positive, a striped one of the same brightness where negative."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    images = draw.normal(0, 0.5, (count, 1, SIDE, SIDE)).astype(np.float32)
    for image, label in zip(images, labels, strict=True):
        row, column = draw.integers(4, SIDE - OBJECT - 4, 2)
        square = image[0, row : row + OBJECT, column : column + OBJECT]
        square += 3
        if not label:
            square[1::2] -= 6
    return images, labels


def maps(network: nn.Module, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        return WithActivationMap(network.eval())(torch.from_numpy(images))[1].numpy()  # type: ignore[arg-type]


def agreement(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Spearman's rank correlation of two maps, averaged over the pictures."""
    ranks = [np.argsort(np.argsort(each.reshape(len(each), -1), axis=1), axis=1).astype(float) for each in (one, other)]
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]))


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    network = fresh(0)
    images, labels = pictures(48, 0)
    hyper = Hyperparameters(steps=30, batch_size=8, augmentation=0.0, averaging=0.0, learning_rate=5e-3)
    fit(network, images, labels, np.ones(len(images)), hyper, 7)
    shown, answers = pictures(16, 1)
    with torch.no_grad():
        scores = network.eval()(torch.from_numpy(shown))[:, 0].numpy()
    assert scores[answers == 1].min() > scores[answers == 0].max()  # there is something to forget
    return network


def test_the_map_is_forgotten_with_the_weights(trained: nn.Module) -> None:
    shown, answers = pictures(12, 1)
    shown = shown[answers == 1]
    learned = maps(trained, shown)
    kept: list[list[float]] = [[] for _ in STAGES]
    for seed in SEEDS:
        network, other = copy.deepcopy(trained), fresh(100 + seed)
        for stage, found in zip(STAGES, kept, strict=True):  # cascading: each stage on top of those before
            for name in stage:
                setattr(network, name, getattr(other, name))
            found.append(agreement(learned, maps(network, shown)))

    answer, _, everything = (np.array(found) for found in kept)
    assert agreement(learned, learned) == pytest.approx(1)
    # one draw of the last layer may by chance weigh the same features; on average nothing may be left
    assert abs(answer.mean()) < 0.5, answer
    assert abs(everything.mean()) < 0.3, everything
    assert np.abs(everything).max() < 0.8, everything
