"""A hospital's folder as a command is given it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from client.store.site import Site


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
