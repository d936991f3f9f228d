"""A version's network as TorchScript, made here from its weights and an architecture that is installed here.

A TorchScript file is a program, and no program from outside runs at a hospital: so a version ships none, and none is
kept on the disk where one could be put in its place. What is traced is `models.networks`' own code with the version's
signed weights; it takes a second or two at each start, and only where it was measured to be the faster one.

`torch.compile` and `torch.export`'s ahead-of-time compiler, which replace TorchScript from Python 3.14 on, make C++
that a compiler has to translate: a hospital's machine has none. Without one an exported program runs as slowly as
PyTorch itself.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from client.inference.computing import Floats
from models import networks
from models.bundle import Bundle

if TYPE_CHECKING:
    from torch import nn

NAME: Final = "TorchScript"
_WARM_RUNS: Final = 3  # the first ones of a shape also optimise

log = logging.getLogger(__name__)


def possible(bundle: Bundle) -> bool:
    """Whether the version says what its network is, by a name that is known here, and ships the float32 weights."""
    facts = bundle.facts
    return facts.network in networks.NAMES and facts.precision == "float32" and bundle.has_weights


class TorchScript:
    """A traced and frozen network on the processor.

    Args:
        outputs: what the version's ONNX file gives, in that order.
        threads: of one computation; PyTorch has one number for the whole process.

    Raises:
        VigieError: the architecture does not take these weights.
        RuntimeError: PyTorch cannot trace it (from Python 3.14 on there is no TorchScript).
    """

    def __init__(self, bundle: Bundle, outputs: Sequence[str], threads: int) -> None:
        import torch  # most versions are faster without it, and its import takes a second and 200 MiB

        from models.export import as_run
        from models.training import set_weights

        network: nn.Module = networks.build(bundle.facts.network, **bundle.facts.network_facts)
        set_weights(network, bundle.read_weights())
        self.name = NAME
        self.inputs: Sequence[str] = ["image"]
        self.outputs: Sequence[str] = list(outputs)
        self.registered: Sequence[str] = [NAME]
        self._threads = threads
        self._torch: Any = torch
        example = torch.zeros(1, *bundle.facts.input_shape)
        torch.set_num_threads(threads)
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # that it is deprecated, and what tracing takes for constant: shapes
            traced: Any = torch.jit.trace(as_run(network), example, check_trace=False)
            self._program: Any = torch.jit.optimize_for_inference(torch.jit.freeze(traced))
            for _ in range(_WARM_RUNS):
                self._program(example)
        self.placed: Mapping[str, int] = {NAME: sum(1 for _ in self._program.graph.nodes())}

    def run(self, outputs: Sequence[str], images: Floats) -> list[Floats]:
        torch = self._torch
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            given: Any = self._program(torch.from_numpy(np.ascontiguousarray(images, np.float32)))
        arrays = [part.numpy() for part in (given if isinstance(given, tuple) else (given,))]
        by_name = dict(zip(self.outputs, arrays, strict=True))
        return [by_name[name] for name in outputs]
