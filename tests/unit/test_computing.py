"""What a computation leaves to the rest of the node: the processors, as soon as it has its answer."""

import time
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from client.inference.computing import open_onnx
from client.inference.providers import CPU


def test_nothing_spins_once_a_run_has_its_answer(tmp_path: Path) -> None:
    """Left to itself ONNX Runtime's pool takes about as much again after a run as the run took, from receiving,
    drawing and sending.
    """
    shape = [1, 1, 256, 256]
    convolution = helper.make_node("Conv", ["image", "kernel"], ["wide"], pads=[1, 1, 1, 1])
    narrow = helper.make_node("Conv", ["wide", "mix"], ["logit"], pads=[1, 1, 1, 1])
    draw = np.random.default_rng(0)
    graph = helper.make_graph(
        [convolution, narrow],
        "two convolutions",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logit", TensorProto.FLOAT, [1, 32, 256, 256])],
        [
            numpy_helper.from_array(draw.normal(size=(32, 1, 3, 3)).astype(np.float32), "kernel"),
            numpy_helper.from_array(draw.normal(size=(32, 32, 3, 3)).astype(np.float32), "mix"),
        ],
    )
    path = tmp_path / "network.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.write_bytes(model.SerializeToString())
    computation, image = open_onnx(path, [(CPU, {})], 2), np.ones(shape, np.float32)
    computation.run(("logit",), image)
    running = after = 0.0
    for _ in range(8):
        began = time.process_time()
        computation.run(("logit",), image)
        ended = time.process_time()
        time.sleep(0.04)
        running += ended - began
        after += time.process_time() - ended
    assert after < running / 4
