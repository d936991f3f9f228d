"""`vigie site objection …`: patients who object to the reuse of their images."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from scripts.hospital_folder import opened

app = typer.Typer(
    no_args_is_help=True,
    help="Patients who object to reuse. Example: vigie site objection add P-1234 --issuer HOSPITAL --folder node",
)
Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")]
Patient = Annotated[str, typer.Argument(help="the patient's identifier; blanks and capital letters do not matter")]
Issuer = Annotated[str, typer.Option(help="who gave it; empty: every patient here with this identifier")]


@app.command()
def add(folder: Folder, patient: Patient, issuer: Issuer = "") -> None:
    """Note that a patient objects: from the next round on nothing is learned from their images.

    It ends with 1 where nobody here has this identifier; the objection is kept for whoever comes.

    Example: vigie site objection add P-1234 --issuer HOSPITAL --folder node
    """
    from client.review import objections

    concerned = [one for one in objections.object_to_reuse(opened(folder), patient, issuer) if one.studies]
    for one in concerned:
        print(f"{one.patient_id} ({one.issuer or 'no issuer'}): {one.studies} studies are left out")
    if not concerned:
        print(f"NOBODY here has the identifier {patient!r}{f' of {issuer!r}' if issuer else ''}: look at it again")
        print("the objection is kept, for a patient whose first image is yet to come")
        raise typer.Exit(1)


@app.command()
def lift(folder: Folder, patient: Patient, issuer: Issuer = "") -> None:
    """Take an objection back, on the patient's word.

    Example: vigie site objection lift P-1234 --folder node
    """
    from client.review import objections

    objections.withdraw_objection(opened(folder), patient, issuer)
    print(f"{patient}: taken back")


@app.command("list")
def list_(folder: Folder) -> None:
    """List who objects, and how many of their studies are here.

    Example: vigie site objection list --folder node
    """
    from client.review import objections

    table = Table("patient", "issuer", "studies here")
    for one in objections.listed(opened(folder)):
        table.add_row(one.patient_id, one.issuer, str(one.studies) if one.studies else "none: not (yet) known here")
    Console().print(table)
