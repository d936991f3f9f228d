"""The evidence for one version, as an auditor asks for it, in one archive: nothing of it names a patient.

Its parts are those of chapter III, section 2 of Regulation (EU) 2024/1689: risk (article 9), data (10), documentation
(11), logs (12), instructions (13), oversight (14), accuracy and robustness (15). What there is none of is said in the
index, not left out, and each file stands there with its SHA-256.
"""

import hashlib
import json
import time
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import func, select

from client.governance import inventory
from client.store import versions
from client.store.site import Site
from client.store.tables import outcome, suspension, verdict
from client.store.versions import HeldVersion
from client.vigilance import drift, drills, harm, incidents, second_reads
from client.vigilance.sample import patients
from models.bundle import Bundle
from models.errors import ConfigurationError

_PARTS: Final = {
    "1-risk": "Risk management (article 9)",
    "2-data": "Data and data governance (article 10)",
    "3-documentation": "Technical documentation (article 11)",
    "4-logs": "Record keeping (article 12)",
    "5-instructions": "Transparency, instructions for use (article 13)",
    "6-oversight": "Human oversight (article 14)",
    "7-robustness": "Accuracy, robustness, cybersecurity (article 15)",
}
_OF_BUNDLE: Final = (
    "manifest.json",
    "signature.json",
    "configs/metadata.json",
    "configs/inference.json",
    "docs/README.md",
)
_FEWEST: Final = 11  # patients of a stratum that is told of: an audit's archive travels


@dataclass(frozen=True, slots=True)
class Pack:
    """What was written.

    Attributes:
        files: by their place in the archive, SHA-256 in hex.
        missing: what there is none of, in words.
    """

    files: dict[str, str]
    missing: tuple[str, ...]


