"""A volume in windows gives what MONAI gives, in less memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import compute_importance_map
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray

from client.inference.sliding import importance, slide

sides = st.tuples(*[st.integers(1, 23)] * 3)
windows = st.tuples(*[st.integers(2, 12)] * 3)


def network(images: torch.Tensor) -> torch.Tensor:
    """Two channels that depend on a voxel's place in its window, so that wrong blending shows."""
    place = torch.linspace(-1, 1, images.shape[2])[:, None, None] * torch.linspace(0, 2, images.shape[4])
    return torch.cat([images + place, images**2 - place], dim=1)


def ours(volume: NDArray[np.float32], window: tuple[int, int, int], overlap: float, batch: int) -> NDArray[np.float32]:
    parts: list[NDArray[np.float32]] = []

    def finished(first: int, output: NDArray[np.float32]) -> None:
        assert first == sum(part.shape[1] for part in parts)
        parts.append(output)

    slide(
        volume.shape,  # type: ignore[arg-type]
        window,
        overlap,
        lambda part: volume[part],
        lambda images: network(torch.from_numpy(images)).numpy(),
        finished,
        batch,
    )
    return np.concatenate(parts, axis=1)


@settings(max_examples=60, deadline=None)
@given(sides, windows, st.sampled_from([0.0, 0.25, 0.5, 0.7]), st.integers(1, 5), st.integers(0, 99))
def test_equal_to_monai_for_any_shape(
    shape: tuple[int, int, int], window: tuple[int, int, int], overlap: float, batch: int, seed: int
) -> None:
    volume = np.random.default_rng(seed).normal(size=shape).astype(np.float32)

    theirs = sliding_window_inference(
        torch.from_numpy(volume)[None, None], window, 1, network, overlap=overlap, mode="gaussian"
    )[0].numpy()

    np.testing.assert_allclose(ours(volume, window, overlap, batch), theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("window", [(7, 7, 7), (96, 96, 96), (3, 64, 10)])
def test_the_weights_are_monais(window: tuple[int, int, int]) -> None:
    theirs = compute_importance_map(window, mode="gaussian").numpy()

    np.testing.assert_allclose(importance(window), theirs, rtol=1e-6)


def test_no_more_than_a_window_of_planes_is_held() -> None:
    """What a volume of any depth costs beside itself: the planes handed on at one time are at most a window."""
    most = 0

    def finished(_first: int, output: NDArray[np.float32]) -> None:
        nonlocal most
        most = max(most, output.shape[1])

    slide((400, 8, 8), (16, 8, 8), 0.5, lambda part: np.zeros((400, 8, 8), np.float32)[part], lambda x: x, finished)

    assert most <= 16
