"""What a hospital keeps of a retraining between two rounds, and never sends: what rounding left behind, and the layers
that are its own.

It belongs to one retraining from one base, and what rounding left behind to the patients who had not objected by then:
what has not left the hospital when somebody objects does not leave it afterwards either. Without it (a lost disk, a
round that was missed) the next round starts from the base's layers and rounds anew: slower, never wrong. A round that
is asked for again starts from what the round before it left, so that the same question has the same answer.

The last layers of its own that a hospital trained are what its personalised version is made of: the candidate with
`local` in their place (`client/federation/personal.py`).
"""

import logging
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.arrays import write
from models.durable import replacing

log = logging.getLogger(__name__)

Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Kept:
    """What stays at the hospital after a round; empty where there is nothing.

    Attributes:
        base: digest of the version that the retraining starts from.
        left: what rounding left behind of an update.
        objecting: a digest of the patients who objected when `left` was begun (`client.federation.cases.objecting`).
        local: the layers that are this hospital's own.
    """

    base: str = ""
    left: Weights = field(default_factory=lambda: dict[str, NDArray[Any]]())
    local: Weights = field(default_factory=lambda: dict[str, NDArray[Any]]())
    objecting: str = ""


class Memory:
    """A hospital's `retrainings/NAME` folder: one file a round, those of the last two rounds."""

    def __init__(self, folder: Path, retraining: str) -> None:
        """Open it; nothing is made before something is kept.

        Args:
            folder: `retrainings` of the hospital.
        """
        self._folder = folder / retraining

    def before(self, round_: int, base: str, objecting: str = "") -> Kept:
        """What the rounds before this one left, if they started from this base (its digest); before the first round,
        what an earlier retraining of this name may have left is no matter of this one's.

        Args:
            objecting: a digest of the patients who object now; what rounding left is none where there were others.
        """
        earlier = [number for number in self._rounds() if number < round_]
        found = self._read(earlier[-1]) if earlier and round_ > 1 else Kept()
        if found.base != base:
            return Kept()
        return found if found.objecting == objecting else replace(found, left={})

    def last(self) -> Kept:
        """What the last round that was trained here left."""
        rounds = self._rounds()
        return self._read(rounds[-1]) if rounds else Kept()

    def keep(self, round_: int, kept: Kept) -> None:
        """Keep what a round left, in place of what no order can ask for any more."""
        stale = [number for number in self._rounds() if number < round_ - 1 or number >= round_ or round_ <= 1]
        if kept.left or kept.local:
            self._folder.mkdir(parents=True, exist_ok=True)
            arrays = {f"left/{name}": value for name, value in kept.left.items()}
            arrays |= {f"local/{name}": value for name, value in kept.local.items()}
            with replacing(self._path(round_)) as file:
                write(file, {"base": kept.base, "objecting": kept.objecting, **arrays})
            stale = [number for number in stale if number != round_]
        for number in stale:
            self._path(number).unlink(missing_ok=True)

    def finish(self) -> None:
        """The retraining has ended: layers of one's own stay, what rounding left behind goes."""
        rounds = self._rounds()
        kept = self.last()
        if kept.local:
            self.keep(rounds[-1], Kept(kept.base, local=kept.local))
        else:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _read(self, round_: int) -> Kept:
        try:
            with self._path(round_).open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                base = str(file["base"])
                found = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
            log.warning("what a round left cannot be read and is not used: %s", type(error).__name__)
            return Kept()
        return Kept(
            base,
            {name.removeprefix("left/"): value for name, value in found.items() if name.startswith("left/")},
            {name.removeprefix("local/"): value for name, value in found.items() if name.startswith("local/")},
            str(found.get("objecting", "")),  # of an earlier release: nobody knows
        )

    def _rounds(self) -> list[int]:
        return sorted(int(path.stem.removeprefix("round-")) for path in self._folder.glob("round-*.npz"))

    def _path(self, round_: int) -> Path:
        return self._folder / f"round-{round_:010d}.npz"
