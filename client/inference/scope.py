"""Whether a version may be used on an image: its intended use against the image's header.

Pure: header values in, a value out. Every clause that is not met is reported, so that a person sees all of what is
wrong at once; what a clause needs and the header does not say is a refusal too, never a guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from client.inference.acquisition import AGES_APART, Acquisition
from models.anatomy import (
    CONTRAST_PHASE_WORDS,
    NO_CONTRAST_WORDS,
    PROJECTION_CODES,
    REGION_CODES,
    named,
    plain,
    projections_of,
    regions_of,
)
from models.intended_use import Clauses, IntendedUse, Quantity, Range, Series
from models.novelty import Novelty
from models.volume_novelty import VolumeNovelty

__all__ = [
    "Acquisition",
    "Code",
    "InScope",
    "OutOfScope",
    "Reason",
    "check",
    "missing_series",
    "unfamiliar",
    "unfamiliar_volume",
]

_SHOWN = 64
_MOST_SHOWN = 4  # values of a range
_HUMAN: Mapping[str, frozenset[str]] = {  # PS3.16 CID 7454: Homo sapiens; schemes as `plain` writes them
    **dict.fromkeys(("SCT", "SNOMED CT", "2 16 840 1 113883 6 96"), frozenset({"337915000", "30996001"})),
    **dict.fromkeys(("SRT", "SNM3", "99SDM"), frozenset({"L-85B00", "L-85003"})),
}
_HUMAN_WORDS = frozenset({"HUMAN", "HOMO SAPIENS", "HUMAN BEING", "MENSCH", "HUMAIN", "HUMANO", "人", "人类"})


class Code(StrEnum):
    """Why an image, or a whole study, is not read; a closed set that statistics may count."""

    MODALITY = "modality"
    MODALITY_MISSING = "modality-missing"
    SOP_CLASS = "sop-class"
    SOP_CLASS_MISSING = "sop-class-missing"
    BODY_PART = "body-part"
    BODY_PART_MISSING = "body-part-missing"
    BODY_PART_CONTRADICTED = "body-part-contradicted"
    VIEW = "view"
    VIEW_MISSING = "view-missing"
    VIEW_CONTRADICTED = "view-contradicted"
    LATERALITY = "laterality"
    LATERALITY_MISSING = "laterality-missing"
    LATERALITY_UNREADABLE = "laterality-unreadable"
    SEX = "sex"
    SEX_MISSING = "sex-missing"
    SEX_UNREADABLE = "sex-unreadable"
    AGE = "age"
    AGE_MISSING = "age-missing"
    AGE_UNREADABLE = "age-unreadable"
    AGE_CONTRADICTED = "age-contradicted"
    SIZE = "size"
    SIZE_MISSING = "size-missing"
    EQUIPMENT = "equipment"
    EQUIPMENT_MISSING = "equipment-missing"
    KVP = "kvp"
    KVP_MISSING = "kvp-missing"
    KVP_UNREADABLE = "kvp-unreadable"
    TUBE_CURRENT = "tube-current"
    TUBE_CURRENT_MISSING = "tube-current-missing"
    TUBE_CURRENT_UNREADABLE = "tube-current-unreadable"
    EXPOSURE_TIME = "exposure-time"
    EXPOSURE_TIME_MISSING = "exposure-time-missing"
    EXPOSURE_TIME_UNREADABLE = "exposure-time-unreadable"
    EXPOSURE = "exposure"
    EXPOSURE_MISSING = "exposure-missing"
    EXPOSURE_UNREADABLE = "exposure-unreadable"
    DETECTOR_DISTANCE = "detector-distance"
    DETECTOR_DISTANCE_MISSING = "detector-distance-missing"
    DETECTOR_DISTANCE_UNREADABLE = "detector-distance-unreadable"
    SLICE_THICKNESS = "slice-thickness"
    SLICE_THICKNESS_MISSING = "slice-thickness-missing"
    SLICE_THICKNESS_UNREADABLE = "slice-thickness-unreadable"
    SLICE_SPACING = "slice-spacing"
    SLICE_SPACING_MISSING = "slice-spacing-missing"
    SLICE_SPACING_UNREADABLE = "slice-spacing-unreadable"
    PIXEL_SPACING = "pixel-spacing"
    PIXEL_SPACING_MISSING = "pixel-spacing-missing"
    PIXEL_SPACING_UNREADABLE = "pixel-spacing-unreadable"
    IMAGER_PIXEL_SPACING = "imager-pixel-spacing"
    IMAGER_PIXEL_SPACING_MISSING = "imager-pixel-spacing-missing"
    IMAGER_PIXEL_SPACING_UNREADABLE = "imager-pixel-spacing-unreadable"
    FIELD_STRENGTH = "field-strength"
    FIELD_STRENGTH_MISSING = "field-strength-missing"
    FIELD_STRENGTH_UNREADABLE = "field-strength-unreadable"
    REPETITION_TIME = "repetition-time"
    REPETITION_TIME_MISSING = "repetition-time-missing"
    REPETITION_TIME_UNREADABLE = "repetition-time-unreadable"
    ECHO_TIME = "echo-time"
    ECHO_TIME_MISSING = "echo-time-missing"
    ECHO_TIME_UNREADABLE = "echo-time-unreadable"
    CONTRAST = "contrast"
    CONTRAST_MISSING = "contrast-missing"
    CONTRAST_UNREADABLE = "contrast-unreadable"
    CONTRAST_PHASE = "contrast-phase"
    CONTRAST_PHASE_MISSING = "contrast-phase-missing"
    CONVOLUTION_KERNEL = "convolution-kernel"
    CONVOLUTION_KERNEL_MISSING = "convolution-kernel-missing"
    FOR_PROCESSING = "for-processing"
    FOR_PROCESSING_UNREADABLE = "for-processing-unreadable"
    BURNED_IN = "burned-in"
    BURNED_IN_MISSING = "burned-in-missing"
    BURNED_IN_UNREADABLE = "burned-in-unreadable"
    DERIVED = "derived"
    SECONDARY = "secondary"
    IMAGE_TYPE_MISSING = "image-type-missing"
    LOSSY = "lossy"
    LOSSY_MISSING = "lossy-missing"
    LOSSY_UNREADABLE = "lossy-unreadable"
    CONVERSION = "conversion"
    CONVERSION_UNREADABLE = "conversion-unreadable"
    QUALITY_CONTROL = "quality-control"
    QUALITY_CONTROL_UNREADABLE = "quality-control-unreadable"
    SPECIES = "species"
    SERIES_MISSING = "series-missing"
    NOVEL_IMAGE = "novel-image"


_OF_LATERALITY = (Code.LATERALITY, Code.LATERALITY_MISSING, Code.LATERALITY_UNREADABLE)
_OF_SEX = (Code.SEX, Code.SEX_MISSING, Code.SEX_UNREADABLE)
_OF_QUANTITY: Mapping[Quantity, tuple[Code, Code, Code, str]] = {
    "KVP": (Code.KVP, Code.KVP_MISSING, Code.KVP_UNREADABLE, "kV"),
    "XRayTubeCurrent": (Code.TUBE_CURRENT, Code.TUBE_CURRENT_MISSING, Code.TUBE_CURRENT_UNREADABLE, "mA"),
    "ExposureTime": (Code.EXPOSURE_TIME, Code.EXPOSURE_TIME_MISSING, Code.EXPOSURE_TIME_UNREADABLE, "ms"),
    "Exposure": (Code.EXPOSURE, Code.EXPOSURE_MISSING, Code.EXPOSURE_UNREADABLE, "mAs"),
    "DistanceSourceToDetector": (
        Code.DETECTOR_DISTANCE,
        Code.DETECTOR_DISTANCE_MISSING,
        Code.DETECTOR_DISTANCE_UNREADABLE,
        "mm",
    ),
    "SliceThickness": (Code.SLICE_THICKNESS, Code.SLICE_THICKNESS_MISSING, Code.SLICE_THICKNESS_UNREADABLE, "mm"),
    "SpacingBetweenSlices": (Code.SLICE_SPACING, Code.SLICE_SPACING_MISSING, Code.SLICE_SPACING_UNREADABLE, "mm"),
    "PixelSpacing": (Code.PIXEL_SPACING, Code.PIXEL_SPACING_MISSING, Code.PIXEL_SPACING_UNREADABLE, "mm"),
    "ImagerPixelSpacing": (
        Code.IMAGER_PIXEL_SPACING,
        Code.IMAGER_PIXEL_SPACING_MISSING,
        Code.IMAGER_PIXEL_SPACING_UNREADABLE,
        "mm",
    ),
    "MagneticFieldStrength": (Code.FIELD_STRENGTH, Code.FIELD_STRENGTH_MISSING, Code.FIELD_STRENGTH_UNREADABLE, "T"),
    "RepetitionTime": (Code.REPETITION_TIME, Code.REPETITION_TIME_MISSING, Code.REPETITION_TIME_UNREADABLE, "ms"),
    "EchoTime": (Code.ECHO_TIME, Code.ECHO_TIME_MISSING, Code.ECHO_TIME_UNREADABLE, "ms"),
}


@dataclass(frozen=True, slots=True)
class Reason:
    """One clause that is not met.

    Attributes:
        code: what machines count; a `Code`, or one of the pipeline's and decoder's stable words.
        text: what a person reads: the found value and the accepted ones.
    """

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class InScope:
    """Every clause is met."""


@dataclass(frozen=True, slots=True)
class OutOfScope:
    """At least one clause is not met."""

    reasons: tuple[Reason, ...]


def check(intended_use: IntendedUse, acquisition: Acquisition) -> InScope | OutOfScope:
    """Hold an image's header against every clause of an intended use; `missing_series` holds a whole study."""
    reasons = tuple(_unmet(intended_use, intended_use.modalities, intended_use.sop_classes, acquisition))
    return OutOfScope(reasons) if reasons else InScope()


