"""Which of ONNX Runtime's execution providers may compute, in what order, and with which options.

The options are those that onnxruntime documents for TensorRT and CUDA. Numbers are float32 everywhere: a version in
fewer bits is another version, with a signature and a gate of its own, so that TF32 and FP16 stay off here.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

TENSORRT: Final = "TensorrtExecutionProvider"
CUDA: Final = "CUDAExecutionProvider"
CPU: Final = "CPUExecutionProvider"
ORDER: Final = (TENSORRT, CUDA, CPU)

Named = tuple[str, dict[str, str]]
Shape = tuple[int, ...]


def candidates(available: Sequence[str]) -> list[str]:
    """Those of `ORDER` that this build of ONNX Runtime has; the processor is always the last."""
    return [name for name in ORDER if name in available or name == CPU]


def stack(name: str, available: Sequence[str], shape: Shape, largest: int, folder: Path | None) -> list[Named]:
    """The providers of a session that is to run on `name`: itself, and beneath it what takes the parts it cannot.

    Args:
        name: one of `ORDER`.
        shape: of one image or window as the network takes it, without the batch.
        largest: batch that will be asked for.
        folder: where TensorRT keeps what it built; None: it builds anew each time.

    Source: onnxruntime.ai, TensorRT and CUDA execution providers; TensorRT asks for CUDA beneath it.
    """
    if name == CPU:
        return [(CPU, {})]
    # TensorRT has no option for it: cuBLAS, cuDNN and TensorRT read this when they are loaded
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
    cuda: Named = (CUDA, {"device_id": "0", "use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"})
    if name == CUDA:
        return [cuda, (CPU, {})]
    beneath = [cuda] if CUDA in available else []
    return [(TENSORRT, _tensorrt(shape, largest, folder)), *beneath, (CPU, {})]


def _tensorrt(shape: Shape, largest: int, folder: Path | None) -> dict[str, str]:
    def sized(batch: int) -> str:
        return "image:" + "x".join(str(side) for side in (batch, *shape))

    options = {
        "device_id": "0",
        "trt_fp16_enable": "False",
        "trt_int8_enable": "False",
        "trt_profile_min_shapes": sized(1),
        "trt_profile_opt_shapes": sized(1),
        "trt_profile_max_shapes": sized(largest),
    }
    if folder is not None:
        options |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(folder),
        }
    return options


def problem(wanted: str, got: Sequence[str], placed: Mapping[str, int]) -> str:
    """Why a session does not run on the provider that it was made for; empty where it does.

    ONNX Runtime goes on without a provider that cannot be loaded (no driver, no library), and may give it no part of
    the graph; neither is an error there.

    Args:
        got: the providers that the session has registered.
        placed: operators of the graph by the provider that takes them.
    """
    if wanted not in got:
        return (
            f"onnxruntime left it out and would compute on {got[0] if got else 'nothing'}: driver or library missing?"
        )
    if not placed.get(wanted):
        return "takes no part of this network"
    return ""
