"""Protects the way from pixels to the network: never code from a declaration, the same look from any machine."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from models.errors import InvalidPreprocessing, InvalidStudy
from models.preprocessing import DEFAULT, SIZE, Preprocessing


def radiograph(height: int, width: int, low: float = 0, high: float = 255) -> np.ndarray:
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return (low + (high - low) * (0.5 + 0.5 * np.sin(5 * rows + 3 * columns))).astype(np.float32)


@pytest.mark.parametrize("shape", [(1, 1), (3, 200), (97, 64), (512, 480), (1500, 1200)])
def test_any_shape_becomes_the_networks(shape: tuple[int, int]) -> None:
    made = Preprocessing()(radiograph(*shape))
    assert made.shape == (1, SIZE, SIZE)
    assert made.dtype == np.float32
    assert made.flags["C_CONTIGUOUS"]


def test_constant_and_nearly_constant_images_are_no_accident() -> None:
    lone = np.zeros((300, 300), dtype=np.float32)
    lone[5, 5] = 4095
    for image in (np.full((300, 300), 7, dtype=np.float32), lone):
        made = Preprocessing()(image)
        assert np.isfinite(made).all()
        assert np.abs(made).max() < 200


def test_bit_depth_and_offset_do_not_matter() -> None:
    eight = Preprocessing()(radiograph(256, 256))
    sixteen = Preprocessing()(radiograph(256, 256, -1024, 64511))
    np.testing.assert_allclose(eight, sixteen, atol=1e-3)


def test_a_bright_marker_does_not_darken_the_lungs() -> None:
    plain, marked = radiograph(512, 512), radiograph(512, 512)
    marked[10:30, 10:40] = 5000
    difference = Preprocessing()(plain) - Preprocessing()(marked)
    assert np.abs(difference[:, 20:, 20:]).max() < 0.2


@pytest.mark.parametrize("image", [np.zeros((0, 5)), np.zeros((2, 3, 4)), np.full((9, 9), np.nan), np.zeros(4)])
def test_refuses_what_is_no_image(image: np.ndarray) -> None:
    with pytest.raises(InvalidStudy):
        Preprocessing()(image)


@pytest.mark.parametrize(
    "declaration",
    [
        [],
        [{"_target_": "Lambda", "func": "print"}],
        [{"_target_": "subprocess.run", "args": ["true"]}],
        [{"_target_": "monai.transforms.Resize", "spatial_size": [96, 96]}],
        [{"spatial_size": [96, 96]}],
        [{"_target_": "Resize", "spatial_size": [96, 10**9]}],
        [{"_target_": "Resize", "spatial_size": [96, 96], "mode": {"_target_": "x"}}],
        [{"_target_": "NormalizeIntensity", "subtrahend": float("nan")}],
        [{"_target_": "Resize", "spatial_size": [96, 96], "lazy": True}],
    ],
)
def test_refuses_everything_outside_the_allow_list(declaration: list[dict[str, object]]) -> None:
    with pytest.raises(InvalidPreprocessing):
        Preprocessing(declaration)


def test_wrong_values_for_allowed_arguments_are_refused_when_built() -> None:
    with pytest.raises(InvalidPreprocessing):
        Preprocessing([{"_target_": "Resize", "spatial_size": [32, 32], "mode": "??"}])(radiograph(64, 64))


def test_digest_survives_a_journey_through_json() -> None:
    there = Preprocessing(DEFAULT)
    back = Preprocessing(json.loads(json.dumps(there.declaration)))
    assert there.digest == back.digest
    assert there.digest != Preprocessing([{"_target_": "NormalizeIntensity"}]).digest


def test_declaring_needs_neither_torch_nor_monai() -> None:
    """The web process names the digest; it must not carry torch."""
    code = "import sys, models.preprocessing as p; p.Preprocessing(); assert not {'torch', 'monai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
