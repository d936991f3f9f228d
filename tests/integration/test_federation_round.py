"""A whole retraining's messages over a live SuperLink, and what a hospital's ledger says of them."""

import json
import stat
import time
from pathlib import Path

import psutil
import pytest
from federation_peers import FAKE_HOSPITAL, Federation

from client.federation.supernode import CHANNEL, COMMAND, SuperNodes, make_keys
from configs.schema import CoordinatorConfig
from configs.schema import save as save_config
from models.errors import Conflict, NotFound
from server.coordinator import Coordinator
from server.launch import stop
from server.plan import Plan, save
from server.superlink import SuperLinkRefused, registered_sites

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
FLOWERS_WAIT = 3.0
"""Seconds that Flower's loops sleep where they found nothing: with them a round takes four of these waits."""
SITES = ("alpha", "beta")


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    live = Federation(tmp_path_factory.mktemp("federation"), SITES)
    yield live
    live.stop()


@pytest.fixture(autouse=True)
def honest(federation):
    for hospital in federation.hospitals.values():
        hospital.behave("honest")


def test_train_offer_and_release_reach_every_site_and_the_ledgers_agree(federation):
    state, report = federation.run("round-first")

    assert state.progress == "completed", state.details
    assert list(report["sites"]) == list(SITES)
    train, offer, release = report["exchanges"]
    assert [list(each["results"]) for each in report["exchanges"]] == [list(SITES)] * 3
    for site in SITES:
        hospital = federation.hospitals[site]
        rows = [(row["direction"], row["kind"], row["sha256"]) for row in hospital.crossings("round-first")]
        assert rows == [
            ("in", "train", train["sent"]),
            ("out", "update", train["results"][site]["sha256"]),
            ("in", "offer", offer["sent"]),
            ("out", "evidence", offer["results"][site]["sha256"]),
            ("in", "release", release["sent"]),
            ("out", "decision", release["results"][site]["sha256"]),
        ]
        assert hospital.holds()
        assert next(row["bytes"] for row in hospital.crossings("round-first") if row["kind"] == "offer") > 8 * 2**20


def test_a_hospital_speaks_to_the_superlink_and_nobody_else(federation):
    federation.run("train-wire")

    for hospital in federation.hospitals.values():
        processes = [psutil.Process(hospital.child.pid), *hospital.child.family()]
        sockets = [each for process in processes for each in process.net_connections("inet")]
        own = {each.laddr.port for each in sockets if each.status == psutil.CONN_LISTEN}
        assert len(own) == 1
        assert all(each.laddr.ip == "127.0.0.1" for each in sockets if each.status == psutil.CONN_LISTEN)
        called = {each.raddr.port for each in sockets if each.raddr and each.laddr.port not in own}
        assert called - own == {federation.superlink.port}


def test_a_hospital_finds_no_program_but_the_launcher(federation):
    hospital = federation.hospitals["alpha"]
    programs = psutil.Process(hospital.child.pid).environ()["PATH"]

    assert programs == str(hospital.folder / "flower" / "bin")
    assert [path.name for path in Path(programs).iterdir()] == [COMMAND]


def test_a_site_that_is_killed_is_answered_for_and_the_others_go_on(federation):
    federation.hospitals["alpha"].behave("killed")

    _, report = federation.run("train-killed")
    federation.hospitals["alpha"].behave("honest")
    _, after = federation.run("train-after")

    results = report["exchanges"][0]["results"]
    assert results["alpha"] == {"failure": "interrupted"}  # it was asked again, and killed again
    assert results["beta"]["kind"] == "update"
    assert after["exchanges"][0]["results"]["alpha"]["kind"] == "update"


def test_a_site_that_is_late_is_silent_and_the_others_count(federation):
    federation.hospitals["beta"].behave("slow")

    _, report = federation.run("late-one")

    results = report["exchanges"][0]["results"]
    assert results["beta"] == {"failure": "silent"}
    assert results["alpha"]["kind"] == "update"
    assert report["exchanges"][0]["seconds"] < 12


