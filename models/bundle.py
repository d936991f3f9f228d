"""A model version on disk: a MONAI bundle with intended use, card, digest and signature.

    configs/metadata.json     MONAI's metadata, plus the block "vigie" (`Facts`)
    configs/inference.json    the preprocessing, as MONAI transforms by name
    models/model.onnx         what runs
    models/weights.npz        what is retrained; a version may have none
    docs/README.md            the model card
    models/novelty.npz        refuses images unlike its training cohort's; a version may have none
    models/volume_novelty.npz the same of a version that outlines in volumes
    reference/                an input and what the version answers to it: the self test
    manifest.json             path → SHA-256 of every file above
    signature.json            who signed the manifest's digest

The digest of a version is the SHA-256 of `manifest.json`; nothing in the folder can change without changing it, and
`verify` accepts no file that the manifest does not name.
"""

import base64
import binascii
import hashlib
import io
import json
import tarfile
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.change_plan import DEFAULT, ChangePlan
from models.coding import Coding
from models.cohort import Cohort
from models.errors import BundleRefused
from models.intended_use import IntendedUse
from models.novelty import Novelty
from models.novelty import load as load_novelty
from models.personal import Personal
from models.segmentation import Segmentation
from models.signing import Trusted, holds
from models.stats.calibration import Calibration
from models.validation import told
from models.volume_novelty import VolumeNovelty
from models.volume_novelty import load as load_volume_novelty

MANIFEST = "manifest.json"
SIGNATURE = "signature.json"
NOVELTY = "models/novelty.npz"
VOLUME_NOVELTY = "models/volume_novelty.npz"
WEIGHTS = "models/weights.npz"
METADATA = "configs/metadata.json"
MAX_ARCHIVE_BYTES = 512 * 1024 * 1024


class Facts(BaseModel):
    """What a version says of itself; the block "vigie" of MONAI's metadata."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")
    number: int = Field(ge=1)
    title: str
    vendor: str
    intended_use: IntendedUse
    finding: Coding
    threshold: float = Field(ge=0, le=1, description="the vendor's operating threshold")
    threshold_rule: Literal["balanced"] = Field(
        description="how a site sets its own threshold on its training patients: balanced is where sensitivity and "
        "specificity are closest"
    )
    calibration: Calibration | None = Field(
        default=None, description="of these very weights, on patients whom they were not trained on"
    )
    cohort: Cohort | None = Field(default=None, description="whom it was trained on; None: it does not say")
    input_shape: tuple[int, int, int] | tuple[int, int, int, int] = Field(
        description="(channels, rows, columns), or (channels, *window) of a version that outlines in volumes"
    )
    segmentation: Segmentation | None = Field(default=None, description="only of a version that outlines in volumes")
    rank: int = Field(default=100, ge=1, description="the vendor's order among versions that fit a study, lower first")
    network: str
    network_facts: dict[str, Any]
    precision: Literal["float32", "float16", "int8"] = Field(
        default="float32", description="in which the network computes; other than float32: quantized from its parent"
    )
    parent: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$", description="digest it was made from")
    retraining: str | None = Field(default=None, description="the retraining that made it")
    certified: bool = Field(default=False, description="a certificate for this very digest exists")
    personal: Personal | None = Field(
        default=None, description="only of a hospital's own form of a version; it never leaves that hospital"
    )
    change_plan: ChangePlan | None = Field(
        default=None, description="what a retraining of this version may change; absent: weights alone, of any layer"
    )

    @model_validator(mode="after")
    def _one_task(self) -> "Facts":
        window = self.segmentation.window if self.segmentation else None
        if len(self.input_shape) != (3 if window is None else 4) or (window and self.input_shape[1:] != window):
            raise ValueError("input_shape is not that of the task")
        return self

    @property
    def label(self) -> str:
        """NAME@NUMBER, as people and the registry call it."""
        return label(self.name, self.number, self.personal is not None)

    @property
    def edition(self) -> str:
        """The number as results state it; `+local` where a hospital has put layers of its own into the version."""
        return edition(self.number, self.personal is not None)

    @property
    def changes(self) -> ChangePlan:
        """The change plan, or the one of versions without."""
        return self.change_plan or DEFAULT


@dataclass(frozen=True, slots=True)
class Bundle:
    """A model version whose files are what its digest says."""

    folder: Path
    digest: str
    signer: str
    facts: Facts

    @property
    def onnx(self) -> Path:
        return self.folder / "models" / "model.onnx"

    @property
    def has_weights(self) -> bool:
        """Whether it ships the weights that its network was made of; a quantized version, and some vendors', do not."""
        return (self.folder / WEIGHTS).exists()

    def read_weights(self, but: Collection[str] = ()) -> dict[str, NDArray[Any]]:
        """The weights by name, as they were trained.

        Args:
            but: names of those that are not wanted.

        Raises:
            BundleRefused: it ships none, or they cannot be read.
        """
        if not self.has_weights:
            raise BundleRefused(f"{self.facts.label}: ships no weights, so nothing can be trained from it")
        try:
            with np.load(self.folder / WEIGHTS, allow_pickle=False) as file:
                return {name: file[name] for name in file.files if name not in but}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise BundleRefused(f"{self.facts.label}: the weights cannot be read ({type(error).__name__})") from error

    def read_novelty(self) -> Novelty | None:
        """The check of an image against the training cohort, None where the version ships none.

        Raises:
            BundleRefused: the file is no such check.
        """
        path = self.folder / NOVELTY
        return load_novelty(path) if path.exists() else None

    def read_volume_novelty(self) -> VolumeNovelty | None:
        """The check of a volume against the training cohort, None where the version ships none.

        Raises:
            BundleRefused: the file is no such check.
        """
        path = self.folder / VOLUME_NOVELTY
        return load_volume_novelty(path) if path.exists() else None

    @property
    def preprocessing(self) -> list[dict[str, Any]]:
        """The declared transforms, in order."""
        return json.loads((self.folder / "configs" / "inference.json").read_text())["preprocessing"]["transforms"]

    @property
    def card(self) -> str:
        return (self.folder / "docs" / "README.md").read_text()

    @property
    def device_uid(self) -> str:
        """UID of this version as a device."""
        return device_uid(self.digest)


