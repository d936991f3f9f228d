"""A version that was altered, half received, or signed by a stranger is never loaded."""

import io
import shutil
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from models.bundle import Bundle, from_archive, to_archive, verify
from models.errors import BundleRefused


@pytest.fixture
def trusted(vendor_key: Ed25519PrivateKey, bundles: ModuleType) -> dict[str, object]:
    return {bundles.SIGNER: vendor_key.public_key()}


def test_one_flipped_byte_in_any_file_is_refused(bundle_folder: Path, trusted: dict) -> None:
    files = sorted(path for path in bundle_folder.rglob("*") if path.is_file())
    assert len(files) == 9
    for path in files:
        content = path.read_bytes()
        for place in (0, len(content) // 2, len(content) - 1):
            flipped = bytearray(content)
            flipped[place] ^= 0x01
            path.write_bytes(flipped)
            with pytest.raises(BundleRefused):
                verify(bundle_folder, trusted)
        path.write_bytes(content)
    assert verify(bundle_folder, trusted)


def test_a_file_too_many_or_too_few_is_refused(bundle_folder: Path, trusted: dict) -> None:
    (bundle_folder / "extra.py").write_text("print('hello')")
    with pytest.raises(BundleRefused, match=r"extra\.py"):
        verify(bundle_folder, trusted)
    (bundle_folder / "extra.py").unlink()
    (bundle_folder / "docs" / "README.md").unlink()
    with pytest.raises(BundleRefused, match="missing"):
        verify(bundle_folder, trusted)


def test_strangers_and_borrowed_names_are_refused(bundle_folder: Path, bundles: ModuleType) -> None:
    stranger = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(BundleRefused, match="not trusted"):
        verify(bundle_folder, {})
    with pytest.raises(BundleRefused, match="signature"):
        verify(bundle_folder, {bundles.SIGNER: stranger})


def test_an_archive_gives_the_same_version_and_twice_the_same(
    bundle_folder: Path, trusted: dict, tmp_path: Path
) -> None:
    sent = verify(bundle_folder, trusted)
    versions = tmp_path / "versions"
    versions.mkdir()
    received: list[Bundle] = [from_archive(to_archive(sent), versions, trusted) for _ in range(2)]
    assert {bundle.digest for bundle in received} == {sent.digest}
    assert [path.name for path in versions.iterdir()] == [sent.digest]
    assert to_archive(received[0]) == to_archive(sent)


def test_half_an_archive_and_paths_outside_leave_nothing_behind(
    bundle_folder: Path, trusted: dict, tmp_path: Path
) -> None:
    versions = tmp_path / "versions"
    versions.mkdir()
    whole = to_archive(verify(bundle_folder, trusted))
    hostile = io.BytesIO()
    with tarfile.open(fileobj=hostile, mode="w") as archive:
        member = tarfile.TarInfo("../../escaped")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    for content in (b"", b"not a tar", whole[: len(whole) // 2], whole[:512], hostile.getvalue()):
        with pytest.raises(BundleRefused):
            from_archive(content, versions, trusted)
        assert list(versions.iterdir()) == []
    assert not (tmp_path.parent / "escaped").exists()


def test_a_link_in_place_of_a_file_is_refused(bundle_folder: Path, trusted: dict, tmp_path: Path) -> None:
    card = bundle_folder / "docs" / "README.md"
    shutil.move(card, tmp_path / "card")
    card.symlink_to(tmp_path / "card")
    with pytest.raises(BundleRefused):
        verify(bundle_folder, trusted)
