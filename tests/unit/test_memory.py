"""What a study needs of the memory, what there is, and that nobody takes more than that."""

import threading
import tracemalloc
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from client.dicom.series import Plane, Stack, Volume
from client.inference.memory import TOO_LARGE, Memory, budgets, need, usable
from client.inference.segment import growth, segment
from client.inference.study import Image

MIB = 1 << 20
CT = "1.2.840.10008.5.1.4.1.1.2"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
US = "1.2.840.10008.5.1.4.1.1.3.1"


def slices(count: int, series: str = "1", side: int = 512) -> list[Image]:
    return [Image(f"{series}.{number}", CT, "0" * 64, series, side * side) for number in range(count)]


def test_a_series_is_read_as_a_whole_and_radiographs_one_by_one(bundles: ModuleType, volumes: ModuleType) -> None:
    outlining, scoring = volumes.facts(), bundles.facts()
    one, two = need([outlining], slices(100)), need([outlining], [*slices(100), *slices(100, "2")])
    assert one > 100 * 512 * 512 * 2
    assert two - one < MIB * 10  # the second series needs its headers only
    films = [Image(str(number), DX, "0" * 64, "1", 3000 * 3000) for number in range(4)]
    assert need([scoring], films) - need([scoring], films[:1]) < MIB


def test_what_no_version_reads_needs_no_pixels(bundles: ModuleType) -> None:
    film = Image("1", US, "0" * 64, "1", 500 * 1000 * 1000)
    assert need([bundles.facts()], [film]) < MIB


def test_another_grid_needs_more(volumes: ModuleType) -> None:
    finer = volumes.facts(segmentation=volumes.declared(spacing_mm=(1.0, 1.0, 1.0)))
    assert need([finer], slices(100)) > 3 * need([volumes.facts()], slices(100))


def test_a_study_larger_than_the_memory_is_told_so_with_the_figures(volumes: ModuleType) -> None:
    memory = Memory(100 * MIB)
    assert memory.admit(volumes.facts(), slices(20)) is None
    reason = memory.admit(volumes.facts(), slices(300))
    assert reason is not None
    assert reason.code == TOO_LARGE
    assert "100" in reason.text
    assert "MiB" in reason.text


def test_whoever_comes_when_it_is_full_waits_until_there_is_room() -> None:
    memory = Memory(100)
    assert memory.reserve(1000) == 100  # alone, with all there is
    got = threading.Event()

    def second() -> None:
        memory.reserve(60)
        got.set()

    waiting = threading.Thread(target=second, daemon=True)
    waiting.start()
    memory.release(30)
    assert not got.wait(0.1)
    memory.release(30)
    assert got.wait(5)
    waiting.join(5)


