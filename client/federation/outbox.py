"""What a hospital has answered to an order to train, kept until the next round: asked again, it says the same again.

An answer that came too late for its round is not lost: an order of the next round that says so is answered by it, as
what it changed, on top of the weights that came with that order.

A reply is lost where either side is killed, the line breaks, or the coordinator no longer waited. The order then comes
again, and is answered from here: nothing is trained twice, what is drawn by chance is drawn once, and what it costs of
a privacy budget is paid once. Nothing leaves from here but through the border, by an order, under the same consent.
"""

import hashlib
import json
import logging
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from models.arrays import write
from models.bounds import Bounds, keep
from models.durable import replacing
from models.exchange import TrainOrder, Update, digest, fingerprint

log = logging.getLogger(__name__)

_ARRAYS = ("weights", "control")
_START = "start"  # the weights that a plain update started from; differences say what they change by themselves


class Outbox:
    """`retrainings/NAME/outbox` of a hospital: the update of the newest round, under the digest of its order."""

    def __init__(self, folder: Path, retraining: str) -> None:
        """Open it; nothing is made before something is kept.

        Args:
            folder: `retrainings` of the hospital.
        """
        self._folder = folder / retraining / "outbox"
        self._asked: tuple[TrainOrder, str] | None = None  # to hash an order is to hash all weights

    def find(self, order: TrainOrder, within: Bounds, objecting: str = "") -> Update | None:
        """The answer that this very order had, bit for bit; None where there is none.

        Args:
            within: what an answer may change here now; one that was kept to other bounds is none.
            objecting: a digest of the patients who object now; an answer that somebody who has objected since had a
                part in is none, for a round may be begun again days later.
        """
        path = self._path(order, within)
        return _read(path) if path.exists() and _objecting(path) == objecting else None

    def late(self, order: TrainOrder, within: Bounds, objecting: str = "") -> Update | None:
        """The update of the earlier round that the order still waits for, carried over; None where there is none.

        What was measured of the weights received then says nothing of those received now, and is left out.

        Args:
            within: what an answer to this order may change.
            objecting: a digest of the patients who object now; who has objected since has no part in this round.
        """
        paths = list(self._folder.glob(f"{order.late:010d}-*.npz")) if order.late else []
        found = _read(paths[0]) if paths and _objecting(paths[0]) == objecting else None
        if found is None or (found.base, found.encoding, found.late) != (order.base, order.reply, 0):
            return None
        weights = found.weights
        if found.encoding == "plain":
            start = _arrays(paths[0], _START)
            if start.keys() != weights.keys() or weights.keys() != order.weights.keys():
                return None
            received = dict(order.weights)
            moved = {
                name: np.asarray(received[name] + (weights[name] - start[name]), weights[name].dtype) for name in start
            }
            weights = keep(moved, received, within)
        measured = dict.fromkeys(("auc_received", "threshold_received", "loss_received"))
        return found.model_copy(update={"round": order.round, "late": order.late, "weights": weights, **measured})

    def put(self, order: TrainOrder, update: Update, within: Bounds, objecting: str = "") -> None:
        """Keep the answer to an order, durably, in place of all earlier ones.

        Args:
            within: the bounds that it was kept to.
            objecting: a digest of the patients who objected when it was begun.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._path(order, within)
        said = update.model_dump_json(exclude=set(_ARRAYS))
        arrays: dict[str, NDArray[np.generic]] = {"said": np.array(said), "objecting": np.array(objecting)}
        for field in _ARRAYS:
            for name, value in (getattr(update, field) or {}).items():
                arrays[f"{field}/{name}"] = value
        if update.encoding == "plain":
            arrays |= {f"{_START}/{name}": value for name, value in order.weights.items()}
        with replacing(path) as file:
            write(file, arrays)
        for other in self._folder.glob("*.npz"):
            if other != path:
                other.unlink(missing_ok=True)

    def finish(self) -> None:
        """The retraining has ended: nobody asks again."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, order: TrainOrder, within: Bounds) -> Path:
        if self._asked is None or self._asked[0] is not order:
            self._asked = order, _digest(order)
        asked = f"{self._asked[1]} {within.norm!r}"
        return self._folder / f"{order.round:010d}-{hashlib.sha256(asked.encode()).hexdigest()}.npz"


def _digest(order: TrainOrder) -> str:
    """Of the order with its weights' digests in their places: to pack them once more would copy all of them."""
    from flwr.app import Array

    return fingerprint(order.to_record(lambda weights, _: Array(np.array(digest(weights))))).sha256


def _read(path: Path) -> Update | None:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            values = json.loads(str(file["said"]))
        for field in _ARRAYS:
            if arrays := _arrays(path, field):
                values[field] = arrays
        return Update.model_validate(values)
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, ValidationError) as error:
        log.warning("an answer that was kept cannot be read and is made anew: %s", type(error).__name__)
        return None


def _objecting(path: Path) -> str | None:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return str(file["objecting"])
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None  # of an earlier release, or damaged: nobody knows


def _arrays(path: Path, field: str) -> dict[str, NDArray[Any]]:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        return {name.removeprefix(f"{field}/"): file[name] for name in file.files if name.startswith(f"{field}/")}
