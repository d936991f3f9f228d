"""From a trained network to the ONNX file that hospitals run, and the proof that both give the same scores."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from models.errors import ExportMismatch
from models.networks import with_activation_map

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4


def export_onnx(network: nn.Module, example_shape: tuple[int, int], path: Path) -> None:
    """Write input `image` (N, 1, H, W), outputs `logit` (N, 1) and `cam` (N, h, w), all float32, N free.

    Args:
        network: trained; left as it is.
        example_shape: (H, W) of the images it takes, pixels.
        path: the file to write; the weights stand in it, beside it there is nothing.

    Raises:
        ExportMismatch: the architecture has no exact activation map.
    """
    mapped = _mapped(network)
    if mapped is None:
        raise ExportMismatch(f"{type(network).__name__} has no exact activation map")
    _export(mapped, example_shape, ["logit", "cam"], path)


def export_volume_onnx(network: nn.Module, window: tuple[int, int, int], path: Path) -> None:
    """Write input `image` (N, 1, *window), output `logits` (N, channels, *window), float32, N free.

    Args:
        network: trained; left as it is.
        window: (D, H, W) voxels that it sees at once.
        path: as `export_onnx`.
    """
    _export(as_run(network), window, ["logits"], path)


def as_run(network: nn.Module) -> nn.Module:
    """A copy that gives what a hospital asks of it: with the activation map where there is an exact one."""
    mapped = _mapped(network)
    return copy.deepcopy(network).eval() if mapped is None else mapped


def _mapped(network: nn.Module) -> nn.Module | None:
    copied = copy.deepcopy(network).eval()
    mapped = with_activation_map(copied.to(memory_format=torch.contiguous_format))  # pyright: ignore[reportCallIssue]
    return None if mapped is None else mapped.eval()


def _export(network: nn.Module, shape: tuple[int, ...], outputs: list[str], path: Path) -> None:
    # Two images: with one, the exporter would take the batch's size for a constant.
    example = torch.zeros(2, 1, *shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own dependencies
        program: Any = torch.onnx.export(
            network,
            (example,),
            input_names=["image"],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("n", min=1, max=4096)},),
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path), external_data=False)
    logger.info("exported a network of %d bytes", path.stat().st_size)


def parity(network: nn.Module, path: Path, images: NDArray[np.float32]) -> float:
    """Compare scores and maps of the trained network and the exported file.

    Args:
        network: the trained network that was exported.
        path: the ONNX file.
        images: (N, 1, H, W) float32, N >= 1, preprocessed.

    Returns:
        The largest absolute difference of a score, 0..1.

    Raises:
        ExportMismatch: a score differs by more than 1e-4, or the map's mean is not the logit.
    """
    import onnxruntime  # either build of it is an extra; training alone needs none

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs = session.run(["logit", "cam"], {"image": np.ascontiguousarray(images, dtype=np.float32)})
    logit, cam = (cast("NDArray[np.float32]", output) for output in outputs)
    network.eval()
    with torch.inference_mode():
        expected = torch.sigmoid(network(torch.from_numpy(images))).numpy()
    found = 1 / (1 + np.exp(-logit))
    if found.shape != expected.shape or cam.ndim != 3:
        raise ExportMismatch(f"the file gives {found.shape} and {cam.shape}, the network {expected.shape}")
    worst = float(np.abs(found - expected).max())
    if not worst <= TOLERANCE:
        raise ExportMismatch(f"a score differs by {worst:.2g}")
    if not np.allclose(cam.mean(axis=(1, 2)), logit[:, 0], atol=1e-3):
        raise ExportMismatch("the activation map's mean is not the logit")
    return worst


def volume_parity(network: nn.Module, logits: NDArray[np.float32], windows: NDArray[np.float32]) -> float:
    """Compare what an exported file gave for some windows with what the trained network gives.

    Args:
        logits: of the file, (N, channels, D, H, W).
        windows: (N, 1, D, H, W) float32.

    Returns:
        The largest absolute difference of a probability, 0..1.

    Raises:
        ExportMismatch: another shape, or a probability differs by more than 1e-4.
    """
    network.eval()
    with torch.inference_mode():
        found = torch.sigmoid(network(torch.from_numpy(windows))).numpy()
    if found.shape != logits.shape:
        raise ExportMismatch(f"the file gives {logits.shape}, the network {found.shape}")
    worst = float(np.abs(found - 1 / (1 + np.exp(-np.clip(logits, -80, 80)))).max())
    if not worst <= TOLERANCE:
        raise ExportMismatch(f"a probability differs by {worst:.2g}")
    return worst
