"""A hospital's two secrets of a round, in parts: one for each hospital of the group, that only it can read.

Shamir's sharing is Flower's, which is PyCryptodome's: over GF(2^128), one polynomial for every 16 bytes, coefficients
from the operating system's generator. Fewer parts than the threshold say nothing. Encryption is Flower's, which is
Fernet: AES-128 in CBC mode under HMAC-SHA-256, a random start each time. Fernet itself knows of no circumstances:
its key is derived for the round, the sender and the receiver, so that a part cannot be passed off as another one.
"""

import base64
from collections.abc import Callable, Mapping
from itertools import combinations, islice

from models import masks
from models.errors import NotAllowed

PART_OF_KEY = 4 + 64
PART_OF_SEED = 4 + 48
_ATTEMPTS = 64  # selections of parts that are tried where some of them are wrong


def split(secret: bytes, threshold: int, number: int) -> list[bytes]:
    """Parts of a secret, so many of which give it back."""
    from flwr.common.secure_aggregation.crypto.shamir import create_shares

    return create_shares(secret, threshold, number)


def joined(parts: Mapping[int, bytes], threshold: int, right: Callable[[bytes], bool]) -> bytes | None:
    """The secret, of at least `threshold` parts by their number from 1; wrong ones among them are left out.

    Args:
        right: whether a secret is the one.

    Returns:
        None where no selection of parts gives the right one.
    """
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares

    whole = [part for number, part in sorted(parts.items()) if part[:4] == number.to_bytes(4, "little")]
    for chosen in islice(combinations(whole, threshold), _ATTEMPTS):
        try:
            secret = combine_shares(list(chosen))
        except ValueError:
            continue
        if right(secret):
            return secret
    return None


def sealed(secret: bytes, context: str, sender: str, receiver: str, of_key: bytes, of_seed: bytes) -> bytes:
    """Two parts, for one hospital's eyes.

    Args:
        secret: what the two hospitals share.
    """
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt

    return encrypt(_key(secret, context, sender, receiver), of_key + of_seed)


def opened(secret: bytes, context: str, sender: str, receiver: str, content: bytes) -> tuple[bytes, bytes]:
    """The parts of the sender's key and seed.

    Raises:
        NotAllowed: this is not what the sender gave this receiver in this round.
    """
    from cryptography.fernet import InvalidToken
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt

    try:
        found = decrypt(_key(secret, context, sender, receiver), content)
    except (InvalidToken, ValueError):
        raise NotAllowed(f"what is said to come from {sender!r} does not") from None
    if len(found) != PART_OF_KEY + PART_OF_SEED:
        raise NotAllowed(f"what {sender!r} gave is not whole")
    return found[:PART_OF_KEY], found[PART_OF_KEY:]


def _key(secret: bytes, context: str, sender: str, receiver: str) -> bytes:
    return base64.urlsafe_b64encode(masks.derived(secret, f"vigie share 1 {context} {sender} {receiver}"))
