"""`vigie site results`: from a version to what it has said here, and from a result in the PACS to its version."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")]


def results(
    folder: Folder,
    version: Annotated[
        str, typer.Argument(help="NAME@N or the beginning of a digest; none: count the results of every version")
    ] = "",
    of: Annotated[Path | None, typer.Option(help="a result's DICOM file: which version has made it")] = None,
) -> None:
    """Count what each version has said here, or name the objects in the PACS that carry the results of one.

    What a coordinator needs to tell where a version comes from (`vigie version trace`) is its digest.

    Example: vigie site results --folder node chest-radiograph@2
    """
    from client.results.origin import origin
    from client.review.made import counted, objects
    from client.review.recall import named
    from client.store import versions
    from client.store.site import Site
    from models.bundle import device_uid
    from models.errors import ConfigurationError, NotFound

    if not (folder / "site.yaml").is_file():
        raise ConfigurationError(f"{folder} is not a hospital's folder")
    site = Site(folder.resolve())
    site.database.check()
    if of is not None:
        device = origin(of).device
        known = [held for held in versions.listed(site) if device_uid(held.digest) == device]
        if not known:
            raise NotFound(f"no version held here has made {of.name}")
        print(f"{known[0].label}  {known[0].digest}  {known[0].state}")
        return
    if version:
        for one in objects(site, named(site, version).digest):
            print(f"{_day(one.at)}  {one.kind:<8}  {one.state:<11}  {one.sop_uid}  study {one.study_uid}")
        return
    found = counted(site)
    table = Table("version", "digest", "state", "scored", "refused", "in the PACS", "withdrawn", "first", "last")
    for held in versions.listed(site):
        if said := found.get(held.digest):
            numbers = (said.scored, said.refused, said.objects, said.withdrawn)
            days = (_day(said.first), _day(said.last))
            table.add_row(held.label, held.digest[:12], held.state, *map(str, numbers), *days)
    Console().print(table)


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at))
