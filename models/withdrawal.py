"""The withdrawal of a version: what a coordinator says of a version that is to read no study any more, signed.

A withdrawal is for good, and of one digest. So it may come twice, late or from somebody who kept it: it says the same
each time.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from models.documents import Kind

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


_KIND = Kind(Notice, "vigie version withdrawal", "the withdrawal", MAX_BYTES)
read, digest, sign, verify = _KIND.read, _KIND.digest, _KIND.sign, _KIND.verify
