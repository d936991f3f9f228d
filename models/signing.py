"""Ed25519 signatures over digests: who released a model version.

Private keys are PKCS#8 PEM, readable by their owner alone; public keys are PEM files named `NAME.pub`, and a trust
folder is a folder of those: a key is trusted because the hospital's IT put it there.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from models.errors import ConfigurationError

Trusted = Mapping[str, Ed25519PublicKey]


def make_key(path: Path) -> Ed25519PrivateKey:
    """Make a signing key at `path` (mode 0600) and its public half beside it, with the ending `.pub`.

    An existing key is kept and returned: making a key twice never changes who one is.
    """
    if path.exists():
        return load_key(path)
    key = Ed25519PrivateKey.generate()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    path.with_suffix(".pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return key


def load_key(path: Path) -> Ed25519PrivateKey:
    """Read a private key.

    Raises:
        ConfigurationError: missing, unreadable or not Ed25519.
    """
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path} is not a readable signing key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path} is not an Ed25519 key")
    return key


def load_trust(folder: Path) -> dict[str, Ed25519PublicKey]:
    """Read every `NAME.pub` of a trust folder.

    Raises:
        ConfigurationError: a file there is not an Ed25519 public key; none is skipped in silence.
    """
    trusted: dict[str, Ed25519PublicKey] = {}
    for path in sorted(folder.glob("*.pub")):
        trusted[path.stem] = load_public(path)
    return trusted


def load_public(path: Path) -> Ed25519PublicKey:
    """Read a public key.

    Raises:
        ConfigurationError: unreadable or not Ed25519.
    """
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigurationError(f"{path} is not a readable public key: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{path} is not an Ed25519 key")
    return key


def holds(key: Ed25519PublicKey, signature: bytes, content: bytes) -> bool:
    """Whether the signature is that key's over that content."""
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True
