"""What commands about one hospital are given: its folder, one of its versions, why a person says so."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.store.site import Site
    from client.store.versions import HeldVersion, Why


def opened(folder: Path, *, check: bool = True) -> "Site":
    """A hospital's folder that is one.

    Raises:
        ConfigurationError: it is none, or its database is of another release.
    """
    from client.store.site import Site
    from models.errors import ConfigurationError

    if not (folder / "site.yaml").is_file():
        raise ConfigurationError(
            f"{folder} is not a hospital's folder: run `vigie site init`, or name another --folder"
        )
    site = Site(folder.resolve())
    if check:
        site.database.check()
    return site


def one_version(site: "Site", name: str) -> "HeldVersion":
    """The version of this hospital that is meant.

    Args:
        name: name@number, or the beginning of its digest.

    Raises:
        NotFound: none is, or several are.
    """
    from client.store import versions
    from models.errors import NotFound

    found = [one for one in versions.listed(site) if name == one.label or one.digest.startswith(name.lower())]
    if len(found) != 1:
        raise NotFound(f"{len(found)} versions are {name!r}, or begin so: `vigie site versions` lists them")
    return found[0]


def why(reason: str) -> "Why":
    """The reason that a person gives.

    Raises:
        ConfigurationError: there is no such.
    """
    from client.store.versions import Why
    from models.errors import ConfigurationError

    if reason not in list(Why):
        raise ConfigurationError(f"--reason {reason!r}: one of {', '.join(Why)}")
    return Why(reason)
