"""Whether a version may be used on an image: its intended use against the image's header.

Pure: header values in, a value out. Every clause that is not met is reported, so that a person sees all of what is
wrong at once; what a clause needs and the header does not say is a refusal too, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any

from models.intended_use import IntendedUse

_AGE = re.compile(r"(\d{3})([DWMY])")  # PS3.5 6.2: AS
_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})")
_DAYS_IN_YEAR = 365.2425
_UNIT_IN_YEARS = {"D": 1 / _DAYS_IN_YEAR, "W": 7 / _DAYS_IN_YEAR, "M": 1 / 12, "Y": 1.0}
_SHOWN = 64


class Code(StrEnum):
    """Why an image, or a whole study, is not read; a closed set that statistics may count."""

    MODALITY = "modality"
    MODALITY_MISSING = "modality-missing"
    SOP_CLASS = "sop-class"
    SOP_CLASS_MISSING = "sop-class-missing"
    BODY_PART = "body-part"
    BODY_PART_MISSING = "body-part-missing"
    VIEW = "view"
    VIEW_MISSING = "view-missing"
    AGE = "age"
    AGE_MISSING = "age-missing"
    SIZE = "size"
    SIZE_MISSING = "size-missing"


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
class Acquisition:
    """What a header says of how an image was made; empty or None where it is silent.

    Attributes:
        body_part_codes: code values of AnatomicRegionSequence.
        view_codes: code values of ViewCodeSequence.
        age_years: of the patient when the study was made.
    """

    modality: str = ""
    sop_class: str = ""
    body_part: str = ""
    body_part_codes: tuple[str, ...] = ()
    view: str = ""
    view_codes: tuple[str, ...] = ()
    age_years: float | None = None
    rows: int | None = None
    columns: int | None = None

    @classmethod
    def from_dataset(cls, header: Mapping[Any, Any] | Any) -> Acquisition:
        """Read a pydicom dataset; values that are not what their attribute takes count as missing."""
        return cls(
            modality=_text(header, "Modality"),
            sop_class=_text(header, "SOPClassUID"),
            body_part=_text(header, "BodyPartExamined"),
            body_part_codes=_codes(header, "AnatomicRegionSequence"),
            view=_text(header, "ViewPosition"),
            view_codes=_codes(header, "ViewCodeSequence"),
            age_years=_age(_text(header, "PatientAge"), _text(header, "PatientBirthDate"), _text(header, "StudyDate")),
            rows=_count(header, "Rows"),
            columns=_count(header, "Columns"),
        )


@dataclass(frozen=True, slots=True)
class InScope:
    """Every clause is met."""


@dataclass(frozen=True, slots=True)
class OutOfScope:
    """At least one clause is not met."""

    reasons: tuple[Reason, ...]


def check(intended_use: IntendedUse, acquisition: Acquisition) -> InScope | OutOfScope:
    """Hold an image's header against every clause of an intended use."""
    use, found = intended_use, acquisition
    reasons = (
        *_one_of(Code.MODALITY, Code.MODALITY_MISSING, "modality", found.modality, (), use.modalities),
        *_one_of(Code.SOP_CLASS, Code.SOP_CLASS_MISSING, "SOP class", found.sop_class, (), use.sop_classes),
        *_one_of(
            Code.BODY_PART,
            Code.BODY_PART_MISSING,
            "body part",
            found.body_part,
            found.body_part_codes,
            use.body_parts,
        ),
        *_one_of(Code.VIEW, Code.VIEW_MISSING, "view", found.view, found.view_codes, use.views),
        *_age_within(use, found.age_years),
        *_size_within(use, found),
    )
    return OutOfScope(reasons) if reasons else InScope()


def _one_of(
    code: Code, missing: Code, name: str, text: str, codes: tuple[str, ...], accepted: tuple[str, ...]
) -> Iterable[Reason]:
    """One clause that names its accepted values, as text or as code values.

    A text and a code that contradict each other are refused: when the header gives both and the clause knows both
    vocabularies (its code values have a digit, its texts have none), both have to be accepted.
    """
    if not accepted:
        return
    folded = {value.casefold() for value in accepted}
    known_codes = {value for value in folded if any(character.isdigit() for character in value)}
    is_uid = name == "SOP class"
    text_known = is_uid or bool(folded - known_codes)
    text_ok = text.casefold() in folded
    code_ok = any(value.casefold() in folded for value in codes)
    if not text and not codes:
        yield Reason(missing, f"{name} is not given; accepted: {', '.join(accepted)}")
    elif text and text_known and not text_ok:
        yield Reason(code, f"{name} is {_shown(text)}; accepted: {', '.join(accepted)}")
    elif codes and known_codes and not is_uid and not code_ok:
        yield Reason(code, f"{name} has code {_shown(', '.join(codes))}; accepted: {', '.join(accepted)}")
    elif not text_ok and not code_ok:
        found = text if text else f"code {', '.join(codes)}"
        yield Reason(code, f"{name} is {_shown(found)}; accepted: {', '.join(accepted)}")


def _age_within(use: IntendedUse, age: float | None) -> Iterable[Reason]:
    low, high = use.min_age_years, use.max_age_years
    if low is None and high is None:
        return
    limits = ((low, "or more"), (high, "or less"))
    accepted = " and ".join(f"{limit:g} {side}" for limit, side in limits if limit is not None)
    if age is None:
        yield Reason(Code.AGE_MISSING, f"the patient's age is not given; accepted: {accepted} years")
    elif (low is not None and age < low) or (high is not None and age > high):
        yield Reason(Code.AGE, f"the patient's age is {age:.1f} years; accepted: {accepted}")


def _size_within(use: IntendedUse, found: Acquisition) -> Iterable[Reason]:
    accepted = f"{use.min_size_px} to {use.max_size_px} pixels a side"
    if found.rows is None or found.columns is None:
        yield Reason(Code.SIZE_MISSING, f"the image's size is not given; accepted: {accepted}")
    elif not all(use.min_size_px <= side <= use.max_size_px for side in (found.rows, found.columns)):
        yield Reason(Code.SIZE, f"the image has {found.rows} x {found.columns} pixels; accepted: {accepted}")


def _age(age: str, born: str, study: str) -> float | None:
    """Age in years: PatientAge where it is well-formed, else birth date to study date."""
    if match := _AGE.fullmatch(age.upper()):
        return int(match[1]) * _UNIT_IN_YEARS[match[2]]
    birth, made = _date(born), _date(study)
    if birth is None or made is None or made < birth:
        return None
    whole = made.year - birth.year - ((made.month, made.day) < (birth.month, birth.day))
    return float(whole) if whole >= 2 else (made - birth).days / _DAYS_IN_YEAR


def _date(text: str) -> date | None:
    match = _DATE.fullmatch(text)
    if not match:
        return None
    try:
        return date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None


def _text(header: Any, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value).strip()


def _count(header: Any, keyword: str) -> int | None:
    value = header.get(keyword)
    return value if isinstance(value, int) and value > 0 else None


def _codes(header: Any, keyword: str) -> tuple[str, ...]:
    items = header.get(keyword)
    if not isinstance(items, Iterable) or isinstance(items, str | bytes):
        return ()
    return tuple(code for item in items if hasattr(item, "get") and (code := _text(item, "CodeValue")))


def _shown(value: str) -> str:
    """A found value, fit for a page: short and printable, whatever a device wrote there."""
    clean = "".join(character if character.isprintable() else "?" for character in value)
    return clean if len(clean) <= _SHOWN else clean[: _SHOWN - 1] + "…"
