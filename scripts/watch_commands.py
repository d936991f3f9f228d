"""`vigie site watch …`: what is watched of the versions that read here, alarms, and suspensions."""

import getpass
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from scripts.hospital_folder import one_version, opened, why

if TYPE_CHECKING:
    from client.vigilance.drills import Drilled
    from client.vigilance.register import Error
    from models.stats.verification import Share

app = typer.Typer(
    no_args_is_help=True,
    help="The watch over the versions that read here. Example: vigie site watch show --folder node",
)
GROUPS_OF_TRAITS = ("technique", "software", "dose", "population", "pixels", "look", "score")
Folder = Annotated[Path, typer.Option("--folder", envvar="VIGIE_SITE", help="the hospital's folder")]
Name = Annotated[str, typer.Argument(help="name@number, or the beginning of its digest")]
By = Annotated[str, typer.Option("--by", help="who decides; stands in the ledger (default: the account)")]
Reason = Annotated[str, typer.Option(help="trial, quality, safety, mistake or other; the ledger keeps it")]


@app.command()
def show(
    folder: Folder,
    svg: Annotated[
        Path | None, typer.Option(help="write a picture of each version's evidence into this folder")
    ] = None,
) -> None:
    """Show each version's rates on the random sample, what is tolerated, and how near an alarm is.

    It ends with 1 while an alarm stands that nobody has taken note of, or a version is suspended.

    Example: vigie site watch show --folder node --svg pictures
    """
    from client.store import suspensions
    from client.vigilance import harm
    from client.vigilance.drawing import picture

    site = opened(folder)
    raised = harm.advance(site)
    found, stopped = harm.look(site), suspensions.standing(site)
    table = Table("version", "watched since", "exams", "not known", "rate", "found (95 %)", "tolerated", "evidence")
    for one in found:
        label = f"{one.version.label}{' (suspended)' if one.version.digest in stopped else ''}"
        pending = f"{one.pending}{f', {one.missing} for 90 days' if one.missing else ''}"
        head = [label, time.strftime("%Y-%m-%d", time.localtime(one.since)), str(one.exams), pending]
        for rate in one.rates:
            told = f"{rate.errors}/{rate.exams}"
            if rate.exams:
                told += f" = {rate.found.value:.0%} ({rate.found.low:.0%}-{rate.found.high:.0%})"
            table.add_row(*head, rate.name.replace("_", " "), told, f"{rate.tolerated:.0%}", f"{rate.evidence:.2g}")
            head = [""] * len(head)
        if svg is not None:
            svg.mkdir(parents=True, exist_ok=True)
            path = svg / f"{one.version.name}-{one.version.digest[:12]}.svg"
            path.write_text(picture(one) + "\n")
    Console().print(table)
    if not found:
        print("no version reads here: nothing is watched")
    unseen = harm.alarms(site, unseen=True)
    for one in unseen:
        new = "  (new)" if one.id in {other.id for other in raised} else ""
        print(f"ALARM {one.id}: {one.text}{new}")
    if unseen or stopped:
        raise typer.Exit(1)


@app.command()
def alarms(folder: Folder) -> None:
    """List all alarms, newest first, and who has taken note.

    Example: vigie site watch alarms --folder node
    """
    from client.vigilance import harm

    found = harm.alarms(opened(folder))
    for one in found:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.at))
        print(f"{one.id:>4}  {when}  {one.text}; {f'noted by {one.seen_by}' if one.seen_at else 'NOT NOTED'}")
    if not found:
        print("none")


@app.command()
def note(folder: Folder, number: Annotated[int, typer.Argument(help="as `alarms` lists it")], by: By = "") -> None:
    """Take note of an alarm: the worklist shows it no more; of a version that reads on, a new watch begins.

    Example: vigie site watch note --folder node 1
    """
    from client.vigilance import harm

    harm.see(opened(folder), number, by or getpass.getuser())
    print("noted")


@app.command()
def drift(
    folder: Folder,
    note: Annotated[int | None, typer.Option(help="take note of the warning of this number")] = None,
    usual: Annotated[bool, typer.Option(help="with --note: it is how things are now; compare with that")] = False,
    by: By = "",
) -> None:
    """Show whether the studies have changed since the first ones, in what, and the likely cause.

    It ends with 1 while a warning stands that nobody has taken note of.

    Examples: vigie site watch drift --folder node
              vigie site watch drift --folder node --note 1 --usual
    """
    from client.vigilance import drift as changes

    site = opened(folder)
    if note is not None:
        changes.see(site, note, by or getpass.getuser(), usual=usual)
        print("noted; what comes is compared with the studies since the change" if usual else "noted")
        return
    changes.advance(site)
    table = Table("model", "since", "studies", *GROUPS_OF_TRAITS)
    for one in changes.look(site):
        day = time.strftime("%Y-%m-%d", time.localtime(one.since)) if one.reference else "-"
        if one.monitored is None:
            said = f"{one.reference} of {one.wanted} that others will be compared with"
            table.add_row(one.name, day, said, *[""] * len(GROUPS_OF_TRAITS))
        else:
            evidence = (f"{one.monitored.by_group[name]:.2g}" for name in GROUPS_OF_TRAITS)
            table.add_row(one.name, day, str(one.studies), *evidence)
    Console().print(table)
    print("evidence that it has changed since; a warning at 1, all together")
    found = changes.warnings(site)
    for one in found:
        noted = f"noted by {one.seen_by}{', usual now' if one.usual else ''}" if one.seen_at else "NOT NOTED"
        print(f"{one.id:>4}  {time.strftime('%Y-%m-%d', time.localtime(one.at))}  {one.text}; {noted}")
        for difference in one.differences:
            print(f"        {difference}")
    if any(one.seen_at is None for one in found):
        raise typer.Exit(1)


