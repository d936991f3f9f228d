"""Protects the architecture: what a version's facts build, and that the map shown is what the score is made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.errors import UnknownNetwork
from models.networks import build
from models.networks.residual import WithActivationMap

SMALL = {"channels": [8, 8, 16, 16], "groups": 4}


def test_gives_one_logit_for_any_side() -> None:
    network = build("residual", **SMALL).eval()
    assert network(torch.zeros(3, 1, 96, 96)).shape == (3, 1)
    assert network(torch.zeros(1, 1, 40, 72)).shape == (1, 1)


def test_keeps_no_batch_statistics() -> None:
    """A case's score must not hang on the cases beside it, nor on another hospital's running means."""
    network = build("residual", **SMALL)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    images = torch.randn(4, 1, 64, 64)
    torch.testing.assert_close(network.train()(images)[:1], network(images[:1]))


def test_map_is_exactly_what_the_logit_is_made_of() -> None:
    network = build("residual", **SMALL).eval()
    images = torch.randn(2, 1, 64, 64)
    logit, cam = WithActivationMap(network)(images)
    assert cam.shape == (2, 2, 2)
    torch.testing.assert_close(logit, network(images))
    torch.testing.assert_close(cam.mean(dim=(1, 2)), logit[:, 0])


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("os.system", {}),
        ("residual", {"width": 3}),
        ("residual", {"channels": [8, 8]}),
        ("residual", {"channels": [9, 9, 9, 9]}),
        ("residual", {"channels": ["a", 8, 8, 8]}),
        ("residual", {"blocks": [1, 1, 1, 10**6]}),
    ],
)
def test_refuses_what_it_does_not_know(name: str, facts: dict[str, object]) -> None:
    with pytest.raises(UnknownNetwork):
        build(name, **facts)
