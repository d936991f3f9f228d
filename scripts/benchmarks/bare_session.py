"""The bare contender of `inference`: an ONNX Runtime session over tensors in memory, a rate for each batch size."""

import json
import sys
import time

import numpy as np
import onnxruntime

from scripts.benchmarks.versions import SIDE


def main() -> None:
    path, count, threads, *batches = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(threads), 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).normal(size=(32, 1, SIDE, SIDE)).astype(np.float32)
    rates: dict[int, float] = {}
    for batch in map(int, batches):
        session.run(["logit", "cam"], {"image": images[:batch]})  # makes room for this size
        turns = max(1, int(count) // batch)
        began = time.perf_counter()
        for _ in range(turns):
            session.run(["logit", "cam"], {"image": images[:batch]})
        rates[batch] = turns * batch / (time.perf_counter() - began)
    json.dump(rates, sys.stdout)


if __name__ == "__main__":
    main()
