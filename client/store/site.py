"""A hospital's folder: where everything lies, and the keys that never leave it."""

import fcntl
import hashlib
import hmac
import secrets
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from client.cores import allowed
from client.store.database import Database
from client.store.ledger import Ledger
from configs.schema import SiteConfig, load, save
from models import durable, flower_app
from models.errors import ConfigurationError

Fold = Literal["train", "gate", "test"]
KEYS: Final = ("fold.key", "pseudonym.key", "noise.key")
"""What a hospital's folds, pseudonyms and noise are drawn with: made once, and no other does."""
KEY_BYTES: Final = 32


@dataclass(frozen=True)
class Site:
    """One hospital's folder, opened.

    Layout: `site.yaml`, `site.db`, `secrets/`, `trust/`, `archive/`, `tensors/`, `versions/`, `trained/`,
    `retrainings/`, `engines/`, `measured/`, `logs/`.
    """

    folder: Path

    @property
    def archive(self) -> Path:
        return self.folder / "archive"

    @property
    def tensors(self) -> Path:
        return self.folder / "tensors"

    @property
    def versions(self) -> Path:
        return self.folder / "versions"

    @property
    def trained(self) -> Path:
        """Which images each retraining learned from here."""
        return self.folder / "trained"

    @property
    def measured(self) -> Path:
        return self.folder / "measured"

    @property
    def engines(self) -> Path:
        """What this machine made and measured of its versions, by digest; may be deleted at any time."""
        return self.folder / "engines"

    @property
    def served(self) -> bool:
        """Whether a node runs on this folder."""
        with suppress(FileNotFoundError), (self.folder / "node.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @property
    def threads(self) -> int:
        """Threads of one computation: as set, else by the cores that this process may use; never more than those."""
        cores = allowed()
        return min(self.config.inference_threads or cores.to_compute, cores.count)

    @property
    def trust(self) -> Path:
        return self.folder / "trust"

    @property
    def retrainings(self) -> Path:
        """What this hospital keeps of retrainings between their rounds; may be deleted at any time."""
        return self.folder / "retrainings"

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    @property
    def logs(self) -> Path:
        return self.folder / "logs"

    @cached_property
    def config(self) -> SiteConfig:
        return load(self.folder / "site.yaml", SiteConfig)

    @cached_property
    def database(self) -> Database:
        return Database(self.folder / "site.db")

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.database)

    def patient_key(self, patient_id: str, issuer: str = "") -> str:
        """The keyed hash that stands for a patient outside the `patient` table: 64 hex digits."""
        return self._keyed("pseudonym.key", f"{issuer}\x1f{patient_id}")

    def study_key(self, study_uid: str) -> str:
        """The keyed hash that stands for a study in logs and in the ledger: 16 hex digits."""
        return self._keyed("pseudonym.key", f"study\x1f{study_uid}")[:16]

    def account_key(self, name: str) -> str:
        """The keyed hash that stands for somebody's account in the ledger: 16 hex digits."""
        return self._keyed("pseudonym.key", f"account\x1f{name}")[:16]

    def reference_key(self, reference: str) -> str:
        """The keyed hash that stands in the ledger for what another system calls something: 16 hex digits."""
        return self._keyed("pseudonym.key", f"reference\x1f{reference}")[:16]

    def noise_key(self, occasion: str) -> bytes:
        """What the noise of one private training is drawn from: 32 bytes that nobody outside can know."""
        return bytes.fromhex(self._keyed("noise.key", occasion))

    def fold(self, patient_id: str, issuer: str = "") -> Fold:
        """Where all of a patient's studies go, for good: 60 % train, 20 % gate, 20 % test."""
        share = int(self._keyed("fold.key", f"{issuer}\x1f{patient_id}")[:16], 16) / 16**16
        return "train" if share < 0.6 else "gate" if share < 0.8 else "test"

    def chance(self, purpose: str, what: str) -> float:
        """A number from 0 to below 1 that is drawn for this purpose and this thing, once and for good."""
        return int(self._keyed("fold.key", f"{purpose}\x1f{what}")[:13], 16) / 16**13

    def _keyed(self, name: str, text: str) -> str:
        return hmac.new(self._key(name), text.encode(), hashlib.sha256).hexdigest()

    def _key(self, name: str) -> bytes:
        path = self.secrets / name
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            raise ConfigurationError(f"{path} is missing: run `vigie site init`, or restore the backup") from None
        if len(key) < KEY_BYTES:  # what is made with less is no secret
            raise ConfigurationError(f"{path} is no whole key, {len(key)} bytes: restore the backup")
        return key


def create(folder: Path, config: SiteConfig, fold_key: bytes | None = None) -> Site:
    """Make a hospital's folder, its keys and its database; what is there already is kept.

    Args:
        fold_key: 32 bytes to draw the folds with; random when not given (only the demo and tests fix it).

    Raises:
        ConfigurationError: a node runs on the folder, whose database is of another release.
    """
    site = Site(folder.resolve())
    if site.served:
        try:
            site.database.check()
        except ConfigurationError as error:
            raise ConfigurationError(f"a node runs on {site.folder}: stop it first, for {error}") from error
    for path in (site.folder, site.archive, site.tensors, site.versions, site.trust, site.secrets, site.logs):
        path.mkdir(parents=True, exist_ok=True)
    site.secrets.chmod(0o700)
    for name in KEYS:
        content = fold_key if name == "fold.key" and fold_key else secrets.token_bytes(KEY_BYTES)
        write_secret(site.secrets / name, content, keep=True)
    if not (site.folder / "site.yaml").exists():
        save(config, site.folder / "site.yaml")
    # the one Flower bundle that may start anything here: the manifest of the code that is installed
    if not site.served:
        site.database.migrate()
    (site.trust / "app.sha256").write_text(flower_app.digest() + "\n")
    return site


def write_secret(path: Path, content: bytes, *, keep: bool = False) -> None:
    """Write a file that only its owner may read, whole or not at all; with `keep`, an existing one stays as it is.

    Raises:
        OSError: the disk is full or failing.
    """
    if keep:
        durable.make(path, content)
        return
    with durable.replacing(path, 0o600) as file:
        file.write(content)
