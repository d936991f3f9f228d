"""A hospital's own form of a version in what people type and what the coordinator is told: it is neither forgotten nor
taken for the version."""

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import insert, update
from typer.testing import CliRunner

from client.federation import holdings
from client.store import versions
from client.store.site import Site
from client.store.tables import outcome, withdrawal
from client.store.versions import Why
from models.bundle import Bundle
from models.errors import Conflict
from models.exchange import Inquiry
from scripts.vigie import app as vigie

OFFERED, FORM = "0f" * 32, "f0" * 32


@pytest.fixture
def offered(site: Site, _sealed: Bundle) -> str:
    """A second version, and this hospital's own form of it; returns the model's name. The first version serves."""
    name = _sealed.facts.name
    for digest, of, label in ((OFFERED, None, f"{name}@2"), (FORM, OFFERED, f"{name}@2+local")):
        facts = SimpleNamespace(name=name, number=2, label=label)
        versions.receive(site, SimpleNamespace(digest=digest, facts=facts), of)  # type: ignore[arg-type]
    return name


@pytest.fixture
def typed(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`vigie site WORDS`: what it says, or with which status it ends."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str, status: int = 0) -> str:
        found = CliRunner().invoke(vigie, ["site", *words, "--folder", str(site.folder)], catch_exceptions=False)
        assert found.exit_code == status, found.output
        return found.output

    return run


@pytest.fixture
def said(site: Site, scored: Callable[..., str], offered: str) -> dict[str, str]:
    """A study that each of the three has read, by digest."""
    found: dict[str, str] = {}
    for digest in (versions.serving(site, offered).digest, OFFERED, FORM):  # type: ignore[union-attr]
        found[digest] = scored(objects=True)
        with site.database.write() as connection:
            this = outcome.c.study_uid == found[digest]
            connection.execute(update(outcome).where(this).values(version_digest=digest))
    return found


def withdraw(site: Site, digest: str, state: str) -> None:
    values = {"version_digest": digest, "notice": "{}", "signer": "coordinator", "signature": "00", "state": state}
    with site.database.write() as connection:
        connection.execute(insert(withdrawal).values(**values, served=False, received_at=time.time()))


# ── What people type ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_list_of_versions_tells_a_form_from_its_version(offered, typed) -> None:
    lines = typed("versions").splitlines()
    for label, digest in ((f"{offered}@2+local", FORM), (f"{offered}@2 ", OFFERED)):
        (line,) = [line for line in lines if label in line]
        assert digest[:12] in line


def test_results_are_of_the_one_that_was_named(offered, said, typed, site) -> None:
    first = versions.serving(site, offered)
    assert first is not None
    for name, digest in ((f"{offered}@2+local", FORM), (FORM[:8], FORM), (f"{offered}@2", OFFERED), (first.label, "")):
        shown = typed("results", name)
        for each, study in said.items():
            assert (study in shown) == (each == (digest or first.digest)), name
    counted = [line for line in typed("results").splitlines() if f"{offered}@2" in line]
    assert [f"{offered}@2+local" in line for line in counted].count(True) == 1
    assert len(counted) == 2


def test_a_version_that_is_recalled_takes_its_form_with_it(offered, said, typed, site) -> None:
    versions.adopt(site, FORM, "Dr Curie")
    shown = typed("recall", "--version", f"{offered}@2", "--by", "Dr Curie")
    assert f"{offered}@2 is suspended: 1 results" in shown
    assert f"{offered}@2+local is suspended: 1 results" in shown
    assert "nothing serves now" in shown
    assert {versions.find(site, digest).state for digest in (OFFERED, FORM)} == {"withdrawn"}  # type: ignore[union-attr]
    again = typed("recall", "--version", f"{offered}@2", "--by", "Dr Curie")  # twice is once
    assert again[again.index("is suspended") :] == shown[shown.index("is suspended") :]
    with pytest.raises(Conflict, match="recalled"):
        versions.adopt(site, FORM, "Dr Curie")


def test_a_form_that_is_recalled_leaves_its_version_and_others_results(offered, said, typed, site) -> None:
    versions.adopt(site, FORM, "Dr Curie")
    shown = typed("recall", "--version", f"{offered}@2+local", "--by", "Dr Curie")
    assert f"{offered}@2 is suspended" not in shown
    assert f"{offered}@2+local is suspended: 1 results" in shown
    assert versions.find(site, FORM).state == "withdrawn"  # type: ignore[union-attr]
    assert versions.find(site, OFFERED).state == "offered"  # type: ignore[union-attr]
    versions.adopt(site, OFFERED, "Dr Curie")


# ── What the coordinator is told, and bars ───────────────────────────────────────────────────────────────────────────


def told(site: Site) -> tuple[str, str]:
    found = holdings.told(site, Inquiry(digests=(OFFERED,)))
    assert found.digests == (OFFERED,)
    return found.states[0], found.changed[0]


def test_a_version_whose_form_serves_is_told_as_adopted_and_by_what(offered, site) -> None:
    assert told(site) == ("offered", "gate")
    versions.adopt(site, FORM)
    assert told(site) == ("adopted", "gate")
    versions.retire(site, offered, "Dr Curie", Why.SAFETY)
    assert told(site)[0] == "offered"
    versions.adopt(site, FORM, "Dr Curie", Why.TRIAL)
    assert told(site) == ("adopted", "trial")


def test_a_forms_own_digest_is_told_to_nobody_who_does_not_know_it(offered, site) -> None:
    versions.adopt(site, FORM)
    serves = versions.listed(site)
    asked = Inquiry(digests=(*(one.digest for one in serves if one.form_of is None), "ab" * 32))
    assert FORM not in holdings.told(site, asked).digests


@pytest.mark.parametrize(
    ("digest", "state", "version", "form"),
    [
        (OFFERED, "obeyed", True, True),
        (OFFERED, "waiting", True, True),
        (OFFERED, "kept", False, False),
        (FORM, "obeyed", False, True),
    ],
)
def test_what_is_withdrawn_bars_its_forms_and_a_form_bars_nothing_else(
    offered, site, digest: str, state: str, version: bool, form: bool
) -> None:
    withdraw(site, digest, state)
    assert (versions.barred(site, OFFERED), versions.barred(site, FORM)) == (version, form)
    assert not versions.barred(site, versions.serving(site, offered).digest)  # type: ignore[union-attr]
    for each, bars in ((OFFERED, version), (FORM, form)):
        if bars:
            with pytest.raises(Conflict, match="withdrawn by the coordinator"):
                versions.adopt(site, each)
        else:
            versions.adopt(site, each)
