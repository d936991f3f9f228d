"""What the ledger keeps of a message."""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from models.exchange.words import KINDS

if TYPE_CHECKING:
    from flwr.app import RecordDict


@dataclass(frozen=True, slots=True)
class Crossing:
    """What the ledger keeps of a message: what it said it was, its digest and its size."""

    kind: str
    retraining: str | None
    round: int | None
    sha256: str
    size: int


def fingerprint(record: "RecordDict") -> Crossing:
    """Digest and size in bytes of a message, well formed or not.

    `kind`, `retraining` and `round` are as claimed where the claim is well formed, else `unknown` and None.
    """
    digest, size = hashlib.sha256(), 0

    def take(label: str, content: bytes | memoryview) -> None:
        nonlocal size
        digest.update(json.dumps([label, len(content)]).encode())
        digest.update(content)
        size += len(content)

    for key in sorted(record.array_records):
        arrays = record.array_records[key]
        for name in sorted(arrays):
            array = arrays[name]
            take(json.dumps([key, name, array.dtype, list(array.shape), array.stype]), memoryview(array.data))
    for key in sorted(record.metric_records):
        take(key, json.dumps(dict(record.metric_records[key]), sort_keys=True).encode())
    for key in sorted(record.config_records):
        take(key, json.dumps(dict(record.config_records[key]), sort_keys=True, default=repr).encode())

    claimed = dict(record.config_records["vigie"]) if "vigie" in record.config_records else {}
    kind, name, number = claimed.get("kind"), claimed.get("retraining"), claimed.get("round")
    named = isinstance(name, str) and re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name, re.ASCII) is not None
    return Crossing(
        kind=kind if isinstance(kind, str) and kind in KINDS else "unknown",
        retraining=cast(str, name) if named else None,
        round=number if isinstance(number, int) and 0 <= number <= 10**9 else None,
        sha256=digest.hexdigest(),
        size=size,
    )
