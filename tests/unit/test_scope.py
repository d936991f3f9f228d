"""No image outside an intended use passes, and no image inside it is refused (requirement C1)."""

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from client.inference.scope import Acquisition, Code, InScope, OutOfScope, check
from models.intended_use import IntendedUse

DX = "1.2.840.10008.5.1.4.1.1.1.1"
CR = "1.2.840.10008.5.1.4.1.1.1"
CHEST_CODE, PA_CODE = "51185008", "R-10206"

USE = IntendedUse(
    statement="Frontal chest radiographs of adults.",
    modalities=("DX", "CR"),
    sop_classes=(DX, CR),
    body_parts=("CHEST", "THORAX", CHEST_CODE),
    views=("PA", "AP", PA_CODE),
    min_age_years=18,
    max_age_years=90,
    min_size_px=512,
    max_size_px=5000,
)
FITTING = Acquisition("DX", DX, "CHEST", (), "PA", (), 50.0, 2000, 2000)


def codes(acquisition: Acquisition, use: IntendedUse = USE) -> list[str]:
    found = check(use, acquisition)
    return [] if isinstance(found, InScope) else [reason.code for reason in found.reasons]


def in_any_case(*values: str) -> st.SearchStrategy[str]:
    return st.sampled_from([form for value in values for form in (value, value.lower(), value.title())])


def not_one_of(*values: str) -> st.SearchStrategy[str]:
    folded = {value.casefold() for value in values}
    return st.text(min_size=1, max_size=20).map(str.strip).filter(lambda text: text and text.casefold() not in folded)


def named(texts: tuple[str, ...], code: str) -> st.SearchStrategy[tuple[str, tuple[str, ...]]]:
    """An accepted text, an accepted code, or both."""
    text = in_any_case(*texts)
    return st.one_of(st.tuples(text, st.just(())), st.just(("", (code,))), st.tuples(text, st.just((code,))))


@st.composite
def fitting(draw: st.DrawFn) -> Acquisition:
    body, body_codes = draw(named(("CHEST", "THORAX"), CHEST_CODE))
    view, view_codes = draw(named(("PA", "AP"), PA_CODE))
    return Acquisition(
        modality=draw(in_any_case("DX", "CR")),
        sop_class=draw(st.sampled_from((DX, CR))),
        body_part=body,
        body_part_codes=body_codes,
        view=view,
        view_codes=view_codes,
        age_years=draw(st.floats(18, 90)),
        rows=draw(st.integers(512, 5000)),
        columns=draw(st.integers(512, 5000)),
    )


BREAKS: dict[Code, st.SearchStrategy[dict[str, Any]]] = {
    Code.MODALITY: not_one_of("DX", "CR").map(lambda text: {"modality": text}),
    Code.MODALITY_MISSING: st.just({"modality": ""}),
    Code.SOP_CLASS: not_one_of(DX, CR).map(lambda text: {"sop_class": text}),
    Code.SOP_CLASS_MISSING: st.just({"sop_class": ""}),
    Code.BODY_PART: st.one_of(
        not_one_of("CHEST", "THORAX", CHEST_CODE).map(lambda text: {"body_part": text}),
        not_one_of("CHEST", "THORAX", CHEST_CODE).map(lambda code: {"body_part": "", "body_part_codes": (code,)}),
        not_one_of("CHEST", "THORAX", CHEST_CODE).map(lambda code: {"body_part": "CHEST", "body_part_codes": (code,)}),
    ),
    Code.BODY_PART_MISSING: st.just({"body_part": "", "body_part_codes": ()}),
    Code.VIEW: not_one_of("PA", "AP", PA_CODE).map(lambda text: {"view": text}),
    Code.VIEW_MISSING: st.just({"view": "", "view_codes": ()}),
    Code.AGE: st.one_of(st.floats(0, 17.999), st.floats(90.001, 130)).map(lambda age: {"age_years": age}),
    Code.AGE_MISSING: st.just({"age_years": None}),
    Code.SIZE: st.tuples(
        st.sampled_from(("rows", "columns")), st.one_of(st.integers(1, 511), st.integers(5001, 65535))
    ).map(lambda pair: {pair[0]: pair[1]}),
    Code.SIZE_MISSING: st.sampled_from(({"rows": None}, {"columns": None})),
}


@given(fitting())
def test_what_meets_every_clause_is_in_scope(acquisition: Acquisition) -> None:
    assert check(USE, acquisition) == InScope()


@pytest.mark.parametrize("code", list(BREAKS))
@given(data=st.data())
def test_violating_one_clause_refuses_with_that_reason(code: Code, data: st.DataObject) -> None:
    broken = replace(data.draw(fitting()), **data.draw(BREAKS[code]))
    assert codes(broken) == [code]


@given(fitting(), st.lists(st.sampled_from(list(BREAKS)), min_size=1, unique=True), st.data())
def test_every_violated_clause_is_reported(acquisition: Acquisition, broken: list[Code], data: st.DataObject) -> None:
    by_clause = {code.removesuffix("-missing"): code for code in broken}  # one way to break each clause
    for code in by_clause.values():
        acquisition = replace(acquisition, **data.draw(BREAKS[code]))
    assert set(codes(acquisition)) == set(by_clause.values())


def test_a_reason_names_what_was_found_and_what_is_accepted() -> None:
    found = check(USE, replace(FITTING, body_part="KNEE", age_years=7.0))
    assert isinstance(found, OutOfScope)
    assert [reason.text for reason in found.reasons] == [
        "body part is KNEE; accepted: CHEST, THORAX, 51185008",
        "the patient's age is 7.0 years; accepted: 18 or more and 90 or less",
    ]


