"""Every clause that a vendor can write refuses what violates it, and then nothing is computed (requirement C1)."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sr._cid_dict import cid_concepts  # pyright: ignore[reportPrivateUsage]
from pydicom.sr._concepts_dict import concepts  # pyright: ignore[reportPrivateUsage]
from pydicom.uid import UID, ExplicitVRLittleEndian

from client.inference.example import headers
from client.inference.pipeline import Pipeline, Refused
from client.inference.scope import Acquisition, Code, InScope, OutOfScope, check, missing_series
from client.inference.study import Image, Study
from client.results.attributes import put
from models.anatomy import PROJECTION_CODES, REGION_CODES, projections_of, regions_of
from models.errors import ConfigurationError
from models.intended_use import IntendedUse, Quantity, problems, sentences

DX = "1.2.840.10008.5.1.4.1.1.1.1"
CT = "1.2.840.10008.5.1.4.1.1.2"
Header = dict[str, Any]
QUANTITIES: dict[Quantity, tuple[str, float]] = {
    "KVP": ("kvp", 100),
    "XRayTubeCurrent": ("tube-current", 200),
    "ExposureTime": ("exposure-time", 10),
    "Exposure": ("exposure", 5),
    "DistanceSourceToDetector": ("detector-distance", 1800),
    "SliceThickness": ("slice-thickness", 2),
    "SpacingBetweenSlices": ("slice-spacing", 2),
    "PixelSpacing": ("pixel-spacing", 0.2),
    "ImagerPixelSpacing": ("imager-pixel-spacing", 0.2),
    "MagneticFieldStrength": ("field-strength", 3),
    "RepetitionTime": ("repetition-time", 500),
    "EchoTime": ("echo-time", 20),
}


def without(*keywords: str) -> Callable[[Header], Header]:
    return lambda header: {key: value for key, value in header.items() if key not in keywords}


def having(**attributes: Any) -> Callable[[Header], Header]:
    return lambda header: header | attributes


def item(code: str, scheme: str = "SCT") -> Dataset:
    coded = Dataset()
    coded.CodeValue, coded.CodingSchemeDesignator, coded.CodeMeaning = code, scheme, "x"
    return coded


def meaning(text: str) -> Dataset:
    coded = Dataset()
    coded.CodeMeaning = text
    return coded


def usage(administered: str) -> Dataset:
    """Functional groups that say of contrast that it was given, or something else."""
    used, groups = Dataset(), Dataset()
    used.ContrastBolusAgentAdministered = administered
    groups.ContrastBolusUsageSequence = [used]
    return groups


CLAUSES: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "body": st.sampled_from(
        [
            {"body_part": {"regions": ["chest", "lung"], "contradicted_by": ["SeriesDescription", "ProtocolName"]}},
            {"body_part": {"regions": ["chest"], "contradicted_by": ["SeriesDescription"]}, "body_parts": ["CHEST X"]},
        ]
    ),
    "view": st.just({"view": {"projections": ["frontal"], "lying": ["L", "F"]}}),
    "laterality": st.sampled_from([{"laterality": {"values": ["R"]}}, {"laterality": {"values": ["R", "B"]}}]),
    "sexes": st.sampled_from([{"sexes": {"values": ["F"]}}, {"sexes": {"values": ["F", "O"]}}]),
    "age": st.tuples(st.integers(0, 40), st.integers(41, 80)).map(
        lambda span: {"min_age_years": span[0], "max_age_years": span[1]}
    ),
    "size": st.integers(2, 900).map(lambda side: {"min_size_px": side, "max_size_px": 1000}),
    "equipment": st.just({"equipment": {"accepted": [{"manufacturer": "Siemens", "models": ["Ysio"]}]}}),
    "contrast": st.just({"contrast": {"agent": "with", "phases": ["arterial"]}}),
    "kernel": st.sampled_from([("B30f", "I30f\\*"), ("i30-F \\ 3", "B3?F"), ("I30*",)]).flatmap(
        lambda patterns: st.permutations(patterns).map(lambda some: {"convolution_kernel": {"accepted": some}})
    ),
    "presentation": st.just(
        {
            "presentation": {
                "burned_in_annotation": False,
                "derived": False,
                "secondary": False,
                "max_lossy_ratio": 10,
                "conversions": ["DV"],
            }
        }
    ),
    "ranges": st.lists(st.sampled_from(sorted(QUANTITIES)), min_size=1, unique=True).map(
        lambda chosen: {"ranges": [bounds(quantity) for quantity in chosen]}
    ),
}


def bounds(quantity: Quantity) -> dict[str, Any]:
    middle = QUANTITIES[quantity][1]
    return {"quantity": quantity, "low": middle / 2, "high": middle * 2}


# how each clause is violated: the clause that has to be there, and what is done to a header that meets it
VIOLATIONS: dict[Code, list[tuple[str, Callable[[Header], Header]]]] = {
    Code.MODALITY: [("", having(Modality="US"))],
    Code.MODALITY_MISSING: [("", without("Modality"))],
    Code.SOP_CLASS: [("", having(SOPClassUID=CT))],
    Code.SOP_CLASS_MISSING: [("", without("SOPClassUID"))],
    Code.BODY_PART: [
        ("body", having(BodyPartExamined="HAND")),
        ("body", having(BodyPartExamined="BRUST")),
        ("body", having(BodyPartExamined="THORACIC SPINE")),
        ("body", having(BodyPartExamined="CHEST ABDOMEN")),
        ("body", having(AnatomicRegionSequence=[item("85562004")])),
    ],
    Code.BODY_PART_MISSING: [("body", without("BodyPartExamined"))],
    Code.BODY_PART_CONTRADICTED: [("body", having(SeriesDescription="Left hand^DOE"))],
    Code.VIEW: [
        ("view", having(ViewPosition="LL")),
        ("view", having(ViewPosition="", ViewCodeSequence=[item("399173006")])),
        ("view", having(ViewPosition="RAO")),
    ],
    Code.VIEW_MISSING: [("view", without("ViewPosition"))],
    Code.VIEW_CONTRADICTED: [
        ("view", having(PatientOrientation=ways)) for ways in (["A", "F"], ["R", "F"], ["F", "R"], ["LH", "HL"])
    ],
    Code.LATERALITY: [("laterality", having(ImageLaterality=form)) for form in ("L", "LEFT", "Left")],
    Code.LATERALITY_MISSING: [("laterality", having(ImageLaterality="?"))],
    Code.SEX: [("sexes", having(PatientSex="M")), ("sexes", having(PatientSex="male"))],
    Code.LATERALITY_UNREADABLE: [
        ("laterality", having(ImageLaterality="SINISTRA")),
        ("laterality", having(ImageLaterality="RL")),
    ],
    Code.SEX_MISSING: [("sexes", without("PatientSex")), ("sexes", having(PatientSex="UNKNOWN"))],
    Code.SEX_UNREADABLE: [("sexes", having(PatientSex="W")), ("sexes", having(PatientSex="MF"))],
    Code.AGE: [("age", having(PatientAge=form)) for form in ("099Y", "99Y", "0099Y", "99 y")],
    Code.AGE_MISSING: [
        ("age", without("PatientAge")),
        ("age", having(PatientAge="", PatientBirthDate="00000000", StudyDate="20240101")),
    ],
    Code.AGE_UNREADABLE: [
        ("age", having(PatientAge="40")),
        ("age", having(PatientAge="forty")),
        ("age", having(PatientAge="", PatientBirthDate="20240102", StudyDate="20240101")),
        ("age", having(PatientAge="", PatientBirthDate="1984", StudyDate="20240101")),
    ],
    Code.AGE_CONTRADICTED: [
        ("age", having(PatientAge="041Y", PatientBirthDate="20041231", StudyDate="20240101")),
        ("age", having(PatientAge="041Y", PatientBirthDate="1980.01.01", StudyDate="20240101")),
    ],
    Code.SIZE: [("size", having(Rows=1)), ("size", having(Columns=1001))],
    Code.SIZE_MISSING: [("size", without("Rows"))],
    Code.EQUIPMENT: [
        ("equipment", having(Manufacturer="SIEMENSX")),
        ("equipment", having(ManufacturerModelName="Fluorospot")),
    ],
    Code.EQUIPMENT_MISSING: [
        ("equipment", without("Manufacturer")),
        ("equipment", without("ManufacturerModelName")),
    ],
    Code.CONTRAST: [("contrast", having(ContrastBolusAgent="none"))],
    Code.CONTRAST_MISSING: [("contrast", having(ContrastBolusAgent=""))],
    Code.CONTRAST_UNREADABLE: [("contrast", having(SharedFunctionalGroupsSequence=[usage("MAYBE")]))],
    Code.CONTRAST_PHASE: [("contrast", having(SeriesDescription="Thorax portal-venös"))],
    Code.CONTRAST_PHASE_MISSING: [("contrast", having(SeriesDescription="Thorax 2 mm"))],
    Code.CONVOLUTION_KERNEL: [
        ("kernel", having(ConvolutionKernel="LUNG")),
        ("kernel", having(ConvolutionKernel=["B30f", "LUNG"])),
        ("kernel", having(ConvolutionKernel=["I30f", "3", "B30f"])),
        ("kernel", having(ConvolutionKernel="B30f+")),
    ],
    Code.CONVOLUTION_KERNEL_MISSING: [
        ("kernel", without("ConvolutionKernel")),
        ("kernel", having(ConvolutionKernel="")),
    ],
    Code.FOR_PROCESSING: [
        ("", having(PresentationIntentType=form)) for form in ("FOR PROCESSING", "FOR_PROCESSING", "for-processing")
    ],
    Code.FOR_PROCESSING_UNREADABLE: [("", having(PresentationIntentType="FOR TEACHING"))],
    Code.BURNED_IN: [("presentation", having(BurnedInAnnotation=form)) for form in ("YES", "Y")],
    Code.BURNED_IN_UNREADABLE: [("presentation", having(BurnedInAnnotation="PERHAPS"))],
    Code.BURNED_IN_MISSING: [("presentation", without("BurnedInAnnotation"))],
    Code.DERIVED: [("presentation", having(ImageType=["DERIVED", "PRIMARY"]))],
    Code.SECONDARY: [("presentation", having(ImageType=["ORIGINAL", "SECONDARY"]))],
    Code.IMAGE_TYPE_MISSING: [("presentation", without("ImageType"))],
    Code.LOSSY: [("presentation", having(LossyImageCompression="01", LossyImageCompressionRatio=["5", "30"]))],
    Code.LOSSY_MISSING: [
        ("presentation", having(LossyImageCompression="01")),
        ("presentation", without("LossyImageCompression")),
    ],
    Code.LOSSY_UNREADABLE: [
        ("presentation", having(LossyImageCompression="02")),
        ("presentation", having(LossyImageCompression="01", LossyImageCompressionRatio="-30")),
    ],
    Code.CONVERSION_UNREADABLE: [("", having(ConversionType="PHOTO"))],
    Code.QUALITY_CONTROL_UNREADABLE: [("", having(QualityControlImage="MAYBE"))],
    Code.CONVERSION: [("", having(ConversionType="DRW")), ("presentation", having(ConversionType="DF"))],
    Code.QUALITY_CONTROL: [("", having(QualityControlImage="YES")), ("", having(QualityControlSubject="YES"))],
    Code.SPECIES: [
        ("", having(PatientSpeciesDescription="Canis lupus familiaris")),
        ("", having(PatientSpeciesCodeSequence=[item("448771007")])),
        ("", having(PatientSpeciesCodeSequence=[item("337915000", "99LOCAL")])),
        ("", having(PatientSpeciesCodeSequence=[item("337915000"), item("448771007")])),
        ("", having(PatientBreedDescription="Beagle")),
        ("", having(PatientBreedCodeSequence=[item("132519000")])),
        ("", having(PatientBreedCodeSequence=[meaning("German shepherd")])),
        ("", having(StrainDescription="C57BL/6")),
    ],
}
for _quantity, (_code, _middle) in QUANTITIES.items():
    VIOLATIONS[Code(_code)] = [
        (_quantity, having(**{_quantity: _middle * 5})),
        (_quantity, having(**{_quantity: _middle / 5})),
    ]
    VIOLATIONS[Code(f"{_code}-missing")] = [(_quantity, without(_quantity)), (_quantity, having(**{_quantity: 0}))]
    VIOLATIONS[Code(f"{_code}-unreadable")] = [
        (_quantity, having(**{_quantity: -_middle})),
        (_quantity, having(**{_quantity: [_middle, 0]})),
    ]


@st.composite
def uses(draw: st.DrawFn, clause: str = "") -> IntendedUse:
    """An intended use with any choice of clauses, the given one among them."""
    chosen = set(draw(st.lists(st.sampled_from(sorted(CLAUSES)), unique=True)))
    fields: dict[str, Any] = {"statement": "Any.", "modalities": ["DX", "CR"], "sop_classes": [DX]}
    for name in sorted(chosen | ({clause} & CLAUSES.keys())):
        fields |= draw(CLAUSES[name])
    if clause in QUANTITIES:
        others = [limit for limit in fields.get("ranges", []) if limit["quantity"] != clause]
        fields["ranges"] = [*others, bounds(cast("Quantity", clause))]
    return IntendedUse.model_validate(fields)


def dataset(header: Header) -> Dataset:
    made = Dataset()
    for keyword, value in header.items():
        put(made, keyword, value)
    return made


def codes(use: IntendedUse, header: Header) -> list[str]:
    found = check(use, Acquisition.from_dataset(dataset(header)))
    return [] if isinstance(found, InScope) else [reason.code for reason in found.reasons]


@given(uses())
def test_a_header_that_meets_every_clause_is_in_scope(use: IntendedUse) -> None:
    assert codes(use, headers(use)[0]) == []


def test_every_code_has_a_violation() -> None:
    elsewhere = {Code.SERIES_MISSING, Code.NOVEL_IMAGE}
    assert set(VIOLATIONS) | elsewhere == set(Code)


class Forbidden:
    """Fails the test that lets anything be computed or kept."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for, of a study that is out of scope")


