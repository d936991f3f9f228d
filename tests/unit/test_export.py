"""Protects the way out: one file, any batch size, the same scores, and an alarm when they are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from models.errors import ExportMismatch
from models.export import export_onnx, parity
from models.networks import build


def test_exported_network_gives_the_same_scores_for_any_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build("residual", channels=[8, 8, 16, 16], groups=4)
    network.to(memory_format=torch.channels_last)
    path = tmp_path / "model.onnx"
    export_onnx(network, (64, 64), path)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    draw = np.random.default_rng(0)
    for count in (1, 2, 5):
        assert parity(network, path, draw.normal(size=(count, 1, 64, 64)).astype(np.float32)) <= 1e-4
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [item.name for item in session.get_inputs()] == ["image"]
    assert [item.name for item in session.get_outputs()] == ["logit", "cam"]

    with torch.no_grad():
        network.get_parameter("fc.bias").add_(1)
    with pytest.raises(ExportMismatch):
        parity(network, path, np.zeros((1, 1, 64, 64), dtype=np.float32))


def test_densenet_is_exported_as_it_was_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build("densenet121", norm="batch")
    path = tmp_path / "model.onnx"
    export_onnx(network, (64, 64), path)
    images = np.random.default_rng(0).normal(size=(3, 1, 64, 64)).astype(np.float32)
    assert parity(network, path, images) <= 1e-4


def test_a_network_without_an_exact_map_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(ExportMismatch):
        export_onnx(torch.nn.Flatten(), (8, 8), tmp_path / "model.onnx")