def missing_series(intended_use: IntendedUse, acquisitions: Sequence[Acquisition]) -> tuple[Reason, ...]:
    """Which required series a study does not hold; no series stands for two of them.

    Args:
        acquisitions: of all images of one study.
    """
    groups: dict[str, list[Acquisition]] = {}
    for one in acquisitions:
        groups.setdefault(one.series, []).append(one)
    fitting = [
        {uid for uid, images in groups.items() if _holds(series, images)} for series in intended_use.required_series
    ]
    taken: dict[str, int] = {}
    return tuple(
        Reason(Code.SERIES_MISSING, f"the study has no series {series.name!r} of {series.min_images} image(s) or more")
        for number, series in enumerate(intended_use.required_series)
        if not _assigned(number, fitting, taken, set())
    )


def unfamiliar(novelty: Novelty | None, tensor: NDArray[np.float32]) -> Reason | None:
    """Why an image is not read although its header fits: it looks like nothing the version was trained on.

    Args:
        novelty: the version's own check, None where it ships none.
        tensor: (1, h, w), preprocessed as the version declares.
    """
    return _unlike("image", novelty.distance(tensor), novelty.limit) if novelty else None


def unfamiliar_volume(
    novelty: VolumeNovelty | None, voxels: NDArray[np.generic], spacing: Sequence[float]
) -> Reason | None:
    """Why a series is not outlined although its headers fit; as `unfamiliar`.

    Args:
        novelty: the version's own check, None where it ships none.
        voxels: (a, b, c) along the axes that the version declares, in the modality's unit.
        spacing: mm between voxels, per axis.
    """
    return _unlike("series", novelty.distance(voxels, spacing), novelty.limit) if novelty else None


