"""A coded concept, as DICOM and HL7 have it."""

from pydantic import BaseModel, ConfigDict


class Coding(BaseModel):
    """Code value, coding scheme designator, code meaning (PS3.3 section 8)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: str
    scheme: str
    meaning: str
