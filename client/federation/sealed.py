"""The secrets of a round whose updates are summed, on this hospital's disk: `retrainings/NAME/group`.

    agreement     the key for the whole retraining
    round.json    key, seed and parts of the newest attempt, and the answer that went with them
    summand.npz   what the hospital has to add, before any mask
    masked.npz    what it has sent, for which question, and what the others gave it

A file is whole or not there, on the disk before what rests on it leaves, and readable by its owner alone. Those of an
earlier attempt do not count: each says for which context it is. Whoever deletes them takes the hospital out of the
round; nothing is told by that.
"""

import io
import logging
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from models import group, masks
from models.arrays import write
from models.durable import replacing
from models.errors import NotFound
from models.exchange import Masked, MaskOrder, Sealed
from models.group import Group
from models.summand import Figures

log = logging.getLogger(__name__)

_GONE = "what was kept of the round is not here, or cannot be read"


class _Kept(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_bytes="hex", val_json_bytes="hex")


class Round(_Kept):
    """One attempt at one round.

    Attributes:
        context: what keys and masks are for.
        terms, sites, keys: of the group.
        key, seed: this hospital's secrets.
        of_key, of_seed: its own part of them.
        base, cases, shares, signature: of the answer.
    """

    context: str
    retraining: str
    round: int
    attempt: int
    terms: str
    sites: tuple[str, ...]
    keys: tuple[bytes, ...]
    key: bytes
    seed: bytes
    of_key: bytes
    of_seed: bytes
    base: str
    cases: int
    shares: tuple[bytes, ...]
    signature: bytes

    @property
    def group(self) -> Group:
        return Group(self.terms, self.sites, self.keys)

    @property
    def answer(self) -> Sealed:
        """What was answered when this was made."""
        return Sealed(
            retraining=self.retraining,
            round=self.round,
            base=self.base,
            attempt=self.attempt,
            n_cases=self.cases,
            key=group.point(group.private(self.key)),
            commitment=group.commitment(self.seed),
            shares=self.shares,
            signature=self.signature,
        )


class Received(_Kept):
    """What the others gave in an attempt.

    Attributes:
        order: fingerprint of the question that the update was masked for.
        of_key, of_seed: the parts of each hospital's secrets, this one's own among them.
    """

    context: str
    order: str
    of_key: dict[str, bytes]
    of_seed: dict[str, bytes]


class Secrets:
    """The files of one retraining.

    Args:
        folder: `retrainings` of the hospital.
    """

    def __init__(self, folder: Path, retraining: str) -> None:
        self._folder = folder / retraining / "group"

    def make_agreement(self) -> EllipticCurvePrivateKey:
        """The key for the whole retraining, made at first."""
        if not self.has_agreement():
            self._write("agreement", group.scalar(masks.new_key()).hex().encode())
        return self.agreement()

    def has_agreement(self) -> bool:
        """Whether there is one."""
        return (self._folder / "agreement").exists()

    def agreement(self) -> EllipticCurvePrivateKey:
        """The key for the whole retraining.

        Raises:
            NotFound: it is gone.
        """
        try:
            return group.private(bytes.fromhex((self._folder / "agreement").read_text()))
        except FileNotFoundError:
            raise NotFound("this hospital's key for the retraining is not here") from None

    def round(self) -> Round | None:
        """The newest attempt; None, too, where it cannot be read: its keys are gone then, and serve nobody twice."""
        try:
            return Round.model_validate_json((self._folder / "round.json").read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError:
            log.warning("what was kept of a round cannot be read: this hospital is out of that attempt")
            return None

    def attempt(self, round_: int, attempt: int) -> Round:
        """The newest attempt, which has to be this one.

        Raises:
            NotFound: it is not.
        """
        found = self.round()
        if found is None or (found.round, found.attempt) != (round_, attempt):
            raise NotFound("nothing was made ready for this attempt")
        return found

    def begin(self, new: Round) -> None:
        """Keep a new attempt, in place of the one before."""
        self._write("round.json", new.model_dump_json().encode())

    def keep_summand(self, context: str, change: NDArray[np.float64], cases: int, figures: Figures) -> None:
        """Keep what is to be added in an attempt."""
        known = np.array([figures.auc, figures.threshold, figures.loss])
        self._write_arrays("summand", {"context": context, "cases": cases, "figures": known, "change": change})

    def summand(self, context: str) -> tuple[NDArray[np.float64], int, Figures]:
        """What is to be added in an attempt: what was changed, on how many cases, and the figures.

        Raises:
            NotFound: it is not here.
        """
        found = self._read_arrays("summand", context)
        if found is None:
            raise NotFound(_GONE)
        return found["change"], int(found["cases"]), Figures(*map(float, found["figures"]))

    def keep_masked(self, received: Received, vector: NDArray[np.uint32]) -> None:
        """Keep what is about to leave."""
        self._write_arrays(
            "masked", {"context": received.context, "said": received.model_dump_json(), "vector": vector}
        )

    def received(self, context: str) -> Received | None:
        """What the others gave in an attempt; None where nothing was masked in it.

        Raises:
            NotFound: what there is cannot be read.
        """
        found = self._read_arrays("masked", context)
        try:
            return None if found is None else Received.model_validate_json(str(found["said"]))
        except ValidationError:
            raise NotFound(_GONE) from None

    def masked(self, context: str, order: MaskOrder) -> Masked:
        """The answer that was kept, always as it was written.

        Raises:
            NotFound: it is not here.
        """
        found = self._read_arrays("masked", context)
        if found is None:
            raise NotFound(_GONE)
        return Masked(retraining=order.retraining, round=order.round, attempt=order.attempt, vector=found["vector"])

    def finish(self) -> None:
        """Nothing of it is of use any more."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _read_arrays(self, name: str, context: str) -> dict[str, Any] | None:
        try:
            with np.load(self._folder / f"{name}.npz", allow_pickle=False) as file:
                return {key: file[key] for key in file.files} if str(file["context"]) == context else None
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
            raise NotFound(_GONE) from None

    def _write_arrays(self, name: str, arrays: Mapping[str, Any]) -> None:
        stream = io.BytesIO()
        write(stream, arrays)
        self._write(f"{name}.npz", stream.getbuffer())

    def _write(self, name: str, content: bytes | memoryview) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replacing(self._folder / name, 0o600) as file:
            file.write(content)
