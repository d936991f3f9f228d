"""An objection reaches the patient whom it is about, however it was written, and says so where it reaches nobody."""

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from typer.testing import CliRunner

from client.arrival.index import enter_patient
from client.review import objections
from client.store.objections import same
from client.store.site import Site
from client.store.tables import patient
from models.errors import ConfigurationError, NotFound
from scripts.site_commands import app

Scored = Callable[..., str]


def objecting(site: Site) -> set[tuple[str, str]]:
    with site.database.read() as connection:
        rows = connection.execute(select(patient).where(patient.c.objects_to_reuse)).all()
    return {(row.patient_id, row.issuer) for row in rows}


@pytest.mark.parametrize(
    ("entered", "issuer"), [("P-8", "GZ"), ("P-8 ", "GZ"), ("p-8", "gz"), (" P-8", " gz "), ("P-8", "")]
)
def test_however_it_is_written_down_the_patient_is_out(site: Site, scored: Scored, entered: str, issuer: str) -> None:
    scored(patient_id="P-8", issuer="GZ")
    scored(patient_id="P-9", issuer="GZ")
    found = objections.object_to_reuse(site, entered, issuer)
    assert [one.studies for one in found if one.studies] == [1]
    assert ("P-8", "GZ") in objecting(site)
    assert ("P-9", "GZ") not in objecting(site)
    events = [entry.event for entry in site.ledger.entries("objection")]
    again = objections.object_to_reuse(site, entered, issuer)  # twice is once
    assert again == found
    assert [entry.event for entry in site.ledger.entries("objection")] == events
    objections.withdraw_objection(site, entered, issuer)
    assert objecting(site) == set()


def test_of_another_issuer_it_is_another_patient(site: Site, scored: Scored) -> None:
    scored(patient_id="7", issuer="A")
    scored(patient_id="7", issuer="B")
    objections.object_to_reuse(site, "7", "A")
    assert objecting(site) == {("7", "A")}
    objections.object_to_reuse(site, "7")  # nobody knows of which: better too many
    assert {("7", "A"), ("7", "B")} <= objecting(site)


def test_one_that_reaches_nobody_says_so_and_waits_for_the_patient(site: Site) -> None:
    assert all(one.studies == 0 for one in objections.object_to_reuse(site, "later", "gz"))
    with site.database.write() as connection:
        enter_patient(connection, site, "LATER", "GZ", time.time())
        enter_patient(connection, site, "LATER", "OTHER", time.time())
    assert ("LATER", "GZ") in objecting(site)
    assert ("LATER", "OTHER") not in objecting(site)
    with pytest.raises(ConfigurationError):
        objections.object_to_reuse(site, "  ")
    with pytest.raises(NotFound):
        objections.withdraw_objection(site, "nobody")


def test_the_command_says_whom_it_reaches(site: Site, scored: Scored) -> None:
    scored(patient_id="P-8", issuer="GZ")

    def run(*words: str, status: int = 0) -> str:
        said = CliRunner().invoke(app, ["objection", *words, "--folder", str(site.folder)], env={"COLUMNS": "200"})
        assert said.exit_code == status, said.output
        return said.output

    assert "NOBODY here" in run("add", "P-88", status=1)
    assert "P-8 (GZ): 1 studies are left out" in run("add", "p-8")
    listed = run("list")
    assert "not (yet) known here" in listed
    run("lift", "P-8")
    assert "GZ" not in run("list")


@given(st.text(max_size=12), st.text(max_size=6), st.text(max_size=12), st.text(max_size=6))
def test_whether_it_is_the_same_does_not_depend_on_who_is_named_first(one: str, of: str, other: str, by: str) -> None:
    assert same(one, of, other, by) == same(other, by, one, of)
    assert same(one, of, one, of)