def _unlike(what: str, distance: float, limit: float) -> Reason | None:
    if distance <= limit:
        return None
    text = f"the {what} is unlike those the version was trained on: distance {distance:.2f}, limit {limit:.2f}"
    return Reason(Code.NOVEL_IMAGE, text)


def _holds(series: Series, images: Sequence[Acquisition]) -> bool:
    met = sum(1 for one in images if not any(True for _ in _unmet(series, series.modalities, series.sop_classes, one)))
    return met >= series.min_images


def _assigned(number: int, fitting: Sequence[set[str]], taken: dict[str, int], seen: set[str]) -> bool:
    """Give the required series one of its own, moving others to another that fits them (augmenting paths)."""
    for uid in sorted(fitting[number] - seen):
        seen.add(uid)
        if uid not in taken or _assigned(taken[uid], fitting, taken, seen):
            taken[uid] = number
            return True
    return False


def _unmet(
    use: Clauses, modalities: tuple[str, ...], sop_classes: tuple[str, ...], found: Acquisition
) -> Iterable[Reason]:
    """What is not met, by one frame at least; said once where several frames do not meet it."""
    said: set[str] = set()
    for one in (found, *found.others):
        reasons = [reason for reason in _unmet_by(use, modalities, sop_classes, one) if reason.code not in said]
        yield from reasons
        said |= {reason.code for reason in reasons}