@app.command()
def drill(
    folder: Folder,
    scenario: Annotated[str, typer.Argument(help="scanner, exposure, age or finding; empty: list earlier drills")] = "",
    name: Annotated[str, typer.Option("--version", help="name@number; needed where several models read here")] = "",
    share: Annotated[float, typer.Option(help="of the newest studies that are changed")] = 0.5,
    by: By = "",
) -> None:
    """Find out how soon this hospital would be warned if its studies changed, on changes that are made up.

    The newest studies are changed and read in shadow: no result, no trait and no error comes of it.

    Example: vigie site watch drill scanner --folder node --share 0.3
    """
    from client.inference.panel import load
    from client.inference.serving import Scoring
    from client.store import versions
    from client.vigilance import drills
    from models.errors import ConfigurationError

    site = opened(folder)
    if not scenario:
        for one in drills.listed(site):
            _tell_drill(one)
        return
    if scenario not in drills.SCENARIOS:
        raise ConfigurationError(f"{scenario!r}: one of {', '.join(drills.SCENARIOS)}")
    if not 0 < share <= 1:
        raise ConfigurationError(f"--share is {share}: above 0, 1 at most")
    panel = versions.panel(site)
    if not name and len({held.name for held in panel}) != 1:
        raise ConfigurationError(
            f"--version: one of {', '.join(held.label for held in panel) or 'none, nothing reads'}"
        )
    held = one_version(site, name) if name else panel[0]
    serving = load(site, held.digest)
    if not isinstance(serving, Scoring):
        raise ConfigurationError(f"{held.label} outlines volumes: drills are for versions that score images")
    with Progress(transient=True) as progress:
        task = progress.add_task(f"{held.label}: {drills.SCENARIOS[scenario].text}")
        found = drills.run(
            site,
            serving,
            drills.SCENARIOS[scenario],
            share,
            by or getpass.getuser(),
            lambda done, of: progress.update(task, completed=done, total=of),
        )
    _tell_drill(found)


def _tell_drill(one: "Drilled") -> None:
    day = time.strftime("%Y-%m-%d", time.localtime(one.at))
    print(f"{day}  DRILL {one.model}: {one.scenario.text}, in {one.share:.0%} of the studies; {one.outcome}")
    for difference in one.differences:
        print(f"        {difference}")


@app.command()
def suspend(folder: Folder, name: Name, reason: Reason = "other", by: By = "") -> None:
    """Let a version read no further study until `resume`. What it would have read is refused, and says so.

    Example: vigie site watch suspend --folder node chest-radiograph@2 --reason safety
    """
    from client.store import suspensions

    site = opened(folder)
    held = one_version(site, name)
    suspensions.suspend(site, held, why(reason), by or getpass.getuser())
    print(
        f"{held.label} reads no further study: `vigie site watch resume` lets it again, `vigie site rollback` goes back"
        " to the version before, `vigie site recall` takes its results back"
    )


@app.command()
def resume(folder: Folder, name: Name, reason: Reason = "other", by: By = "") -> None:
    """Let a suspended version read again; the watch over it begins anew.

    What was refused meanwhile is on `vigie site missed`, which reads it again where that is asked for.

    Example: vigie site watch resume --folder node chest-radiograph@2 --reason mistake
    """
    from client.store import suspensions

    site = opened(folder)
    held = one_version(site, name)
    suspensions.lift(site, held, why(reason), by or getpass.getuser())
    print(f"{held.label} reads again")


