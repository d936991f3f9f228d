"""What is read off the disk as a version, at every load: signed by somebody trusted here, and what nobody outside can
have signed, this hospital's own form of a version, by this hospital too.

A form is worth what both signatures are worth: it is refused where the version that it is a form of is gone, altered or
of a signer who is trusted no more, where the local part is not the one that the hospital signed for that very version,
and where anything else in it is not that version's.
"""

import contextlib
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.store.site import Site
from models.bundle import MANIFEST, Bundle, Facts, verify, verify_facts
from models.errors import BundleRefused, ConfigurationError
from models.personal import departure
from models.signing import load_key, load_trust, make_key

SIGNER: Final = "hospital"
OWN: Final = frozenset(
    {
        "configs/metadata.json",
        "docs/README.md",
        "models/model.onnx",
        "models/weights.npz",
        "reference/expected.json",
    }
)
"""The files that other weights bring with them; all others of a form are the version's, byte for byte."""


def verified(site: Site, digest: str) -> Bundle:
    """Read a version of this hospital, believing nothing.

    Raises:
        BundleRefused: missing, altered, of another digest, or without a signature that it needs.
    """
    folder = site.versions / digest
    # it says only whose signatures are asked for; both ways end at keys that whoever wrote it does not have
    bundle = _form(site, folder) if _claims_form(folder) else verify(folder, load_trust(site.trust))
    if bundle.digest != digest:
        raise BundleRefused(f"{digest}: the files there have another digest")
    return bundle


def verified_facts(site: Site, digest: str) -> Facts:
    """What a version of this hospital says of itself, as it was signed; its other files are not read, so that nothing
    may be loaded on the strength of it.

    Raises:
        BundleRefused: missing, altered, of another digest, or without a signature that it needs.
    """
    folder = site.versions / digest
    if _claims_form(folder):
        return verified(site, digest).facts
    found, facts = verify_facts(folder, load_trust(site.trust))
    if found != digest:
        raise BundleRefused(f"{digest}: the files there have another digest")
    return facts


def countersigning_key(site: Site) -> Ed25519PrivateKey:
    """The key that this hospital signs its own forms with; made when it is first asked for, and never sent anywhere."""
    path = _key_path(site)
    if not path.exists():
        with TemporaryDirectory(dir=site.secrets, prefix=".countersign-") as making:
            make_key(Path(making) / path.name)
            with contextlib.suppress(FileExistsError):
                os.link(Path(making) / path.name, path)  # whole or not at all, and never over another one
    return load_key(path)


def _form(site: Site, folder: Path) -> Bundle:
    try:
        key = load_key(_key_path(site)).public_key()
    except ConfigurationError as error:
        raise BundleRefused(f"{folder.name}: the key that this hospital signed it with is not there: {error}") from None
    form = verify(folder, {SIGNER: key})
    said = form.facts.personal
    if said is None:
        raise BundleRefused(f"{folder.name}: it is no form of a version")
    base = verify(site.versions / said.of, load_trust(site.trust))
    if base.digest != said.of or base.facts.personal is not None:
        raise BundleRefused(f"{form.facts.label}: the version that it is a form of is not there")
    if form.facts.model_copy(update={"personal": None}) != base.facts:
        raise BundleRefused(f"{form.facts.label}: it says something else of itself than the version does")
    if _shared(form) != _shared(base):
        raise BundleRefused(f"{form.facts.label}: other files than those of the version that it is a form of")
    if why := departure(said, form.read_weights(), base.read_weights(), base.facts.changes):
        raise BundleRefused(f"{form.facts.label}: {why}")
    return form


def _shared(bundle: Bundle) -> dict[str, str]:
    files: dict[str, str] = json.loads((bundle.folder / MANIFEST).read_bytes())
    return {name: digest for name, digest in files.items() if name not in OWN}


def _claims_form(folder: Path) -> bool:
    try:
        return json.loads((folder / "configs" / "metadata.json").read_text())["vigie"].get("personal") is not None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False  # whatever it is, `verify` says what is wrong with it


def _key_path(site: Site) -> Path:
    return site.secrets / "countersign.key"
