"""A network's windows over a CT of 512 x 512 x 300 voxels: time and memory, against MONAI's sliding window.

Both take the same int16 voxels, the same preprocessing, the same ONNX Runtime session and give the same mask; each turn
is a process of its own, the contenders take turns. Memory is what the process grew by at its peak, from before the
voxels were made: libraries and network are not counted. The network is balanced on the voxels, so that equal masks
prove something: a claim fails where one label has nearly everything.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import psutil
from numpy.typing import NDArray
from onnx import TensorProto, helper

from models.coding import Coding
from models.preprocessing import Preprocessing
from models.segmentation import ANATOMY, Label, Segmentation
from scripts.benchmarks.options import positive
from scripts.benchmarks.report import Report, at_least, at_most

_SHAPE, _WINDOW, _OVERLAP = (300, 512, 512), (96, 96, 96), 0.25
_PREPROCESSING = [
    {"_target_": "ScaleIntensityRange", "a_min": -1000.0, "a_max": 1000.0, "b_min": 0.0, "b_max": 1.0, "clip": True}
]


def run(arguments: Sequence[str]) -> Report:
    """Let both contenders read the same volume, in turns."""
    parser = argparse.ArgumentParser(prog="scripts/bench volume", description=__doc__)
    parser.add_argument("--turns", type=positive, default=5)
    parser.add_argument("--depth", type=positive, default=_SHAPE[0], help="planes of the volume")
    options = parser.parse_args(arguments)
    runs: dict[str, list[dict[str, Any]]] = {"vigie": [], "monai": []}
    with tempfile.TemporaryDirectory() as folder:
        network = Path(folder) / "network.onnx"
        onnx.save(_network(_balance()), network)
        for turn in range(options.turns):
            for name in ("vigie", "monai") if turn % 2 == 0 else ("monai", "vigie"):
                runs[name].append(_turn(name, network, options.depth, Path(folder) / f"{name}.npy"))
                print(f"{name:<6} {runs[name][-1]['seconds']:7.2f} s {runs[name][-1]['peak MiB']:7.0f} MiB", flush=True)
        same, commonest = agreement(*(np.load(Path(folder) / f"{name}.npy") for name in runs))
    seconds, memory = (
        {name: statistics.median(one[key] for one in taken) for name, taken in runs.items()}
        for key in ("seconds", "peak MiB")
    )
    return Report(
        runs,
        [
            at_most("time against MONAI's, median", seconds["vigie"] / seconds["monai"], 1.0),
            at_most("peak memory against MONAI's, median", memory["vigie"] / memory["monai"], 0.5),
            at_least("voxels with the same label", same, 0.9999),
            at_most("share of the commonest label", commonest, 0.8),
        ],
    )


def agreement(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> tuple[float, float]:
    """Share of voxels with the same label, and of the label that one of the masks has most of."""
    commonest = max(int(np.bincount(mask.ravel()).max()) / mask.size for mask in (ours, theirs))
    return float((ours == theirs).mean()), commonest


def _turn(name: str, network: Path, depth: int, mask: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "scripts.benchmarks.volume", name, str(network), str(depth), str(mask)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _balance() -> float:
    """What the second label's logit lacks for half of a window's voxels to have that label."""
    import onnxruntime

    network = _network(0.0).SerializeToString()
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    window = _voxels(_WINDOW[0])[:, : _WINDOW[1], : _WINDOW[2]]
    image = Preprocessing(_PREPROCESSING).intensities(window)
    (logits,) = cast("list[NDArray[np.float32]]", session.run(["logits"], {"image": image[None, None]}))
    return float(np.median(logits[0, 0] - logits[0, 1]))


def _network(second_label: float) -> onnx.ModelProto:
    """Two small convolutions: enough to be a network, so little that the windows' handling shows."""
    bias = np.array([0.0, second_label], np.float32)
    random = np.random.default_rng(0)
    first = random.normal(0, 0.3, (8, 1, 3, 3, 3)).astype(np.float32)
    second = random.normal(0, 0.3, (2, 8, 1, 1, 1)).astype(np.float32)
    shape = ["n", 1, *_WINDOW]
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["wide"], pads=[1] * 6),
        helper.make_node("Relu", ["wide"], ["bent"]),
        helper.make_node("Conv", ["bent", "second", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "bench",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2, *_WINDOW])],
        [
            helper.make_tensor(name, TensorProto.FLOAT, weights.shape, weights.ravel())
            for name, weights in (("first", first), ("second", second), ("bias", bias))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


# ---------------------------------------------------------------- one turn, in a process of its own


def _voxels(depth: int) -> NDArray[np.int16]:
    z, y, x = np.ogrid[:depth, : _SHAPE[1], : _SHAPE[2]]
    made = np.empty((depth, *_SHAPE[1:]), np.int16)
    for number in range(depth):
        made[number] = (600 * np.sin(z[number] / 9) * np.cos(y[0] / 31) * np.sin(x[0] / 23)).astype(np.int16)
    return made


def _vigie(voxels: NDArray[np.int16], predict: Any) -> NDArray[np.uint8]:
    from pydicom.dataset import Dataset

    from client.dicom.series import Plane, Stack, Volume
    from client.inference.segment import segment

    header = Dataset()
    header.Rows, header.Columns = voxels.shape[1:]
    right, down, up = np.eye(3)
    planes = tuple(
        Plane("", number, header, up * number, right, down, (1.0, 1.0), False) for number in range(len(voxels))
    )
    stack = Stack(planes, up, 1.0, np.zeros((len(voxels), 2)))
    label = Label(value=1, name="x", category=ANATOMY, finding=Coding(value="x", scheme="99X", meaning="x"))
    declared = Segmentation(labels=(label,), axes="SPL", window=_WINDOW, overlap=_OVERLAP, activation="softmax")
    return segment(Volume(stack, voxels), declared, Preprocessing(_PREPROCESSING), 0.5, predict).labels


def _monai(voxels: NDArray[np.int16], predict: Any) -> NDArray[np.uint8]:
    import torch
    from monai.inferers.inferer import SlidingWindowInferer

    image = Preprocessing(_PREPROCESSING).intensities(voxels)
    inferer = SlidingWindowInferer(_WINDOW, sw_batch_size=1, overlap=_OVERLAP, mode="gaussian")

    def network(part: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(predict(part.numpy()))

    with torch.inference_mode():
        logits = cast(Any, inferer(torch.from_numpy(image)[None, None], network))
        return logits[0].argmax(dim=0).to(torch.uint8).numpy()


def _child(name: str, network: str, depth: str, mask: str) -> None:
    import onnxruntime
    import torch

    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])

    def predict(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        return cast("NDArray[np.float32]", session.run(["logits"], {"image": windows})[0])

    read = {"vigie": _vigie, "monai": _monai}[name]
    read(np.zeros(_WINDOW, np.int16), predict)  # whatever is loaded late is loaded
    before = psutil.Process().memory_info().rss
    voxels = _voxels(int(depth))
    began = time.perf_counter()
    labels = read(voxels, predict)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    np.save(mask, labels)
    print(json.dumps({"seconds": seconds, "peak MiB": (peak - before) / 2**20}))


if __name__ == "__main__":
    _child(*sys.argv[1:])
