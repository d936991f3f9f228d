"""Protects the architecture: what a version's facts build, and that the map shown is what the score is made of."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.densenet import DenseNet121 as Stock
from torch import nn

from models.errors import UnknownNetwork
from models.networks import build, with_activation_map

SMALL = {"channels": [8, 8, 16, 16], "groups": 4}


def test_gives_one_logit_for_any_side() -> None:
    network = build("residual", **SMALL).eval()
    assert network(torch.zeros(3, 1, 96, 96)).shape == (3, 1)
    assert network(torch.zeros(1, 1, 40, 72)).shape == (1, 1)


def test_densenet_with_batch_norm_takes_stock_weights_and_keeps_their_statistics() -> None:
    stock = Stock(spatial_dims=2, in_channels=1, out_channels=1)
    network = build("densenet121", norm="batch")
    network.load_state_dict(stock.state_dict())
    images = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(network.eval()(images), stock.eval()(images))
    before = {name: value.clone() for name, value in network.named_buffers()}
    loss = network.train()(images).sum()
    loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    assert all(value.grad is not None for value in network.parameters())


@pytest.mark.parametrize(("name", "facts"), [("residual", SMALL), ("densenet121", {})])
def test_keeps_no_batch_statistics(name: str, facts: dict[str, object]) -> None:
    """A case's score must not hang on the cases beside it, nor on another hospital's running means."""
    network = build(name, **facts)
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())
    images = torch.randn(4, 1, 64, 64)
    torch.testing.assert_close(network.train()(images)[:1], network(images[:1]))


@pytest.mark.parametrize(("name", "facts"), [("residual", SMALL), ("densenet121", {"norm": "batch"})])
def test_map_is_exactly_what_the_logit_is_made_of(name: str, facts: dict[str, object]) -> None:
    network = build(name, **facts).eval()
    images = torch.randn(2, 1, 64, 64)
    mapped = with_activation_map(network)
    assert mapped is not None
    logit, cam = mapped(images)
    assert cam.shape == (2, 2, 2)
    torch.testing.assert_close(logit, network(images))
    torch.testing.assert_close(cam.mean(dim=(1, 2)), logit[:, 0])


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("os.system", {}),
        ("residual", {"width": 3}),
        ("densenet121", {"norm": "layer"}),
        ("densenet121", {"groups": 3}),
        ("residual", {"channels": [8, 8]}),
        ("residual", {"channels": [9, 9, 9, 9]}),
        ("residual", {"channels": ["a", 8, 8, 8]}),
        ("residual", {"blocks": [1, 1, 1, 10**6]}),
    ],
)
def test_refuses_what_it_does_not_know(name: str, facts: dict[str, object]) -> None:
    with pytest.raises(UnknownNetwork):
        build(name, **facts)