def refused(tmp_path: Path, use: IntendedUse, header: Header) -> list[str]:
    """What the pipeline says of a study of one file with this header."""
    image = dataset(header | {"SOPInstanceUID": "2.25.1", "StudyInstanceUID": "2.25.2", "PatientID": "P"})
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = UID(DX)
    image.file_meta.MediaStorageSOPInstanceUID = UID("2.25.1")
    image.save_as(tmp_path / "image", enforce_file_format=True)
    never = Forbidden()
    bundle = SimpleNamespace(digest="0" * 64, facts=SimpleNamespace(intended_use=use))
    serving: Any = SimpleNamespace(bundle=bundle, engine=never, preprocessing=never, novelty=never, threshold=0.5)
    files: Any = SimpleNamespace(path=lambda _digest: tmp_path / "image")
    pipeline = Pipeline(files, cast("Any", never), lambda: [serving], "Hospital")
    outcome = pipeline.process(Study("2.25.2", 1, 1, 0.0, (Image("2.25.1", DX, "0"),)))
    assert isinstance(outcome, Refused)
    return [reason.code for reason in outcome.reasons]


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize("code", list(VIOLATIONS))
@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_violating_a_clause_refuses_with_its_code_and_nothing_is_computed(
    code: Code, data: st.DataObject, tmp_path: Path
) -> None:
    clause, violate = data.draw(st.sampled_from(VIOLATIONS[code]))
    use = data.draw(uses(clause))
    header = violate(headers(use)[0])
    assert codes(use, header).count(code) == 1
    assert code in refused(tmp_path, use, header)


