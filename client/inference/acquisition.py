"""What a header says of how an image was made, and of whom; plain values, whatever a device wrote there.

An image of many frames may say it of each (`frames.py`): numbers are then those of all frames, and a word that differs
between frames makes another `Acquisition` beside the first.

What a header does not say and what it says in a way that nobody understands are told apart: only the first is silence.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Final, get_args

from client.inference.frames import Frame, frames, items
from models.anatomy import plain
from models.intended_use import Conversion, Description, Quantity

_AGE = re.compile(r"(\d{1,4}) ?([DWMY])")  # PS3.5 6.2: AS has three digits and no blank, devices write 5Y too
_NO_UNIT = re.compile(r"\d{1,4}")
AGES_APART: Final = 2  # years between PatientAge and the dates: an age is rounded, or of the day it was typed in
_DATE = re.compile(r"(\d{4})([-./]?)(\d{2})\2(\d{2})")  # with full stops before 1993
_DAYS_IN_YEAR = 365.2425
_OLDEST_YEARS = 120
_NO_BIRTH_DATE = date(1900, 1, 1)  # what de-identification writes there, beside dates of other centuries
_UNIT_IN_YEARS = {"D": 1 / _DAYS_IN_YEAR, "W": 7 / _DAYS_IN_YEAR, "M": 1 / 12, "Y": 1.0}
QUANTITIES: Final[tuple[Quantity, ...]] = get_args(Quantity)
DESCRIPTIONS: Final[tuple[Description, ...]] = get_args(Description)
_YES_NO: Final = {"YES": "YES", "Y": "YES", "TRUE": "YES", "1": "YES", "NO": "NO", "N": "NO", "FALSE": "NO", "0": "NO"}
_SEXES: Final = {"M": "M", "MALE": "M", "F": "F", "FEMALE": "F", "O": "O", "OTHER": "O", "U": ""}
_SIDES: Final = {
    **{"R": "R", "RIGHT": "R", "RT": "R", "L": "L", "LEFT": "L", "LT": "L"},
    **{"B": "B", "BOTH": "B", "BILATERAL": "B", "U": "U", "UNPAIRED": "U"},
}
_INTENTS: Final = {
    form: f"FOR {kind}" for kind in ("PRESENTATION", "PROCESSING") for form in (f"FOR {kind}", f"FOR{kind}", kind)
}
_LOSSY: Final = {"00": "00", "0": "00", "NO": "00", "01": "01", "1": "01", "YES": "01"}
_CONVERSIONS: Final = {one: one for one in get_args(Conversion)}
_NOT_KNOWN: Final = frozenset({"", "UNKNOWN", "UNK", "NA", "N A", "NOT KNOWN", "UNSPECIFIED", "NOT SPECIFIED"})


@dataclass(frozen=True, slots=True)
class Acquisition:
    """What a header says of how an image was made; empty or None where it is silent.

    Attributes:
        body_part_codes: code values of AnatomicRegionSequence.
        view_codes: code values of ViewCodeSequence.
        age_years: of the patient when the study was made: PatientAge, else by the dates.
        age_by_dates: the same from birth date to study date, where both are given and no placeholders.
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
        species: descriptions of the patient's species.
        species_codes: coding scheme and code value of the patient's species.
        breed: descriptions of the patient's breed and strain.
        breed_codes: as `species_codes`, of breed, strain and registration of the breed.
        unreadable: what the header says, but not in a way that is understood: a keyword of `QUANTITIES`, or an
            attribute of this class. The attribute is then as if the header were silent.
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
    species_codes: tuple[tuple[str, str], ...] = ()
    breed: tuple[str, ...] = ()
    breed_codes: tuple[tuple[str, str], ...] = ()
    age_by_dates: float | None = None
    unreadable: frozenset[str] = frozenset()
    partly: frozenset[str] = frozenset()
    placed: int = 0
    frame_type: tuple[str, ...] = ()
    kernel: tuple[str, ...] = ()
    others: tuple[Acquisition, ...] = ()

    @classmethod
    def from_dataset(cls, header: Mapping[Any, Any] | Any) -> Acquisition:
        """Read a pydicom dataset, also where devices write a value in another way than its attribute takes."""
        shown = frames(header)
        numbers, partly, unreadable = _quantities(shown)
        texts = {keyword: _text(header, keyword) for keyword in DESCRIPTIONS}
        flags = {
            _word(header, "QualityControlImage", {**_YES_NO, "BOTH": "BOTH"}),
            _word(header, "QualityControlSubject", _YES_NO),
        }
        quality = next((flag for flag in ("YES", "BOTH", None, "NO") if flag in flags), "")
        ratios = _numbers(header, "LossyImageCompressionRatio")
        age, by_dates, age_readable = _age(header)
        words = {
            "sex": _word(header, "PatientSex", _SEXES),
            "intent": _word(header, "PresentationIntentType", _INTENTS),
            "burned_in": _word(header, "BurnedInAnnotation", _YES_NO),
            "lossy": _word(header, "LossyImageCompression", _LOSSY),
            "conversion": _word(header, "ConversionType", _CONVERSIONS),
        }
        understood = {**words, "quality_control": quality, "lossy_ratios": ratios}
        alike = cls(
            modality=_text(header, "Modality"),
            sop_class=_text(header, "SOPClassUID"),
            body_part=_text(header, "BodyPartExamined"),
            view=_text(header, "ViewPosition"),
            view_codes=_codes(header, "ViewCodeSequence"),
            age_years=age,
            rows=_count(header, "Rows"),
            columns=_count(header, "Columns"),
            series=_text(header, "SeriesInstanceUID"),
            sex=words["sex"] or "",
            manufacturer=_text(header, "Manufacturer"),
            model=_text(header, "ManufacturerModelName"),
            quantities=numbers,
            partly=partly,
            descriptions={keyword: text for keyword, text in texts.items() if text},
            intent=words["intent"] or "",
            burned_in=words["burned_in"] or "",
            image_type=_values(header, "ImageType"),
            lossy=words["lossy"] or "",
            lossy_ratios=ratios or (),
            conversion=words["conversion"] or "",
            quality_control=quality or "",
            species=_texts(header, "PatientSpeciesDescription"),
            species_codes=_coded(header, "PatientSpeciesCodeSequence"),
            breed=_texts(header, "PatientBreedDescription", "StrainDescription"),
            breed_codes=_coded(header, "PatientBreedCodeSequence", "StrainCodeSequence", "BreedRegistrationSequence"),
            age_by_dates=by_dates,
            unreadable=unreadable
            | {name for name, value in understood.items() if value is None}
            | (frozenset() if age_readable else frozenset({"age_years"})),
        )
        kinds = dict.fromkeys(_words(frame) for frame in shown)
        one, *others = (
            replace(
                alike,
                body_part_codes=codes,
                laterality=laterality or "",
                orientation=orientation,
                contrast=contrast or "",
                frame_type=kind,
                kernel=kernel,
                unreadable=alike.unreadable
                | {name for name, word in (("laterality", laterality), ("contrast", contrast)) if word is None},
            )
            for codes, laterality, orientation, contrast, kind, kernel in kinds
        )
        return replace(one, others=tuple(others))