def _unmet_by(
    use: Clauses, modalities: tuple[str, ...], sop_classes: tuple[str, ...], found: Acquisition
) -> Iterable[Reason]:
    yield from _one_of(Code.MODALITY, Code.MODALITY_MISSING, "modality", found.modality, modalities)
    yield from _one_of(Code.SOP_CLASS, Code.SOP_CLASS_MISSING, "SOP class", found.sop_class, sop_classes)
    yield from _body_part(use, found)
    yield from _view(use, found)
    for clause, attribute, codes, name, value in (
        (use.laterality, "laterality", _OF_LATERALITY, "laterality", found.laterality),
        (use.sexes, "sex", _OF_SEX, "the patient's sex", found.sex),
    ):
        code, missing, unreadable = codes
        if clause and attribute in found.unreadable:
            yield Reason(unreadable, f"{name} is given and not understood; accepted: {', '.join(clause.values)}")
        elif clause and (value or not clause.if_stated):
            yield from _one_of(code, missing, name, value, clause.values)
    yield from _age_within(use, found)
    yield from _size_within(use, found)
    yield from _equipment(use, found)
    for limit in use.ranges:
        yield from _within(limit, found)
    yield from _contrast(use, found)
    yield from _kernel(use, found)
    yield from _presentation(use, found)
    yield from _human(found)


def _one_of(code: Code, missing: Code, name: str, value: str, accepted: tuple[str, ...]) -> Iterable[Reason]:
    if not accepted or value.casefold() in {one.casefold() for one in accepted}:
        return
    if value:
        yield Reason(code, f"{name} is {_shown(value)}; accepted: {', '.join(accepted)}")
    else:
        yield Reason(missing, f"{name} is not given; accepted: {', '.join(accepted)}")


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """What is accepted of something that headers give as a text, as a code, or as both.

    Attributes:
        listed: accepted texts and code values as the version lists them.
        names: accepted names of a table.
        codes: that the table has for these names.
        names_of: what of the table a text names.
    """

    listed: tuple[str, ...]
    names: frozenset[str]
    codes: frozenset[str]
    names_of: Callable[[str], frozenset[str]]

    def accepts(self, text: str) -> bool:
        found = self.names_of(text) if self.names else frozenset[str]()
        return text.casefold() in {value.casefold() for value in self.listed} or bool(found and found <= self.names)

    def mismatch(self, name: str, text: str, codes: tuple[str, ...]) -> str | None:
        """What is wrong with what a header gives, None where nothing is.

        A text and a code that contradict each other are refused: when the header gives both and the clause knows both
        vocabularies (its code values have a digit, its texts have none), both have to be accepted.
        """
        folded = {value.casefold() for value in self.listed}
        listed_codes = {value for value in folded if any(character.isdigit() for character in value)}
        known_codes = listed_codes | {code.casefold() for code in self.codes}
        text_known = bool(self.names) or bool(folded - listed_codes)
        text_ok = self.accepts(text)
        code_ok = any(value.casefold() in known_codes or value.casefold() in folded for value in codes)
        wrong_text = bool(text) and text_known and not text_ok
        wrong_code = bool(codes) and bool(known_codes) and not code_ok
        if wrong_text or (not text_ok and not code_ok and text):
            return f"{name} is {_shown(text)}; accepted: {self}"
        if wrong_code or (not text_ok and not code_ok):
            return f"{name} has code {_shown(', '.join(codes))}; accepted: {self}"
        return None

    def __str__(self) -> str:
        return ", ".join((*self.listed, *sorted(self.names - {value.casefold() for value in self.listed})))


