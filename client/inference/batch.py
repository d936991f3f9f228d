"""Radiographs of several studies computed in one run, where that is faster, without making any of them wait for long.

Studies are read in a few threads. Who comes to the engine with a prepared image computes it, together with all that
wait there; what comes meanwhile waits for the next run. A ready image also waits for others only while such are being
prepared, and never longer than the bound: a study that is alone never waits. What fails in a batch is computed one by
one, so that an image cannot spoil its neighbours'.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # whoever only asks what serves has no use for an engine
    from client.inference.engine import Answer

Tensor = NDArray[np.float32]


class Scorer(Protocol):
    """An engine, as far as it is asked here."""

    @property
    def batch(self) -> int: ...

    def run_many(self, images: Sequence[Tensor]) -> list[Answer]: ...


def patience(waiting: int, preparing: int, waited: float, limit: int, bound: float) -> float:
    """How many seconds more the images that wait for one engine are to wait for others; 0: compute them now.

    Args:
        waiting: images that are ready, at least one.
        preparing: images of that engine that are being prepared.
        waited: seconds that the first of them has waited.
        limit: images that are computed together at most.
        bound: seconds that an image may wait for others.
    """
    if waiting >= limit or preparing == 0:
        return 0.0
    return max(0.0, bound - waited)


@dataclass(eq=False, slots=True)
class _Place:
    """An image that waits for its answer."""

    tensor: Tensor
    since: float
    answer: Answer | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None


@dataclass(slots=True)
class _Queue:
    """What one engine has before it."""

    preparing: int = 0
    waiting: list[_Place] = field(default_factory=list[_Place])


class Batcher:
    """Gathers the images of all studies that are being read; one computation runs at a time, with all its threads.

    Args:
        bound: seconds that a ready image waits for others that are being prepared.
    """

    def __init__(self, bound: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._bound = bound
        self._clock = clock
        self._changed = threading.Condition()
        self._queues: dict[int, _Queue] = {}
        self._computing = False

    @contextmanager
    def expecting(self, engine: Scorer) -> Generator[Callable[[Tensor], Answer]]:
        """Say that an image is being prepared; gives what scores it, to be called once or, where it fails, never."""
        with self._changed:
            queue = self._queues.setdefault(id(engine), _Queue())
            queue.preparing += 1
        prepared = False

        def score(tensor: Tensor) -> Answer:
            nonlocal prepared
            prepared = True
            return self._score(engine, queue, tensor)

        try:
            yield score
        finally:
            with self._changed:
                if not prepared:
                    queue.preparing -= 1
                if not queue.preparing and not queue.waiting:
                    self._queues.pop(id(engine), None)
                self._changed.notify_all()

    def _score(self, engine: Scorer, queue: _Queue, tensor: Tensor) -> Answer:
        place = _Place(tensor, self._clock())
        with self._changed:
            queue.preparing -= 1
            queue.waiting.append(place)
            self._changed.notify_all()
        while (taken := self._turn(engine, queue, place)) is not None:
            try:
                _compute(engine, taken)
            finally:
                with self._changed:
                    self._computing = False
                    self._changed.notify_all()
        if place.error is not None:
            raise place.error
        assert place.answer is not None
        return place.answer

    def _turn(self, engine: Scorer, queue: _Queue, place: _Place) -> list[_Place] | None:
        """Wait until there is something for this thread to compute; None once its own image is done."""
        with self._changed:
            while not place.done:
                if self._computing or not queue.waiting:
                    self._changed.wait()
                    continue
                waited = self._clock() - queue.waiting[0].since
                left = patience(len(queue.waiting), queue.preparing, waited, engine.batch, self._bound)
                if left > 0:
                    self._changed.wait(left)
                    continue
                self._computing = True
                taken = queue.waiting[: engine.batch]
                del queue.waiting[: engine.batch]
                return taken
            return None


def _compute(engine: Scorer, places: Sequence[_Place]) -> None:
    """Give each place its answer, or its own error."""
    try:
        for place, answer in zip(places, engine.run_many([place.tensor for place in places]), strict=True):
            place.answer = answer
    except Exception as error:  # noqa: BLE001  # whatever it is, it is told to the study that it belongs to
        if len(places) == 1:
            places[0].error = error
            return
        for place in places:
            _compute(engine, [place])
