"""The node's way of a radiograph, walked in one process, the time of each step taken alone.

What the steps call is wrapped where it stands, and each moment counts for the innermost step: where the pipeline is
arranged otherwise one day, its time moves to the step that calls it and none is lost.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Generator


@dataclass
class Stopwatch:
    """Seconds by step; a step that calls another one pauses meanwhile."""

    clock: Callable[[], float] = time.perf_counter
    seconds: dict[str, float] = field(default_factory=lambda: dict[str, float]())
    _open: list[str] = field(default_factory=lambda: list[str]())
    _since: float = 0.0

    @contextmanager
    def step(self, name: str) -> "Generator[None]":
        """Time what is inside."""
        self._turn()
        self._open.append(name)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def wrap(self, owner: Any, attribute: str, name: str) -> None:
        """Time every call of a function where it stands; those of other threads are not meant."""
        inner = getattr(owner, attribute)

        @wraps(inner)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            with self.step(name):
                return inner(*arguments, **keywords)

        setattr(owner, attribute, timed)

    def _turn(self) -> None:
        now = self.clock()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now


def main() -> None:
    folder, version, trust, pacs_port, side, threads, count = sys.argv[1:]
    stages = walk(Path(folder), Path(version), Path(trust), int(pacs_port), int(side), int(threads), int(count))
    json.dump(stages, sys.stdout)


def walk(
    folder: Path, version: Path, trust: Path, pacs_port: int, side: int, threads: int, count: int
) -> dict[str, float]:
    """Let studies go the whole way; milliseconds a study by step, in the order of the way.

    Args:
        folder: of a hospital, made here.
        version: of a bundle that scores radiographs.
        trust: the folder with its signer's key.
    """
    from client.arrival.completeness import Bounds
    from client.arrival.gateway import Gateway
    from client.arrival.receive import Receiving
    from client.delivery.sender import Sender
    from client.dicom import decode
    from client.inference import outcomes
    from client.inference.engine import Engine
    from client.inference.objects import objects
    from client.inference.panel import Panel
    from client.inference.pipeline import Pipeline
    from client.inference.priors import earlier
    from client.inference.tensors import Tensors
    from client.results import conformity, dciodvfy
    from client.store.archive import Archive
    from client.store.site import create
    from configs.schema import PeerConfig, SiteConfig
    from models.preprocessing import Preprocessing
    from scripts.benchmarks import pictures, versions
    from scripts.benchmarks.modality import Association, prepare

    config = SiteConfig(dicom_port=0, pacs=PeerConfig(port=pacs_port), inference_threads=threads)
    site = create(folder, config)
    versions.take_over(site, version, trust)
    watch = Stopwatch()
    for owner, attribute, name in (
        (decode, "read_header", "decode"),
        (decode, "read", "decode"),
        (Preprocessing, "made", "preprocess"),  # whoever does the steps: what is faster overrides less
        (Tensors, "keep", "keep the tensor"),
        (Engine, "run_many", "engine"),
        (Archive, "store", "keep the objects"),
        (conformity, "examine", "check the objects"),
        (dciodvfy.Checker, "problems", "check the objects"),
    ):
        watch.wrap(owner, attribute, name)
    archive, panel = Archive(site.archive), Panel(site)
    pipeline = Pipeline(
        archive, Tensors(site.tensors, archive), panel.members, "Hospital", partial(earlier, site), panel.record
    )
    gateway, receiving, sender = Gateway(site), Receiving(site, Bounds(0.0, 0.0)), Sender(site)

    def make(result: Any) -> Any:
        with watch.step("make the objects"):
            return objects(result, config.results)

    try:
        for number in range(-5, count):
            if number == 0:
                watch.seconds.clear()  # whatever is loaded late is loaded
            kind = pictures.Kind("DX", pictures.DX, 1, side)
            message = prepare(next(pictures.study(kind, number)))
            association = Association(gateway.port, config.ae_title)
            with watch.step("receive"):
                status = association.store(message)
            association.release()
            with watch.step("call it complete, take it"):
                receiving.complete()
                study = outcomes.take(site)
            if status or study is None or isinstance(study, outcomes.Exhausted):
                raise RuntimeError(f"study {number} was not received")
            with watch.step("scope and choice"):
                result = pipeline.process(study)
            with watch.step("index and ledger"):
                outcomes.conclude(site, archive, study, result, make)
            with watch.step("send"):
                if sender.drain() != 2:
                    raise RuntimeError("the PACS did not store both objects")
    finally:
        gateway.close()
        sender.stop()
    order = ["receive", "call it complete, take it", "scope and choice", "decode", "preprocess", "keep the tensor"]
    order += ["engine", "make the objects", "keep the objects", "index and ledger", "check the objects", "send"]
    return {name: 1000 * watch.seconds.get(name, 0.0) / count for name in order}


if __name__ == "__main__":
    main()
