"""Whatever a hospital is busy with, and whenever it calls again: a withdrawal gets through."""

import subprocess

import pytest
from crashing import ROOT, Crashing, report
from validated import fill, several

from client.federation import withdrawal
from client.store import versions
from client.store.versions import Why
from configs.schema import save
from server import errands, statistics, vendors
from server.superlink import SuperLink
from server.withdrawal import pending

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def crashing(tmp_path_factory, residual, radiograph, vendor_key, bundles):
    live = Crashing(tmp_path_factory.mktemp("control"), residual)
    try:
        live.start(radiograph, vendor_key, bundles)
        yield live
    finally:
        live.stop()


def vigie(crashing, *words):
    done = subprocess.run(
        crashing._command(*words), env=crashing._environment(), cwd=ROOT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def withdraw(crashing, label):
    folder = crashing.coordinator.folder
    return vigie(crashing, "version", "withdraw", label, "--reason", "a wrong threshold", "--folder", folder)


def link(crashing):
    return SuperLink(crashing.coordinator.folder, crashing.coordinator.config.superlink_port)


def state(crashing, site, digest):
    return versions.find(crashing.sites[site], digest).state


def test_what_a_hospital_consents_to_tell_comes_to_the_vendor_of_the_version(crashing, eventually):
    folder, alpha, base = crashing.coordinator.folder, crashing.sites["alpha"], crashing.base
    fill(alpha, base.digest, several(160, 50, True))
    alpha.config.consent.statistics = "policy"
    save(alpha.config, alpha.folder / "site.yaml")
    key = vigie(
        crashing, "coordinator", "vendor", "add", "acme", "--model", base.facts.name, "--folder", folder
    ).strip()
    assert vendors.by_key(folder, key).models == (base.facts.name,)
    eventually(lambda: link(crashing).online("control") == list(crashing.sites))

    said = vigie(crashing, "coordinator", "statistics", "collect", "--folder", folder)

    assert said.splitlines()[0] == f"{base.facts.label}: 1 releases of 1 hospitals, beta: consent-missing"
    (told,) = statistics.told(folder, base.digest)
    assert told.site == "alpha"
    assert 80 < told.lines[0].n <= 160  # less those whose like, by what the AI said, is not validated
    assert "sensitivity" in vigie(crashing, "coordinator", "statistics", "show", "--folder", folder)
    assert "first given" in vigie(crashing, "site", "statistics", "releases", "--lines", "--folder", alpha.folder)


def test_a_withdrawal_takes_effect_during_a_training_which_then_ends(crashing, eventually):
    registry, base = crashing.coordinator.registry, crashing.base
    eventually(lambda: link(crashing).online("control") == list(crashing.sites))
    assert errands.run(link(crashing), "inquiry").progress == "completed"
    assert registry.aliases("residual").items() >= {("adopted-at-alpha", 1), ("adopted-at-beta", 1)}

    crashing.arm("after-training1-alpha")
    ending = crashing.launch("spring", rounds=1)
    assert crashing.wait_at("after-training1-alpha", ending), report(crashing, "spring")
    said = withdraw(crashing, base.facts.label)

    assert [line.split() for line in said.splitlines()[1:]] == [
        [site, *["reads", "no", "study", "with", "it", "any", "more"]] for site in crashing.sites
    ]
    assert {state(crashing, site, base.digest) for site in crashing.sites} == {"withdrawn"}
    assert crashing.find("trainer")  # it trains all the while
    assert ending.process.poll() is None
    assert not [line for line in crashing.journal("spring") if line["step"] == "round"]

    crashing.release("after-training1-alpha")
    assert ending.process.wait(240) == 0, report(crashing, "spring")
    lines = crashing.journal("spring")
    assert lines[-1]["step"] == "finished"
    assert [sorted(line["sites"]) for line in lines if line["step"] == "round"] == [list(crashing.sites)]


def test_a_hospital_that_was_away_is_told_when_it_calls_and_the_registry_knows_what_serves(crashing, eventually):
    registry = crashing.coordinator.registry
    (second,) = [one for one in registry.versions("residual") if one.number == 2]
    versions.adopt(crashing.sites["alpha"], second.digest, "Dr Curie", Why.TRIAL)
    crashing.commands["beta"].stop()
    eventually(lambda: link(crashing).online("control") == ["alpha"], 90)
    assert errands.run(link(crashing), "inquiry").progress == "completed"
    assert registry.aliases("residual")["adopted-at-alpha"] == 2
    assert registry.find("residual@2").tags["standing-at-alpha"] == "adopted (trial)"

    said = withdraw(crashing, "residual@2")

    assert "beta                   not reached yet" in said
    assert state(crashing, "alpha", second.digest) == "withdrawn"
    assert state(crashing, "beta", second.digest) != "withdrawn"
    crashing._run("beta", "site", "supernode", "--folder", crashing.sites["beta"].folder)
    eventually(lambda: state(crashing, "beta", second.digest) == "withdrawn", 120)
    assert withdrawal.listed(crashing.sites["beta"])[0].notice.label == "residual@2"
    assert errands.run(link(crashing), "inquiry").progress == "completed"
    assert "adopted-at-alpha" not in registry.aliases("residual")
    assert registry.find("residual@2").tags["standing-at-beta"] == "withdrawn"
    assert pending(crashing.coordinator.folder) == {}
