"""Trainings that are done stay done: a bench of hours that was interrupted goes on where it was, and what another bench
has trained is not trained again.

A training is known by all that it is made from: the code that trains and what it stands on, settings, weights, cases.
"""

import hashlib
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from pydantic import BaseModel

from models.durable import replacing
from scripts.benchmarks.federation import Trained

_ROOT = Path(__file__).resolve().parents[2]
_CODE = ("client/federation", "configs", "models", "server")
_HERE = ("accuracy.py", "federation.py", "poison.py")


class Shelf:
    """Results of trainings, in files named after what they were made from.

    Args:
        folder: is made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def given(self, made_from: Sequence[object], train: Callable[[], Trained]) -> Trained:
        """What was trained from this, else what is trained now.

        Args:
            made_from: all that the training depends on but for code and machine: models, dataclasses, mappings, arrays.
        """
        path = self._folder / f"{_digest(made_from)}.npz"
        if path.exists():
            return _read(path)
        found = train()
        self._folder.mkdir(parents=True, exist_ok=True)
        arrays = {f"weights/{name}": value for name, value in found.weights.items()}
        for site, layers in found.local.items():
            arrays |= {f"local/{site}/{name}": value for name, value in layers.items()}
        with replacing(path) as file:
            np.savez(file, allow_pickle=False, **arrays, bytes=np.array([found.sent, found.received]))
        return found


def _read(path: Path) -> Trained:
    weights: dict[str, Any] = {}
    local: dict[str, dict[str, Any]] = {}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            match name.split("/"):
                case ["weights", layer]:
                    weights[layer] = file[name]
                case ["local", site, layer]:
                    local.setdefault(site, {})[layer] = file[name]
                case _:
                    pass
        sent, received = (int(number) for number in file["bytes"])
    return Trained(weights, local, sent, received)


def _digest(made_from: Sequence[object]) -> str:
    found = hashlib.sha256(f"{_code()} {platform.processor()} {torch.__version__} {np.__version__}".encode())
    for one in made_from:
        _take(found, one)
    return found.hexdigest()


def _take(found: Any, one: object) -> None:
    """Add something to a hash, with what kind of thing it is."""
    found.update(f"{type(one).__name__} ".encode())
    if isinstance(one, BaseModel):
        found.update(one.model_dump_json().encode())
    elif isinstance(one, np.ndarray):
        array = cast("np.ndarray[Any, Any]", one)
        found.update(f"{array.dtype} {array.shape}".encode() + hashlib.sha256(array.tobytes()).digest())
    elif is_dataclass(one):
        for field in fields(one):
            _take(found, getattr(one, field.name))
    elif isinstance(one, Mapping):
        for key, value in sorted(cast("Mapping[str, object]", one).items()):
            found.update(f"{key} ".encode())
            _take(found, value)
    elif isinstance(one, str | int | float | None):
        found.update(repr(one).encode())
    elif isinstance(one, Sequence):
        for value in cast("Sequence[object]", one):
            _take(found, value)
    else:
        raise TypeError(f"a training cannot be known by a {type(one).__name__}")


@cache
def _code() -> str:
    found = hashlib.sha256()
    files = [path for folder in _CODE for path in (_ROOT / folder).rglob("*") if path.suffix in (".py", ".yaml")]
    for path in sorted([*files, *(Path(__file__).with_name(name) for name in _HERE)]):
        found.update(path.relative_to(_ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()