_Words = tuple[tuple[str, ...], str | None, tuple[str, ...], str | None, tuple[str, ...], tuple[str, ...]]


def _words(frame: Frame) -> _Words:
    """Region codes, laterality, orientation, contrast, type and kernel of a frame; None where not understood."""
    codes = (_codes(source, word) for source, word in frame.sources("AnatomicRegionSequence"))
    places = (*frame.sources("FrameLaterality"), (frame.image, "ImageLaterality"), (frame.image, "Laterality"))
    sides = (_word(source, word, _SIDES) for source, word in places)
    ways = (_orientation(source, word) for source, word in frame.sources("PatientOrientation"))
    kinds = (_values(source, word) for source, word in frame.sources("FrameType"))
    kernels = (_values(source, word) for source, word in frame.sources("ConvolutionKernel"))
    return (
        next((found for found in codes if found), ()),
        next((found for found in sides if found != ""), ""),
        next((found for found in ways if found), ()),
        _contrast(frame),
        next((found for found in kinds if any(found)), ()),
        next((found for found in kernels if any(found)), ()),
    )


def _contrast(frame: Frame) -> str | None:
    given = {_word(item, "ContrastBolusAgentAdministered", _YES_NO) for item in frame.contrast()} - {""}
    if given:
        return next(word for word in ("YES", None, "NO") if word in given)
    agents = (_text(source, word) for source, word in frame.sources("ContrastBolusAgent"))
    coded = (_codes(source, word) for source, word in frame.sources("ContrastBolusAgentSequence"))
    return next((text for text in agents if text), "") or ("SEQUENCE" if any(coded) else "")


