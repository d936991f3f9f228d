"""What a model version may be used on, in a form that a machine can refuse by."""

from pydantic import BaseModel, ConfigDict, Field, model_validator


class IntendedUse(BaseModel):
    """The manufacturer's clauses; an instance has to meet every one.

    Text is compared without case. An empty tuple or None leaves a clause out; modality and SOP class cannot be
    left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    statement: str = Field(min_length=1, description="the sentence a person reads")
    modalities: tuple[str, ...] = Field(min_length=1)
    sop_classes: tuple[str, ...] = Field(min_length=1)
    body_parts: tuple[str, ...] = Field(
        default=(), description="accepted texts of BodyPartExamined, or code values of AnatomicRegionSequence"
    )
    views: tuple[str, ...] = Field(
        default=(), description="accepted ViewPosition texts or ViewCodeSequence code values"
    )
    min_age_years: float | None = Field(default=None, ge=0)
    max_age_years: float | None = Field(default=None, ge=0)
    min_size_px: int = Field(default=1, ge=1, description="smallest accepted number of rows and of columns")
    max_size_px: int = Field(default=16384, ge=1, description="largest accepted number of rows and of columns")

    @model_validator(mode="after")
    def _ordered(self) -> "IntendedUse":
        if None not in (self.min_age_years, self.max_age_years) and self.min_age_years > self.max_age_years:  # type: ignore[operator]
            raise ValueError("min_age_years is above max_age_years")
        if self.min_size_px > self.max_size_px:
            raise ValueError("min_size_px is above max_size_px")
        return self
