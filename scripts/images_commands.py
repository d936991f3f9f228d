"""`vigie site images …`: which images are not read, by whose word, and a person's own."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scripts.hospital_folder import opened as _opened

if TYPE_CHECKING:
    from client.arrival.exclusions import Said

Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")]

app = typer.Typer(
    no_args_is_help=True,
    help="Images that are not read, because the PACS has rejected them or a person leaves them out. "
    "Example: vigie site images list --folder node",
)
_MEANS = {
    "read-again": "is read again, as revision {}",
    "still-coming": "is read when all of it is here",
    "prior": "is an earlier study, and not read",
    "no-image": "is not read again: nothing that is read has changed",
    "not-a-part": "is not read again: its result rests on none of them",
}


@app.command("list")
def show(
    folder: Folder,
    of: Annotated[str, typer.Option(help="only of this study or image: its UID, or the accession number")] = "",
    every: Annotated[
        bool, typer.Option("--all", help="those too that are read again, or that a person has dismissed")
    ] = False,
    most: Annotated[int, typer.Option(help="list so many, the newest")] = 200,
) -> None:
    """List the images that are left out of what is read: who said so, when, and why; and the words to that effect that
    wait for a person: `leave-out` accepts such a one, `take-back` dismisses it.

    Example: vigie site images list --folder node --of A1234
    """
    import time

    from client.arrival.exclusions import listed

    found = listed(_opened(folder), of, every=every)
    last = ""
    for one in found[:most]:
        if one.study_uid != last:
            print(f"study {one.study_uid}  accession {one.accession or '-'}")
        last = one.study_uid
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.at))
        if one.counts:
            state = "left out" if one.here else "has not come"
        else:
            state = f"waits for a person: {one.doubt}" if one.doubt else "not believed"
            state = f"taken back by {one.lifted_by}" if one.lifted_by else state
        who = f"{one.by}, by document {one.document}" if one.document else one.by
        print(f"  image {one.sop_uid}  {state}  {one.cause}  {when}  {who}")
    if len(found) > most:
        print(f"and {len(found) - most} more: --most {len(found)} lists them all, --of those of one study")
    if not found:
        print("none" if every else "none; --all lists those too that are read again")


@app.command("leave-out")
def leave_out(
    folder: Folder,
    of: Annotated[str, typer.Argument(help="UID of an image, of a series, or of a study: all its images")],
    reason: Annotated[str, typer.Option(help="quality, safety, worklist (made for another order) or other-patient")],
) -> None:
    """Leave images out of what is read, or accept that somebody has rejected them; nothing is deleted, and
    `vigie site images take-back` undoes it.

    A study that was refused because of one is read without it; a result that rests on one is made anew without it, or
    withdrawn where nothing is left to read.

    Example: vigie site images leave-out --folder node 1.2.840.113619.2.55 --reason other-patient
    """
    from client.arrival import exclusions
    from client.arrival.rejection import Cause
    from models.errors import ConfigurationError

    if reason not in set(Cause):
        raise ConfigurationError(f"--reason {reason}: write one of {', '.join(Cause)}")
    _say(exclusions.leave_out(_opened(folder), of, Cause(reason)), "left out", "accepted")


@app.command("take-back")
def take_back(
    folder: Folder,
    of: Annotated[str, typer.Argument(help="UID of an image, of a series, or of a study: all its images")],
) -> None:
    """Let images be read again that were left out, by a person or by the PACS; dismiss a rejection that waits.

    Example: vigie site images take-back --folder node 1.2.840.113619.2.55
    """
    from client.arrival import exclusions

    _say(exclusions.take_back(_opened(folder), of), "read again", "dismissed")


def _say(said: "Said", done: str, settled: str) -> None:
    print(f"{said.images} images are {done}" + (f", {said.before} were so before" if said.before else ""))
    if said.settled:
        print(f"{said.settled} rejections that waited for a person are {settled}")
    for again in said.studies:
        print(f"study {again.study_uid} {_MEANS[again.done].format(again.revision)}")
