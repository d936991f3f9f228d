"""Documents that a coordinator signs for hospitals: terms, withdrawals.

A signature covers what the document is for and the digest of its bytes, so that no other signature of the same key can
stand for it. Whoever gets it keeps the bytes, for to write them anew could change them.
"""

import hashlib
from dataclasses import dataclass
from typing import Generic, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import BaseModel, ValidationError

from models.errors import NotAllowed
from models.signing import Trusted, holds
from models.validation import told

Document = TypeVar("Document", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Kind(Generic[Document]):
    """One kind of signed document.

    Attributes:
        model: what is in it.
        purpose: of its signature; no other kind's.
        name: for people, with its article.
        most_bytes: how long it may be.
    """

    model: type[Document]
    purpose: str
    name: str
    most_bytes: int

    def read(self, content: bytes) -> Document:
        """Read a document, whoever wrote it.

        Raises:
            ValueError: it is none.
        """
        if len(content) > self.most_bytes:
            raise ValueError(f"{self.name}: longer than {self.most_bytes} bytes")
        try:
            return self.model.model_validate_json(content)
        except ValidationError as error:
            raise ValueError(told(error)) from None

    def digest(self, content: bytes) -> str:
        """Of the document, as answers and ledgers name it."""
        return hashlib.sha256(content).hexdigest()

    def sign(self, content: bytes, key: Ed25519PrivateKey) -> bytes:
        """The coordinator's signature over a document."""
        return key.sign(self._signed(content))

    def verify(self, content: bytes, signature: bytes, signer: str, trusted: Trusted) -> None:
        """Refuse a document that nobody trusted here has signed.

        Raises:
            NotAllowed: the signer is unknown, or the signature is not theirs.
        """
        if signer not in trusted:
            raise NotAllowed(f"{self.name}: signed by {signer!r}, who is not trusted here")
        if not holds(trusted[signer], signature, self._signed(content)):
            raise NotAllowed(f"the signature of {self.name} is not {signer}'s")

    def _signed(self, content: bytes) -> bytes:
        return f"{self.purpose} {self.digest(content)}".encode()
