"""Scoring together changes no score, spoils no neighbour, and makes nobody wait who is alone."""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from client.inference.batch import Batcher, patience
from client.inference.engine import Answer, Engine
from client.inference.panel import Panel
from client.inference.pipeline import Pipeline, Scored
from client.inference.several import Several
from client.inference.study import Image, Study
from client.store.site import Site
from models.bundle import Bundle
from models.preprocessing import Preprocessing

Tensor = NDArray[np.float32]


class Counting:
    """An engine that says the mean of an image, keeps the sizes of its runs, and breaks on negative images."""

    def __init__(self, batch: int = 4, seconds: float = 0.0) -> None:
        self.batch = batch
        self.runs: list[int] = []
        self._seconds = seconds

    def run_many(self, images: Sequence[Tensor]) -> list[Answer]:
        self.runs.append(len(images))
        time.sleep(self._seconds)
        if any(float(image.mean()) < 0 for image in images):
            raise ValueError("a negative image")
        return [Answer(float(image.mean()), image[0]) for image in images]


def image(value: float) -> Tensor:
    return np.full((1, 4, 4), value, np.float32)


def scored(batcher: Batcher, engine: Counting, values: Sequence[float], together: bool = True) -> list[float | None]:
    """Each value in a thread of its own; None where it failed. With `together`, all are being prepared at once."""
    barrier = threading.Barrier(len(values) if together else 1)

    def one(value: float) -> float | None:
        with batcher.expecting(engine) as score:
            barrier.wait(10)
            try:
                return score(image(value)).score
            except ValueError:
                return None

    with ThreadPoolExecutor(len(values)) as threads:
        return list(threads.map(one, values))


def test_studies_that_wait_are_computed_together_and_each_gets_its_own_answer() -> None:
    engine = Counting(batch=4)
    values = [0.1, 0.2, 0.3, 0.4]

    assert scored(Batcher(bound=10.0), engine, values) == pytest.approx(values)
    assert engine.runs == [4]  # the fourth one completed the batch: nobody waited for the bound


def test_one_that_fails_leaves_its_neighbours_their_scores() -> None:
    engine = Counting(batch=4)

    assert scored(Batcher(bound=10.0), engine, [0.1, -1.0, 0.3, 0.4]) == [
        pytest.approx(0.1),
        None,
        pytest.approx(0.3),
        pytest.approx(0.4),
    ]
    assert engine.runs == [4, 1, 1, 1, 1]


def test_a_study_that_is_alone_does_not_wait() -> None:
    engine, batcher = Counting(batch=8), Batcher(bound=30.0)

    began = time.monotonic()
    for _ in range(3):
        with batcher.expecting(engine) as score:
            assert score(image(0.5)).score == 0.5
    assert time.monotonic() - began < 30  # the bound of one wait
    assert engine.runs == [1, 1, 1]


def test_nobody_waits_longer_than_the_bound_or_for_one_whose_preparation_fails() -> None:
    engine, batcher = Counting(batch=8), Batcher(bound=0.05)
    with batcher.expecting(engine):  # a slow one, which never comes
        assert scored(batcher, engine, [0.5]) == [0.5]

    patient, waiting = Batcher(bound=60.0), threading.Event()

    def fails() -> None:
        with contextlib.suppress(KeyError), patient.expecting(engine):
            waiting.set()
            time.sleep(0.05)
            raise KeyError

    with ThreadPoolExecutor(1) as threads:
        failing = threads.submit(fails)
        assert waiting.wait(10)
        assert scored(patient, engine, [0.5]) == [0.5]
        failing.result(10)


def test_what_comes_while_the_engine_computes_goes_into_the_next_run() -> None:
    engine = Counting(batch=8, seconds=0.02)

    found = scored(Batcher(bound=0.0), engine, [number / 20 for number in range(16)])

    assert found == pytest.approx([number / 20 for number in range(16)])
    assert sum(engine.runs) == 16
    assert len(engine.runs) < 16


@given(
    waiting=st.integers(1, 20),
    preparing=st.integers(0, 20),
    waited=st.floats(0, 10),
    limit=st.integers(1, 16),
    bound=st.floats(0, 10),
)
def test_patience(waiting: int, preparing: int, waited: float, limit: int, bound: float) -> None:
    left = patience(waiting, preparing, waited, limit, bound)
    assert 0 <= left <= bound
    assert waited + left <= max(bound, waited)
    if preparing == 0 or waiting >= limit or waited >= bound:
        assert left == 0


def test_a_real_network_gives_the_same_scores_and_maps_in_a_batch(residual: Bundle) -> None:
    engine = Engine(residual)
    images = list(np.random.default_rng(0).normal(size=(7, 1, 64, 64)).astype(np.float32))

    alone = [engine.run(one) for one in images]
    together = engine.run_many(images)

    assert [one.score for one in together] == pytest.approx([one.score for one in alone], abs=1e-6)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.cam, other.cam, atol=1e-5)


def test_the_pipeline_reads_several_studies_at_once_as_it_reads_one(
    site: Site, radiograph: Callable[..., object], tmp_path: Path
) -> None:
    """Through headers, scope, decoding and preprocessing, one of them damaged."""

    class Files:
        def path(self, digest: str) -> Path:
            return tmp_path / digest

    class Nowhere:
        def keep(self, sha256: str, preprocessing: Preprocessing, tensor: Tensor) -> None:
            return

    studies: list[Study] = []
    for number in range(8):
        made = radiograph(number / 10, **({"PixelData": b"\0" * 10} if number == 3 else {}))
        made.save_as(tmp_path / str(number), enforce_file_format=True)  # type: ignore[attr-defined]
        listed = (Image(made.SOPInstanceUID, made.SOPClassUID, str(number)),)  # type: ignore[attr-defined]
        studies.append(Study(made.StudyInstanceUID, 1, 1, 0.0, listed))  # type: ignore[attr-defined]
    panel = Panel(site)
    alone = Pipeline(Files(), Nowhere(), panel.members, "H")
    together = Pipeline(Files(), Nowhere(), panel.members, "H", batcher=Batcher(0.02))

    expected = [alone.process(study) for study in studies]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(together.process, studies))

    for one, other in zip(expected, found, strict=True):
        assert type(one) is type(other)
        if isinstance(one, Scored):
            assert isinstance(other, Scored)
            assert other.finding.score == pytest.approx(one.finding.score, abs=1e-6)
            assert other.image == one.image
    assert [isinstance(one, Scored) for one in found] == [number != 3 for number in range(8)]


def test_a_study_that_may_have_ended_the_worker_is_read_alone() -> None:
    lock, now, seen = threading.Lock(), set[str](), dict[str, set[str]]()

    def reading(name: str) -> Callable[[], None]:
        def read() -> None:
            with lock:
                now.add(name)
                for one in now:
                    seen.setdefault(one, set()).update(now)
            time.sleep(0.02)
            with lock:
                now.discard(name)

        return read

    with Several(3) as several:
        for name in ("a", "b", "again", "c", "d"):
            several.wait()
            several.begin(reading(name), alone=name == "again")

    assert seen["again"] == {"again"}
    assert set(seen) == {"a", "b", "again", "c", "d"}
