"""Masks that hide one hospital's numbers and cancel in the sum of all: integers modulo 2^32.

    masked = numbers + mask of the hospital's own seed + Σ ± mask of the secret it shares with each other hospital

The masks of a pair have opposite signs and cancel; those of seeds are taken off by whoever is given the seeds.

Flower's own mask generator (`flwr…secaggplus_utils.pseudo_rand_gen`) is not used: it folds its seed into 32 bits and
draws from a Mersenne Twister, so that all seeds can be tried. A mask here is the key stream of AES-256 in
counter mode. Its key is derived (HKDF-SHA-256) from the secret under a context that names the retraining, its terms,
the group, the round, the attempt, the weights received and whose mask it is; no key serves twice, which is why the
counter may begin at nought. Key pairs (P-384, of the operating system's generator), the secret that two of them share
(ECDH) and the quantisation of numbers are Flower's own.

Source: Bonawitz et al., Practical Secure Aggregation for Privacy-Preserving Machine Learning, CCS 2017; Bell et al.,
Secure Single-Server Aggregation with (Poly)Logarithmic Overhead, CCS 2020 (SecAgg+).
"""

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from models import group

Integers = NDArray[np.uint32]

SECRET = 32
"""Bytes of a seed, and of what a pair shares."""


def levels(hospitals: int) -> int:
    """The largest integer that a number becomes, so that the sum over so many hospitals does not overflow."""
    return min((2**32 - 1) // hospitals, 2**31 - 1)


def step(hospitals: int) -> float:
    """How far a number can be from what its integer stands for, at most."""
    return 2.0 / levels(hospitals)


def quantized(numbers: NDArray[np.float64], hospitals: int) -> Integers:
    """Numbers from -1 to 1 as integers, rounded by chance, right on average.

    Args:
        numbers: (N,); what lies outside is clipped.
        hospitals: how many will be summed.
    """
    from flwr.common.secure_aggregation.quantization import quantize

    (found,) = quantize([numbers], 1.0, levels(hospitals))
    return found.astype(np.uint32)


def restored(total: Integers, summed: int, hospitals: int) -> NDArray[np.float64]:
    """The sum of the numbers, of the sum of their integers.

    Args:
        summed: how many hospitals are in the sum.
        hospitals: for how many their numbers were quantised.
    """
    from flwr.common.secure_aggregation.quantization import dequantize

    integers: Any = total.astype(np.int64)
    (found,) = dequantize([integers], 1.0, levels(hospitals))
    return np.asarray(found - (summed - 1), np.float64)


def new_key() -> ec.EllipticCurvePrivateKey:
    """A key pair of P-384, by Flower."""
    from flwr.supercore.primitives.asymmetric import generate_key_pairs

    return generate_key_pairs()[0]


def new_seed() -> bytes:
    """32 bytes of the operating system's."""
    return secrets.token_bytes(32)


def agreed(key: ec.EllipticCurvePrivateKey, other: bytes) -> bytes:
    """The secret that two keys share, by Flower (ECDH, HKDF-SHA-256).

    Raises:
        NotAllowed: the other one is no key.
    """
    from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key

    return generate_shared_key(key, group.public(other))


def derived(secret: bytes, context: str) -> bytes:
    """32 bytes that depend on all of a secret and of what it is used for."""
    return HKDF(algorithm=hashes.SHA256(), length=SECRET, salt=None, info=context.encode()).derive(secret)


def own_mask(seed: bytes, context: str, site: str, length: int) -> Integers:
    """The mask of a hospital's own seed."""
    return _stream(derived(seed, f"vigie mask of one 1 {context} {site}"), length)


def pair_mask(secret: bytes, context: str, site: str, other: str, length: int) -> Integers:
    """What a hospital adds for another one; the other adds its negative."""
    one, two = sorted((site, other))
    stream = _stream(derived(secret, f"vigie mask of two 1 {context} {one} {two}"), length)
    return stream if site == one else np.negative(stream)


def masked(integers: Integers, context: str, site: str, seed: bytes, pairs: Mapping[str, bytes]) -> Integers:
    """What may leave a hospital: to whoever lacks the seed, or one of the secrets, it is uniformly distributed.

    Args:
        pairs: the secret shared with each of the other hospitals in the sum, by its name.
    """
    found = integers + own_mask(seed, context, site, len(integers))
    for other, secret in pairs.items():
        found += pair_mask(secret, context, site, other, len(integers))
    return found


def summed(vectors: Iterable[Integers]) -> Integers:
    """The sum of masked vectors, of which there is at least one."""
    remaining = iter(vectors)
    total = next(remaining).copy()
    for vector in remaining:
        total += vector
    return total


def unmasked(
    total: Integers, context: str, seeds: Mapping[str, bytes], lost: Mapping[tuple[str, str], bytes]
) -> Integers:
    """The sum without the masks that did not cancel.

    Args:
        total: of the masked vectors.
        seeds: of each hospital in the sum.
        lost: the secret of each pair of which only one, named first, is in the sum.
    """
    found = total.copy()
    for site, seed in seeds.items():
        found -= own_mask(seed, context, site, len(total))
    for (site, other), secret in lost.items():
        found -= pair_mask(secret, context, site, other, len(total))
    return found


def _stream(key: bytes, length: int) -> Integers:
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(encryptor.update(bytes(4 * length)), "<u4").astype(np.uint32, copy=False)
