"""`vigie site incident …`: incidents, whom they have to be told by when, and all that a version has touched."""

import getpass
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from client.vigilance.deadlines import Severity
from scripts.hospital_folder import one_version, opened

app = typer.Typer(
    no_args_is_help=True,
    help="Incidents and look-back. Example: vigie site incident open --folder node NAME@N --kind missed --alarm 1",
)
Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")]
By = Annotated[str, typer.Option("--by", help="who; stands in the ledger (default: the account)")]
Number = Annotated[int, typer.Argument(help="as `list` shows it")]
Text = Annotated[str, typer.Option(help="in your words; it stays in the hospital's database")]


@app.command("open")
def open_(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="name@number of the version, or the beginning of its digest")],
    kind: Annotated[str, typer.Option(help="missed, false_positive, wrong_patient, misleading, unavailable or other")],
    severity: Annotated[Severity, typer.Option(help="as article 87 of the MDR has it")] = Severity.SERIOUS,
    study: Annotated[str, typer.Option(help="UID of the study whose result it is about")] = "",
    alarm: Annotated[int | None, typer.Option(help="number of the alarm that it is about")] = None,
    aware: Annotated[str, typer.Option(help="when somebody became aware, YYYY-MM-DD or with HH:MM; empty: now")] = "",
    suspend: Annotated[bool, typer.Option("--suspend", help="the version reads nothing from now on")] = False,
    text: Text = "",
    by: By = "",
) -> None:
    """Open an incident: it drafts the notice and counts the deadlines; with --suspend the version stops at once.

    Example: vigie site incident open --folder node chest-radiograph@2 --kind missed --severity deterioration
    --study 1.2.840.1 --suspend --text "Pneumothorax not called, patient drained six hours later"
    """
    from client.vigilance import incidents, notice

    site = opened(folder)
    moment = _moment(aware)
    found = incidents.open_incident(
        site,
        one_version(site, name),
        kind,
        severity,
        text,
        by or getpass.getuser(),
        study_uid=study,
        number=alarm,
        aware=moment,
        suspend=suspend,
    )
    print(notice.draft(site, found))
    print(f"incident {found.id} is open; `vigie site incident tell {found.id} --to authority` says that it was told")


@app.command("list")
def list_(folder: Folder) -> None:
    """List incidents, newest first, with what is still to be done; it ends with 1 while somebody has to be told.

    Example: vigie site incident list --folder node
    """
    from client.vigilance import incidents

    site = opened(folder)
    table = Table("no.", "aware", "version", "what", "severity", "state", "deadlines")
    now = time.time()
    found = incidents.listed(site)
    for one in found:
        due = ", ".join(
            f"{deadline.who} {_day(deadline.at)} {state.replace('_', ' ')}{' (assumed)' if deadline.assumed else ''}"
            for deadline, state in one.due(now)
        )
        table.add_row(str(one.id), _day(one.aware), one.version.label, one.kind, one.severity, one.state, due)
    Console().print(table)
    waiting = incidents.pressing(site, now)
    for one in waiting:
        missing = " and ".join(to for to in incidents.TO if one.told(to) is None)
        print(f"{one.text}: {missing} to be told")
    if waiting:
        raise typer.Exit(1)


@app.command()
def show(folder: Folder, number: Number) -> None:
    """Print the draft of the notice and the incident's history.

    Example: vigie site incident show --folder node 1 > notice.md
    """
    from client.vigilance import incidents, notice

    site = opened(folder)
    found = incidents.find(site, number)
    print(notice.draft(site, found))
    for one in found.history:
        words = " ".join(word for word in (one.event, one.to, one.reference, one.text) if word)
        print(f"{time.strftime('%Y-%m-%d %H:%M', time.localtime(one.at))}  {one.by}: {words}")


@app.command()
def tell(
    folder: Folder,
    number: Number,
    to: Annotated[str, typer.Option(help="authority or manufacturer")],
    reference: Annotated[str, typer.Option(help="under which they know it")] = "",
    at: Annotated[str, typer.Option(help="when that was, YYYY-MM-DDTHH:MM; empty: now")] = "",
    text: Text = "",
    by: By = "",
) -> None:
    """Write down that somebody was told. Nothing is sent from here.

    Example: vigie site incident tell --folder node 1 --to authority --reference R-2026-118
    """
    from client.vigilance import incidents

    found = incidents.tell(opened(folder), number, to, reference, by or getpass.getuser(), text, _moment(at))
    print(f"incident {found.id}: {to} told")


@app.command()
def close(folder: Folder, number: Number, text: Text, by: By = "") -> None:
    """Close an incident, with what it came to. What was withdrawn or closed stays so.

    Example: vigie site incident close --folder node 1 --text "Manufacturer released number 3, adopted on 2026-12-01"
    """
    from client.vigilance import incidents

    incidents.end(opened(folder), number, "closed", text, by or getpass.getuser())
    print(f"incident {number} is closed")


@app.command()
def withdraw(folder: Folder, number: Number, text: Text, by: By = "") -> None:
    """Withdraw what turned out to be no incident, with the reason.

    Example: vigie site incident withdraw --folder node 1 --text "The finding was called, under the other study"
    """
    from client.vigilance import incidents

    incidents.end(opened(folder), number, "withdrawn", text, by or getpass.getuser())
    print(f"incident {number} is withdrawn")


@app.command()
def lookback(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="name@number of the version, or the beginning of its digest")],
    export: Annotated[Path, typer.Option(help="the CSV file to write; it names patients and stays in the hospital")],
    since: Annotated[str, typer.Option(help="from this day on, YYYY-MM-DD")] = "",
    until: Annotated[str, typer.Option(help="before this day, YYYY-MM-DD")] = "",
) -> None:
    """Write down every study that a version read, refused or read in shadow, by patient; count it against the ledger.

    It ends with 1 where list and ledger do not agree.

    Example: vigie site incident lookback --folder node chest-radiograph@2 --export concerned.csv
    """
    from client.vigilance import lookback as looking

    site = opened(folder)
    held = one_version(site, name)
    found = looking.export(site, held.digest, export, _moment(since) or 0.0, _moment(until))
    print(f"{found.rows} rows: {found.studies} studies of {found.patients} patients written to {export}")
    if found.in_ledger is None:
        print("a part of the time: not counted against the ledger")
    elif found.complete:
        print(f"complete: the ledger has {found.in_ledger} conclusions of {held.label}, and so has the list")
    else:
        print(f"NOT COMPLETE: the ledger has {found.in_ledger} conclusions of {held.label}, the list {found.concluded}")
        raise typer.Exit(1)


def _moment(text: str) -> float | None:
    from models.errors import ConfigurationError

    if not text:
        return None
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ConfigurationError(f"{text!r}: YYYY-MM-DD, or with a time YYYY-MM-DDTHH:MM") from None


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at))
