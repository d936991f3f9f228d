"""The Flower app bundle (FAB): a manifest without a line of code, the same bytes on every machine.

Flower wants a bundle to start a run, and gives it to every hospital. Ours only names the two apps that are installed
already. A hospital computes its digest from the code that it has installed and refuses every other bundle, so the
bytes must not depend on a compressor or a clock: entries are stored, not deflated, and carry one fixed date.
"""

import hashlib
import io
import zipfile

NAME = "vigie"
PUBLISHER = "vigie"
VERSION = "1.0.0"
SERVER_APP = "server.app:app"
CLIENT_APP = "client.federation.app:app"

_MANIFEST = f"""\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{NAME}"
version = "{VERSION}"
description = "A manifest; the code is what each site has installed."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "{PUBLISHER}"
fab-include = ["/README.md"]

[tool.flwr.app.components]
serverapp = "{SERVER_APP}"
clientapp = "{CLIENT_APP}"

[tool.flwr.app.config]
retraining = ""
"""
_README = "This bundle holds no code. Hospitals and the coordinator run what they have installed.\n"


def bundle(files: dict[str, str] | None = None) -> bytes:
    """The bundle's bytes.

    Args:
        files: what to put in instead of our manifest; only a test that plays an attacker needs it.
    """
    contents = files or {"pyproject.toml": _MANIFEST, "README.md": _README}
    lines = [
        f"{path},{hashlib.sha256(text.encode()).hexdigest()},{len(text.encode()) * 8}"
        for path, text in contents.items()
    ]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, text in {**contents, ".info/CONTENT": "\n".join(lines)}.items():
            entry = zipfile.ZipInfo(path, date_time=(1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text)
    return buffer.getvalue()


def digest() -> str:
    """SHA-256 of our bundle: the only one that a hospital accepts."""
    return hashlib.sha256(bundle()).hexdigest()