def lenient_of(use: IntendedUse) -> IntendedUse:
    """The same clauses, each met where the header is silent."""
    fields = use.model_dump()
    for name in (
        "body_part",
        "view",
        "laterality",
        "sexes",
        "equipment",
        "contrast",
        "convolution_kernel",
        "presentation",
    ):
        if fields[name]:
            fields[name]["if_stated"] = True
    for limit in fields["ranges"]:
        limit["if_stated"] = True
    return IntendedUse.model_validate(fields | {"age_if_stated": True, "body_parts": (), "views": ()})


def silent(use: IntendedUse) -> Header:
    """Of a header that meets an intended use, what every header has to say."""
    kept = {"Modality", "SOPClassUID", "Rows", "Columns"}
    return {key: value for key, value in headers(use)[0].items() if key in kept}


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
@pytest.mark.parametrize("code", [code for code in VIOLATIONS if "missing" not in code])
@settings(max_examples=3)
@given(data=st.data())
def test_if_stated_refuses_whatever_is_stated_and_not_accepted(code: Code, data: st.DataObject) -> None:
    clause, violate = data.draw(st.sampled_from(VIOLATIONS[code]))
    use = lenient_of(data.draw(uses(clause)))
    assert code in codes(use, violate(silent(use)))


@given(uses(), st.data())
def test_if_stated_accepts_silence_and_still_refuses_contradiction(use: IntendedUse, data: st.DataObject) -> None:
    lenient = lenient_of(use)
    header = headers(lenient)[0]
    assert codes(lenient, silent(lenient)) == []
    for code in data.draw(
        st.lists(st.sampled_from([code for code in VIOLATIONS if "missing" not in code]), max_size=3)
    ):
        clause, violate = VIOLATIONS[code][0]
        if {"body": lenient.body_part, "view": lenient.view, "sexes": lenient.sexes}.get(clause):
            assert code in codes(lenient, violate(header))