def _body_part(use: Clauses, found: Acquisition) -> Iterable[Reason]:
    clause = use.body_part
    if not clause and not use.body_parts:
        return
    regions = frozenset[str](clause.regions) if clause else frozenset[str]()
    codes = frozenset(code for region in (clause.regions if clause else ()) for code in REGION_CODES[region])
    accepted = _Vocabulary(use.body_parts, regions, codes, regions_of)
    if found.body_part or found.body_part_codes:
        if wrong := accepted.mismatch("body part", found.body_part, found.body_part_codes):
            yield Reason(Code.BODY_PART, wrong)
    elif not clause or not (clause.if_stated or _proven(clause.proven_by, found, accepted)):
        yield Reason(Code.BODY_PART_MISSING, f"body part is not given; accepted: {accepted}")
    for keyword in clause.contradicted_by if clause else ():
        # the text itself may hold anything, a name too, and is not repeated
        named_there = regions_of(found.descriptions.get(keyword, ""))
        if named_there and not named_there & regions:
            places = ", ".join(sorted(named_there))
            yield Reason(Code.BODY_PART_CONTRADICTED, f"{keyword} names {places}; accepted: {accepted}")
            return


def _proven(keywords: Iterable[str], found: Acquisition, accepted: _Vocabulary) -> bool:
    return any(accepted.accepts(found.descriptions.get(keyword, "")) for keyword in keywords)


def _view(use: Clauses, found: Acquisition) -> Iterable[Reason]:
    clause = use.view
    if not clause and not use.views:
        return
    projections = frozenset[str](clause.projections) if clause else frozenset[str]()
    codes = frozenset(code for one in (clause.projections if clause else ()) for code in PROJECTION_CODES[one])
    accepted = _Vocabulary(use.views, projections, codes, projections_of)
    if found.view or found.view_codes:
        if wrong := accepted.mismatch("view", found.view, found.view_codes):
            yield Reason(Code.VIEW, wrong)
            return
    elif not (clause and clause.if_stated):
        yield Reason(Code.VIEW_MISSING, f"view is not given; accepted: {accepted}")
    if clause and found.orientation:
        # rows that run to the front or the back are a lateral's, rows that run to a side are not
        lateral = found.orientation[0][0] in "AP"
        if lateral != ("lateral" in projections) and (lateral or projections == frozenset({"lateral"})):
            text = f"rows run to {_shown(found.orientation[0])} (PatientOrientation); accepted: {accepted}"
            yield Reason(Code.VIEW_CONTRADICTED, text)
        elif clause.lying and tuple(way[0] for way in found.orientation) != clause.lying:
            # turned or mirrored: a heart on the right is a finding, or a picture that was never flipped
            ways = " and ".join(_shown(way) for way in found.orientation)
            text = f"rows and columns run to {ways} (PatientOrientation); accepted: {' and '.join(clause.lying)}"
            yield Reason(Code.VIEW_CONTRADICTED, text)


def _age_within(use: Clauses, found: Acquisition) -> Iterable[Reason]:
    low, high = use.min_age_years, use.max_age_years
    if low is None and high is None:
        return
    age, by_dates = found.age_years, found.age_by_dates
    limits = ((low, "or more"), (high, "or less"))
    accepted = " and ".join(f"{limit:g} {side}" for limit, side in limits if limit is not None)
    if age is not None and by_dates is not None and abs(age - by_dates) > AGES_APART:
        text = f"the patient's age is {age:.1f} years, by birth date and study date {by_dates:.1f}"
        yield Reason(Code.AGE_CONTRADICTED, f"{text}; accepted: {accepted}")
    if "age_years" in found.unreadable:
        yield Reason(Code.AGE_UNREADABLE, f"the patient's age is given and not understood; accepted: {accepted} years")
    elif age is None and use.age_if_stated:
        return
    elif age is None:
        yield Reason(Code.AGE_MISSING, f"the patient's age is not given; accepted: {accepted} years")
    elif (low is not None and age < low) or (high is not None and age > high):
        yield Reason(Code.AGE, f"the patient's age is {age:.1f} years; accepted: {accepted}")


def _size_within(use: Clauses, found: Acquisition) -> Iterable[Reason]:
    accepted = f"{use.min_size_px} to {use.max_size_px} pixels a side"
    if found.rows is None or found.columns is None:
        yield Reason(Code.SIZE_MISSING, f"the image's size is not given; accepted: {accepted}")
    elif not all(use.min_size_px <= side <= use.max_size_px for side in (found.rows, found.columns)):
        yield Reason(Code.SIZE, f"the image has {found.rows} x {found.columns} pixels; accepted: {accepted}")


