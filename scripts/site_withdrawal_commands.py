"""`vigie site withdrawals …`: the versions that the coordinator withdrew, and a person's word on them."""

import getpass
import time
from pathlib import Path
from typing import Annotated

import typer

from scripts.hospital_folder import opened

app = typer.Typer(
    no_args_is_help=True,
    help="Versions that the coordinator withdrew. Example: vigie site withdrawals list --folder node",
)
Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")]
Name = Annotated[str, typer.Argument(help="name@number, or the beginning of its digest")]
By = Annotated[str, typer.Option("--by", help="who decides; stands in the ledger (default: the account)")]


@app.command("list")
def list_all(folder: Folder) -> None:
    """List the versions that the coordinator withdrew, why, and what became of them here.

    Example: vigie site withdrawals list --folder node
    """
    from client.federation.withdrawal import listed

    found = listed(opened(folder))
    for one in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.received_at))
        state = one.state if one.held else "not held"
        by = f" by {one.by}" if one.by else ""
        print(f"{when}  {one.notice.label:<28} {one.notice.version[:12]}  {state}{by}: {one.notice.reason}")
        if one.held and one.state == "waiting":
            print("    it goes on until you say: vigie site withdrawals obey, or keep")
        elif one.pressing:
            print(
                "    it served here: vigie site rollback goes back to the version before, vigie site recall takes back"
                " its results, vigie site withdrawals seen takes this off the worklist"
            )
    if not found:
        print("none")


@app.command()
def obey(folder: Folder, name: Name, by: By = "") -> None:
    """Let a version that the coordinator withdrew read no further study, for good. Its results stay.

    Example: vigie site withdrawals obey --folder node chest-radiograph@2
    """
    from client.federation.withdrawal import decide

    found = decide(opened(folder), name, "obeyed", by or getpass.getuser())
    print(f"{found.notice.label} reads no further study; vigie site recall takes its results back")


@app.command()
def keep(folder: Folder, name: Name, by: By = "") -> None:
    """Keep a version that waits for your word, although the coordinator withdrew it; the coordinator is told.

    Example: vigie site withdrawals keep --folder node chest-radiograph@2 --by "Dr Curie"
    """
    from client.federation.withdrawal import decide

    found = decide(opened(folder), name, "kept", by or getpass.getuser())
    print(f"{found.notice.label} is kept")


@app.command()
def seen(folder: Folder, name: Name, by: By = "") -> None:
    """Take note of a withdrawal: the worklist shows it no more.

    Example: vigie site withdrawals seen --folder node chest-radiograph@2
    """
    from client.federation.withdrawal import see

    found = see(opened(folder), name, by or getpass.getuser())
    print(f"{found.notice.label}: noted")