@pytest.mark.parametrize(
    ("accepted", "found", "met"),
    [
        (["Br40d"], "BR40D", True),
        (["Br40d"], "Br40f", False),
        (["FC 1?"], "FC-13", True),
        (["FC1?"], "FC1", False),
        (["FC1?"], "FC130", False),
        (["BONE"], "BONE+", False),
        (["BONE*"], "BONEPLUS", True),
        (["*"], "LUNG", True),
        (["I30f"], ["I30f", "3"], False),  # how strong the iterative reconstruction was is a value too
        (["I30f\\3"], ["I30f", "3"], True),
        (["I30f\\*"], ["I30f", "5"], True),
        (["I30f\\3"], ["3", "I30f"], False),
        (["I30f\\3"], "I30f", False),
        (["B30f", "B70f"], ["B70f", "B30f"], True),
        (["B30f"], ["B30f", "B70f"], False),
        (["[A-Z]"], "B", False),
        (["[A]"], "[a]", True),
    ],
)
def test_kernels_are_compared_as_their_makers_write_them(
    accepted: list[str], found: str | list[str], met: bool
) -> None:
    fields: dict[str, Any] = {"statement": "Any.", "modalities": ["CT"], "sop_classes": [CT]}
    use = IntendedUse.model_validate(fields | {"convolution_kernel": {"accepted": accepted}})
    header: Header = {"Modality": "CT", "SOPClassUID": CT, "Rows": 9, "Columns": 9, "ConvolutionKernel": found}
    assert codes(use, header) == ([] if met else [Code.CONVOLUTION_KERNEL])


