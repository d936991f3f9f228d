"""What a model version may be used on, in a form that a machine can refuse by.

A clause names what it accepts. Where the header is silent, a clause is not met, unless it says `if_stated: true`: then
only a header that says something else refuses, or that says it in a way that is not understood. What a version leaves
out is not asked for, with four exceptions that hold for every version unless it says otherwise: no animal, no quality
control image or phantom, nothing that is meant for processing and not for presentation, and no drawing or scanned
document.
"""

import unicodedata
from fnmatch import fnmatchcase
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydicom.uid import UID_dictionary

from models.anatomy import Projection, Region, plain

Quantity = Literal[
    "KVP",
    "XRayTubeCurrent",
    "ExposureTime",
    "Exposure",
    "DistanceSourceToDetector",
    "SliceThickness",
    "SpacingBetweenSlices",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "MagneticFieldStrength",
    "RepetitionTime",
    "EchoTime",
]
Description = Literal["ProtocolName", "SeriesDescription", "StudyDescription"]
Conversion = Literal["DV", "DI", "DF", "WSD", "SD", "SI", "DRW", "SYN"]
Phase = Literal["native", "arterial", "portal", "delayed"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Clause(_Part):
    if_stated: bool = Field(default=False, description="met where the header says nothing")


class BodyPart(_Clause):
    """Regions by name: their codes, and their words in several languages (`models/anatomy.py`)."""

    regions: tuple[Region, ...] = Field(min_length=1)
    contradicted_by: tuple[Description, ...] = Field(
        default=(), description="descriptions that refuse where they name another region and none of these"
    )
    proven_by: tuple[Description, ...] = Field(
        default=(), description="descriptions that are enough where the body part itself is not given"
    )


Way = Literal["L", "R", "A", "P", "H", "F"]


class View(_Clause):
    """Projections by name, from ViewPosition, ViewCodeSequence; PatientOrientation can only contradict."""

    projections: tuple[Projection, ...] = Field(min_length=1)
    lying: tuple[Way, Way] | None = Field(
        default=None,
        description="where rows and columns run to, as PatientOrientation says where it is given; (L, F): upright, "
        "seen from the front. None: turned and mirrored pictures are read as well",
    )


class OneOf(_Clause):
    """Accepted values, compared without case."""

    values: tuple[str, ...] = Field(min_length=1)


class Maker(_Part):
    """A manufacturer, and which of its models; a name is met by one that begins with the same words."""

    manufacturer: str = Field(min_length=1)
    models: tuple[str, ...] = Field(default=(), description="none: every model")


class Makers(_Clause):
    """Accepted equipment."""

    accepted: tuple[Maker, ...] = Field(min_length=1)


class Range(_Clause):
    """A number that the header gives, in the attribute's own unit (kV, mA, ms, mAs, mm, T)."""

    quantity: Quantity
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.low is None and self.high is None:
            raise ValueError(f"{self.quantity}: neither low nor high is given")
        _ordered(self.quantity, self.low, self.high)
        return self


class Contrast(_Clause):
    """Whether contrast was given (ContrastBolusAgent), and the phase that the descriptions name."""

    agent: Literal["with", "without"] | None = None
    phases: tuple[Phase, ...] = ()

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.agent is None and not self.phases:
            raise ValueError("contrast: neither agent nor phases are given")
        return self


class Kernels(_Clause):
    """Accepted reconstruction kernels (ConvolutionKernel): `*` stands for any characters, `?` for one.

    Compared without case, blanks, hyphens and underscores, since devices of one maker differ in them. A header may give
    several values, as where an iterative reconstruction says its strength: each has to meet a pattern, or one pattern
    with as many parts meets them in their order, `I30f\\3` or `I30f\\*`.
    """

    accepted: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if not all(all(_bare(part) for part in pattern.split("\\")) for pattern in self.accepted):
            raise ValueError("convolution_kernel: an empty text")
        return self

    def admits(self, values: tuple[str, ...]) -> bool:
        """Whether the values of a header are accepted; there is one at least."""
        found = [_bare(value) for value in values]
        patterns = [[_bare(part) for part in pattern.split("\\")] for pattern in self.accepted]
        alone = [parts[0] for parts in patterns if len(parts) == 1]
        if all(any(_like(value, pattern) for pattern in alone) for value in found):
            return True
        return any(
            len(parts) == len(found) and all(_like(value, part) for value, part in zip(found, parts, strict=True))
            for parts in patterns
        )


class Presentation(_Clause):
    """What kind of picture it has to be; the defaults hold for every version that does not say otherwise."""

    for_processing: bool = Field(default=False, description="accept images that are not meant to be looked at")
    burned_in_annotation: bool = Field(default=True, description="accept images that say they carry burned-in text")
    derived: bool = Field(default=True, description="accept ImageType DERIVED")
    secondary: bool = Field(default=True, description="accept ImageType SECONDARY")
    max_lossy_ratio: float | None = Field(default=None, ge=1, description="largest LossyImageCompressionRatio")
    conversions: tuple[Conversion, ...] = Field(
        default=("DV", "DI", "DF", "WSD", "SI"), description="accepted ConversionType of secondary captures"
    )


class Clauses(_Part):
    """What is asked of an image."""

    body_parts: tuple[str, ...] = Field(
        default=(), description="accepted texts of BodyPartExamined, or code values of AnatomicRegionSequence"
    )
    body_part: BodyPart | None = Field(default=None, description="regions by name; beside `body_parts`, either is met")
    views: tuple[str, ...] = Field(
        default=(), description="accepted ViewPosition texts or ViewCodeSequence code values"
    )
    view: View | None = Field(default=None, description="projections by name; beside `views`, either is met")
    laterality: OneOf | None = Field(default=None, description="ImageLaterality or Laterality: R, L, B, U")
    sexes: OneOf | None = Field(default=None, description="PatientSex: M, F, O")
    min_age_years: float | None = Field(default=None, ge=0)
    max_age_years: float | None = Field(default=None, ge=0)
    age_if_stated: bool = Field(default=False, description="the age clause is met where no age is given")
    min_size_px: int = Field(default=1, ge=1, description="smallest accepted number of rows and of columns")
    max_size_px: int = Field(default=16384, ge=1, description="largest accepted number of rows and of columns")
    equipment: Makers | None = None
    ranges: tuple[Range, ...] = ()
    contrast: Contrast | None = None
    convolution_kernel: Kernels | None = Field(default=None, description="ConvolutionKernel, of each frame")
    presentation: Presentation = Presentation()

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        _ordered("age_years", self.min_age_years, self.max_age_years)
        _ordered("size_px", self.min_size_px, self.max_size_px)
        quantities = [limit.quantity for limit in self.ranges]
        if len(set(quantities)) < len(quantities):
            raise ValueError("ranges: a quantity stands twice")
        for name, values in (("body_parts", self.body_parts), ("views", self.views)):
            if not all(value.strip() for value in values):
                raise ValueError(f"{name}: an empty text")
        for name, clause, known in (("laterality", self.laterality, "RLBU"), ("sexes", self.sexes, "MFO")):
            if clause and (unknown := [value for value in clause.values if value not in tuple(known)]):
                raise ValueError(f"{name}: {unknown[0]!r} is not one of {', '.join(known)}")
        return self


class Series(Clauses):
    """A series that a study has to hold; `modalities` and `sop_classes` as far as they are given."""

    name: str = Field(min_length=1)
    modalities: tuple[str, ...] = ()
    sop_classes: tuple[str, ...] = ()
    min_images: int = Field(default=1, ge=1)


class IntendedUse(Clauses):
    """The manufacturer's clauses; an instance has to meet every one.

    Text is compared without case. An empty tuple or None leaves a clause out; modality and SOP class cannot be
    left out.
    """

    statement: str = Field(min_length=1, description="the sentence a person reads")
    modalities: tuple[str, ...] = Field(min_length=1)
    sop_classes: tuple[str, ...] = Field(min_length=1)
    required_series: tuple[Series, ...] = Field(default=(), description="that a study has to hold, each at least once")

    @model_validator(mode="after")
    def _series_differ(self) -> Self:
        names = [series.name for series in self.required_series]
        if len(set(names)) < len(names):
            raise ValueError("required_series: a name stands twice")
        return self


def problems(use: IntendedUse) -> list[str]:
    """What in an intended use can never be met, or is no DICOM; for whoever packs a version.

    Not refused when a bundle is read: a standard that grows must not make an old bundle unreadable.
    """
    found: list[str] = []
    for part in (use, *use.required_series):
        place = f"series {part.name!r}: " if isinstance(part, Series) else ""
        for uid in part.sop_classes:
            name, kind = (*UID_dictionary.get(uid, ("", "")),)[:2]
            if kind != "SOP Class" or "Storage" not in name:
                found.append(f"{place}sop_classes: {uid!r} is no storage SOP class")
        for modality in part.modalities:
            if not (1 <= len(modality) <= 16 and modality.replace("_", "").isalnum() and modality.isupper()):
                found.append(f"{place}modalities: {modality!r} is no DICOM code string")
        for name in (maker.manufacturer for maker in (part.equipment.accepted if part.equipment else ())):
            if not plain(name):
                found.append(f"{place}equipment: a manufacturer without a name")
    return found


def sentences(use: IntendedUse) -> list[str]:
    """The clauses as a person reads them, one sentence each."""
    return [use.statement, *_sentences(use, use.modalities, use.sop_classes)] + [
        sentence
        for series in use.required_series
        for sentence in (
            f"A study has to hold a series {series.name!r} of at least {series.min_images} image(s):",
            *(f"  {line}" for line in _sentences(series, series.modalities, series.sop_classes)),
        )
    ]


def _sentences(part: Clauses, modalities: tuple[str, ...], sop_classes: tuple[str, ...]) -> list[str]:
    lines: list[str] = []

    def say(text: str, clause: _Clause | None = None) -> None:
        silent = " Met where the header does not say." if clause is not None and clause.if_stated else ""
        lines.append(f"{text}.{silent}")

    if modalities:
        say(f"Modality is {_either(modalities)}")
    if sop_classes:
        say(f"SOP class is {_either([UID_dictionary.get(uid, (uid,))[0] for uid in sop_classes])}")
    if part.body_parts:
        say(f"Body part is {_either(part.body_parts)}")
    if part.body_part:
        say(f"Body part is {_either(part.body_part.regions)}, by code or by a word for it", part.body_part)
        if part.body_part.contradicted_by:
            say(f"{_either(part.body_part.contradicted_by)} must not name another part of the body alone")
        if part.body_part.proven_by:
            say(f"{_either(part.body_part.proven_by)} is enough where the body part is not given")
    if part.views:
        say(f"View is {_either(part.views)}")
    if part.view:
        say(f"View is {_either(part.view.projections)}", part.view)
        if part.view.lying:
            say("Where it is said how the picture lies, rows run to {} and columns to {}".format(*part.view.lying))
    if part.laterality:
        say(f"Laterality is {_either(part.laterality.values)}", part.laterality)
    if part.sexes:
        say(f"The patient's sex is {_either(part.sexes.values)}", part.sexes)
    if part.min_age_years is not None or part.max_age_years is not None:
        say(f"The patient's age is {_span(part.min_age_years, part.max_age_years)} years")
    say(f"Rows and columns are {_span(part.min_size_px, part.max_size_px)}")
    if part.equipment:
        makers = [
            f"{maker.manufacturer} ({_either(maker.models)})" if maker.models else maker.manufacturer
            for maker in part.equipment.accepted
        ]
        say(f"Equipment is {_either(makers)}", part.equipment)
    for limit in part.ranges:
        say(f"{limit.quantity} is {_span(limit.low, limit.high)}", limit)
    if part.contrast and part.contrast.agent:
        say(f"The image was made {part.contrast.agent} contrast", part.contrast)
    if part.contrast and part.contrast.phases:
        say(f"The contrast phase is {_either(part.contrast.phases)}", part.contrast)
    if part.convolution_kernel:
        say(f"The convolution kernel is {_either(part.convolution_kernel.accepted)}", part.convolution_kernel)
    shown = part.presentation
    refused = [
        *([] if shown.for_processing else ["images for processing"]),
        *([] if shown.burned_in_annotation else ["burned-in annotation"]),
        *([] if shown.derived else ["derived images"]),
        *([] if shown.secondary else ["secondary captures"]),
        *([f"lossy compression above {shown.max_lossy_ratio:g}:1"] if shown.max_lossy_ratio else []),
        "animals, phantoms and quality control images",
    ]
    say(f"Refused: {', '.join(refused)}")
    return lines


def _bare(text: str) -> str:
    """A kernel's name without what devices differ in; `+` stays, for BONE+ is another kernel than BONE."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(one for one in folded if not one.isspace() and one not in "-_\0")


def _like(value: str, pattern: str) -> bool:
    return fnmatchcase(value, pattern.replace("[", "[[]"))


def _either(values: tuple[str, ...] | list[str]) -> str:
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def _span(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return f"{low:g} or more" if low is not None else f"{high:g} or less"
    return f"{low:g} to {high:g}"


def _ordered(name: str, low: float | None, high: float | None) -> None:
    if low is not None and high is not None and low > high:
        raise ValueError(f"{name}: min or low is above max or high")
