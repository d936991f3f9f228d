"""`vigie site border`: what crossed this hospital's border, and whether a network capture agrees."""

import json
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from scripts.hospital_folder import opened

app = typer.Typer(invoke_without_command=True, help="What crossed the border. Example: vigie site border --folder node")


@app.callback()
def border(
    context: typer.Context,
    folder: Annotated[
        Path | None, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder", show_default=False)
    ] = None,
    last: int = 20,
) -> None:
    """Show what crossed this hospital's border, from its ledger, after checking the whole chain.

    Example: vigie site border --folder node
    """
    if context.invoked_subcommand is not None:
        return
    if folder is None:
        raise typer.BadParameter("name the hospital's folder", param_hint="--folder")
    site = opened(folder)
    broken = site.ledger.first_break()
    crossings = [(entry.seq, entry.event, json.loads(entry.facts)) for entry in site.ledger.entries("border.")]
    table = Table("entry", "event", "direction", "kind", "round", "bytes", "sha256", "code")
    for seq, event, facts in crossings[-last:]:
        table.add_row(
            str(seq),
            event,
            str(facts.get("direction", "")),
            str(facts.get("kind", "")),
            str(facts.get("round") if facts.get("round") is not None else ""),
            f"{facts.get('bytes', 0):,}",
            str(facts.get("sha256", ""))[:12],
            str(facts.get("code") or ""),
        )
    Console().print(table)
    sums: dict[tuple[str, str], list[int]] = {}
    for _, _, facts in crossings:
        total = sums.setdefault((str(facts.get("direction")), str(facts.get("kind"))), [0, 0])
        total[0] += 1
        total[1] += int(facts.get("bytes", 0))
    for (direction, kind), (count, size) in sorted(sums.items()):
        print(f"{direction:>4} {kind:<10} {count:>5} messages {size:>14,} bytes")
    if broken is not None:
        print(f"THE LEDGER IS BROKEN at entry {broken}: it was altered, or restored from a partial backup")
        sys.exit(1)
    print("the ledger holds")


@app.command()
def verify(
    folder: Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")],
    capture: Annotated[Path, typer.Option(help="pcap of the hospital's way out, from before the SuperNode started")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="the hospital's own address there; repeatable (default: who calls)"),
    ] = None,
    inside: Annotated[
        list[str] | None, typer.Option(help="a network of the hospital, e.g. 10.0.0.0/8; repeatable")
    ] = None,
) -> None:
    """Hold a network capture against the ledger: who was called, by whom, in TLS, and how many bytes went and came.

    TLS hides what was said, not how much. Ends with 1 where the capture shows what the ledger does not.

    Example: vigie site border verify --folder node --capture friday.pcap --inside 10.0.0.0/8
    """
    from client.federation.capture import Border, addresses, crossings, read, reconcile
    from models.errors import ConfigurationError

    site = opened(folder)
    if not capture.is_file():
        raise ConfigurationError(f"{capture} is missing: record one with `dumpcap -i any -w {capture}`")
    at, _, port = site.config.superlink.rpartition(":")
    if not (at and port.isdigit()):
        raise ConfigurationError(f"{folder / 'site.yaml'}: superlink is empty; write the coordinator's HOST:PORT")
    try:
        networks = [ip_network(network, strict=False) for network in inside or []]
        own = frozenset(ip_address(address) for address in host or [])
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    pacs = [ip_network(address) for address in addresses(site.config.pacs.host)]
    where = Border(addresses(at.strip("[]")), int(port), own, (*networks, *pacs))
    well = True
    for check in reconcile(read(capture, int(port)), crossings(site.ledger), where):
        print(f"{'well' if check.ok else 'MEND'}  {check.name:<32} {check.found}")
        well = well and check.ok
    broken = site.ledger.first_break()
    print(f"{'well' if broken is None else 'MEND'}  {'the ledger holds':<32} {'whole' if broken is None else broken}")
    if not well or broken is not None:
        print("the capture and the ledger DO NOT AGREE", file=sys.stderr)
        sys.exit(1)
    print("the capture and the ledger agree")