def test_what_a_description_says_is_never_repeated() -> None:
    use = IntendedUse.model_validate(
        {
            "statement": "Any.",
            "modalities": ["DX"],
            "sop_classes": [DX],
            "body_part": {"regions": ["chest"], "contradicted_by": ["ProtocolName"]},
        }
    )
    found = check(
        use, Acquisition("DX", DX, "CHEST", rows=9, columns=9, descriptions={"ProtocolName": "Hand Doe^Jane"})
    )
    assert isinstance(found, OutOfScope)
    assert "Doe" not in found.reasons[0].text
    assert (
        check(use, Acquisition("DX", DX, "CHEST", rows=9, columns=9, descriptions={"ProtocolName": "Thorax, hands up"}))
        == InScope()
    )


def test_a_description_proves_a_body_part_only_where_the_version_says_so() -> None:
    fields: dict[str, Any] = {"statement": "Any.", "modalities": ["DX"], "sop_classes": [DX]}
    silent = Acquisition("DX", DX, rows=9, columns=9, descriptions={"ProtocolName": "Thorax p.a."})
    strict = IntendedUse.model_validate(fields | {"body_part": {"regions": ["chest"]}})
    proven = IntendedUse.model_validate(fields | {"body_part": {"regions": ["chest"], "proven_by": ["ProtocolName"]}})
    assert isinstance(check(strict, silent), OutOfScope)
    assert check(proven, silent) == InScope()
    other = replace(silent, descriptions={"ProtocolName": "Thorax und Abdomen"})
    assert isinstance(check(proven, other), OutOfScope)


@pytest.mark.parametrize(
    ("text", "regions"),
    [
        ("CHEST", {"chest"}),
        ("Tórax PA", {"chest"}),
        ("Röntgen Thorax stehend", {"chest"}),
        ("胸部正位", {"chest"}),
        ("Klatka_piersiowa", {"chest"}),
        ("T-SPINE thoracic spine", {"spine"}),
        ("BRUST", set()),
        ("POITRINE", set()),
        ("PECHO", set()),
        ("CHESTNUT", set()),
        ("ABDOMEN/CHEST", {"abdomen", "chest"}),
    ],
)
def test_words_for_regions(text: str, regions: set[str]) -> None:
    assert regions_of(text) - {"spine"} | (regions_of(text) & regions) == regions


def test_words_for_projections() -> None:
    assert projections_of("PA") == projections_of("AP ERECT") == {"frontal"}
    assert projections_of("LLAT") == {"lateral"}
    assert projections_of("PALM") == set()


def test_codes_are_the_standards() -> None:
    regional = {
        code for entries in concepts["SCT"].values() for code, (_, cids) in entries.items() if cids and 4031 in cids
    }
    assert {region for region, accepted in REGION_CODES.items() if not accepted & regional} == {
        "brain",
        "liver",
        "lung",
    }
    assert not set.intersection(*(set(accepted) for accepted in PROJECTION_CODES.values()))
    by_name = {name: set(concepts["SCT"][name]) for name in cid_concepts[4010]["SCT"]}
    for name, projection in (
        ("PosteroAnterior", "frontal"),
        ("AnteroPosterior", "frontal"),
        ("LeftLateral", "lateral"),
        ("RightLateral", "lateral"),
        ("LateralProjection", "lateral"),
        ("LeftAnteriorOblique", "oblique"),
    ):
        assert by_name[name] <= PROJECTION_CODES[projection], name