def edition(number: int, personal: bool) -> str:
    """A version's number; of a hospital's own form of it with `+local`."""
    return f"{number}+local" if personal else str(number)


def label(name: str, number: int, personal: bool = False) -> str:
    """NAME@NUMBER; of a hospital's own form of the version with `+local`."""
    return f"{name}@{edition(number, personal)}"


def device_uid(digest: str) -> str:
    """UID of a version as a device: another digest, another device (PS3.5 B.2, UUID-derived)."""
    return f"2.25.{int(digest[:32], 16)}"


def seal(folder: Path, key: Ed25519PrivateKey, signer: str) -> Bundle:
    """Write manifest and signature over what lies in `folder`, and read it back.

    Args:
        signer: the name under which hospitals trust the key (`trust/SIGNER.pub`).
    """
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in (MANIFEST, SIGNATURE)
    }
    manifest = json.dumps(files, sort_keys=True, indent=0).encode()
    (folder / MANIFEST).write_bytes(manifest)
    digest = hashlib.sha256(manifest).hexdigest()
    signature = base64.b64encode(key.sign(_signed(digest))).decode()
    (folder / SIGNATURE).write_text(json.dumps({"signer": signer, "signature": signature}))
    return verify(folder, {signer: key.public_key()})


def verify(folder: Path, trusted: Trusted) -> Bundle:
    """Read a version, believing nothing: every byte against the manifest, the manifest against a trusted signature.

    Raises:
        BundleRefused: a file is altered, missing or not in the manifest; the signer is unknown or the signature is
            not theirs; the metadata is incomplete.
    """
    digest, signer, files = _sealed(folder, trusted)
    present = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    if unexpected := sorted(present - files.keys() - {MANIFEST, SIGNATURE}):
        raise BundleRefused(f"{folder.name}: {unexpected[0]} is not in the manifest")
    for name, expected in files.items():
        path = folder / name
        if name not in present or path.is_symlink():
            raise BundleRefused(f"{folder.name}: {name} is missing")
        if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise BundleRefused(f"{folder.name}: {name} is altered")
    try:
        facts = _facts_in((folder / METADATA).read_bytes())
    except (OSError, ValueError, KeyError, ValidationError) as error:
        raise BundleRefused(f"{folder.name}: incomplete metadata: {told(error)}") from error
    return Bundle(folder, digest, signer, facts)


