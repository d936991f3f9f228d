"""What computes a version's network: ONNX Runtime on the processor, or on a GPU with inputs and outputs kept there."""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from client.inference.providers import CPU, Named

Floats = NDArray[np.float32]

SIZES: Final = (1, 2, 4, 8, 16, 32)  # of a batch on a GPU: what does not fill one is padded, so that shapes are fixed
LARGEST: Final = SIZES[-1]
_SPIN_MICROSECONDS: Final = "30"


class Computation(Protocol):
    """A loaded network."""

    @property
    def name(self) -> str:
        """What computes, as it is told with a result, e.g. `CPUExecutionProvider`."""
        ...

    @property
    def inputs(self) -> Sequence[str]: ...

    @property
    def outputs(self) -> Sequence[str]: ...

    @property
    def registered(self) -> Sequence[str]:
        """What it could compute on; what it was asked for need not be among it."""
        ...

    @property
    def placed(self) -> Mapping[str, int]:
        """How many operators of the network run where."""
        ...

    def run(self, outputs: Sequence[str], images: Floats) -> list[Floats]:
        """Compute outputs (n, ...) of (n, ...) float32, n at most `LARGEST`."""
        ...


def open_onnx(path: Path, providers: Sequence[Named], threads: int) -> Computation:
    """A session on these providers, or on fewer: ask what is `registered`. Raises whatever onnxruntime raises.

    Arrays are kept where it computes.
    """
    session = open_session(path, providers, threads)
    return OnnxRuntime(session) if session.get_providers()[0] == CPU else OnnxOnDevice(session)


def open_session(path: Path, providers: Sequence[Named], threads: int) -> onnxruntime.InferenceSession:
    """As `open_onnx`, the session itself."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Left to itself the pool spins on for some 35 ms of a core after each run, and within one for as long as another
    # thread of it has no core: the node has other work for both. The pauses between operators are shorter than this.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_MICROSECONDS)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # with its fallback on, the Python layer prints to stdout and goes on with another provider, even in a later run
    return onnxruntime.InferenceSession(str(path), options, providers=list(providers), enable_fallback=0)


class OnnxRuntime:
    """A session of ONNX Runtime; arrays lie in main memory."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self.registered = [str(name) for name in session.get_providers()]
        self.name = self.registered[0]
        self.inputs = [str(node.name) for node in session.get_inputs()]
        self.outputs = [str(node.name) for node in session.get_outputs()]
        self.placed = _placed(session)

    def run(self, outputs: Sequence[str], images: Floats) -> list[Floats]:
        return cast("list[Floats]", self._session.run(list(outputs), {"image": images}))


class OnnxOnDevice(OnnxRuntime):
    """A session whose input and outputs lie in the device's memory: only what is asked for is copied back.

    Args:
        device: as onnxruntime names it: `cuda`; tests use `cpu`, which goes the same way.
    """

    def __init__(self, session: onnxruntime.InferenceSession, device: str = "cuda") -> None:
        super().__init__(session)
        self._device = device
        self._bound: dict[tuple[tuple[int, ...], tuple[str, ...]], tuple[Any, Any]] = {}
        self._lock = threading.Lock()  # the buffers are one batch's at a time

    def run(self, outputs: Sequence[str], images: Floats) -> list[Floats]:
        count = len(images)
        padded = _padded(images)
        with self._lock:
            buffer, binding = self._binding(padded.shape, tuple(outputs))
            buffer.update_inplace(padded)
            binding.synchronize_inputs()
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            return [np.asarray(output)[:count] for output in binding.copy_outputs_to_cpu()]

    def _binding(self, shape: tuple[int, ...], outputs: tuple[str, ...]) -> tuple[Any, Any]:
        key = shape, outputs
        if key not in self._bound:
            buffer = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32, self._device, 0)
            binding = self._session.io_binding()
            binding.bind_ortvalue_input("image", buffer)
            for name in outputs:
                binding.bind_output(name, self._device, 0)
            self._bound[key] = buffer, binding
        return self._bound[key]


def _placed(session: onnxruntime.InferenceSession) -> dict[str, int]:
    """Operators by the provider that ONNX Runtime gave them to, as it recorded while loading."""
    found: Counter[str] = Counter()
    for part in session.get_provider_graph_assignment_info():
        found[str(part.ep_name)] += len(part.get_nodes())
    return dict(found)


def _padded(images: Floats) -> Floats:
    size = next((size for size in SIZES if size >= len(images)), len(images))
    if size == len(images):
        return np.ascontiguousarray(images, np.float32)
    padded = np.zeros((size, *images.shape[1:]), np.float32)
    padded[: len(images)] = images
    return padded
