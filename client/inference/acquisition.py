"""What a header says of how an image was made, and of whom; plain values, whatever a device wrote there.

An image of many frames may say it of each (`frames.py`): numbers are then those of all frames, and a word that differs
between frames makes another `Acquisition` beside the first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Final, get_args

from client.inference.frames import Frame, frames, items
from models.intended_use import Description, Quantity

_AGE = re.compile(r"(\d{3})([DWMY])")  # PS3.5 6.2: AS
_DATE = re.compile(r"(\d{4})(\d{2})(\d{2})")
_DAYS_IN_YEAR = 365.2425
_UNIT_IN_YEARS = {"D": 1 / _DAYS_IN_YEAR, "W": 7 / _DAYS_IN_YEAR, "M": 1 / 12, "Y": 1.0}
QUANTITIES: Final[tuple[Quantity, ...]] = get_args(Quantity)
DESCRIPTIONS: Final[tuple[Description, ...]] = get_args(Description)


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What a header says of how an image was made; empty or None where it is silent.

    Attributes:
        body_part_codes: code values of AnatomicRegionSequence.
        view_codes: code values of ViewCodeSequence.
        age_years: of the patient when the study was made.
        orientation: PatientOrientation: where rows and where columns run to.
        quantities: numbers by keyword, in the attribute's unit; every value of it, in whichever frame.
        partly: quantities that some frames give and others do not.
        placed: how many planes gave SpacingBetweenSlices by their positions (`spacing.py`); 0: the header says it.
        descriptions: texts by keyword; may hold anything, so they are searched and never shown.
        contrast: ContrastBolusAgent, or the word SEQUENCE where only its coded form is given; of a frame that says it
            YES or NO.
        kernel: values of ConvolutionKernel.
        image_type: values of ImageType.
        frame_type: values of FrameType, of an image that has it.
        lossy: LossyImageCompression, `00` or `01`.
        quality_control: QualityControlImage or QualityControlSubject, YES or BOTH before NO.
        species: description and codes of the patient's species and breed.
        others: the same image in those frames that differ in a word: every clause has to hold for each.
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
    series: str = ""
    laterality: str = ""
    orientation: tuple[str, ...] = ()
    sex: str = ""
    manufacturer: str = ""
    model: str = ""
    quantities: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: dict[str, tuple[float, ...]]())
    descriptions: Mapping[str, str] = field(default_factory=lambda: dict[str, str]())
    contrast: str = ""
    intent: str = ""
    burned_in: str = ""
    image_type: tuple[str, ...] = ()
    lossy: str = ""
    lossy_ratios: tuple[float, ...] = ()
    conversion: str = ""
    quality_control: str = ""
    species: tuple[str, ...] = ()
    species_codes: tuple[str, ...] = ()
    breed: str = ""
    partly: frozenset[str] = frozenset()
    placed: int = 0
    frame_type: tuple[str, ...] = ()
    kernel: tuple[str, ...] = ()
    others: tuple[Acquisition, ...] = ()

    @classmethod
    def from_dataset(cls, header: Mapping[Any, Any] | Any) -> Acquisition:
        """Read a pydicom dataset; values that are not what their attribute takes count as missing."""
        shown = frames(header)
        numbers, partly = _quantities(shown)
        texts = {keyword: _text(header, keyword) for keyword in DESCRIPTIONS}
        flags = {
            _word(header, "QualityControlImage", "YES", "NO", "BOTH"),
            _word(header, "QualityControlSubject", "YES", "NO"),
        }
        alike = cls(
            modality=_text(header, "Modality"),
            sop_class=_text(header, "SOPClassUID"),
            body_part=_text(header, "BodyPartExamined"),
            view=_text(header, "ViewPosition"),
            view_codes=_codes(header, "ViewCodeSequence"),
            age_years=_age(_text(header, "PatientAge"), _text(header, "PatientBirthDate"), _text(header, "StudyDate")),
            rows=_count(header, "Rows"),
            columns=_count(header, "Columns"),
            series=_text(header, "SeriesInstanceUID"),
            sex=_word(header, "PatientSex", "M", "F", "O"),
            manufacturer=_text(header, "Manufacturer"),
            model=_text(header, "ManufacturerModelName"),
            quantities=numbers,
            partly=partly,
            descriptions={keyword: text for keyword, text in texts.items() if text},
            intent=_word(header, "PresentationIntentType", "FOR PRESENTATION", "FOR PROCESSING"),
            burned_in=_word(header, "BurnedInAnnotation", "YES", "NO"),
            image_type=_values(header, "ImageType"),
            lossy=_word(header, "LossyImageCompression", "00", "01"),
            lossy_ratios=_numbers(header, "LossyImageCompressionRatio"),
            conversion=_word(header, "ConversionType", "DV", "DI", "DF", "WSD", "SD", "SI", "DRW", "SYN"),
            quality_control=next((flag for flag in ("YES", "BOTH", "NO") if flag in flags), ""),
            species=tuple(text for text in (_text(header, "PatientSpeciesDescription"),) if text),
            species_codes=_codes(header, "PatientSpeciesCodeSequence"),
            breed=_text(header, "PatientBreedDescription"),
        )
        kinds = dict.fromkeys(_words(frame) for frame in shown)
        one, *others = (
            replace(
                alike,
                body_part_codes=codes,
                laterality=laterality,
                orientation=orientation,
                contrast=contrast,
                frame_type=kind,
                kernel=kernel,
            )
            for codes, laterality, orientation, contrast, kind, kernel in kinds
        )
        return replace(one, others=tuple(others))


_Words = tuple[tuple[str, ...], str, tuple[str, ...], str, tuple[str, ...], tuple[str, ...]]


def _words(frame: Frame) -> _Words:
    """Region codes, laterality, orientation, contrast, type and kernel of a frame."""
    codes = (_codes(source, word) for source, word in frame.sources("AnatomicRegionSequence"))
    sides = (_word(source, word, "R", "L", "B", "U") for source, word in frame.sources("FrameLaterality"))
    ways = (_orientation(source, word) for source, word in frame.sources("PatientOrientation"))
    kinds = (_values(source, word) for source, word in frame.sources("FrameType"))
    kernels = (_values(source, word) for source, word in frame.sources("ConvolutionKernel"))
    image = frame.image
    return (
        next((found for found in codes if found), ()),
        next((found for found in sides if found), "")
        or _word(image, "ImageLaterality", "R", "L", "B", "U")
        or _word(image, "Laterality", "R", "L"),
        next((found for found in ways if found), ()),
        _contrast(frame),
        next((found for found in kinds if any(found)), ()),
        next((found for found in kernels if any(found)), ()),
    )


def _contrast(frame: Frame) -> str:
    given = frame.contrast()
    if given is not None:
        return "YES" if given else "NO"
    agents = (_text(source, word) for source, word in frame.sources("ContrastBolusAgent"))
    coded = (_codes(source, word) for source, word in frame.sources("ContrastBolusAgentSequence"))
    return next((text for text in agents if text), "") or ("SEQUENCE" if any(coded) else "")


def _quantities(shown: Sequence[Frame]) -> tuple[dict[str, tuple[float, ...]], frozenset[str]]:
    """The numbers of all frames, each once, and which of them some frames do not give."""
    found: dict[str, tuple[float, ...]] = {}
    partly: set[str] = set()
    for keyword in QUANTITIES:
        by_frame = [
            next((values for source, word in frame.sources(keyword) if (values := _numbers(source, word))), ())
            for frame in shown
        ]
        # a classic image is told as it is, both directions of a pixel among them
        values = by_frame[0] if len(set(by_frame)) == 1 else tuple(sorted({one for each in by_frame for one in each}))
        if values:
            found[keyword] = values
            if not all(by_frame):
                partly.add(keyword)
    return found, frozenset(partly)


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
    return "" if value is None else str(value).strip(" \0\t\r\n")


def _word(header: Any, keyword: str, *allowed: str) -> str:
    text = _text(header, keyword).upper()
    return text if text in allowed else ""


def _values(header: Any, keyword: str) -> tuple[str, ...]:
    value = header.get(keyword)
    if value is None:
        return ()
    parts = value.split("\\") if isinstance(value, str) else value if isinstance(value, Iterable) else (value,)
    return tuple(str(part).strip().upper() for part in parts)


def _orientation(header: Any, keyword: str) -> tuple[str, ...]:
    """PatientOrientation where both directions are given (PS3.3 C.7.6.1.1.1)."""
    values = _values(header, keyword)
    return values if len(values) == 2 and all(value and set(value) <= set("LRAPHF") for value in values) else ()


def _count(header: Any, keyword: str) -> int | None:
    value = header.get(keyword)
    return value if isinstance(value, int) and value > 0 else None


def _numbers(header: Any, keyword: str) -> tuple[float, ...]:
    """Every value of an attribute, where all are positive numbers; 0 is what devices write for not known."""
    try:
        found = tuple(float(value) for value in _values(header, keyword))
    except ValueError:
        return ()
    return found if all(math.isfinite(value) and value > 0 for value in found) else ()


def _codes(header: Any, keyword: str) -> tuple[str, ...]:
    return tuple(code for item in items(header, keyword) if (code := _text(item, "CodeValue")))
