"""`vigie site statistics …`: what vendors are told of how their versions do here."""

import getpass
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from scripts.hospital_folder import one_version, opened

if TYPE_CHECKING:
    from models.stats.release import Line

app = typer.Typer(
    no_args_is_help=True,
    help="What vendors are told of their versions here. Example: vigie site statistics show --folder node",
)
Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")]
By = Annotated[str, typer.Option("--by", help="who decides; stands in the ledger (default: the account)")]
_CONSENT = {
    "none": "nothing leaves: consent.statistics in site.yaml is none",
    "ask": "each release waits for `vigie site statistics consent`",
    "policy": "each release leaves when the coordinator asks for it (consent.statistics)",
}


@app.command()
def show(folder: Folder) -> None:
    """Show what would leave of each version if the coordinator asked now. It closes nothing, and nothing leaves.

    Example: vigie site statistics show --folder node
    """
    from client.federation import statistics

    site = opened(folder)
    for held in statistics.versions_here(site):
        block = statistics.preview(site, held.digest)
        print(f"{held.label}: {len(block.patients)} patients" if block.lines else f"{held.label}: nothing")
        _print(block.lines)
    if noise := site.config.privacy.statistics:
        print(f"noise of epsilon {noise:g} is added to each count before it leaves (privacy.statistics)")
    print(_CONSENT[site.config.consent.statistics])


@app.command()
def releases(
    folder: Folder, lines: Annotated[bool, typer.Option("--lines", help="with every count of each")] = False
) -> None:
    """List the releases that were closed, whether each may leave, and questions that were refused.

    It ends with 1 while one waits for a person.

    Example: vigie site statistics releases --folder node --lines
    """
    from client.federation import statistics

    site = opened(folder)
    labels = {held.digest: held.label for held in statistics.versions_here(site)}
    found = statistics.listed(site)
    for one in found:
        asked = f"first given {_day(one.asked_at)}" if one.asked_at else "not asked for"
        decided = f"{one.state}{f' by {one.by}' if one.by else ''}"
        label = labels.get(one.version, one.version[:12])
        print(f"{label} release {one.number} ({one.period}): {one.patients} patients, {decided}, {asked}")
        if lines:
            _print(one.lines)
    if not found:
        print("none yet")
    for why, times in statistics.refusals(site).items():
        print(f"refused {times} x: {why}")
    if any(one.state == "waiting" for one in found):
        raise typer.Exit(1)


@app.command()
def consent(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="name@number, or the beginning of its digest")],
    number: Annotated[int, typer.Argument(help="of the release, as `releases` lists it")],
    decline: Annotated[bool, typer.Option("--decline", help="it does not leave; its patients may count later")] = False,
    by: By = "",
) -> None:
    """Let a release that waits leave when the coordinator asks next; or decline it.

    Example: vigie site statistics consent --folder node chest-radiograph@2 1 --by "Dr Curie"
    """
    from client.federation import statistics

    site = opened(folder)
    held = one_version(site, name)
    state = "declined" if decline else "agreed"
    found = statistics.decide(site, held.digest, number, state, by or getpass.getuser())
    print(f"{held.label} release {found.number} is {found.state}")


def _print(lines: "Sequence[Line]") -> None:
    if not lines:
        return
    table = Table("how looked at", "truth", "finding", "group", "patients", "right", "wrong")
    for line in lines:
        column = line.column
        drawn = f" ({column.inclusion} % drawn)" if 0 < column.inclusion < 100 else ""
        kept = "one under 11" if line.few else "kept back"
        halves = (kept, kept) if line.wrong is None else (str(line.right), str(line.wrong))
        if column.one_sided:
            halves = ("", "")
        table.add_row(f"{column.stream}{drawn}", column.tier, column.truth, line.group, str(line.n), *halves)
    Console().print(table)


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at))
