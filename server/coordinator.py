"""The coordinator's folder: where everything lies."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from configs.schema import CoordinatorConfig, load, save
from models.signing import load_key, load_trust, make_key
from server.registry import Registry
from server.tracking import Storage, storage

SIGNER = "coordinator"


@dataclass(frozen=True)
class Coordinator:
    """A coordinator's folder, opened.

    Layout: `coordinator.yaml`, `signing.key` and `.pub`, `trust/` (vendors' public keys and our own), `pki/`,
    `superlink.db`, `mlflow.db`, `mlartifacts/`, `versions/`, `retrainings/NAME/`, `secrets/`, `logs/`.
    """

    folder: Path

    @cached_property
    def config(self) -> CoordinatorConfig:
        return load(self.folder / "coordinator.yaml", CoordinatorConfig)

    @property
    def mlflow_uri(self) -> str:
        return f"http://{self.config.mlflow_host}:{self.config.mlflow_port}"

    @property
    def storage(self) -> Storage:
        return storage(self.folder, self.config)

    @cached_property
    def registry(self) -> Registry:
        return Registry(self.mlflow_uri)

    @cached_property
    def signing_key(self) -> Ed25519PrivateKey:
        return load_key(self.folder / "signing.key")

    @property
    def trusted(self) -> dict[str, Ed25519PublicKey]:
        return load_trust(self.folder / "trust")

    @property
    def versions(self) -> Path:
        return self.folder / "versions"


def create(folder: Path, config: CoordinatorConfig) -> Coordinator:
    """Make a coordinator's folder and its signing key; what is there already is kept."""
    folder = folder.resolve()
    for name in ("trust", "versions", "retrainings", "logs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if not (folder / "coordinator.yaml").exists():
        save(config, folder / "coordinator.yaml")
    (folder / "secrets").mkdir(mode=0o700, exist_ok=True)
    make_key(folder / "signing.key")
    (folder / "trust" / f"{SIGNER}.pub").write_bytes((folder / "signing.pub").read_bytes())
    return Coordinator(folder)