def test_a_retraining_that_was_stopped_is_launched_again(federation, eventually):
    federation.hospitals["beta"].behave("slow")
    save_config(CoordinatorConfig(superlink_port=federation.superlink.port), federation.folder / "coordinator.yaml")
    coordinator = Coordinator(federation.folder)
    plan = Plan.model_validate({"name": "late-stopped", "base": "m@1", "sites": SITES, "quorum": 2, "rounds": 1})
    folder = save(plan, federation.folder)
    with pytest.raises(NotFound, match="never launched"):
        stop(coordinator, plan.name)

    run = federation.superlink.run(plan.name)
    (folder / "runs").write_text(f"{run}\n")
    eventually(lambda: federation.superlink.state(run).progress == "running")
    stop(coordinator, plan.name)

    assert federation.superlink.wait(run, 30).progress == "stopped"
    with pytest.raises(Conflict, match="stopped"):
        stop(coordinator, plan.name)
    federation.hospitals["beta"].behave("honest")
    for name in ("round-after-stop", "round-after-that"):  # each answer belongs to its own question
        state, report = federation.run(name)
        assert state.progress == "completed", state.details
        results = [result for exchange in report["exchanges"] for result in exchange["results"].values()]
        assert not [result for result in results if "failure" in result]


def test_a_round_with_nothing_to_compute_is_short(federation):
    _, report = federation.run("round-quick")

    assert report["exchanges"][2]["seconds"] < 2 * FLOWERS_WAIT


def test_hospitals_return_by_themselves_after_the_superlink_was_killed(federation):
    federation.superlink.child.kill()
    federation.superlink.start()

    deadline = time.monotonic() + 60
    while federation.superlink.online() != list(SITES) and time.monotonic() < deadline:
        time.sleep(0.2)
    state, report = federation.run("train-again")

    assert state.progress == "completed", state.details
    assert [result["kind"] for result in report["exchanges"][0]["results"].values()] == ["update", "update"]


def test_secrets_are_for_their_owner_only(federation):
    private = [
        *federation.folder.rglob("*.key"),
        *federation.folder.rglob("*.token"),
        federation.folder / "superlink.db",
    ]
    for hospital in federation.hospitals.values():
        private += [path for path in (hospital.folder / "secrets").iterdir() if path.suffix != ".pub"]

    assert len(private) == 5
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in private), private


def test_a_stopped_site_leaves_no_process_behind(federation, tmp_path):
    hospital = federation.add(tmp_path / "gamma", "gamma")
    deadline = time.monotonic() + 30
    while "gamma" not in federation.superlink.online() and time.monotonic() < deadline:
        time.sleep(0.2)
    family = hospital.child.family()

    hospital.child.stop()

    assert family
    _, left = psutil.wait_procs(family, timeout=30)
    assert not left
    federation.superlink.unregister("gamma")
    assert "gamma" not in federation.superlink.online()


def test_a_hospital_with_one_key_takes_part_and_gets_its_second_connection_once_that_is_let_in(
    federation, tmp_path, eventually
):
    folder, superlink = tmp_path / "delta", federation.superlink
    federation.furnish(folder)
    both = make_keys(folder / "secrets")
    one = tmp_path / "one.pub"
    one.write_bytes(both.read_bytes().splitlines()[0])  # as an earlier release wrote it
    assert superlink.register("delta", one).control is None
    nodes = SuperNodes(folder, superlink.address, launcher=FAKE_HOSPITAL)
    try:
        assert eventually(lambda: nodes.look() and nodes.hindered, 90)
        assert "delta" in superlink.online()
        assert superlink.online("control") == superlink.online()  # by the one that there is

        site = superlink.register("delta", both)

        assert site == superlink.register("delta", both) == superlink.register("delta", one)
        assert site.control is not None
        with pytest.raises(Conflict):
            superlink.register("epsilon", both)
        assert eventually(lambda: nodes.look() and "delta" in superlink.online("control"), 90)
        assert "delta" in superlink.online()
        for channel, child in zip(("training", "control"), nodes.children, strict=True):
            assert psutil.Process(child.pid).environ()[CHANNEL] == channel
    finally:
        nodes.stop()
    superlink.unregister("delta")
    assert "delta" not in registered_sites(federation.folder)
    with pytest.raises(SuperLinkRefused):
        superlink.register("delta", both)  # what was shut out stays out


def test_a_registration_that_was_cut_off_is_taken_up_again(federation, tmp_path):
    public = make_keys(tmp_path / "secrets")
    first = federation.superlink.register("zeta", public)
    rows = json.loads((federation.folder / "sites.json").read_text())
    del rows["zeta"]["control"]
    (federation.folder / "sites.json").write_text(json.dumps(rows))

    assert federation.superlink.register("zeta", public) == first
    del rows["zeta"]
    (federation.folder / "sites.json").write_text(json.dumps(rows))
    assert federation.superlink.register("zeta", public) == first
    federation.superlink.unregister("zeta")