def test_a_clause_that_is_left_out_asks_nothing() -> None:
    use = IntendedUse(statement="Any.", modalities=("DX",), sop_classes=(DX,))
    assert check(use, Acquisition("DX", DX, rows=10, columns=10)) == InScope()


def test_a_device_cannot_write_a_page_into_a_reason() -> None:
    found = check(USE, replace(FITTING, body_part="\x1b[2J" + "X" * 5000))
    assert isinstance(found, OutOfScope)
    (reason,) = found.reasons
    assert reason.text.isprintable()
    assert len(reason.text) < 200


def header(**keywords: Any) -> Dataset:
    dataset = Dataset()
    for keyword, value in keywords.items():
        setattr(dataset, keyword, value)
    return dataset


def coded(value: str) -> Dataset:
    return header(CodeValue=value, CodingSchemeDesignator="SCT", CodeMeaning="x")


def test_a_header_is_read_as_text_and_as_codes() -> None:
    dataset = header(
        Modality="DX",
        SOPClassUID=DX,
        AnatomicRegionSequence=[coded(CHEST_CODE)],
        ViewCodeSequence=[coded(PA_CODE)],
        PatientAge="050Y",
        Rows=2000,
        Columns=1800,
    )
    acquisition = Acquisition.from_dataset(dataset)
    assert acquisition == Acquisition("DX", DX, "", (CHEST_CODE,), "", (PA_CODE,), 50.0, 2000, 1800)
    assert check(USE, acquisition) == InScope()
    assert Acquisition.from_dataset(Dataset()) == Acquisition()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"PatientAge": "062Y"}, 62.0),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "052W"}, pytest.approx(0.997, abs=0.001)),
        ({"PatientBirthDate": "20000301", "StudyDate": "20180228"}, 17.0),
        ({"PatientBirthDate": "20000301", "StudyDate": "20180301"}, 18.0),
        ({"PatientBirthDate": "20240101", "StudyDate": "20240131"}, pytest.approx(30 / 365.2425)),
        ({"PatientBirthDate": "20240101", "StudyDate": "20230101"}, None),
        ({"PatientBirthDate": "20240101"}, None),
        ({"PatientBirthDate": "00000000", "StudyDate": "20240101"}, None),
        ({}, None),
    ],
)
@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_age(values: dict[str, str], expected: float | None) -> None:
    assert Acquisition.from_dataset(header(**values)).age_years == expected


def aged(**values: str) -> Acquisition:
    return replace(
        FITTING,
        **{
            name: getattr(Acquisition.from_dataset(header(**values)), name)
            for name in ("age_years", "age_by_dates", "unreadable")
        },
    )


BORN_1962 = {"PatientBirthDate": "19620601", "StudyDate": "20240701"}


@pytest.mark.parametrize("age", ["62", "062", "61", "0062"])
@pytest.mark.filterwarnings("ignore:Invalid value for VR AS")
def test_an_age_without_a_unit_is_years_where_the_dates_say_so(age: str) -> None:
    found = aged(PatientAge=age, **BORN_1962)
    assert (found.age_years, codes(found)) == (62.0, [])


@pytest.mark.parametrize(
    "values",
    [
        {"PatientAge": "62"},  # or the months of a child of five
        {"PatientAge": "062", "PatientBirthDate": "19900601", "StudyDate": "20240701"},  # whose is it?
        {"PatientAge": "62", "PatientBirthDate": "20190401", "StudyDate": "20240701"},  # the months, one may think
        {"PatientAge": "62", "PatientBirthDate": "19000101", "StudyDate": "20240701"},  # a placeholder
    ],
)
@pytest.mark.parametrize("if_stated", [False, True])
@pytest.mark.filterwarnings("ignore:Invalid value for VR AS")
def test_any_other_age_without_a_unit_is_not_understood_and_refused_only_where_age_matters(
    values: dict[str, str], if_stated: bool
) -> None:
    found = aged(**values)
    assert found.age_years is None
    assert codes(found, USE.model_copy(update={"age_if_stated": if_stated})) == [Code.AGE_UNREADABLE]
    assert codes(found, USE.model_copy(update={"min_age_years": None, "max_age_years": None})) == []


@given(st.dates(date(1900, 1, 1), date(2024, 1, 1)), st.integers(0, 40000))
def test_an_adult_by_date_is_an_adult(born: date, days: int) -> None:
    made = born + timedelta(days=days)
    dataset = header(PatientBirthDate=f"{born:%Y%m%d}", StudyDate=f"{made:%Y%m%d}")
    age = Acquisition.from_dataset(dataset).age_years
    eighteenth = (
        born.replace(year=born.year + 18, day=min(born.day, 28))
        if born.month == 2
        else born.replace(year=born.year + 18)
    )
    assert age is not None
    if made > eighteenth + timedelta(days=1):
        assert age >= 18
    if made < eighteenth:
        assert age < 18


@pytest.mark.parametrize("born", ["19000101", "11111111", "17000101"])
def test_a_placeholder_for_the_birth_date_contradicts_no_age(born: str) -> None:
    dataset = header(PatientAge="058Y", PatientBirthDate=born, StudyDate="20140106")
    assert Acquisition.from_dataset(dataset).age_by_dates is None


@given(st.integers(18, 90), st.integers(-60, 60))
def test_an_age_may_differ_from_the_dates_by_two_years(age: int, apart: int) -> None:
    found = codes(replace(FITTING, age_years=float(age), age_by_dates=float(age + apart)))
    assert found == ([Code.AGE_CONTRADICTED] if abs(apart) > 2 else [])