def _equipment(use: Clauses, found: Acquisition) -> Iterable[Reason]:
    clause = use.equipment
    if clause is None:
        return
    accepted = ", ".join(
        f"{maker.manufacturer} ({', '.join(maker.models)})" if maker.models else maker.manufacturer
        for maker in clause.accepted
    )
    missing = Reason(Code.EQUIPMENT_MISSING, f"manufacturer or model is not given; accepted: {accepted}")
    by_model = [maker for maker in clause.accepted if any(_begins(found.model, model) for model in maker.models)]
    possible = not found.model or by_model or not all(maker.models for maker in clause.accepted)
    if not found.manufacturer and possible:
        if not clause.if_stated:
            yield missing
        return
    makers = [maker for maker in clause.accepted if _begins(found.manufacturer, maker.manufacturer)]
    if any(not maker.models or any(_begins(found.model, model) for model in maker.models) for maker in makers):
        return
    if makers and not found.model:
        if not clause.if_stated:
            yield missing
        return
    shown = _shown(f"{found.manufacturer} {found.model}".strip())
    yield Reason(Code.EQUIPMENT, f"equipment is {shown}; accepted: {accepted}")


def _begins(name: str, accepted: str) -> bool:
    """Whether a name begins with the accepted words: SIEMENS HEALTHINEERS is a Siemens, SIEMENSX is not."""
    return f"{plain(name)} ".startswith(f"{plain(accepted)} ")


def _within(limit: Range, found: Acquisition) -> Iterable[Reason]:
    code, missing, unreadable, unit = _OF_QUANTITY[limit.quantity]
    limits = ((limit.low, "or more"), (limit.high, "or less"))
    accepted = " and ".join(f"{bound:g} {side}" for bound, side in limits if bound is not None) + f" {unit}"
    values, by = found.quantities.get(limit.quantity, ()), ""
    if limit.quantity == "SpacingBetweenSlices":
        by = f" by the positions of {found.placed} planes" if found.placed else " by the header"
    if any(
        (limit.low is not None and one < limit.low) or (limit.high is not None and one > limit.high) for one in values
    ):
        shown = ", ".join(f"{one:g}" for one in values[:_MOST_SHOWN]) + (", …" if len(values) > _MOST_SHOWN else "")
        yield Reason(code, f"{limit.quantity} is {shown}{by}; accepted: {accepted}")
    elif limit.quantity in found.unreadable and not (limit.quantity == "SpacingBetweenSlices" and found.placed):
        yield Reason(unreadable, f"{limit.quantity} is given and not understood; accepted: {accepted}")
    elif not limit.if_stated and (not values or limit.quantity in found.partly):
        given = "given by every frame" if values else "given"
        yield Reason(missing, f"{limit.quantity} is not {given}; accepted: {accepted}")


def _contrast(use: Clauses, found: Acquisition) -> Iterable[Reason]:
    clause = use.contrast
    if clause is None:
        return
    if clause.agent and "contrast" in found.unreadable:
        text = f"contrast is given and not understood; accepted: {clause.agent} contrast"
        yield Reason(Code.CONTRAST_UNREADABLE, text)
    elif clause.agent and not found.contrast:
        if not clause.if_stated:
            yield Reason(Code.CONTRAST_MISSING, f"contrast is not given; accepted: {clause.agent} contrast")
    elif clause.agent:
        agent = "without" if plain(found.contrast) in NO_CONTRAST_WORDS else "with"
        if agent != clause.agent:
            yield Reason(Code.CONTRAST, f"the image was made {agent} contrast; accepted: {clause.agent} contrast")
    if clause.phases:
        phases = frozenset(
            phase
            for keyword in ("SeriesDescription", "ProtocolName")
            for phase in named(found.descriptions.get(keyword, ""), CONTRAST_PHASE_WORDS)
        )
        accepted = ", ".join(clause.phases)
        if not phases and not clause.if_stated:
            yield Reason(Code.CONTRAST_PHASE_MISSING, f"the contrast phase is not given; accepted: {accepted}")
        elif not phases <= set(clause.phases):
            text = f"the contrast phase is {', '.join(sorted(phases))}; accepted: {accepted}"
            yield Reason(Code.CONTRAST_PHASE, text)


