"""The bundle that starts a run holds no code and has the same bytes everywhere, or hospitals would refuse it."""

import io
import zipfile

from client.federation.launcher import Launcher, approve, approved_digest
from models import flower_app

DIGEST = "995f45886d519d79fda8158c6da90161857cb720085ae6b432d2755536e36607"


def test_the_digest_changes_only_knowingly():
    """Hospitals have approved this one: a change here needs every hospital's consent."""
    assert flower_app.digest() == DIGEST


def test_the_bundle_is_a_manifest_and_a_readme():
    entries = zipfile.ZipFile(io.BytesIO(flower_app.bundle())).infolist()

    assert [entry.filename for entry in entries] == ["pyproject.toml", "README.md", ".info/CONTENT"]
    assert all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)


def test_flower_reads_it():
    from flwr.common.config import get_fab_config, validate_config

    config = get_fab_config(flower_app.bundle())

    assert validate_config(config, check_module=False)[:2] == (True, [])
    assert config["tool"]["flwr"]["app"]["components"]["clientapp"] == "client.federation.app:app"


def test_a_hospital_that_approved_nothing_runs_nothing(tmp_path):
    launcher = Launcher("127.0.0.1:1", tmp_path, lambda: True)

    assert approved_digest(tmp_path) is None
    assert launcher.refuses("flwr-clientapp", flower_app.bundle()) == "bundle-refused"
    approve(tmp_path, "")
    assert launcher.refuses("flwr-clientapp", b"") == "bundle-refused"
    approve(tmp_path, flower_app.digest())
    assert launcher.refuses("flwr-clientapp", flower_app.bundle()) is None
    assert launcher.refuses("flwr-agentapp", flower_app.bundle()) == "bundle-refused"
    assert launcher.refuses("flwr-clientapp", flower_app.bundle() + b"\n") == "bundle-refused"
