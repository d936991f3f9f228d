"""`vigie site inventory …` and `vigie site evidence`: what a hospital has to be able to show."""

import csv
import getpass
from datetime import date
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from scripts.hospital_folder import one_version, opened

app = typer.Typer(
    no_args_is_help=True,
    help="Every algorithm on site, embedded ones of scanners too. Example: vigie site inventory list --folder node",
)
Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")]
By = Annotated[str, typer.Option("--by", help="who; stands in the ledger (default: the account)")]
Name = Annotated[str, typer.Argument(help="its key here; of a version that reads here the model's name")]


@app.command("list")
def list_(
    folder: Folder,
    export: Annotated[Path | None, typer.Option(help="write it all into this CSV file")] = None,
) -> None:
    """List every algorithm on site and what of it somebody should look at; images that name unrecorded software too.

    It ends with 1 while something is missing or expired.

    Example: vigie site inventory list --folder node --export inventory.csv
    """
    from client.governance import inventory
    from models.errors import ConfigurationError

    site = opened(folder)
    found = inventory.listed(site)
    rows = inventory.table(found)
    if export is not None:
        try:
            with export.open("x", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(
                    file, ["name", *inventory.Entry.model_fields, "to look at"], extrasaction="ignore"
                )
                writer.writeheader()
                writer.writerows(rows)
        except OSError as error:
            raise ConfigurationError(f"--export {export} cannot be written: {error.strerror}") from error
        print(f"{len(rows)} algorithms written to {export}")
        return
    table = Table("name", "kind", "title", "vendor", "version", "where", "owner", "to look at")
    for row in rows:
        table.add_row(
            *(row[key] for key in ("name", "kind", "title", "vendor", "version", "where", "owner", "to look at"))
        )
    Console().print(table)
    unknown = inventory.unrecorded(site)
    for one in unknown:
        print(f"NOT RECORDED: software {one.software} of {one.maker} {one.model}, named by {one.images} images")
    if unknown or any(one.problems for one in found):
        raise typer.Exit(1)


@app.command()
def record(
    folder: Folder,
    name: Name,
    kind: Annotated[str, typer.Option(help="embedded (in a scanner) or other; versions here list themselves")] = "",
    title: Annotated[str, typer.Option()] = "",
    vendor: Annotated[str, typer.Option()] = "",
    version: Annotated[str, typer.Option(help="of embedded software, as the images name it")] = "",
    where: Annotated[
        str, typer.Option(help="of embedded software: manufacturer and model, as the images name them")
    ] = "",
    purpose: Annotated[str, typer.Option()] = "",
    owner: Annotated[str, typer.Option(help="who answers for it here")] = "",
    stop_rule: Annotated[str, typer.Option(help="when it is no longer used")] = "",
    certificate: Annotated[str, typer.Option(help="number and body")] = "",
    certificate_until: Annotated[str, typer.Option(help="YYYY-MM-DD")] = "",
    insurance: Annotated[str, typer.Option()] = "",
    insurance_until: Annotated[str, typer.Option(help="YYYY-MM-DD")] = "",
    dpo: Annotated[str, typer.Option(help="how the data protection officer is reached")] = "",
    by: By = "",
) -> None:
    """Record an algorithm, or change what is recorded of it; what is not named stays.

    Example: vigie site inventory record ct1-dose --folder node --kind embedded --where "Acme CT 5000" --version V12.1
    --title "Automatic exposure control" --owner "Dr Curie" --stop-rule "physicist's monthly test"
    """
    from client.governance import inventory

    given = {
        "kind": kind,
        "title": title,
        "vendor": vendor,
        "version": version,
        "where": where,
        "purpose": purpose,
        "owner": owner,
        "stop_rule": stop_rule,
        "certificate": certificate,
        "certificate_until": certificate_until,
        "insurance": insurance,
        "insurance_until": insurance_until,
        "dpo": dpo,
    }
    changes: dict[str, object] = {key: value for key, value in given.items() if value}
    inventory.record(opened(folder), name, by or getpass.getuser(), changes | {"retired": False})
    print(f"{name}: recorded")


@app.command()
def attest(
    folder: Folder,
    name: Name,
    person: Annotated[str, typer.Option(help="who was trained on it")],
    until: Annotated[str, typer.Option(help="YYYY-MM-DD; empty: for good")] = "",
    what: Annotated[str, typer.Option(help="what the training was")] = "",
    by: By = "",
) -> None:
    """Write down that somebody was trained on an algorithm.

    Example: vigie site inventory attest chest-radiograph --folder node --person "Dr Ada Lovelace" --until 2027-06-30
    """
    from client.governance import inventory
    from models.errors import ConfigurationError

    try:
        day = date.fromisoformat(until) if until else None
    except ValueError:
        raise ConfigurationError(f"--until {until!r}: YYYY-MM-DD") from None
    inventory.attest(opened(folder), name, by or getpass.getuser(), person, day, what)
    print(f"{name}: {person} attested")


@app.command()
def retire(folder: Folder, name: Name, by: By = "") -> None:
    """Take an algorithm off the list: it runs here no more. Its history is kept, and `record` brings it back.

    Example: vigie site inventory retire ct1-dose --folder node
    """
    from client.governance import inventory
    from models.errors import NotFound

    site = opened(folder)
    if not inventory.history(site, name):
        raise NotFound(f"{name!r} is not recorded")
    inventory.record(site, name, by or getpass.getuser(), {"retired": True})
    print(f"{name}: retired")


def evidence(
    folder: Folder,
    name: Annotated[str, typer.Argument(help="name@number of the version, or the beginning of its digest")],
    out: Annotated[Path, typer.Option(help="the ZIP file to write")],
) -> None:
    """Write the evidence for a version into one archive for an audit: risk, data, documentation, logs, instructions,
    oversight, robustness. No patient is named in it.

    Example: vigie site evidence --folder node chest-radiograph@2 --out evidence.zip
    """
    from client.governance import evidence as packing

    site = opened(folder)
    found = packing.pack(site, one_version(site, name), out)
    print(f"{len(found.files)} files written to {out}")
    for one in found.missing:
        print(f"none of it: {one}")


def report(
    folder: Folder,
    month: Annotated[str, typer.Option(help="YYYY-MM; it has to have ended")],
    out: Annotated[Path, typer.Option(help="the PDF file to write")],
) -> None:
    """Write the monthly report as PDF: what the page Dashboard shows, up to the end of a month.

    Example: vigie site report --folder node --month 2026-10 --out october.pdf
    """
    from client.review import monthly
    from models.errors import ConfigurationError

    content = monthly.pdf(opened(folder), month)
    try:
        with out.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise ConfigurationError(f"{out} cannot be written: {error.strerror}") from error
    print(f"{month} written to {out}")