def _kernel(use: Clauses, found: Acquisition) -> Iterable[Reason]:
    clause = use.convolution_kernel
    if clause is None:
        return
    accepted = ", ".join(clause.accepted)
    if found.kernel and not clause.admits(found.kernel):
        shown = _shown("\\".join(found.kernel))
        yield Reason(Code.CONVOLUTION_KERNEL, f"the convolution kernel is {shown}; accepted: {accepted}")
    elif not found.kernel and not clause.if_stated:
        text = f"the convolution kernel is not given; accepted: {accepted}"
        yield Reason(Code.CONVOLUTION_KERNEL_MISSING, text)


def _presentation(use: Clauses, found: Acquisition) -> Iterable[Reason]:
    clause = use.presentation
    silent = not clause.if_stated
    if not clause.for_processing:
        if "intent" in found.unreadable:
            text = "what the image is for is given and not understood; accepted: for presentation"
            yield Reason(Code.FOR_PROCESSING_UNREADABLE, text)
        elif found.intent == "FOR PROCESSING":
            yield Reason(Code.FOR_PROCESSING, "the image is for processing; accepted: for presentation")
    if not clause.burned_in_annotation:
        if "burned_in" in found.unreadable:
            text = "whether the image has burned-in text is given and not understood"
            yield Reason(Code.BURNED_IN_UNREADABLE, text)
        elif found.burned_in == "YES":
            yield Reason(Code.BURNED_IN, "the image has burned-in text; accepted: none")
        elif not found.burned_in and silent:
            yield Reason(Code.BURNED_IN_MISSING, "whether the image has burned-in text is not given")
    types = [kind for kind in (found.image_type, found.frame_type) if kind]
    if not types and silent and not (clause.derived and clause.secondary):
        yield Reason(Code.IMAGE_TYPE_MISSING, "ImageType is not given")
    derived = ("DERIVED",) if found.frame_type else ("DERIVED", "MIXED")  # which of them is, the frames say
    if not clause.derived and any(kind[0] in derived for kind in types):
        yield Reason(Code.DERIVED, "the image is derived from others; accepted: original")
    if not clause.secondary and any(kind[1:2] == ("SECONDARY",) for kind in types):
        yield Reason(Code.SECONDARY, "the image was made after the examination; accepted: primary")
    if clause.max_lossy_ratio is not None and found.lossy != "00":
        accepted = f"{clause.max_lossy_ratio:g}:1 or less"
        if not found.unreadable.isdisjoint(("lossy", "lossy_ratios")):
            yield Reason(Code.LOSSY_UNREADABLE, f"lossy compression is given and not understood; accepted: {accepted}")
        elif found.lossy_ratios and max(found.lossy_ratios) > clause.max_lossy_ratio:
            yield Reason(Code.LOSSY, f"lossy compression is {max(found.lossy_ratios):g}:1; accepted: {accepted}")
        elif not found.lossy_ratios and silent:
            yield Reason(Code.LOSSY_MISSING, f"the ratio of lossy compression is not given; accepted: {accepted}")
    if "conversion" in found.unreadable:
        text = f"how the image was converted is given and not understood; accepted: {', '.join(clause.conversions)}"
        yield Reason(Code.CONVERSION_UNREADABLE, text)
    elif found.conversion and found.conversion not in clause.conversions:
        text = f"the image was converted as {found.conversion}; accepted: {', '.join(clause.conversions)}"
        yield Reason(Code.CONVERSION, text)


def _human(found: Acquisition) -> Iterable[Reason]:
    """What no version is for, whatever its clauses: animals, phantoms, tests of the equipment."""
    if found.quality_control in ("YES", "BOTH"):
        yield Reason(Code.QUALITY_CONTROL, "a quality control image or a phantom")
    elif "quality_control" in found.unreadable:
        text = "whether it is a quality control image is given and not understood"
        yield Reason(Code.QUALITY_CONTROL_UNREADABLE, text)
    texts = {plain(text) for text in (*found.species, *found.breed)}
    codes = (*found.species_codes, *found.breed_codes)
    if texts - _HUMAN_WORDS - {""} or not all(value in _HUMAN.get(scheme, ()) for scheme, value in codes):
        yield Reason(Code.SPECIES, "the patient's species or breed is given, and is not human; accepted: human")


def _shown(value: str) -> str:
    """A found value, fit for a page: short and printable, whatever a device wrote there."""
    clean = "".join(character if character.isprintable() else "?" for character in value)
    return clean if len(clean) <= _SHOWN else clean[: _SHOWN - 1] + "…"