@app.command()
def errors(
    folder: Folder,
    kind: Annotated[str, typer.Option(help="false_positive, false_negative or not_assessable; empty: all")] = "",
    version: Annotated[str, typer.Option(help="name@number, or the beginning of its digest; empty: all")] = "",
    since: Annotated[str, typer.Option(help="truths that came since this day, YYYY-MM-DD")] = "",
    export: Annotated[
        Path | None, typer.Option(help="write them all into this CSV file, for use in the hospital")
    ] = None,
) -> None:
    """List the errors of the versions here: where the truth that counts is not what the AI said.

    An export names studies by accession number and UID: it stays in the hospital. It replaces no file.

    Example: vigie site watch errors --folder node --kind false_negative --since 2026-01-01 --export missed.csv
    """
    from client.vigilance.register import ErrorKind, listed
    from models.errors import ConfigurationError

    site = opened(folder)
    if kind and kind not in list(ErrorKind):
        raise ConfigurationError(f"--kind {kind!r}: one of {', '.join(ErrorKind)}")
    try:
        begin = datetime.strptime(since, "%Y-%m-%d").astimezone().timestamp() if since else 0.0
    except ValueError:
        raise ConfigurationError(f"--since {since!r}: YYYY-MM-DD") from None
    digest = one_version(site, version).digest if version else ""
    found = [
        (label, accession, error)
        for label, accession, error in listed(site)
        if error.at >= begin and (not kind or error.kind == kind) and (not digest or error.version_digest == digest)
    ]
    if export is not None:
        _export(export, found)
        print(f"{len(found)} errors written to {export}")
        return
    table = Table("known since", "accession", "version", "error", "truth rests on", "score", "threshold", "reason")
    for label, accession, error in found:
        day = time.strftime("%Y-%m-%d", time.localtime(error.at))
        table.add_row(
            day,
            accession or error.study_uid,
            label,
            error.kind.replace("_", " "),
            error.tier.replace("_", " "),
            f"{error.score:.2f}",
            f"{error.threshold:.2f}",
            error.reason,
        )
    Console().print(table)
    print(f"{len(found)} errors")


@app.command()
def reads(folder: Folder) -> None:
    """List the exams that were drawn for a second reader, who reads them without the AI's answer and the first one's.

    It does not say why an exam was drawn: whoever knew would know what was said.

    Example: vigie site watch reads --folder node
    """
    from client.vigilance import second_reads

    site = opened(folder)
    second_reads.draw(site)
    found = second_reads.due(site)
    for one in found:
        when = time.strftime("%Y-%m-%d", time.localtime(one.at))
        print(f"{when}  {one.accession or one.study_uid:<16}  not by {one.first_reader}")
    print(f"{len(found)} exams wait for a second reader" if found else "none waits")


@app.command()
def rates(folder: Folder) -> None:
    """Show how each version does here, over all its patients and by sex, age and scanner.

    Those who were not read again count too, by what was found among those who were drawn.

    Example: vigie site watch rates --folder node
    """
    from client.store import versions
    from client.vigilance import second_reads

    site = opened(folder)
    table = Table("version", "patients", "stratum", "rate", "value", "95 %", "known")
    for held in versions.panel(site):
        for one in second_reads.rates(site, held.digest):
            head = [held.label, f"{one.exams}{f', {one.unread} not read' if one.unread else ''}", one.stratum or "all"]
            for name, share in one.by.items():
                table.add_row(*head, name, *_told(share), str(share.known))
                head = [""] * len(head)
    Console().print(table)


@app.command()
def plan(
    folder: Folder,
    name: Name,
    a_year: Annotated[int, typer.Option("--patients", help="whom it reads in a year")] = 2000,
) -> None:
    """Show how many second reads a year buy which interval, from what is known of the exams so far.

    Example: vigie site watch plan --folder node chest-radiograph@2 --patients 4000
    """
    from client.vigilance import second_reads

    site = opened(folder)
    table = Table("double negatives read again", "second reads a year", "sensitivity", "specificity")
    for one in second_reads.plan(site, one_version(site, name).digest, a_year):
        table.add_row(
            f"{one.double_negative:.0%}",
            str(one.reads),
            " ".join(_told(one.by["sensitivity"])),
            " ".join(_told(one.by["specificity"])),
        )
    Console().print(table)


def _told(share: "Share") -> tuple[str, str]:
    """The value and its interval, for people."""
    if share.basis == "insufficient":
        return "insufficient", ""
    if share.basis == "bound":
        return f"{share.value:.1%}", f"at least {share.low:.1%}"
    return f"{share.value:.1%}", f"{share.low:.1%} to {share.high:.1%}"


def _export(path: Path, found: "Sequence[tuple[str, str, Error]]") -> None:
    import csv

    from models.errors import ConfigurationError

    try:
        with path.open("x", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(
                ("study", "accession", "version", "error", "tier", "score", "threshold", "reason", "known_since")
            )
            for label, accession, error in found:
                day = time.strftime("%Y-%m-%d", time.localtime(error.at))
                row = (error.study_uid, accession, label, error.kind, error.tier)
                writer.writerow((*row, error.score, error.threshold, error.reason, day))
    except FileExistsError:
        raise ConfigurationError(f"--export {path} is there already: name another file") from None
    except OSError as error:
        raise ConfigurationError(f"--export {path} cannot be written: {error.strerror}") from error