def _quantities(shown: Sequence[Frame]) -> tuple[dict[str, tuple[float, ...]], frozenset[str], frozenset[str]]:
    """The numbers of all frames, each once, which of them some frames do not give, and which are no numbers."""
    found: dict[str, tuple[float, ...]] = {}
    partly: set[str] = set()
    unreadable: set[str] = set()
    for keyword in QUANTITIES:
        told = [
            next((values for source, word in frame.sources(keyword) if (values := _numbers(source, word)) != ()), ())
            for frame in shown
        ]
        if None in told:
            unreadable.add(keyword)
        by_frame = [values or () for values in told]
        # a classic image is told as it is, both directions of a pixel among them
        values = by_frame[0] if len(set(by_frame)) == 1 else tuple(sorted({one for each in by_frame for one in each}))
        if values:
            found[keyword] = values
            if not all(by_frame):
                partly.add(keyword)
    return found, frozenset(partly), frozenset(unreadable)


def _age(header: Any) -> tuple[float | None, float | None, bool]:
    """Age in years, that from birth date to study date, and whether what is stated of it is understood."""
    age, born, study = (_text(header, keyword) for keyword in ("PatientAge", "PatientBirthDate", "StudyDate"))
    by_dates, dated = _years(born, study)
    if match := _AGE.fullmatch(age.upper()):
        placeholder = _date(born) == _NO_BIRTH_DATE or (by_dates or 0.0) > _OLDEST_YEARS
        return int(match[1]) * _UNIT_IN_YEARS[match[2]], None if placeholder else by_dates, True
    # 62 may be years, or a child's months: whether it is years the dates tell, and nothing else does
    if _NO_UNIT.fullmatch(age) and int(age) and by_dates is not None and abs(int(age) - by_dates) > AGES_APART:
        return None, by_dates, False
    return by_dates, by_dates, by_dates is not None or (dated and plain(age) in _NOT_KNOWN)


def _years(born: str, study: str) -> tuple[float | None, bool]:
    """From one date to the other, and whether that is understood; zeros are what devices write for not known."""
    if not any(character in "123456789" or character.isalpha() for character in born) or plain(born) in _NOT_KNOWN:
        return None, True
    birth, made = _date(born), _date(study)
    if birth is None or (made is not None and made < birth):
        return None, False
    if made is None:
        return None, True
    whole = made.year - birth.year - ((made.month, made.day) < (birth.month, birth.day))
    return (float(whole) if whole >= 2 else (made - birth).days / _DAYS_IN_YEAR), True


def _date(text: str) -> date | None:
    match = _DATE.fullmatch(text)
    if not match:
        return None
    try:
        return date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return None


def _text(header: Any, keyword: str) -> str:
    value = header.get(keyword)
    return "" if value is None else str(value).strip(" \0\t\r\n")


def _texts(header: Any, *keywords: str) -> tuple[str, ...]:
    return tuple(text for keyword in keywords if (text := _text(header, keyword)))


def _word(header: Any, keyword: str, forms: Mapping[str, str]) -> str | None:
    """What a word means, case and punctuation aside; empty where nothing is said, None where it means nothing."""
    text = plain(_text(header, keyword))
    return forms.get(text, "" if text in _NOT_KNOWN else None)


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


def _numbers(header: Any, keyword: str) -> tuple[float, ...] | None:
    """Every value of an attribute, None where one is no positive number; 0 is what devices write for not known."""
    try:
        found = tuple(float(value) for value in _values(header, keyword) if value not in ("", "NONE"))
    except ValueError:  # also what pydicom raises for a text that is no number
        return None
    if not any(found):
        return ()
    return found if all(math.isfinite(value) and value > 0 for value in found) else None


def _codes(header: Any, keyword: str) -> tuple[str, ...]:
    return tuple(code for _, code in _coded(header, keyword) if code)


def _coded(header: Any, *keywords: str) -> tuple[tuple[str, str], ...]:
    """Scheme and value of what a header gives in coded form; an item that says anything else has an empty value."""
    return tuple(
        (
            plain(_text(item, "CodingSchemeDesignator")),
            next(iter(_texts(item, "CodeValue", "LongCodeValue", "URNCodeValue")), ""),
        )
        for keyword in keywords
        for item in items(header, keyword)
        if len(item)
    )
