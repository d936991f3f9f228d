"""Later truth by HL7 v2 and FHIR: only what the settings say, of the right study and patient, corrected, late, cut."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.store.site import Site
from client.vigilance import later, later_fhir, later_hl7, register
from client.vigilance.later import Refusal, Statement
from configs.schema import AuthorityConfig, TruthCodeConfig, TruthConfig, save
from models.errors import ConfigurationError, InvalidVerdict
from scripts.vigie import app

Scored = Callable[..., str]
CONFIG = TruthConfig(
    codes=[
        TruthCodeConfig(code="LN:22637-3", value="SCT:10828004", answer="positive", tier="biopsy"),
        TruthCodeConfig(code="LN:22637-3", value="SCT:260385009", answer="negative", tier="biopsy"),
    ],
    authorities=[AuthorityConfig(name="HOSP"), AuthorityConfig(name="urn:hosp")],
)
POSITIVE, NEGATIVE = "10828004^Positive^SCT", "260385009^Negative^SCT"


def _oru(
    value: str = POSITIVE,
    status: str = "F",
    *,
    patient: str = "17^^^HOSP^MR~17^^^NATION^NI",
    accession: str = "A1",
    kind: str = "ORU^R01^ORU_R01",
    processing: str = "P",
    type_: str = "CWE",
    day: str = "20260102",
) -> str:
    """A message of pathology, as its file has it."""
    return "".join(
        f"{line}\r"
        for line in (
            rf"MSH|^~\&|LAB|PATH|VIGIE|HOSP|20260102120000||{kind}|1|{processing}|2.5.1",
            f"PID|1||{patient}||DOE^JANE",
            f"OBR|1|O1|F1^PATH|22637-3^Pathology^LN|||{day}|||||||||||{accession}",
            "OBX|1|TX|22636-5^History^LN||no tumour \\T\\ no doubt||||||F",
            f"OBX|2|{type_}|22637-3^Pathology^LN|1|{value}||||||{status}|||{day}",
        )
    )


def _bundle(value: str = "10828004", status: str = "final", **other: Any) -> dict[str, Any]:
    """A Bundle of a patient, a report and its observation."""
    accession = {"type": {"coding": [{"system": later_fhir._ACCESSION[0], "code": "ACSN"}]}, "value": "A1"}
    coded = {"coding": [{"system": "http://loinc.org", "code": "22637-3"}]}
    observation = {
        "resourceType": "Observation",
        "id": "o1",
        "identifier": [{"system": "urn:lab", "value": "F1"}],
        "status": status,
        "code": coded,
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2026-01-02T10:00:00+01:00",
        "valueCodeableConcept": {"coding": [{"system": "http://snomed.info/sct", "code": value}]},
    } | other
    report = {
        "resourceType": "DiagnosticReport",
        "id": "r1",
        "status": "final",
        "code": coded,
        "subject": {"reference": "Patient/p1"},
        "basedOn": [{"identifier": accession}],
        "result": [{"reference": "Observation/o1"}],
        "conclusion": "no tumour",
    }
    person = {"resourceType": "Patient", "id": "p1", "identifier": [{"system": "urn:hosp", "value": "17"}]}
    return {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [{"resource": one} for one in (person, report, observation)],
    }


@pytest.fixture
def hl7(site: Site, tmp_path: Path) -> Callable[..., later.Taken]:
    """Take a file of HL7 messages in."""

    def take(*messages: str) -> later.Taken:
        path = tmp_path / "truth.hl7"
        path.write_bytes("".join(messages).encode())
        return later.take(site, later_hl7.read_hl7(path, CONFIG), "hl7", "ada")

    return take


@pytest.fixture
def fhir(site: Site, tmp_path: Path) -> Callable[..., later.Taken]:
    """Take a FHIR Bundle in."""

    def take(bundle: dict[str, Any]) -> later.Taken:
        path = tmp_path / "truth.json"
        path.write_text(json.dumps(bundle))
        return later.take(site, later_fhir.read_fhir(path, CONFIG), "fhir", "ada")

    return take


def test_hl7_comes_twice_late_is_corrected_and_withdrawn(
    site: Site, scored: Scored, hl7: Callable[..., later.Taken]
) -> None:
    uid = scored(score=0.9, patient_id="17", accession="A1")
    found = hl7("BHS|^~\\&|LAB\r", _oru(), _oru(), "BTS|2\r")
    assert (found.new, found.known, found.refused) == (1, 1, ())
    assert [(case.positive, case.tier) for case in register.cases(site)] == [(True, "biopsy")]
    [unmarked] = hl7(_oru(NEGATIVE, "F")).refused
    assert "not marked as a correction" in unmarked.why
    assert hl7(_oru(NEGATIVE, "C", day="20260105")).changed == 1
    assert len(hl7(_oru()).refused) == 1  # the first once more, late
    assert [case.positive for case in register.cases(site)] == [False]
    assert hl7(_oru(status="W", day="20260106")).changed == 1
    assert register.cases(site) == []
    assert [(row.answer, row.source) for row in later.history(site, uid)] == [
        ("positive", "hl7"),
        ("negative", "hl7"),
        ("retracted", "hl7"),
    ]


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (_oru(patient="18^^^HOSP^MR"), "another patient"),
        (_oru(patient="17^^^NATION^NI"), "truth.authorities"),
        (_oru(patient="17^^^HOSP^MR~18^^^HOSP^MR"), "2 identifiers"),
        (_oru(accession="A2"), "no such study"),
        (_oru(accession=""), "OBR-18"),
        (_oru(patient="1\\T\\7^^^HOSP^MR"), "escape"),
        (_oru("1^Doubtful^SCT"), "SCT:1 means"),
        (_oru("10828004^Positive^L"), "L:10828004 means"),
        (_oru(f"{POSITIVE}~{NEGATIVE}"), "several answers"),
        (_oru("positive", type_="TX"), "not a code"),
        (_oru(status="P"), "only what is final"),
        (_oru(status=""), "only what is final"),
        (_oru(processing="T"), "production"),
        (_oru(kind="ADT^A08^ADT_A01"), "not ORU"),
        (_oru(day="2026"), "no day"),
        (_oru()[:-1], "ends within a segment"),
    ],
)
def test_hl7_that_cannot_be_matched_or_mapped_is_refused_and_says_why(
    site: Site, scored: Scored, hl7: Callable[..., later.Taken], message: str, why: str
) -> None:
    scored(patient_id="17", accession="A1")
    found = hl7(message)
    assert (found.new, found.changed) == (0, 0)
    assert [why in one.why for one in found.refused] == [True], found.refused
    assert register.cases(site) == []


@given(
    cut=st.integers(0, len(_oru())),
    put=st.sampled_from(["", "PID|1\r", "\\T\\", "|", "^", "~", "\\", "&", "\r", "é", "OBX|"]),
)
def test_a_message_that_is_cut_or_damaged_never_says_the_opposite_nor_breaks(cut: int, put: str) -> None:
    message = _oru()
    for broken in (message[:cut], message[:cut] + put + message[cut:]):
        for _, one in later_hl7.statements(broken, CONFIG):
            assert isinstance(one, Refusal) or one.answer in ("positive", later.RETRACTED)


def test_fhir_is_taken_corrected_and_entered_in_error(
    site: Site, scored: Scored, fhir: Callable[..., later.Taken]
) -> None:
    uid = scored(score=0.1, patient_id="17", accession="A1")
    assert fhir(_bundle()).new == 1
    assert fhir(_bundle()).known == 1
    assert [(case.positive, case.tier) for case in register.cases(site)] == [(True, "biopsy")]
    assert len(fhir(_bundle("260385009")).refused) == 1
    assert fhir(_bundle("260385009", "corrected")).changed == 1
    assert fhir(_bundle(status="entered-in-error")).changed == 1
    assert register.cases(site) == []
    assert [row.source for row in later.history(site, uid)] == ["fhir"] * 3


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"subject": {"identifier": {"system": "urn:hosp", "value": "18"}}}, "of another"),
        ({"subject": {"reference": "Patient/p2"}}, "truth.authorities"),
        ({"identifier": []}, "to know it by"),
        ({"status": "preliminary"}, "only what is final"),
        ({"status": "certain"}, "only what is final"),
        ({"effectiveDateTime": "2026"}, "no day"),
        ({"effectiveDateTime": "2026-01"}, "no day"),
        ({"valueCodeableConcept": {"text": "positive"}}, "no code"),
        ({"basedOn": [{"identifier": {"value": "A1"}}], "id": "o2"}, "ACSN"),
        ({"code": {"text": "Pathology"}}, "names none"),
    ],
)
def test_fhir_that_cannot_be_matched_or_mapped_is_refused_and_says_why(
    site: Site, scored: Scored, fhir: Callable[..., later.Taken], other: dict[str, Any], why: str
) -> None:
    scored(patient_id="17", accession="A1")
    bundle = _bundle(**{name: value for name, value in other.items() if value != []})
    for name, value in other.items():
        if value == []:
            del bundle["entry"][2]["resource"][name]
    found = fhir(bundle)
    assert (found.new, found.changed) == (0, 0)
    assert [why in one.why for one in found.refused] == [True], found.refused


def test_the_command_takes_both_by_the_settings_of_the_site(site: Site, scored: Scored, tmp_path: Path) -> None:
    scored(patient_id="17", accession="A1")
    path = tmp_path / "truth.hl7"
    path.write_bytes(_oru().encode())
    command = ["site", "truth", "import", "--folder", str(site.folder)]
    said = CliRunner().invoke(app, [*command, str(path)])
    assert said.exit_code == 1  # nothing is mapped until somebody says so
    assert "truth.codes" in said.output
    site.config.truth = CONFIG
    save(site.config, site.folder / "site.yaml")
    assert "1 new" in CliRunner().invoke(app, [*command, str(path)]).output
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(_bundle()))
    assert "1 new" in CliRunner().invoke(app, [*command, str(path)]).output


def test_a_file_that_is_none_and_settings_that_contradict_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "truth.hl7"
    for broken in (b"", b"PID|1\r", b"\xff\xfe"):
        path.write_bytes(broken)
        with pytest.raises(InvalidVerdict):
            list(later_hl7.read_hl7(path, CONFIG))
    unknown = json.dumps(
        {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": {"resourceType": "X"}}]}
    )
    for broken in ("{", "[]", unknown, '{"resourceType": "Patient"}', '{"resourceType": "Bundle"}'):
        path.write_text(broken)
        with pytest.raises(InvalidVerdict):
            list(later_fhir.read_fhir(path, CONFIG))
    with pytest.raises(ConfigurationError, match="twice"):
        TruthConfig(codes=[CONFIG.codes[0], CONFIG.codes[0]])
    with pytest.raises(ConfigurationError, match="SCHEME:VALUE"):
        TruthCodeConfig(code="pathology", value="SCT:1", answer="positive", tier="biopsy")


def test_the_observation_is_what_the_settings_say_of_it() -> None:
    [(_, one)] = later_hl7.statements(_oru(), CONFIG)
    assert isinstance(one, Statement)
    assert (one.patient, one.issuer, one.accession, one.date) == ("17", "", "A1", "2026-01-02")
    assert one.reference == "LAB|PATH|F1|PATH|LN:22637-3|1"