def pack(site: Site, held: HeldVersion, path: Path) -> Pack:
    """Write the archive, whole or not at all.

    Raises:
        ConfigurationError: the file is there already, or cannot be written.
        BundleRefused: what lies on disk is no longer what was signed.
    """
    if path.exists():
        raise ConfigurationError(f"{path} is there already: name another file")
    contents, missing = _contents(site, held)
    files = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents["index.md"] = _index(site, held, files, missing).encode()
    part = path.with_name(path.name + ".part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in sorted(contents):
                archive.writestr(name, contents[name])
        part.rename(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ConfigurationError(f"{path} cannot be written: {error.strerror}") from error
    facts: dict[str, Any] = {"digest": held.digest, "files": len(files)}
    site.ledger.append("evidence.packed", facts | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    return Pack(files, missing)


@dataclass(frozen=True, slots=True)
class _Piece:
    """One file: its content, as JSON or as it is, and what to say where there is none."""

    name: str
    value: Any
    none: str = ""


def _contents(site: Site, held: HeldVersion) -> tuple[dict[str, bytes], tuple[str, ...]]:
    bundle = versions.held(site, held.digest)  # verified, or refused
    assert bundle is not None
    pieces = [
        *_risk(site, held, bundle),
        *_data(site, held, bundle),
        *_documentation(site, held, bundle),
        *_logs(site, held),
        *_use(site, held, bundle),
        *_robustness(site, held),
    ]
    missing = tuple(one.none or one.name for one in pieces if one.value in (None, [], {}, b""))
    return {one.name: one.value if isinstance(one.value, bytes) else _json(one.value) for one in pieces}, missing


def _risk(site: Site, held: HeldVersion, bundle: Bundle) -> list[_Piece]:
    alarms = [one for one in harm.alarms(site) if one.version.digest == held.digest]
    happened = [one for one in incidents.listed(site) if one.version.digest == held.digest]
    said = [_of(one, "version") | {"says": one.text} for one in alarms]
    return [
        _Piece("1-risk/alarms.json", said, "alarms: none was raised"),
        _Piece("1-risk/suspensions.json", _suspensions(site, held.digest), "suspensions: none"),
        _Piece("1-risk/incidents.json", [_incident(one) for one in happened], "incidents: none was opened"),
        _Piece("1-risk/change-plan.json", bundle.facts.changes.model_dump(mode="json")),
    ]


def _data(site: Site, held: HeldVersion, bundle: Bundle) -> list[_Piece]:
    cohort = bundle.facts.cohort
    changed = [_of(one) | {"says": one.text} for one in drift.warnings(site) if one.name == held.name]
    trained = cohort.model_dump(mode="json") if cohort else None
    return [
        _Piece("2-data/training-cohort.json", trained, "the version does not state its training cohort"),
        _Piece("2-data/patients-here.json", _strata(patients(site, held.name)), "eleven patients of a kind: none yet"),
        _Piece("2-data/changes.json", changed, "changes of the studies: none was warned of"),
    ]


def _documentation(site: Site, held: HeldVersion, bundle: Bundle) -> list[_Piece]:
    recorded = next((one.entry for one in inventory.listed(site) if one.name == held.name), None)
    entry = recorded.model_dump(mode="json") if recorded else None
    files = {name: bundle.folder / name for name in _OF_BUNDLE}
    return [
        *(
            _Piece(
                f"3-documentation/{name.replace('/', '-')}",
                file.read_bytes() if file.is_file() else None,
                f"the bundle has no {name}",
            )
            for name, file in files.items()
        ),
        _Piece("3-documentation/software.json", _software()),
        _Piece("3-documentation/inventory.json", entry, "it is not in the inventory: it does not read here"),
    ]


def _logs(site: Site, held: HeldVersion) -> list[_Piece]:
    entries = [entry for entry in site.ledger.entries() if held.digest in entry.facts]
    lines = "".join(json.dumps(_of(entry), ensure_ascii=True) + "\n" for entry in entries)
    broken = site.ledger.first_break()
    chain = {"whole": broken is None, "first break": broken, "entries of this version": len(entries)}
    return [
        _Piece("4-logs/ledger.jsonl", lines.encode(), "the ledger does not name it"),
        _Piece("4-logs/chain.json", chain),
    ]


def _use(site: Site, held: HeldVersion, bundle: Bundle) -> list[_Piece]:
    facts = bundle.facts
    threshold = {"vendor": facts.threshold, "rule": facts.threshold_rule, "here": held.threshold}
    settings = {"watch": asdict(site.config.watch), "gate": asdict(site.config.gate)}
    return [
        _Piece("5-instructions/intended-use.json", facts.intended_use.model_dump(mode="json")),
        _Piece("5-instructions/threshold.json", threshold),
        _Piece("6-oversight/verdicts.json", _verdicts(site, held.digest), "no reader has answered it yet"),
        _Piece("6-oversight/settings.json", settings),
    ]


def _robustness(site: Site, held: HeldVersion) -> list[_Piece]:
    rates = [one for one in second_reads.rates(site, held.digest) if not one.stratum or one.exams >= _FEWEST]
    watched = next((one for one in harm.look(site) if one.version.digest == held.digest), None)
    seen = [_of(rate) for rate in watched.rates] if watched else None
    run = [_of(one, "scenario") | {"scenario": one.scenario.name} for one in drills.listed(site)]
    return [
        _Piece("7-robustness/gate.json", held.decision, "no gate has judged it here"),
        _Piece("7-robustness/rates.json", [_of(one) for one in rates], "no rates yet"),
        _Piece("7-robustness/watch.json", seen, "it is not watched: it does not read here"),
        _Piece("7-robustness/drills.json", [one for one in run if one["model"] == held.name], "drills: none was run"),
    ]


def _index(site: Site, held: HeldVersion, files: Mapping[str, str], missing: tuple[str, ...]) -> str:
    lines = [
        f"# Evidence for {held.label}",
        "",
        f"Digest {held.digest}; {held.state} at {site.config.institution}; made on {time.strftime('%Y-%m-%d')}.",
        "No file names a patient; studies stand in the ledger by keyed hashes.",
        "",
    ]
    for part, title in _PARTS.items():
        lines += [f"## {title}", ""]
        lines += [f"- {name} `{digest}`" for name, digest in sorted(files.items()) if name.startswith(part)]
        lines.append("")
    lines += [
        "## What there is none of",
        "",
        *(f"- {one}" for one in missing or ("nothing: every file has content",)),
        "",
    ]
    return "\n".join(lines)


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, default=_plain) + "\n").encode()


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return _of(value)
    return value.item() if isinstance(value, np.generic) else str(value)


def _of(one: Any, *without: str) -> dict[str, Any]:
    """A value's own attributes; of what they hold, `_plain` makes text."""
    return {name: getattr(one, name) for name in one.__dataclass_fields__ if name not in without}


def _incident(one: incidents.Incident) -> dict[str, Any]:
    """Coded: what a person wrote may name somebody."""
    told = [{"event": happened.event, "to": happened.to, "at": happened.at} for happened in one.history]
    return {"number": one.id, "kind": one.kind, "severity": one.severity, "state": one.state, "history": told}


def _strata(found: Mapping[str, int]) -> dict[str, int]:
    """Patients by stratum; small ones together, and left out where they are few together."""
    small = sum(count for count in found.values() if count < _FEWEST)
    told = {name: count for name, count in found.items() if count >= _FEWEST}
    return told | ({"others": small} if small >= _FEWEST else {})


def _suspensions(site: Site, digest: str) -> list[dict[str, Any]]:
    with site.database.read() as connection:
        rows = connection.execute(select(suspension).where(suspension.c.version_digest == digest)).mappings().all()
    return [{key: row[key] for key in ("cause", "reason", "at", "lifted_at")} for row in rows]


def _verdicts(site: Site, digest: str) -> dict[str, int]:
    query = (
        select(verdict.c.decision, verdict.c.tier, func.count())
        .join(outcome, outcome.c.id == verdict.c.outcome_id)
        .where(outcome.c.version_digest == digest)
        .group_by(verdict.c.decision, verdict.c.tier)
    )
    with site.database.read() as connection:
        return {f"{decision} ({tier})": count for decision, tier, count in connection.execute(query)}


def _software() -> dict[str, str]:
    return dict(sorted({one.name: one.version for one in distributions()}.items()))
