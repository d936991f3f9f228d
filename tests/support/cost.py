"""What a piece of work costs in units of another one done beside it: a time alone says which machine it is."""

import io
import time
from collections.abc import Callable

import pydicom


def relative(work: Callable[[], object], unit: Callable[[], object], turns: int = 20) -> float:
    """How many times the processor time of `unit` the `work` takes: the best of each, taken in turns."""
    best = [float("inf"), float("inf")]
    for _ in range(turns):
        for number, one in enumerate((work, unit)):
            start = time.process_time()
            one()
            best[number] = min(best[number], time.process_time() - start)
    return best[0] / best[1]


def read_whole(content: bytes) -> pydicom.Dataset:
    """Every element of an object read, in pydicom."""
    dataset = pydicom.dcmread(io.BytesIO(content))
    for _ in dataset.iterall():
        pass
    return dataset


def copied(content: bytes) -> None:
    """Every element of an object read and written, in pydicom."""
    read_whole(content).save_as(io.BytesIO(), enforce_file_format=True)
