"""A hospital's keys and settings are whole or not there: what is made with less than a key is no secret."""

from collections.abc import Callable
from pathlib import Path

import pytest
from full import no_room

from client.doctor import examine
from client.review import pages
from client.store.site import KEY_BYTES, KEYS, Site, create, write_secret
from configs.schema import SiteConfig, load, save
from models.errors import ConfigurationError
from models.pki import make_supernode

READ: dict[str, Callable[[Site], object]] = {
    "fold.key": lambda site: site.fold("P1"),
    "pseudonym.key": lambda site: site.patient_key("P1"),
    "noise.key": lambda site: site.noise_key("a training"),
}


@pytest.mark.parametrize("keep", [True, False])
def test_a_key_for_which_there_was_no_room_is_made_when_there_is(tmp_path: Path, keep: bool) -> None:
    path = tmp_path / "some.key"
    with no_room(), pytest.raises(OSError):  # noqa: PT011  # which one depends on how the disk is full
        write_secret(path, b"a" * KEY_BYTES, keep=keep)
    assert not path.exists()
    write_secret(path, b"b" * KEY_BYTES, keep=keep)
    assert path.read_bytes() == b"b" * KEY_BYTES
    assert path.stat().st_mode & 0o077 == 0
    write_secret(path, b"c" * KEY_BYTES, keep=keep)
    assert path.read_bytes() == (b"b" if keep else b"c") * KEY_BYTES
    assert list(tmp_path.iterdir()) == [path]


def test_the_key_for_the_coordinator_is_whole_or_not_there(tmp_path: Path) -> None:
    with no_room(), pytest.raises(OSError):  # noqa: PT011
        make_supernode(tmp_path / "supernode.key")
    assert not (tmp_path / "supernode.key").exists()
    make_supernode(tmp_path / "supernode.key")


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("left", [b"", b"half of it"])
def test_what_is_left_of_a_key_is_not_used_and_said(site: Site, name: str, left: bytes) -> None:
    assert READ[name](site) == READ[name](site)
    (site.secrets / name).write_bytes(left)
    with pytest.raises(ConfigurationError, match=f"{name} is no whole key"):
        READ[name](site)
    found = next(check for check in examine(site) if check.name == "secrets")
    assert f"{name} is no whole key" in found.found
    assert "backup" in found.advice
    (site.secrets / name).unlink()
    assert f"{name} missing" in next(check for check in examine(site) if check.name == "secrets").found


def test_sessions_are_signed_with_a_whole_key_whatever_the_disk_was_like(site: Site) -> None:
    key: Callable[[Path], bytes] = pages._session_key.__wrapped__  # pyright: ignore[reportPrivateUsage]
    with no_room():
        assert len(key(site.secrets)) == KEY_BYTES  # of this process alone
    assert not (site.secrets / "session.key").exists()
    (site.secrets / "session.key").write_bytes(b"")  # as earlier releases left it
    found = key(site.secrets)
    assert len(found) == KEY_BYTES
    assert key(site.secrets) == found


def test_settings_are_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "site.yaml"
    with no_room(), pytest.raises(OSError):  # noqa: PT011
        save(SiteConfig(), path)
    assert not path.exists()
    save(SiteConfig(calling_ae_titles=["CT"]), path)
    assert load(path, SiteConfig).calling_ae_titles == ["CT"]
    path.write_text("\n")
    with pytest.raises(ConfigurationError, match="empty"):
        load(path, SiteConfig)


def test_a_folder_that_met_a_full_disk_is_finished_by_the_next_try(tmp_path: Path) -> None:
    with no_room(), pytest.raises(OSError):  # noqa: PT011
        create(tmp_path / "site", SiteConfig())
    site = create(tmp_path / "site", SiteConfig())
    try:
        assert {(site.secrets / name).stat().st_size for name in KEYS} == {KEY_BYTES}
    finally:
        site.database.close()
