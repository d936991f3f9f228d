"""`vigie site truth …`: what became known of studies later."""

import getpass
import time
from pathlib import Path
from typing import Annotated

import typer

from scripts.hospital_folder import opened

app = typer.Typer(
    no_args_is_help=True,
    help="What became known of studies later. Example: vigie site truth import --folder node pathology.csv",
)
Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")]
By = Annotated[str, typer.Option("--by", help="who brings it in; stands in the ledger (default: the account)")]


@app.command("import")
def import_(
    folder: Folder,
    file: Annotated[Path, typer.Argument(help="CSV; HL7 v2 (.hl7); FHIR R4 Bundle (.json)")],
    by: By = "",
) -> None:
    """Take in what pathology or a follow-up says of studies here. The same file twice is once.

    Columns: reference (unique where it comes from), study (UID) or accession, patient (PatientID), issuer, answer
    (positive, negative, not_assessable, or retracted), tier (follow_up, biopsy), date (YYYY-MM-DD), finding
    (SCHEME:VALUE; empty: what the study was read for). A later line of the same reference takes the place of an earlier
    one, which is kept. It ends with 1 where a line was refused; the others are in.

    A file .hl7 holds ORU^R01 messages, a file .json a FHIR R4 Bundle: `truth` in site.yaml says what their codes mean
    and whose patient identifiers count. The rest is refused, as is whatever is not final.

    Example: vigie site truth import --folder node pathology.csv --by "Dr Curie"
    """
    from client.vigilance.later import read_csv, take
    from client.vigilance.later_fhir import read_fhir
    from client.vigilance.later_hl7 import read_hl7

    site, by = opened(folder), by or getpass.getuser()
    match file.suffix.lower():
        case ".hl7":
            found = take(site, read_hl7(file, site.config.truth), "hl7", by)
        case ".json":
            found = take(site, read_fhir(file, site.config.truth), "fhir", by)
        case _:
            found = take(site, read_csv(file), "csv", by)
    for one in found.refused:
        print(f"{file.name}, {one.place}: {one.why}")
    print(
        f"{found.new} new, {found.changed} changed, {found.known} known before, {len(found.refused)} refused:"
        " `vigie site watch show` counts them"
    )
    if found.refused:
        raise typer.Exit(1)


@app.command()
def history(folder: Folder, study: Annotated[str, typer.Argument(help="StudyInstanceUID")]) -> None:
    """Show all that was ever said of a study later, oldest first.

    Example: vigie site truth history --folder node 1.2.840.1
    """
    from client.vigilance import later

    found = later.history(opened(folder), study)
    for row in found:
        made, came = (time.strftime("%Y-%m-%d", time.localtime(at)) for at in (row.at, row.imported_at))
        print(f"{row.reference:<20} {row.answer:<15} {row.tier:<10} of {made}, by {row.source} on {came} ({row.by})")
    if not found:
        print("nothing")
