"""Who is told how versions do: a vendor, the models that are theirs, and the key that they sign in with.

A key is shown once; its hash is kept. A model is one vendor's alone, with all versions that were ever made of it.
"""

import hashlib
import hmac
import json
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from models import durable
from models.durable import replacing
from models.errors import ConfigurationError, Conflict, NotFound, NotSignedIn

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.ASCII)
_LETTERS: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # 32 of them: none that is easily taken for another


@dataclass(frozen=True, slots=True)
class Vendor:
    """One who is let in.

    Attributes:
        models: names of models, in order.
        since: seconds since the epoch.
    """

    name: str
    models: tuple[str, ...]
    key_sha256: str
    since: float


def listed(folder: Path) -> list[Vendor]:
    """All, by name.

    Args:
        folder: the coordinator's.
    """
    try:
        rows = json.loads(_path(folder).read_text())
    except FileNotFoundError:
        return []
    return [Vendor(name, tuple(row["models"]), row["key_sha256"], row["since"]) for name, row in sorted(rows.items())]


def add(folder: Path, name: str, models: list[str]) -> str:
    """Let a vendor in and give back their key: shown once, kept nowhere. Models are added to those they have.

    A vendor who is in already keeps their key, and nothing is given back: the empty text.

    Raises:
        ConfigurationError: a name that is none.
        Conflict: a model is another vendor's.
    """
    for text in (name, *models):
        if not _NAME.fullmatch(text):
            raise ConfigurationError(f"{text!r}: names are of small letters, digits and hyphens")
    known = {one.name: one for one in listed(folder)}
    for other in known.values():
        if other.name != name and (taken := set(models) & set(other.models)):
            raise Conflict(f"{', '.join(sorted(taken))}: of {other.name} already")
    before = known.get(name)
    if before is None and not models:
        raise ConfigurationError("name the models of a new vendor (--model)")
    if before is not None:
        found = Vendor(name, tuple(sorted({*before.models, *models})), before.key_sha256, before.since)
        _write(folder, {**known, name: found})
        return ""
    key = secrets.token_urlsafe(32)
    _write(folder, {**known, name: Vendor(name, tuple(sorted(set(models))), _hash(key), time.time())})
    return key


def renew(folder: Path, name: str) -> str:
    """Give a vendor another key; the old one and every session opened with it end.

    Raises:
        NotFound: there is no such vendor.
    """
    known, key = _known(folder, name), secrets.token_urlsafe(32)
    one = known[name]
    _write(folder, {**known, name: Vendor(name, one.models, _hash(key), one.since)})
    return key


def remove(folder: Path, name: str) -> None:
    """Shut a vendor out; what hospitals told of their versions stays.

    Raises:
        NotFound: there is no such vendor.
    """
    _write(folder, {key: one for key, one in _known(folder, name).items() if key != name})


def by_key(folder: Path, key: str) -> Vendor:
    """Whose key this is.

    Raises:
        NotSignedIn: nobody's.
    """
    return by_hash(folder, _hash(key))


def by_hash(folder: Path, key_sha256: str) -> Vendor:
    """As `by_key`, for a session that was opened with the key of this hash."""
    for one in listed(folder):
        if hmac.compare_digest(one.key_sha256.encode(), key_sha256.encode()):
            return one
    raise NotSignedIn("sign in with a key of this coordinator")


def pseudonym(folder: Path, vendor: str, site: str) -> str:
    """What a hospital is called towards a vendor: the same each time, and another towards another vendor.

    Whoever knows all hospitals could otherwise try their names; hence a key, which never leaves.
    """
    path = folder / "secrets" / "pseudonyms.key"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    durable.make(path, secrets.token_bytes(32))
    found = hmac.digest(path.read_bytes(), json.dumps([vendor, site]).encode(), "sha256")
    return "site-" + "".join(_LETTERS[byte % 32] for byte in found[:8])


def _known(folder: Path, name: str) -> dict[str, Vendor]:
    known = {one.name: one for one in listed(folder)}
    if name not in known:
        raise NotFound(f"no vendor {name!r}: `vigie coordinator vendor list` shows them")
    return known


def _write(folder: Path, vendors: Mapping[str, Vendor]) -> None:
    rows = {name: {key: value for key, value in asdict(one).items() if key != "name"} for name, one in vendors.items()}
    with replacing(_path(folder), 0o600) as file:
        file.write(json.dumps(rows, indent=1).encode())


def _path(folder: Path) -> Path:
    return folder / "vendors.json"


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