SERIES = IntendedUse.model_validate(
    {
        "statement": "Two.",
        "modalities": ["CT"],
        "sop_classes": [CT],
        "required_series": [
            {"name": "thin", "min_images": 2, "ranges": [{"quantity": "SliceThickness", "high": 1.5}]},
            {"name": "any", "modalities": ["CT"]},
        ],
    }
)


def slices(series: str, thickness: float, count: int) -> list[Acquisition]:
    return [
        Acquisition("CT", CT, rows=9, columns=9, series=series, quantities={"SliceThickness": (thickness,)})
    ] * count


@pytest.mark.parametrize(
    ("study", "missing"),
    [
        (slices("1", 1, 2) + slices("2", 5, 1), 0),
        (slices("1", 5, 1) + slices("2", 1, 2), 0),
        (slices("1", 1, 2), 1),
        (slices("1", 1, 1) + slices("2", 1, 1), 1),
        (slices("1", 1, 3) + slices("2", 1, 3), 0),
        ([], 2),
    ],
)
def test_required_series_are_each_there_once(study: list[Acquisition], missing: int) -> None:
    assert [reason.code for reason in missing_series(SERIES, study)] == [Code.SERIES_MISSING] * missing


@pytest.mark.parametrize(
    "change",
    [
        {"ranges": [{"quantity": "KVP"}]},
        {"ranges": [{"quantity": "KVP", "low": 5, "high": 4}]},
        {"ranges": [{"quantity": "Shoe size", "low": 5}]},
        {"ranges": [{"quantity": "KVP", "low": 5}, {"quantity": "KVP", "low": 6}]},
        {"contrast": {}},
        {"sexes": {"values": []}},
        {"sexes": {"values": ["X"]}},
        {"body_part": {"regions": ["tail"]}},
        {"equipment": {"accepted": []}},
        {"views": [" "]},
        {"required_series": [{"name": "a"}, {"name": "a"}]},
        {"colour": "blue"},
    ],
)
def test_a_clause_that_says_nothing_or_nonsense_is_no_intended_use(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        IntendedUse.model_validate({"statement": "Any.", "modalities": ["DX"], "sop_classes": [DX]} | change)


def test_what_can_never_be_met_is_named_to_the_vendor() -> None:
    use = IntendedUse.model_validate({"statement": "Any.", "modalities": ["x ray"], "sop_classes": ["1.2.3", DX]})
    assert len(problems(use)) == 2
    assert problems(SERIES) == []
    assert any("SliceThickness is 1.5 or less" in line for line in sentences(SERIES))


def test_no_version_with_such_a_clause_is_trained_or_signed(tmp_path: Path) -> None:
    from configs.schema import VersionConfig
    from server.vendor import train_first

    config = VersionConfig(
        name="x",
        title="x",
        vendor="x",
        intended_use={"statement": "Any.", "modalities": ["DX"], "sop_classes": ["1.2"]},
    )
    with pytest.raises(ConfigurationError, match=r"'1\.2' is no storage SOP class"):
        train_first(config, [], tmp_path / "bundle", cast("Any", None), "vendor")
    assert not (tmp_path / "bundle").exists()


def test_a_vendor_reads_the_clauses_and_what_they_do_to_files(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from scripts.version_commands import app

    for name, view in (("frontal", "PA"), ("lateral", "LL")):
        image = dataset({"SOPClassUID": DX, "Modality": "DX", "BodyPartExamined": "TÓRAX", "ViewPosition": view})
        put(image, "Rows", 100)
        put(image, "Columns", 100)
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.file_meta.MediaStorageSOPInstanceUID = UID("2.25.1")
        put(image, "SpecificCharacterSet", "ISO_IR 192")
        put(image, "SOPInstanceUID", "2.25.1")
        image.save_as(tmp_path / name, enforce_file_format=True)
    told = CliRunner().invoke(app, ["explain", "--try-on", str(tmp_path)])
    assert told.exit_code == 0, told.output
    assert "Body part is chest or lung, by code or by a word for it." in told.output
    assert "frontal: in scope" in told.output
    assert "lateral: view: view is LL; accepted: frontal" in told.output