def test_two_volumes_on_a_finer_grid_never_have_more_than_there_is(volumes: ModuleType) -> None:
    finer, series = volumes.facts(segmentation=volumes.declared(spacing_mm=(1.0, 1.0, 1.0))), slices(20)
    begun, grown = need([finer], series), need([finer], series, 3.0)
    memory, both = Memory(grown + begun), threading.Barrier(2, timeout=10)  # room for one, and another that has begun
    lock, together, highest, looks = threading.Lock(), [0], [0], [0]
    told: list[int] = []

    def read() -> str:
        with lock:
            looks[0] += 1
        if looks[0] <= 2:
            both.wait()  # both have begun, with what their index says, before either knows how fine its grid is
        assert memory.admit(finer, series, 3.0) is None
        with lock:
            together[0] += grown
            highest[0] = max(highest[0], together[0])
        both_in.wait(0.2)
        with lock:
            together[0] -= grown
        return "read"

    both_in = threading.Event()

    def study() -> None:
        found, taken = memory.within(begun, read)
        assert found == "read"
        told.append(taken)
        memory.release(taken)

    threads = [threading.Thread(target=study, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)  # neither waits for the other with something in its hands
    assert told == [grown, grown]
    assert highest[0] <= memory.limit
    assert memory.reserve(memory.limit) == memory.limit  # and all is given back


def test_what_reading_raises_gives_back_what_was_reserved(volumes: ModuleType) -> None:
    memory = Memory(100)

    def read() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        memory.within(60, read)
    assert memory.reserve(100) == 100


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "max\n"}, None),
        ("0::/\n", {"memory.max": f"{512 * MIB}\n"}, 512 * MIB),
        (
            "0::/system.slice/vigie.service\n",
            {"system.slice/memory.max": f"{64 * MIB}", "system.slice/vigie.service/memory.max": "max"},
            64 * MIB,
        ),
        ("5:cpu,memory:/docker/abc\n0::/\n", {"memory/docker/abc/memory.limit_in_bytes": f"{256 * MIB}"}, 256 * MIB),
        # inside a container: the path is the host's, the file system begins at our own group
        ("4:memory:/docker/abc\n", {"memory/memory.limit_in_bytes": f"{128 * MIB}"}, 128 * MIB),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("nonsense\n", {}, None),
        (None, {}, None),
    ],
)
def test_the_limit_of_the_machine_or_of_the_container_it_runs_in(
    tmp_path: Path, membership: str | None, files: dict[str, str], expected: int | None
) -> None:
    cgroups = tmp_path / "cgroup"
    for name, content in files.items():
        (cgroups / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroups / name).write_text(content)
    memberships = tmp_path / "self"
    if membership is not None:
        memberships.write_text(membership)
    machine = usable(tmp_path / "none", tmp_path / "nobody")
    assert usable(cgroups, memberships) == (machine if expected is None else min(machine, expected))


def test_a_site_can_say_how_much() -> None:
    assert sum(budgets(400)) == 400 * MIB
    assert 0 < sum(budgets(0)) <= usable()


@pytest.mark.parametrize(
    ("shape", "spacing", "changes"),
    [
        ((48, 96, 96), (1.5, 1.0, 1.0), {"window": (32, 48, 48)}),
        ((20, 48, 48), (3.0, 1.5, 1.5), {"window": (32, 48, 48), "spacing_mm": (0.8, 0.4, 0.4)}),
        ((20, 48, 48), (3.0, 1.5, 1.5), {"window": (16, 32, 32), "spacing_mm": (1.5, 0.75, 0.75), "labels": 6}),
        ((32, 64, 64), (1.5, 1.0, 1.0), {"window": (16, 32, 32), "labels": 31}),
    ],
)
def test_what_is_admitted_is_what_it_takes(
    volumes: ModuleType, shape: tuple[int, int, int], spacing: tuple[float, float, float], changes: dict[str, Any]
) -> None:
    count = changes.pop("labels", 1)
    labels = [volumes.declared().labels[0].model_copy(update={"value": 1 + number}) for number in range(count)]
    declared = volumes.declared(labels=tuple(labels), activation="softmax" if count > 1 else "sigmoid", **changes)
    header = Dataset()
    header.Rows, header.Columns = shape[1:]
    right, down, up = np.eye(3)
    planes = tuple(
        Plane("", number, header, up * number * spacing[0], right, down, spacing[1:], False)
        for number in range(shape[0])
    )
    stack = Stack(planes, up, spacing[0], np.zeros((shape[0], 2)))
    voxels = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.int16)
    images = [Image(str(number), CT, "0" * 64, "1", shape[1] * shape[2]) for number in range(shape[0])]

    def predict(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.repeat(windows, declared.channels, 1)

    volumes.PREPROCESSING.intensities(voxels[:2])  # brings its libraries
    tracemalloc.start()
    segment(Volume(stack, voxels), declared, volumes.PREPROCESSING, 0.5, predict)
    taken = tracemalloc.get_traced_memory()[1] + voxels.nbytes
    tracemalloc.stop()

    wanted = need([volumes.facts(segmentation=declared)], images, growth(stack, declared))
    assert 0.7 * taken <= wanted <= 4 * taken
