"""Which other hospitals are known here, by their keys: with whom this hospital's updates may be summed.

The coordinator signs the terms, and could put hospitals of its own invention in them. So each key is trusted here by
itself: IT puts it into `trust/hospitals/NAME.pub`, or a person sees it with the terms of the first retraining that
names it and approves that, which puts it there. No policy trusts a key, and another key under a known name is refused.
"""

import hashlib
from pathlib import Path

from client.store.site import Site
from models import group, pki
from models.terms import Terms


def known(site: Site) -> dict[str, str]:
    """The keys trusted here by hospital, as terms name them.

    Raises:
        ConfigurationError: a file there is no such key.
    """
    return {path.stem: pki.supernode_point(path) for path in sorted(_folder(site).glob("*.pub"))}


def own(site: Site) -> str:
    """This hospital's own key."""
    return group.point(pki.load_supernode(site.secrets / "supernode.key")).hex()


def strangers(site: Site, terms: Terms) -> tuple[str, ...]:
    """The hospitals that terms name a key of, and that no key is trusted of here."""
    trusted = known(site)
    return tuple(name for name in terms.identities if name not in trusted and name != site.config.name)


def changed(site: Site, terms: Terms) -> tuple[str, ...]:
    """The hospitals, this one among them, that have another key in the terms than here."""
    named = {name: key.hex() for name, key in terms.identities.items()}
    if not named:
        return ()
    trusted = {**known(site), site.config.name: own(site)}
    return tuple(name for name, key in named.items() if trusted.get(name, key) != key)


def trust(site: Site, terms: Terms, by: str) -> None:
    """Trust the keys of the strangers among them, by a person's word."""
    for name in strangers(site, terms):
        key = terms.identities[name].hex()
        pki.write_supernode_public(_folder(site) / f"{name}.pub", key)
        site.ledger.append("hospital.trusted", {"hospital": name, "key": fingerprint(key), "by": by})


def fingerprint(key: str) -> str:
    """What people compare over the telephone."""
    found = hashlib.sha256(bytes.fromhex(key)).hexdigest()[:32]
    return " ".join(found[start : start + 4] for start in range(0, 32, 4))


def _folder(site: Site) -> Path:
    return site.trust / "hospitals"
