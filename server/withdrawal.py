"""Withdrawals on their way to the hospitals: a signed notice lies here until each of them has said what it did.

    withdrawals/DIGEST/notice.json    what is signed; the same bytes for good
    withdrawals/DIGEST/journal.jsonl  what each hospital has said, a line each

Every registered hospital is asked: what one holds is known to it alone. They are told by `errands.py`.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from models import withdrawal as signed
from models.durable import replacing
from models.errors import ConfigurationError
from models.exchange import Withdrawal
from models.withdrawal import LONGEST_REASON, Notice
from server.coordinator import SIGNER, Coordinator
from server.journal import Journal, read
from server.registry import Registered
from server.superlink import registered_sites

FINAL: Final = frozenset({"withdrawn", "kept", "not-held"})
"""Words of a hospital after which it is not asked again; `waiting` and refusals are."""

_NOTICE: Final = "notice.json"


def require_reason(reason: str) -> str:
    """A reason as it may travel.

    Raises:
        ConfigurationError: it is none.
    """
    reason = reason.strip()
    if not 0 < len(reason) <= LONGEST_REASON or not reason.isprintable():
        raise ConfigurationError(f"--reason: one line of 1 to {LONGEST_REASON} characters")
    return reason


def announce(coordinator: Coordinator, version: Registered, reason: str) -> None:
    """Write down that hospitals are to be told; again, it changes nothing."""
    folder = _folder(coordinator.folder) / version.digest
    path = folder / _NOTICE
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    content = Notice(version=version.digest, label=version.label, reason=reason, at=round(time.time())).to_bytes()
    with replacing(path) as file:
        file.write(content)


def orders(coordinator: Coordinator) -> list[Withdrawal]:
    """What hospitals are told, signed, in the order of digests."""
    found: list[Withdrawal] = []
    for path in sorted(_folder(coordinator.folder).glob(f"*/{_NOTICE}")):
        content = path.read_bytes()
        signature = signed.sign(content, coordinator.signing_key)
        found.append(Withdrawal(notice=content, signer=SIGNER, signature=signature))
    return found


def said(folder: Path, digest: str) -> Mapping[str, str]:
    """The last word of each hospital on the withdrawal of a version: a state, or the code of a refusal.

    Args:
        folder: the coordinator's.
    """
    return {line["site"]: line["state"] for line in read(_folder(folder) / digest) if line["step"] == "told"}


def say(folder: Path, digest: str, site: str, state: str) -> None:
    """Keep a hospital's word."""
    if said(folder, digest).get(site) != state:
        Journal(_folder(folder) / digest).write("told", {"site": site, "state": state})


def untold(folder: Path, digest: str) -> dict[str, str]:
    """The registered hospitals that have not said their last word, with what they have said; empty: nothing yet."""
    words = said(folder, digest)
    return {site: words.get(site, "") for site in registered_sites(folder) if words.get(site) not in FINAL}


def pending(folder: Path) -> dict[str, dict[str, str]]:
    """`untold` of every version that is withdrawn, by digest; without those that all hospitals know of."""
    digests = (path.parent.name for path in sorted(_folder(folder).glob(f"*/{_NOTICE}")))
    return {digest: sites for digest in digests if (sites := untold(folder, digest))}


def _folder(folder: Path) -> Path:
    return folder / "withdrawals"
