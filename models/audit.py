"""A coordinator's question how a version does at a hospital, signed.

It names the hospital and says when it was asked, so that a copy of it serves nobody elsewhere or later; asked again, it
is answered with the same block of counts as before.
"""

from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from models.documents import Kind

MAX_BYTES: Final = 1024
FRESH: Final = 3600.0
"""Seconds for which a question may be on its way, or two clocks may differ."""


class Request(BaseModel):
    """What is signed.

    Attributes:
        version: its digest.
        hospital: who is asked, by the name that the coordinator has registered.
        after: the number of the last release that the coordinator has.
        at: seconds since the epoch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    purpose: Literal["vigie statistics request 1"] = "vigie statistics request 1"
    version: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    hospital: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
    after: int = Field(ge=0, le=10**6)
    at: float = Field(ge=0)

    def to_bytes(self) -> bytes:
        """What is signed, and travels."""
        return self.model_dump_json().encode()


_KIND = Kind(Request, "vigie statistics request", "the request", MAX_BYTES)
read, digest, sign, verify = _KIND.read, _KIND.digest, _KIND.sign, _KIND.verify
