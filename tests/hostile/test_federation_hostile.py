"""A hostile coordinator, a hostile bundle, a stranger's node, and a hospital's code that fails with a name in it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from fake_hospital import CANARY
from federation_peers import ROOT, Federation

from models import flower_app
from models.exchange import CODES

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    live = Federation(tmp_path_factory.mktemp("federation"), ("alpha",))
    yield live
    live.stop()


@pytest.fixture(autouse=True)
def honest(federation):
    federation.hospitals["alpha"].behave("honest")


def manifest(clientapp: str = flower_app.CLIENT_APP) -> str:
    import zipfile
    from io import BytesIO

    ours = zipfile.ZipFile(BytesIO(flower_app.bundle())).read("pyproject.toml").decode()
    return ours.replace(flower_app.CLIENT_APP, clientapp)


def hostile_bundle(marker: Path) -> bytes:
    """A bundle that brings its own `client`; each of its modules leaves a mark when it is imported."""
    code = f"open({str(marker)!r}, 'a').write(__name__ + chr(10))\n"
    app = code + "from flwr.clientapp import ClientApp\napp = ClientApp()\n"
    files = {"pyproject.toml": manifest(), "client/__init__.py": code, "client/federation/__init__.py": code}
    return flower_app.bundle({**files, "client/federation/app.py": app})


def test_a_bundle_that_brings_code_never_runs_at_a_hospital(federation, tmp_path):
    marker = tmp_path / "ran"

    _, report = federation.run("train-hostile", app=hostile_bundle(marker))

    assert report["exchanges"][0]["results"] == {"alpha": {"failure": "bundle-refused"}}
    assert not marker.exists()
    rows = federation.hospitals["alpha"].crossings("train-hostile")
    assert [(row["event"], row["code"]) for row in rows] == [
        ("border.refused", "bundle-refused"),
        ("border.crossed", "bundle-refused"),
    ]
    installed = [*(federation.hospitals["alpha"].folder / "flower").rglob("*.py")]
    assert not installed, "a bundle was unpacked at a hospital"


def test_the_same_bundle_does_run_with_flower_alone(tmp_path):
    """Without this, the test above could pass because its bundle is harmless."""
    marker = tmp_path / "ran"
    (tmp_path / "hostile.fab").write_bytes(hostile_bundle(marker))
    script = """
import hashlib, pathlib, sys
from flwr.cli.install import install_from_fab
from flwr.clientapp.utils import get_load_client_app_fn
fab = pathlib.Path(sys.argv[1]).read_bytes()
install_from_fab(fab, skip_prompt=True)
get_load_client_app_fn("", None, True)("vigie/vigie", "1.0.0", hashlib.sha256(fab).hexdigest())
"""
    environment = {"FLWR_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT), "FLWR_TELEMETRY_ENABLED": "0"}
    command = [sys.executable, "-c", script, str(tmp_path / "hostile.fab")]

    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=60)

    assert "client.federation.app" in marker.read_text()


@pytest.mark.parametrize("module", ["antigravity:app", "client.store.site:create", "os:system"])
def test_a_bundle_that_names_another_module_is_refused(federation, module):
    bundle = flower_app.bundle({"pyproject.toml": manifest(module), "README.md": "harmless\n"})

    _, report = federation.run("train-othermodule", app=bundle)

    assert report["exchanges"][0]["results"] == {"alpha": {"failure": "bundle-refused"}}


def test_a_node_whose_key_is_not_registered_is_refused(federation, tmp_path):
    stranger = federation.add(tmp_path / "stranger", "stranger", register=False)
    try:
        assert stranger.child.wait(30) != 0
        assert federation.superlink.online() == ["alpha"]
        assert stranger.crossings() == []
    finally:
        stranger.child.stop()


def test_messages_that_nobody_honest_sends_are_refused_by_a_code_alone(federation):
    state, report = federation.run("hostile-messages")

    assert state.progress == "completed", state.details
    answered = {each["case"]: each["reply"] for each in report["exchanges"]}
    for case in ("other-category", "other-action"):
        assert answered.pop(case) == ["error 200 failed"]
    assert answered.pop("slip-to-nowhere") == ["error 200 interrupted"]
    assert len(answered) == 13
    for case, (reply,) in answered.items():
        content = json.loads(reply)
        assert content["arrays"] == [], case
        assert set(content["config"]) == {"vigie"}
        fields = content["config"]["vigie"]
        assert set(fields) == {"kind", "wire", "to", "code"}, case
        assert fields["kind"] == "refusal"
        assert fields["code"] == "border-refused", case
    rows = federation.hospitals["alpha"].crossings()
    assert federation.hospitals["alpha"].holds()
    assert all(row["code"] is None or row["code"] in CODES for row in rows)


def test_what_goes_wrong_in_a_hospital_leaves_as_a_code(federation):
    """One message after the other in one retraining; after the last, which works, none of them left a trace."""
    expected = {
        "raises": "failed",
        "exits": "failed",
        "killed": "interrupted",
        "cannot-open": "unavailable",
        "extra": "reply-refused",
        "not-finite": "reply-refused",
        "other-round": "reply-refused",
    }
    # whose process was killed is asked twice more
    each = [name for name in expected for _ in range(3 if name == "killed" else 1)]
    federation.hospitals["alpha"].behave(" ".join([*each, "honest"]))

    _, report = federation.run(f"several-{len(expected) + 1}")

    *failed, last = (exchange["results"]["alpha"] for exchange in report["exchanges"])
    assert dict(zip(expected, failed, strict=True)) == {name: {"failure": code} for name, code in expected.items()}
    assert last["kind"] == "update"


def test_no_name_of_a_patient_ever_reached_the_coordinator(federation):
    """After all of the above: the canary in the handlers' exceptions is nowhere in the coordinator's folder."""
    federation.hospitals["alpha"].behave("raises")
    federation.run("train-canary")
    needles = [CANARY.encode(), CANARY.split("^")[0].encode()]

    found = [
        path
        for folder in (federation.folder, federation.hospitals["alpha"].folder / "logs")
        for path in folder.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    ]

    assert found == []


def test_the_administration_takes_nobody_without_the_secret(federation):
    """Flower's control API takes anyone who trusts the certificate; here it does not."""
    import ssl

    trust = ssl.create_default_context(cafile=str(federation.folder / "pki" / "ca.crt"))
    base = f"https://{federation.superlink.address}"
    with httpx.Client(verify=trust, base_url=base) as client:
        for path in ("/v1/control/start-run", "/v1/control/register-node", "/v1/control/list-nodes", "/docs", "/"):
            for headers in ({}, {"x-vigie-control": "0" * 64}):
                assert client.post(path, content=b"", headers=headers).status_code == 403


def test_a_hospital_that_was_shut_out_stays_out(federation, tmp_path):
    hospital = federation.add(tmp_path / "delta", "delta")
    deadline = time.monotonic() + 30
    while "delta" not in federation.superlink.online() and time.monotonic() < deadline:
        time.sleep(0.2)

    federation.superlink.unregister("delta")
    hospital.child.stop()
    again = federation.hospitals.pop("delta")

    from federation_peers import FAKE_HOSPITAL, free_port

    from client.federation import supernode
    from client.federation.supernode import SuperNodeSettings

    child = supernode.start(SuperNodeSettings(again.folder, federation.superlink.address, free_port()), FAKE_HOSPITAL)
    try:
        assert child.wait(30) != 0
    finally:
        child.stop()
