"""The hospitals whose updates are only ever summed, and the keys by which they know each other.

Each hospital has a key that says who it is (its SuperNode's, ECDSA P-384); the terms that it agrees to carry those of
all. With its agreement it gives a key of its own for this retraining, and in each round another one, both signed: the
coordinator, which carries all of it, can neither invent a hospital nor be one of them. A signature under a round's key
covers the context of the round; hospitals that were told of different groups, terms, attempts or weights refuse each
other's keys.

What one hospital keeps is shared among all, so that `threshold` of them can do what is needed where one drops out. It
is more than two thirds: of two different stories that the coordinator may tell about who has dropped out, at most one
finds so many hospitals that believe it, unless a third of them helps the coordinator. No further exchange, in which
hospitals compare what they were told, is needed.

What this does not hide: what a sum says of those who are in it, and what two sums say of whoever is in one of them
alone, of two rounds or of two retrainings from the same base. Nor does it keep a hospital from adding nonsense within
the bound, or from ending a round for all by giving others parts that they cannot read.

Source: Bonawitz et al., CCS 2017, section 6 (active adversaries; the threshold of its theorem 6.5); Pasquini et al.,
Eluding Secure Aggregation in Federated Learning via Model Inconsistency, CCS 2022 (why the weights are in the context).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from models.errors import NotAllowed

FEWEST = 3
"""Hospitals in a sum: of two, each could subtract itself."""
MOST = 200
"""Hospitals in a group: each adds a mask for each other one."""
POINT = 49
"""Bytes of a public key: a compressed point of P-384."""
SCALAR = 48
PART = 512
"""Bytes of an encrypted part of a secret, at most."""

_CURVE = ec.SECP384R1()
_HASH = ec.ECDSA(hashes.SHA384())


@dataclass(frozen=True, slots=True)
class Group:
    """Who is summed with whom in a retraining; the same in each of its rounds.

    Attributes:
        terms: digest of the terms that all have agreed to.
        sites: their names, in order.
        keys: the key that each gave for this retraining.
    """

    terms: str
    sites: tuple[str, ...]
    keys: tuple[bytes, ...]

    @property
    def threshold(self) -> int:
        """How many have to take part, and to help, in each round."""
        return threshold(len(self.sites))

    @property
    def digest(self) -> str:
        """Of all of it."""
        return _digest("vigie group 1", self.terms, list(self.sites), [key.hex() for key in self.keys])

    def context(self, round_: int, attempt: int, weights: str) -> str:
        """What a round's keys and masks are for.

        Args:
            attempt: a round that was cut off is begun anew, with other keys.
            weights: digest of those that everybody trains from.
        """
        return _digest("vigie round 1", self.digest, round_, attempt, weights)

    def others(self, site: str) -> tuple[str, ...]:
        """All but one, in order."""
        return tuple(name for name in self.sites if name != site)


@dataclass(frozen=True, slots=True)
class Given:
    """What a hospital tells all others for a round.

    Attributes:
        key: of the round.
        commitment: to its seed.
        cases: how many it has, to the power of two below: how much each counts is relative to the largest.
    """

    key: bytes
    commitment: str
    cases: int


def occasion(context: str, given: Mapping[str, Given]) -> str:
    """What masks are for: hospitals that were told of different hospitals, or of another number of cases, do not cancel
    each other's. Else one could be told that others have so many cases that its own update is nothing beside theirs.
    """
    told = [f"{site} {one.key.hex()} {one.commitment} {one.cases}" for site, one in sorted(given.items())]
    return _digest("vigie masks 1", context, told)


def threshold(hospitals: int) -> int:
    """More than two thirds; all three of three."""
    return 2 * hospitals // 3 + 1


# ── Keys ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def point(key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) -> bytes:
    """A public key in 49 bytes."""
    public = key.public_key() if isinstance(key, ec.EllipticCurvePrivateKey) else key
    return public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def public(content: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of 49 bytes.

    Raises:
        NotAllowed: they are none.
    """
    try:
        if len(content) != POINT:
            raise ValueError
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, content)
    except ValueError:
        raise NotAllowed("a key that is none") from None


def scalar(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key in 48 bytes: to be kept, or to be shared."""
    return key.private_numbers().private_value.to_bytes(SCALAR, "big")


def private(content: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key of 48 bytes.

    Raises:
        NotAllowed: they are none.
    """
    try:
        return ec.derive_private_key(int.from_bytes(content, "big"), _CURVE)
    except ValueError:
        raise NotAllowed("a key that is none") from None


def commitment(seed: bytes) -> str:
    """What tells later whether a seed was put together rightly, and nothing of it now."""
    return hashlib.sha256(b"vigie seed 1 " + seed).hexdigest()


# ── Signatures ───────────────────────────────────────────────────────────────────────────────────────────────────────


def sign_agreement(identity: ec.EllipticCurvePrivateKey, terms: str, site: str, key: bytes) -> bytes:
    """A hospital's signature under its key for a retraining."""
    return identity.sign(_agreement(terms, site, key), _HASH)


def holds_agreement(identity: bytes, signature: bytes, terms: str, site: str, key: bytes) -> bool:
    """Whether that hospital has signed it, for these terms."""
    return _holds(identity, signature, _agreement(terms, site, key))


def sign_round(identity: ec.EllipticCurvePrivateKey, context: str, site: str, given: Given) -> bytes:
    """A hospital's signature under what it gives for a round."""
    return identity.sign(_round(context, site, given), _HASH)


def holds_round(identity: bytes, signature: bytes, context: str, site: str, given: Given) -> bool:
    """Whether that hospital has signed it, for this round."""
    return _holds(identity, signature, _round(context, site, given))


def _agreement(terms: str, site: str, key: bytes) -> bytes:
    return f"vigie agreement key 1 {_digest(terms, site, key.hex())}".encode()


def _round(context: str, site: str, given: Given) -> bytes:
    return f"vigie round key 1 {_digest(context, site, given.key.hex(), given.commitment, given.cases)}".encode()


def _holds(identity: bytes, signature: bytes, content: bytes) -> bool:
    try:
        public(identity).verify(signature, content, _HASH)
    except (InvalidSignature, NotAllowed):
        return False
    return True


def _digest(*parts: str | int | Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
