"""Later truths as FHIR R4 says them: the coded Observations of a Bundle, with the DiagnosticReport they belong to.

An observation becomes a statement where the site's settings say what its codes mean. Text and conclusions are never
read, and no reference is followed out of the bundle. Validated against R4B, which for these resources is R4.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, Final

from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from fhir.resources.R4B.observation import Observation
from fhir.resources.R4B.patient import Patient
from pydantic import ValidationError

from client.vigilance import meanings
from client.vigilance.later import RETRACTED, Refusal, Statement
from configs.schema import TruthConfig
from models.errors import InvalidVerdict
from models.validation import told

_FINAL: Final = ("final",)
_CORRECTED: Final = ("amended", "corrected")
_WITHDRAWN: Final = ("entered-in-error", "cancelled")
_ACCESSION: Final = ("http://terminology.hl7.org/CodeSystem/v2-0203", "ACSN")


def read_fhir(path: Path, config: TruthConfig) -> Iterator[tuple[str, Statement | Refusal]]:
    """What a file with one Bundle (JSON) says.

    Raises:
        InvalidVerdict: it is no such file.
    """
    try:
        bundle = Bundle.model_validate(json.loads(path.read_bytes()))
    except ValidationError as error:
        raise InvalidVerdict(f"{path} is no FHIR R4 Bundle: {told(error)}") from error
    except (OSError, ValueError) as error:
        raise InvalidVerdict(f"{path} cannot be read as JSON: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:  # so the library meets a resourceType that is none
        raise InvalidVerdict(f"{path} has a resource of a type that FHIR R4 does not know: {told(error)}") from error
    yield from statements(bundle, config)


def statements(bundle: Any, config: TruthConfig) -> Iterator[tuple[str, Statement | Refusal]]:
    """What a Bundle says, observation by observation."""
    entries = [(one.fullUrl or "", one.resource) for one in bundle.entry or [] if one.resource is not None]
    held = {name: one for url, one in entries for name in _names(url, one)}
    reports = [one for _, one in entries if isinstance(one, DiagnosticReport)]
    met = False
    for number, (url, one) in enumerate(entries, 1):
        if not isinstance(one, Observation) or not meanings.known(_codes([one.code], config), config):
            continue
        met = True
        where = f"entry {number}"
        own = [r for r in reports if _names(url, one) & {ref.reference for ref in r.result or []}]
        try:
            yield where, _statement(one, own, held, config)
        except InvalidVerdict as error:
            yield where, Refusal(where, str(error))
    if not met:
        yield "bundle", Refusal("bundle", "truth.codes names none of its observations")


def _statement(one: Any, reports: list[Any], held: dict[str, Any], config: TruthConfig) -> Statement:
    states = {one.status, *(report.status for report in reports)}
    withdrawn = bool(states & set(_WITHDRAWN))
    if not withdrawn and not states <= {*_FINAL, *_CORRECTED}:
        raise InvalidVerdict(f"its status is {', '.join(sorted(states))}: only what is final counts")
    code = _codes([one.code], config)
    if withdrawn:
        meaning, answer = meanings.any_of(code, config), RETRACTED
    else:
        value = one.valueCodeableConcept
        meaning = meanings.of(code, _codes([value], config), config)
        answer = meaning.answer
    patients = {_patient(source.subject, held, config) for source in (one, *reports)}
    if len(patients) != 1:
        raise InvalidVerdict("the observation is of one patient, its report of another")
    [(patient, issuer)] = patients
    found = one.effectiveDateTime
    if not isinstance(found, date):  # a year or a month comes as another type
        raise InvalidVerdict("effectiveDateTime gives no day")
    return Statement(
        reference=_reference(one),
        study="",
        accession=_accession((one, *reports)),
        patient=patient,
        issuer=issuer,
        answer=answer,
        tier=meaning.tier,
        date=found.strftime("%Y-%m-%d"),
        finding=meaning.finding,
        corrects=states != {*_FINAL},
    )


def _names(url: str, resource: Any) -> set[str]:
    """What a resource of the bundle may be called by others in it."""
    relative = f"{resource.get_resource_type()}/{resource.id}" if resource.id else ""
    return {url, relative} - {""}


def _codes(concepts: Iterable[Any], config: TruthConfig) -> list[str]:
    """SCHEME:VALUE of all codings; a system that truth.schemes does not name stands for itself."""
    schemes = {system: scheme for scheme, system in config.schemes.items()}
    codings = [coding for concept in concepts if concept for coding in concept.coding or [] if coding]
    return [f"{schemes.get(one.system, one.system)}:{one.code}" for one in codings if one.system and one.code]


def _reference(one: Any) -> str:
    names = sorted(f"{name.system}|{name.value}" for name in one.identifier or [] if name.system and name.value)
    if len(names) != 1:
        raise InvalidVerdict(f"it has {len(names)} identifiers with a system to know it by: one is needed")
    return names[0]


def _patient(subject: Any, held: dict[str, Any], config: TruthConfig) -> tuple[str, str]:
    if subject is None:
        raise InvalidVerdict("it names no patient (subject)")
    named = held.get(subject.reference or "")
    identifiers = list(named.identifier or []) if isinstance(named, Patient) else []
    identifiers += [subject.identifier] if subject.identifier else []
    return meanings.patient([(name.value or "", name.system or "") for name in identifiers], config)


def _accession(sources: Iterable[Any]) -> str:
    """The accession number in what the observation or its report is based on (Reference.identifier, type ACSN)."""
    names = [based.identifier for source in sources for based in source.basedOn or [] if based.identifier]
    found = {
        name.value
        for name in names
        if name.value and any((c.system, c.code) == _ACCESSION for c in (name.type.coding or [] if name.type else []))
    }
    if len(found) != 1:
        raise InvalidVerdict(f"it is based on {len(found)} accession numbers (basedOn, type ACSN): one is needed")
    return str(found.pop())
