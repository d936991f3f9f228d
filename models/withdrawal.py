"""The withdrawal of a version: what a coordinator says of a version that is to read no study any more, signed.

A withdrawal is for good, and of one digest. So it may come twice, late or from somebody who kept it: it says the same
each time. As with terms (models/terms.py), the signature covers a purpose and the digest of the bytes.
"""

import hashlib
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from models.errors import NotAllowed
from models.signing import Trusted, holds
from models.validation import told

MAX_BYTES = 4096
LONGEST_REASON = 500


class Notice(BaseModel):
    """What is signed.

    Attributes:
        version: the digest of the version.
        label: NAME@NUMBER, for people.
        reason: for people, one line.
        at: seconds since the epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    purpose: Literal["vigie version withdrawal 1"] = "vigie version withdrawal 1"
    version: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    label: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}@[0-9]{1,9}$")]
    reason: Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_REASON)]
    at: float = Field(ge=0)

    @field_validator("reason")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if not value.isprintable() or not value.strip():
            raise ValueError("no line of text")
        return value

    def to_bytes(self) -> bytes:
        """What is signed, and travels."""
        return self.model_dump_json().encode()


def read(content: bytes) -> Notice:
    """Read a notice, whoever wrote it.

    Raises:
        ValueError: it is none.
    """
    if len(content) > MAX_BYTES:
        raise ValueError("a notice is too long")
    try:
        return Notice.model_validate_json(content)
    except ValidationError as error:
        raise ValueError(told(error)) from None


def digest(content: bytes) -> str:
    """Of the notice, as answers and ledgers name it."""
    return hashlib.sha256(content).hexdigest()


def sign(content: bytes, key: Ed25519PrivateKey) -> bytes:
    """The coordinator's signature over a notice."""
    return key.sign(_signed(content))


def verify(content: bytes, signature: bytes, signer: str, trusted: Trusted) -> None:
    """Refuse a notice that nobody trusted here has signed.

    Raises:
        NotAllowed: the signer is unknown, or the signature is not theirs.
    """
    if signer not in trusted:
        raise NotAllowed(f"the withdrawal is signed by {signer!r}, who is not trusted here")
    if not holds(trusted[signer], signature, _signed(content)):
        raise NotAllowed(f"the signature of the withdrawal is not {signer}'s")


def _signed(content: bytes) -> bytes:
    return f"vigie version withdrawal {digest(content)}".encode()
