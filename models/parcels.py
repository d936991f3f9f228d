"""How a message travels: as one thing, and each large array of it beside it, as a parcel under its digest.

A message passes eight processes on its way to a hospital's border and back, each of which would hold, hash, pack and
copy all of the weights several times. So whoever sends a message takes what is large out of it and puts a slip in its
place, with digest and size; whoever reads the message fetches that from the coordinator, over the same address, TLS and
key, holds it against the slip, and puts it back. Between the two the message is small, and closed: Flower carries each
record and array as objects of their own, and asks for them one by one, by a request each. What is written in a
hospital's ledger, and checked at its border, is the message with everything in it: a slip stands for those bytes and no
others.

A slip that is none, or that stands for too much, is left where it is, and refused like any array of a form that is not
declared; a message that came open is taken as it is.
"""

import base64
import hashlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from models.exchange.words import MAX_WEIGHTS

if TYPE_CHECKING:
    from flwr.app import Array, RecordDict

log = logging.getLogger(__name__)

PATH: Final = "/v1/fleet/parcels/"
"""At the coordinator, before a parcel's digest; among what a guard lets hospitals through to."""
LARGE: Final = 1 << 20
"""Bytes. What is smaller stays in its message: a request of its own would cost more."""
LARGEST: Final = MAX_WEIGHTS + 4096  # an array's bytes begin with a header
PIECE: Final = 1 << 20  # bytes that are read, hashed and written at a time
DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)

_CLOSED: Final = "vigie.closed"
_SLIP: Final = "vigie.parcel"  # where Flower has the form of an array's bytes
_SAID: Final = re.compile(rb"([0-9a-f]{64}) ([1-9][0-9]{0,9})")
_MOST: Final = 4  # in one message: none that is declared has more than two
_WINDOW: Final = 300.0  # seconds that clocks may differ, as for Flower's own requests
_KEY, _AT, _SIGNATURE = "x-vigie-key", "x-vigie-at", "x-vigie-signature"

Buffer = bytes | memoryview


def detached(
    record: "RecordDict", put: Callable[[str, Buffer], object], known: "dict[int, tuple[Buffer, Array]] | None" = None
) -> "RecordDict":
    """The message as it travels: closed, with slips for what is large.

    Args:
        record: stays as it is.
        put: told each parcel's digest and bytes, before the message with its slip is returned.
        known: slips of messages before this one, by the identity of the bytes that they stand for; added to.
    """
    from flwr.app import Array, ConfigRecord, RecordDict
    from flwr.common.serde import recorddict_to_proto

    def slip(array: "Array") -> "Array":
        if len(array.data) < LARGE:
            return array
        if known is not None and id(array.data) in known:
            return known[id(array.data)][1]
        content = memoryview(array.data)
        digest = hashlib.sha256(content).hexdigest()
        put(digest, content)
        found = Array(array.dtype, tuple(array.shape), _SLIP, f"{digest} {len(content)}".encode())
        if known is not None:
            known[id(array.data)] = array.data, found  # kept, so that no other can have its identity
        return found

    closed = recorddict_to_proto(_with(record, slip)).SerializeToString(deterministic=True)
    return RecordDict({_CLOSED: ConfigRecord({_CLOSED: closed})})


def opened(record: "RecordDict") -> "RecordDict":
    """A message that came closed, with its slips; any other as it is."""
    from flwr.common.serde import recorddict_from_proto
    from flwr.proto.recorddict_pb2 import RecordDict as Closed
    from google.protobuf.message import DecodeError

    if set(record.keys()) != {_CLOSED} or _CLOSED not in record.config_records:
        return record
    content = record.config_records[_CLOSED].get(_CLOSED)
    if not isinstance(content, bytes):
        return record
    try:
        return recorddict_from_proto(Closed.FromString(content))
    except (DecodeError, ValueError, TypeError, KeyError) as error:
        log.warning("a message cannot be opened: %s", type(error).__name__)
        return record


def attached(record: "RecordDict", fetch: Callable[[str, int], memoryview]) -> "RecordDict":
    """The message as it was before it was `detached`.

    Args:
        record: stays as it is.
        fetch: gives the bytes of a digest and a size. Whoever implements it has held them against both.
    """
    from flwr.app import Array

    left, room = _MOST, LARGEST

    def whole(array: "Array") -> "Array":
        nonlocal left, room
        said = _SAID.fullmatch(array.data) if array.stype == _SLIP else None
        if said is None or not left or int(said[2]) > room:
            return array
        left, room = left - 1, room - int(said[2])
        found = Array(array.dtype, tuple(array.shape), "numpy.ndarray", b"")
        found.data = fetch(said[1].decode(), int(said[2]))  # pyright: ignore[reportAttributeAccessIssue] - read only
        return found

    return _with(opened(record), whole)


def credential(key: ec.EllipticCurvePrivateKey, method: str, path: str) -> dict[str, str]:
    """Headers by which a request for a parcel proves whose it is; good for this request, and for some minutes."""
    pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    at = repr(time.time())
    signature = key.sign(_signed(method, path, at), ec.ECDSA(hashes.SHA384()))
    return {_KEY: base64.b64encode(pem).decode(), _AT: at, _SIGNATURE: base64.b64encode(signature).decode()}


def proven(headers: Mapping[str, str], method: str, path: str) -> str | None:
    """Whose request this is: the SHA-256 of a public key in PEM form; None where the headers do not prove it."""
    try:
        pem, signature = (base64.b64decode(headers[name], validate=True) for name in (_KEY, _SIGNATURE))
        key = serialization.load_pem_public_key(pem)
        if not isinstance(key, ec.EllipticCurvePublicKey) or not abs(time.time() - float(headers[_AT])) < _WINDOW:
            return None
        key.verify(signature, _signed(method, path, headers[_AT]), ec.ECDSA(hashes.SHA384()))
    except (KeyError, ValueError, InvalidSignature, UnsupportedAlgorithm):
        return None
    return hashlib.sha256(pem).hexdigest()


def _signed(method: str, path: str, at: str) -> bytes:
    return f"vigie parcel {method} {path} {at}".encode()


def _with(record: "RecordDict", change: Callable[["Array"], "Array"]) -> "RecordDict":
    from flwr.app import ArrayRecord, RecordDict

    found, changed = RecordDict(), False
    for key, value in record.items():
        if isinstance(value, ArrayRecord):
            arrays = ArrayRecord()
            for name, array in value.items():
                arrays[name] = change(array)
                changed = changed or arrays[name] is not array
            found[key] = arrays
        else:
            found[key] = value
    return found if changed else record