def verify_facts(folder: Path, trusted: Trusted) -> tuple[str, Facts]:
    """What a version's signature says of it, and its digest, where nothing is to be loaded from it: no other file of it
    is looked at.

    Raises:
        BundleRefused: the signer is unknown or the signature is not theirs; the metadata is altered or incomplete.
    """
    digest, _, files = _sealed(folder, trusted)
    try:
        content = (folder / METADATA).read_bytes()
        if hashlib.sha256(content).hexdigest() != files.get(METADATA):
            raise BundleRefused(f"{folder.name}: {METADATA} is altered")
        return digest, _facts_in(content)
    except (OSError, ValueError, KeyError, ValidationError) as error:
        raise BundleRefused(f"{folder.name}: incomplete metadata: {told(error)}") from error


def read_layout(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and number type of the weights of a version, by name, from their headers alone; nothing is verified.

    Raises:
        BundleRefused: it ships none, or they cannot be read.

    Source: numpy.lib.format, and numpy.savez, which names the files after the arrays.
    """
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    try:
        with zipfile.ZipFile(folder / WEIGHTS) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    if np.lib.format.read_magic(file) != (1, 0):
                        raise ValueError("another format")
                    shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                    found[name.removesuffix(".npy")] = (shape, dtype.name)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BundleRefused(f"{folder.name}: the weights cannot be read ({type(error).__name__})") from error
    return found


def _sealed(folder: Path, trusted: Trusted) -> tuple[str, str, dict[str, str]]:
    """Digest, signer and files of a version, by a manifest that a trusted signature covers."""
    try:
        manifest = (folder / MANIFEST).read_bytes()
        files: dict[str, str] = json.loads(manifest)
        seal_ = json.loads((folder / SIGNATURE).read_text())
        signer, signature = str(seal_["signer"]), base64.b64decode(seal_["signature"], validate=True)
    except (OSError, ValueError, KeyError, TypeError, binascii.Error) as error:
        raise BundleRefused(f"{folder.name}: no readable manifest and signature ({type(error).__name__})") from error
    digest = hashlib.sha256(manifest).hexdigest()
    if signer not in trusted:
        raise BundleRefused(f"{folder.name}: signed by {signer!r}, who is not trusted here")
    if not holds(trusted[signer], signature, _signed(digest)):
        raise BundleRefused(f"{folder.name}: the signature is not {signer}'s")
    return digest, signer, files


def _facts_in(metadata: bytes) -> Facts:
    return Facts.model_validate(json.loads(metadata)["vigie"])


def to_archive(bundle: Bundle) -> bytes:
    """The version as one uncompressed tar: the same bytes for the same version."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted(bundle.folder.rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                member = tarfile.TarInfo(path.relative_to(bundle.folder).as_posix())
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def from_archive(content: bytes, versions: Path, trusted: Trusted) -> Bundle:
    """Unpack a received version under `versions/DIGEST`, verified; half an archive leaves nothing behind.

    Raises:
        BundleRefused: not an archive, a path outside the folder, or anything `verify` refuses.
    """
    if len(content) > MAX_ARCHIVE_BYTES:
        raise BundleRefused(f"the archive has {len(content)} bytes, more than {MAX_ARCHIVE_BYTES}")
    incoming = versions / f".incoming-{hashlib.sha256(content).hexdigest()[:16]}"
    _remove(incoming)
    try:
        _extract(content, incoming)
        bundle = verify(incoming, trusted)
        final = versions / bundle.digest
        if not final.exists():
            incoming.rename(final)
        return verify(final, trusted)
    finally:
        _remove(incoming)


def _extract(content: bytes, folder: Path) -> None:
    folder.mkdir(parents=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if not member.isfile() or name.is_absolute() or ".." in name.parts:
                    raise BundleRefused(f"the archive holds {member.name!r}, which is no plain file inside it")
                source = archive.extractfile(member)
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(source.read() if source else b"")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise BundleRefused(f"not a readable archive ({type(error).__name__})") from error


def _remove(folder: Path) -> None:
    if folder.exists():
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        folder.rmdir()


def _signed(digest: str) -> bytes:
    # the purpose is part of what is signed, so that no other signature of the key can be passed off as a version's
    return f"vigie model version {digest}".encode()
