"""What a hospital has to be able to show: every algorithm on site, and the evidence for each version, whole."""

import csv
import hashlib
import json
import time
import zipfile
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from typer.testing import CliRunner

from client.governance import evidence, inventory
from client.governance.inventory import Attestation, Entry
from client.store import versions
from client.store.site import Site
from client.store.tables import outcome, trait
from client.vigilance import incidents
from client.vigilance.deadlines import Severity
from models.errors import BundleRefused, ConfigurationError, NotFound
from scripts.site_commands import app

Scored = Callable[..., str]
TODAY = date(2026, 6, 1)


def run(site: Site, *words: str, status: int = 0) -> str:
    said = CliRunner().invoke(app, [*words, "--folder", str(site.folder)], env={"COLUMNS": "300"})
    assert said.exit_code == status, said.output
    return said.output


def test_versions_list_themselves_and_say_what_nobody_has_recorded(site: Site) -> None:
    [one] = inventory.listed(site, TODAY)
    assert (one.name, one.entry.kind, one.entry.version) == ("brightness", "vigie", "brightness@1")
    assert one.entry.stop_rule == "harm alarm suspends it"
    assert {"no owner", "no dpo", "no certificate", "no insurance"} == set(one.problems)
    inventory.record(site, "brightness", "ada", {"owner": "Dr Curie", "dpo": "dpo@example.org"})
    inventory.record(site, "brightness", "ada", {"certificate": "CE 1", "certificate_until": "2026-07-01"})
    inventory.record(site, "brightness", "ada", {"insurance": "I 1", "insurance_until": TODAY - timedelta(1)})
    inventory.attest(site, "brightness", "ada", "Dr Who", TODAY - timedelta(1))
    [one] = inventory.listed(site, TODAY)
    assert one.problems == (
        "certificate expires on 2026-07-01",
        "insurance expired on 2026-05-31",
        "Dr Who: attestation expired on 2026-05-31",
    )
    inventory.attest(site, "brightness", "ada", "Dr Who", None)  # renewed
    [one] = inventory.listed(site, TODAY)
    assert one.entry.attestations == (Attestation(person="Dr Who"),)
    assert len(inventory.history(site, "brightness")) == 5
    assert [entry.event for entry in site.ledger.entries("inventory.")] == ["inventory.changed"] * 5
    inventory.record(site, "brightness", "ada", {"owner": "Dr Curie"})  # what is so already is no change
    assert len(inventory.history(site, "brightness")) == 5


def test_software_that_images_name_and_nobody_recorded_is_shown(site: Site, scored: Scored) -> None:
    uids = [scored() for _ in range(4)]
    with site.database.write() as connection:
        for number, uid in enumerate(uids):
            key = connection.execute(select(outcome.c.id).where(outcome.c.study_uid == uid)).scalar()
            words = {"maker": "Acme", "model": "CT 5000", "software": "V12" if number < 3 else "V13"}
            connection.execute(insert(trait).values(outcome_id=key, words=words, numbers={}, look=None))
    [one] = inventory.unrecorded(site)
    assert (one.maker, one.model, one.software, one.images) == ("Acme", "CT 5000", "V12", 3)
    assert "NOT RECORDED: software V12 of Acme CT 5000" in run(site, "inventory", "list", status=1)
    run(site, "inventory", "record", "ct1", "--kind", "embedded", "--where", "ACME CT 5000", "--version", "V12")
    assert inventory.unrecorded(site) == []
    assert inventory.unrecorded(site, time.time() + 100 * 86400) == []


def test_the_commands_record_export_and_retire(site: Site, tmp_path: Path) -> None:
    run(site, "inventory", "record", "ct1", "--kind", "embedded", "--owner", "Dr Curie", "--by", "ada")
    run(site, "inventory", "attest", "ct1", "--person", "Dr Who", "--until", "2027-01-01")
    assert "Dr Curie" in run(site, "inventory", "list", status=1)
    run(site, "inventory", "list", "--export", str(tmp_path / "all.csv"))
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"brightness", "ct1"}
    assert rows["ct1"]["attestations"] == "Dr Who: trained on it until 2027-01-01"
    run(site, "inventory", "retire", "ct1")
    assert [one.name for one in inventory.listed(site)] == ["brightness"]
    run(site, "inventory", "record", "ct1", "--owner", "Dr Curie")
    assert [one.name for one in inventory.listed(site)] == ["brightness", "ct1"]
    assert [entry.retired for _, _, entry in inventory.history(site, "ct1")] == [False, False, True, False]
    with pytest.raises(NotFound):
        inventory.attest(site, "nothing", "ada", "Dr Who", None)


@pytest.mark.parametrize(
    ("name", "changes"),
    [("a b", {}), ("", {}), ("x", {"kind": "odd"}), ("x", {"certificate_until": "soon"}), ("x", {"colour": "red"})],
)
def test_what_is_not_understood_is_refused(site: Site, name: str, changes: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError):
        inventory.record(site, name, "ada", changes)
    assert inventory.history(site, name) == []


def test_nothing_is_a_problem_of_an_entry_that_has_it_all() -> None:
    far = TODAY + timedelta(400)
    entry = Entry(owner="a", stop_rule="b", dpo="c", certificate="d", certificate_until=far, insurance="e")
    assert inventory.problems(entry, TODAY) == ()


def test_the_evidence_is_whole_and_names_no_patient(site: Site, scored: Scored, tmp_path: Path) -> None:
    held = versions.serving(site, "brightness")
    assert held is not None
    uids = [scored(patient_id=f"Jane{number}", accession=f"ACC{number}") for number in range(12)]
    incidents.open_incident(site, held, "missed", Severity.SERIOUS, "Jane0 was hurt", "ada", study_uid=uids[0])
    said = run(site, "evidence", "brightness@1", "--out", str(tmp_path / "pack.zip"))
    assert "none of it: drills: none was run" in said
    with zipfile.ZipFile(tmp_path / "pack.zip") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    index = contents.pop("index.md").decode()
    parts = {name.split("/")[0] for name in contents}
    assert parts == {"1-risk", "2-data", "3-documentation", "4-logs", "5-instructions", "6-oversight", "7-robustness"}
    for name, content in contents.items():
        assert f"- {name} `{hashlib.sha256(content).hexdigest()}`" in index
        for word in ("Jane", "ACC0", uids[0]):
            assert word not in content.decode(), name
    assert json.loads(contents["1-risk/incidents.json"])[0]["kind"] == "missed"
    assert json.loads(contents["4-logs/chain.json"])["whole"]
    assert json.loads(contents["2-data/patients-here.json"])
    assert json.loads(contents["3-documentation/software.json"])["torch"]
    with pytest.raises(ConfigurationError, match="there already"):
        evidence.pack(site, held, tmp_path / "pack.zip")


def test_no_evidence_is_made_of_a_version_that_was_altered(site: Site, tmp_path: Path) -> None:
    held = versions.serving(site, "brightness")
    assert held is not None
    card = site.versions / held.digest / "docs" / "README.md"
    card.chmod(0o644)
    card.write_text("better than it is")
    with pytest.raises(BundleRefused):
        evidence.pack(site, held, tmp_path / "pack.zip")
    assert list(tmp_path.glob("pack.zip*")) == []
