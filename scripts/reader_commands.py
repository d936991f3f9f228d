"""`vigie site reader` and `vigie site readers`: who is let in, by which token, and who is not any more."""

from pathlib import Path
from typing import Annotated

import typer

from scripts.hospital_folder import opened

Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")]


def reader(
    folder: Folder,
    name: str,
    role: Annotated[str, typer.Option(help="clinician, it, operator or device")] = "clinician",
    renew: Annotated[
        bool, typer.Option("--renew", help="another token: the one before, and its sessions, end")
    ] = False,
    remove: Annotated[bool, typer.Option("--remove", help="let them in no more; what they said stays")] = False,
) -> None:
    """Let a person or a device in; prints their token, once. Or give them another one, or shut them out.

    Example: vigie site reader --folder node "Dr Curie"
    """
    from client.review import readers
    from models.errors import ConfigurationError

    if renew and remove:
        raise ConfigurationError("--renew and --remove: one of them")
    site = opened(folder)
    if remove:
        readers.remove(site, name)
        print(f"{name} is let in no more")
    else:
        print(readers.renew(site, name) if renew else readers.add(site, name, role))


def readers(folder: Folder) -> None:
    """List who is let in, as what and since when.

    Example: vigie site readers --folder node
    """
    import time

    from client.review.readers import listed

    found = listed(opened(folder))
    for one in found:
        print(f"{one.name}  {one.role}  since {time.strftime('%Y-%m-%d', time.localtime(one.since))}")
    if not found:
        print("nobody yet: vigie site reader lets somebody in")
