"""`vigie coordinator vendor …`, `statistics …` and `portal`: how versions do at hospitals, and who is told."""

import sys
import time
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

vendor = typer.Typer(
    no_args_is_help=True,
    help="Who is told how versions do. Example: vigie coordinator vendor add acme --model chest-radiograph",
)
statistics = typer.Typer(
    no_args_is_help=True,
    help="How versions do at hospitals. Example: vigie coordinator statistics collect --folder coordinator",
)
_WIDTH: Final = 180
Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_COORDINATOR", help="the coordinator's folder")]


@vendor.command()
def add(
    folder: Folder,
    name: str,
    model: Annotated[list[str] | None, typer.Option(help="that is theirs, with all its versions; repeatable")] = None,
    renew: Annotated[bool, typer.Option("--renew", help="give another key; the old one ends")] = False,
) -> None:
    """Let a vendor in, or give them further models. Prints the key of a new one: it is shown once.

    Example: vigie coordinator vendor add --folder coordinator acme --model chest-radiograph
    """
    from server import vendors

    place = _opened(folder)
    key = "" if renew and not model else vendors.add(place, name, model or [])
    if renew:
        key = vendors.renew(place, name)
    print(key or f"{name} has these models now, and keeps the key")


@vendor.command("list")
def list_(folder: Folder) -> None:
    """List the vendors who are let in, and their models.

    Example: vigie coordinator vendor list --folder coordinator
    """
    from server import vendors

    found = vendors.listed(_opened(folder))
    for one in found:
        print(f"{one.name}  since {time.strftime('%Y-%m-%d', time.localtime(one.since))}  {', '.join(one.models)}")
    if not found:
        print("none")


@vendor.command()
def remove(folder: Folder, name: str) -> None:
    """Shut a vendor out; their sessions end. What hospitals told of their versions stays.

    Example: vigie coordinator vendor remove --folder coordinator acme
    """
    from server import vendors

    vendors.remove(_opened(folder), name)
    print(f"{name} is shut out")


@statistics.command()
def collect(folder: Folder) -> None:
    """Ask the connected hospitals how the vendors' versions do there; the coordinator has to be running.

    Each tells what it consents to, at most once a month for a version.

    Example: vigie coordinator statistics collect --folder coordinator
    """
    from server import errands
    from server import statistics as kept
    from server.coordinator import Coordinator
    from server.superlink import SuperLink, SuperLinkRefused

    coordinator = Coordinator(_opened(folder))
    link = SuperLink(coordinator.folder, coordinator.config.superlink_port, coordinator.config.host)
    state = errands.run(link, "statistics", errands.COLLECT_SECONDS)
    if state.progress != "completed":
        raise SuperLinkRefused(f"it ended as {state.progress}: see logs/superlink.log")
    for version in kept.versions(coordinator.folder, _models(coordinator.folder)):
        told = kept.told(coordinator.folder, version.digest)
        silent = "".join(f", {site}: {why}" for site, why in kept.silent(coordinator.folder, version.digest).items())
        print(f"{version.label}: {len(told)} releases of {len({one.site for one in told})} hospitals{silent}")


@statistics.command()
def show(folder: Folder, name: Annotated[str, typer.Argument(help="name@number; empty: all versions")] = "") -> None:
    """Show how versions do at each hospital, by its name: the coordinator knows them.

    Example: vigie coordinator statistics show --folder coordinator chest-radiograph@2
    """
    from server import statistics as kept
    from server.export import BASES, STREAMS, TIERS, between, percent
    from server.performance import figures

    place = _opened(folder)
    for version in kept.versions(place, _models(place)):
        if name not in ("", version.label):
            continue
        by_site: dict[str, list[kept.Told]] = {}
        for one in kept.told(place, version.digest):
            by_site.setdefault(one.site, []).append(one)
        table = Table("hospital", "rate", "how looked at", "truth by", "group", "patients", "value", "95 %", "from")
        for one in figures({site: [release.lines for release in told] for site, told in by_site.items()}):
            shares = (percent(one.estimate.value), between(one), BASES[one.basis])
            tier, stream = TIERS[one.tier], STREAMS[one.stream].partition(",")[0]
            table.add_row(one.site or "all", one.rate, stream, tier, one.group, str(one.n or "<11"), *shares)
        print(version.label)
        # in a pipe there are 80 columns, and nothing would be left of the words
        Console(width=None if sys.stdout.isatty() else _WIDTH).print(table)


@statistics.command()
def alarms(folder: Folder) -> None:
    """Show how near an alarm each version is over all hospitals together, and the alarms that were raised.

    It rests on what hospitals told of their random samples, release by release; it ends with 1 where one rang.

    Example: vigie coordinator statistics alarms --folder coordinator
    """
    import time

    from server import pooled
    from server import statistics as kept

    place = _opened(folder)
    versions = kept.versions(place, _models(place))
    pooled.advance(place, versions)
    table = Table("version", "hospitals", "releases", "missed, at least", "called wrongly, at least", "evidence")
    rung: list[str] = []
    for version in versions:
        one = pooled.look(place, version)
        said = (f"{one.errors[name]} of {one.exams[name]}" for name in pooled.TOLERATED)
        table.add_row(version.label, str(one.hospitals), str(one.releases), *said, f"{one.course.highest:.2g}")
        for at, text in pooled.raised(place, version.digest):
            rung.append(f"ALARM {time.strftime('%Y-%m-%d', time.localtime(at))}  {version.label} {text}")
    Console().print(table)
    print("an alarm at 1", *rung, sep="\n")
    if rung:
        raise typer.Exit(1)


def portal(
    folder: Folder,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: int = 9092,
) -> None:
    """Serve the vendors' pages and their API; stops on Ctrl-C. Without TLS: put a proxy before it.

    Example: vigie coordinator portal --folder coordinator --port 9092
    """
    import uvicorn

    from server.portal import make

    uvicorn.run(make(_opened(folder)), host=host, port=port, log_level="warning", server_header=False)


def _models(folder: Path) -> list[str]:
    from server import vendors

    return [model for one in vendors.listed(folder) for model in one.models]


def _opened(folder: Path) -> Path:
    from models.errors import ConfigurationError

    if not (folder / "coordinator.yaml").is_file():
        raise ConfigurationError(f"{folder} is no coordinator's folder: run `vigie coordinator init`, or name another")
    return folder.resolve()
