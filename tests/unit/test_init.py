"""`vigie site init`: what cannot work is said before anything is made, and a node that runs is left alone."""

import fcntl
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import text

from client.store.site import Site, create
from configs.schema import SiteConfig
from models.errors import ConfigurationError
from scripts import vigie


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, trust: Path) -> int | str | None:
    """Its exit status."""
    said = ["site", "init", "--folder", str(folder), "--name", "nih", "--pacs", "PACS@10.0.0.5:104"]
    monkeypatch.setattr(sys, "argv", ["vigie", *said, "--trust", str(trust)])
    with pytest.raises(SystemExit) as ended:
        vigie.main()
    return ended.value.code


@pytest.mark.parametrize("name", ["vendor", "vendor.pem", "vendor.pub"])
def test_a_key_that_would_not_be_trusted_ends_it_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], vendor_key: object, name: str
) -> None:
    public = vendor_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    (tmp_path / name).write_bytes(b"garbage" if name.endswith(".pub") else public)
    assert command(monkeypatch, tmp_path / "node", tmp_path / name) == 2
    assert name in capsys.readouterr().err
    assert not (tmp_path / "node").exists()
    (tmp_path / "vendor.pub").write_bytes(public)  # the next try has nothing in its way
    assert command(monkeypatch, tmp_path / "node", tmp_path / "vendor.pub") == 0


def test_what_the_system_refuses_is_one_line(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert command(monkeypatch, tmp_path / "file", site.trust / "vendor.pub") == 1
    [line] = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "file") in line


def test_a_database_is_not_brought_to_another_release_under_a_node_that_runs(site: Site) -> None:
    def release() -> str:
        with site.database.read() as connection:
            return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())

    present = release()
    with (site.folder / "node.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as the node does
        create(site.folder, SiteConfig())  # of the same release: nothing to be done
        with site.database.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = 'another'"))
        with pytest.raises(ConfigurationError, match="stop it first"):
            create(site.folder, SiteConfig())
        assert release() == "another"
        with site.database.write() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = :present"), {"present": present})
    create(site.folder, SiteConfig())
    assert release() == present
